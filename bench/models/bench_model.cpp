// One forward and backward of a small model on a regular 2.5 degree grid: seconds, and the rate of its arithmetic as a
// fraction of the machine's own rate of matrix products. Prints where the time goes.
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <chrono>
#include <cstdio>
#include <numbers>
#include <vector>

#include "models/encoder_processor_decoder.h"
#include "models/mesh/build.h"
#include "models/mesh/nodes.h"

namespace boreas {
namespace {

/// FLOP/s of square single-precision products: the best of several.
double sgemm_rate() {
  static const double rate = [] {
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
  }();
  return rate;
}

GraphData make_graph(int level) {
  NodeSet data = regular_nodes(kDataNodes, 73, 144, true);
  for (std::vector<double>* angles : {&data.latitudes, &data.longitudes})
    for (double& value : *angles) value *= 180 / std::numbers::pi;
  GraphConfig config;
  config.hidden.level = level;
  return build_graph(config, data.latitudes, data.longitudes);
}

void BM_TrainingStep(benchmark::State& state, ProcessorKind kind) {
  ModelConfig config;
  config.num_channels = state.range(0);
  config.num_heads = state.range(0) / 16;
  config.processor.kind = kind;
  config.processor.num_layers = 4;
  config.processor.window = 128;
  config.recompute = state.range(2) ? Recompute::block : Recompute::none;
  config.encoder.num_chunks = config.decoder.num_chunks = state.range(3);
  ModelShape shape;
  shape.num_inputs = 11;
  shape.num_outputs = 2;
  shape.input_prognostic = shape.output_prognostic = {0, 1};

  ParameterStore store(DType::f32);
  const EncoderProcessorDecoder model(config, shape, make_graph(int(state.range(1))), store);
  store.materialise(1);
  const auto bytes = [](int64_t rows, int64_t cols) { return rows * cols * int64_t(sizeof(float)); };
  const int64_t rows = model.num_data_nodes();
  const Buffer x_data = Buffer::on(Device::cpu(), bytes(rows, model.input_columns()), "bench");
  const Buffer y_data = Buffer::on(Device::cpu(), bytes(rows, model.output_columns()), "bench");
  x_data.zero();
  const Tensor x = x_data.tensor(DType::f32, {rows, model.input_columns()});
  const Tensor y = y_data.tensor(DType::f32, {rows, model.output_columns()});
  const auto step = [&](Context& ctx) {
    EncoderProcessorDecoder::Saved saved;
    store.zero_gradients(ctx);
    model.forward(ctx, {x}, {y}, &saved);
    model.backward(ctx, {x}, saved, {y}, {});
  };

  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  step(plan);
  Arena arena(Buffer::on(Device::cpu(), counting.peak_bytes(), "arena"));
  Context ctx(Device::cpu(), arena);
  step(ctx);  // first touch

  Trace trace;
  ctx.trace = &trace;
  step(ctx);
  ctx.trace = nullptr;
  double flops = 0;
  for (const auto& [name, entry] : trace.entries()) flops += double(entry.cost.flops);
  for (auto _ : state) step(ctx);
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
  state.counters["sgemm_GFLOP/s"] = sgemm_rate() * 1e-9;
  state.counters["of_sgemm"] = benchmark::Counter(flops / sgemm_rate(), benchmark::Counter::kIsIterationInvariantRate);
  state.counters["arena_MB"] = double(counting.peak_bytes()) * 1e-6;
  std::printf("%s\n", trace.table().c_str());
}

// {channels, mesh level, recompute, chunks}
BENCHMARK_CAPTURE(BM_TrainingStep, graph_transformer, ProcessorKind::graph_transformer)
    ->Args({64, 3, 0, 1})
    ->Args({128, 4, 0, 1})
    ->Args({128, 4, 1, 4})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(BM_TrainingStep, transformer, ProcessorKind::transformer)
    ->Args({128, 4, 0, 1})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace boreas

BENCHMARK_MAIN();
