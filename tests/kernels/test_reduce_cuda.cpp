#include <gtest/gtest.h>

#include "tests/support/cases/reduce.h"
#include "tests/support/gpu_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_gpu_parity(op, parity); };

TEST(ReduceCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  reduce::cases(quick_tests(), kCheck);
}

}  // namespace
}  // namespace boreas::test
