// Whole training updates and forecasts of full-size models on made-up weather: time, rate of arithmetic, memory.
//
//   bench_step [shapes] [options]      also under mpirun, which splits each sample over the ranks. Shapes: A B C C1120
//   D E F, or small-graph small-window small-mappers (default: these)
//
//   A       N320 to an icosahedral mesh of level 6, graph transformer, 16 layers, 512 channels, 16 heads
//   B       the same, 1024 channels
//   C       N320 to O96, windowed transformer, window 512, 16 layers, 1024 channels;  C1120: window 1120
//   D       O1280 to O320, encoder and decoder only, 512 channels, encoder in 24 and decoder in 32 chunks
//   E       O1280 to O320, windowed transformer, window 512, 16 layers, 1024 channels, encoder in 16 and
//           decoder in 32 chunks, blocks computed again
//   F       O2560 to O640, encoder and decoder only, 512 channels, each in 64 chunks
//
// A to C keep all for backward, the decoder in 4 chunks; options choose otherwise. --plan includes the second batch
// that a training has on its way.
//
// 85 prognostic, 16 forcing and 4 diagnostic variables, two input steps, batch 1. A step is forward, loss, backward and
// optimizer with the batch in the memory of the device; times are medians. Model FLOP/s count what backward repeats
// only where it says so; of ranks, all of them count. Of ranks one more update, not recorded, counts what each part of
// the model sends and how long computation waits for it. --plan, with --ranks N for as many, prints the memory that a
// GPU would need and needs none.
#include <cblas.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/engine/synthetic.h"
#include "comm/traffic.h"
#include "engine/memory_plan.h"
#include "engine/rank_plan.h"
#include "engine/step_prediction.h"
#include "engine/training_step.h"
#include "kernels/core/rng.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/linear/linear.h"

namespace boreas::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kPrognostic = 85, kForcings = 16, kDiagnostic = 4;
constexpr double kGiB = 1024.0 * 1024 * 1024;

struct Options {
  std::vector<std::string> shapes{"small-graph", "small-window", "small-mappers"};
  std::string device = "auto", precision = "auto", recompute, residual, attention, out;
  int64_t encoder_chunks = 0, decoder_chunks = 0, chunks = 0, layers = 0, channels = 0, heads = 0;
  int64_t steps = 5, warmup = 2, ranks = 1;
  bool plan = false, trace = false, eager = false, no_training = false, no_inference = false;
};

template <class E>
E parse(const std::string& text, const char* what) {
  for (const auto& [value, name] : EnumNames<E>::values)
    if (name == text) return value;
  BOREAS_FAIL(invalid_argument, "{} is not a value of {}", text, what);
}

// --- shapes ----------------------------------------------------------------------------------------------------------

struct Grid {
  NodeSet nodes;
  NodesConfig hidden;
};

Grid grid_of(const std::string& shape) {
  const auto octahedral = [](int64_t number) {
    NodesConfig nodes;
    nodes.kind = NodesKind::reduced_gaussian_octahedral;
    nodes.number = number;
    return nodes;
  };
  const auto icosahedral = [](int level) {
    NodesConfig nodes;
    nodes.level = level;
    return nodes;
  };
  if (shape == "A" || shape == "B") return {n320_nodes(kDataNodes), icosahedral(6)};
  if (shape == "C" || shape == "C1120") return {n320_nodes(kDataNodes), octahedral(96)};
  if (shape == "D" || shape == "E") return {octahedral_nodes(kDataNodes, 1280), octahedral(320)};
  if (shape == "F") return {octahedral_nodes(kDataNodes, 2560), octahedral(640)};
  if (shape == "small-graph") return {octahedral_nodes(kDataNodes, 32), icosahedral(3)};
  if (shape == "small-window" || shape == "small-mappers") return {octahedral_nodes(kDataNodes, 32), octahedral(16)};
  BOREAS_FAIL(invalid_argument,
              "there is no shape {}; shapes are A, B, C, C1120, D, E, F, small-graph, small-window, small-mappers",
              shape);
}

RunConfig config_of(const std::string& shape, const Options& options, Device device) {
  const bool small = shape.starts_with("small");
  RunConfig config;
  for (int64_t v = 0; v < kForcings; ++v) config.data.roles.forcing.push_back(fmt::format("f{}", v));
  for (int64_t v = 0; v < kDiagnostic; ++v) config.data.roles.diagnostic.push_back(fmt::format("d{}", v));
  ModelConfig& model = config.model;
  model.num_channels = small ? 64 : shape == "A" || shape == "D" || shape == "F" ? 512 : 1024;
  model.num_heads = small ? 4 : 16;
  model.processor.num_layers = small ? 2 : 16;
  model.decoder.num_chunks = 4;
  if (shape == "D" || shape == "F" || shape == "small-mappers") {
    model.processor.kind = ProcessorKind::none;
    model.encoder.num_chunks = small ? 4 : shape == "D" ? 24 : 64;
    model.decoder.num_chunks = small ? 4 : shape == "D" ? 32 : 64;
    model.recompute = Recompute::mappers;
  }
  if (shape.starts_with("C") || shape == "E" || shape == "small-window") {
    model.processor.kind = ProcessorKind::transformer;
    model.processor.window = small ? 64 : shape == "C1120" ? 1120 : 512;
  }
  if (shape == "E") {
    model.encoder.num_chunks = 16;
    model.decoder.num_chunks = 32;
    model.recompute = Recompute::block;
  }
  if (model.processor.kind != ProcessorKind::graph_transformer) config.graph.build.processor.kind = EdgesKind::none;
  // Areas weigh the loss only; those of Voronoi cells take minutes at O1280.
  config.graph.build.area_weight = AreaWeight::cosine_latitude;

  if (options.channels) model.num_channels = options.channels;
  if (options.heads) model.num_heads = options.heads;
  if (options.layers) model.processor.num_layers = options.layers;
  if (!options.recompute.empty()) model.recompute = parse<Recompute>(options.recompute, "--recompute");
  if (!options.attention.empty())
    model.processor.attention_kernel = parse<WindowAttentionKernel>(options.attention, "--attention");
  if (!options.residual.empty()) model.residual_dtype = parse<ResidualType>(options.residual, "--residual");
  if (options.chunks) model.encoder.num_chunks = model.decoder.num_chunks = options.chunks;
  if (options.encoder_chunks) model.encoder.num_chunks = options.encoder_chunks;
  if (options.decoder_chunks) model.decoder.num_chunks = options.decoder_chunks;
  config.precision = options.precision == "auto" ? (device.is_cuda() ? Precision::bf16 : Precision::f32)
                                                 : parse<Precision>(options.precision, "--precision");
  config.cuda_graphs = !options.eager;
  config.training.validation.rollout = 1;
  return config;
}

ModelSetup setup_of(const std::string& shape, const RunConfig& config) {
  const Grid grid = grid_of(shape);
  RunConfig with_mesh = config;
  with_mesh.graph.build.hidden = grid.hidden;
  return wave_setup(with_mesh, grid.nodes, kPrognostic, kForcings, kDiagnostic);
}

// --- machine ---------------------------------------------------------------------------------------------------------

/// Seconds of each repeat of `task`, by the device's clock.
std::vector<double> seconds_of(Context& ctx, int64_t warmup, int64_t repeats, const std::function<void()>& task) {
  std::vector<double> seconds;
  for (int64_t i = 0; i < warmup + repeats; ++i) {
    Event begin(ctx.device()), end(ctx.device());
    begin.record(ctx.compute());
    task();
    end.record(ctx.compute());
    end.synchronize();
    if (i >= warmup) seconds.push_back(end.seconds_since(begin));
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

double median(const std::vector<double>& sorted) { return sorted[sorted.size() / 2]; }

/// FLOP/s of a square matrix product in the type of the model: the ceiling.
double product_rate(Device device, DType dtype) {
  if (!device.is_cuda()) {
    constexpr int n = 1536;
    const std::vector<float> a(n * n, 1.0f), b(n * n, 0.5f);
    std::vector<float> c(n * n);
    double best = 1e30;
    for (int i = 0; i < 8; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a.data(), n, b.data(), n, 0, c.data(), n);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return 2.0 * n * n * n / best;
  }
  constexpr int64_t n = 8192;
  Arena arena(Buffer::on(device, int64_t{64} << 20, "arena"));
  Context ctx(device, arena);
  const Buffer storage = Buffer::on(device, 3 * n * n * size_of(dtype), "bench");
  const auto matrix = [&](int64_t i) { return storage.tensor(dtype, {n, n}, i * n * n * size_of(dtype)); };
  // Products of made-up numbers: those of equal numbers switch fewer bits and run faster than any real one.
  std::vector<float> host(n * n);
  const Buffer numbers = Buffer::on(device, n * n * 4, "bench");
  for (int64_t i = 0; i < 2; ++i) {
    const Philox random(29, uint64_t(i));
    for (int64_t j = 0; j < n * n; ++j) host[j] = float(random.uniform(uint64_t(j)) - 0.5);
    const Tensor made = numbers.tensor(DType::f32, {n, n});
    copy_now(made.data(), device, host.data(), Device::cpu(), n * n * 4);
    run(ctx, Copy{.x = made, .y = matrix(i)});
    ctx.compute().synchronize();
  }
  LinearForward product;
  product.x = matrix(0);
  product.weight = matrix(1);
  product.y = matrix(2);
  return double(product.flops()) / seconds_of(ctx, 3, 10, [&] { run(ctx, product); }).front();
}

// --- what is measured ------------------------------------------------------------------------------------------------

/// The largest lines of a plan, and what chunking makes of sources.
Json plan(const ModelSetup& setup, const std::string& shape, Device device) {
  const MemoryReport report = plan_memory(setup, device);
  const ModelConfig& model = setup.config.model;
  const StepModel step_model(setup, device);
  const EncoderProcessorDecoder& network = step_model.network();
  std::printf("%s: %s", shape.c_str(), report.table().c_str());
  std::printf("sources projected: encoder %.3f, decoder %.3f times each\n", network.encoder().projections_per_source(),
              network.decoder().projections_per_source());
  TrainingStep step(setup, device.is_cuda() ? Device::planned_cuda() : device);
  const Trace predicted = predicted_update(step, 1, setup.variables.size(), 1);
  std::printf("an update on an H200 in bf16, predicted from microbenchmarks: %.1f ms\n%s\n", predicted.seconds() * 1e3,
              predicted.table().c_str());
  Json json = {{"shape", shape},
               {"what", "plan"},
               {"precision", to_string(setup.config.precision)},
               {"recompute", to_string(model.recompute)},
               {"encoder_chunks", model.encoder.num_chunks},
               {"decoder_chunks", model.decoder.num_chunks},
               {"training_gib", double(report.training_bytes()) / kGiB},
               {"forecast_gib", double(report.forecast_bytes()) / kGiB},
               {"predicted_ms", predicted.seconds() * 1e3}};
  for (const auto& line : report.training) json["training"][line.owner] = double(line.bytes) / kGiB;
  return json;
}

struct Machine {
  const ProcessGrid& ranks;
  Device device;
  double products = 0;  ///< FLOP/s of this device
  double num_ranks() const { return double(ranks.world->size()); }
};

void report_time(Json& json, const std::vector<double>& seconds, double flops, double flops_without_recompute,
                 const Machine& machine) {
  const double time = median(seconds);
  json["ms"] = time * 1e3;
  json["ms_least"] = seconds.front() * 1e3;
  json["ms_most"] = seconds.back() * 1e3;
  json["samples_per_s"] = 1 / time;
  json["tflops"] = double(flops_without_recompute) / time * 1e-12;
  json["tflops_with_recompute"] = double(flops) / time * 1e-12;
  json["of_product_peak"] = double(flops_without_recompute) / time / machine.products / machine.num_ranks();
  std::printf(
      "%-14s %-10s %-7s %-8s %10.2f ms  %8.3f samples/s  %9.3f TFLOP/s, with recompute %9.3f, %5.1f %% of %.3f\n",
      json["shape"].get<std::string>().c_str(), json["what"].get<std::string>().c_str(),
      json["precision"].get<std::string>().c_str(), json["mode"].get<std::string>().c_str(), time * 1e3, 1 / time,
      json["tflops"].get<double>(), json["tflops_with_recompute"].get<double>(),
      100 * json["of_product_peak"].get<double>(), machine.num_ranks() * machine.products * 1e-12);
}

void report_memory(Json& json, const Machine& machine, int64_t before, int64_t arena_planned, int64_t arena_used,
                   int64_t driver_before) {
  const int64_t now = machine.device.is_cuda() ? live_device_bytes() : live_bytes();
  Communicator& world = *machine.ranks.world;
  const bool as_planned = !world.any(arena_planned != arena_used);
  const double most = double(world.largest(now - before)) / kGiB;  // of any rank
  json["buffers_gib"] = most;
  json["arena_gib"] = double(arena_used) / kGiB;
  json["arena_is_as_planned"] = as_planned;
  std::printf("%14s buffers %.2f GiB, of which arena %.2f GiB, %s", "", most, double(arena_used) / kGiB,
              as_planned ? "as planned" : "NOT AS PLANNED");
  if (machine.device.is_cuda()) {
    const DeviceMemory memory = memory_of(machine.device);
    json["driver_gib"] = double(memory.total - memory.free - driver_before) / kGiB;
    std::printf("; the driver counts %.2f GiB", json["driver_gib"].get<double>());
  }
  std::printf("\n");
}

Json description(const ModelSetup& setup, const std::string& shape, const char* what, const Machine& machine) {
  const ModelConfig& model = setup.config.model;
  return {{"shape", shape},
          {"what", what},
          {"ranks", machine.ranks.world->size()},
          {"mode", setup.config.cuda_graphs && machine.device.is_cuda() ? "replay" : "eager"},
          {"precision", to_string(setup.config.precision)},
          {"residual", to_string(model.residual_dtype)},
          {"recompute", to_string(model.recompute)},
          {"encoder_chunks", model.encoder.num_chunks},
          {"decoder_chunks", model.decoder.num_chunks}};
}

/// Which part of an update an owner's messages belong to.
std::string part_of_owner(const std::string& owner) {
  for (const char* part : {"weights", "gradients", "encoder", "processor", "decoder"})
    if (owner.find(part) != std::string::npos) return part;
  return "other";
}

/// Of one update, which took `seconds`, the messages of this rank by part of the model.
void report_traffic(Json& json, Traffic& traffic, double seconds) {
  std::map<std::string, Traffic::Entry> parts;
  double waited = 0;
  for (const auto& [owner, entry] : traffic.entries()) {
    Traffic::Entry& part = parts[part_of_owner(owner)];
    part.num_exchanges += entry.num_exchanges;
    part.bytes_sent += entry.bytes_sent;
    part.seconds_waited += entry.seconds_waited;
    waited += entry.seconds_waited;
  }
  for (const auto& [name, part] : parts) {
    json["traffic"][name] = {
        {"exchanges", part.num_exchanges}, {"bytes_sent", part.bytes_sent}, {"ms_waited", part.seconds_waited * 1e3}};
    std::printf("%14s %-10s %5lld exchanges, %10.3f MiB sent, waited %8.3f ms\n", "", name.c_str(),
                static_cast<long long>(part.num_exchanges), double(part.bytes_sent) / (1 << 20),
                part.seconds_waited * 1e3);
  }
  json["exposed_communication"] = waited / seconds;
  std::printf("%14s computation waited %.3f ms for others, %.2f %% of an update\n", "", waited * 1e3,
              100 * waited / seconds);
}

Json train(const ModelSetup& setup, const std::string& shape, const Options& options, const Waves& waves,
           const Machine& machine) {
  const Device device = machine.device;
  const int64_t num_variables = setup.variables.size();
  const auto bytes_now = [&] { return device.is_cuda() ? live_device_bytes() : live_bytes(); };
  const int64_t before = bytes_now();
  const DeviceMemory driver = device.is_cuda() ? memory_of(device) : DeviceMemory{};
  Json json = description(setup, shape, "training", machine);

  TrainingStep step(setup, device, machine.ranks);
  const Range cells = step.share().cells;
  const TrainingStep::Work own_work = step.work(1, num_variables, 1);
  double work[] = {double(own_work.flops), double(own_work.flops_without_recompute)};
  machine.ranks.world->sum_values(work);
  const auto update = [&](Context& ctx, const FieldWindow& window, int64_t number) {
    step.update(
        ctx, [&] { return window; }, 1, number, 1e-5);
  };
  const Shape window_shape{1, window_length(setup.config.data, 1), num_variables, cells.size()};
  const Arena::Peak peak = plan_peak(device.is_cuda() ? Device::planned_cuda() : device, [&](Context& ctx) {
    TrainingStep planned(setup, ctx.device(), machine.ranks);
    planned.update(
        ctx,
        [&] {
          return FieldWindow{Tensor(nullptr, DType::f32, window_shape, ctx.device()), 1};
        },
        1, 1, 1e-5);
  });
  step.materialise();
  Arena arena(Buffer::on(device, peak.bytes, "arena"));
  Context ctx(device, arena);
  const WaveWindow batch(setup, waves, window_shape[1], 0, device, cells);

  std::vector<double> seconds;
  double loss = 0;
  for (int64_t i = 0; i < options.warmup + options.steps; ++i) {
    update(ctx, batch.window, i + 1);
    const UpdateOutcome outcome = step.collect();
    loss = outcome.loss;
    if (i >= options.warmup) seconds.push_back(outcome.seconds);
  }
  std::sort(seconds.begin(), seconds.end());
  report_time(json, seconds, work[0], work[1], machine);
  report_memory(json, machine, before, peak.bytes, arena.peak_bytes(), driver.total - driver.free);
  json["loss"] = loss;
  BOREAS_CHECK(std::isfinite(loss), internal, "the loss of shape {} is {}", shape, loss);
  if (machine.ranks.world->size() > 1) {
    Traffic& traffic = Traffic::of(ctx);
    traffic.set_counting(true);
    update(ctx, batch.window, options.warmup + options.steps + 1);
    const double counted_seconds = step.collect().seconds;
    traffic.set_counting(false);
    report_traffic(json, traffic, counted_seconds);
  }
  if (options.trace) {
    Trace trace;
    ctx.trace = &trace;
    update(ctx, batch.window, options.warmup + options.steps + 1);
    step.collect();
    ctx.trace = nullptr;
    std::printf("%s\n", trace.table().c_str());
    for (const auto& [name, entry] : trace.entries())
      json["trace"][name] = {{"calls", entry.count}, {"ms", entry.seconds * 1e3}};
  }
  return json;
}

Json infer(const ModelSetup& setup, const std::string& shape, const Options& options, const Machine& machine) {
  const Device device = machine.device;
  const auto bytes_now = [&] { return device.is_cuda() ? live_device_bytes() : live_bytes(); };
  const int64_t before = bytes_now();
  const DeviceMemory driver = device.is_cuda() ? memory_of(device) : DeviceMemory{};
  Json json = description(setup, shape, "inference", machine);

  StepModel model(setup, device, machine.ranks.model.get());
  const auto forward = [&](Context& ctx, const StepModel& of, const Tensor& x, const Tensor& y) {
    of.network().forward(ctx, {.x = x}, {.y = y}, nullptr);
  };
  Trace counted;
  const Arena::Peak peak = plan_peak(device.is_cuda() ? Device::planned_cuda() : device, [&](Context& ctx) {
    const StepModel planned(setup, ctx.device(), machine.ranks.model.get());
    const auto tensor = [&](Shape size) { return Tensor(nullptr, planned.state_dtype(), size, ctx.device()); };
    ctx.trace = &counted;
    forward(ctx, planned, tensor(planned.input_shape(1)), tensor(planned.output_shape(1)));
    ctx.trace = nullptr;
  });
  model.parameters().materialise(1);
  Arena arena(Buffer::on(device, peak.bytes, "arena"));
  Context ctx(device, arena);
  const auto state = [&](Shape size) {
    return Buffer::on(device, size.size() * size_of(model.state_dtype()), "states");
  };
  const Buffer x_storage = state(model.input_shape(1)), y_storage = state(model.output_shape(1));
  const Tensor x = x_storage.tensor(model.state_dtype(), model.input_shape(1));
  const Tensor y = y_storage.tensor(model.state_dtype(), model.output_shape(1));
  run(ctx, Fill{.y = x, .value = 0.5});

  Replay replay(setup.config.cuda_graphs);
  const std::vector<double> seconds =
      seconds_of(ctx, options.warmup, options.steps, [&] { replay.run(ctx, {0}, [&] { forward(ctx, model, x, y); }); });
  double work[] = {double(counted.flops())};
  machine.ranks.world->sum_values(work);
  report_time(json, seconds, work[0], work[0], machine);
  report_memory(json, machine, before, peak.bytes, arena.peak_bytes(), driver.total - driver.free);
  if (options.trace) {
    Trace trace;
    ctx.trace = &trace;
    forward(ctx, model, x, y);
    ctx.trace = nullptr;
    std::printf("%s\n", trace.table().c_str());
  }
  return json;
}

void run_all(const Options& options, const ProcessGrid& ranks) {
  const Communicator& world = *ranks.world;
  const bool on_gpu = options.device == "cuda" || (options.device == "auto" && why_no_cuda().empty());
  if (on_gpu && !options.plan) BOREAS_CHECK(why_no_cuda().empty(), unsupported, "{}", why_no_cuda());
  Machine machine{.ranks = ranks, .device = Device::cpu()};
  if (options.plan)
    machine.device = Device::planned_cuda();
  else if (on_gpu)
    machine.device = Device::cuda(world.local_rank() % num_cuda_devices());
  if (!options.plan) ranks.connect(machine.device);
  if (world.rank() > 0) BOREAS_CHECK(std::freopen("/dev/null", "w", stdout), io, "/dev/null cannot be opened");
  Json results = Json::array();
  for (const std::string& shape : options.shapes) {
    const auto begin = std::chrono::steady_clock::now();
    ModelSetup setup = setup_of(shape, config_of(shape, options, machine.device));
    std::printf("%s: graph in %.1f s\n", shape.c_str(),
                std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (options.plan && options.ranks > 1) {
      std::printf("%s", plan_ranks(setup, machine.device, options.ranks).table().c_str());
      continue;
    }
    if (world.size() > 1) setup.graph = part_of(setup.graph, world.rank(), world.size());
    if (options.plan) {
      results.push_back(plan(setup, shape, machine.device));
      continue;
    }
    if (machine.products == 0)
      machine.products =
          product_rate(machine.device, setup.config.precision == Precision::bf16 ? DType::bf16 : DType::f32);
    if (!options.no_inference) results.push_back(infer(setup, shape, options, machine));
    if (!options.no_training)
      results.push_back(train(setup, shape, options, Waves(setup.latitudes, setup.longitudes), machine));
    std::fflush(stdout);
  }
  if (!options.out.empty() && world.rank() == 0)
    std::ofstream(options.out) << Json{{"hardware", machine.device.is_cuda() && !options.plan ? name_of(machine.device)
                                                    : options.plan                            ? "none (planned)"
                                                                                              : "cpu"},
                                       {"product_tflops", machine.products * 1e-12},
                                       {"results", results}}
                                      .dump(1)
                               << "\n";
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) try {
  boreas::bench::Options options;
  CLI::App app("Training updates and forecasts of whole models");
  app.add_option("shapes", options.shapes, "A B C C1120 D E F small-graph small-window small-mappers");
  app.add_option("--device", options.device, "auto, cpu or cuda");
  app.add_option("--precision", options.precision, "auto (bf16 on a GPU, else f32), f32, bf16 or f64");
  app.add_option("--residual", options.residual, "storage or f32");
  app.add_option("--recompute", options.recompute, "none, mappers, block or step");
  app.add_option("--chunks", options.chunks, "of encoder and decoder");
  app.add_option("--encoder-chunks", options.encoder_chunks);
  app.add_option("--decoder-chunks", options.decoder_chunks);
  app.add_option("--layers", options.layers, "of the processor");
  app.add_option("--channels", options.channels);
  app.add_option("--heads", options.heads);
  app.add_option("--steps", options.steps, "measured");
  app.add_option("--warmup", options.warmup, "before them");
  app.add_option("--attention", options.attention,
                 "kernel of windowed attention: automatic, hopper, tensor_cores, generic, cudnn");
  app.add_option("--out", options.out, "JSON file for the results");
  app.add_flag("--plan", options.plan, "memory that a GPU would need; computes nothing");
  app.add_flag("--trace", options.trace, "a table of operations by time");
  app.add_flag("--eager", options.eager, "launch every kernel, no recordings");
  app.add_flag("--no-training", options.no_training);
  app.add_flag("--no-inference", options.no_inference);
  app.add_option("--ranks", options.ranks, "of --plan");
  CLI11_PARSE(app, argc, argv);
  const boreas::ProcessGrid ranks = boreas::ProcessGrid::make(boreas::make_world_communicator(), 0);
  try {
    boreas::bench::run_all(options, ranks);
  } catch (const std::exception& error) {
    ranks.world->abort(error.what());
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
