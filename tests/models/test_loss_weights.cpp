#include <gtest/gtest.h>

#include <cmath>

#include "models/loss.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

const VariableTable kTable({"u_500", "u_100", "t_850", "sp", "lsm", "tp", "w_50"},
                           {.forcing = {"lsm"}, .diagnostic = {"tp"}});
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST(VariableScaling, LevelsFollowTheChosenCurve) {
  LossConfig config;
  EXPECT_EQ(variable_scaling(config, kTable, {}), (std::vector<double>{0.5, 0.2, 0.85, 1, 1, 0.2}));
  config.pressure_level.scaling = LevelScaling::linear;
  EXPECT_EQ(variable_scaling(config, kTable, {})[1], 0.1 + 0.2);
  config.pressure_level.scaling = LevelScaling::polynomial;
  EXPECT_EQ(variable_scaling(config, kTable, {})[0], 0.5 * 0.5 + 0.2);
  config.pressure_level.scaling = LevelScaling::none;
  EXPECT_EQ(variable_scaling(config, kTable, {}), std::vector<double>(6, 1.0));
  config.pressure_level.scaling = LevelScaling::relu;
  config.pressure_level.variables = {"t"};
  EXPECT_EQ(variable_scaling(config, kTable, {}), (std::vector<double>{1, 1, 0.85, 1, 1, 1}));
}

TEST(VariableScaling, FullNameBeatsBaseName) {
  LossConfig config;
  config.pressure_level.scaling = LevelScaling::none;
  config.variable_weights = {{"u", 3}, {"u_100", 7}, {"sp", 0}};
  EXPECT_EQ(variable_scaling(config, kTable, {}), (std::vector<double>{3, 7, 1, 0, 1, 1}));
}

TEST(VariableScaling, TendencyWeighsPrognosticVariablesOnly) {
  LossConfig config;
  config.pressure_level.scaling = LevelScaling::none;
  config.tendency = TendencyScaling::stdev;
  VariableStatistics statistics;
  statistics.stdev = {4, 6, 8, 10, 1, 1, 2};
  statistics.tendency_stdev = {2, 2, 2, 2, 1, 0.1, 1};
  EXPECT_EQ(variable_scaling(config, kTable, statistics), (std::vector<double>{2, 3, 4, 5, 1, 2}));
  config.tendency = TendencyScaling::variance;
  EXPECT_EQ(variable_scaling(config, kTable, statistics), (std::vector<double>{4, 9, 16, 25, 1, 4}));
}

TEST(VariableScaling, Errors) {
  LossConfig unknown, negative, tendency;
  unknown.variable_weights = {{"u_50", 1}};
  BOREAS_EXPECT_ERROR(variable_scaling(unknown, kTable, {}), config, "near names: u_500");
  unknown.variable_weights = {{"lsm", 1}};
  BOREAS_EXPECT_ERROR(variable_scaling(unknown, kTable, {}), config, "'lsm' is neither an output");
  negative.variable_weights = {{"tp", -1}};
  BOREAS_EXPECT_ERROR(variable_scaling(negative, kTable, {}), config, "weight of variable 'tp' in the loss is -1");
  tendency.tendency = TendencyScaling::stdev;
  BOREAS_EXPECT_ERROR(variable_scaling(tendency, kTable, {}), config, "no tendency statistics");
}

TEST(NodeScaling, SumsToOneOverTheUnmaskedNodes) {
  const std::vector<double> areas{1, 2, 5, 2};
  EXPECT_EQ(node_scaling(areas), (std::vector<double>{0.1, 0.2, 0.5, 0.2}));
  const std::vector<uint8_t> mask{1, 1, 0, 1}, none(4, 0), short_mask{1};
  EXPECT_EQ(node_scaling(areas, mask), (std::vector<double>{0.2, 0.4, 0, 0.4}));
  BOREAS_EXPECT_ERROR(node_scaling(areas, none), invalid_argument, "would be empty");
  BOREAS_EXPECT_ERROR(node_scaling(areas, short_mask), invalid_argument, "the output mask has 1 values");
  BOREAS_EXPECT_ERROR(node_scaling(std::vector<double>{1, -1}), invalid_argument, "node 1 has area -1");
}

// Two outputs, two steps, three nodes, two items; the formula is written out here.
struct LossCase {
  const VariableTable table{{"a", "b"}, {}};
  const std::vector<double> areas{1, 3, 4};
  static constexpr int64_t kItems = 2, kNodes = 3, kSteps = 2, kColumns = 4;
  LossConfig config;
  Workspace space{7};
  Tensor prediction, target;

  explicit LossCase(Score score, int64_t members = 1) {
    config.score = score;
    config.variable_weights = {{"a", 2}, {"b", 0.5}};
    prediction = space.random(DType::f64, {kItems * members * kNodes, kColumns});
    target = space.random(DType::f64, {kItems * kNodes, kColumns});
  }
  Loss loss(std::span<const uint8_t> mask = {}) const {
    return Loss(config, table, {}, areas, kSteps, DType::f64, Device::cpu(), mask);
  }
  double expected(const std::function<double(double)>& term) const {
    double sum = 0;
    for (int64_t r = 0; r < kItems * kNodes; ++r)
      for (int64_t w = 0; w < kColumns; ++w) {
        const double e = prediction.row<double>(r)[w] - target.row<double>(r)[w];
        if (!std::isnan(e)) sum += areas[size_t(r % kNodes)] / 8 * (w % 2 ? 0.5 : 2) / 4 / kItems * term(e);
      }
    return sum;
  }
  double value(const Loss& loss, int64_t members = 1) {
    const Tensor out = space.output(DType::f64, {1});
    loss.compute(space.ctx, {.prediction = prediction,
                             .target = target,
                             .num_items = kItems,
                             .num_members = members,
                             .loss = out,
                             .d_prediction = {},
                             .loss_scale = 1});
    return *out.as<double>();
  }
};

TEST(Loss, EachScoreIsItsFormula) {
  const std::pair<Score, std::function<double(double)>> terms[] = {
      {Score::mse, [](double e) { return e * e; }},
      {Score::mae, [](double e) { return std::abs(e); }},
      {Score::rmse, [](double e) { return e * e; }},
      {Score::huber, [](double e) { return std::abs(e) < 1 ? e * e / 2 : std::abs(e) - 0.5; }},
      {Score::logcosh, [](double e) { return std::log(std::cosh(e)); }}};
  for (const auto& [score, term] : terms) {
    LossCase c(score);
    const double expected = c.expected(term);
    EXPECT_NEAR(c.value(c.loss()), score == Score::rmse ? std::sqrt(expected) : expected, 1e-13) << to_string(score);
  }
}

TEST(Loss, GradientMatchesFiniteDifferences) {
  for (const Score score : {Score::mse, Score::rmse, Score::logcosh}) {
    LossCase c(score);
    const Loss loss = c.loss();
    const Tensor out = c.space.output(DType::f64, {1}), gradient = c.space.output(DType::f64, c.prediction.shape());
    loss.compute(c.space.ctx, {.prediction = c.prediction,
                               .target = c.target,
                               .num_items = LossCase::kItems,
                               .num_members = 1,
                               .loss = out,
                               .d_prediction = gradient,
                               .loss_scale = 3});
    expect_gradients([&] { return 3 * c.value(loss); }, {{"prediction", c.prediction, gradient}});
  }
}

TEST(Loss, UnweightedScoresOfEachColumn) {
  LossCase c(Score::mse);
  const Tensor out = c.space.output(DType::f64, {LossCase::kColumns});
  c.loss().compute_unweighted(c.space.ctx, {.prediction = c.prediction,
                                            .target = c.target,
                                            .num_items = LossCase::kItems,
                                            .num_members = 1,
                                            .loss = out,
                                            .d_prediction = {},
                                            .loss_scale = 1});
  double weighted = 0;
  for (int64_t w = 0; w < LossCase::kColumns; ++w) weighted += out.as<double>()[w] * (w % 2 ? 0.5 : 2) / 4;
  EXPECT_NEAR(weighted, c.expected([](double e) { return e * e; }), 1e-13);
}

TEST(Loss, NanTargetsAndMaskedNodesCountNothing) {
  LossCase c(Score::mse);
  c.config.ignore_nans = true;
  const double all = c.expected([](double e) { return e * e; });
  c.target.row<double>(2)[1] = kNaN;
  const double expected = c.expected([](double e) { return e * e; });
  EXPECT_LT(expected, all);
  EXPECT_NEAR(c.value(c.loss()), expected, 1e-13);

  const std::vector<uint8_t> mask{1, 0, 1};
  const Loss masked = c.loss(mask);
  const Tensor out = c.space.output(DType::f64, {1}), gradient = c.space.output(DType::f64, c.prediction.shape());
  masked.compute(c.space.ctx, {.prediction = c.prediction,
                               .target = c.target,
                               .num_items = LossCase::kItems,
                               .num_members = 1,
                               .loss = out,
                               .d_prediction = gradient,
                               .loss_scale = 1});
  EXPECT_EQ(gradient.row<double>(2)[1], 0);
  for (int64_t w = 0; w < LossCase::kColumns; ++w) {
    EXPECT_EQ(gradient.row<double>(1)[w], 0);
    EXPECT_EQ(gradient.row<double>(4)[w], 0);
    EXPECT_NE(gradient.row<double>(0)[w], 0);
  }
}

TEST(Loss, CrpsNeedsMembersAndOthersRefuseThem) {
  LossCase crps(Score::crps, 3);
  const double value = crps.value(crps.loss(), 3);
  EXPECT_TRUE(std::isfinite(value));
  EXPECT_GT(value, 0);
  LossCase mse(Score::mse, 3);
  BOREAS_EXPECT_ERROR(mse.value(mse.loss(), 3), invalid_argument, "use crps");
}

TEST(Loss, MembersAreItemsOfOtherScores) {
  for (const Score score : {Score::mse, Score::rmse}) {
    LossCase c(score);
    const double of_items = c.value(c.loss());
    const Tensor out = c.space.output(DType::f64, {1}), gradient = c.space.output(DType::f64, c.prediction.shape()),
                 of_members = c.space.output(DType::f64, c.prediction.shape());
    Loss::Call call{.prediction = c.prediction,
                    .target = c.target,
                    .num_items = LossCase::kItems,
                    .loss = out,
                    .d_prediction = gradient};
    c.loss().compute(c.space.ctx, call);
    call.num_items = 1;
    call.num_members = LossCase::kItems;
    call.d_prediction = of_members;
    c.loss().compute(c.space.ctx, call);
    EXPECT_EQ(*out.as<double>(), of_items);
    EXPECT_TRUE(identical(of_members, gradient));
    if (score == Score::rmse) continue;
    call.all_members = 5;  // this is a share
    c.loss().compute(c.space.ctx, call);
    EXPECT_NEAR(*out.as<double>(), of_items * 2 / 5, 1e-14 * of_items);
    EXPECT_NEAR(of_members.as<double>()[3], gradient.as<double>()[3] * 2 / 5, 1e-14);
  }
}

}  // namespace
}  // namespace boreas::test
