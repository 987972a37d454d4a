// What benches of ops share: memory, timing with the op's own byte and FLOP counts, and the peaks of the machine.
#pragma once

#include <benchmark/benchmark.h>
#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <vector>

#include "kernels/core/op.h"
#include "kernels/core/rng.h"
#include "kernels/elementwise/elementwise.h"

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace boreas::bench {

/// A context and the tensors that a bench computes with.
class Bench {
  Arena arena_;
  std::deque<Buffer> buffers_;
  uint64_t num_made_ = 0;

 public:
  Context ctx;

  explicit Bench(Device device = Device::cpu())
      : arena_(Buffer::on(device, int64_t{64} << 20, "bench arena")), ctx(device, arena_) {}

  /// Standard normal values (a short random pattern, repeated).
  Tensor random(DType dtype, Shape shape) {
    const Philox rng(1, num_made_++);
    std::vector<float> pattern(10007);
    for (size_t i = 0; i < pattern.size(); ++i) pattern[i] = float(rng.normal(i));
    const Tensor tensor = allocate(dtype, shape);
    const Buffer host(Device::cpu(), Buffer::Kind::host, tensor.bytes(), "bench");
    dispatch_dtype(dtype, [&]<class T>() {
      T* const values = static_cast<T*>(host.data());
      for (int64_t i = 0; i < tensor.size(); ++i) values[i] = T(pattern[i % pattern.size()]);
    });
    copy_bytes(ctx.compute(), tensor.data(), ctx.device(), host.data(), Device::cpu(), tensor.bytes());
    ctx.compute().synchronize();
    return tensor;
  }
  Tensor zeros(DType dtype, Shape shape) {
    const Tensor tensor = allocate(dtype, shape);
    buffers_.back().zero();
    return tensor;
  }

 private:
  Tensor allocate(DType dtype, Shape shape) {
    return buffers_.emplace_back(Buffer::on(ctx.device(), shape.size() * size_of(dtype), "bench")).tensor(dtype, shape);
  }
};

inline double seconds_of(auto&& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Shortest of several repeats, after one that does not count.
inline double best_seconds(int repeats, auto&& f) {
  f();
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) best = std::min(best, seconds_of(f));
  return best;
}

/// FLOP/s of a square single-precision matrix product: the ceiling of what is bound by arithmetic.
inline double sgemm_flops() {
  static const double value = [] {
    constexpr int n = 2048;
    const std::vector<float> a(size_t{n} * n, 0.5f), b(size_t{n} * n, 0.25f);
    std::vector<float> c(size_t{n} * n);
    return 2.0 * n * n * n / best_seconds(7, [&] {
             cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1, a.data(), n, b.data(), n, 0, c.data(), n);
           });
  }();
  return value;
}

/// Bytes/s, read plus written, of a copy of 256 MiB: the ceiling of what is bound by memory.
inline double copy_bandwidth() {
  static const double value = [] {
    Bench bench;
    const Tensor x = bench.zeros(DType::f32, {int64_t{1} << 26}), y = bench.zeros(DType::f32, {int64_t{1} << 26});
    return double(x.bytes() + y.bytes()) / best_seconds(5, [&] { run(bench.ctx, Copy{.x = x, .y = y}); });
  }();
  return value;
}

/// Times the op on the CPU. Counters: GB/s and GFLOP/s by the op's own formulas, as fractions of the peaks too.
template <class Op>
void measure(benchmark::State& state, Bench& bench, const Op& op) {
  for (auto _ : state) run(bench.ctx, op);
  const auto rate = [&](double amount) {
    return benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate);
  };
  const double flops = double(op.flops()), bytes = double(detail::bytes_of(op));
  state.counters["GFLOP/s"] = rate(flops * 1e-9);
  state.counters["GB/s"] = rate(bytes * 1e-9);
  state.counters["of_sgemm"] = rate(flops / sgemm_flops());
  state.counters["of_copy"] = rate(bytes / copy_bandwidth());
}

/// Registers a bench whose function calls measure().
inline void add(const std::string& name, auto&& f) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<decltype(f)>(f))
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond);
}

#ifdef BOREAS_WITH_CUDA
/// Bytes/s, read plus written, of a copy of 1 GiB within the memory of the GPU.
inline double gpu_copy_bandwidth() {
  static const double value = [] {
    Bench bench(Device::cuda(0));
    const Tensor x = bench.zeros(DType::f32, {int64_t{1} << 28}), y = bench.zeros(DType::f32, {int64_t{1} << 28});
    return double(x.bytes() + y.bytes()) / best_seconds(10, [&] {
             copy_bytes(bench.ctx.compute(), y.data(), y.device(), x.data(), x.device(), x.bytes());
             bench.ctx.compute().synchronize();
           });
  }();
  return value;
}

/// Times the op on the GPU with events around batches of launches.
template <class Op>
void measure_gpu(benchmark::State& state, Bench& bench, const Op& op) {
  constexpr int kBatch = 20;
  const auto stream = static_cast<cudaStream_t>(bench.ctx.compute().native());
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (int i = 0; i < 3; ++i) run(bench.ctx, op);
  for (auto _ : state) {
    cudaEventRecord(begin, stream);
    for (int i = 0; i < kBatch; ++i) run(bench.ctx, op);
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    state.SetIterationTime(milliseconds * 1e-3 / kBatch);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  const double bytes = double(detail::bytes_of(op));
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of_copy"] =
      benchmark::Counter(bytes / gpu_copy_bandwidth(), benchmark::Counter::kIsIterationInvariantRate);
}

/// Registers a bench whose function calls measure_gpu().
inline void add_gpu(const std::string& name, auto&& f) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<decltype(f)>(f))
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}
#endif

/// main() of a bench, after its benchmarks were added: measures the peaks, then runs.
inline int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("sgemm_gflops", fmt::format("{:.1f}", sgemm_flops() * 1e-9));
  benchmark::AddCustomContext("copy_gbps", fmt::format("{:.1f}", copy_bandwidth() * 1e-9));
#ifdef BOREAS_WITH_CUDA
  if (num_cuda_devices() > 0) {
    cudaDeviceProp properties;
    cudaGetDeviceProperties(&properties, 0);
    benchmark::AddCustomContext("gpu", properties.name);
    benchmark::AddCustomContext("gpu_copy_gbps", fmt::format("{:.1f}", gpu_copy_bandwidth() * 1e-9));
  }
#endif
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace boreas::bench
