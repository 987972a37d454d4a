// One update of the quickstart's training (tools/quickstart.yaml) on random fields: milliseconds, rate of arithmetic,
// and its share of the machine's own rate of matrix products. Prints where the time goes.
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <chrono>
#include <cstdio>
#include <numbers>
#include <vector>

#include "engine/training_step.h"
#include "kernels/core/rng.h"
#include "kernels/core/trace.h"
#include "models/mesh/nodes.h"

namespace boreas {
namespace {

/// FLOP/s of square single-precision products: the best of several.
double sgemm_rate() {
  constexpr int n = 1536;
  const std::vector<float> a(n * n, 1.0f), b(n * n, 0.5f);
  std::vector<float> c(n * n);
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a.data(), n, b.data(), n, 0, c.data(), n);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::max(best, 2.0 * n * n * n / elapsed.count());
  }
  return best;
}

ModelSetup quickstart_setup() {
  ModelSetup setup;
  setup.config = load_config(BOREAS_SOURCE_DIR "/tools/quickstart.yaml");
  setup.variables =
      VariableTable({"u", "v", "cos_julian_day", "sin_julian_day", "insolation"}, setup.config.data.roles);
  setup.statistics = {{0, 0, 0, 0, 0}, {1, 1, 1, 1, 1}, {-1, -1, -1, -1, -1}, {1, 1, 1, 1, 1}, {}};
  const NodeSet nodes = regular_nodes(kDataNodes, 73, 144, true);
  for (int64_t i = 0; i < nodes.size(); ++i) {
    setup.latitudes.push_back(nodes.latitudes[size_t(i)] * 180 / std::numbers::pi);
    setup.longitudes.push_back(nodes.longitudes[size_t(i)] * 180 / std::numbers::pi);
  }
  setup.graph = build_graph(setup.config.graph.build, setup.latitudes, setup.longitudes);
  return setup;
}

void BM_TrainingStep(benchmark::State& state) {
  ModelSetup setup = quickstart_setup();
  setup.config.training.rollout.maximum = state.range(0);
  const RunConfig& config = setup.config;
  TrainingStep step(setup, Device::cpu());
  const Arena::Peak peak = plan_peak(Device::cpu(), [&](Context& ctx) { step.plan(ctx, setup.variables.size(), 1); });
  step.materialise();
  Arena arena(Buffer::on(Device::cpu(), peak.bytes, "arena"));
  Context ctx(Device::cpu(), arena);

  const Shape shape{config.training.batch_size, window_length(config.data, state.range(0)), setup.variables.size(),
                    setup.num_cells()};
  std::vector<float> fields(size_t(shape.size()));
  const Philox random(1, 1);
  for (size_t i = 0; i < fields.size(); ++i) fields[i] = float(random.normal(i));
  const FieldWindow window{Tensor(fields.data(), DType::f32, shape), 1};
  int64_t num_updates = 0;
  const auto update = [&] {
    step.update(
        ctx, [&] { return window; }, state.range(0), ++num_updates, 1e-4);
    step.collect();
  };
  update();  // first touch

  Trace trace;
  ctx.trace = &trace;
  update();
  ctx.trace = nullptr;
  double flops = 0;
  for (const auto& [name, entry] : trace.entries()) flops += double(entry.cost.flops);
  for (auto _ : state) update();

  const double rate = sgemm_rate();
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
  state.counters["sgemm_GFLOP/s"] = rate * 1e-9;
  state.counters["of_sgemm"] = benchmark::Counter(flops / rate, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["arena_MB"] = double(peak.bytes) * 1e-6;
  std::printf("%s\n", trace.table().c_str());
}

// {rollout}
BENCHMARK(BM_TrainingStep)->Arg(1)->Arg(3)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace boreas

BENCHMARK_MAIN();
