#include "kernels/gather_rows/gather_rows.h"

#include <gtest/gtest.h>

#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

TEST(GatherRows, CopiesTheRowsThatAreNamed) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i32}) {
    Workspace w;
    const Tensor x = w.random_strided(dtype, 6, 3, 100), y = w.output_strided(dtype, 4, 3);
    run(w.ctx, GatherRows{.x = x, .ids = w.ids({5, 0, 0, 2}), .y = y});
    const int64_t from[] = {5, 0, 0, 2};
    for (int64_t i = 0; i < 4; ++i) EXPECT_TRUE(identical(y.slice({i, i + 1}), x.slice({from[i], from[i] + 1})));
    w.expect_padding_untouched();
  }
}

TEST(GatherRows, NoRowsAreFine) {
  Workspace w;
  run(w.ctx, GatherRows{.x = w.random(DType::f32, {6, 3}), .ids = w.ids({}), .y = w.output(DType::f32, {0, 3})});
  run(w.ctx, ScatterAddRows{.x = w.random(DType::f32, {0, 3}), .ids = w.ids({}), .y = w.output(DType::f32, {6, 3})});
}

TEST(ScatterAddRows, AddsAndLeavesOtherRowsAlone) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    Workspace w;
    const Tensor x = w.random_strided(dtype, 3, 4), y = w.random_strided(dtype, 5, 4);
    std::vector<double> expected = values_of(y);
    const std::vector<double> added = values_of(x);
    const int32_t ids[] = {4, 0, 2};
    for (int64_t i = 0; i < 3; ++i)
      for (int64_t c = 0; c < 4; ++c) expected[ids[i] * 4 + c] += added[i * 4 + c];
    run(w.ctx, ScatterAddRows{.x = x, .ids = w.ids({4, 0, 2}), .y = y});
    expect_close(y, expected);
    w.expect_padding_untouched();
  }
}

TEST(ScatterAddRows, IsTheAdjointOfGatherRows) {
  Workspace w;
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 300; ++i) ids.push_back((i * 7) % 1000);
  const Tensor x = w.random(DType::f64, {1000, 65}), y = w.output(DType::f64, {300, 65}),
               d_y = w.random(DType::f64, {300, 65});
  const Tensor d_x = w.filled(DType::f64, {1000, 65}, 0);
  run(w.ctx, GatherRows{.x = x, .ids = w.ids(ids), .y = y});
  run(w.ctx, ScatterAddRows{.x = d_y, .ids = w.ids(ids), .y = d_x});
  EXPECT_NEAR(dot(y, d_y), dot(x, d_x), 1e-9 * std::abs(dot(x, d_x)) + 1e-9);
}

TEST(GatherRows, WrongUseIsNamed) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {5, 2}), y = w.output(DType::f32, {2, 2});
  BOREAS_EXPECT_ERROR(run(w.ctx, GatherRows{.x = x, .ids = w.ids({0, 5}), .y = y}), invalid_argument,
                      "gather_rows: ids[1] is 5 but there are 5 rows");
  BOREAS_EXPECT_ERROR(run(w.ctx, ScatterAddRows{.x = y, .ids = w.ids({-1, 0}), .y = x}), invalid_argument,
                      "scatter_add_rows: ids[0] is -1");
  BOREAS_EXPECT_ERROR(run(w.ctx, GatherRows{.x = x, .ids = w.ids({0, 1, 2}), .y = y}), shape, "ids is i32 [3]");
  BOREAS_EXPECT_ERROR(run(w.ctx, GatherRows{.x = x, .ids = w.ids({0, 1}), .y = w.output(DType::f32, {2, 3})}), shape,
                      "their columns must agree");
  BOREAS_EXPECT_ERROR(run(w.ctx, GatherRows{.x = x, .ids = w.random(DType::f32, {2}), .y = y}), invalid_argument,
                      "ids is f32 but must be i32");
  BOREAS_EXPECT_ERROR(run(w.ctx, GatherRows{.x = x, .ids = w.ids({0, 1}), .y = w.output(DType::f64, {2, 2})}),
                      invalid_argument, "y is f64 but must be f32");
  const Tensor narrow = w.random(DType::bf16, {2, 2});
  BOREAS_EXPECT_ERROR(run(w.ctx, ScatterAddRows{.x = narrow, .ids = w.ids({0, 1}), .y = narrow}), invalid_argument,
                      "y is bf16 but must be f32");
  BOREAS_EXPECT_ERROR(run(w.ctx, ScatterAddRows{.x = narrow, .ids = w.ids({0, 1}), .y = x}), unsupported,
                      "not in bf16");
}

}  // namespace
}  // namespace boreas::test
