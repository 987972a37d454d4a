// Resuming is exact: what an interrupted training computes is, to the bit, what an uninterrupted one does.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <thread>

#include "engine/checkpoint.h"
#include "engine/trainer.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;

constexpr const char* kChildArgument = "--train-in-folder";

// Epochs of 6 updates, a rollout that grows, micro-steps, an average, validations and the best checkpoint: everything
// that has a state.
RunConfig run_config(const fs::path& folder, const std::string& output, int64_t checkpoint_every) {
  RunConfig config = test::tiny_config((folder / output).string());
  config.data.dataset.path = (folder / "tiny.zarr").string();
  config.data.training = {"", "70%"};
  config.data.validation = {"1970-01-08", ""};
  config.training.micro_steps = 2;
  config.training.ema_decay = 0.8;
  config.training.rollout = {.start = 1, .epoch_increment = 1, .maximum = 2};
  config.training.validation.every_steps = 4;
  config.training.checkpoint = {.every_steps = checkpoint_every, .keep = 2, .best = true};
  return config;
}

class Resume : public testing::Test {
 protected:
  Resume() { test::write_tiny_dataset(folder_ / "tiny.zarr", 40); }
  void expect_same_training(const std::string& a, const std::string& b) const {
    EXPECT_EQ(test::file_text(folder_.path() / a / "metrics.jsonl"),
              test::file_text(folder_.path() / b / "metrics.jsonl"));
    for (const bool best : {false, true}) {
      const std::string in_a = best ? best_checkpoint(folder_ / a) : step_checkpoint(folder_ / a, 20);
      const std::string in_b = best ? best_checkpoint(folder_ / b) : step_checkpoint(folder_ / b, 20);
      const ModelSetup setup = load_setup(in_a);
      TrainingStep one(setup, Device::cpu()), two(setup, Device::cpu());
      one.materialise();
      two.materialise();
      const TrainingState state_a = load_checkpoint(in_a, one.model(), one.optimizer());
      const TrainingState state_b = load_checkpoint(in_b, two.model(), two.optimizer());
      EXPECT_EQ(state_a.step, state_b.step);
      EXPECT_EQ(state_a.best_loss, state_b.best_loss);
      EXPECT_EQ(state_a.metrics_bytes, state_b.metrics_bytes);
      EXPECT_TRUE(test::identical(one.model().parameters().flat_values(), two.model().parameters().flat_values()));
      EXPECT_TRUE(test::identical(one.optimizer().first_moment(), two.optimizer().first_moment()));
      EXPECT_TRUE(test::identical(one.optimizer().second_moment(), two.optimizer().second_moment()));
      EXPECT_TRUE(test::identical(one.optimizer().average(), two.optimizer().average()));
    }
  }
  test::TemporaryFolder folder_;
};

TEST_F(Resume, TenAndTenUpdatesAreTwenty) {
  train(run_config(folder_.path(), "whole", 5));
  // The schedule depends on the length of the training: the first part stops early by signal, not by configuration.
  const RunConfig config = run_config(folder_.path(), "parts", 5);
  auto* const handler = std::signal(SIGTERM, SIG_IGN);  // outside of train()
  std::atomic<bool> training = true;
  std::thread sender([&] {
    const fs::path metrics = fs::path(config.output) / "metrics.jsonl";
    const auto lines = [&] {
      const std::string text = fs::exists(metrics) ? test::file_text(metrics) : std::string();
      return std::count(text.begin(), text.end(), '\n');
    };
    while (training && lines() < 4) std::this_thread::sleep_for(std::chrono::microseconds(200));
    std::raise(SIGTERM);
  });
  const TrainingSummary first = train(config);
  training = false;
  sender.join();
  std::signal(SIGTERM, handler);
  ASSERT_EQ(first.end, TrainingEnd::interrupted);
  ASSERT_GE(first.step, 3);
  ASSERT_LT(first.step, 20);
  const TrainingSummary second = train(config, {.resume = true, .initial_weights = {}});
  EXPECT_EQ(second.end, TrainingEnd::finished);
  EXPECT_EQ(second.step, 20);
  expect_same_training("whole", "parts");
}

TEST_F(Resume, FromTheLastCheckpointDropsWhatWasLoggedSince) {
  train(run_config(folder_.path(), "whole", 7));
  fs::copy(folder_ / "whole", folder_ / "back", fs::copy_options::recursive);
  fs::remove(step_checkpoint(folder_ / "back", 20));
  std::ofstream(folder_.path() / "back" / "metrics.jsonl", std::ios::app) << "half a li";
  const RunConfig config = run_config(folder_.path(), "back", 7);
  EXPECT_EQ(train(config, {.resume = true, .initial_weights = {}}).step, 20);
  expect_same_training("whole", "back");
}

TEST_F(Resume, AFinishedTrainingStaysAsItIs) {
  const RunConfig config = run_config(folder_.path(), "whole", 5);
  train(config);
  const std::string before = test::file_text(folder_.path() / "whole" / "metrics.jsonl");
  EXPECT_EQ(train(config, {.resume = true, .initial_weights = {}}).step, 20);
  EXPECT_EQ(test::file_text(folder_.path() / "whole" / "metrics.jsonl"), before);
}

TEST_F(Resume, WithoutACheckpointBegins) {
  EXPECT_EQ(train(run_config(folder_.path(), "new", 5), {.resume = true, .initial_weights = {}}).step, 20);
}

TEST_F(Resume, OtherSamplesOrModelAreRefused) {
  RunConfig config = run_config(folder_.path(), "whole", 5);
  train(config);
  config.data.training.end = "60%";
  BOREAS_EXPECT_ERROR(train(config, {.resume = true, .initial_weights = {}}), config, "an epoch had");
  config.model.num_channels = 8;
  BOREAS_EXPECT_ERROR(train(config, {.resume = true, .initial_weights = {}}), config, "model.num_channels");
}

// Starts this program again as a child that trains: fork alone would inherit OpenMP's state but not its threads.
pid_t start_child(const std::string& folder) {
  const pid_t child = fork();
  if (child != 0) return child;
  if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(3);
  execl("/proc/self/exe", "test_resume", kChildArgument, folder.c_str(), nullptr);
  _exit(4);
}

// A checkpoint at every update: much of the child's time is saving, so that kills fall into saves as well.
TEST_F(Resume, SurvivesSigkillAtAnyMoment) {
  const auto whole_begin = std::chrono::steady_clock::now();
  train(run_config(folder_.path(), "whole", 1));
  const std::chrono::duration<double> per_update = (std::chrono::steady_clock::now() - whole_begin) / 20.0;
  int num_killed = 0, num_killed_in_save = 0;
  const auto is_half_saved = [&] {
    for (const auto& entry : fs::directory_iterator(checkpoint_folder(folder_ / "killed")))
      if (entry.path().extension() == ".partial") return true;
    return false;
  };
  const Philox random(1, 1);
  for (uint64_t attempt = 0; attempt < 30; ++attempt) {
    const pid_t child = start_child(folder_.path().string());
    ASSERT_GT(child, 0);
    // Wait until this child has done something new, then a little, then kill.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    const fs::path metrics = folder_.path() / "killed" / "metrics.jsonl";
    const auto size = [&] { return fs::exists(metrics) ? fs::file_size(metrics) : 0; };
    const uintmax_t begin = size();
    int status = 0;
    pid_t ended = 0;
    while (ended == 0 && size() == begin && std::chrono::steady_clock::now() < deadline) {
      ended = waitpid(child, &status, WNOHANG);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    if (ended == 0) {
      std::this_thread::sleep_for(2 * random.uniform(attempt) * per_update);
      kill(child, SIGKILL);
      ASSERT_EQ(waitpid(child, &status, 0), child);
    }
    if (WIFEXITED(status)) {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      break;
    }
    ++num_killed;
    num_killed_in_save += is_half_saved();
  }
  EXPECT_GT(num_killed, 3);
  EXPECT_GT(num_killed_in_save, 0) << "of " << num_killed << " kills none fell into a save";
  EXPECT_EQ(train(run_config(folder_.path(), "killed", 1), {.resume = true, .initial_weights = {}}).step, 20);
  expect_same_training("whole", "killed");
  for (const auto& entry : fs::directory_iterator(checkpoint_folder(folder_ / "killed")))
    EXPECT_NE(entry.path().extension(), ".partial") << entry.path();
}

}  // namespace
}  // namespace boreas

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == boreas::kChildArgument) {
    boreas::train(boreas::run_config(argv[2], "killed", 1), {.resume = true, .initial_weights = {}});
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
