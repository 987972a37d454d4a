// The mma.sync kernels of windowed attention in tile shapes beside those that launch_tensor_cores uses: channels x
// 16-row tiles a warp x columns x resident blocks. FLOP/s count what a kernel does inside the window: 2, 3 and 4
// products.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/rng.h"
#include "kernels/window_attention/window_attention_tensor_cores.cuh"

namespace boreas::bench {
namespace {

using namespace cuda::window_attention;

/// A forward and a backward with memory of their own; queries, keys and values are slices of one matrix.
struct Problem {
  std::vector<Buffer> buffers;
  Arena arena{Buffer::on(Device::cuda(0), 1 << 20, "bench arena")};
  Context ctx{Device::cuda(0), arena};
  WindowAttentionForward forward;
  WindowAttentionBackward backward;
  Tensor scratch;

  Problem(int64_t length, int64_t num_heads, int64_t head_size, int64_t window) {
    const int64_t channels = num_heads * head_size;
    const Tensor qkv = random(length, 3 * channels), d_qkv = random(length, 3 * channels);
    const auto third = [&](const Tensor& x, int64_t i) { return x.columns({i * channels, (i + 1) * channels}); };
    forward = {.q = third(qkv, 0),
               .k = third(qkv, 1),
               .v = third(qkv, 2),
               .num_heads = num_heads,
               .window = window,
               .o = random(length, channels),
               .stats = allocate(DType::f32, {length, num_heads})};
    backward = {.q = forward.q,
                .k = forward.k,
                .v = forward.v,
                .o = forward.o,
                .stats = forward.stats,
                .num_heads = num_heads,
                .window = window,
                .d_o = random(length, channels),
                .d_q = third(d_qkv, 0),
                .d_k = third(d_qkv, 1),
                .d_v = third(d_qkv, 2)};
    scratch = allocate(DType::u8, {backward.scratch_bytes()});
    launch_tensor_cores(ctx, forward);
    fill_row_terms<bfloat16>(ctx, backward, scratch);
  }

 private:
  Tensor allocate(DType dtype, Shape shape) {
    buffers.push_back(Buffer::on(Device::cuda(0), shape.size() * size_of(dtype), "bench"));
    return buffers.back().tensor(dtype, shape);
  }
  Tensor random(int64_t rows, int64_t columns) {
    const Tensor tensor = allocate(DType::bf16, {rows, columns});
    std::vector<bfloat16> values(int64_t{1} << 17);
    const Philox rng(1, buffers.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = bfloat16(float(rng.normal(int64_t(i))));
    for (int64_t done = 0; done < tensor.size(); done += int64_t(values.size()))
      copy_bytes(ctx.compute(), tensor.as<bfloat16>() + done, ctx.device(), values.data(), Device::cpu(),
                 std::min(int64_t(values.size()), tensor.size() - done) * int64_t(sizeof(bfloat16)));
    ctx.compute().synchronize();
    return tensor;
  }
};

/// Times launch(problem) with events around batches of launches; `products` of the 2 * pairs * channels kind.
template <class F>
void add(const std::string& name, std::shared_ptr<Problem> problem, int products, F launch) {
  const auto body = [=](benchmark::State& state) {
    constexpr int kBatch = 5;
    const cudaStream_t stream = cuda::stream_of(problem->ctx);
    cudaEvent_t begin = nullptr, end = nullptr;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    launch(*problem);
    for (auto _ : state) {
      cudaEventRecord(begin, stream);
      for (int i = 0; i < kBatch; ++i) launch(*problem);
      cudaEventRecord(end, stream);
      cudaEventSynchronize(end);
      float milliseconds = 0;
      cudaEventElapsedTime(&milliseconds, begin, end);
      state.SetIterationTime(milliseconds * 1e-3 / kBatch);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    state.counters["TFLOP/s"] = benchmark::Counter(double(problem->forward.flops()) / 2 * products * 1e-12,
                                                   benchmark::Counter::kIsIterationInvariantRate);
  };
  benchmark::RegisterBenchmark(name.c_str(), body)->UseManualTime()->MinTime(0.01)->Unit(benchmark::kMicrosecond);
}

template <class S>
std::string name_of(const char* kernel, const Problem& p) {
  return std::string(kernel) + "/gpu/window:" + std::to_string(p.forward.window) + "/shape:" + std::to_string(S::kD) +
         "x" + std::to_string(S::kM) + "x" + std::to_string(S::kColumns) + "x" + std::to_string(S::kBlocks);
}

template <class... Shapes>
void add_forward(std::shared_ptr<Problem> p) {
  (add(name_of<Shapes>("window_attention_forward", *p), p, 2,
       [](Problem& x) {
         launch_blocks(x.ctx, forward_tensor_cores<Shapes>, Shapes::kRows, kForwardSharedBytes<Shapes>,
                       parameters_of<bfloat16>(x.forward));
       }),
   ...);
}

template <class... Shapes>
void add_backward_queries(std::shared_ptr<Problem> p) {
  (add(name_of<Shapes>("window_attention_backward_queries", *p), p, 3,
       [](Problem& x) {
         launch_blocks(x.ctx, backward_queries_tensor_cores<Shapes>, Shapes::kRows, kBackwardSharedBytes<Shapes>,
                       parameters_of<bfloat16>(x.backward, x.scratch));
       }),
   ...);
}

template <class... Shapes>
void add_backward_keys(std::shared_ptr<Problem> p) {
  (add(name_of<Shapes>("window_attention_backward_keys", *p), p, 4,
       [](Problem& x) {
         launch_blocks(x.ctx, backward_keys_tensor_cores<Shapes>, Shapes::kRows, kBackwardSharedBytes<Shapes>,
                       by_keys(parameters_of<bfloat16>(x.backward, x.scratch), x.backward));
       }),
   ...);
}

void add_all() {
  const auto d64 = std::make_shared<Problem>(40320, 16, 64, 512);
  add_forward<TileShape<64, 2, 64, 2>, TileShape<64, 1, 64, 3>, TileShape<64, 1, 64, 2>, TileShape<64, 2, 32, 2>,
              TileShape<64, 1, 128, 2>>(d64);
  add_backward_queries<TileShape<64, 2, 32, 2>, TileShape<64, 1, 32, 3>, TileShape<64, 1, 64, 3>,
                       TileShape<64, 1, 64, 2>>(d64);
  add_backward_keys<TileShape<64, 2, 32, 2>, TileShape<64, 1, 32, 3>, TileShape<64, 1, 64, 2>>(d64);
  const auto d32 = std::make_shared<Problem>(40320, 16, 32, 512);
  add_forward<TileShape<32, 2, 64, 2>, TileShape<32, 2, 64, 3>, TileShape<32, 1, 64, 4>>(d32);
  add_backward_queries<TileShape<32, 2, 64, 2>, TileShape<32, 2, 32, 3>, TileShape<32, 1, 64, 3>>(d32);
  add_backward_keys<TileShape<32, 2, 64, 2>, TileShape<32, 2, 32, 3>, TileShape<32, 1, 64, 3>>(d32);
  const auto d128 = std::make_shared<Problem>(40320, 8, 128, 512);
  add_forward<TileShape<128, 1, 64, 2>, TileShape<128, 2, 32, 1>, TileShape<128, 1, 32, 3>>(d128);
  add_backward_queries<TileShape<128, 1, 32, 2>, TileShape<128, 1, 64, 2>, TileShape<128, 2, 32, 1>>(d128);
  add_backward_keys<TileShape<128, 1, 32, 2>, TileShape<128, 1, 64, 1>, TileShape<128, 1, 16, 2>>(d128);
  const auto row_terms = [](Problem& x) { fill_row_terms<bfloat16>(x.ctx, x.backward, x.scratch); };
  add("window_attention_row_terms/gpu", d64, 0, row_terms);
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  if (boreas::num_cuda_devices() > 0) boreas::bench::add_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
