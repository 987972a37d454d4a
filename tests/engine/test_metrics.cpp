// Baselines and scores against the recipe written out, and against the published numbers of a real dataset.
#include "engine/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>

#include "engine/text_file.h"
#include "tests/engine/small_dataset.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::noise;
using test::SmallDataset;

constexpr TimeStep kMonth{0, 1}, kSixHours{6 * 3600, 0};

// The recipe of the header, term by term, in f64, with every field in memory.
class Direct {
 public:
  Direct(const SmallDataset& data, Range period, bool hourly) : data_(data), hourly_(hourly) {
    for (int64_t t = period.begin; t < period.end; ++t)
      if (!data.missing.contains(t)) dates_.push_back(t);
  }

  double value(int64_t v, int64_t t, int64_t c) const { return data_.variables[size_t(v)].value(t, c); }

  double climatology(int64_t v, int64_t t, int64_t c) const {
    double sum = 0;
    int64_t count = 0;
    for (const int64_t s : dates_)
      if (bin(s) == bin(t)) sum += value(v, s, c), ++count;
    return sum / double(count);
  }

  double alpha(int64_t v, int64_t lead) const {
    double product = 0, square = 0;
    for (const int64_t t : dates_)
      for (const int64_t s : dates_)
        if (s + lead == t)
          for (int64_t c = 0; c < data_.num_cells(); ++c) {
            const double earlier = value(v, s, c) - climatology(v, s, c);
            product += (value(v, t, c) - climatology(v, t, c)) * earlier;
            square += earlier * earlier;
          }
    return product / square;
  }

  double weight(int64_t c) const {
    double total = 0;
    for (int64_t other = 0; other < data_.num_cells(); ++other) total += cosine(other);
    return cosine(c) / total;
  }

 private:
  double cosine(int64_t c) const { return std::cos(data_.latitude(c) * std::numbers::pi / 180); }
  int bin(int64_t t) const {
    const CivilTime civil = civil_time(data_.dates[size_t(t)]);
    return civil.month * 100 + (hourly_ ? civil.hour : 0);
  }

  const SmallDataset& data_;
  bool hourly_;
  std::vector<int64_t> dates_;
};

SmallDataset seasonal_data(const std::string& first, TimeStep step, int64_t num_dates) {
  SmallDataset data;
  data.num_rows = 3;
  data.num_columns = 4;
  data.dates = test::dates_from(first, step, num_dates);
  const auto seasonal = [](int64_t v) {
    return [v](int64_t t, int64_t c) {
      return float(3 * std::sin(0.5 * double(t) + double(v))) + noise(v, t, c) + 0.7F * noise(v, t - 1, c);
    };
  };
  data.variables = {{"u", "m s-1", seasonal(0)}, {"skipped", "", seasonal(1)}, {"v", "K", seasonal(2)}};
  return data;
}

struct Case {
  const char* name;
  std::string first;
  TimeStep step;
  int64_t num_dates;
  Range period;
  ClimatologyBins bins;
  bool hourly;
};

struct AgainstDirect : testing::TestWithParam<Case> {
  test::TemporaryFolder folder;
};

TEST_P(AgainstDirect, BaselinesAndScores) {
  const Case& test = GetParam();
  SmallDataset data = seasonal_data(test.first, test.step, test.num_dates);
  data.missing = {test.period.begin + 1, test.period.begin + 6, test.period.end + 2};
  data.write(folder / "data.zarr");
  const DatasetReader reader = DatasetReader::open({.path = folder / "data.zarr"});
  constexpr int64_t kMaxLead = 3;
  const std::vector<int64_t> variables = {2, 0};  // any order of any variables
  const Range cells{0, data.num_cells()};
  const Baselines baselines(reader, variables, test.period, test.bins, kMaxLead, cells);
  const Direct direct(data, test.period, test.hourly);
  const int64_t num_dates = int64_t(data.dates.size());

  for (size_t v = 0; v < variables.size(); ++v) {
    for (int64_t lead = 1; lead <= kMaxLead; ++lead)
      EXPECT_NEAR(baselines.alpha(int64_t(v), lead), direct.alpha(variables[v], lead), 1e-6);
    for (int64_t t = 0; t < num_dates; ++t) {
      const auto climatology = baselines.climatology(data.dates[size_t(t)], int64_t(v));
      for (int64_t c = 0; c < cells.end; ++c)
        EXPECT_NEAR(climatology[size_t(c)], direct.climatology(variables[v], t, c), 2e-6);
    }
  }

  // A shard of the cells has the same climatology.
  const Baselines shard(reader, variables, test.period, test.bins, 1, {3, 7});
  const auto whole = baselines.climatology(data.dates[0], 1), part = shard.climatology(data.dates[0], 1);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 3));

  // Scores of a forecast that is wrong in a known way.
  const auto forecast = [&](int64_t v, int64_t t, int64_t c) {
    return float(direct.value(v, t, c)) + 0.3F + 0.5F * noise(7, t, c);
  };
  ScoreBoard board({"v", "u"}, {"K", "m s-1"}, cosine_latitude_weights(reader.latitudes()), kMaxLead, baselines);
  const auto field = [&](auto&& value) {
    std::vector<float> values;
    for (int64_t c = 0; c < cells.end; ++c) values.push_back(value(c));
    return values;
  };
  for (int64_t lead = 1; lead <= kMaxLead; ++lead)
    for (int64_t t = test.period.end; t < num_dates; ++t)
      for (size_t v = 0; v < variables.size(); ++v) {
        if (data.missing.contains(t) || data.missing.contains(t - lead)) continue;
        board.add(int64_t(v), lead, data.dates[size_t(t - lead)], data.dates[size_t(t)],
                  field([&](int64_t c) { return forecast(variables[v], t, c); }),
                  field([&](int64_t c) { return float(direct.value(variables[v], t, c)); }),
                  field([&](int64_t c) { return float(direct.value(variables[v], t - lead, c)); }));
      }
  const std::vector<ForecastScore> scores = board.scores();
  ASSERT_EQ(scores.size(), 2U * kMaxLead);
  for (size_t i = 0; i < scores.size(); ++i) {
    const ForecastScore& score = scores[i];
    const int64_t v = variables[i / kMaxLead], lead = int64_t(i % kMaxLead) + 1;
    EXPECT_EQ(score.variable, data.variables[size_t(v)].name);
    EXPECT_EQ(score.units, data.variables[size_t(v)].units);
    EXPECT_EQ(score.lead_steps, lead);
    const double alpha = direct.alpha(v, lead);
    double square = 0, bias = 0, correlation = 0, persistence = 0, climatology = 0, damped = 0, hours = 0;
    int64_t count = 0;
    for (int64_t t = test.period.end; t < num_dates; ++t) {
      if (data.missing.contains(t) || data.missing.contains(t - lead)) continue;
      double fa = 0, ff = 0, aa = 0;
      for (int64_t c = 0; c < cells.end; ++c) {
        const double w = direct.weight(c), x = direct.value(v, t, c), f = forecast(v, t, c);
        const double mean = direct.climatology(v, t, c), start = direct.value(v, t - lead, c);
        square += w * std::pow(f - x, 2);
        bias += w * (f - x);
        persistence += w * std::pow(start - x, 2);
        climatology += w * std::pow(mean - x, 2);
        damped += w * std::pow(mean + alpha * (start - direct.climatology(v, t - lead, c)) - x, 2);
        fa += w * (f - mean) * (x - mean);
        ff += w * (f - mean) * (f - mean);
        aa += w * (x - mean) * (x - mean);
      }
      correlation += fa / std::sqrt(ff * aa);
      hours += double(data.dates[size_t(t)] - data.dates[size_t(t - lead)]) / 3600;
      ++count;
    }
    const double n = double(count);
    EXPECT_EQ(score.num_targets, count);
    EXPECT_NEAR(score.lead_hours, hours / n, 1e-9);
    EXPECT_NEAR(score.rmse, std::sqrt(square / n), 1e-5);
    EXPECT_NEAR(score.bias, bias / n, 1e-5);
    EXPECT_NEAR(score.anomaly_correlation, correlation / n, 1e-5);
    EXPECT_NEAR(score.rmse_persistence, std::sqrt(persistence / n), 1e-5);
    EXPECT_NEAR(score.rmse_climatology, std::sqrt(climatology / n), 1e-5);
    EXPECT_NEAR(score.rmse_damped_anomaly, std::sqrt(damped / n), 1e-5);
    EXPECT_EQ(score.damping, baselines.alpha(int64_t(i) / kMaxLead, lead));
    const double best = std::min({persistence, climatology, damped});
    EXPECT_NEAR(score.skill(), 1 - square / best, 1e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Metrics, AgainstDirect,
    testing::Values(Case{"Months", "1990-01", kMonth, 40, {2, 26}, ClimatologyBins::automatic, false},
                    Case{"SixHoursByHour", "1990-01-25", kSixHours, 60, {0, 50}, ClimatologyBins::automatic, true},
                    Case{"SixHoursByMonth", "1990-01-25", kSixHours, 60, {0, 50}, ClimatologyBins::month, false},
                    Case{"DaysByHour", "1990-01-10", {86400, 0}, 50, {0, 40}, ClimatologyBins::month_hour, true}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Metrics, WeightsAreTheCosineOfLatitude) {
  const std::vector<double> weights = cosine_latitude_weights(std::vector<double>{-90, 0, 60, 90});
  EXPECT_NEAR(weights[0], 0, 1e-15);
  EXPECT_NEAR(weights[1], 2.0 / 3, 1e-15);
  EXPECT_NEAR(weights[2], 1.0 / 3, 1e-15);
  EXPECT_GE(weights[3], 0);
  BOREAS_EXPECT_ERROR(cosine_latitude_weights(std::vector<double>{0, 91}), invalid_argument, "latitude 91");
}

TEST(Metrics, APeriodWithoutTheVerifiedMonthIsAnError) {
  const test::TemporaryFolder folder;
  SmallDataset data = seasonal_data("1990-01", kMonth, 12);
  data.missing = {0, 1, 2};
  data.write(folder / "data.zarr");
  const DatasetReader reader = DatasetReader::open({.path = folder / "data.zarr"});
  const Baselines baselines(reader, {0}, {0, 6}, ClimatologyBins::automatic, 1, {0, 12});
  EXPECT_NO_THROW(baselines.climatology(parse_date("1999-06-30T12"), 0));
  BOREAS_EXPECT_ERROR(baselines.climatology(parse_date("1990-02"), 0), config,
                      "u is verified on 1990-02-01T00:00:00, but the climatology period has no date of that calendar "
                      "month; widen evaluation.climatology_start");
  BOREAS_EXPECT_ERROR(Baselines(reader, {0}, {0, 3}, ClimatologyBins::automatic, 1, {0, 12}), config,
                      "no date with data");
}

// Fields may be undefined somewhere (sea surface temperature over land): those cells are left out.
TEST(Metrics, CellsWithoutTruthAreLeftOut) {
  const test::TemporaryFolder folder;
  SmallDataset data = seasonal_data("1990-01", kMonth, 30);
  data.variables.resize(1);
  data.write(folder / "whole.zarr");
  data.allow_nans = true;
  const auto value = data.variables[0].value;
  data.variables[0].value = [&](int64_t t, int64_t c) { return c < 4 ? std::nanf("") : value(t, c); };
  data.write(folder / "nan.zarr");

  const auto score = [&](const std::string& path, Range cells) {
    const DatasetReader reader = DatasetReader::open({.path = path});
    const Baselines baselines(reader, {0}, {0, 24}, ClimatologyBins::automatic, 1, cells);
    const std::vector<double> latitudes = reader.latitudes(cells);
    ScoreBoard board({"u"}, {""}, cosine_latitude_weights(latitudes), 1, baselines);
    std::vector<float> forecast(size_t(cells.size()), 0.5F), truth(forecast.size()), initial(forecast.size());
    for (int64_t t = 24; t < 30; ++t) {
      reader.read(t, {0}, cells, truth.data());
      reader.read(t - 1, {0}, cells, initial.data());
      board.add(0, 1, data.dates[size_t(t - 1)], data.dates[size_t(t)], forecast, truth, initial);
    }
    return board.scores().at(0);
  };
  const ForecastScore expected = score(folder / "whole.zarr", {4, 12}), found = score(folder / "nan.zarr", {0, 12});
  EXPECT_NEAR(found.rmse, expected.rmse, 1e-9);
  EXPECT_NEAR(found.bias, expected.bias, 1e-9);
  EXPECT_NEAR(found.anomaly_correlation, expected.anomaly_correlation, 1e-9);
  EXPECT_NEAR(found.rmse_persistence, expected.rmse_persistence, 1e-9);
  EXPECT_NEAR(found.rmse_climatology, expected.rmse_climatology, 1e-9);
  EXPECT_NEAR(found.rmse_damped_anomaly, expected.rmse_damped_anomaly, 1e-9);
  EXPECT_NEAR(found.damping, expected.damping, 1e-9);
}

TEST(Metrics, OneMemberOnly) {
  const test::TemporaryFolder folder;
  SmallDataset data = seasonal_data("1990-01", kMonth, 12);
  data.num_members = 2;
  data.write(folder / "data.zarr");
  const DatasetReader reader = DatasetReader::open({.path = folder / "data.zarr"});
  BOREAS_EXPECT_ERROR(Baselines(reader, {0}, {0, 6}, ClimatologyBins::automatic, 1, {0, 12}), unsupported,
                      "has 2 members");
}

// Members 1 and 4 of truth 2 in all cells: mean 2.5, variance 4.5, and (1 + 2) / 2 - 3 / 2.
TEST(Metrics, EnsemblesHaveSpreadAndAFairCrps) {
  const test::TemporaryFolder folder;
  SmallDataset data = seasonal_data("1990-01", kMonth, 24);
  data.write(folder / "data.zarr");
  const DatasetReader reader = DatasetReader::open({.path = folder / "data.zarr"});
  const int64_t n = reader.num_cells();
  const Baselines baselines(reader, {0}, {0, 24}, ClimatologyBins::automatic, 1, {0, n});
  const auto scores_of = [&](const std::vector<std::vector<float>>& members) {
    ScoreBoard board({"x"}, {""}, cosine_latitude_weights(reader.latitudes()), 1, baselines);
    const std::vector<std::span<const float>> spans(members.begin(), members.end());
    const std::vector<float> truth(size_t(n), 2.0F), initial(size_t(n), 0.0F);
    board.add(0, 1, data.dates[0], data.dates[1], spans, truth, initial);
    return board.scores().at(0);
  };
  const std::vector<float> one(size_t(n), 1.0F), four(size_t(n), 4.0F), six(size_t(n), 6.0F);
  const ForecastScore two = scores_of({four, one});
  EXPECT_EQ(two.num_members, 2);
  EXPECT_NEAR(two.rmse, 0.5, 1e-12);
  EXPECT_NEAR(two.spread, std::sqrt(4.5), 1e-12);
  EXPECT_NEAR(two.crps, 1.5 - 1.5, 1e-12);
  // 1, 4, 6: mean error 7 / 3, pairs 3 + 5 + 2.
  const ForecastScore three = scores_of({six, one, four});
  EXPECT_NEAR(three.rmse, 11.0 / 3 - 2, 1e-6);
  EXPECT_NEAR(three.crps, 7.0 / 3 - 10.0 / 6, 1e-12);
  EXPECT_NE(score_table({three}).find("of the mean of 3 members"), std::string::npos);
  const ForecastScore single = scores_of({four});
  EXPECT_EQ(single.num_members, 1);
  EXPECT_EQ(single.spread, 0);
  write_scores(folder / "scores.json", {three, single}, "{}");
  const auto document = nlohmann::json::parse(read_text_file(folder / "scores.json"));
  EXPECT_EQ(document["scores"][0]["num_members"], 3);
  EXPECT_FALSE(document["scores"][1].contains("crps"));
}

TEST(Metrics, ScoresAreWrittenAsOneRecordEach) {
  const test::TemporaryFolder folder;
  const std::vector<ForecastScore> scores = {{.variable = "u",
                                              .units = "m s-1",
                                              .lead_steps = 1,
                                              .lead_hours = 730.5,
                                              .num_targets = 36,
                                              .rmse = 1.5,
                                              .bias = -0.25,
                                              .anomaly_correlation = 0.5,
                                              .rmse_persistence = 3,
                                              .rmse_climatology = 2,
                                              .rmse_damped_anomaly = 2.5,
                                              .damping = 0.3},
                                             {.variable = "u", .units = "m s-1", .lead_steps = 2, .rmse = 2}};
  write_scores(folder / "evaluation.json", scores, R"({"dataset": "winds"})");
  const auto document = nlohmann::json::parse(read_text_file(folder / "evaluation.json"));
  EXPECT_EQ(document["dataset"], "winds");
  ASSERT_EQ(document["scores"].size(), 2U);
  EXPECT_EQ(document["scores"][0], nlohmann::json::parse(R"({
    "variable": "u", "units": "m s-1", "lead_steps": 1, "lead_hours": 730.5, "num_targets": 36, "rmse": 1.5,
    "bias": -0.25, "anomaly_correlation": 0.5, "rmse_persistence": 3.0, "rmse_climatology": 2.0,
    "rmse_damped_anomaly": 2.5, "damping": 0.3})"));
  EXPECT_EQ(document["scores"][1]["lead_steps"], 2);
  EXPECT_DOUBLE_EQ(scores[0].skill(), 1 - 1.5 * 1.5 / 4);
  EXPECT_NE(score_table(scores).find("2.500 (0.300)   43.8%"), std::string::npos) << score_table(scores);
}

// The numbers that anyone gets from this file (Debian package ferret-datasets) with the recipe of the header.
TEST(Metrics, BaselinesOfTheNavyWindsAreTheKnownOnes) {
  const std::string winds = "/usr/share/ferret-vis/data/monthly_navy_winds.cdf";
  if (!std::filesystem::exists(winds)) GTEST_SKIP() << winds << " is absent: install ferret-datasets";
  const test::TemporaryFolder folder;
  try {
    create_dataset({.inputs = {winds},
                    .output = folder / "winds.zarr",
                    .variables = {"UWND", "VWND"},
                    .rename = {{"UWND", "u"}, {"VWND", "v"}}});
  } catch (const Error& error) {
    if (error.code() == ErrorCode::unsupported) GTEST_SKIP() << error.what();
    throw;
  }
  const DatasetReader reader = DatasetReader::open({.path = folder / "winds.zarr"});
  ASSERT_EQ(reader.num_dates(), 132);
  const Range cells{0, reader.num_cells()};
  const Baselines baselines(reader, {0, 1}, {0, 96}, ClimatologyBins::automatic, 1, cells);
  ScoreBoard board({"u", "v"}, {"m s-1", "m s-1"}, cosine_latitude_weights(reader.latitudes()), 1, baselines);
  const size_t num_cells = size_t(cells.end);
  std::vector<float> truth(2 * num_cells), initial(2 * num_cells);
  for (int64_t t = 96; t < 132; ++t) {
    reader.read(t, {0, 1}, cells, truth.data());
    reader.read(t - 1, {0, 1}, cells, initial.data());
    for (int64_t v = 0; v < 2; ++v) {
      const std::span<const float> x(truth.data() + size_t(v) * num_cells, num_cells);
      const std::span<const float> start(initial.data() + size_t(v) * num_cells, num_cells);
      board.add(v, 1, reader.dates()[size_t(t - 1)], reader.dates()[size_t(t)], start, x, start);
    }
  }
  const std::vector<ForecastScore> scores = board.scores();
  ASSERT_EQ(scores.size(), 2U);
  const double expected[2][4] = {{2.398, 2.127, 1.991, 0.311}, {1.878, 1.716, 1.576, 0.313}};
  for (size_t v = 0; v < 2; ++v) {
    EXPECT_EQ(scores[v].num_targets, 36);
    EXPECT_DOUBLE_EQ(scores[v].lead_hours, 730.5);
    EXPECT_NEAR(scores[v].rmse_persistence, expected[v][0], 5e-4);
    EXPECT_NEAR(scores[v].rmse_climatology, expected[v][1], 5e-4);
    EXPECT_NEAR(scores[v].rmse_damped_anomaly, expected[v][2], 5e-4);
    EXPECT_NEAR(scores[v].damping, expected[v][3], 5e-4);
    EXPECT_NEAR(scores[v].rmse, scores[v].rmse_persistence, 1e-12);  // the forecast was persistence
  }
}

}  // namespace
}  // namespace boreas
