#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/cases/elementwise.h"
#include "tests/support/gpu_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_gpu_parity(op, parity); };

TEST(AddCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  elementwise::add_cases(quick_tests(), kCheck);
}

TEST(CopyCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  elementwise::copy_cases(quick_tests(), kCheck);
}

TEST(FillCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  elementwise::fill_cases(quick_tests(), kCheck);
}

TEST(BlendCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  elementwise::blend_cases(quick_tests(), kCheck);
}

TEST(ColumnsCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  elementwise::column_cases(quick_tests(), kCheck);
}

TEST(AddPrognosticCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  elementwise::prognostic_cases(quick_tests(), kCheck);
}

TEST(FieldsCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  elementwise::field_cases(quick_tests(), kCheck);
}

TEST(CopyCuda, RoundsLikeTheCpu) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const Tensor x = w.random(DType::f32, {1000, 33}), expected = w.output(DType::bf16, {1000, 33});
  for (int64_t i = 0; i < x.size(); ++i) x.as<float>()[i] = x.as<float>()[i] / 3 + (i % 7 == 0 ? 0x1p-8f : 0);
  x.as<float>()[5] = NAN;
  x.as<float>()[6] = INFINITY;
  run(w.ctx, Copy{.x = x, .y = expected});
  const Tensor y = gpu.upload(w.filled(DType::bf16, {1000, 33}, 1));
  run(gpu.ctx, Copy{.x = gpu.upload(x), .y = y});
  const Tensor result = gpu.download(w, y);
  EXPECT_TRUE(std::isnan(float(result.as<bfloat16>()[5])));
  result.as<bfloat16>()[5] = expected.as<bfloat16>()[5];
  EXPECT_TRUE(identical(result, expected));
}

TEST(ElementwiseCuda, WrongUseIsNamed) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const Tensor x = gpu.upload(w.random(DType::f64, {4, 3}));
  BOREAS_EXPECT_ERROR(run(gpu.ctx, Blend{.x = x, .weight = 0.5, .y = x}), unsupported,
                      "on a GPU it takes f32 or bf16, not f64");
}

}  // namespace
}  // namespace boreas::test
