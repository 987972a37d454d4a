// Evaluations: which dates they verify, and that their scores are those of the forecasts.
#include "engine/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "engine/forecast_output.h"
#include "engine/memory_plan.h"
#include "tests/engine/small_model.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::small_config;
using test::small_data;
using test::SmallDataset;
using test::SmallWorld;

// Dates 30 .. 39 are verified; 0 .. 29 make the climatology.
EvaluationConfig last_ten(const SmallDataset& data, int64_t lead_steps) {
  return {.start = format_date(data.dates[30]), .end = format_date(data.dates[39]), .lead_steps = lead_steps};
}

SmallDataset forty_days() {
  SmallDataset data = small_data(40);
  data.dates = test::dates_from("2001-03-01", {86400, 0}, 40);
  return data;
}

EvaluationConfig in_one_month(const SmallDataset& data, int64_t lead_steps) {
  EvaluationConfig config = last_ten(data, lead_steps);
  config.climatology_end = format_date(data.dates[29]);
  return config;
}

SmallDataset one_month() {
  SmallDataset data = forty_days();
  data.dates = test::dates_from("2001-03-01", {12 * 3600, 0}, 40);  // to 20 March: each bin occurs in both periods
  return data;
}

TEST(Evaluation, ScoresAreThoseOfForecastsToTheSameTargetsAtEveryLead) {
  const SmallDataset data = one_month();
  const SmallWorld world(data, small_config(data, 2));
  std::vector<std::pair<int64_t, int64_t>> calls;
  const Evaluation evaluation = evaluate(world.model, world.reader, in_one_month(data, 3),
                                         [&](int64_t done, int64_t total) { calls.emplace_back(done, total); });
  EXPECT_EQ(evaluation.targets.begin, 30);
  EXPECT_EQ(evaluation.targets.end, 40);
  EXPECT_EQ(evaluation.climatology.begin, 0);
  EXPECT_EQ(evaluation.climatology.end, 30);
  ASSERT_FALSE(calls.empty());
  EXPECT_EQ(calls.front().first, 0);
  EXPECT_EQ(calls.back().first, calls.back().second);

  const std::vector<std::string> outputs = world.model.variables().output_names();
  std::vector<int64_t> variables;
  for (const std::string& name : outputs) variables.push_back(world.reader.index_of(name));
  const Range cells{0, data.num_cells()};
  const Baselines baselines(world.reader, variables, {0, 30}, ClimatologyBins::automatic, 3, cells);
  ScoreBoard board(outputs, {"m s-1", "kg", "K"}, cosine_latitude_weights(world.reader.latitudes()), 3, baselines);
  Forecaster forecaster(world.model, world.reader);
  std::vector<float> truth(variables.size() * size_t(cells.end)), initial(truth.size());
  for (int64_t lead = 1; lead <= 3; ++lead)
    for (int64_t target = 30; target < 40; ++target) {
      world.reader.read(target, variables, cells, truth.data());
      world.reader.read(target - lead, variables, cells, initial.data());
      forecaster.run(world.date(target - lead), lead, [&](int64_t at, int64_t, std::span<const float> fields) {
        if (at != lead) return;
        const auto field = [&](const float* values, size_t v) {
          return std::span<const float>(values + v * size_t(cells.end), size_t(cells.end));
        };
        for (size_t v = 0; v < variables.size(); ++v)
          board.add(int64_t(v), lead, world.date(target - lead), world.date(target), field(fields.data(), v),
                    field(truth.data(), v), field(initial.data(), v));
      });
    }
  const std::vector<ForecastScore> expected = board.scores();
  ASSERT_EQ(evaluation.scores.size(), 9U);  // three outputs, three leads
  for (size_t i = 0; i < expected.size(); ++i) {
    const ForecastScore& score = evaluation.scores[i];
    SCOPED_TRACE(fmt::format("{} lead {}", score.variable, score.lead_steps));
    EXPECT_EQ(score.variable, expected[i].variable);
    EXPECT_EQ(score.units, expected[i].units);
    EXPECT_EQ(score.lead_steps, expected[i].lead_steps);
    EXPECT_EQ(score.num_targets, 10);
    EXPECT_EQ(score.lead_hours, 12.0 * double(score.lead_steps));
    EXPECT_NEAR(score.rmse, expected[i].rmse, 1e-12);
    EXPECT_NEAR(score.bias, expected[i].bias, 1e-12);
    EXPECT_NEAR(score.anomaly_correlation, expected[i].anomaly_correlation, 1e-12);
    EXPECT_NEAR(score.rmse_persistence, expected[i].rmse_persistence, 1e-12);
    EXPECT_NEAR(score.rmse_climatology, expected[i].rmse_climatology, 1e-12);
    EXPECT_NEAR(score.rmse_damped_anomaly, expected[i].rmse_damped_anomaly, 1e-12);
    EXPECT_EQ(score.damping, expected[i].damping);
  }
}

// Forecasts of all members, by hand; states of an ensemble that ends before the truth does.
TEST(Evaluation, TheMeanOfAnEnsembleIsVerifiedAgainstTheTruth) {
  const SmallDataset data = one_month();
  const SmallWorld world(data, small_config(data, 2, 2));
  SmallDataset ensemble = data;
  ensemble.num_members = 3;
  ensemble.member_step = 0.5F;
  const DatasetReader starts = world.open("ensemble.zarr", ensemble);
  const EvaluationConfig config = in_one_month(data, 3);
  BOREAS_EXPECT_ERROR(evaluate(world.model, starts, config), unsupported, "name it as evaluation.truth");
  const int64_t arena_before = live_bytes("arena"), staging_before = live_bytes("staging");
  int64_t arena = 0, staging = 0;
  const Evaluation evaluation = evaluate(world.model, starts, world.reader, config, [&](int64_t, int64_t) {
    arena = std::max(arena, live_bytes("arena") - arena_before);
    staging = std::max(staging, live_bytes("staging") - staging_before);
  });
  ASSERT_EQ(evaluation.scores.size(), 9U);
  ModelSetup setup = world.model.setup();
  setup.num_members = starts.num_members();
  const MemoryReport report = plan_memory(setup, world.model.device());
  const auto planned = [&](const std::string& owner) {
    for (const MemoryReport::Line& line : report.evaluation)
      if (line.owner == owner) return line.bytes;
    return int64_t{-1};
  };
  EXPECT_EQ(arena, planned("saved") + planned("scratch"));
  EXPECT_EQ(staging, planned("staging") + 1);  // a byte stands for the arena of CellGather, which computes nothing
  EXPECT_EQ(planned("kept"), 3 * 2 * 3 * data.num_cells() * 4);  // members, output steps, variables
  EXPECT_EQ(report.evaluation_bytes() - report.forecast_bytes(),
            2 * (report.forecast_peak.bytes + ModelState::staging_bytes(world.model)) + planned("kept") -
                ForecastOutput::staging_bytes(world.model, world.model.setup().config.forecast));
  EXPECT_TRUE(plan_memory(world.model.setup(), world.model.device()).evaluation.empty());

  const std::vector<std::string> outputs = world.model.variables().output_names();
  const std::vector<double> weights = cosine_latitude_weights(world.reader.latitudes());
  const auto num_cells = size_t(data.num_cells());
  Forecaster forecaster(world.model, starts);
  for (const int64_t lead : {1, 2, 3}) {
    std::vector<double> square(outputs.size()), variance(outputs.size());
    for (int64_t target = 30; target < 40; ++target) {
      std::vector<std::vector<float>> fields;
      for (const int64_t member : {0, 1, 2})
        forecaster.run(
            world.date(target - lead), lead,
            [&](int64_t at, int64_t, std::span<const float> values) {
              if (at == lead) fields.emplace_back(values.begin(), values.end());
            },
            member);
      for (size_t v = 0; v < outputs.size(); ++v)
        for (size_t c = 0; c < num_cells; ++c) {
          const double x = fields[0][v * num_cells + c], y = fields[1][v * num_cells + c],
                       z = fields[2][v * num_cells + c], mean = (x + y + z) / 3;
          const auto& variable = data.variables[size_t(world.reader.index_of(outputs[v]))];
          square[v] += weights[c] * std::pow(mean - variable.value(target, int64_t(c)), 2) / 10;
          variance[v] += weights[c] * (std::pow(x - mean, 2) + std::pow(y - mean, 2) + std::pow(z - mean, 2)) / 20;
        }
    }
    for (size_t v = 0; v < outputs.size(); ++v) {
      const ForecastScore& score = evaluation.scores[v * 3 + size_t(lead - 1)];
      EXPECT_EQ(score.num_members, 3);
      EXPECT_EQ(score.num_targets, 10);
      EXPECT_NEAR(score.rmse, std::sqrt(square[v]), 1e-9 * score.rmse) << score.variable << lead;
      EXPECT_NEAR(score.spread, std::sqrt(variance[v]), 1e-9 * score.spread) << score.variable << lead;
      EXPECT_GT(score.spread, 0);
      EXPECT_LT(score.crps, score.rmse);
    }
  }
  // Where the states of the ensemble end, so do the starts.
  ensemble.dates.resize(36);
  const DatasetReader shorter = world.open("shorter.zarr", ensemble);
  for (const ForecastScore& score : evaluate(world.model, shorter, world.reader, config).scores)
    EXPECT_EQ(score.num_targets, 6 + score.lead_steps);
  SmallDataset other = one_month();
  other.num_rows = 5;
  BOREAS_EXPECT_ERROR(evaluate(world.model, starts, world.open("other.zarr", other), config), config, "has 60 cells");
}

TEST(Evaluation, AModelThatChangesNothingScoresAsPersistence) {
  const SmallDataset data = one_month();
  RunConfig config = small_config(data);
  config.model.decoder.initialise_data_extractor_zero = true;
  const SmallWorld world(data, config);
  for (const ForecastScore& score : evaluate(world.model, world.reader, in_one_month(data, 2)).scores) {
    if (score.variable == "p") continue;  // diagnostic: nothing to persist
    EXPECT_NEAR(score.rmse, score.rmse_persistence, 1e-5 * score.rmse) << score.variable << score.lead_steps;
    EXPECT_GT(score.rmse, 0.1);
  }
}

TEST(Evaluation, DatesWithoutTruthOrStartAreLeftOut) {
  SmallDataset data = one_month();
  data.missing = {35};
  const SmallWorld world(data, small_config(data, 2));
  const Evaluation evaluation = evaluate(world.model, world.reader, in_one_month(data, 2));
  for (const ForecastScore& score : evaluation.scores)
    // Lead 1 loses target 35 and the starts 35 and 36, which need 35; lead 2 the same starts, hence targets 37 and 38.
    EXPECT_EQ(score.num_targets, 7) << score.variable << score.lead_steps;

  // At the beginning of a dataset the long leads have fewer targets.
  EvaluationConfig first = {.start = format_date(data.dates[0]),
                            .end = format_date(data.dates[9]),
                            .climatology_start = format_date(data.dates[10]),
                            .climatology_end = format_date(data.dates[39]),
                            .lead_steps = 2};
  for (const ForecastScore& score : evaluate(world.model, world.reader, first).scores)
    EXPECT_EQ(score.num_targets, score.lead_steps == 1 ? 8 : 7);
}

TEST(Evaluation, MapsShowTheFirstTargetsAtLeadOne) {
  const SmallDataset data = one_month();
  const SmallWorld world(data);
  EvaluationConfig config = in_one_month(data, 2);
  config.num_map_dates = 2;
  const Evaluation evaluation = evaluate(world.model, world.reader, config);
  ASSERT_EQ(evaluation.maps.size(), 6U);
  for (size_t i = 0; i < 6; ++i) {
    const Evaluation::Map& map = evaluation.maps[i];
    EXPECT_EQ(map.variable, world.model.variables().output_names()[i % 3]);
    EXPECT_EQ(map.valid_date, world.date(30 + int64_t(i / 3)));
    EXPECT_EQ(map.lead_steps, 1);
    const auto& variable = data.variables[size_t(world.reader.index_of(map.variable))];
    ASSERT_EQ(map.truth.size(), size_t(data.num_cells()));
    ASSERT_EQ(map.forecast.size(), map.truth.size());
    for (int64_t c = 0; c < data.num_cells(); ++c)
      EXPECT_EQ(map.truth[size_t(c)], variable.value(30 + int64_t(i / 3), c));
  }
  const std::vector<int64_t> some = {3, 4, 70};
  const Evaluation of_some = evaluate(world.model, world.reader, config, {}, some);
  for (size_t i = 0; i < 6; ++i)
    for (size_t k = 0; k < some.size(); ++k)
      EXPECT_EQ(of_some.maps[i].forecast.at(k), evaluation.maps[i].forecast[size_t(some[k])]);
  config.num_map_dates = 0;
  EXPECT_TRUE(evaluate(world.model, world.reader, config).maps.empty());
}

TEST(Evaluation, ClimatologyMayNotKnowTheVerifiedDates) {
  const SmallDataset data = one_month();
  const SmallWorld world(data);
  EvaluationConfig config = in_one_month(data, 1);
  EXPECT_EQ(evaluate(world.model, world.reader, config).climatology.end, 30);
  config.climatology_end = format_date(data.dates[30]);
  BOREAS_EXPECT_ERROR(evaluate(world.model, world.reader, config), config,
                      "the climatology period 2001-03-01T00:00:00 to 2001-03-16T00:00:00 and the verification dates "
                      "2001-03-16T00:00:00 to 2001-03-20T12:00:00 overlap");
  config.climatology_end = "";  // ends before the verification by itself
  EXPECT_EQ(evaluate(world.model, world.reader, config).climatology.end, 30);
  config.start = format_date(data.dates[0]);  // nothing is left before it
  BOREAS_EXPECT_ERROR(evaluate(world.model, world.reader, config), config, "overlap or leave nothing");
}

TEST(Evaluation, ImpossibleSettingsAreErrors) {
  SmallDataset data = one_month();
  data.missing = {30, 32, 34, 36, 38};
  const SmallWorld world(data, small_config(data, 2));
  EvaluationConfig config = in_one_month(data, 0);
  BOREAS_EXPECT_ERROR(evaluate(world.model, world.reader, config), config, "evaluation.lead_steps is 0");
  config.lead_steps = 1;
  config.start = format_date(data.dates[31]);  // never two states in a row
  BOREAS_EXPECT_ERROR(evaluate(world.model, world.reader, config), config, "no forecast could be verified between");
  config.start = "2005-01";
  config.end = "";
  BOREAS_EXPECT_ERROR(evaluate(world.model, world.reader, config), invalid_argument, "2001-03-20T12:00:00");

  // A step of days, March and April: the climatology of March says nothing about April.
  const SmallDataset days = forty_days();
  const SmallWorld spring(days);
  BOREAS_EXPECT_ERROR(evaluate(spring.model, spring.reader, last_ten(days, 1)), config,
                      "is verified on 2001-04-01T00:00:00, but the climatology period has no date of that calendar "
                      "month");
}

}  // namespace
}  // namespace boreas
