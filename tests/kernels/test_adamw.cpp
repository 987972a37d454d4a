#include "kernels/adamw/adamw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

// Algorithm 2 of Loshchilov and Hutter, in f64.
struct Reference {
  std::vector<double> value, first, second;
  void step(const AdamW& op, const std::vector<double>& grad) {
    for (size_t i = 0; i < value.size(); ++i) {
      double g = grad[i] * op.grad_scale;
      if (op.clip_value > 0) g = std::clamp(g, -op.clip_value, op.clip_value);
      first[i] = op.beta1 * first[i] + (1 - op.beta1) * g;
      second[i] = op.beta2 * second[i] + (1 - op.beta2) * g * g;
      const double m = first[i] / (1 - std::pow(op.beta1, op.step)), v = second[i] / (1 - std::pow(op.beta2, op.step));
      value[i] -= op.learning_rate * (m / (std::sqrt(v) + op.eps) + op.weight_decay * value[i]);
    }
  }
};

TEST(AdamW, FollowsTheAlgorithmForManySteps) {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const double clip : {0.0, 0.5}) {
      Workspace w;
      const int64_t size = 20001;
      AdamW op{.value = w.random(dtype, {size}),
               .first_moment = w.filled(dtype, {size}, 0),
               .second_moment = w.filled(dtype, {size}, 0),
               .learning_rate = 0.01,
               .clip_value = clip,
               .grad_scale = 0.5};
      Reference reference{values_of(op.value), std::vector<double>(size, 0), std::vector<double>(size, 0)};
      for (op.step = 1; op.step <= 5; ++op.step) {
        op.grad = w.random(dtype, {size});
        run(w.ctx, op);
        reference.step(op, values_of(op.grad));
      }
      expect_close(op.value, reference.value, 1e-6);
      expect_close(op.first_moment, reference.first, 1e-6);
      expect_close(op.second_moment, reference.second, 1e-6);
    }
}

TEST(AdamW, ZeroLearningRateMovesOnlyTheMoments) {
  Workspace w;
  const Tensor value = w.random(DType::f32, {100}), before = w.copy_of(value), first = w.filled(DType::f32, {100}, 0);
  run(w.ctx, AdamW{.value = value,
                   .grad = w.filled(DType::f32, {100}, 1),
                   .first_moment = first,
                   .second_moment = w.filled(DType::f32, {100}, 0),
                   .learning_rate = 0,
                   .beta1 = 0.75});
  EXPECT_TRUE(identical(value, before));
  EXPECT_EQ(first.as<float>()[7], 0.25f);
}

TEST(AdamW, ANanInTheGradientShows) {
  Workspace w;
  const Tensor value = w.random(DType::f32, {4}), grad = w.of(DType::f32, {4}, {1, NAN, 1, 1});
  run(w.ctx, AdamW{.value = value,
                   .grad = grad,
                   .first_moment = w.filled(DType::f32, {4}, 0),
                   .second_moment = w.filled(DType::f32, {4}, 0),
                   .clip_value = 32});
  EXPECT_TRUE(std::isnan(value.as<float>()[1]));
  EXPECT_FALSE(std::isnan(value.as<float>()[0]));
}

TEST(AdamW, WrongUseIsNamed) {
  Workspace w;
  const Tensor value = w.random(DType::f32, {4}), other = w.random(DType::f32, {5});
  const AdamW good{.value = value, .grad = value, .first_moment = value, .second_moment = value};
  AdamW op = good;
  op.grad = other;
  BOREAS_EXPECT_ERROR(run(w.ctx, op), shape, "adamw: grad is f32 [5] but must be [1, 4]");
  op = good;
  op.step = 0;
  BOREAS_EXPECT_ERROR(run(w.ctx, op), invalid_argument, "step is 0");
  op = good;
  op.beta2 = 1;
  BOREAS_EXPECT_ERROR(run(w.ctx, op), invalid_argument, "betas are 0.9 and 1");
  op = good;
  op.eps = 0;
  BOREAS_EXPECT_ERROR(run(w.ctx, op), invalid_argument, "eps is 0");
  op = good;
  op.first_moment = w.random(DType::f64, {4});
  BOREAS_EXPECT_ERROR(run(w.ctx, op), invalid_argument, "first_moment is f64 but must be f32");
}

}  // namespace
}  // namespace boreas::test
