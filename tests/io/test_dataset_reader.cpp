#include "io/dataset_reader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "io/dataset_writer.h"
#include "io/forcings.h"
#include "io/zarr.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Names = std::vector<std::string>;

constexpr int64_t kStep = 6 * 3600, kCells = 40;

// Tells date, variable and cell; exact in f32.
float value_at(int64_t date, const std::string& variable, int64_t cell) {
  return float(date / kStep % 4096) * 16 + float(variable[0] - 'a') + float(cell) / 64;
}

// A folder of small datasets.
struct Datasets : testing::Test {
  test::TemporaryFolder folder;

  // Variables with these one-letter names, from this date on; `missing` are indices.
  std::string make(const std::string& name, const Names& variables, std::string_view first, int64_t num_dates,
                   const std::vector<int64_t>& missing = {}, TimeStep step = {kStep, 0}, double shift = 0) {
    DatasetSpec spec;
    for (const std::string& variable : variables) spec.variables.push_back({variable, "unit of " + variable});
    for (int64_t i = 0; i < num_dates; ++i) spec.dates.push_back(advance(parse_date(first), step, i));
    for (int64_t c = 0; c < kCells; ++c) {
      spec.latitudes.push_back(80 - 4 * double(c));
      spec.longitudes.push_back(double(c * 7 % 360) + shift);
    }
    spec.tendencies = {step};
    const std::string path = folder / name;
    DatasetWriter writer(path, spec);
    for (int64_t d = 0; d < num_dates; ++d) {
      std::vector<float> fields;
      for (const std::string& variable : variables)
        for (int64_t c = 0; c < kCells; ++c) fields.push_back(value_at(spec.dates[d], variable, c));
      if (std::find(missing.begin(), missing.end(), d) != missing.end())
        writer.append_missing();
      else
        writer.append(fields.data());
    }
    writer.close();
    return path;
  }

  // Expects the fields of a date to be those that make() wrote for `stored` names (the names before renaming).
  static void expect_fields(const DatasetReader& reader, int64_t date_index, const Names& stored,
                            Range cells = {0, kCells}) {
    std::vector<float> fields(size_t(reader.num_variables() * cells.size()), -1.0f);
    reader.read(date_index, cells, fields.data());
    for (int64_t v = 0; v < reader.num_variables(); ++v)
      for (int64_t c = 0; c < cells.size(); ++c)
        ASSERT_EQ(fields[v * cells.size() + c], value_at(reader.dates()[date_index], stored[v], cells.begin + c))
            << "variable " << v << " cell " << c;
  }

  static void change_attributes(const std::string& path, const std::function<void(json&)>& change) {
    const auto store = open_store(path);
    json attributes = json::parse(read_attributes(*store, ""));
    change(attributes);
    write_attributes(*store, "", attributes.dump());
  }
  static void replace_array(const std::string& path, const std::string& name, const std::string& dtype,
                            const std::vector<double>& values) {
    const auto store = open_store(path);
    store->erase(name);
    ThreadPool pool(0);
    ZarrSpec spec;
    spec.shape = spec.chunks = {int64_t(values.size())};
    spec.dtype = dtype;
    ZarrArray array = ZarrArray::create(store, name, spec);
    if (dtype == "<f8") {
      array.write(array.whole(), values.data(), pool);
    } else {
      const std::vector<int64_t> integers(values.begin(), values.end());
      array.write(array.whole(), integers.data(), pool);
    }
  }
};

using DatasetReaderTest = Datasets;

TEST_F(DatasetReaderTest, ReadsAnyVariablesAndCells) {
  const std::string path = make("a.zarr", {"a", "b", "c", "d", "e"}, "2020-01-01", 6);
  const auto reader = DatasetReader::open({.path = path});
  for (const Range cells : {Range{0, kCells}, Range{0, 1}, Range{13, 29}, Range{39, 40}, Range{5, 5}})
    expect_fields(reader, 4, reader.variables(), cells);
  const std::vector<int64_t> wanted = {4, 0, 1, 3};
  std::vector<float> fields(4 * 10);
  ReadStats stats;
  reader.read(2, wanted, {20, 30}, fields.data(), &stats);
  for (size_t i = 0; i < wanted.size(); ++i)
    for (int64_t c = 0; c < 10; ++c)
      EXPECT_EQ(fields[i * 10 + c], value_at(reader.dates()[2], reader.variables()[wanted[i]], 20 + c));
  EXPECT_GT(stats.bytes_read, 0);
  EXPECT_EQ(reader.index_of_date(parse_date("2020-01-01T12")), 2);
  EXPECT_EQ(reader.index_of_date(parse_date("2020-01-01T13")), std::nullopt);
}

TEST_F(DatasetReaderTest, DecodesOnlyTheRowsThatAreAskedFor) {
  DatasetSpec spec;
  const int64_t cells = 200000;
  for (const char* name : {"a", "b", "c", "d", "e", "f", "g", "h"}) spec.variables.push_back({name, ""});
  spec.dates = {0};
  spec.latitudes.assign(cells, 0);
  for (int64_t c = 0; c < cells; ++c) spec.longitudes.push_back(double(c) / 1000);
  DatasetWriter writer(folder / "large.zarr", spec);
  std::vector<float> fields(8 * cells);
  for (size_t i = 0; i < fields.size(); ++i) fields[i] = float(i % 9973);
  writer.append(fields.data());
  writer.close();
  const auto reader = DatasetReader::open({.path = folder / "large.zarr", .select = {"c"}});
  std::vector<float> row(cells);
  ReadStats whole, part;
  reader.read(0, {0, cells}, row.data(), &whole);
  for (int64_t c = 0; c < cells; ++c) ASSERT_EQ(row[c], fields[2 * cells + c]);
  EXPECT_LT(whole.bytes_decoded, int64_t(2.5 * cells * 4));  // one of eight rows, and the rest of its blocks
  reader.read(0, {0, cells / 16}, row.data(), &part);
  EXPECT_LE(part.bytes_decoded, 512 << 10);
}

TEST_F(DatasetReaderTest, SelectsDropsReordersAndRenames) {
  const std::string path = make("a.zarr", {"b", "c", "a", "d"}, "2020-01-01", 3);
  {
    const auto reader = DatasetReader::open({.path = path, .select = {"d", "b"}});
    EXPECT_EQ(reader.variables(), (Names{"d", "b"}));
    EXPECT_EQ(reader.units(0), "unit of d");
    expect_fields(reader, 1, {"d", "b"});
  }
  {
    const auto reader = DatasetReader::open({.path = path, .drop = {"c"}, .reorder = {"sort"}});
    EXPECT_EQ(reader.variables(), (Names{"a", "b", "d"}));
    expect_fields(reader, 2, {"a", "b", "d"});
  }
  {
    const auto reader =
        DatasetReader::open({.path = path, .reorder = {"d", "a", "b", "c"}, .rename = {{"a", "b"}, {"b", "a"}}});
    EXPECT_EQ(reader.variables(), (Names{"d", "b", "a", "c"}));
    expect_fields(reader, 0, {"d", "a", "b", "c"});
    const auto plain = DatasetReader::open({.path = path});
    EXPECT_EQ(reader.statistics().mean[1], plain.statistics().mean[2]);
  }
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path, .select = {"a", "a"}}), config, "names variable 'a' twice");
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path, .reorder = {"a", "b", "c"}}), config, "'d' is not in it");
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path, .rename = {{"a", "b"}}}), config,
                      "two variables the name 'b'");
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path, .drop = {"a", "b", "c", "d"}}), config, "leaves no variable");
}

TEST_F(DatasetReaderTest, UnknownVariablesListNearNames) {
  const std::string path = make("a.zarr", {"temperature_500", "temperature_850", "u_10"}, "2020-01-01", 2);
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path, .select = {"temperature_50"}}), config,
                      "near names: temperature_500");
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path, .drop = {"v_10"}}), config, "near names: u_10");
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path}).index_of("temprature_850"), invalid_argument,
                      "near names: temperature_850");
}

TEST_F(DatasetReaderTest, KeepsDatesByStartEndAndFrequency) {
  const std::string path = make("a.zarr", {"a"}, "2020-01-01", 40, {9});
  {
    const auto reader = DatasetReader::open({.path = path, .start = "2020-01-02", .end = "2020-01-03"});
    EXPECT_EQ(reader.num_dates(), 8);
    EXPECT_EQ(format_date(reader.dates()[0]), "2020-01-02T00:00:00");
    EXPECT_TRUE(reader.missing(5));
    expect_fields(reader, 4, {"a"});
  }
  {
    const auto reader = DatasetReader::open({.path = path, .start = "2020-01-01T06", .frequency = "12h"});
    EXPECT_EQ(reader.step(), (TimeStep{12 * 3600, 0}));
    EXPECT_EQ(reader.num_dates(), 20);
    EXPECT_TRUE(reader.missing(4));
    for (const int64_t d : {0, 1, 19}) expect_fields(reader, d, {"a"});
  }
  EXPECT_EQ(DatasetReader::open({.path = path, .end = "80%"}).num_dates(), 32);
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path, .frequency = "9h"}), config,
                      "frequency 9h is not a multiple of the dataset's step 6h");
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path, .start = "2021"}), invalid_argument,
                      "from 2020-01-01T00:00:00 to 2020-01-10T18:00:00");
}

TEST_F(DatasetReaderTest, DatesOutsideOrMissingAreErrors) {
  const auto reader = DatasetReader::open({.path = make("a.zarr", {"a"}, "2020-01-01", 4, {2})});
  std::vector<float> fields(kCells);
  BOREAS_EXPECT_ERROR(reader.read(2, {0, kCells}, fields.data()), invalid_argument,
                      "date 2020-01-01T12:00:00 (index 2) is missing");
  BOREAS_EXPECT_ERROR(reader.read(4, {0, kCells}, fields.data()), invalid_argument, "no date index 4");
  BOREAS_EXPECT_ERROR(reader.read(0, {0, kCells + 1}, fields.data()), invalid_argument, "no cells 0..41");
  BOREAS_EXPECT_ERROR(
      reader.require_date(parse_date("2020-01-02")), invalid_argument,
      "no date 2020-01-02T00:00:00; it has 4 dates from 2020-01-01T00:00:00 to 2020-01-01T18:00:00 every 6h");
  EXPECT_EQ(reader.require_date(parse_date("2020-01-01T18")), 3);
}

TEST_F(DatasetReaderTest, WindowsNeverCrossMissingDates) {
  const auto reader = DatasetReader::open({.path = make("a.zarr", {"a"}, "2020-01-01", 10, {4})});
  EXPECT_EQ(reader.anchors(1, 0), (std::vector<int64_t>{0, 1, 2, 3, 5, 6, 7, 8, 9}));
  EXPECT_EQ(reader.anchors(2, 1), (std::vector<int64_t>{1, 2, 6, 7, 8}));
  EXPECT_EQ(reader.anchors(2, 3), (std::vector<int64_t>{6}));
  EXPECT_EQ(reader.anchors(3, 3), std::vector<int64_t>{});
  EXPECT_EQ(reader.anchors(1, 4), (std::vector<int64_t>{5}));
  BOREAS_EXPECT_ERROR(reader.anchors(0, 1), invalid_argument, "at least one input step");
}

TEST_F(DatasetReaderTest, ComputesForcingsThatTheDatasetLacks) {
  const std::string path = make("a.zarr", {"a", "b"}, "2020-01-01", 5);
  const auto reader = DatasetReader::open({.path = path, .select = {"b", "insolation", "cos_latitude", "a"}});
  EXPECT_EQ(reader.variables(), (Names{"b", "insolation", "cos_latitude", "a"}));
  EXPECT_TRUE(reader.computed(1));
  EXPECT_FALSE(reader.constant(1));
  EXPECT_TRUE(reader.constant(2));
  EXPECT_FALSE(reader.computed(0));
  const Range cells{7, 23};
  std::vector<float> fields(4 * 16), expected(16);
  reader.read(2, cells, fields.data());
  compute_forcing("insolation", reader.dates()[2], reader.latitudes(cells), reader.longitudes(cells),
                  std::span<float>(expected));
  for (int64_t c = 0; c < 16; ++c) {
    EXPECT_EQ(fields[c], value_at(reader.dates()[2], "b", 7 + c));
    EXPECT_EQ(fields[16 + c], expected[c]);
    EXPECT_EQ(fields[48 + c], value_at(reader.dates()[2], "a", 7 + c));
  }
  double mean = 0;
  for (const double latitude : reader.latitudes()) mean += std::cos(latitude * std::acos(-1.0) / 180) / kCells;
  EXPECT_NEAR(reader.statistics().mean[2], mean, 1e-12);
  EXPECT_EQ(reader.tendency_statistics({kStep, 0}), std::nullopt);
}

TEST_F(DatasetReaderTest, JoinPutsVariablesTogether) {
  const std::string first = make("first.zarr", {"a", "b"}, "2020-01-01", 6, {1}),
                    second = make("second.zarr", {"c", "b"}, "2020-01-01", 6, {3});
  const auto reader = DatasetReader::open({.join = {{.path = first}, {.path = second, .select = {"b", "c"}}}});
  EXPECT_EQ(reader.variables(), (Names{"a", "b", "c"}));
  EXPECT_TRUE(reader.missing(1) && reader.missing(3));
  expect_fields(reader, 2, {"a", "b", "c"});
  EXPECT_EQ(reader.statistics().mean[2], DatasetReader::open({.path = second}).statistics().mean[0]);
  EXPECT_TRUE(reader.tendency_statistics({kStep, 0}).has_value());
  // Of a name that occurs twice, the later data wins.
  const auto swapped =
      DatasetReader::open({.join = {{.path = first}, {.path = second, .select = {"c"}, .rename = {{"c", "a"}}}}});
  EXPECT_EQ(swapped.variables(), (Names{"a", "b"}));
  expect_fields(swapped, 0, {"c", "b"});
  const std::string later = make("later.zarr", {"c"}, "2020-01-02", 6),
                    moved = make("moved.zarr", {"c"}, "2020-01-01", 6, {}, {kStep, 0}, 0.5);
  BOREAS_EXPECT_ERROR(DatasetReader::open({.join = {{.path = first}, {.path = later}}}), config,
                      "the dates must be the same");
  BOREAS_EXPECT_ERROR(DatasetReader::open({.join = {{.path = first}, {.path = moved}}}), config,
                      "the grids differ, first at cell 0");
}

TEST_F(DatasetReaderTest, ConcatFollowsInTime) {
  const std::string first = make("first.zarr", {"a", "b"}, "2020-01-01", 6),
                    second = make("second.zarr", {"b", "a"}, "2020-01-02T12", 5, {1});
  const DatasetConfig both{.concat = {{.path = first}, {.path = second, .select = {"a", "b"}}}};
  const auto reader = DatasetReader::open(both);
  EXPECT_EQ(reader.num_dates(), 11);
  EXPECT_TRUE(reader.missing(7));
  for (const int64_t d : {0, 5, 6, 10}) expect_fields(reader, d, {"a", "b"});
  EXPECT_EQ(reader.anchors(2, 2), (std::vector<int64_t>{1, 2, 3, 4}));
  EXPECT_EQ(reader.statistics().mean, DatasetReader::open({.path = first}).statistics().mean);
  // Subsets of the whole cut through the parts.
  const auto part =
      DatasetReader::open({.concat = both.concat, .start = "2020-01-01T06", .end = "2020-01-03", .frequency = "12h"});
  EXPECT_EQ(part.num_dates(), 5);
  for (const int64_t d : {0, 1, 2, 4}) expect_fields(part, d, {"a", "b"});
  EXPECT_TRUE(part.missing(3));
  BOREAS_EXPECT_ERROR(DatasetReader::open({.concat = {{.path = first}, {.path = second}}}), config,
                      "the variables must be the same");
  BOREAS_EXPECT_ERROR(
      DatasetReader::open({.concat = {{.path = first, .end = "2020-01-01"}, {.path = second, .select = {"a", "b"}}}}),
      config, "without gap or overlap");
  BOREAS_EXPECT_ERROR(DatasetReader::open({.concat = {{.path = second}, {.path = first, .select = {"b", "a"}}}}),
                      config, "follow each other in order");
}

TEST_F(DatasetReaderTest, CompositionsNest) {
  const std::string a1 = make("a1.zarr", {"a"}, "2020-01-01", 4), a2 = make("a2.zarr", {"a"}, "2020-01-02", 6),
                    b = make("b.zarr", {"b"}, "2020-01-01", 10);
  const auto reader =
      DatasetReader::open({.join = {{.concat = {{.path = a1}, {.path = a2}}}, {.path = b}}, .frequency = "18h"});
  EXPECT_EQ(reader.num_dates(), 4);
  for (int64_t d = 0; d < 4; ++d) expect_fields(reader, d, {"a", "b"});
  BOREAS_EXPECT_ERROR(DatasetReader::open({}), config, "exactly one of path, join and concat, but 0 are given");
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = a1, .concat = {{.path = a2}}}), config, "but 2 are given");
}

TEST_F(DatasetReaderTest, TakesStatisticsFromAnotherDataset) {
  const std::string path = make("a.zarr", {"a", "b"}, "2020-01-01", 5),
                    other = make("other.zarr", {"b", "a"}, "2020-03-01", 9),
                    third = make("third.zarr", {"a"}, "2020-01-01", 2);
  const auto reader = DatasetReader::open({.path = path, .statistics = other});
  const auto source = DatasetReader::open({.path = other});
  EXPECT_EQ(reader.statistics().mean, (std::vector<double>{source.statistics().mean[1], source.statistics().mean[0]}));
  EXPECT_NE(reader.statistics().mean, DatasetReader::open({.path = path}).statistics().mean);
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path, .statistics = third}), config, "has no variable 'b'");
}

TEST_F(DatasetReaderTest, ReadsOldNamesOfArraysAndAttributes) {
  const std::string path = make("a.zarr", {"a", "b"}, "2020-01-01", 3);
  const std::vector<double> latitudes = DatasetReader::open({.path = path}).latitudes();
  fs::rename(path + "/latitudes", path + "/latitude");
  fs::rename(path + "/longitudes", path + "/longitude");
  change_attributes(path, [](json& attributes) {
    for (const char* key :
         {"variables", "frequency", "field_shape", "constant_fields", "variables_metadata", "missing_dates", "layout"})
      attributes.erase(key);
    attributes["name_to_index"] = {{"b", 1}, {"a", 0}};
  });
  const auto reader = DatasetReader::open({.path = path});
  EXPECT_EQ(reader.variables(), (Names{"a", "b"}));
  EXPECT_EQ(reader.latitudes(), latitudes);
  EXPECT_EQ(reader.latitudes({3, 5}), (std::vector<double>{latitudes[3], latitudes[4]}));
  EXPECT_EQ(reader.field_shape(), std::vector<int64_t>{kCells});
  EXPECT_EQ(reader.step(), (TimeStep{kStep, 0}));
  expect_fields(reader, 1, {"a", "b"});
}

TEST_F(DatasetReaderTest, FindsConstantVariablesWhenNothingSaysSo) {
  DatasetSpec spec;
  spec.variables = {{"x", ""}, {"orography", ""}};
  for (int64_t d = 0; d < 7; ++d) spec.dates.push_back(d * kStep);
  spec.latitudes = {1, 2, 3};
  spec.longitudes = {1, 2, 3};
  const std::string path = folder / "c.zarr";
  DatasetWriter writer(path, spec);
  for (int64_t d = 0; d < 7; ++d) writer.append(std::vector<float>{float(d), 2, 3, 4, 5, 6}.data());
  writer.close();
  change_attributes(path, [](json& attributes) {
    attributes.erase("constant_fields");
    attributes.erase("variables_metadata");
  });
  const auto reader = DatasetReader::open({.path = path});
  EXPECT_FALSE(reader.constant(0));
  EXPECT_TRUE(reader.constant(1));
}

TEST_F(DatasetReaderTest, ReadsDoublePrecision) {
  const std::string path = make("a.zarr", {"a", "b", "c"}, "2020-01-01", 2);
  const auto store = open_store(path);
  std::vector<double> values(2 * 3 * kCells);
  for (size_t i = 0; i < values.size(); ++i) values[i] = double(i) / 3;
  store->erase("data");
  ZarrSpec spec;
  spec.shape = {2, 3, 1, kCells};
  spec.chunks = {1, 3, 1, kCells};
  spec.dtype = "<f8";
  ThreadPool pool(0);
  ZarrArray array = ZarrArray::create(store, "data", spec);
  array.write(array.whole(), values.data(), pool);
  const auto reader = DatasetReader::open({.path = path, .select = {"c", "a"}});
  std::vector<float> fields(2 * 8);
  reader.read(1, {4, 12}, fields.data());
  for (int64_t c = 0; c < 8; ++c) {
    EXPECT_EQ(fields[c], float(values[(3 + 2) * kCells + 4 + c]));
    EXPECT_EQ(fields[8 + c], float(values[3 * kCells + 4 + c]));
  }
}

TEST_F(DatasetReaderTest, RefusesDatasetsThatContradictThemselves) {
  const std::string good = make("good.zarr", {"a", "b"}, "2020-01-01", 4), path = folder / "bad.zarr";
  const auto refuse = [&](const std::function<void()>& change, const char* message, auto check_code) {
    fs::remove_all(path);
    fs::copy(good, path, fs::copy_options::recursive);
    change();
    check_code(message);
  };
  const auto corrupt = [&](const char* message) {
    BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path}), corrupt_data, message);
  };
  const auto attribute = [&](const char* key, const json& value) {
    return [&path, key, value] { change_attributes(path, [&](json& attributes) { attributes[key] = value; }); };
  };
  const double day = double(parse_date("2020-01-01"));
  refuse(attribute("variables", {"a", "b", "c"}), "2 variables but attribute 'variables' names 3", corrupt);
  refuse(attribute("variables", {"a", "a"}), "names a variable twice", corrupt);
  refuse(attribute("field_shape", {6, 7}), "40 cells but attribute 'field_shape' is [6,7]", corrupt);
  refuse(
      [&] {
        replace_array(path, "dates", "<M8[s]", {day, day + 21600, day + 43200});
      },
      "4 dates but array 'dates' has 3", corrupt);
  refuse(
      [&] {
        replace_array(path, "dates", "<M8[s]", {day, day + 21600, day + 43200, day + 43200});
      },
      "dates[2] is 2020-01-01T12:00:00 and dates[3]", corrupt);
  refuse(
      [&] {
        replace_array(path, "dates", "<M8[s]", {day, day + 21600, day + 43201, day + 64800});
      },
      "not one step of 6h apart", corrupt);
  refuse(
      [&] {
        replace_array(path, "latitudes", "<f8", {1, 2, 3});
      },
      "there are 3 latitudes and 40 longitudes", corrupt);
  refuse(
      [&] {
        replace_array(path, "mean", "<f8", {1, 2, 3});
      },
      "array 'mean' has 3 values but there are 2 variables", corrupt);
  refuse(
      [&] {
        replace_array(path, "data", "<f8", {1, 2, 3});
      },
      "array 'data' has shape [3]; expected 4 dimensions", corrupt);
  refuse(
      [&] {
        fs::remove_all(path + "/data");
        ZarrSpec spec;
        spec.shape = {4, 2, 1, kCells};
        spec.chunks = {1, 2, 1, kCells};
        spec.dtype = "<i4";
        ZarrArray::create(open_store(path), "data", spec);
      },
      "array 'data' holds <i4; expected <f4 or <f8", corrupt);
  refuse([&] { fs::remove_all(path + "/data"); }, "has no array 'data'", corrupt);
  refuse([&] { fs::remove_all(path + "/longitudes"); }, "has no array 'longitudes'", corrupt);
  refuse([&] { change_attributes(path, [](json& attributes) { attributes.erase("variables"); }); },
         "has no attribute 'variables'", corrupt);
  refuse(attribute("layout", "trajectories"), "layout 'trajectories'",
         [&](const char* message) { BOREAS_EXPECT_ERROR(DatasetReader::open({.path = path}), unsupported, message); });
  refuse([&] { fs::remove_all(path + "/stdev"); }, "no statistics of variable 'a'",
         [&](const char* message) {
           const auto reader = DatasetReader::open({.path = path});
           BOREAS_EXPECT_ERROR(reader.statistics(), config, message);
         });
  BOREAS_EXPECT_ERROR(DatasetReader::open({.path = folder / "absent.zarr"}), io, "absent.zarr");
}

TEST_F(DatasetReaderTest, ServesSeveralThreads) {
  const auto reader = DatasetReader::open({.path = make("a.zarr", {"a", "b", "c"}, "2020-01-01", 12)});
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 4; ++t)
    threads.emplace_back([&reader, t] {
      for (int64_t d = t; d < 12; d += 2) expect_fields(reader, d, reader.variables(), {t * 5, kCells - t});
    });
  for (auto& thread : threads) thread.join();
}

TEST_F(DatasetReaderTest, DamagedAndAbsentChunksAreErrors) {
  const std::string path = make("a.zarr", {"a", "b"}, "2020-01-01", 4, {2});
  std::vector<float> fields(2 * kCells);
  fs::resize_file(path + "/data/1.0.0.0", fs::file_size(path + "/data/1.0.0.0") / 2);
  const auto reader = DatasetReader::open({.path = path});
  BOREAS_EXPECT_ERROR(reader.read(1, {0, kCells}, fields.data()), corrupt_data, "1.0.0.0");
  BOREAS_EXPECT_ERROR(reader.read(1, {0, kCells}, fields.data()), corrupt_data, path);
  fs::remove(path + "/data/3.0.0.0");
  BOREAS_EXPECT_ERROR(
      reader.read(3, {0, kCells}, fields.data()), corrupt_data,
      "date 2020-01-01T18:00:00 (index 3) is not listed as missing, but chunk 3.0.0.0 of array 'data' is absent");
  expect_fields(reader, 0, {"a", "b"});
  // Where NaN is legitimate data, an absent chunk is a field of NaN that was not stored.
  change_attributes(path, [](json& attributes) { attributes["allow_nans"] = true; });
  DatasetReader::open({.path = path}).read(3, {0, kCells}, fields.data());
  EXPECT_TRUE(std::isnan(fields[0]) && std::isnan(fields[2 * kCells - 1]));
}

}  // namespace
}  // namespace boreas
