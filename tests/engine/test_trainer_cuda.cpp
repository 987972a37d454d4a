// Trainings and forecasts on a GPU, from a dataset: they are those of the CPU, and checkpoints pass from one to the
// other.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/checkpoint.h"
#include "engine/forecaster.h"
#include "engine/memory_plan.h"
#include "engine/trainer.h"
#include "tests/engine/forecast_by_training.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/gpu.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class TrainingCuda : public testing::Test {
 protected:
  TrainingCuda() { test::write_tiny_dataset(folder_ / "tiny.zarr", 40); }
  RunConfig config(const std::string& output, DeviceChoice device, Precision precision = Precision::f32) const {
    RunConfig config = test::tiny_config(folder_ / output);
    config.device = device;
    config.precision = precision;
    config.data.dataset.path = folder_ / "tiny.zarr";
    config.data.training = {"", "70%"};
    config.data.validation = {"1970-01-08", ""};
    config.training.rollout = {1, 1, 2};
    config.training.micro_steps = 2;
    config.training.validation.every_steps = 7;
    config.training.checkpoint.every_steps = 10;
    config.training.ema_decay = 0.9;
    return config;
  }
  std::string metrics(const std::string& output) const {
    return test::file_text(fs::path(folder_ / output) / "metrics.jsonl");
  }
  /// Loss or validation loss of each line.
  std::vector<double> losses(const std::string& output) const {
    std::istringstream text(metrics(output));
    std::vector<double> losses;
    for (std::string line; std::getline(text, line);) {
      const Json record = Json::parse(line);
      losses.push_back(record.contains("loss") ? record["loss"] : record["validation_loss"]);
    }
    return losses;
  }
  double difference(const std::string& a, const std::string& b) const {
    return test::relative_error(losses(a), losses(b));
  }
  test::TemporaryFolder folder_;
};

TEST_F(TrainingCuda, MetricsAreThoseOfTheCpuInTheirOrder) {
  BOREAS_SKIP_WITHOUT_GPU();
  const TrainingSummary summary = train(config("gpu", DeviceChoice::cuda));
  train(config("cpu", DeviceChoice::cpu));
  EXPECT_EQ(summary.arena_peak_bytes, summary.arena_planned_bytes);
  EXPECT_LT(difference("gpu", "cpu"), 1e-4);
  EXPECT_EQ(losses("gpu").size(), 22u);
  train(config("again", DeviceChoice::cuda));
  EXPECT_EQ(metrics("again"), metrics("gpu"));
  train(config("bf16", DeviceChoice::cuda, Precision::bf16));
  EXPECT_LT(difference("bf16", "cpu"), 3e-2);
}

TEST_F(TrainingCuda, ACheckpointOfOneGoesOnOnTheOther) {
  BOREAS_SKIP_WITHOUT_GPU();
  train(config("cpu", DeviceChoice::cpu));
  for (const DeviceChoice first : {DeviceChoice::cpu, DeviceChoice::cuda}) {
    const std::string output = "from " + std::string(to_string(first));
    const DeviceChoice second = first == DeviceChoice::cpu ? DeviceChoice::cuda : DeviceChoice::cpu;
    RunConfig run = config(output, first);
    run.training.learning_rate.decay_steps = 20;
    run.training.max_steps = 10;
    train(run);
    run.device = second;
    run.training.max_steps = 20;
    train(run, {.resume = true, .initial_weights = {}});
    EXPECT_LT(difference(output, "cpu"), 1e-4) << output;
  }
}

TEST_F(TrainingCuda, ARunThatIsResumedIsBitwiseOneThatIsNot) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    const std::string name(to_string(precision));
    train(config(name, DeviceChoice::cuda, precision));
    RunConfig run = config(name + " in two", DeviceChoice::cuda, precision);
    run.training.learning_rate.decay_steps = 20;
    run.training.max_steps = 10;
    train(run);
    run.training.max_steps = 20;
    train(run, {.resume = true, .initial_weights = {}});
    EXPECT_EQ(metrics(name + " in two"), metrics(name));
  }
}

TEST_F(TrainingCuda, ForecastsAreThoseOfTheCpu) {
  BOREAS_SKIP_WITHOUT_GPU();
  train(config("run", DeviceChoice::cpu));
  const std::string checkpoint = resolve_checkpoint(folder_ / "run");
  const DatasetReader reader = DatasetReader::open({.path = folder_ / "tiny.zarr"});
  std::vector<std::vector<float>> by_training;
  const auto forecast = [&](Device device, bool graphs, bool fold = true, Precision precision = Precision::f32) {
    ModelSetup setup = load_setup(checkpoint);
    setup.config.cuda_graphs = graphs;
    setup.config.forecast.fold = fold;
    setup.config.precision = precision;
    StepModel model(setup, device);
    model.parameters().materialise(0);
    load_weights(checkpoint, model);
    model.parameters().keep_values_only();
    Forecaster forecaster(model, reader);
    std::vector<double> values;
    for (const int64_t start : {10, 20})
      forecaster.run(reader.dates()[size_t(start)], 6, [&](int64_t, int64_t, std::span<const float> fields) {
        values.insert(values.end(), fields.begin(), fields.end());
      });
    EXPECT_EQ(forecaster.arena_peak_bytes(), Forecaster::plan(model, device).bytes);
    by_training = test::forecast_by_training(model, reader, 20, 6);
    return values;
  };
  const std::vector<double> cpu = forecast(Device::cpu(), false), replayed = forecast(Device::cuda(0), true);
  EXPECT_LT(test::relative_error(replayed, cpu), 1e-5);
  EXPECT_EQ(replayed, forecast(Device::cuda(0), false));
  for (const Precision precision : {Precision::f32, Precision::bf16})
    for (const bool fold : {true, false}) {
      const std::vector<double> found = forecast(Device::cuda(0), true, fold, precision);
      std::vector<double> expected;
      for (const std::vector<float>& fields : by_training)
        expected.insert(expected.end(), fields.begin(), fields.end());
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), found.end() - int64_t(expected.size())))
          << to_string(precision) << ", fold " << fold;
    }
}

TEST_F(TrainingCuda, ABudgetThatIsTooSmallIsNamedBeforeTheRun) {
  BOREAS_SKIP_WITHOUT_GPU();
  RunConfig run = config("run", DeviceChoice::cuda);
  run.memory.budget = "1MiB";
  BOREAS_EXPECT_ERROR(train(run), out_of_memory, "even with recompute step");
}

}  // namespace
}  // namespace boreas
