#include "engine/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

TEST(LearningRate, WarmsUpFromZeroThenFollowsACosineThatIsNotShifted) {
  const LearningRateConfig config{.peak = 1, .minimum = 0.1, .warmup_steps = 10, .decay_steps = 100};
  EXPECT_EQ(learning_rate_at(config, 100, 0), 0);
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 100, 5), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 100, 10), 0.1 + 0.45 * (1 + std::cos(std::numbers::pi * 0.1)));
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 100, 50), 0.55);
  EXPECT_EQ(learning_rate_at(config, 100, 100), 0.1);
  EXPECT_EQ(learning_rate_at(config, 100, 5000), 0.1);
}

struct Parts {
  explicit Parts(const TrainingConfig& config) : store(DType::f64), optimizer(config, store) {
    store.materialise(3);
    optimizer.materialise();
  }
  // The optimizer lays its state out like the store: parameters come first.
  struct Store : ParameterStore {
    explicit Store(DType dtype) : ParameterStore(dtype) {
      add("a", {3, 2}, Init::ones());
      add("b", {5}, Init::ones());
    }
  };
  void set_gradient(double value) {
    store.for_each([&](const std::string&, Tensor, Tensor grad) { test::fill(grad, value); });
  }
  /// Returns the norm of the gradient.
  double update(int64_t step, double learning_rate) {
    const Tensor values = workspace.output(DType::f64, {Optimizer::kControlSize}),
                 sum = workspace.output(DType::f64, {1});
    fill_from_host(values, optimizer.control_values(step, learning_rate));
    optimizer.update(workspace.ctx, {values, sum});
    return std::sqrt(*sum.as<double>());
  }
  double first_value() { return store.flat_values().as<double>()[0]; }
  Store store;
  Optimizer optimizer;
  test::Workspace workspace;
};

TEST(Optimizer, FirstUpdateIsTheLearningRateAndDecay) {
  TrainingConfig config;
  Parts parts(config);
  parts.set_gradient(4);
  const double norm = parts.update(1, 0.1);
  EXPECT_DOUBLE_EQ(norm, 4 * std::sqrt(11.0));
  EXPECT_NEAR(parts.first_value(), (1 - 0.1 * 0.01) - 0.1, 1e-8);
}

TEST(Optimizer, ClipsByValueOrByNorm) {
  for (const auto& [kind, clipped] : {std::pair{ClipKind::value, 2.0}, std::pair{ClipKind::norm, 2 / std::sqrt(11.0)},
                                      std::pair{ClipKind::none, 100.0}}) {
    TrainingConfig config;
    config.clip = {kind, 2};
    Parts parts(config);
    parts.set_gradient(100);
    EXPECT_DOUBLE_EQ(parts.update(1, 0.1), 100 * std::sqrt(11.0));
    EXPECT_NEAR(parts.optimizer.first_moment().as<double>()[0], 0.1 * clipped, 1e-12) << to_string(kind);
  }
}

TEST(Optimizer, LeavesEverythingWhenTheGradientIsNotFinite) {
  Parts parts(TrainingConfig{});
  parts.set_gradient(NAN);
  EXPECT_FALSE(std::isfinite(parts.update(1, 0.1)));
  EXPECT_EQ(parts.first_value(), 1);
  EXPECT_EQ(parts.optimizer.first_moment().as<double>()[0], 0);
}

TEST(Optimizer, AverageFollowsTheWeightsAndIsLentToValidation) {
  TrainingConfig config;
  config.ema_decay = 0.75;
  Parts parts(config);
  parts.set_gradient(4);
  parts.update(1, 0.1);
  const double value = parts.first_value(), average = parts.optimizer.average().as<double>()[0];
  EXPECT_NEAR(average, 0.75 * 1 + 0.25 * value, 1e-15);
  double seen = 0;
  parts.optimizer.with_average(parts.workspace.ctx, [&] { seen = parts.first_value(); });
  EXPECT_EQ(seen, average);
  EXPECT_EQ(parts.first_value(), value);
}

}  // namespace
}  // namespace boreas
