// The kernels for the GPU, run on the CPU: see tests/support/cuda_emulation/emulation.h.
#include <gtest/gtest.h>

#include "kernels/bounding/bounding_kernels.cuh"
#include "tests/support/cases/bounding.h"
#include "tests/support/emulated_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_emulated_parity(op, parity); };

TEST(BoundingEmulated, MatchesTheCpuInDouble) { bounding::cases(true, kCheck); }

}  // namespace
}  // namespace boreas::test
