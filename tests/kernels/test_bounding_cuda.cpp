#include <gtest/gtest.h>

#include "tests/support/cases/bounding.h"
#include "tests/support/gpu_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_gpu_parity(op, parity); };

TEST(BoundingCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  bounding::cases(quick_tests(), kCheck);
}

}  // namespace
}  // namespace boreas::test
