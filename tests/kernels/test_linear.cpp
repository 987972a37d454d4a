#include "kernels/linear/linear.h"

#include <gtest/gtest.h>

#include "kernels/core/vector_math.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

struct Sizes {
  int64_t n, k, m;
};
constexpr Sizes kSizes[] = {{1, 1, 1}, {7, 5, 3}, {130, 17, 33}, {3, 64, 1}, {257, 3, 130}, {0, 4, 5}};
constexpr DType kTypes[] = {DType::f32, DType::f64};

// The definition, in f64.
std::vector<double> dense(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  const std::vector<double> a = values_of(x), w = values_of(weight), b = values_of(bias), r = values_of(residual);
  std::vector<double> y;
  for (int64_t n = 0; n < x.rows(); ++n)
    for (int64_t m = 0; m < weight.rows(); ++m) {
      double sum = (b.empty() ? 0 : b[m]) + (r.empty() ? 0 : r[n * weight.rows() + m]);
      for (int64_t k = 0; k < x.cols(); ++k) sum += a[n * x.cols() + k] * w[m * x.cols() + k];
      y.push_back(sum);
    }
  return y;
}

TEST(Linear, ForwardMatchesTheDefinition) {
  for (const DType dtype : kTypes)
    for (const auto [n, k, m] : kSizes)
      for (const bool with_bias : {false, true})
        for (const bool with_residual : {false, true}) {
          Workspace w;
          const Tensor x = w.random_strided(dtype, n, k), weight = w.random(dtype, {m, k}),
                       y = w.output_strided(dtype, n, m);
          const Tensor bias = with_bias ? w.random(dtype, {m}) : Tensor();
          const Tensor residual = with_residual ? w.random_strided(dtype, n, m) : Tensor();
          run(w.ctx, LinearForward{.x = x, .weight = weight, .bias = bias, .residual = residual, .y = y});
          expect_close(y, dense(x, weight, bias, residual));
          w.expect_padding_untouched();
        }
}

TEST(Linear, PaddingOfXIsNotRead) {
  for (const DType dtype : kTypes) {
    Workspace w;
    constexpr int64_t kRows = 9, kIn = 13, kOut = 6;
    const Tensor padded = w.random(dtype, {kRows, padded_columns(kIn)}), x = padded.columns({0, kIn});
    const Tensor weight = w.random(dtype, {kOut, kIn}), d_y = w.random(dtype, {kRows, kOut});
    const Tensor y = w.output(dtype, {kRows, kOut}), expected = w.output(dtype, {kRows, kOut});
    const Tensor d_weight = w.filled(dtype, {kOut, kIn}, 0), d_expected = w.filled(dtype, {kOut, kIn}, 0);
    run(w.ctx, LinearForward{.x = x, .weight = weight, .y = expected});
    run(w.ctx, LinearForward{.x = padded, .weight = weight, .y = y});
    EXPECT_TRUE(identical(y, expected));
    run(w.ctx, LinearBackward{.x = x, .d_y = d_y, .d_weight = d_expected});
    run(w.ctx, LinearBackward{.x = padded, .d_y = d_y, .d_weight = d_weight});
    EXPECT_TRUE(identical(d_weight, d_expected));
  }
}

TEST(Linear, ResidualMayBeTheResult) {
  for (const bool with_bias : {false, true}) {
    Workspace w;
    const Tensor x = w.random(DType::f64, {9, 4}), weight = w.random(DType::f64, {6, 4}),
                 y = w.random(DType::f64, {9, 6});
    const Tensor bias = with_bias ? w.random(DType::f64, {6}) : Tensor();
    const std::vector<double> expected = dense(x, weight, bias, w.copy_of(y));
    run(w.ctx, LinearForward{.x = x, .weight = weight, .bias = bias, .residual = y, .y = y});
    expect_close(y, expected);
  }
}

TEST(Linear, RowSlicesOfAFusedWeightGiveColumnSlices) {
  Workspace w;
  const Tensor x = w.random(DType::f64, {5, 8}), weight = w.random(DType::f64, {12, 8});
  const Tensor whole = w.output(DType::f64, {5, 12}), parts = w.output(DType::f64, {5, 12});
  run(w.ctx, LinearForward{.x = x, .weight = weight, .y = whole});
  for (const Range rows : {Range{0, 4}, Range{4, 12}})
    run(w.ctx, LinearForward{.x = x, .weight = weight.slice(rows), .y = parts.columns(rows)});
  expect_close(parts, whole);
}

TEST(Linear, BackwardMatchesFiniteDifferences) {
  for (const auto [n, k, m] : {Sizes{7, 5, 3}, Sizes{130, 17, 6}, Sizes{1, 1, 1}}) {
    Workspace w;
    const Tensor x = w.random_strided(DType::f64, n, k), weight = w.random(DType::f64, {m, k}),
                 bias = w.random(DType::f64, {m});
    const Tensor residual = w.random(DType::f64, {n, m}), y = w.output(DType::f64, {n, m});
    const Tensor d_y = w.random_strided(DType::f64, n, m), d_x = w.output_strided(DType::f64, n, k);
    const Tensor d_weight = w.filled(DType::f64, {m, k}, 0), d_bias = w.filled(DType::f64, {m}, 0);
    run(w.ctx,
        LinearBackward{.x = x, .weight = weight, .d_y = d_y, .d_x = d_x, .d_weight = d_weight, .d_bias = d_bias});
    const auto loss = [&] {
      run(w.ctx, LinearForward{.x = x, .weight = weight, .bias = bias, .residual = residual, .y = y});
      return dot(y, d_y);
    };
    expect_gradients(
        loss, {{"x", x, d_x}, {"weight", weight, d_weight}, {"bias", bias, d_bias}, {"residual", residual, d_y}});
    w.expect_padding_untouched();
  }
}

TEST(Linear, FusedGeluMatchesTheDefinitionAndKeepsItsArgument) {
  for (const DType dtype : kTypes)
    for (const auto [n, k, m] : kSizes)
      for (const bool keep : {false, true}) {
        Workspace w;
        const Tensor x = w.random_strided(dtype, n, k), weight = w.random(dtype, {m, k}), bias = w.random(dtype, {m}),
                     y = w.output_strided(dtype, n, m), z = keep ? w.output_strided(dtype, n, m) : Tensor();
        run(w.ctx,
            LinearForward{
                .x = x, .weight = weight, .bias = bias, .activation = Activation::gelu, .pre_activation = z, .y = y});
        std::vector<double> expected = dense(x, weight, bias, {});
        if (keep) expect_close(z, expected);
        for (double& value : expected) value = vector_math::gelu(value);
        expect_close(y, expected);
        w.expect_padding_untouched();
      }
}

// Two layers with the activation between them: d_x of the second one is the gradient of the first one's z.
TEST(Linear, FusedGeluBackwardMatchesFiniteDifferences) {
  Workspace w;
  const Tensor x = w.random(DType::f64, {9, 4}), w1 = w.random(DType::f64, {6, 4}), w2 = w.random(DType::f64, {3, 6});
  const Tensor b1 = w.random(DType::f64, {6}), z = w.output_strided(DType::f64, 9, 6), h = w.output(DType::f64, {9, 6});
  const Tensor y = w.output(DType::f64, {9, 3}), d_y = w.random(DType::f64, {9, 3});
  const auto loss = [&] {
    run(w.ctx,
        LinearForward{.x = x, .weight = w1, .bias = b1, .activation = Activation::gelu, .pre_activation = z, .y = h});
    run(w.ctx, LinearForward{.x = h, .weight = w2, .y = y});
    return dot(y, d_y);
  };
  loss();
  const Tensor d_z = w.output_strided(DType::f64, 9, 6), d_x = w.output(DType::f64, {9, 4});
  const Tensor d_w1 = w.filled(DType::f64, {6, 4}, 0), d_b1 = w.filled(DType::f64, {6}, 0),
               d_w2 = w.filled(DType::f64, {3, 6}, 0);
  run(w.ctx, LinearBackward{.x = h, .weight = w2, .d_y = d_y, .pre_activation = z, .d_x = d_z, .d_weight = d_w2});
  run(w.ctx, LinearBackward{.x = x, .weight = w1, .d_y = d_z, .d_x = d_x, .d_weight = d_w1, .d_bias = d_b1});
  expect_gradients(loss, {{"x", x, d_x}, {"w1", w1, d_w1}, {"b1", b1, d_b1}, {"w2", w2, d_w2}});
  w.expect_padding_untouched();
}

TEST(Linear, BackwardInSinglePrecisionMatchesDouble) {
  for (const auto [n, k, m] : kSizes) {
    Workspace w;
    const Tensor x = w.random(DType::f32, {n, k}), weight = w.random(DType::f32, {m, k}),
                 d_y = w.random(DType::f32, {n, m});
    const auto gradients = [&](DType dtype) {
      std::vector<Tensor> d{w.output(dtype, {n, k}), w.filled(dtype, {m, k}, 0), w.filled(dtype, {m}, 0)};
      run(w.ctx, LinearBackward{.x = w.copy_of(x, dtype),
                                .weight = w.copy_of(weight, dtype),
                                .d_y = w.copy_of(d_y, dtype),
                                .d_x = d[0],
                                .d_weight = d[1],
                                .d_bias = d[2]});
      return d;
    };
    const std::vector<Tensor> single = gradients(DType::f32), reference = gradients(DType::f64);
    for (int i = 0; i < 3; ++i) expect_close(single[i], reference[i]);
  }
}

TEST(Linear, ParameterGradientsAccumulateAndInputGradientsOnRequest) {
  Workspace w;
  const Tensor x = w.random(DType::f64, {70, 4}), weight = w.random(DType::f64, {3, 4}),
               d_y = w.random(DType::f64, {70, 3});
  const Tensor d_x = w.output(DType::f64, {70, 4}), d_weight = w.filled(DType::f64, {3, 4}, 0),
               d_bias = w.filled(DType::f64, {3}, 0);
  LinearBackward op{.x = x, .weight = weight, .d_y = d_y, .d_x = d_x, .d_weight = d_weight, .d_bias = d_bias};
  run(w.ctx, op);
  std::vector<double> once_x = values_of(d_x), once_weight = values_of(d_weight), once_bias = values_of(d_bias);
  run(w.ctx, op);
  expect_close(d_x, once_x);
  op.accumulate_d_x = true;
  run(w.ctx, op);
  for (double& value : once_x) value *= 2;
  for (double& value : once_weight) value *= 3;
  for (double& value : once_bias) value *= 3;
  expect_close(d_x, once_x);
  expect_close(d_weight, once_weight);
  expect_close(d_bias, once_bias);
}

TEST(Linear, UnwantedGradientsNeedNoInputs) {
  Workspace w;
  const Tensor weight = w.random(DType::f64, {3, 4}), d_y = w.random(DType::f64, {7, 3}),
               d_x = w.output(DType::f64, {7, 4});
  run(w.ctx, LinearBackward{.weight = weight, .d_y = d_y, .d_x = d_x});
  const Tensor transposed = w.output(DType::f64, {4, 3});
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t j = 0; j < 3; ++j) transposed.row<double>(i)[j] = weight.row<double>(j)[i];
  expect_close(d_x, dense(d_y, transposed, {}, {}));
}

TEST(Linear, IsRepeatable) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {1000, 33}), weight = w.random(DType::f32, {65, 33}),
               d_y = w.random(DType::f32, {1000, 65});
  const auto gradients = [&] {
    std::vector<Tensor> d{w.output(DType::f32, {1000, 65}), w.output(DType::f32, {1000, 33}),
                          w.filled(DType::f32, {65, 33}, 0), w.filled(DType::f32, {65}, 0)};
    run(w.ctx, LinearForward{.x = x, .weight = weight, .y = d[0]});
    run(w.ctx, LinearBackward{.x = x, .weight = weight, .d_y = d_y, .d_x = d[1], .d_weight = d[2], .d_bias = d[3]});
    return d;
  };
  const std::vector<Tensor> first = gradients(), second = gradients();
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(identical(first[i], second[i]));
}

TEST(Linear, PlansTheScratchThatItUses) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {500, 8}), weight = w.random(DType::f32, {6, 8}),
               d_y = w.random(DType::f32, {500, 6});
  const LinearBackward op{.x = x,
                          .weight = weight,
                          .d_y = d_y,
                          .d_x = w.output(DType::f32, {500, 8}),
                          .d_weight = w.filled(DType::f32, {6, 8}, 0),
                          .d_bias = w.filled(DType::f32, {6}, 0)};
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  run(plan, op);
  run(w.ctx, op);
  EXPECT_EQ(counting.peak_bytes(), w.ctx.arena().peak_bytes());
  EXPECT_GT(counting.peak_bytes(), 0);
}

TEST(Linear, WrongUseIsNamed) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {5, 4}), weight = w.random(DType::f32, {3, 4}),
               y = w.output(DType::f32, {5, 3});
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearForward{.x = x, .weight = w.random(DType::f32, {3, 6}), .y = y}), shape,
                      "weight f32 [3, 6] has 6 inputs but x is f32 [5, 4]");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearForward{.x = x, .weight = weight, .y = w.output(DType::f32, {4, 3})}), shape,
                      "y is f32 [4, 3] but must be [5, 3]");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearForward{.x = x, .weight = weight, .bias = w.random(DType::f32, {4}), .y = y}),
                      shape, "bias is f32 [4] but must be 3 contiguous values");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearForward{.x = x, .weight = w.random(DType::f64, {3, 4}), .y = y}),
                      invalid_argument, "weight is f64 but must be f32");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearForward{.x = x, .weight = weight}), invalid_argument, "y is required");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearBackward{.d_y = y, .d_x = x}), invalid_argument, "weight is required");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearBackward{.x = x, .d_y = y, .d_weight = w.output(DType::f32, {4, 4})}), shape,
                      "d_weight is f32 [4, 4] but must be [3, 4]");
  BOREAS_EXPECT_ERROR(
      run(w.ctx, LinearForward{.x = x, .weight = weight, .residual = y, .activation = Activation::gelu, .y = y}),
      invalid_argument, "a residual cannot be added to an activation");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearForward{.x = x, .weight = weight, .pre_activation = y, .y = y}),
                      invalid_argument, "there is no activation");
  BOREAS_EXPECT_ERROR(
      run(w.ctx, LinearForward{.x = x, .weight = weight, .activation = Activation::gelu, .pre_activation = y, .y = y}),
      invalid_argument, "must not be the same memory");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearForward{.x = x, .weight = weight, .y = w.output(DType::f64, {5, 3})}),
                      invalid_argument, "y is f64 but must be f32");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearForward{.x = w.output(DType::bf16, {5, 4}),
                                               .weight = w.output(DType::bf16, {3, 4}),
                                               .y = w.output(DType::f64, {5, 3})}),
                      invalid_argument, "y is f64 but must be bf16 or f32");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearBackward{.weight = weight,
                                                .d_y = y,
                                                .pre_activation = x,
                                                .d_x = w.output(DType::f32, {5, 4}),
                                                .accumulate_d_x = true}),
                      invalid_argument, "pre_activation needs a d_x");
  BOREAS_EXPECT_ERROR(run(w.ctx, LinearForward{.x = w.output(DType::bf16, {5, 4}),
                                               .weight = w.output(DType::bf16, {3, 4}),
                                               .y = w.output(DType::bf16, {5, 3})}),
                      unsupported, "f32 or f64");
}

}  // namespace
}  // namespace boreas::test
