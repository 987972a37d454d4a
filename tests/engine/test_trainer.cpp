#include "engine/trainer.h"

#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "engine/checkpoint.h"
#include "engine/folder_lock.h"
#include "engine/memory_plan.h"
#include "io/hdf5_file.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class Training : public testing::Test {
 protected:
  Training() { test::write_tiny_dataset(data(), 40); }
  std::string data() const { return folder_ / "tiny.zarr"; }
  RunConfig config(const std::string& output) const {
    RunConfig config = test::tiny_config(folder_ / output);
    config.data.dataset.path = data();
    config.data.training = {"", "70%"};
    config.data.validation = {"1970-01-08", ""};
    return config;
  }
  std::vector<Json> metrics(const std::string& output) const {
    std::istringstream text(test::file_text(fs::path(folder_ / output) / "metrics.jsonl"));
    std::vector<Json> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(Json::parse(line));
    return lines;
  }
  test::TemporaryFolder folder_;
};

TEST_F(Training, LearnsAndValidatesInPhysicalUnits) {
  RunConfig run = config("run");
  run.training.max_steps = 150;
  run.training.validation.every_steps = 50;
  const TrainingSummary summary = train(run);
  EXPECT_EQ(summary.end, TrainingEnd::finished);
  EXPECT_EQ(summary.step, 150);
  const std::vector<Json> lines = metrics("run");
  ASSERT_EQ(lines.size(), 153u);
  EXPECT_EQ(lines[0]["learning_rate"], 0);
  EXPECT_LT(summary.last_loss, 0.1 * double(lines[0]["loss"]));
  const Json& validation = lines.back();
  EXPECT_EQ(validation["step"], 150);
  EXPECT_EQ(*summary.best_loss, double(validation["validation_loss"]));
  EXPECT_EQ(validation["rmse"].size(), 3u);
  // `a` has a standard deviation of about 1.5 m/s; a model that has learnt errs by much less.
  EXPECT_LT(double(validation["rmse"]["a"][0]), 0.7);
  EXPECT_GT(double(validation["rmse"]["a"][0]), 0);
}

TEST_F(Training, OneAtATimeInAFolder) {
  const FolderLock lock(folder_ / "run");
  BOREAS_EXPECT_ERROR(train(config("run")), io, "another training");
}

TEST_F(Training, ADamagedGraphIsBuiltAgain) {
  RunConfig run = config("run");
  run.training.max_steps = 1;
  fs::create_directories(run.output);
  std::ofstream(fs::path(run.output) / "graph.h5") << "no HDF5 file";
  EXPECT_EQ(train(run).step, 1);
  EXPECT_TRUE(Hdf5File::open((fs::path(run.output) / "graph.h5").string()).exists("graph"));
}

TEST_F(Training, RunsAreBitwiseEqual) {
  for (const char* output : {"one", "two"}) train(config(output));
  EXPECT_EQ(test::file_text(folder_ / "one/metrics.jsonl"), test::file_text(folder_ / "two/metrics.jsonl"));
  EXPECT_EQ(metrics("one").size(), 21u);  // 20 updates, and a validation after the first epoch, of 13
}

TEST_F(Training, PeakOfTheArenaIsThePlannedOne) {
  RunConfig run = config("run");
  run.training.max_steps = 3;
  run.training.ema_decay = 0.9;
  run.training.rollout = {2, 0, 2};
  run.training.validation = {.every_steps = 2, .rollout = 3, .max_samples = 2};
  const TrainingSummary summary = train(run);
  EXPECT_EQ(summary.arena_peak_bytes, summary.arena_planned_bytes);
}

TEST_F(Training, MicroStepsGiveTheGradientOfTheirMean) {
  RunConfig run = config("one");
  run.precision = Precision::f64;
  run.training.max_steps = 1;
  run.training.batch_size = 4;
  train(run);
  run.output = folder_ / "two";
  run.training.batch_size = 2;
  run.training.micro_steps = 2;
  train(run);
  const std::vector<Json> one = metrics("one"), two = metrics("two");
  EXPECT_NEAR(one[0]["loss"], two[0]["loss"], 1e-12 * double(one[0]["loss"]));
  EXPECT_NEAR(one[0]["gradient_norm"], two[0]["gradient_norm"], 1e-10 * double(one[0]["gradient_norm"]));
}

TEST_F(Training, RolloutGrowsWithTheEpochs) {
  RunConfig run = config("run");
  run.training.max_steps = 0;
  run.training.max_epochs = 4;
  run.training.batch_size = 8;
  run.training.rollout = {.start = 1, .epoch_increment = 1, .maximum = 3};
  train(run);
  std::map<int64_t, int64_t> rollout_of_epoch;
  for (const Json& line : metrics("run"))
    if (line.contains("loss")) rollout_of_epoch[line["epoch"]] = line["rollout"];
  EXPECT_EQ(rollout_of_epoch, (std::map<int64_t, int64_t>{{0, 1}, {1, 2}, {2, 3}, {3, 3}}));
}

TEST_F(Training, StopsWhenPatienceRunsOutAndKeepsTheBest) {
  RunConfig run = config("run");
  run.training.learning_rate = {.peak = 0, .minimum = 0, .warmup_steps = 0, .decay_steps = 0};
  run.training.optimizer.weight_decay = 0;
  run.training.validation.every_steps = 2;
  run.training.patience = 3;
  const TrainingSummary summary = train(run);
  EXPECT_EQ(summary.end, TrainingEnd::patience);
  EXPECT_EQ(summary.step, 8);  // the validation at 2 is the best; those at 4, 6, 8 are no better
  EXPECT_TRUE(fs::exists(best_checkpoint(run.output)));
  EXPECT_EQ(resolve_checkpoint(run.output), best_checkpoint(run.output));
}

TEST_F(Training, KeepsTheLastCheckpointsOnly) {
  RunConfig run = config("run");
  run.data.validation = {};
  run.training.checkpoint = {.every_steps = 3, .keep = 2, .best = true};
  run.training.max_steps = 10;
  const TrainingSummary summary = train(run);
  EXPECT_EQ(summary.checkpoint, step_checkpoint(run.output, 10));
  EXPECT_EQ(latest_checkpoint(run.output), step_checkpoint(run.output, 10));
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(checkpoint_folder(run.output))) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"step_00000009.h5", "step_00000010.h5"}));
}

TEST_F(Training, SignalFinishesTheUpdateAndSaves) {
  for (const int signal : {SIGINT, SIGTERM}) {
    RunConfig run = config(signal == SIGINT ? "interrupted" : "terminated");
    run.training.max_steps = 1000000;
    run.training.validation.every_steps = 1000000;
    run.training.checkpoint.every_steps = 1000000;
    std::thread sender([&] {
      const fs::path metrics = fs::path(run.output) / "metrics.jsonl";
      while (!fs::exists(metrics) || fs::file_size(metrics) == 0)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      std::raise(signal);
    });
    const TrainingSummary summary = train(run);
    sender.join();
    EXPECT_EQ(summary.end, TrainingEnd::interrupted);
    EXPECT_GT(summary.step, 0);
    EXPECT_EQ(summary.checkpoint, step_checkpoint(run.output, summary.step));
    EXPECT_TRUE(fs::exists(summary.checkpoint));
  }
}

TEST_F(Training, AverageIsValidatedAndLoaded) {
  RunConfig run = config("run");
  run.training.ema_decay = 0.9;
  run.training.max_steps = 6;
  run.training.validation.every_steps = 6;
  const TrainingSummary summary = train(run);
  StepModel averaged(load_setup(summary.checkpoint), Device::cpu()),
      trained(load_setup(summary.checkpoint), Device::cpu());
  for (StepModel* model : {&averaged, &trained}) model->parameters().materialise(1);
  load_weights(summary.checkpoint, averaged);
  load_weights(summary.checkpoint, trained, Weights::trained);
  EXPECT_FALSE(test::identical(averaged.parameters().flat_values(), trained.parameters().flat_values()));
}

TEST_F(Training, RefusesAFolderThatHoldsATraining) {
  RunConfig run = config("run");
  run.training.max_steps = 1;
  train(run);
  BOREAS_EXPECT_ERROR(train(run), io, "already holds a training");
  BOREAS_EXPECT_ERROR(train(run), io, "--resume");
}

TEST_F(Training, BadDatesAreRefused) {
  RunConfig run = config("run");
  run.data.validation = {"1970-01-05", ""};
  BOREAS_EXPECT_ERROR(train(run), config, "data.training and data.validation share the dates 1970-01-05T00:00:00");
  run = config("run");
  run.data.training = {"", "1970-01-01T12"};
  run.training.batch_size = 8;
  BOREAS_EXPECT_ERROR(train(run), config, "gives 1 samples of 3 consecutive dates at rollout 1; 8 are needed");
  run = config("run");
  run.data.training = {"1999", "2000"};
  EXPECT_THROW(train(run), Error);
  EXPECT_FALSE(fs::exists(fs::path(run.output) / "metrics.jsonl"));
}

TEST_F(Training, NanInTheDataEndsTheTraining) {
  fs::remove_all(data());
  test::write_tiny_dataset(data(), 40, 9);
  RunConfig run = config("run");
  BOREAS_EXPECT_ERROR(train(run), corrupt_data, "1970-01-03T06:00:00");
  EXPECT_FALSE(latest_checkpoint(run.output).has_value());
}

TEST_F(Training, DivergenceIsAnError) {
  RunConfig run = config("run");
  run.training.learning_rate = {.peak = 1e6, .minimum = 0, .warmup_steps = 1, .decay_steps = 0};
  run.training.max_steps = 200;
  BOREAS_EXPECT_ERROR(train(run), invalid_argument, "diverged");
}

TEST_F(Training, UnknownVariableListsNearNames) {
  RunConfig run = config("run");
  run.data.roles.forcing = {"ff"};
  BOREAS_EXPECT_ERROR(train(run), config, "near names: f");
}

TEST_F(Training, PlanNeedsTheMetadataOnly) {
  const RunConfig run = config("run");
  for (const auto& entry : fs::directory_iterator(fs::path(data()) / "data"))
    if (entry.path().filename().string()[0] != '.') fs::remove(entry.path());
  const MemoryReport report = plan(run);
  EXPECT_GT(report.training_bytes(), 0);
  EXPECT_FALSE(fs::exists(run.output));
}

}  // namespace
}  // namespace boreas
