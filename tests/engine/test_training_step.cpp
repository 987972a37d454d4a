// Updates that are queued and collected later.
#include "engine/training_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "tests/engine/tiny_run.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

struct Steps {
  explicit Steps(const RunConfig& config)
      : step(test::tiny_setup(config), Device::cpu()), arena(slab()), ctx(Device::cpu(), arena) {}
  Buffer slab() {
    const Arena::Peak peak = plan_peak(Device::cpu(), [&](Context& planning) { step.plan(planning, 4, 1); });
    step.materialise();
    return Buffer::on(Device::cpu(), peak.bytes, "arena");
  }
  void queue(int64_t number, int64_t rollout = 1, float poison = 0) {
    const int64_t times = window_length(step.model().setup().config.data, rollout);
    data.clear();
    step.update(
        ctx,
        [&] {
          data.push_back(std::make_unique<test::RandomWindow>(2, times, uint64_t(10 * number) + data.size()));
          data.back()->values[7] += poison;
          return data.back()->window;
        },
        rollout, number, 1e-2);
  }
  std::vector<double> masters() { return test::values_of(step.model().parameters().flat_masters()); }

  TrainingStep step;
  Arena arena;
  Context ctx;
  std::vector<std::unique_ptr<test::RandomWindow>> data;
};

RunConfig config_of(int64_t micro_steps) {
  RunConfig config = test::tiny_config();
  config.training.rollout = {1, 0, 2};
  config.training.micro_steps = micro_steps;
  return config;
}

TEST(TrainingStep, OutcomesComeInTheOrderOfTheUpdates) {
  Steps one(config_of(2)), two(config_of(2));
  std::vector<UpdateOutcome> expected, outcomes;
  for (int i = 1; i <= 6; ++i) {
    one.queue(i, 1 + i % 2);
    expected.push_back(one.step.collect());
  }
  for (int i = 1; i <= 6; ++i) {
    two.queue(i, 1 + i % 2);
    if (two.step.num_pending() == TrainingStep::kMostPending) outcomes.push_back(two.step.collect());
  }
  EXPECT_EQ(two.step.num_pending(), 1);
  outcomes.push_back(two.step.collect());
  ASSERT_EQ(outcomes.size(), expected.size());
  for (size_t i = 0; i < outcomes.size(); ++i) {
    EXPECT_EQ(outcomes[i].loss, expected[i].loss) << i;
    EXPECT_EQ(outcomes[i].gradient_norm, expected[i].gradient_norm) << i;
    EXPECT_GT(outcomes[i].seconds, 0);
    EXPECT_GE(outcomes[i].data_seconds, 0);
    EXPECT_LE(outcomes[i].data_seconds, outcomes[i].seconds);
  }
  EXPECT_EQ(one.masters(), two.masters());
}

TEST(TrainingStep, NoMoreThanTwoMayBePending) {
  Steps steps(config_of(1));
  BOREAS_EXPECT_ERROR(steps.step.collect(), internal, "no update is queued");
  steps.queue(1);
  steps.queue(2);
  BOREAS_EXPECT_ERROR(steps.queue(3), internal, "none was collected");
}

TEST(TrainingStep, GradientsThatAreNotFiniteChangeNoWeight) {
  for (const ClipKind kind : {ClipKind::norm, ClipKind::value, ClipKind::none}) {
    RunConfig config = config_of(1);
    config.training.clip = {kind, 1};
    Steps steps(config);
    steps.queue(1);
    steps.step.collect();
    const std::vector<double> before = steps.masters();
    steps.queue(2, 1, NAN);
    const UpdateOutcome outcome = steps.step.collect();
    EXPECT_FALSE(std::isfinite(outcome.loss) && std::isfinite(outcome.gradient_norm)) << to_string(kind);
    EXPECT_EQ(steps.masters(), before) << to_string(kind);
  }
}

TEST(TrainingStep, WorkCountsWhatIsRecomputed) {
  RunConfig config = config_of(2);
  const TrainingStep::Work kept = Steps(config).step.work(1, 4, 1);
  config.model.recompute = Recompute::block;
  const TrainingStep::Work again = Steps(config).step.work(1, 4, 1);
  EXPECT_GT(again.flops, kept.flops);
  EXPECT_EQ(again.flops_without_recompute, kept.flops_without_recompute);
  EXPECT_NEAR(double(kept.flops), double(kept.flops_without_recompute), 0.25 * double(kept.flops));
}

}  // namespace
}  // namespace boreas
