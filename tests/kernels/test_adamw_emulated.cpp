// The kernels for the GPU, run on the CPU: see tests/support/cuda_emulation/emulation.h.
#include <gtest/gtest.h>

#include "kernels/adamw/adamw_kernels.cuh"
#include "tests/support/cases/adamw.h"
#include "tests/support/emulated_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_emulated_parity(op, parity); };

TEST(AdamWEmulated, MatchesTheCpuInDouble) { adamw::update_cases(true, kCheck); }
TEST(ClipScaleEmulated, MatchesTheCpuInDouble) { adamw::scale_cases(kCheck); }

}  // namespace
}  // namespace boreas::test
