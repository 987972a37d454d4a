#include <gtest/gtest.h>

#include "tests/support/cases/gather_rows.h"
#include "tests/support/gpu_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_gpu_parity(op, parity); };

TEST(GatherRowsCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  gather_rows::gather_cases(quick_tests(), kCheck);
}

TEST(ScatterAddRowsCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  gather_rows::scatter_cases(quick_tests(), kCheck);
}

}  // namespace
}  // namespace boreas::test
