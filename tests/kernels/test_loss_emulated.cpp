// The kernels for the GPU, run on the CPU: see tests/support/cuda_emulation/emulation.h.
#include <gtest/gtest.h>

#include "kernels/loss/loss_kernels.cuh"
#include "tests/support/cases/loss.h"
#include "tests/support/emulated_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_emulated_parity(op, parity); };

TEST(WeightedLossEmulated, MatchesTheCpuInDouble) { loss::weighted_cases(true, kCheck); }
TEST(CrpsLossEmulated, MatchesTheCpuInDouble) { loss::crps_cases(true, kCheck); }

}  // namespace
}  // namespace boreas::test
