#include "io/dataset_writer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "io/dataset_reader.h"
#include "io/forcings.h"
#include "io/moments.h"
#include "io/zarr.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;

// A value that tells date, variable, member and cell.
float value_at(int64_t date, int64_t variable, int64_t member, int64_t cell) {
  return float(date * 100 + variable * 10 + member) + float(cell) / 64;
}

DatasetSpec small_spec(int64_t num_dates) {
  DatasetSpec spec;
  spec.variables = {{"u", "m s-1"}, {"v", "m s-1", "meridional wind"}, {"z", "m2 s-2"}};
  for (int64_t i = 0; i < num_dates; ++i) spec.dates.push_back(parse_date("2020-01-01") + i * 6 * 3600);
  spec.num_members = 2;
  for (int64_t c = 0; c < 12; ++c) {
    spec.latitudes.push_back(-60 + 40 * double(c / 4));
    spec.longitudes.push_back(20 + 90 * double(c % 4));
  }
  spec.field_shape = {3, 4};
  spec.description = "a test";
  spec.statistics_dates = {0, num_dates};
  return spec;
}

std::vector<float> small_fields(int64_t date) {
  std::vector<float> fields;
  for (int64_t v = 0; v < 3; ++v)
    for (int64_t e = 0; e < 2; ++e)
      for (int64_t c = 0; c < 12; ++c) fields.push_back(v == 2 ? value_at(0, v, 0, c) : value_at(date, v, e, c));
  return fields;
}

nlohmann::json attributes_of(const std::string& path) {
  return nlohmann::json::parse(read_attributes(*open_store(path), ""));
}

TEST(DatasetWriter, WritesWhatTheReaderReads) {
  test::TemporaryFolder folder;
  const std::string path = folder / "small.zarr";
  for (const int64_t grid_chunks : {1, 4, 5}) {
    fs::remove_all(path);
    DatasetSpec spec = small_spec(5);
    spec.storage.grid_chunks = grid_chunks;
    DatasetWriter writer(path, spec);
    for (int64_t d = 0; d < 5; ++d) d == 3 ? writer.append_missing() : writer.append(small_fields(d).data());
    EXPECT_FALSE(fs::exists(path));
    writer.close();
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);

    const auto reader = DatasetReader::open({.path = path});
    EXPECT_EQ(reader.variables(), (std::vector<std::string>{"u", "v", "z"}));
    EXPECT_EQ(reader.units(1), "m s-1");
    EXPECT_EQ(reader.dates(), spec.dates);
    EXPECT_EQ(reader.step(), (TimeStep{6 * 3600, 0}));
    EXPECT_EQ(reader.num_members(), 2);
    EXPECT_EQ(reader.latitudes(), spec.latitudes);
    EXPECT_EQ(reader.longitudes(), spec.longitudes);
    EXPECT_EQ(reader.field_shape(), spec.field_shape);
    EXPECT_TRUE(reader.constant(2));
    EXPECT_FALSE(reader.constant(0));
    for (int64_t d = 0; d < 5; ++d) {
      EXPECT_EQ(reader.missing(d), d == 3);
      if (d == 3) continue;
      std::vector<float> fields(72);
      reader.read(d, {0, 12}, fields.data());
      EXPECT_EQ(fields, small_fields(d));
    }
    EXPECT_EQ(ZarrArray::open(open_store(path), "data").chunks(),
              (std::vector<int64_t>{1, 3, 1, (12 + grid_chunks - 1) / grid_chunks}));
  }
}

TEST(DatasetWriter, StatisticsCoverTheChosenDatesOnly) {
  test::TemporaryFolder folder;
  DatasetSpec spec = small_spec(8);
  spec.statistics_dates = {1, 6};
  spec.tendencies = {{6 * 3600, 0}, {12 * 3600, 0}};
  DatasetWriter writer(folder / "a.zarr", spec);
  for (int64_t d = 0; d < 8; ++d) d == 3 ? writer.append_missing() : writer.append(small_fields(d).data());
  writer.close();

  const auto reader = DatasetReader::open({.path = folder / "a.zarr"});
  const int64_t used[] = {1, 2, 4, 5};
  const auto expect_statistics = [&](const Statistics& s, const auto& values_of) {
    for (int64_t v = 0; v < 3; ++v) {
      const std::vector<double> values = values_of(v);
      double mean = 0, variance = 0;
      for (const double x : values) mean += x / double(values.size());
      for (const double x : values) variance += (x - mean) * (x - mean) / double(values.size());
      EXPECT_NEAR(s.mean[v], mean, 1e-9);
      EXPECT_NEAR(s.stdev[v], std::sqrt(variance), 1e-9);
      EXPECT_EQ(s.minimum[v], *std::min_element(values.begin(), values.end()));
      EXPECT_EQ(s.maximum[v], *std::max_element(values.begin(), values.end()));
    }
  };
  expect_statistics(reader.statistics(), [&](int64_t v) {
    std::vector<double> values;
    for (const int64_t d : used) {
      const auto fields = small_fields(d);
      values.insert(values.end(), fields.begin() + v * 24, fields.begin() + (v + 1) * 24);
    }
    return values;
  });
  const auto tendency_values = [&](std::vector<std::pair<int64_t, int64_t>> pairs) {
    return [pairs](int64_t v) {
      std::vector<double> values;
      for (const auto& [early, late] : pairs)
        for (int64_t i = v * 24; i < (v + 1) * 24; ++i)
          values.push_back(double(small_fields(late)[i]) - double(small_fields(early)[i]));
      return values;
    };
  };
  expect_statistics(reader.tendency_statistics({6 * 3600, 0}).value(), tendency_values({{1, 2}, {4, 5}}));
  expect_statistics(reader.tendency_statistics({12 * 3600, 0}).value(), tendency_values({{2, 4}}));
  EXPECT_EQ(reader.tendency_statistics({18 * 3600, 0}), std::nullopt);
  const auto attributes = attributes_of(folder / "a.zarr");
  EXPECT_EQ(attributes["statistics_start_date"], "2020-01-01T06:00:00");
  EXPECT_EQ(attributes["statistics_end_date"], "2020-01-02T06:00:00");
  EXPECT_EQ(attributes["missing_dates"], nlohmann::json({"2020-01-01T18:00:00"}));
  EXPECT_EQ(attributes["constant_fields"], nlohmann::json({"z"}));
  EXPECT_EQ(attributes["frequency"], "6h");
}

TEST(DatasetWriter, MomentsMergeToTheSameAsAllAtOnce) {
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) values.push_back(1e6 + std::sin(i * 12.9898) * 43.758);
  values[17] = NAN;
  const Moments whole = Moments::of(1000, [&](int64_t i) { return values[i]; });
  Moments merged;
  for (int64_t begin = 0; begin < 1000; begin += 125)
    merged.merge(Moments::of(125, [&](int64_t i) { return values[begin + i]; }));
  merged.merge(Moments{});
  EXPECT_EQ(whole.count, 999);
  EXPECT_EQ(merged.count, 999);
  EXPECT_NEAR(merged.mean, whole.mean, 1e-8);
  EXPECT_NEAR(merged.stdev(), whole.stdev(), 1e-9 * whole.stdev());
  EXPECT_EQ(merged.minimum, whole.minimum);
  EXPECT_TRUE(std::isnan(Moments{}.stdev()));
}

TEST(DatasetWriter, DefaultStatisticsLeaveOutTheLastYears) {
  const auto daily = [](std::string_view first, int64_t n) {
    std::vector<int64_t> dates;
    for (int64_t i = 0; i < n; ++i) dates.push_back(parse_date(first) + i * 86400);
    return dates;
  };
  EXPECT_EQ(default_statistics_dates(daily("2000-01-01", 5)), (Range{0, 4}));
  EXPECT_EQ(default_statistics_dates(daily("2000-01-01", 1000)), (Range{0, 800}));
  const auto twelve = daily("2000-01-01", 366 + 365 * 11 + 2), twenty = daily("2000-01-01", 365 * 20 + 5);
  EXPECT_EQ(format_date(twelve[size_t(default_statistics_dates(twelve).end - 1)]), "2010-12-31T00:00:00");
  EXPECT_EQ(format_date(twenty[size_t(default_statistics_dates(twenty).end - 1)]), "2016-12-31T00:00:00");
}

TEST(DatasetWriter, RefusesNanUnlessAllowed) {
  test::TemporaryFolder folder;
  auto fields = small_fields(0);
  fields[30] = NAN;  // of v
  {
    DatasetWriter writer(folder / "a.zarr", small_spec(2));
    BOREAS_EXPECT_ERROR(writer.append(fields.data()), invalid_argument,
                        "variable 'v' holds NaN at 2020-01-01T00:00:00");
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  DatasetSpec spec = small_spec(1);
  spec.allow_nans = true;
  DatasetWriter writer(folder / "a.zarr", spec);
  writer.append(fields.data());
  writer.close();
  const auto reader = DatasetReader::open({.path = folder / "a.zarr"});
  std::vector<float> back(72);
  reader.read(0, {0, 12}, back.data());
  EXPECT_TRUE(std::isnan(back[30]));
  EXPECT_EQ(back[31], fields[31]);
  EXPECT_TRUE(std::isfinite(reader.statistics().mean[1]));
}

TEST(DatasetWriter, RefusesSpecsThatContradictThemselves) {
  test::TemporaryFolder folder;
  const std::string path = folder / "a.zarr";
  const auto refuse = [&](const std::function<void(DatasetSpec&)>& change, const char* message) {
    DatasetSpec spec = small_spec(3);
    change(spec);
    BOREAS_EXPECT_ERROR(DatasetWriter(path, spec), config, message);
    EXPECT_TRUE(fs::is_empty(folder.path()));
  };
  refuse([](DatasetSpec& s) { s.longitudes.pop_back(); }, "12 latitudes but 11 longitudes");
  refuse([](DatasetSpec& s) { s.field_shape = {3, 5}; }, "does not hold 12 cells");
  refuse([](DatasetSpec& s) { s.variables[1].name = "u"; }, "'u' occurs twice");
  refuse([](DatasetSpec& s) { s.dates[2] += 1; }, "not evenly spaced");
  refuse([](DatasetSpec& s) { s.tendencies = {{7 * 3600, 0}}; }, "no multiple of the step 6h");
  refuse([](DatasetSpec& s) { s.storage.grid_chunks = 13; }, "expected 1 to 12");
  refuse(
      [](DatasetSpec& s) {
        s.dates.clear();
        s.statistics_dates = {0, 0};
      },
      "needs dates");
  DatasetWriter writer(path, small_spec(2));
  writer.append(small_fields(0).data());
  BOREAS_EXPECT_ERROR(writer.close(), invalid_argument, "1 of 2 dates were written");
}

// A limit on the size of files stands for a full disk.
TEST(DatasetWriter, FullDiskIsOneErrorAndLeavesNothing) {
  test::TemporaryFolder folder;
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const auto write = [&](rlim_t limit_bytes) {
    const rlimit limit{limit_bytes, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
    DatasetWriter writer(folder / "a.zarr", small_spec(2));
    writer.append(small_fields(0).data());
    writer.append(small_fields(1).data());
    writer.close();
  };
  BOREAS_EXPECT_ERROR(write(10), io, "File too large");    // not even the metadata
  BOREAS_EXPECT_ERROR(write(1000), io, "File too large");  // the attributes at the end
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(DatasetWriter, KeepsCalendarMonthsAndHalfHours) {
  test::TemporaryFolder folder;
  for (const TimeStep step : {TimeStep{0, 1}, TimeStep{2629800, 0}}) {
    DatasetSpec spec = small_spec(14);
    for (int64_t i = 0; i < 14; ++i) spec.dates[i] = advance(parse_date("1982-01-16T20:00"), step, i);
    const std::string path = folder / (format_step(step) + ".zarr");
    DatasetWriter writer(path, spec);
    for (int64_t d = 0; d < 14; ++d) writer.append(small_fields(d).data());
    writer.close();
    const auto reader = DatasetReader::open({.path = path});
    EXPECT_EQ(reader.step(), step);
    EXPECT_EQ(reader.dates(), spec.dates);
    EXPECT_EQ(attributes_of(path)["frequency"], step.months ? "P1M" : "43830m");
  }
}

TEST(DatasetWriter, RechunksWithoutChangingAnythingElse) {
  test::TemporaryFolder folder;
  DatasetSpec spec = small_spec(4);
  spec.tendencies = {{6 * 3600, 0}};
  DatasetWriter writer(folder / "a.zarr", spec);
  for (int64_t d = 0; d < 4; ++d) d == 1 ? writer.append_missing() : writer.append(small_fields(d).data());
  writer.close();
  int64_t calls = 0;
  rechunk_dataset(folder / "a.zarr", folder / "b.zarr", {.grid_chunks = 3, .compressor = "zstd", .level = 3}, false,
                  [&](int64_t, int64_t total) { calls += total == 4; });
  EXPECT_EQ(calls, 4);
  const auto a = DatasetReader::open({.path = folder / "a.zarr"}), b = DatasetReader::open({.path = folder / "b.zarr"});
  EXPECT_EQ(ZarrArray::open(open_store(folder / "b.zarr"), "data").chunks(), (std::vector<int64_t>{1, 3, 1, 4}));
  EXPECT_EQ(attributes_of(folder / "a.zarr"), attributes_of(folder / "b.zarr"));
  EXPECT_EQ(list_arrays(*open_store(folder / "a.zarr")), list_arrays(*open_store(folder / "b.zarr")));
  EXPECT_EQ(a.statistics().stdev, b.statistics().stdev);
  EXPECT_EQ(a.tendency_statistics({6 * 3600, 0})->mean, b.tendency_statistics({6 * 3600, 0})->mean);
  EXPECT_EQ(a.dates(), b.dates());
  EXPECT_EQ(a.latitudes(), b.latitudes());
  EXPECT_TRUE(b.missing(1));
  std::vector<float> fields(72);
  b.read(3, {0, 12}, fields.data());
  EXPECT_EQ(fields, small_fields(3));
  BOREAS_EXPECT_ERROR(rechunk_dataset(folder / "a.zarr", folder / "b.zarr", {}), config, "exists already");
  rechunk_dataset(folder / "a.zarr", folder / "b.zarr", {.compressor = "none"}, true);
  DatasetReader::open({.path = folder / "b.zarr"}).read(3, {0, 12}, fields.data());
  EXPECT_EQ(fields, small_fields(3));
}

TEST(DatasetWriter, InspectShowsTheWholeAtAGlance) {
  test::TemporaryFolder folder;
  DatasetSpec spec = small_spec(4);
  spec.resolution = "90";
  DatasetWriter writer(folder / "a.zarr", spec);
  for (int64_t d = 0; d < 4; ++d) d == 1 ? writer.append_missing() : writer.append(small_fields(d).data());
  writer.close();
  const std::string text = inspect_dataset(folder / "a.zarr");
  for (const char* part :
       {"Zarr format 2", "4 from 2020-01-01T00:00:00 to 2020-01-01T18:00:00, step 6h", "1: 2020-01-01T06:00:00",
        "12 cells (3 x 4), resolution 90, latitudes -60 to 20, longitudes 20 to 290", "1 x 3 x 1 x 12", "blosc(lz4",
        "m2 s-2", "constant", "stdev"})
    EXPECT_NE(text.find(part), std::string::npos) << "lacks: " << part << "\n" << text;
}

}  // namespace
}  // namespace boreas
