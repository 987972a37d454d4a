// The activation kernels of the GPU, run on the CPU.
#include <gtest/gtest.h>

#include "kernels/activation/activation_kernels.cuh"
#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

using cuda::activation::launch_activation;

TEST(ActivationEmulated, MatchesTheCpuInDouble) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [n, c] : {std::pair{3, 5}, std::pair{9, 64}, std::pair{5, 2304}})
      for (const Gate kind : {Gate::sigmoid, Gate::silu, Gate::gelu, Gate::relu}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << " " << n << " x " << c << " " << to_string(kind));
        Workspace w;
        const auto matrix = [&, n = n, c = c](double scale) {
          return w.random(dtype, {n, c + 16}, scale).columns({8, 8 + c});  // aligned, if c is a multiple of a vector
        };
        const Tensor gate = matrix(2), value = matrix(1), d_y = matrix(1), y = matrix(1), d_gate = matrix(1),
                     d_value = matrix(1);
        const auto exact = [&](const Tensor& t) { return w.copy_of(t, DType::f64); };
        const Tensor g = exact(gate), v = exact(value), d = exact(d_y), y_expected = exact(y),
                     d_gate_expected = exact(y), d_value_expected = exact(y);
        const auto expect_like = [&](const Tensor& actual, const Tensor& expected) {
          EXPECT_TRUE(close(actual, values_of(expected), dtype == DType::bf16 ? 3e-3 : 5e-7, 0));
        };
        launch_activation(GatedForward{.kind = kind, .gate = gate, .value = value, .y = y}, nullptr);
        launch_activation(
            GatedBackward{.kind = kind, .gate = gate, .value = value, .d_y = d_y, .d_gate = d_gate, .d_value = d_value},
            nullptr);
        run(w.ctx, GatedForward{.kind = kind, .gate = g, .value = v, .y = y_expected});
        run(w.ctx,
            GatedBackward{
                .kind = kind, .gate = g, .value = v, .d_y = d, .d_gate = d_gate_expected, .d_value = d_value_expected});
        expect_like(y, y_expected);
        expect_like(d_gate, d_gate_expected);
        expect_like(d_value, d_value_expected);
        if (kind != Gate::gelu) continue;
        launch_activation(GeluForward{.x = gate, .y = y}, nullptr);
        launch_activation(GeluBackward{.x = gate, .d_y = d_y, .d_x = d_y}, nullptr);
        run(w.ctx, GeluForward{.x = g, .y = y_expected});
        run(w.ctx, GeluBackward{.x = g, .d_y = d, .d_x = d});
        expect_like(y, y_expected);
        expect_like(d_y, d);
      }
}

}  // namespace
}  // namespace boreas::test
