// The column sums of the GPU's linear layers, run on the CPU.
#include <gtest/gtest.h>

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
        ASSERT_EQ(scratch.rounded != nullptr, wide == DType::f32);
        if (!scratch.rounded) continue;
        const Tensor rounded(scratch.rounded, DType::bf16, {n, m}, Device::cpu(), scratch.rounded_stride);
        EXPECT_TRUE(identical(w.copy_of(rounded), w.copy_of(d_y, DType::bf16)));
      }
}

TEST(LinearEmulated, ConvertedVectors) {
  Workspace w;
  const Tensor bias = w.random(DType::bf16, {300}), copy = w.output(DType::f32, {300});
  cuda::launch_convert_vector<bfloat16, float>(bias, copy, nullptr);
  EXPECT_TRUE(identical(copy, w.copy_of(bias, DType::f32)));
}

}  // namespace
}  // namespace boreas::test
