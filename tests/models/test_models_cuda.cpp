// Every model with golden numbers on the GPU: forward and all gradients, in f32 and bf16, whole and in chunks with
// recompute. Since the numbers are those of the reference in f64, this is parity with the CPU backend too.
#include "tests/models/golden_models.h"
#include "tests/support/gpu.h"

namespace boreas::test::golden {
namespace {

class GoldenOnTheGpu : public testing::TestWithParam<std::pair<std::string, DType>> {};

TEST_P(GoldenOnTheGpu, AgreesWithTheReference) {
  BOREAS_SKIP_WITHOUT_GPU();
  const auto& [path, dtype] = GetParam();
  if (dtype == DType::bf16 && fs::path(path).stem() == "losses") GTEST_SKIP() << "losses are computed in f32";
  const bool f32 = dtype == DType::f32;
  // Gradients of queries and keys cancel in the softmax. The CPU in f32 with every stored tensor rounded to bf16 is off
  // by 0.12 for those of full_tf (normed queries and keys of its second block), by 0.03 at most elsewhere.
  const double in_bf16 = fs::path(path).stem() == "full_tf" ? 0.18 : 5e-2;
  check_file(
      path,
      {.device = Device::cuda(0), .dtype = dtype, .forward = f32 ? 1e-5 : 2e-2, .gradient = f32 ? 1e-4 : in_bf16});
}

std::vector<std::pair<std::string, DType>> cases() {
  std::vector<std::pair<std::string, DType>> all;
  for (const fs::path& file : files_in(default_folder()))
    for (const DType dtype : {DType::f32, DType::bf16}) all.emplace_back(file.string(), dtype);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenOnTheGpu, testing::ValuesIn(cases()), [](const auto& info) {
  return fmt::format("{}_{}", fs::path(info.param.first).stem().string(), to_string(info.param.second));
});

}  // namespace
}  // namespace boreas::test::golden
