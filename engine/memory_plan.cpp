#include "engine/memory_plan.h"

#include <algorithm>
#include <numeric>

#include "engine/forecaster.h"

namespace boreas {

namespace {

constexpr int64_t kMaximumChunks = 1024;
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
  return text;
}

MemoryReport plan_memory(const ModelSetup& setup, Device device) {
  const RunConfig& config = setup.config;
  const int64_t num_variables = setup.variables.size(), before = live_bytes();
  TrainingStep step(setup, device);
  const int64_t graph_bytes = live_bytes() - before;
  const ParameterStore& store = step.model().parameters();

  MemoryReport report;
  report.num_parameters = store.num_parameters();
  report.recompute = config.model.recompute;
  report.encoder_chunks = config.model.encoder.num_chunks;
  report.decoder_chunks = config.model.decoder.num_chunks;
  report.training_peak = plan_peak(device, [&](Context& ctx) { step.plan(ctx, num_variables, 1); });
  report.forecast_peak = Forecaster::plan(step.model(), device);

  int64_t staging = DataPipeline::staging_bytes(setup, training_sampling(config, {}), num_variables, 1);
  if (!config.data.validation.start.empty() || !config.data.validation.end.empty())
    staging += DataPipeline::staging_bytes(setup, validation_sampling(config, {}), num_variables, 1);
  const std::string batches =
      fmt::format("{} batches of {} samples read ahead", config.data.prefetch, config.training.batch_size);
  report.training = {{"parameters", store.value_bytes(), ""},
                     {"masters", store.master_bytes(), store.has_masters() ? "f32, rounded to the parameters" : ""},
                     {"gradients", store.gradient_bytes(), ""},
                     {"optimizer", step.optimizer().moment_bytes(), "two moments"},
                     {"ema", step.optimizer().average_bytes(), ""},
                     {"graph", graph_bytes, "edges and their attributes, weights of the loss"},
                     {"staging", staging, batches}};
  add_arena(report.training, report.training_peak);

  report.forecast = {{"parameters", store.value_bytes(), ""},
                     {"masters", store.master_bytes(), store.has_masters() ? "f32, rounded to the parameters" : ""},
                     {"graph", graph_bytes, "edges and their attributes"},
                     {"staging", Forecaster::staging_bytes(step.model()), "states in and out"}};
  add_arena(report.forecast, report.forecast_peak);
  return report;
}

RunConfig fit_to_budget(const ModelSetup& setup, Device device) {
  if (setup.config.memory.budget.empty()) return setup.config;
  const int64_t budget = parse_bytes(setup.config.memory.budget, "memory.budget");
  ModelSetup candidate = setup;
  ModelConfig& model = candidate.config.model;
  const int64_t most_chunks = std::min<int64_t>(kMaximumChunks, setup.graph.node_set(kHiddenNodes).size());
  MemoryReport report;
  for (const Recompute recompute : {Recompute::none, Recompute::block, Recompute::step}) {
    if (recompute < setup.config.model.recompute) continue;
    const int64_t limit = recompute == Recompute::none ? 1 : recompute == Recompute::block ? kCheapChunks : most_chunks;
    for (int64_t chunks = 1; chunks <= std::min(limit, most_chunks); chunks *= 2) {
      model.recompute = recompute;
      model.encoder.num_chunks = std::max(chunks, setup.config.model.encoder.num_chunks);
      model.decoder.num_chunks = std::max(chunks, setup.config.model.decoder.num_chunks);
      report = plan_memory(candidate, device);
      if (report.training_bytes() <= budget) return candidate.config;
    }
  }
  std::vector<MemoryReport::Line> largest = report.training;
  std::stable_sort(largest.begin(), largest.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  std::string names;
  for (size_t i = 0; i < 3; ++i)
    names += fmt::format("{}{} {}", i ? ", " : "", largest[i].owner, format_bytes(largest[i].bytes));
  BOREAS_FAIL(out_of_memory,
              "memory.budget is {} but the training needs {} even with recompute step and {} chunks (largest: {}). "
              "Raise the budget, or lower training.batch_size, training.rollout.maximum, data.prefetch or "
              "model.num_channels",
              format_bytes(budget), format_bytes(report.training_bytes()), report.encoder_chunks, names);
}

MemoryReport plan(const RunConfig& config) {
  validate(config);
  const Device device = choose_device(config.device);
  ModelSetup setup = make_setup(config, DatasetReader::open(config.data.dataset));
  setup.config = fit_to_budget(setup, device);
  return plan_memory(setup, device);
}

Device choose_device(DeviceChoice choice) {
  BOREAS_CHECK(choice != DeviceChoice::cuda, unsupported,
               "device is cuda but not all operations have a CUDA implementation yet; set device=auto or device=cpu");
  return Device::cpu();
}

SamplingOptions training_sampling(const RunConfig& config, Range dates) {
  return {.dates = dates,
          .batch_size = config.training.batch_size,
          .max_rollout = config.training.rollout.maximum,
          .shuffle = true,
          .seed = uint64_t(config.training.seed),
          .max_samples = 0,
          .drop_last = true};
}

SamplingOptions validation_sampling(const RunConfig& config, Range dates) {
  return {.dates = dates,
          .batch_size = config.training.batch_size,
          .max_rollout = config.training.validation.rollout,
          .shuffle = false,
          .seed = 0,
          .max_samples = config.training.validation.max_samples,
          .drop_last = false};
}

}  // namespace boreas
