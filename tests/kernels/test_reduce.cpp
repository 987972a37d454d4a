#include "kernels/reduce/reduce.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

TEST(SumOfSquares, MatchesTheDefinition) {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const auto& [n, c] :
         {std::pair{0, 3}, std::pair{1, 1}, std::pair{7, 5}, std::pair{1, 100003}, std::pair{20000, 3}})
      for (const bool strided : {false, true}) {
        Workspace w;
        const Tensor x = strided ? w.random_strided(dtype, n, c) : w.random(dtype, {n, c}),
                     out = w.output(DType::f64, {1});
        run(w.ctx, SumOfSquares{.x = x, .out = out});
        const double expected = dot(x, x);
        EXPECT_NEAR(out.as<double>()[0], expected, 1e-12 * expected);
      }
}

TEST(CountNonFinite, CountsNansAndInfinities) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    Workspace w;
    const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
    const Tensor out = w.output(DType::i64, {1});
    run(w.ctx, CountNonFinite{.x = w.of(dtype, {2, 3}, {1, nan, -infinity, 1e30, infinity, 0}), .out = out});
    EXPECT_EQ(out.as<int64_t>()[0], 3);
    const Tensor many = w.filled(dtype, {1000, 50}, nan);
    run(w.ctx, CountNonFinite{.x = many.columns({3, 10}), .out = out});
    EXPECT_EQ(out.as<int64_t>()[0], 7000);
    run(w.ctx, CountNonFinite{.x = w.random(dtype, {1000, 50}), .out = out});
    EXPECT_EQ(out.as<int64_t>()[0], 0);
  }
}

TEST(Reduce, WrongUseIsNamed) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {4});
  BOREAS_EXPECT_ERROR(run(w.ctx, SumOfSquares{.x = x, .out = w.output(DType::f64, {2})}), shape, "must be one value");
  BOREAS_EXPECT_ERROR(run(w.ctx, SumOfSquares{.x = x, .out = w.output(DType::f32, {1})}), invalid_argument,
                      "out is f32 but must be f64");
  BOREAS_EXPECT_ERROR(run(w.ctx, CountNonFinite{.x = w.ids({1}), .out = w.output(DType::i64, {1})}), invalid_argument,
                      "x is i32");
}

}  // namespace
}  // namespace boreas::test
