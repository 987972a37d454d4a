// The kernels for the GPU, run on the CPU: see tests/support/cuda_emulation/emulation.h.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/window_attention/window_attention_generic.cuh"
#include "kernels/window_attention/window_attention_tensor_cores.cuh"
#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

struct Case {
  int64_t length, num_heads, head_size, window;
};

// Tiles of both widths, heads narrower than their tile, windows that end inside tiles and beyond the sequence.
constexpr Case kCases[] = {{1, 1, 16, 0},    {70, 2, 8, 5},    {130, 1, 64, 20},
                           {200, 1, 32, -1}, {67, 1, 40, 300}, {133, 1, 128, 33}};

struct Problem {
  WindowAttentionForward forward;
  WindowAttentionBackward backward;
};

/// Rows lie in wider matrices, at multiples of 16 bytes.
Problem make_problem(Workspace& w, DType dtype, const Case& c) {
  const int64_t channels = c.num_heads * c.head_size;
  const auto matrix = [&](bool is_input) {
    const Shape wide{c.length, channels + 8};
    return (is_input ? w.random(dtype, wide) : w.output(dtype, wide)).columns({8, 8 + channels});
  };
  Problem out;
  out.forward = {.q = matrix(true),
                 .k = matrix(true),
                 .v = matrix(true),
                 .num_heads = c.num_heads,
                 .window = c.window,
                 .o = matrix(false),
                 .stats = w.output(accumulator_of(dtype), {c.length, c.num_heads})};
  out.backward = {.q = out.forward.q,
                  .k = out.forward.k,
                  .v = out.forward.v,
                  .o = out.forward.o,
                  .stats = out.forward.stats,
                  .num_heads = c.num_heads,
                  .window = c.window,
                  .d_o = matrix(true),
                  .d_q = matrix(false),
                  .d_k = matrix(false),
                  .d_v = matrix(false)};
  return out;
}

Problem in_double(Workspace& w, const Problem& p) {
  Problem out = p;
  for (Tensor WindowAttentionForward::*t :
       {&WindowAttentionForward::q, &WindowAttentionForward::k, &WindowAttentionForward::v, &WindowAttentionForward::o,
        &WindowAttentionForward::stats})
    out.forward.*t = w.copy_of(p.forward.*t, DType::f64);
  out.backward.q = out.forward.q;
  out.backward.k = out.forward.k;
  out.backward.v = out.forward.v;
  out.backward.o = out.forward.o;
  out.backward.stats = out.forward.stats;
  for (Tensor WindowAttentionBackward::*t : {&WindowAttentionBackward::d_o, &WindowAttentionBackward::d_q,
                                             &WindowAttentionBackward::d_k, &WindowAttentionBackward::d_v})
    out.backward.*t = w.copy_of(p.backward.*t, DType::f64);
  return out;
}

void expect_parity(DType dtype, const Case& c, auto&& launch_forward, auto&& launch_backward) {
  for (const emulation::Order order : {emulation::Order::ascending, emulation::Order::descending}) {
    SCOPED_TRACE(testing::Message() << to_string(dtype) << ", length " << c.length << ", " << c.num_heads
                                    << " heads of " << c.head_size << ", window " << c.window << ", threads "
                                    << (order == emulation::Order::ascending ? "ascending" : "descending"));
    emulation::order() = order;
    Workspace w;
    const Problem p = make_problem(w, dtype, c), exact = in_double(w, p);
    run(w.ctx, exact.forward);
    run(w.ctx, exact.backward);

    ScratchPieces counted;
    cuda::RowTerms(counted, p.backward);
    const Tensor scratch = w.output(DType::f32, {counted.bytes() / 4});
    launch_forward(w.ctx, p.forward);
    launch_backward(w.ctx, p.backward, scratch);
    const double stored = dtype == DType::bf16 ? 5e-3 : 3e-6, gradient = dtype == DType::bf16 ? 1e-2 : 5e-6;
    expect_close(p.forward.o, exact.forward.o, stored);
    expect_close(p.forward.stats, exact.forward.stats, 3e-6, 0, 1e-2);
    const double floor = 0.1 * std::sqrt(dot(exact.backward.d_v, exact.backward.d_v));
    expect_close(p.backward.d_q, exact.backward.d_q, gradient, 0, floor);
    expect_close(p.backward.d_k, exact.backward.d_k, gradient, 0, floor);
    expect_close(p.backward.d_v, exact.backward.d_v, gradient);
  }
  emulation::order() = emulation::Order::ascending;
}

TEST(WindowAttentionEmulated, TensorCoresMatchTheCpuInDouble) {
  for (const Case& c : kCases)
    expect_parity(
        DType::bf16, c, [](Context& ctx, const auto& op) { cuda::window_attention::launch_tensor_cores(ctx, op); },
        [](Context& ctx, const auto& op, Tensor scratch) {
          cuda::window_attention::fill_row_terms<bfloat16>(ctx, op, scratch);
          cuda::window_attention::launch_tensor_cores(ctx, op, scratch);
        });
}

template <class T>
void expect_generic_parity(const Case& c) {
  expect_parity(
      dtype_of<T>, c, [](Context& ctx, const auto& op) { cuda::window_attention::launch_generic<T>(ctx, op); },
      [](Context& ctx, const auto& op, Tensor scratch) {
        cuda::window_attention::fill_row_terms<T>(ctx, op, scratch);
        cuda::window_attention::launch_generic<T>(ctx, op, scratch);
      });
}

TEST(WindowAttentionEmulated, GenericMatchesTheCpuInDouble) {
  for (const Case& c : kCases) expect_generic_parity<float>(c);
  expect_generic_parity<float>({40, 1, 13, 7});
  expect_generic_parity<float>({40, 1, 200, -1});
  expect_generic_parity<bfloat16>({70, 2, 24, 5});
}

}  // namespace
}  // namespace boreas::test
