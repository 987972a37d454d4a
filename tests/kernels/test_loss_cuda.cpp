#include <gtest/gtest.h>

#include "tests/support/cases/loss.h"
#include "tests/support/gpu_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_gpu_parity(op, parity); };

TEST(WeightedLossCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  loss::weighted_cases(quick_tests(), kCheck);
}

TEST(CrpsLossCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  loss::crps_cases(quick_tests(), kCheck);
}

TEST(CrpsLossCuda, TooManyMembersAreRefused) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const auto upload = [&](const Tensor& tensor) { return gpu.upload(tensor); };
  BOREAS_EXPECT_ERROR(run(gpu.ctx, CrpsLoss{.prediction = upload(w.random(DType::f32, {65, 2})),
                                            .target = upload(w.random(DType::f32, {1, 2})),
                                            .node_weights = upload(loss::weights(w, 1)),
                                            .column_weights = upload(loss::weights(w, 2)),
                                            .num_members = 65,
                                            .loss = upload(w.output(DType::f32, {1}))}),
                      unsupported, "65 members, but a GPU takes at most 64");
}

}  // namespace
}  // namespace boreas::test
