// The kernels for the GPU, run on the CPU: see tests/support/cuda_emulation/emulation.h.
#include <gtest/gtest.h>

#include "kernels/elementwise/elementwise_kernels.cuh"
#include "tests/support/cases/elementwise.h"
#include "tests/support/emulated_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_emulated_parity(op, parity); };

TEST(AddEmulated, MatchesTheCpuInDouble) { elementwise::add_cases(true, kCheck); }
TEST(CopyEmulated, MatchesTheCpuInDouble) { elementwise::copy_cases(true, kCheck); }
TEST(FillEmulated, MatchesTheCpuInDouble) { elementwise::fill_cases(true, kCheck); }
TEST(BlendEmulated, MatchesTheCpuInDouble) { elementwise::blend_cases(true, kCheck); }
TEST(ColumnsEmulated, MatchesTheCpuInDouble) { elementwise::column_cases(true, kCheck); }
TEST(AddPrognosticEmulated, MatchesTheCpuInDouble) { elementwise::prognostic_cases(true, kCheck); }
TEST(FieldsEmulated, MatchesTheCpuInDouble) { elementwise::field_cases(true, kCheck); }

}  // namespace
}  // namespace boreas::test
