#include "kernels/layer_norm/layer_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

struct Sizes {
  int64_t n, c, groups;
};
constexpr Sizes kSizes[] = {{1, 1, 1}, {7, 5, 1}, {33, 130, 1}, {6, 24, 4}, {200, 16, 16}, {0, 8, 2}, {300, 1024, 1}};

std::vector<double> dense(const Tensor& x, const Tensor& gamma, const Tensor& beta, int64_t groups, double eps) {
  const std::vector<double> a = values_of(x), g = values_of(gamma), b = values_of(beta);
  const int64_t width = x.cols() / groups;
  std::vector<double> y;
  for (int64_t s = 0; s < x.rows() * groups; ++s) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < width; ++c) mean += a[s * width + c] / double(width);
    for (int64_t c = 0; c < width; ++c) variance += std::pow(a[s * width + c] - mean, 2) / double(width);
    for (int64_t c = 0; c < width; ++c)
      y.push_back(g[c] * (a[s * width + c] - mean) / std::sqrt(variance + eps) + (b.empty() ? 0 : b[c]));
  }
  return y;
}

TEST(LayerNorm, ForwardMatchesTheDefinition) {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const auto [n, c, groups] : kSizes)
      for (const bool with_beta : {false, true}) {
        Workspace w;
        const Tensor x = w.random_strided(dtype, n, c), gamma = w.random(dtype, {c / groups}),
                     y = w.output_strided(dtype, n, c);
        const Tensor beta = with_beta ? w.random(dtype, {c / groups}) : Tensor();
        const Tensor stats = w.output(accumulator_of(dtype), {n * groups, 2});
        run(w.ctx, LayerNormForward{
                       .x = x, .gamma = gamma, .beta = beta, .groups = groups, .eps = 1e-3, .y = y, .stats = stats});
        expect_close(y, dense(x, gamma, beta, groups, 1e-3), 2e-6, 1e-13, 1e-3);
        w.expect_padding_untouched();
      }
}

TEST(LayerNorm, LargeMeansDoNotCancel) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {20, 256}), gamma = w.filled(DType::f32, {256}, 1),
               y = w.output(DType::f32, {20, 256});
  for (int64_t i = 0; i < x.size(); ++i) x.as<float>()[i] += 512;  // exact: x is a multiple of 2^-12
  run(w.ctx, LayerNormForward{.x = x, .gamma = gamma, .y = y, .stats = w.output(DType::f32, {20, 2})});
  expect_close(y, dense(x, gamma, {}, 1, 1e-5), 1e-4);
}

TEST(LayerNorm, ResultMayBeTheInput) {
  Workspace w;
  const Tensor x = w.random(DType::f64, {5, 12}), gamma = w.random(DType::f64, {6});
  const std::vector<double> expected = dense(x, gamma, {}, 2, 1e-5);
  run(w.ctx, LayerNormForward{.x = x, .gamma = gamma, .groups = 2, .y = x, .stats = w.output(DType::f64, {10, 2})});
  expect_close(x, expected);
}

TEST(LayerNorm, BackwardMatchesFiniteDifferences) {
  for (const auto [n, c, groups] : {Sizes{7, 5, 1}, Sizes{6, 24, 4}, Sizes{130, 9, 3}}) {
    Workspace w;
    const Tensor x = w.random_strided(DType::f64, n, c), gamma = w.random(DType::f64, {c / groups});
    const Tensor beta = w.random(DType::f64, {c / groups});
    const Tensor y = w.output(DType::f64, {n, c}), stats = w.output(DType::f64, {n * groups, 2});
    const Tensor d_y = w.random_strided(DType::f64, n, c), d_residual = w.random(DType::f64, {n, c});
    const auto loss = [&] {
      run(w.ctx,
          LayerNormForward{.x = x, .gamma = gamma, .beta = beta, .groups = groups, .eps = 0.5, .y = y, .stats = stats});
      return dot(y, d_y) + dot(x, d_residual);  // x also goes on as it is
    };
    loss();
    const Tensor d_x = w.output_strided(DType::f64, n, c), d_gamma = w.filled(DType::f64, {c / groups}, 0);
    const Tensor d_beta = w.filled(DType::f64, {c / groups}, 0);
    run(w.ctx, LayerNormBackward{.x = x,
                                 .gamma = gamma,
                                 .stats = stats,
                                 .groups = groups,
                                 .d_y = d_y,
                                 .d_residual = d_residual,
                                 .d_x = d_x,
                                 .d_gamma = d_gamma,
                                 .d_beta = d_beta});
    expect_gradients(loss, {{"x", x, d_x}, {"gamma", gamma, d_gamma}, {"beta", beta, d_beta}});
    w.expect_padding_untouched();
  }
}

// Everything that backward can be asked for, in one place, so that variants can be compared with it.
struct Case {
  Tensor x, gamma, stats, d_y, d_residual;
  int64_t groups;
  LayerNormBackward op(const Tensor& d_x, const Tensor& d_gamma, const Tensor& d_beta) const {
    return {.x = x,
            .gamma = gamma,
            .stats = stats,
            .groups = groups,
            .d_y = d_y,
            .d_residual = d_residual,
            .d_x = d_x,
            .d_gamma = d_gamma,
            .d_beta = d_beta};
  }
};

Case make_case(Workspace& w, DType dtype, Sizes sizes) {
  const auto [n, c, groups] = sizes;
  Case out{w.copy_of(w.random(DType::f32, {n, c}), dtype),
           w.copy_of(w.random(DType::f32, {c / groups}), dtype),
           w.output(dtype, {n * groups, 2}),
           w.copy_of(w.random(DType::f32, {n, c}), dtype),
           w.copy_of(w.random(DType::f32, {n, c}), dtype),
           groups};
  run(w.ctx, LayerNormForward{
                 .x = out.x, .gamma = out.gamma, .groups = groups, .y = w.output(dtype, {n, c}), .stats = out.stats});
  return out;
}

TEST(LayerNorm, BackwardInSinglePrecisionMatchesDouble) {
  for (const Sizes sizes : {Sizes{300, 64, 1}, Sizes{50, 32, 2}, Sizes{0, 8, 1}}) {
    std::vector<std::vector<double>> of_type;
    Workspace single(3), reference(3);
    std::vector<Tensor> results[2];
    for (const DType dtype : {DType::f32, DType::f64}) {
      Workspace& w = dtype == DType::f32 ? single : reference;
      const Case c = make_case(w, dtype, sizes);
      const int64_t width = sizes.c / sizes.groups;
      std::vector<Tensor>& d = results[dtype == DType::f64];
      d = {w.output(dtype, {sizes.n, sizes.c}), w.filled(dtype, {width}, 1), w.filled(dtype, {width}, 1)};
      run(w.ctx, c.op(d[0], d[1], d[2]));
    }
    for (int i = 0; i < 3; ++i) expect_close(results[0][i], results[1][i]);
  }
}

TEST(LayerNorm, BackwardGivesTheResultAgain) {
  Workspace w;
  const Case c = make_case(w, DType::f64, {40, 12, 3});
  const Tensor beta = w.random(DType::f64, {4}), y = w.output(DType::f64, {40, 12}),
               d_x = w.output(DType::f64, {40, 12});
  run(w.ctx,
      LayerNormForward{
          .x = c.x, .gamma = c.gamma, .beta = beta, .groups = 3, .y = y, .stats = w.output(DType::f64, {120, 2})});
  LayerNormBackward op = c.op(d_x, {}, {});
  op.beta = beta;
  op.y = c.d_y;
  run(w.ctx, op);
  expect_close(c.d_y, y);
  op.y = d_x;
  BOREAS_EXPECT_ERROR(run(w.ctx, op), invalid_argument, "y and d_x must not be the same memory");
}

TEST(LayerNorm, BackwardMayWriteOverItsInputs) {
  for (const bool over_residual : {false, true}) {
    Workspace w;
    const Case c = make_case(w, DType::f64, {40, 12, 3});
    const Tensor d_x = w.output(DType::f64, {40, 12}), d_gamma = w.filled(DType::f64, {4}, 0),
                 again = w.filled(DType::f64, {4}, 0);
    run(w.ctx, c.op(d_x, d_gamma, {}));
    const Tensor target = over_residual ? c.d_residual : c.d_y;
    run(w.ctx, c.op(target, again, {}));
    EXPECT_TRUE(identical(target, d_x));
    EXPECT_TRUE(identical(again, d_gamma));
  }
}

TEST(LayerNorm, ParameterGradientsAccumulateAndAreOptional) {
  Workspace w;
  const Case c = make_case(w, DType::f64, {150, 6, 1});
  const Tensor d_x = w.output(DType::f64, {150, 6}), d_gamma = w.filled(DType::f64, {6}, 0),
               d_beta = w.filled(DType::f64, {6}, 0);
  run(w.ctx, c.op(d_x, d_gamma, {}));
  run(w.ctx, c.op(d_x, {}, d_beta));
  run(w.ctx, c.op(d_x, {}, {}));
  std::vector<double> twice_gamma = values_of(d_gamma), twice_beta = values_of(d_beta);
  for (double& value : twice_gamma) value *= 2;
  for (double& value : twice_beta) value *= 2;
  run(w.ctx, c.op(d_x, d_gamma, d_beta));
  expect_close(d_gamma, twice_gamma);
  expect_close(d_beta, twice_beta);
  std::vector<double> column_sums(6, 0);
  for (int64_t i = 0; i < c.d_y.size(); ++i) column_sums[i % 6] += 2 * c.d_y.as<double>()[i];
  expect_close(d_beta, column_sums);
}

TEST(LayerNorm, PlansTheScratchThatItUses) {
  Workspace w;
  const Case c = make_case(w, DType::f32, {500, 16, 2});
  const LayerNormBackward op = c.op(w.output(DType::f32, {500, 16}), w.filled(DType::f32, {8}, 0), {});
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  w.ctx.arena().reset_peak();
  run(plan, op);
  run(w.ctx, op);
  EXPECT_EQ(counting.peak_bytes(), w.ctx.arena().peak_bytes());
  EXPECT_GT(counting.peak_bytes(), 0);
}

TEST(LayerNorm, WrongUseIsNamed) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {4, 6}), gamma = w.random(DType::f32, {6}), y = w.output(DType::f32, {4, 6});
  const Tensor stats = w.output(DType::f32, {4, 2});
  BOREAS_EXPECT_ERROR(run(w.ctx, LayerNormForward{.x = x, .gamma = w.random(DType::f32, {5}), .y = y, .stats = stats}),
                      shape, "gamma has 5 channels but x is f32 [4, 6]");
  BOREAS_EXPECT_ERROR(run(w.ctx, LayerNormForward{.x = x, .gamma = gamma, .groups = 4, .y = y, .stats = stats}),
                      invalid_argument, "4 equal groups");
  BOREAS_EXPECT_ERROR(run(w.ctx, LayerNormForward{.x = x, .gamma = gamma, .eps = 0, .y = y, .stats = stats}),
                      invalid_argument, "eps is 0 but must be positive");
  BOREAS_EXPECT_ERROR(
      run(w.ctx, LayerNormForward{.x = x, .gamma = gamma, .y = y, .stats = w.output(DType::f32, {3, 2})}), shape,
      "stats is f32 [3, 2] but must be [4, 2]");
  BOREAS_EXPECT_ERROR(
      run(w.ctx, LayerNormForward{.x = x, .gamma = gamma, .y = y, .stats = w.output(DType::f64, {4, 2})}),
      invalid_argument, "stats is f64 but must be f32");
  BOREAS_EXPECT_ERROR(
      run(w.ctx,
          LayerNormBackward{.x = x, .gamma = gamma, .stats = stats, .d_y = y, .d_x = w.output(DType::f32, {4, 5})}),
      shape, "d_x is f32 [4, 5] but must be [4, 6]");
  BOREAS_EXPECT_ERROR(
      run(w.ctx,
          LayerNormBackward{
              .x = x, .gamma = gamma, .stats = stats, .d_y = y, .d_x = y, .d_gamma = w.output(DType::f32, {5})}),
      shape, "d_gamma is f32 [5]");
}

}  // namespace
}  // namespace boreas::test
