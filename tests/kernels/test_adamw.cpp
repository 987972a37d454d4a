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

TEST(AdamW, ControlReplacesTheNumbers) {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const DType stored_type : {dtype, DType::bf16}) {
      if (accumulator_of(stored_type) != dtype) continue;
      Workspace w;
      const int64_t rows = 7, cols = 301;
      const AdamW by_numbers{.value = w.random_strided(dtype, rows, cols),
                             .grad = w.random(dtype, {rows, cols}),
                             .first_moment = w.filled(dtype, {rows, cols}, 0),
                             .second_moment = w.filled(dtype, {rows, cols}, 0),
                             .learning_rate = 0.0078125,
                             .beta1 = 0.75,
                             .beta2 = 0.875,
                             .step = 2,
                             .grad_scale = 0.5};
      AdamW by_control = by_numbers;
      for (Tensor* tensor : {&by_control.value, &by_control.first_moment, &by_control.second_moment})
        *tensor = w.copy_of(*tensor);
      by_control.stored = w.output(stored_type, {rows, cols});
      by_control.control = w.of(dtype, {4}, {0.0078125, 1 - 0.75 * 0.75, 1 - 0.875 * 0.875, 0.5});
      by_control.learning_rate = by_control.grad_scale = 77;
      by_control.step = 1234;
      run(w.ctx, by_numbers);
      run(w.ctx, by_control);
      EXPECT_TRUE(identical(by_control.value, by_numbers.value));
      EXPECT_TRUE(identical(by_control.first_moment, by_numbers.first_moment));
      EXPECT_TRUE(identical(by_control.second_moment, by_numbers.second_moment));
      EXPECT_TRUE(identical(by_control.stored, w.copy_of(by_control.value, stored_type)));
      w.expect_padding_untouched();
    }
}

TEST(AdamW, AScaleOfNanChangesNothing) {
  Workspace w;
  const Tensor value = w.random(DType::f32, {100}), before = w.copy_of(value);
  const Tensor first = w.filled(DType::f32, {100}, 0.5), stored = w.filled(DType::bf16, {100}, 3);
  run(w.ctx, AdamW{.value = value,
                   .grad = w.filled(DType::f32, {100}, NAN),
                   .first_moment = first,
                   .second_moment = w.filled(DType::f32, {100}, 0.5),
                   .stored = stored,
                   .control = w.of(DType::f32, {4}, {0.1, 0.1, 0.1, NAN})});
  EXPECT_TRUE(identical(value, before));
  EXPECT_EQ(values_of(first), std::vector<double>(100, 0.5));
  EXPECT_EQ(values_of(stored), std::vector<double>(100, 3));
}

TEST(ClipScale, LimitsTheNorm) {
  struct Row {
    double sum_of_squares, max_norm, base_scale, expected;
  };
  for (const Row& row : {Row{16, 2, 1, 0.5}, Row{16, 8, 1, 1}, Row{16, 0, 1, 1}, Row{16, 2, 0.25, 0.25},
                         Row{16, 0.5, 0.25, 0.125}, Row{0, 1, 1, 1}, Row{INFINITY, 1, 1, NAN}, Row{NAN, 0, 1, NAN}})
    for (const DType dtype : {DType::f32, DType::f64}) {
      Workspace w;
      const Tensor control = w.of(dtype, {4}, {1, 2, 3, 4});
      run(w.ctx, ClipScale{.sum_of_squares = w.of(DType::f64, {1}, {row.sum_of_squares}),
                           .max_norm = row.max_norm,
                           .base_scale = row.base_scale,
                           .control = control});
      expect_close(control, std::vector<double>{1, 2, 3, row.expected}, 0, 0);
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
  op = good;
  op.stored = w.random(DType::f64, {4});
  BOREAS_EXPECT_ERROR(run(w.ctx, op), invalid_argument, "stored is f64 but must be f32 or bf16");
  op = good;
  op.control = w.random(DType::f32, {3});
  BOREAS_EXPECT_ERROR(run(w.ctx, op), shape, "control is f32 [3] but must be 4 contiguous values");
  op = good;
  op.value = w.random(DType::bf16, {4});
  BOREAS_EXPECT_ERROR(run(w.ctx, op), invalid_argument, "value is bf16 but must be f32");
  const Tensor sum = w.of(DType::f64, {1}, {1});
  BOREAS_EXPECT_ERROR(run(w.ctx, ClipScale{.sum_of_squares = value, .control = value}), invalid_argument,
                      "sum_of_squares is f32 but must be f64");
  BOREAS_EXPECT_ERROR(run(w.ctx, ClipScale{.sum_of_squares = sum, .control = other}), shape, "control is f32 [5]");
  BOREAS_EXPECT_ERROR(run(w.ctx, ClipScale{.sum_of_squares = sum, .base_scale = 0, .control = value}), invalid_argument,
                      "base_scale is 0");
}

}  // namespace
}  // namespace boreas::test
