#include "kernels/bounding/bounding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/elementwise/elementwise.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

constexpr int32_t kColumns[] = {3, 1};
constexpr double kOffsets[] = {-0.3125, 0.5};

BoundingRule rule_of(BoundingKind kind) {
  return {.kind = kind, .columns = kColumns, .minimum = -0.5, .maximum = 0.75, .offsets = kOffsets, .total_column = 2};
}

// The table of formulas, written down apart from the implementation.
double bounded(BoundingKind kind, double x, double m, double total) {
  const auto leaky = [](double z) { return z > 0 ? z : 0.01 * z; };
  const auto hardtanh = [](double z) { return std::clamp(z, -0.5, 0.75); };
  const auto leaky_hardtanh = [](double z) {
    return z < -0.5 ? -0.5 + 0.01 * (z + 0.5) : z > 0.75 ? 0.75 + 0.01 * (z - 0.75) : z;
  };
  switch (kind) {
    case BoundingKind::relu:
      return std::max(x, 0.0);
    case BoundingKind::leaky_relu:
      return leaky(x);
    case BoundingKind::normalized_relu:
      return std::max(x - m, 0.0) + m;
    case BoundingKind::normalized_leaky_relu:
      return leaky(x - m) + m;
    case BoundingKind::hardtanh:
      return hardtanh(x);
    case BoundingKind::leaky_hardtanh:
      return leaky_hardtanh(x);
    case BoundingKind::fraction:
      return hardtanh(x) * total;
    case BoundingKind::leaky_fraction:
      return leaky_hardtanh(x) * total;
  }
  return 0;
}

TEST(Bounding, ForwardMatchesTheFormulas) {
  for (const auto& [kind, name] : EnumNames<BoundingKind>::values)
    for (const DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(name);
      Workspace w;
      const Tensor y = w.random_strided(dtype, 60, 4);
      std::vector<double> expected = values_of(y);
      for (int64_t i = 0; i < 60; ++i)
        for (int k = 0; k < 2; ++k) {
          double& value = expected[i * 4 + kColumns[k]];
          value = bounded(kind, value, kOffsets[k], expected[i * 4 + 2]);
        }
      run(w.ctx, BoundingForward{.rule = rule_of(kind), .y = y});
      expect_close(y, expected, 1e-7);
      w.expect_padding_untouched();
    }
}

TEST(Bounding, BackwardMatchesFiniteDifferences) {
  for (const auto& [kind, name] : EnumNames<BoundingKind>::values) {
    SCOPED_TRACE(name);
    Workspace w;
    const BoundingRule rule = rule_of(kind);
    const Tensor x = w.random(DType::f64, {25, 4}), y = w.output(DType::f64, {25, 4}),
                 upstream = w.random(DType::f64, {25, 4});
    for (int64_t i = 0; i < 25; ++i)
      for (int k = 0; k < 2; ++k)  // away from the kinks
        for (const double kink : {0.0, kOffsets[k], -0.5, 0.75}) {
          double& value = x.row<double>(i)[kColumns[k]];
          if (std::abs(value - kink) < 0.03) value = kink + 0.04;
        }
    const int64_t num_saved = rule.num_saved_columns();
    const int32_t saved[] = {3, 1, 2}, positions[] = {0, 1, 2};
    const Tensor before = w.output_strided(DType::f64, 25, num_saved), d_x = w.random_strided(DType::f64, 25, 4);
    run(w.ctx, CopyColumns{.x = x,
                           .x_columns = std::span(saved).first(num_saved),
                           .y = before,
                           .y_columns = std::span(positions).first(num_saved)});
    run(w.ctx, Copy{.x = upstream, .y = d_x});
    run(w.ctx, BoundingBackward{.rule = rule, .y_before = before, .d_y = d_x});
    const auto loss = [&] {
      run(w.ctx, Copy{.x = x, .y = y});
      run(w.ctx, BoundingForward{.rule = rule, .y = y});
      return dot(y, upstream);
    };
    expect_gradients(loss, {{"y before", x, d_x}});
    w.expect_padding_untouched();
  }
}

TEST(Bounding, SlopesAtTheBoundsAreThoseOutside) {
  Workspace w;
  const int32_t columns[] = {0};
  const auto slope_at = [&](BoundingKind kind, double x) {
    const Tensor d_y = w.filled(DType::f64, {1, 1}, 1);
    run(w.ctx, BoundingBackward{.rule = {.kind = kind, .columns = columns, .minimum = -1, .maximum = 1},
                                .y_before = w.filled(DType::f64, {1, 1}, x),
                                .d_y = d_y});
    return d_y.as<double>()[0];
  };
  EXPECT_EQ(slope_at(BoundingKind::relu, 0), 0);
  EXPECT_EQ(slope_at(BoundingKind::leaky_relu, 0), 0.01);
  EXPECT_EQ(slope_at(BoundingKind::hardtanh, -1), 0);
  EXPECT_EQ(slope_at(BoundingKind::hardtanh, 1), 0);
  EXPECT_EQ(slope_at(BoundingKind::hardtanh, 0.5), 1);
  EXPECT_EQ(slope_at(BoundingKind::leaky_hardtanh, 2), 0.01);
}

TEST(Bounding, WrongUseIsNamed) {
  Workspace w;
  const Tensor y = w.random(DType::f32, {3, 4});
  const int32_t far[] = {4}, twice[] = {1, 1}, one[] = {1};
  BOREAS_EXPECT_ERROR(run(w.ctx, BoundingForward{.rule = {.columns = far}, .y = y}), invalid_argument,
                      "columns[0] is 4 but there are 4 of them");
  BOREAS_EXPECT_ERROR(run(w.ctx, BoundingForward{.rule = {.columns = twice}, .y = y}), invalid_argument,
                      "1 more than once");
  BOREAS_EXPECT_ERROR(
      run(w.ctx, BoundingForward{.rule = {.kind = BoundingKind::normalized_relu, .columns = one}, .y = y}),
      invalid_argument, "normalized_relu needs one offset a column: 0 for 1");
  BOREAS_EXPECT_ERROR(
      run(w.ctx, BoundingForward{.rule = {.kind = BoundingKind::hardtanh, .columns = one, .minimum = 2}, .y = y}),
      invalid_argument, "the minimum 2 is above the maximum 1");
  BOREAS_EXPECT_ERROR(run(w.ctx, BoundingForward{.rule = {.kind = BoundingKind::fraction, .columns = one}, .y = y}),
                      invalid_argument, "fraction needs a total column in [0, 4), not -1");
  BOREAS_EXPECT_ERROR(
      run(w.ctx, BoundingForward{.rule = {.kind = BoundingKind::fraction, .columns = one, .total_column = 1}, .y = y}),
      invalid_argument, "column 1 is both bounded and the total");
  BOREAS_EXPECT_ERROR(
      run(w.ctx, BoundingBackward{.rule = {.columns = one}, .y_before = w.random(DType::f32, {3, 2}), .d_y = y}), shape,
      "y_before is f32 [3, 2] but must be [3, 1]");
}

}  // namespace
}  // namespace boreas::test
