// The kernels for the GPU, run on the CPU: see tests/support/cuda_emulation/emulation.h.
#include <gtest/gtest.h>

#include "kernels/gather_rows/gather_rows_kernels.cuh"
#include "tests/support/cases/gather_rows.h"
#include "tests/support/emulated_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_emulated_parity(op, parity); };

TEST(GatherRowsEmulated, MatchesTheCpuInDouble) { gather_rows::gather_cases(true, kCheck); }
TEST(ScatterAddRowsEmulated, MatchesTheCpuInDouble) { gather_rows::scatter_cases(true, kCheck); }

}  // namespace
}  // namespace boreas::test
