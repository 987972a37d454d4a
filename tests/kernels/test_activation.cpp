#include "kernels/activation/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/core/vector_math.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::f64};
constexpr Gate kGates[] = {Gate::sigmoid, Gate::silu, Gate::gelu, Gate::relu};

double gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

double gate_value(Gate kind, double g) {
  switch (kind) {
    case Gate::sigmoid:
      return 1 / (1 + std::exp(-g));
    case Gate::silu:
      return g / (1 + std::exp(-g));
    case Gate::gelu:
      return gelu(g);
    case Gate::relu:
      return std::max(g, 0.0);
  }
  return 0;
}

TEST(VectorMath, ExponentialIsWithinTwoUlp) {
  double worst = 0;
  for (double x = -86.9; x < 88.7; x += 1.3e-4) {
    const double exact = std::exp(double(float(x)));
    const double ulp = std::nextafter(float(exact), std::numeric_limits<float>::infinity()) - float(exact);
    worst = std::max(worst, std::abs(vector_math::exp(float(x)) - exact) / ulp);
  }
  EXPECT_LE(worst, 2);
}

TEST(VectorMath, ExponentialAtItsEnds) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(vector_math::exp(0.0f), 1.0f);
  EXPECT_EQ(vector_math::exp(-kInfinity), 0.0f);
  EXPECT_EQ(vector_math::exp(-1000.0f), 0.0f);
  EXPECT_EQ(vector_math::exp(kInfinity), kInfinity);
  EXPECT_EQ(vector_math::exp(1000.0f), kInfinity);
  EXPECT_TRUE(std::isnan(vector_math::exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(VectorMath, NormalDistributionIsWithinAFewUlp) {
  double worst_cdf = 0, worst_density = 0;
  for (double x = -12; x < 12; x += 1.7e-5) {
    const auto exact = vector_math::normal(double(float(x)));
    const auto value = vector_math::normal(float(x));
    const double allowed = (1 + x * x) * 0x1p-24;  // the rounding of x^2 is in the exponent
    worst_cdf = std::max(worst_cdf, std::abs(value.cdf - exact.cdf) / exact.cdf / (x < 0 ? allowed : 0x1p-24));
    worst_density = std::max(worst_density, std::abs(value.density - exact.density) / exact.density / allowed);
  }
  EXPECT_LE(worst_cdf, 8);
  EXPECT_LE(worst_density, 8);
  EXPECT_EQ(vector_math::normal(40.0f).cdf, 1.0f);
  EXPECT_EQ(vector_math::normal(-40.0f).cdf, 0.0f);
  EXPECT_TRUE(std::isnan(vector_math::normal(std::numeric_limits<float>::quiet_NaN()).cdf));
}

TEST(Gelu, ForwardMatchesTheDefinition) {
  for (const DType dtype : kTypes)
    for (const auto& [n, c] :
         {std::pair{1, 1}, std::pair{7, 5}, std::pair{3, 10000}, std::pair{0, 4}, std::pair{1000, 33}}) {
      Workspace w;
      const Tensor x = w.random_strided(dtype, n, c, 2), y = w.output_strided(dtype, n, c);
      run(w.ctx, GeluForward{.x = x, .y = y});
      std::vector<double> expected = values_of(x);
      for (double& value : expected) value = gelu(value);
      expect_close(y, expected, 3e-7);
      w.expect_padding_untouched();
      const Tensor flat = w.copy_of(x);
      run(w.ctx, GeluForward{.x = flat, .y = flat});  // contiguous, in place
      expect_close(flat, expected, 3e-7);
    }
}

TEST(Gelu, BackwardMatchesFiniteDifferences) {
  Workspace w;
  const Tensor x = w.random_strided(DType::f64, 9, 7), y = w.output(DType::f64, {9, 7}),
               d_y = w.random(DType::f64, {9, 7});
  const Tensor d_x = w.output_strided(DType::f64, 9, 7);
  run(w.ctx, GeluBackward{.x = x, .d_y = d_y, .d_x = d_x});
  const auto loss = [&] {
    run(w.ctx, GeluForward{.x = x, .y = y});
    return dot(y, d_y);
  };
  expect_gradients(loss, {{"x", x, d_x}});
  w.expect_padding_untouched();
}

TEST(Gelu, BackwardMayWriteOverItsInputs) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {30, 1000}), d_y = w.random(DType::f32, {30, 1000}),
               d_x = w.output(DType::f32, {30, 1000});
  run(w.ctx, GeluBackward{.x = x, .d_y = d_y, .d_x = d_x});
  for (const bool over_x : {false, true}) {
    const Tensor a = w.copy_of(x), b = w.copy_of(d_y);
    run(w.ctx, GeluBackward{.x = a, .d_y = b, .d_x = over_x ? a : b});
    EXPECT_TRUE(identical(over_x ? a : b, d_x));
  }
}

TEST(Gelu, BackwardInSinglePrecisionMatchesDouble) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {40, 100}, 2), d_y = w.random(DType::f32, {40, 100}),
               d_x = w.output(DType::f32, {40, 100});
  const Tensor reference = w.output(DType::f64, {40, 100});
  run(w.ctx, GeluBackward{.x = x, .d_y = d_y, .d_x = d_x});
  run(w.ctx, GeluBackward{.x = w.copy_of(x, DType::f64), .d_y = w.copy_of(d_y, DType::f64), .d_x = reference});
  expect_close(d_x, reference, 5e-7);
}

TEST(Gated, ForwardMatchesTheDefinition) {
  for (const Gate kind : kGates)
    for (const DType dtype : kTypes) {
      Workspace w;
      const Tensor gate = w.random_strided(dtype, 21, 13, 2), value = w.random_strided(dtype, 21, 13),
                   y = w.output_strided(dtype, 21, 13);
      run(w.ctx, GatedForward{.kind = kind, .gate = gate, .value = value, .y = y});
      const std::vector<double> g = values_of(gate), v = values_of(value);
      std::vector<double> expected;
      for (size_t i = 0; i < g.size(); ++i) expected.push_back(gate_value(kind, g[i]) * v[i]);
      expect_close(y, expected, 5e-7);
      w.expect_padding_untouched();
    }
}

TEST(Gated, BackwardMatchesFiniteDifferences) {
  for (const Gate kind : kGates) {
    Workspace w;
    const Tensor gate = w.random_strided(DType::f64, 8, 5), value = w.random(DType::f64, {8, 5}),
                 y = w.output(DType::f64, {8, 5});
    for (int64_t i = 0; i < 8; ++i)  // away from the kink of relu
      for (int64_t j = 0; j < 5; ++j) gate.row<double>(i)[j] += gate.row<double>(i)[j] < 0 ? -0.1 : 0.1;
    const Tensor d_y = w.random(DType::f64, {8, 5}), d_gate = w.output_strided(DType::f64, 8, 5),
                 d_value = w.output(DType::f64, {8, 5});
    run(w.ctx,
        GatedBackward{.kind = kind, .gate = gate, .value = value, .d_y = d_y, .d_gate = d_gate, .d_value = d_value});
    const auto loss = [&] {
      run(w.ctx, GatedForward{.kind = kind, .gate = gate, .value = value, .y = y});
      return dot(y, d_y);
    };
    expect_gradients(loss, {{"gate", gate, d_gate}, {"value", value, d_value}});
    w.expect_padding_untouched();
  }
}

TEST(Gated, BackwardInSinglePrecisionMatchesDoubleAlsoInPlace) {
  for (const Gate kind : kGates) {
    Workspace w;
    const Tensor gate = w.random(DType::f32, {30, 50}), value = w.random(DType::f32, {30, 50}),
                 d_y = w.random(DType::f32, {30, 50});
    const Tensor g = w.copy_of(gate, DType::f64), v = w.copy_of(value, DType::f64), d = w.copy_of(d_y, DType::f64);
    const Tensor d_gate = w.output(DType::f64, {30, 50}), d_value = w.output(DType::f64, {30, 50});
    run(w.ctx, GatedBackward{.kind = kind, .gate = g, .value = v, .d_y = d, .d_gate = d_gate, .d_value = d_value});
    run(w.ctx, GatedBackward{.kind = kind, .gate = gate, .value = value, .d_y = d_y, .d_gate = gate, .d_value = d_y});
    expect_close(gate, d_gate, 5e-7);
    expect_close(d_y, d_value, 5e-7);
  }
}

TEST(Activation, WrongUseIsNamed) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {4, 6}), narrow = w.output(DType::f32, {4, 5});
  BOREAS_EXPECT_ERROR(run(w.ctx, GeluForward{.x = x, .y = narrow}), shape,
                      "gelu_forward: y is f32 [4, 5] but must be [4, 6]");
  BOREAS_EXPECT_ERROR(run(w.ctx, GeluBackward{.x = x, .d_y = x, .d_x = w.output(DType::f64, {4, 6})}), invalid_argument,
                      "d_x is f64 but must be f32");
  BOREAS_EXPECT_ERROR(run(w.ctx, GatedForward{.gate = x, .value = narrow, .y = x}), shape, "value is f32 [4, 5]");
  BOREAS_EXPECT_ERROR(run(w.ctx, GatedBackward{.gate = x, .value = x, .d_y = x, .d_gate = x, .d_value = x}),
                      invalid_argument, "must not be the same memory");
}

}  // namespace
}  // namespace boreas::test
