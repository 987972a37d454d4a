#include "engine/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "tests/engine/tiny_run.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;

class Checkpoints : public testing::Test {
 protected:
  static RunConfig config() {
    RunConfig config = test::tiny_config();
    config.training.ema_decay = 0.9;
    return config;
  }
  // A training whose weights and moments are those of one update on random data.
  struct Trained {
    explicit Trained(const RunConfig& config, uint64_t seed = 1) : step(test::tiny_setup(config), Device::cpu()) {
      step.materialise();
      Arena arena(Buffer::on(Device::cpu(), int64_t{64} << 20, "arena"));
      Context ctx(Device::cpu(), arena);
      const test::RandomWindow data(2, 3, seed);
      step.update(
          ctx, [&] { return data.window; }, 1, 1, 1e-2);
      step.collect();
    }
    void save(const std::string& path, const TrainingState& state = {}) {
      save_checkpoint(path, step.model(), step.optimizer(), state);
    }
    TrainingState load(const std::string& path) { return load_checkpoint(path, step.model(), step.optimizer()); }
    TrainingStep step;
  };
  test::TemporaryFolder folder_;
};

TEST_F(Checkpoints, RoundTripIsBitwise) {
  Trained saved(config(), 1), loaded(config(), 2);
  TrainingState state;
  state.step = 17;
  state.epoch = 2;
  state.step_in_epoch = 3;
  state.best_loss = 0.1;
  state.best_step = 12;
  state.metrics_bytes = 12345;
  const std::string path = folder_ / "c.h5";
  saved.save(path, state);
  const TrainingState back = loaded.load(path);
  EXPECT_EQ(back.step, 17);
  EXPECT_EQ(back.epoch, 2);
  EXPECT_EQ(back.step_in_epoch, 3);
  EXPECT_EQ(back.best_loss, 0.1);
  EXPECT_EQ(back.best_step, 12);
  EXPECT_EQ(back.metrics_bytes, 12345);
  EXPECT_TRUE(
      test::identical(loaded.step.model().parameters().flat_values(), saved.step.model().parameters().flat_values()));
  EXPECT_TRUE(test::identical(loaded.step.optimizer().first_moment(), saved.step.optimizer().first_moment()));
  EXPECT_TRUE(test::identical(loaded.step.optimizer().second_moment(), saved.step.optimizer().second_moment()));
  EXPECT_TRUE(test::identical(loaded.step.optimizer().average(), saved.step.optimizer().average()));
}

TEST_F(Checkpoints, InfiniteBestLossSurvives) {
  Trained saved(config());
  saved.save(folder_ / "c.h5");
  EXPECT_EQ(saved.load(folder_ / "c.h5").best_loss, std::numeric_limits<double>::infinity());
}

TEST_F(Checkpoints, HoldsAllOfTheSetup) {
  Trained saved(config());
  saved.save(folder_ / "c.h5");
  const ModelSetup setup = load_setup(folder_ / "c.h5"), original = test::tiny_setup(config());
  EXPECT_EQ(resolved_config(setup.config), resolved_config(original.config));
  EXPECT_EQ(setup.variables.names(), original.variables.names());
  EXPECT_EQ(setup.variables.role(0), Role::forcing);
  EXPECT_EQ(setup.units, original.units);
  EXPECT_EQ(setup.statistics.stdev, original.statistics.stdev);
  EXPECT_EQ(setup.latitudes, original.latitudes);
  EXPECT_EQ(setup.field_shape, original.field_shape);
  EXPECT_EQ(setup.step, original.step);
  EXPECT_EQ(setup.graph.hash(), original.graph.hash());
  EXPECT_TRUE(differences(setup, original, "a", "b").empty());
}

TEST_F(Checkpoints, EachDifferenceIsListed) {
  Trained saved(config());
  saved.save(folder_ / "c.h5");
  RunConfig other = config();
  other.model.num_channels = 8;
  other.model.edge_pre_mlp = true;
  other.data.preprocess.normaliser.fallback = Normalisation::std;
  other.training.ema_decay = 0;
  TrainingStep step(test::tiny_setup(other), Device::cpu());
  step.materialise();
  const auto load = [&] { load_checkpoint(folder_ / "c.h5", step.model(), step.optimizer()); };
  BOREAS_EXPECT_ERROR(load(), config, "model.num_channels: 16 in the checkpoint, 8 in the config");
  BOREAS_EXPECT_ERROR(load(), config, "model.edge_pre_mlp: false in the checkpoint, true in the config");
  BOREAS_EXPECT_ERROR(load(), config, "data.normaliser.default: mean-std in the checkpoint, std in the config");
  BOREAS_EXPECT_ERROR(load(), config, "training.ema_decay: the checkpoint has a running average");
  BOREAS_EXPECT_ERROR(load(), config, "absent in the checkpoint");
  BOREAS_EXPECT_ERROR(load(), config, "[16, ");
  BOREAS_EXPECT_ERROR(load_weights(folder_ / "c.h5", step.model()), config, "does not fit this run");
}

TEST_F(Checkpoints, VariablesGraphAndStatisticsAreCompared) {
  const ModelSetup a = test::tiny_setup(config());
  RunConfig finer = config();
  finer.graph.build.encoder.cutoff_factor = 2;
  ModelSetup b = test::tiny_setup(finer);
  b.variables = VariableTable({"f", "a", "p", "c"}, b.config.data.roles);
  b.step = {.seconds = 3600, .months = 0};
  const std::vector<std::string> found = differences(a, b, "checkpoint", "config");
  const auto has = [&](const std::string& text) {
    return std::any_of(found.begin(), found.end(), [&](const auto& line) { return line.find(text) != line.npos; });
  };
  EXPECT_TRUE(has("variable b: present in the checkpoint, absent in the config"));
  EXPECT_TRUE(has("variable c: absent in the checkpoint, present in the config"));
  EXPECT_TRUE(has("step: 6h in the checkpoint, 1h in the config"));
  EXPECT_TRUE(has("graph: hash"));

  ModelSetup c = test::tiny_setup(config());
  c.statistics.mean[1] = 42;
  EXPECT_EQ(differences(a, c, "checkpoint", "config").size(), 1u);
  // What only says where to read and how to use memory is free.
  c = test::tiny_setup(config());
  c.config.data.dataset.path = "elsewhere";
  c.config.data.num_threads = 7;
  c.config.model.recompute = Recompute::step;
  c.config.model.encoder.num_chunks = 3;
  EXPECT_TRUE(differences(a, c, "checkpoint", "config").empty());
}

TEST_F(Checkpoints, OtherFilesAreRefused) {
  StepModel model(test::tiny_setup(config()), Device::cpu());
  model.parameters().materialise(1);
  std::ofstream(folder_ / "text.h5") << "not HDF5";
  BOREAS_EXPECT_ERROR(load_weights(folder_ / "text.h5", model), corrupt_data, folder_ / "text.h5");
  EXPECT_THROW(load_weights(folder_ / "absent.h5", model), Error);
  BOREAS_EXPECT_ERROR((void)resolve_checkpoint(folder_ / "absent"), io, "no such checkpoint");
  fs::create_directories(folder_ / "empty");
  BOREAS_EXPECT_ERROR((void)resolve_checkpoint(folder_ / "empty"), io, "this folder has no checkpoint");
}

TEST_F(Checkpoints, LatestIsTheHighestStep) {
  const std::string output = folder_ / "run";
  EXPECT_FALSE(latest_checkpoint(output).has_value());
  Trained saved(config());
  for (const int64_t step : {9, 100, 20}) saved.save(step_checkpoint(output, step));
  std::ofstream(fs::path(checkpoint_folder(output)) / ".step_00000200.h5.partial") << "half";
  EXPECT_EQ(latest_checkpoint(output), step_checkpoint(output, 100));
  prune_checkpoints(output, 2);
  EXPECT_FALSE(fs::exists(step_checkpoint(output, 9)));
  EXPECT_TRUE(fs::exists(step_checkpoint(output, 20)));
  EXPECT_FALSE(fs::exists(fs::path(checkpoint_folder(output)) / ".step_00000200.h5.partial"));
}

TEST_F(Checkpoints, FullDiskLeavesTheOldFileAndNoOther) {
  Trained saved(config(), 1), other(config(), 2);
  const std::string path = folder_ / "c.h5";
  saved.save(path);
  const std::string before = test::file_text(path);

  // A limit on the size of files stands for a full disk: writes beyond it fail.
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  rlimit small = old_limit;
  small.rlim_cur = rlim_t(before.size() / 2);
  auto* const old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  BOREAS_EXPECT_ERROR(other.save(path), io, path);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  std::signal(SIGXFSZ, old_handler);

  EXPECT_EQ(test::file_text(path), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()), 1);
  other.save(path);
  EXPECT_NE(test::file_text(path), before);
}

}  // namespace
}  // namespace boreas
