// The kernels for the GPU, run on the CPU: see tests/support/cuda_emulation/emulation.h.
#include <gtest/gtest.h>

#include "kernels/window_attention/window_attention_generic.cuh"
#include "kernels/window_attention/window_attention_sm90_launch.cuh"
#include "kernels/window_attention/window_attention_tensor_cores.cuh"
#include "tests/support/cases/window_attention.h"

namespace boreas::test {
namespace {

using namespace window_attention;
namespace kernels = cuda::window_attention;

void expect_emulated_parity(DType dtype, const Case& c, auto&& launch_forward, auto&& launch_backward) {
  for (const emulation::Order order : {emulation::Order::descending, emulation::Order::ascending}) {
    // Long cases in one order only: a missing barrier shows in short ones too.
    if (c.length * c.head_size > 4000 && order == emulation::Order::ascending) continue;
    SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << c << ", threads "
                                    << (order == emulation::Order::ascending ? "ascending" : "descending"));
    emulation::order() = order;
    Workspace w;
    const Tensors actual = host_tensors(w, dtype, c, 8);
    const WindowAttentionForward forward = forward_op(actual, c);
    const WindowAttentionBackward backward = backward_op(actual, c);
    ScratchPieces counted;
    cuda::RowTerms(counted, backward);
    const Tensor scratch = w.output(DType::f32, {counted.bytes() / 4});
    launch_forward(w.ctx, forward);
    if (order == emulation::Order::ascending)
      launch_backward(w.ctx, backward, scratch);
    else
      for (const WindowAttentionBackward& part : parts_of(backward)) launch_backward(w.ctx, part, scratch);
    expect_parity(actual, exact_tensors(w, actual, c));
  }
  emulation::order() = emulation::Order::ascending;
}

TEST(WindowAttentionEmulated, TensorCoresMatchTheCpuInDouble) {
  for (const Case& c : small_cases()) {
    if (c.head_size > 128) continue;
    expect_emulated_parity(
        DType::bf16, c, [](Context& ctx, const auto& op) { kernels::launch_tensor_cores(ctx, op); },
        [](Context& ctx, const auto& op, Tensor scratch) {
          kernels::fill_row_terms<bfloat16>(ctx, op, scratch);
          kernels::launch_tensor_cores(ctx, op, scratch);
        });
  }
}

TEST(WindowAttentionEmulated, HopperMatchesTheCpuInDouble) {
  std::vector<Case> cases = tiled_cases();
  for (const Case& c : small_cases())
    if (c.head_size == 32 || c.head_size == 64 || c.head_size == 128) cases.push_back(c);
  for (const Case& c : cases)
    expect_emulated_parity(
        DType::bf16, c, [](Context& ctx, const auto& op) { cuda::sm90::launch_hopper(ctx, op); },
        [](Context& ctx, const auto& op, Tensor scratch) {
          kernels::fill_row_terms<bfloat16>(ctx, op, scratch);
          cuda::sm90::launch_hopper(ctx, op, scratch);
        });
}

// The options that the shapes in use leave out, for the bench that compares shapes.
TEST(WindowAttentionEmulated, HopperTakesTurnsAndHoldsRows) {
  using namespace cuda::sm90;
  expect_emulated_parity(
      DType::bf16, Case{450, 1, 64, 70},
      [](Context& ctx, const auto& op) { launch_forward<ForwardShape<64, 3, 64, 3, true>>(ctx, op); },
      [](Context& ctx, const auto& op, Tensor scratch) {
        kernels::fill_row_terms<bfloat16>(ctx, op, scratch);
        launch_backward<BackwardShape<false, 64, 3, 64, 2, true>>(ctx, op, scratch);
        launch_backward<BackwardShape<true, 64, 2, 64, 2, true>>(ctx, op, scratch);
      });
  expect_emulated_parity(
      DType::bf16, Case{200, 1, 32, -1},
      [](Context& ctx, const auto& op) { launch_forward<ForwardShape<32, 2, 128, 2, true>>(ctx, op); },
      [](Context& ctx, const auto& op, Tensor scratch) {
        kernels::fill_row_terms<bfloat16>(ctx, op, scratch);
        launch_backward<BackwardShape<false, 32, 2, 64, 2, true>>(ctx, op, scratch);
        launch_backward<BackwardShape<true, 32, 3, 64, 2, true>>(ctx, op, scratch);
      });
}

template <class T>
void expect_generic_parity(const Case& c) {
  expect_emulated_parity(
      dtype_of<T>, c, [](Context& ctx, const auto& op) { kernels::launch_generic<T>(ctx, op); },
      [](Context& ctx, const auto& op, Tensor scratch) {
        kernels::fill_row_terms<T>(ctx, op, scratch);
        kernels::launch_generic<T>(ctx, op, scratch);
      });
}

TEST(WindowAttentionEmulated, GenericMatchesTheCpuInDouble) {
  for (const Case& c : small_cases()) expect_generic_parity<float>(c);
  expect_generic_parity<float>({40, 1, 13, 7});
  expect_generic_parity<bfloat16>({70, 2, 24, 5});
}

}  // namespace
}  // namespace boreas::test
