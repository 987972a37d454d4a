// Training and forecasts of several GPUs are those of one, and of the CPU.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/checkpoint.h"
#include "engine/commands.h"
#include "engine/text_file.h"
#include "engine/trainer.h"
#include "io/hdf5_file.h"
#include "io/zarr.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/gpu_ranks.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::world;

constexpr int64_t kSteps = 4;

class TrainingCudaRanks : public testing::Test {
 protected:
  TrainingCudaRanks() {
    if (world().rank() == 0) {
      folder_.emplace();
      test::write_tiny_dataset(*folder_ / "tiny.zarr", 40);
      test::write_tiny_dataset(*folder_ / "members.zarr", 40, -1, 1, 3);
    }
    path_ = world().text_of(0, folder_ ? folder_->path().string() : "");
  }
  ~TrainingCudaRanks() override { world().barrier(); }

  RunConfig config(const std::string& output, DeviceChoice device, Precision precision = Precision::f32) const {
    RunConfig config = test::tiny_config(path_ + "/" + output);
    config.device = device;
    config.precision = precision;
    config.data.dataset.path = path_ + "/tiny.zarr";
    config.data.training = {"", "70%"};
    config.data.validation = {"1970-01-08", ""};
    config.training.max_steps = kSteps;
    config.training.ema_decay = 0.8;
    config.training.learning_rate.decay_steps = kSteps;
    config.training.validation = {.every_steps = kSteps, .rollout = 1, .max_samples = 4};
    config.training.checkpoint = {.every_steps = kSteps / 2, .keep = 3, .best = false};
    config.forecast = {.start = "1970-01-08", .end = "1970-01-08", .lead_steps = 2, .formats = {ForecastFormat::zarr}};
    return config;
  }
  /// On the first `size` ranks; the others wait.
  void on_ranks(int size, int64_t model_ranks, const std::function<void(const ProcessGrid&)>& task,
                int64_t ensemble_ranks = 1) const {
    auto group = world().split(world().rank() < size ? 0 : 1);
    if (world().rank() < size) task(ProcessGrid::make(std::move(group), model_ranks, ensemble_ranks));
    world().barrier();
  }
  void train_on(int size, const RunConfig& config, bool resume = false, int64_t model_ranks = 0) const {
    on_ranks(
        size, model_ranks,
        [&](const ProcessGrid& ranks) { train(config, {.resume = resume, .initial_weights = {}}, ranks); },
        config.parallel.ensemble_ranks);
  }
  static std::string metrics(const RunConfig& config) { return read_text_file(config.output + "/metrics.jsonl"); }
  static std::vector<double> losses(const RunConfig& config) {
    std::istringstream text(metrics(config));
    std::vector<double> losses;
    for (std::string line; std::getline(text, line);) {
      const auto record = nlohmann::json::parse(line);
      losses.push_back(record.contains("loss") ? record["loss"] : record["validation_loss"]);
    }
    return losses;
  }
  static void expect_close(const RunConfig& a, const RunConfig& b, double tolerance) {
    if (world().rank() > 0) return;
    EXPECT_EQ(losses(a).size(), size_t(kSteps + 1));
    EXPECT_LT(test::relative_error(losses(a), losses(b)), tolerance);
  }
  static void expect_identical(const RunConfig& a, const RunConfig& b) {
    if (world().rank() > 0) return;
    EXPECT_EQ(metrics(a), metrics(b));
    const Hdf5File x = Hdf5File::open(step_checkpoint(a.output, kSteps)),
                   y = Hdf5File::open(step_checkpoint(b.output, kSteps));
    for (const std::string& name : x.list("parameters"))
      if (const std::string path = "parameters/" + name; !x.is_group(path)) {
        EXPECT_EQ(x.read_vector<float>(path), y.read_vector<float>(path)) << name;
      }
  }

 protected:
  std::optional<test::TemporaryFolder> folder_;
  std::string path_;
};

TEST_F(TrainingCudaRanks, LossesAreThoseOfOneGpuAndOfTheCpu) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  const int all = world().size();
  const RunConfig cpu = config("cpu", DeviceChoice::cpu), one = config("one", DeviceChoice::cuda);
  train_on(1, cpu);
  train_on(1, one);
  for (const ExchangeKind exchange : {ExchangeKind::halo, ExchangeKind::allgather}) {
    if (test::quick_tests() && exchange != ExchangeKind::halo) continue;
    RunConfig several = config("several " + std::string(to_string(exchange)), DeviceChoice::cuda);
    several.parallel.exchange = exchange;
    train_on(all, several);
    expect_close(several, one, 1e-5);
    expect_close(several, cpu, 1e-4);
  }
  RunConfig wide = config("one bf16", DeviceChoice::cuda, Precision::bf16), parts = wide;
  wide.model.processor.kind = parts.model.processor.kind = ProcessorKind::transformer;
  wide.model.processor.window = parts.model.processor.window = 8;
  parts.output += " in parts";
  train_on(1, wide);
  train_on(all, parts);
  expect_close(parts, wide, 2e-2);
}

TEST_F(TrainingCudaRanks, MembersOfASampleAreThoseOfOneGpu) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  for (const Score score : {Score::crps, Score::mse}) {
    SCOPED_TRACE(to_string(score));
    RunConfig one = config(fmt::format("members {} one", to_string(score)), DeviceChoice::cuda);
    one.data.dataset.path = path_ + "/members.zarr";
    one.training.loss.score = score;
    one.training.rollout = {.start = 2, .epoch_increment = 0, .maximum = 2};
    RunConfig parts = one, again = one;
    parts.output += " in parts", again.output += " again";
    parts.parallel.ensemble_ranks = again.parallel.ensemble_ranks = 2;  // of three: uneven
    train_on(1, one);
    train_on(2, parts);
    expect_close(parts, one, 1e-5);
    train_on(2, again);
    expect_identical(again, parts);
  }
}

TEST_F(TrainingCudaRanks, RepeatsBitForBitRecordedOrNot) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  const RunConfig first = config("first", DeviceChoice::cuda, Precision::bf16);
  RunConfig second = first, queued = first;
  second.output += " again";
  queued.output += " queued";
  queued.cuda_graphs = false;
  for (const RunConfig& config : {first, second}) train_on(world().size(), config);
  expect_identical(second, first);
  if (test::quick_tests()) return;
  train_on(world().size(), queued);
  expect_identical(queued, first);
}

TEST_F(TrainingCudaRanks, FewerGoOnAndForecast) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  const int all = world().size(), fewer = all - 1;
  const RunConfig whole = config("whole", DeviceChoice::cuda);
  RunConfig parts = config("parts", DeviceChoice::cuda);
  train_on(1, whole);
  parts.training.max_steps = kSteps / 2;
  train_on(all, parts);
  parts.training.max_steps = kSteps;
  train_on(std::max(1, fewer), parts, true);
  expect_close(parts, whole, 1e-5);
  std::vector<std::vector<float>> fields;
  for (const int size : {1, all}) {
    RunConfig forecast = parts;
    forecast.forecast.output = fmt::format("on {}", size);
    on_ranks(size, 0, [&](const ProcessGrid& ranks) { make_forecasts(forecast, parts.output, *ranks.world); });
    if (world().rank() > 0) continue;
    const ZarrArray array = ZarrArray::open(open_store(parts.output + "/" + forecast.forecast.output + ".zarr"), "a");
    ThreadPool pool(0);
    int64_t num_values = 1;
    for (const int64_t n : array.shape()) num_values *= n;
    array.read(array.whole(), fields.emplace_back(size_t(num_values)).data(), pool);
  }
  if (world().rank() > 0) return;
  ASSERT_EQ(fields[0].size(), size_t(4 * 2 * test::kTinyRows * test::kTinyColumns));  // starts, lead times, cells
  ASSERT_EQ(fields[1].size(), fields[0].size());
  for (size_t i = 0; i < fields[0].size(); ++i)
    EXPECT_NEAR(fields[1][i], fields[0][i], 1e-5 * (1 + std::abs(fields[0][i])));
}

TEST_F(TrainingCudaRanks, DataGroupsEqualMicroSteps) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  RunConfig one = config("micro", DeviceChoice::cuda), groups = config("groups", DeviceChoice::cuda);
  one.training.micro_steps = world().size();
  train_on(1, one);
  train_on(world().size(), groups, false, 1);
  expect_close(groups, one, 1e-5);
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN
