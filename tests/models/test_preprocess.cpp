#include <gtest/gtest.h>

#include <cmath>

#include "kernels/core/buffer.h"
#include "kernels/core/error.h"
#include "models/preprocess.h"
#include "tests/support/error_of.h"

namespace boreas {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

using test::message_of;

// t and sst prognostic, lsm forcing, tp diagnostic.
const VariableTable kTable({"t", "sst", "lsm", "tp"}, {.forcing = {"lsm"}, .diagnostic = {"tp"}});
const VariableStatistics kStatistics{.mean = {280, 290, 0.25, 2},
                                     .stdev = {10, 5, 0.5, 4},
                                     .minimum = {200, 271, 0, 0},
                                     .maximum = {320, 305, 1, 50},
                                     .tendency_stdev = {}};

struct Fields {
  Buffer storage;
  Tensor view;
};

Fields fields_of(const std::vector<std::vector<float>>& rows) {
  const auto cells = int64_t(rows[0].size());
  Fields fields{Buffer::on(Device::cpu(), int64_t(rows.size()) * cells * 4, "test"), {}};
  fields.view = fields.storage.tensor(DType::f32, {int64_t(rows.size()), cells});
  for (size_t v = 0; v < rows.size(); ++v)
    std::copy(rows[v].begin(), rows[v].end(), fields.view.row<float>(int64_t(v)));
  return fields;
}

std::vector<float> row_of(const Tensor& fields, int64_t v) {
  return {fields.row<float>(v), fields.row<float>(v) + fields.cols()};
}

TEST(Preprocess, EachMethodHasItsScale) {
  PreprocessConfig config;
  config.normaliser.min_max = {"sst"};
  config.normaliser.max = {"tp"};
  config.normaliser.none = {"lsm"};
  const Preprocess preprocess(config, kTable, kStatistics);
  EXPECT_DOUBLE_EQ(preprocess.normalise(0, 300), 2);
  EXPECT_NEAR(preprocess.normalise(1, 271), 0, 1e-15);
  EXPECT_DOUBLE_EQ(preprocess.normalise(1, 305), 1);
  EXPECT_DOUBLE_EQ(preprocess.normalise(2, 0.3), 0.3);
  EXPECT_DOUBLE_EQ(preprocess.normalise(3, 25), 0.5);
  for (int64_t v = 0; v < 4; ++v) EXPECT_NEAR(preprocess.denormalise(v, preprocess.normalise(v, 12.5)), 12.5, 1e-12);
  EXPECT_FALSE(preprocess.imputes_any());

  config.normaliser = {};
  config.normaliser.fallback = Normalisation::std;
  EXPECT_DOUBLE_EQ(Preprocess(config, kTable, kStatistics).normalise(3, 8), 2);
}

TEST(Preprocess, RemapBorrowsStatisticsOfTheOriginalVariables) {
  PreprocessConfig config;
  config.normaliser.remap = {{"sst", "t"}, {"t", "sst"}};
  const Preprocess preprocess(config, kTable, kStatistics);
  EXPECT_NEAR(preprocess.normalise(0, 295), 1, 1e-14);
  EXPECT_NEAR(preprocess.normalise(1, 290), 1, 1e-14);
}

TEST(Preprocess, ImputedVariablesAreFilledAsInputsAndKeepNanAsTargets) {
  PreprocessConfig config;
  config.imputer.constant = {{"lsm", 1.0}};
  config.imputer.mean = {"t"};
  config.imputer.minimum = {"sst"};
  config.imputer.maximum = {"tp"};
  const Preprocess preprocess(config, kTable, kStatistics);
  const auto input = preprocess.fill(FieldUse::input), target = preprocess.fill(FieldUse::target);
  EXPECT_NEAR(input[0], 0, 1e-14);
  EXPECT_DOUBLE_EQ(input[1], preprocess.normalise(1, 271));
  EXPECT_DOUBLE_EQ(input[2], preprocess.normalise(2, 1));
  EXPECT_DOUBLE_EQ(input[3], preprocess.normalise(3, 50));
  EXPECT_DOUBLE_EQ(target[2], input[2]);
  for (const size_t output : {0, 1, 3}) EXPECT_TRUE(std::isnan(target[output]));
  EXPECT_TRUE(preprocess.imputes(0));
}

TEST(Preprocess, CopyTakesTheOtherVariable) {
  PreprocessConfig config;
  config.imputer.copy = {{"sst", "t"}};
  const Preprocess preprocess(config, kTable, kStatistics);
  const std::vector<std::vector<float>> raw{{280, 281}, {kNaN, 290}, {0, 1}, {0, 0}};
  const Fields input = fields_of(raw), target = fields_of(raw);
  preprocess.impute_copies(input.view, FieldUse::input);
  EXPECT_EQ(row_of(input.view, 1), (std::vector<float>{280, 290}));
  preprocess.impute_copies(target.view, FieldUse::target);
  EXPECT_TRUE(std::isnan(target.view.row<float>(1)[0]));
}

TEST(Preprocess, NanOfTheStartIsRestoredInOutputs) {
  PreprocessConfig config;
  config.imputer.mean = {"sst", "lsm", "tp"};
  const Preprocess preprocess(config, kTable, kStatistics);
  const Fields start = fields_of({{280, 281, 282}, {290, kNaN, 291}, {kNaN, 0, 0}, {kNaN, 0, 0}});
  const NanMask mask = preprocess.nan_mask(start.view);
  EXPECT_EQ(mask.output_columns, std::vector<int32_t>{1});
  EXPECT_EQ(mask.missing, (std::vector<uint8_t>{0, 1, 0}));

  const Fields out = fields_of({{280, 281, 282}, {290, 291, 292}, {0, 3, 6}});
  preprocess.restore_nan(out.view, mask);
  EXPECT_EQ(row_of(out.view, 0), (std::vector<float>{280, 281, 282}));
  EXPECT_EQ(out.view.row<float>(1)[0], 290.0f);
  EXPECT_TRUE(std::isnan(out.view.row<float>(1)[1]));
  EXPECT_EQ(out.view.row<float>(1)[2], 292.0f);
  EXPECT_EQ(row_of(out.view, 2), (std::vector<float>{0, 3, 6}));
  EXPECT_NE(message_of([&] {
              preprocess.restore_nan(out.view.columns({0, 2}), mask);
            }).find("shape: restore_nan"),
            std::string::npos);
  EXPECT_EQ(preprocess.output_mul().size(), 3u);
  EXPECT_EQ(preprocess.output_mul()[2], preprocess.mul()[3]);
  EXPECT_EQ(preprocess.output_add()[1], preprocess.add()[1]);
}

TEST(Preprocess, UnexpectedNanNamesVariableDateAndRemedy) {
  PreprocessConfig config;
  config.imputer.mean = {"sst"};
  const Preprocess preprocess(config, kTable, kStatistics);
  EXPECT_NO_THROW(preprocess.check_finite(fields_of({{1, 2}, {kNaN, 1}, {0, 0}, {0, 0}}).view, "2020-01-01T00:00:00"));
  const std::string nan = message_of([&] {
    preprocess.check_finite(fields_of({{1, 2}, {1, 1}, {0, 0}, {0, kNaN}}).view, "2020-01-01T00:00:00");
  });
  EXPECT_NE(nan.find("corrupt_data: 2020-01-01T00:00:00: variable 'tp' is NaN in 1 of 2 cells"), std::string::npos)
      << nan;
  EXPECT_NE(nan.find("imputer"), std::string::npos);
  EXPECT_NE(message_of([&] {
              preprocess.check_finite(fields_of({{1, 2}, {INFINITY, 1}, {0, 0}, {0, 0}}).view, "d");
            }).find("'sst' is infinite"),
            std::string::npos);
}

TEST(Preprocess, ConfigErrors) {
  const auto fails_with = [](const PreprocessConfig& config, const VariableStatistics& statistics, const char* text) {
    const std::string message = message_of([&] { Preprocess(config, kTable, statistics); });
    EXPECT_NE(message.find(text), std::string::npos) << message;
    EXPECT_EQ(message.find("config: "), 0u) << message;
  };
  PreprocessConfig unknown, twice, twice_imputed, chain, self, absent;
  unknown.normaliser.std = {"tq"};
  fails_with(unknown, kStatistics, "normaliser.std: the dataset has no variable 'tq'");
  twice.normaliser.std = {"t"};
  twice.normaliser.max = {"t"};
  fails_with(twice, kStatistics, "'t' is listed under 'std' and under 'max'");
  twice_imputed.imputer.constant = {{"t", 0}};
  twice_imputed.imputer.mean = {"t"};
  fails_with(twice_imputed, kStatistics, "keep one");
  chain.imputer.copy = {{"t", "sst"}};
  chain.imputer.mean = {"sst"};
  fails_with(chain, kStatistics, "which is imputed itself");
  self.imputer.copy = {{"t", "t"}};
  fails_with(self, kStatistics, "copy itself");
  absent.normaliser.fallback = Normalisation::max;
  fails_with(absent, {.mean = {0, 0, 0, 0}, .stdev = {1, 1, 1, 1}, .minimum = {}, .maximum = {}, .tendency_stdev = {}},
             "needs the statistic 'maximum'");
  VariableStatistics constant = kStatistics;
  constant.stdev[2] = 0;
  fails_with({}, constant, "'lsm' would be divided by 0");
}

}  // namespace
}  // namespace boreas
