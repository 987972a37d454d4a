// Window attention. Counters: FLOP/s by the op's own formula (only pairs inside the window count), and the same as a
// fraction of the rate of a large product in the same precision.

#include <benchmark/benchmark.h>
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/core/rng.h"
#include "kernels/window_attention/window_attention.h"

namespace boreas {
namespace {

struct Tensors {
  std::vector<Buffer> buffers;
  Tensor make(int64_t rows, int64_t cols) {
    buffers.push_back(Buffer::on(Device::cpu(), rows * cols * int64_t(sizeof(float)), "bench"));
    const Tensor tensor = buffers.back().tensor(DType::f32, {rows, cols});
    const Philox random(2, buffers.size());
    for (int64_t i = 0; i < tensor.size(); ++i) tensor.as<float>()[i] = float(random.normal(i));
    return tensor;
  }
};

double product_rate() {
  constexpr int n = 1024;
  Tensors tensors;
  const Tensor a = tensors.make(n, n), b = tensors.make(n, n), c = tensors.make(n, n);
  double best = 1e9;
  for (int repeat = 0; repeat < 10; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a.as<float>(), n, b.as<float>(), n, 0,
                c.as<float>(), n);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return 2.0 * n * n * n / best;
}

// Arguments: length, channels, heads, window.
void window_attention(benchmark::State& state, bool backward) {
  const int64_t length = state.range(0), channels = state.range(1), heads = state.range(2), window = state.range(3);
  Tensors tensors;
  const Tensor qkv = tensors.make(length, 3 * channels), d_qkv = tensors.make(length, 3 * channels);
  const auto third = [&](const Tensor& x, int64_t i) { return x.columns({i * channels, (i + 1) * channels}); };
  const WindowAttentionForward forward_op{.q = third(qkv, 0),
                                          .k = third(qkv, 1),
                                          .v = third(qkv, 2),
                                          .num_heads = heads,
                                          .window = window,
                                          .o = tensors.make(length, channels),
                                          .stats = tensors.make(length, heads)};
  const WindowAttentionBackward backward_op{.q = forward_op.q,
                                            .k = forward_op.k,
                                            .v = forward_op.v,
                                            .o = forward_op.o,
                                            .stats = forward_op.stats,
                                            .num_heads = heads,
                                            .window = window,
                                            .d_o = tensors.make(length, channels),
                                            .d_q = third(d_qkv, 0),
                                            .d_k = third(d_qkv, 1),
                                            .d_v = third(d_qkv, 2)};
  Arena arena(Buffer::on(Device::cpu(), forward_op.scratch_bytes() + backward_op.scratch_bytes() + 4096, "bench"));
  Context ctx(Device::cpu(), arena);
  run(ctx, forward_op);
  static const double peak = product_rate();
  const auto begin = std::chrono::steady_clock::now();
  for (auto _ : state)
    if (backward)
      run(ctx, backward_op);
    else
      run(ctx, forward_op);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const double flops = double(backward ? backward_op.flops() : forward_op.flops());
  using benchmark::Counter;
  state.counters["FLOP/s"] = Counter(flops, Counter::kIsIterationInvariantRate);
  state.counters["bytes/s"] =
      Counter(double(length * channels * 4 * (backward ? 8 : 4)), Counter::kIsIterationInvariantRate);
  state.counters["of_product_rate"] = flops * double(state.iterations()) / seconds / peak;
}

void sizes(benchmark::internal::Benchmark* b) {
  b->Args({642, 128, 8, -1});
  b->Args({2562, 128, 8, 16});
  b->Args({2562, 128, 8, 256});
  b->Args({2562, 128, 8, -1});
  b->Args({2562, 256, 4, 512});
  b->Args({10944, 256, 4, 512});
  b->Unit(benchmark::kMicrosecond)->UseRealTime();
}
BENCHMARK_CAPTURE(window_attention, forward, false)->Apply(sizes);
BENCHMARK_CAPTURE(window_attention, backward, true)->Apply(sizes);

}  // namespace
}  // namespace boreas

BENCHMARK_MAIN();
