// The column sums of the GPU's linear layers, run on the CPU.
#include <gtest/gtest.h>

#include "kernels/elementwise/elementwise.h"
#include "kernels/linear/linear_kernels.cuh"
#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

TEST(LinearEmulated, ColumnSumsAndRoundedCopies) {
  for (const DType wide : {DType::f32, DType::bf16})
    for (const auto& [n, m] : {std::pair{1, 1}, std::pair{200, 24}, std::pair{333, 7}, std::pair{150, 520}})
      for (const bool sums : {false, true}) {
        Workspace w;
        const Tensor x = w.random(DType::bf16, {n, 4}), d_weight = w.random(DType::f32, {m, 4}),
                     d_y = w.random(wide, {n, m + 8}).columns({0, m});
        const Tensor d_bias = sums ? w.random(DType::f32, {m}) : Tensor();
        const LinearBackward op{.x = x, .d_y = d_y, .d_weight = d_weight, .d_bias = d_bias};
        op.check();
        const Tensor exact = sums ? w.copy_of(d_bias, DType::f64) : Tensor();
        if (sums) run(w.ctx, LinearBackward{.d_y = w.copy_of(d_y, DType::f64), .d_bias = exact});
        const Buffer memory(Device::cpu(), Buffer::Kind::host, cuda::LinearScratch(op, DType::bf16).bytes, "test");
        const cuda::LinearScratch scratch(op, DType::bf16, memory.data());
        if (wide == DType::bf16)
          cuda::launch_sum_columns<bfloat16>(op, scratch, nullptr);
        else
          cuda::launch_sum_columns<float>(op, scratch, nullptr);
        if (sums) expect_close(d_bias, exact);
        ASSERT_EQ(bool(scratch.rounded), wide == DType::f32);
        if (!scratch.rounded) continue;
        const Tensor expected = w.filled(DType::bf16, {n, padded_columns(m)}, 0);
        run(w.ctx, Copy{.x = d_y, .y = expected.columns({0, m})});
        EXPECT_TRUE(identical(*scratch.rounded, expected));
      }
}

TEST(LinearEmulated, ConvertedVectors) {
  Workspace w;
  const Tensor bias = w.random(DType::bf16, {300}), copy = w.random(DType::f32, {304});
  cuda::launch_convert_vector<bfloat16, float>(bias, copy, nullptr);
  const Tensor expected = w.filled(DType::f32, {1, 304}, 0);
  run(w.ctx, Copy{.x = bias.reshape({1, 300}), .y = expected.columns({0, 300})});
  EXPECT_TRUE(identical(copy.reshape({1, 304}), expected));
}

TEST(LinearEmulated, PaddedMatrices) {
  for (const auto& [rows, cols, to_rows, to_cols] :
       {std::tuple{89, 512, 96, 512}, std::tuple{33, 226, 33, 232}, std::tuple{5, 3, 8, 3}, std::tuple{1, 1, 8, 8}}) {
    Workspace w;
    const Tensor from = w.random(DType::bf16, {rows, cols + 5}).columns({2, 2 + cols});
    const Tensor whole = w.random(DType::bf16, {to_rows, padded_columns(to_cols)});
    cuda::launch_pad_matrix(from, whole.columns({0, to_cols}), nullptr);
    const Tensor expected = w.filled(DType::bf16, {to_rows, padded_columns(to_cols)}, 0);
    run(w.ctx, Copy{.x = from, .y = expected.slice({0, rows}).columns({0, cols})});
    EXPECT_TRUE(identical(whole, expected));
  }
}

}  // namespace
}  // namespace boreas::test
