// Training steps on a GPU: against the CPU, against themselves, recorded against queued kernel by kernel.
#include "engine/training_step.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/memory_plan.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/gpu.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

/// A training on random fields, which lie at one address.
class Steps {
 public:
  Steps(const RunConfig& config, Device device)
      : setup_(test::tiny_setup(config)),
        step_(setup_, device),
        arena_(materialised(device)),
        ctx_(device, arena_),
        batch_(Buffer::on(device, batch_bytes(config.training.rollout.maximum), "batch")) {}

  UpdateOutcome update(int64_t rollout, double poison = 0) {
    ++num_updates_;
    const int64_t times = window_length(setup_.config.data, rollout), samples = setup_.config.training.batch_size;
    uint64_t seed = uint64_t(100 * num_updates_);
    step_.update(
        ctx_,
        [&] {
          test::RandomWindow data(samples, times, ++seed);
          data.values[7] += float(poison);
          const Tensor fields = batch_.tensor(DType::f32, data.window.fields.shape());
          ctx_.compute().synchronize();
          copy_now(fields.data(), fields.device(), data.values.data(), Device::cpu(), fields.bytes());
          return FieldWindow{fields, 1};
        },
        rollout, num_updates_, 3e-3);
    return step_.collect();
  }
  /// Losses of 20 updates, the last half of them with a rollout of 2.
  std::vector<double> losses() {
    const int half = test::quick_tests() ? 3 : 10;
    std::vector<double> losses;
    for (int i = 0; i < 2 * half; ++i) losses.push_back(update(i < half ? 1 : 2).loss);
    return losses;
  }
  std::vector<float> masters() {
    const Tensor flat = step_.model().parameters().flat_masters();
    std::vector<float> values(size_t(flat.size()));
    copy_now(values.data(), Device::cpu(), flat.data(), flat.device(), flat.bytes());
    return values;
  }
  TrainingStep& step() { return step_; }
  const ModelSetup& setup() const { return setup_; }
  Context& ctx() { return ctx_; }
  int64_t arena_peak() const { return arena_.peak_bytes(); }

 private:
  Buffer materialised(Device device) {
    const Arena::Peak peak = plan_peak(device, [&](Context& ctx) { step_.plan(ctx, setup_.variables.size(), 1); });
    step_.materialise();
    return Buffer::on(device, peak.bytes, "arena");
  }
  int64_t batch_bytes(int64_t rollout) const {
    return setup_.config.training.batch_size * window_length(setup_.config.data, rollout) * setup_.variables.size() *
           setup_.num_cells() * 4;
  }

  ModelSetup setup_;
  TrainingStep step_;
  Arena arena_;
  Context ctx_;
  Buffer batch_;
  int64_t num_updates_ = 0;
};

RunConfig config_of(Precision precision) {
  RunConfig config = test::tiny_config();
  config.precision = precision;
  config.training.rollout = {1, 0, 2};
  config.training.ema_decay = 0.9;
  config.training.clip = {ClipKind::norm, 1};
  return config;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return largest;
}

TEST(TrainingStepCuda, LossesAreThoseOfTheCpu) {
  BOREAS_SKIP_WITHOUT_GPU();
  const std::vector<double> cpu = Steps(config_of(Precision::f32), Device::cpu()).losses();
  const std::vector<double> f32 = Steps(config_of(Precision::f32), Device::cuda(0)).losses();
  const std::vector<double> bf16 = Steps(config_of(Precision::bf16), Device::cuda(0)).losses();
  EXPECT_LT(largest_difference(f32, cpu), 1e-4);
  EXPECT_LT(largest_difference(bf16, cpu), 3e-2);
}

TEST(TrainingStepCuda, TwoRunsAreBitwiseEqual) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    Steps one(config_of(precision), Device::cuda(0)), two(config_of(precision), Device::cuda(0));
    EXPECT_EQ(one.losses(), two.losses()) << to_string(precision);
    EXPECT_EQ(one.masters(), two.masters()) << to_string(precision);
  }
}

TEST(TrainingStepCuda, ReplayedStepsAreBitwiseThoseThatAreQueued) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Precision precision : {Precision::f32, Precision::bf16})
    for (const Recompute recompute : {Recompute::none, Recompute::block})
      for (const int64_t micro_steps : {1, 3}) {
        if (test::quick_tests() && micro_steps > 1) continue;
        RunConfig config = config_of(precision);
        config.training.micro_steps = micro_steps;
        config.model.recompute = recompute;
        config.model.encoder.num_chunks = config.model.decoder.num_chunks = recompute == Recompute::none ? 1 : 3;
        Steps replayed(config, Device::cuda(0));
        config.cuda_graphs = false;
        Steps queued(config, Device::cuda(0));
        EXPECT_EQ(replayed.losses(), queued.losses());
        EXPECT_EQ(replayed.masters(), queued.masters());
        // By rollout; first, middle and last of three micro-steps, or the only one.
        EXPECT_EQ(replayed.step().num_recordings(), 2 * micro_steps);
        EXPECT_EQ(queued.step().num_recordings(), 0);
      }
}

TEST(TrainingStepCuda, GradientsThatAreNotFiniteChangeNoWeight) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const ClipKind kind : {ClipKind::norm, ClipKind::value, ClipKind::none}) {
    RunConfig config = config_of(Precision::bf16);
    config.training.clip = {kind, 1};
    config.training.ema_decay = 0;
    Steps steps(config, Device::cuda(0));
    for (int i = 0; i < 3; ++i) steps.update(1);
    const std::vector<float> before = steps.masters();
    const UpdateOutcome outcome = steps.update(1, NAN);
    EXPECT_FALSE(std::isfinite(outcome.loss) && std::isfinite(outcome.gradient_norm));
    EXPECT_EQ(steps.masters(), before) << to_string(kind);
    EXPECT_TRUE(std::isfinite(steps.update(1).loss));
    EXPECT_NE(steps.masters(), before);
  }
}

TEST(TrainingStepCuda, BuffersAreThePlannedOnesToTheByte) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Precision precision : {Precision::f32, Precision::bf16})
    for (const Recompute recompute : {Recompute::none, Recompute::block, Recompute::step}) {
      RunConfig config = config_of(precision);
      config.model.recompute = recompute;
      config.model.encoder.num_chunks = config.model.decoder.num_chunks = 2;
      const int64_t before = live_device_bytes();
      Steps steps(config, Device::cuda(0));
      steps.losses();
      const MemoryReport report = plan_memory(steps.setup(), Device::cuda(0));
      int64_t staging = 0;
      for (const MemoryReport::Line& line : report.training)
        if (line.owner == "staging") staging = line.bytes;  // the second copy of a batch, which a data pipeline has
      EXPECT_EQ(live_device_bytes() - before, report.training_bytes() - staging);
      EXPECT_LE(steps.arena_peak(), report.training_peak.bytes);
      EXPECT_EQ(live_device_bytes("arena"), report.training_peak.bytes);
    }
}

TEST(TrainingStepCuda, TimesAreThoseOfTheDevice) {
  BOREAS_SKIP_WITHOUT_GPU();
  Steps steps(config_of(Precision::f32), Device::cuda(0));
  for (int i = 0; i < 4; ++i) {
    const UpdateOutcome outcome = steps.update(2);
    EXPECT_GT(outcome.seconds, 0);
    EXPECT_LT(outcome.seconds, 60);
    EXPECT_LE(outcome.data_seconds, outcome.seconds);
  }
  const TrainingStep::Work work = steps.step().work(2, 4, 1);
  EXPECT_GT(work.flops, 0);
  EXPECT_GT(work.flops, work.flops_without_recompute / 2);
}

}  // namespace
}  // namespace boreas
