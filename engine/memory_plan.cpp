#include "engine/memory_plan.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "engine/evaluation.h"
#include "engine/forecast_output.h"
#include "engine/forecaster.h"

namespace boreas {

namespace {

constexpr int64_t kMaximumChunks = 1024;
// What a process takes on a GPU beyond boreas' own buffers; 0.54 GiB were seen on an H200 with CUDA 13.0.
constexpr int64_t kContextBytes = int64_t{640} << 20;
// An allowance, not measured between two GPUs, for what NCCL takes where several ranks compute on them: by its manual 4
// MiB (NCCL_BUFFSIZE) between two GPUs for each of its channels, of which there may be dozens, and its own code.
constexpr int64_t kNcclBytes = int64_t{512} << 20;
constexpr int64_t kCheapChunks = 16;  // up to here chunks cost less than another forward of the whole step

void add_arena(std::vector<MemoryReport::Line>& lines, const Arena::Peak& peak) {
  const std::string place = peak.owner.empty() ? std::string() : "peak in " + peak.owner;
  lines.push_back({"saved", peak.saved_bytes, place});
  lines.push_back({"scratch", peak.scratch_bytes, place});
}

void append_lines(std::string& text, const std::string& title, const std::vector<MemoryReport::Line>& lines) {
  int64_t total = 0;
  for (const MemoryReport::Line& line : lines) total += line.bytes;
  text += fmt::format("{:<12} {:>12}\n", title, format_bytes(total));
  for (const MemoryReport::Line& line : lines)
    text += fmt::format("  {:<10} {:>12}  {}\n", line.owner, format_bytes(line.bytes), line.note);
}

/// What forecasts of a model take that has `graph_bytes` besides its parameters, each of their states `peak`.
std::vector<MemoryReport::Line> forecast_lines(const StepModel& model, int64_t graph_bytes, const Arena::Peak& peak,
                                               const ForecastUse& use, int64_t& host_bytes) {
  const Device device = model.device();
  const int64_t n = use.num_members;
  const int64_t states = n * ModelState::staging_bytes(model);
  const int64_t output = use.writes ? ForecastOutput::staging_bytes(model, model.setup().config.forecast) : 0;
  const int64_t kept = bytes_kept_in_evaluation(model, n);
  const std::string each = n > 1 ? fmt::format(", of {} members", n) : "";
  std::vector<MemoryReport::Line> lines = {{"parameters", model.parameters().value_bytes(), ""},
                                           {"graph", graph_bytes, "edges and their attributes"}};
  host_bytes = device.is_cuda() ? states + output + kept : 0;
  if (device.is_cuda()) {
    lines.push_back({"batch", n * ModelState::device_bytes(model, device), "forcings in, states out" + each});
    lines.push_back({"libraries", n * Context::kLibraryWorkspaceBytes, "room for cuBLASLt to compute in" + each});
  } else {
    lines.push_back({"staging", states, "states in and out" + each});
    if (use.writes) lines.push_back({"output", output, "field sets on their way to files"});
    if (n > 1) lines.push_back({"kept", kept, "the newest fields of all members, which are scored together"});
  }
  add_arena(lines, {.bytes = n * peak.bytes,
                    .saved_bytes = n * peak.saved_bytes,
                    .scratch_bytes = n * peak.scratch_bytes,
                    .owner = peak.owner + each});
  return lines;
}

int64_t context_bytes_of(Device device, int num_ranks) {
  if (!device.is_cuda()) return 0;
  return kContextBytes + (num_ranks > 1 ? kNcclBytes : 0);
}

int64_t counted_bytes(Device device) { return device.is_cuda() ? live_device_bytes() : live_bytes(); }

}  // namespace

int64_t MemoryReport::total(const std::vector<Line>& lines) {
  return std::accumulate(lines.begin(), lines.end(), int64_t{0},
                         [](int64_t sum, const Line& line) { return sum + line.bytes; });
}

std::string MemoryReport::table() const {
  std::string text = fmt::format("{} parameters; recompute {}, encoder in {} and decoder in {} chunks\n",
                                 num_parameters, to_string(recompute), encoder_chunks, decoder_chunks);
  append_lines(text, "training", training);
  append_lines(text, "forecast", forecast);
  if (!evaluation.empty()) append_lines(text, "evaluation", evaluation);
  if (context_bytes > 0)
    text += fmt::format(
        "on a GPU, besides {} for the CUDA context and the code of kernels{}; on the host {} in training, {} in a "
        "forecast{}\n",
        format_bytes(context_bytes - nccl_bytes),
        nccl_bytes > 0 ? fmt::format(", and an allowance of {} for NCCL", format_bytes(nccl_bytes)) : "",
        format_bytes(training_host_bytes), format_bytes(forecast_host_bytes),
        evaluation.empty() ? "" : fmt::format(", {} in an evaluation", format_bytes(evaluation_host_bytes)));
  return text;
}

MemoryReport plan_memory(const ModelSetup& setup, Device run_device, const ProcessGrid& ranks) {
  const Device device = run_device.is_cuda() ? Device::planned_cuda() : run_device;
  const RunConfig& config = setup.config;
  const int64_t num_variables = setup.variables.size(), before = counted_bytes(device);
  TrainingStep step(setup, device, ranks);
  const int64_t graph_bytes = counted_bytes(device) - before;
  const ParameterStore& store = step.model().parameters();

  MemoryReport report;
  report.num_parameters = store.num_parameters();
  report.recompute = config.model.recompute;
  report.encoder_chunks = config.model.encoder.num_chunks;
  report.decoder_chunks = config.model.decoder.num_chunks;
  report.training_peak = plan_peak(device, [&](Context& ctx) { step.plan(ctx, num_variables, setup.num_members); });
  report.forecast_peak = Forecaster::plan(step.model(), device);

  int64_t staging = step.staging_bytes(), batch = 0;
  const auto add_pipeline = [&](const SamplingOptions& options) {
    staging += DataPipeline::staging_bytes(setup, options, num_variables, setup.num_members);
    batch = std::max(batch, DataPipeline::batch_bytes(setup, options, num_variables, setup.num_members));
  };
  add_pipeline(training_sampling(config, {}, step.share()));
  if (!config.data.validation.start.empty() || !config.data.validation.end.empty())
    add_pipeline(validation_sampling(config, {}, step.share()));

  const std::vector<MemoryReport::Line> weights = {
      {"parameters", store.value_bytes(), ""},
      {"masters", store.master_bytes(), store.has_masters() ? "f32, rounded to the parameters" : ""}};
  report.training = weights;
  report.training.insert(report.training.end(),
                         {{"gradients", store.gradient_bytes(), ""},
                          {"optimizer", step.optimizer().moment_bytes(),
                           ranks.world->size() > 1 ? "two moments of what this rank trains" : "two moments"},
                          {"ema", step.optimizer().average_bytes(), ""},
                          {"graph", graph_bytes, "edges and their attributes, weights of the loss"}});
  const int64_t forecast_graph_bytes = graph_bytes - step.loss_bytes();
  report.forecast =
      forecast_lines(step.model(), forecast_graph_bytes, report.forecast_peak, {}, report.forecast_host_bytes);
  if (setup.num_members > 1)
    report.evaluation =
        forecast_lines(step.model(), forecast_graph_bytes, report.forecast_peak,
                       {.num_members = setup.num_members, .writes = false}, report.evaluation_host_bytes);
  const std::string ahead =
      fmt::format("{} batches of {} samples read ahead", config.data.prefetch, config.training.batch_size);
  if (device.is_cuda()) {
    report.training_host_bytes = staging;
    report.context_bytes = context_bytes_of(device, ranks.world->size());
    report.nccl_bytes = report.context_bytes - kContextBytes;
    report.training.push_back({"batch", batch, ""});
    report.training.push_back({"staging", batch, "a batch on its way"});
    report.training.push_back({"libraries", Context::kLibraryWorkspaceBytes, "room for cuBLASLt to compute in"});
  } else {
    report.training.push_back({"staging", staging, ahead});
  }
  add_arena(report.training, report.training_peak);
  return report;
}

MemoryReport plan_forecast(const ModelSetup& setup, Device run_device, Communicator& ranks, const ForecastUse& use) {
  const Device device = run_device.is_cuda() ? Device::planned_cuda() : run_device;
  const int64_t before = counted_bytes(device);
  const StepModel model(setup, device, &ranks);
  const int64_t graph_bytes = counted_bytes(device) - before;
  MemoryReport report;
  report.num_parameters = model.parameters().num_parameters();
  report.recompute = setup.config.model.recompute;
  report.encoder_chunks = setup.config.model.encoder.num_chunks;
  report.decoder_chunks = setup.config.model.decoder.num_chunks;
  report.forecast_peak = Forecaster::plan(model, device);
  report.forecast = forecast_lines(model, graph_bytes, report.forecast_peak, use, report.forecast_host_bytes);
  report.context_bytes = context_bytes_of(device, ranks.size());
  report.nccl_bytes = device.is_cuda() ? report.context_bytes - kContextBytes : 0;
  return report;
}

RunConfig fit_to_budget(const ModelSetup& setup, Device device, const ProcessGrid& ranks) {
  const std::string& given = setup.config.memory.budget;
  const bool by_free = given.empty() && device.is_cuda() && !device.is_planned();
  if (given.empty() && !by_free) return setup.config;
  const int64_t budget = by_free ? memory_of(device).free : parse_bytes(given, "memory.budget");
  ModelSetup candidate = setup;
  ModelConfig& model = candidate.config.model;
  const int64_t most_chunks = std::min<int64_t>(kMaximumChunks, setup.graph.node_set(kHiddenNodes).size());
  MemoryReport report;
  for (const Recompute recompute : {Recompute::none, Recompute::mappers, Recompute::block, Recompute::step}) {
    if (recompute < setup.config.model.recompute) continue;
    const int64_t limit = recompute == Recompute::step ? most_chunks : kCheapChunks;
    for (int64_t chunks = 1; chunks <= std::min(limit, most_chunks); chunks *= 2) {
      model.recompute = recompute;
      model.encoder.num_chunks = std::max(chunks, setup.config.model.encoder.num_chunks);
      model.decoder.num_chunks = std::max(chunks, setup.config.model.decoder.num_chunks);
      report = plan_memory(candidate, device, ranks);
      const bool fits = report.training_bytes() + report.context_bytes <= budget;
      if (!ranks.world->any(!fits)) return candidate.config;
    }
  }
  std::vector<MemoryReport::Line> largest = report.training;
  largest.push_back({report.nccl_bytes > 0 ? "CUDA context, NCCL" : "CUDA context", report.context_bytes, ""});
  std::stable_sort(largest.begin(), largest.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  std::string names;
  for (size_t i = 0; i < 3; ++i)
    names += fmt::format("{}{} {}", i ? ", " : "", largest[i].owner, format_bytes(largest[i].bytes));
  BOREAS_FAIL(out_of_memory,
              "{} but the training needs {} even with recompute step and {} chunks (largest: {}). {}lower "
              "training.batch_size, training.rollout.maximum, data.prefetch or model.num_channels",
              by_free ? fmt::format("{} ({}) has {} free", to_string(device), name_of(device), format_bytes(budget))
                      : "memory.budget is " + format_bytes(budget),
              format_bytes(report.training_bytes() + report.context_bytes), report.encoder_chunks, names,
              by_free ? "Free its memory, or " : "Raise the budget, or ");
}

RunConfig fit_forecast_to_budget(const ModelSetup& setup, Device device, Communicator& ranks, const ForecastUse& use) {
  const std::string& given = setup.config.memory.budget;
  if (given.empty()) return setup.config;
  const int64_t budget = parse_bytes(given, "memory.budget");
  ModelSetup candidate = setup;
  ModelConfig& model = candidate.config.model;
  const int64_t most_chunks = std::min<int64_t>(kMaximumChunks, setup.graph.node_set(kHiddenNodes).size());
  int64_t least = std::numeric_limits<int64_t>::max();
  std::string least_with;
  for (int64_t chunks = 1; chunks <= most_chunks; chunks *= 2) {
    model.encoder.num_chunks = std::max(chunks, setup.config.model.encoder.num_chunks);
    model.decoder.num_chunks = std::max(chunks, setup.config.model.decoder.num_chunks);
    const MemoryReport report = plan_forecast(candidate, device, ranks, use);
    const int64_t needed = ranks.largest(report.forecast_bytes() + report.context_bytes);
    if (needed <= budget) return candidate.config;
    if (needed >= least) continue;
    least = needed;
    least_with =
        fmt::format("encoder in {} and decoder in {} chunks", model.encoder.num_chunks, model.decoder.num_chunks);
  }
  BOREAS_FAIL(
      out_of_memory, "memory.budget is {} but {} at least {}, with {}. Raise the budget, {}or use more ranks",
      format_bytes(budget),
      use.num_members > 1 ? fmt::format("forecasts of {} members together need", use.num_members) : "a forecast needs",
      format_bytes(least), least_with, setup.config.forecast.fold ? "set forecast.fold to false, " : "");
}

MemoryReport plan(const RunConfig& config, const ProcessGrid& ranks) {
  validate(config);
  const Device device = choose_device(config, *ranks.world, Purpose::plan);
  ModelSetup setup = make_setup(config, DatasetReader::open(config.data.dataset));
  if (config.parallel.partition == GraphPartition::patches && ranks.model->size() > 1)
    setup.graph = in_patches(setup.graph, ranks.model->size());
  setup.config = fit_to_budget(setup, device, ranks);
  return plan_memory(setup, device, ranks);
}

Device choose_device(const RunConfig& config, Purpose purpose) {
  const bool demanded = config.device == DeviceChoice::cuda;
  BOREAS_CHECK(!demanded || config.precision != Precision::f64, unsupported,
               "precision f64 is for the CPU only; set device=cpu, or precision=f32");
  BOREAS_CHECK(config.device != DeviceChoice::cpu || config.precision != Precision::bf16, unsupported,
               "precision bf16 needs a GPU; set device=cuda, or precision=f32");
  if (config.device == DeviceChoice::cpu || config.precision == Precision::f64) return Device::cpu();
  const std::string why_not = why_no_cuda();
  if (why_not.empty()) return Device::cuda(0);
  const bool needed = demanded || config.precision == Precision::bf16;
  if (!needed) return Device::cpu();
  BOREAS_CHECK(purpose == Purpose::plan, unsupported, "{}, but {}. Or set device=cpu and precision=f32",
               demanded ? "device is cuda" : "precision bf16 needs a GPU", why_not);
  return Device::planned_cuda();
}

Device choose_device(const RunConfig& config, Communicator& ranks, Purpose purpose) {
  Device device = choose_device(config, purpose);
  if (ranks.size() == 1 || config.device == DeviceChoice::cpu || config.precision == Precision::f64) return device;
  if (device.is_cuda() && !device.is_planned()) device = Device::cuda(ranks.local_rank() % num_cuda_devices());
  if (purpose == Purpose::plan) return device;
  const std::string why_not = ranks.why_not_on(device);
  if (why_not.empty()) return device;
  const bool demanded = config.device == DeviceChoice::cuda;
  BOREAS_CHECK(!demanded && config.precision != Precision::bf16, unsupported,
               "{}, but {}. Start as many ranks on a machine as it has GPUs, or set device=cpu and precision=f32",
               demanded ? "device is cuda" : "precision bf16 needs GPUs", why_not);
  spdlog::info("ranks compute on the CPU: {}", why_not);
  return Device::cpu();
}

SamplingOptions training_sampling(const RunConfig& config, Range dates, const SampleShare& share) {
  return {.dates = dates,
          .batch_size = config.training.batch_size,
          .max_rollout = config.training.rollout.maximum,
          .shuffle = true,
          .seed = uint64_t(config.training.seed),
          .max_samples = 0,
          .drop_last = true,
          .micro_steps = config.training.micro_steps,
          .share = share};
}

SamplingOptions validation_sampling(const RunConfig& config, Range dates, const SampleShare& share) {
  return {.dates = dates,
          .batch_size = config.training.batch_size,
          .max_rollout = config.training.validation.rollout,
          .shuffle = false,
          .seed = 0,
          .max_samples = config.training.validation.max_samples,
          .drop_last = false,
          .micro_steps = 1,
          .share = share};
}

}  // namespace boreas
