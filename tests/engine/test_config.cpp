#include "engine/config.h"
#include "engine/text_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

class Config : public testing::Test {
 protected:
  std::string write(const std::string& text) {
    std::ofstream(folder_ / "run.yaml") << text;
    return folder_ / "run.yaml";
  }
  test::TemporaryFolder folder_;
};

TEST_F(Config, DefaultsAreValidAndThoseOfTheReference) {
  const RunConfig config = load_config(write("output: out\n"));
  EXPECT_EQ(config.output, "out");
  EXPECT_EQ(config.training.max_steps, 150000);
  EXPECT_EQ(config.training.learning_rate.peak, 0.625e-4);
  EXPECT_EQ(config.training.learning_rate.warmup_steps, 1000);
  EXPECT_EQ(config.training.optimizer.beta2, 0.95);
  EXPECT_EQ(config.training.clip.kind, ClipKind::value);
  EXPECT_EQ(config.training.clip.limit, 32);
  EXPECT_EQ(config.data.num_input_steps, 2);
}

TEST_F(Config, EverySectionIsReadAndOverridden) {
  const RunConfig config = load_config(write(R"(
data:
  dataset: {path: data.zarr, select: [u, v]}
  training: {end: 1988-12}
  forcing: [lsm]
  normaliser: {default: std}
graph: {hidden: {level: 3}}
model: {processor: {kind: none}}
training:
  rollout: {start: 2, maximum: 4, epoch_increment: 1}
  loss: {score: mae, variable_weights: {u: 2}}
)"),
                                       {"training.rollout.maximum=6", "data.diagnostic=[tp]", "memory.budget=8GiB"});
  EXPECT_EQ(config.data.dataset.select, (std::vector<std::string>{"u", "v"}));
  EXPECT_EQ(config.data.training.end, "1988-12");
  EXPECT_EQ(config.data.roles.forcing, std::vector<std::string>{"lsm"});
  EXPECT_EQ(config.data.roles.diagnostic, std::vector<std::string>{"tp"});
  EXPECT_EQ(config.data.preprocess.normaliser.fallback, Normalisation::std);
  EXPECT_EQ(config.graph.build.hidden.level, 3);
  EXPECT_EQ(config.model.processor.kind, ProcessorKind::none);
  EXPECT_EQ(config.training.rollout.maximum, 6);
  EXPECT_EQ(config.training.loss.variable_weights.at("u"), 2);
}

TEST_F(Config, ResolvedTextGivesTheSameConfig) {
  RunConfig config = load_config(write("training: {seed: 7}\ndata: {dataset: {join: [{path: a}, {path: b}]}}\n"));
  const std::string text = resolved_config(config);
  EXPECT_EQ(resolved_config(parse_config(text, "checkpoint")), text);
  EXPECT_NE(text.find("seed: 7"), std::string::npos);
  EXPECT_NE(text.find("warmup_steps: 1000"), std::string::npos);
}

TEST_F(Config, TypoNamesFileLineAndNearestKey) {
  const std::string path = write("training:\n  rolout: {maximum: 2}\n");
  BOREAS_EXPECT_ERROR(load_config(path), config, path + ":2: unknown key training.rolout; near names: rollout");
}

TEST_F(Config, ValuesOutOfRangeNameTheKey) {
  const auto expect = [&](const std::string& assignment, const std::string& text) {
    BOREAS_EXPECT_ERROR(load_config(write("output: x\n"), {assignment}), config, text);
  };
  expect("training.batch_size=0", "training.batch_size is 0; it must be at least 1");
  expect("training.max_steps=0", "training.max_steps and training.max_epochs are both 0");
  expect("training.rollout.start=3", "training.rollout.maximum is 1; it must be at least training.rollout.start");
  expect("training.learning_rate.minimum=1", "training.learning_rate.minimum is 1");
  expect("training.optimizer.beta1=1", "training.optimizer.beta1 is 1");
  expect("training.ema_decay=2", "training.ema_decay is 2");
  expect("training.clip.limit=0", "training.clip.limit is 0");
  expect("memory.budget=lots", "memory.budget is 'lots'; expected bytes such as 8GiB");
  expect("data.num_input_steps=0", "data.num_input_steps is 0");
}

TEST_F(Config, BytesHaveUnits) {
  EXPECT_EQ(parse_bytes("8GiB", "k"), int64_t{8} << 30);
  EXPECT_EQ(parse_bytes("1.5 MB", "k"), 1500000);
  EXPECT_EQ(parse_bytes("1e9", "k"), 1000000000);
  BOREAS_EXPECT_ERROR(parse_bytes("-1GiB", "k"), config, "k is '-1GiB'");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
}

TEST_F(Config, ReferenceListsEveryKeyOnce) {
  const std::string text = config_reference();
  for (const char* key : {"| `output` |", "| `data.dataset.path` |", "| `data.training.start` |",
                          "| `graph.hidden.level` |", "| `model.bounding[].kind` |", "| `training.loss.score` |",
                          "| `memory.budget` |", "| `forecast.lead_steps` |", "| `data.dataset.join` |"}) {
    const size_t first = text.find(key);
    EXPECT_NE(first, std::string::npos) << key;
    EXPECT_EQ(text.find(key, first + 1), std::string::npos) << key;
  }
}

TEST_F(Config, TheDocumentedReferenceIsThatOfTheCode) {
  EXPECT_EQ(read_text_file(BOREAS_SOURCE_DIR "/docs/config.md"), config_reference())
      << "write it again: boreas config > docs/config.md";
}

}  // namespace
}  // namespace boreas
