// The tile shapes that the Hopper kernels of windowed attention could have, side by side: what Shapes in
// window_attention_sm90_launch.cuh is chosen from. Backward is measured by its parts, without the row terms.
//
//   bench_window_attention_hopper --benchmark_filter='64/512/by_keys'
#include "kernels/window_attention/window_attention_sm90_launch.cuh"  // first: it settles how nvcc reads fmt

#include "bench/kernels/bench_support.h"

namespace boreas {
namespace bench {
namespace {

using namespace cuda::sm90;

/// An op with a shape of its own.
struct ShapedForward : WindowAttentionForward {
  void (*launch_shape)(Context&, const WindowAttentionForward&) = nullptr;
};
/// d_q, or d_k and d_v: the share of the op's products that it has to compute.
struct ShapedBackward : WindowAttentionBackward {
  void (*launch_shape)(Context&, const WindowAttentionBackward&, Tensor) = nullptr;
  int products = 0;
  int64_t flops() const { return WindowAttentionBackward::flops() / 5 * products; }
  int64_t scratch_bytes() const {
    ScratchPieces pieces;
    cuda::RowTerms(pieces, *this);
    return pieces.bytes();
  }
};
[[maybe_unused]] void launch(cuda::Backend, Context& ctx, const ShapedForward& op, Tensor) { op.launch_shape(ctx, op); }
[[maybe_unused]] void launch(cuda::Backend, Context& ctx, const ShapedBackward& op, Tensor scratch) {
  op.launch_shape(ctx, op, scratch);
}
// Nothing but a GPU runs these.
[[maybe_unused]] void launch(cpu::Backend, Context&, const ShapedForward&, Tensor) {}
[[maybe_unused]] void launch(cpu::Backend, Context&, const ShapedBackward&, Tensor) {}

constexpr int64_t kLength = 40320, kChannels = 1024;

template <class C>
void add_shape(const char* name) {
  constexpr int64_t kHeads = kChannels / C::kHeadSize;
  for (const int64_t window : {512, 1120}) {
    const auto qkv_third = [](const Tensor& x, int64_t i) { return x.columns({i * kChannels, (i + 1) * kChannels}); };
    if constexpr (requires { C::kKeys; }) {
      add_gpu(fmt::format("window_attention_hopper/gpu/{}/{}/forward/{}", C::kHeadSize, window, name), [=](Bench& b) {
        const Tensor qkv = b.random(DType::bf16, {kLength, 3 * kChannels});
        ShapedForward op;
        op.q = qkv_third(qkv, 0), op.k = qkv_third(qkv, 1), op.v = qkv_third(qkv, 2);
        op.num_heads = kHeads, op.window = window;
        op.o = b.zeros(DType::bf16, {kLength, kChannels});
        op.stats = b.zeros(DType::f32, {kLength, kHeads});
        op.launch_shape = launch_forward<C>;
        return op;
      });
    } else {
      add_gpu(fmt::format("window_attention_hopper/gpu/{}/{}/{}/{}", C::kHeadSize, window,
                          C::kByKeys ? "by_keys" : "by_queries", name),
              [=](Bench& b) {
                const Tensor qkv = b.random(DType::bf16, {kLength, 3 * kChannels});
                const Tensor d_qkv = b.zeros(DType::bf16, {kLength, 3 * kChannels});
                ShapedBackward op;
                op.q = qkv_third(qkv, 0), op.k = qkv_third(qkv, 1), op.v = qkv_third(qkv, 2);
                op.o = b.zeros(DType::bf16, {kLength, kChannels});
                op.stats = b.zeros(DType::f32, {kLength, kHeads});
                op.num_heads = kHeads, op.window = window;
                op.d_o = b.random(DType::bf16, {kLength, kChannels});
                op.d_q = qkv_third(d_qkv, 0), op.d_k = qkv_third(d_qkv, 1), op.d_v = qkv_third(d_qkv, 2);
                op.launch_shape = launch_backward<C>;
                op.products = C::kByKeys ? 4 : 3;
                return op;
              });
    }
  }
}
// Rows of a block, rows of a step, stages, option.
#define BOREAS_SHAPE(Shape, ...) add_shape<Shape<__VA_ARGS__>>(#__VA_ARGS__)

void add_all() {
  BOREAS_SHAPE(ForwardShape, 64, 3, 128, 3);
  BOREAS_SHAPE(ForwardShape, 64, 3, 128, 3, true);
  BOREAS_SHAPE(ForwardShape, 64, 3, 112, 3, true);
  BOREAS_SHAPE(BackwardShape, false, 64, 2, 128, 2);
  BOREAS_SHAPE(BackwardShape, false, 64, 2, 64, 3, true);
  BOREAS_SHAPE(BackwardShape, false, 64, 2, 96, 3, true);
  BOREAS_SHAPE(BackwardShape, false, 64, 3, 64, 3);
  BOREAS_SHAPE(BackwardShape, true, 64, 2, 64, 3);
  BOREAS_SHAPE(BackwardShape, true, 64, 2, 64, 3, true);
  BOREAS_SHAPE(BackwardShape, true, 64, 2, 64, 4, true);

  BOREAS_SHAPE(ForwardShape, 32, 3, 128, 4, true);
  BOREAS_SHAPE(BackwardShape, false, 32, 3, 64, 4);
  BOREAS_SHAPE(BackwardShape, true, 32, 3, 64, 4);
  BOREAS_SHAPE(BackwardShape, true, 32, 2, 64, 4, true);

  BOREAS_SHAPE(ForwardShape, 128, 2, 128, 2);
  BOREAS_SHAPE(BackwardShape, false, 128, 2, 64, 2);
  BOREAS_SHAPE(BackwardShape, true, 128, 2, 32, 4);
}
#undef BOREAS_SHAPE

}  // namespace
}  // namespace bench
}  // namespace boreas

int main(int argc, char** argv) {
  if (boreas::num_cuda_devices() > 0) boreas::bench::add_all();
  return boreas::bench::main(argc, argv);
}
