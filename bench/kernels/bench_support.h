// What benches of ops share: memory, timing with the op's own byte and FLOP counts, and the peaks of the machine.
#pragma once

#include <benchmark/benchmark.h>
#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/op.h"
#include "kernels/core/rng.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/linear/linear.h"

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
      : arena_(Buffer::on(device, (device.is_cuda() ? int64_t{512} : int64_t{64}) << 20, "bench arena")),
        ctx(device, arena_) {}

  /// Standard normal values: a pattern of some length, repeated.
  Tensor random(DType dtype, Shape shape) {
    const Tensor tensor = allocate(dtype, shape);
    const int64_t length = std::min(tensor.size(), int64_t{1} << 17), element = size_of(dtype);
    const Buffer pattern(Device::cpu(), Buffer::Kind::host, length * element, "bench");
    const Philox rng(1, num_made_++);
    dispatch_dtype(dtype, [&]<class T>() {
      for (int64_t i = 0; i < length; ++i) static_cast<T*>(pattern.data())[i] = T(float(rng.normal(i)));
    });
    const Device device = ctx.device();
    char* const data = static_cast<char*>(tensor.data());
    copy_bytes(ctx.compute(), data, device, pattern.data(), Device::cpu(), length * element);
    for (int64_t done = length; done < tensor.size(); done *= 2)
      copy_bytes(ctx.compute(), data + done * element, device, data, device,
                 std::min(done, tensor.size() - done) * element);
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

inline std::pair<std::string, std::shared_ptr<void>>& last_prepared() {
  static std::pair<std::string, std::shared_ptr<void>> instance;
  return instance;
}

template <class Op>
struct Prepared {
  Bench bench;
  Op op;
  Prepared(Device device, const auto& make) : bench(device), op(make(bench)) {}
};

/// Calls f(bench, op) with what make(bench) returns. Repeats of one bench share it; only the last one is kept.
inline void with_prepared(const std::string& name, Device device, const auto& make, auto&& f) {
  using P = Prepared<decltype(make(std::declval<Bench&>()))>;
  auto& [last_name, last] = last_prepared();
  if (last_name != name) {
    last.reset();
    last = std::make_shared<P>(device, make);
    last_name = name;
  }
  P& prepared = *static_cast<P*>(last.get());
  f(prepared.bench, prepared.op);
}

/// Registers a bench of the op that make(bench) returns, on the CPU.
inline void add(const std::string& name, auto make) {
  const auto body = [=](benchmark::State& state) {
    with_prepared(name, Device::cpu(), make, [&](Bench& bench, const auto& op) { measure(state, bench, op); });
  };
  benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->Unit(benchmark::kMicrosecond);
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

/// FLOP/s of a square bf16 product of random values: the ceiling of what is bound by the matrix units.
inline double gpu_matrix_flops() {
  static const double value = [] {
    constexpr int64_t n = 8192;
    Bench bench(Device::cuda(0));
    const LinearForward op{.x = bench.random(DType::bf16, {n, n}),
                           .weight = bench.random(DType::bf16, {n, n}),
                           .y = bench.zeros(DType::bf16, {n, n})};
    return double(op.flops()) / best_seconds(10, [&] {
             run(bench.ctx, op);
             bench.ctx.compute().synchronize();
           });
  }();
  return value;
}

/// Times the op on the GPU with events around batches of launches, of about a millisecond at least.
template <class Op>
void measure_gpu(benchmark::State& state, Bench& bench, const Op& op) {
  const auto stream = static_cast<cudaStream_t>(bench.ctx.compute().native());
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (int i = 0; i < 3; ++i) run(bench.ctx, op);
  bench.ctx.compute().synchronize();
  const int batch = std::clamp(int(1e-3 / seconds_of([&] {
                                     run(bench.ctx, op);
                                     bench.ctx.compute().synchronize();
                                   })),
                               1, 20);
  for (auto _ : state) {
    cudaEventRecord(begin, stream);
    for (int i = 0; i < batch; ++i) run(bench.ctx, op);
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    state.SetIterationTime(milliseconds * 1e-3 / batch);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  const auto rate = [&](double amount) {
    return benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate);
  };
  const double bytes = double(detail::bytes_of(op));
  state.counters["TFLOP/s"] = rate(double(op.flops()) * 1e-12);
  state.counters["GB/s"] = rate(bytes * 1e-9);
  state.counters["of_copy"] = rate(bytes / gpu_copy_bandwidth());
  state.counters["of_matrix"] = rate(double(op.flops()) / gpu_matrix_flops());
}

/// The same on the first GPU. The minimal time counts one launch of a batch, so it is short.
inline void add_gpu(const std::string& name, auto make) {
  const auto body = [=](benchmark::State& state) {
    with_prepared(name, Device::cuda(0), make, [&](Bench& bench, const auto& op) { measure_gpu(state, bench, op); });
  };
  benchmark::RegisterBenchmark(name.c_str(), body)->UseManualTime()->MinTime(0.01)->Unit(benchmark::kMicrosecond);
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
    benchmark::AddCustomContext("gpu_matrix_tflops", fmt::format("{:.1f}", gpu_matrix_flops() * 1e-12));
  }
#endif
  benchmark::RunSpecifiedBenchmarks();
  last_prepared() = {};
  benchmark::Shutdown();
  return 0;
}

}  // namespace boreas::bench
