// Datasets made from the NetCDF and GRIB files of tests/golden/datasets; make_dataset_fixtures.py has their formula.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/cf_time.h"
#include "io/dataset_reader.h"
#include "io/dataset_writer.h"
#include "io/forcings.h"
#include "io/zarr.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

const std::string kFixtures = std::string(BOREAS_SOURCE_DIR) + "/tests/golden/datasets/";

float value(int64_t time, int64_t level, int64_t member, int64_t cell) {
  return float(100 * time + 10 * level + member) + float(cell) / 8;
}

// Makes the dataset, or skips the test where this build cannot read the kind of file.
#define CREATE_OR_SKIP(...)                                                   \
  try {                                                                       \
    create_dataset(__VA_ARGS__);                                              \
  } catch (const Error& error) {                                              \
    if (error.code() == ErrorCode::unsupported) GTEST_SKIP() << error.what(); \
    throw;                                                                    \
  }

std::vector<float> read(const DatasetReader& reader, int64_t date) {
  std::vector<float> fields(size_t(reader.num_variables() * reader.num_members() * reader.num_cells()));
  reader.read(date, {0, reader.num_cells()}, fields.data());
  return fields;
}

struct CreateDataset : testing::Test {
  test::TemporaryFolder folder;
  std::string output = folder / "out.zarr";
};

TEST_F(CreateDataset, UnpacksLevelsMembersAndMissingDatesOfNetcdf) {
  CREATE_OR_SKIP(
      {.inputs = {kFixtures + "regular.nc"}, .output = output, .variables = {"t_850", "orography", "t_500"}});
  const auto reader = DatasetReader::open({.path = output});
  EXPECT_EQ(reader.variables(), (Names{"t_850", "orography", "t_500"}));
  EXPECT_EQ(reader.units(0), "K");
  EXPECT_EQ(reader.units(1), "m");
  EXPECT_EQ(reader.num_members(), 2);
  EXPECT_EQ(reader.field_shape(), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(reader.num_dates(), 4);
  EXPECT_EQ(format_date(reader.dates()[0]), "2008-01-01T00:00:00");
  EXPECT_EQ(reader.step(), (TimeStep{6 * 3600, 0}));
  EXPECT_TRUE(reader.missing(2));
  EXPECT_TRUE(reader.constant(1));
  const int64_t dates[] = {0, 1, 3};
  for (int64_t t = 0; t < 3; ++t) {
    const auto fields = read(reader, dates[t]);
    for (int64_t e = 0; e < 2; ++e)
      for (int64_t c = 0; c < 12; ++c) {
        EXPECT_EQ(fields[(0 * 2 + e) * 12 + c], 200 + value(t, 1, e, c));
        EXPECT_EQ(fields[(1 * 2 + e) * 12 + c], float(c));
        EXPECT_EQ(fields[(2 * 2 + e) * 12 + c], 200 + value(t, 0, e, c));
      }
  }
  for (int64_t c = 0; c < 12; ++c) {
    EXPECT_EQ(reader.latitudes()[c], 60 - 60 * double(c / 4));
    EXPECT_EQ(reader.longitudes()[c], 90 * double(c % 4));
  }
}

TEST_F(CreateDataset, MissingValuesAreNan) {
  const DatasetCreateConfig config{.inputs = {kFixtures + "regular.nc"}, .output = output, .variables = {"sst"}};
  try {
    create_dataset(config);
    FAIL() << "NaN was accepted";
  } catch (const Error& error) {
    if (error.code() == ErrorCode::unsupported) GTEST_SKIP() << error.what();
    EXPECT_NE(std::string(error.what()).find("variable 'sst' holds NaN at 2008-01-01T00:00:00"), std::string::npos);
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  DatasetCreateConfig allowed = config;
  allowed.allow_nans = true;
  create_dataset(allowed);
  const auto fields = read(DatasetReader::open({.path = output}), 1);
  for (int64_t c = 0; c < 12; ++c) {
    if (c == 5)
      EXPECT_TRUE(std::isnan(fields[c]));
    else
      EXPECT_EQ(fields[c], value(1, 0, 0, c));
  }
}

TEST_F(CreateDataset, TakesAllLevelsOfANameAndRenamesThem) {
  DatasetCreateConfig config;
  config.inputs = {kFixtures + "regular.nc"};
  config.output = output;
  config.variables = {"t"};
  config.rename = {{"t", "temperature"}};
  config.forcings = {"cos_latitude", "insolation"};
  config.storage.grid_chunks = 4;
  CREATE_OR_SKIP(config);
  const auto reader = DatasetReader::open({.path = output});
  EXPECT_EQ(reader.variables(), (Names{"temperature_500", "temperature_850", "cos_latitude", "insolation"}));
  EXPECT_TRUE(reader.computed(2) && reader.constant(2) && reader.computed(3));
  EXPECT_FALSE(reader.constant(3));
  EXPECT_EQ(ZarrArray::open(open_store(output), "data").chunks(), (std::vector<int64_t>{1, 4, 1, 3}));
  const auto fields = read(reader, 3);
  std::vector<float> expected(12);
  compute_forcing("insolation", reader.dates()[3], reader.latitudes(), reader.longitudes(), std::span<float>(expected));
  for (int64_t e = 0; e < 2; ++e)
    for (int64_t c = 0; c < 12; ++c) EXPECT_EQ(fields[(6 + e) * 12 + c], expected[c]);
}

TEST_F(CreateDataset, JoinsFilesOfPointsInTime) {
  CREATE_OR_SKIP({.inputs = {kFixtures + "points_second.nc", kFixtures + "points_first.nc"}, .output = output});
  const auto reader = DatasetReader::open({.path = output});
  EXPECT_EQ(reader.num_dates(), 4);
  EXPECT_EQ(format_date(reader.dates()[0]), "1999-12-31T12:00:00");
  EXPECT_EQ(reader.step(), (TimeStep{86400, 0}));
  EXPECT_EQ(reader.latitudes(), (std::vector<double>{80, 40, 0, -40, -80}));
  EXPECT_EQ(reader.longitudes(), (std::vector<double>{0, 10, 20, 30, 350}));
  for (int64_t d = 0; d < 4; ++d)
    for (int64_t c = 0; c < 5; ++c) EXPECT_EQ(read(reader, d)[c], value(d, 0, 0, c));
}

TEST_F(CreateDataset, ReadsTwoDimensionalCoordinates) {
  CREATE_OR_SKIP({.inputs = {kFixtures + "curvilinear.nc"}, .output = output});
  const auto reader = DatasetReader::open({.path = output});
  EXPECT_EQ(reader.variables(), Names{"t2m"});
  EXPECT_EQ(reader.field_shape(), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(format_date(reader.dates()[0]), "2009-12-31T23:00:00");  // the origin is in another time zone
  EXPECT_EQ(reader.step(), (TimeStep{5400, 0}));
  EXPECT_EQ(reader.longitudes()[5], 7.5);
  for (int64_t c = 0; c < 6; ++c) EXPECT_EQ(read(reader, 1)[c], value(1, 0, 0, c));
}

TEST_F(CreateDataset, ReadsRegularGrib) {
  CREATE_OR_SKIP(
      {.inputs = {kFixtures + "regular_ll.grib"}, .output = output, .variables = {"t", "2t"}, .allow_nans = true});
  const auto reader = DatasetReader::open({.path = output});
  EXPECT_EQ(reader.variables(), (Names{"t_500", "t_850", "2t"}));
  EXPECT_EQ(reader.units(0), "K");
  EXPECT_EQ(reader.field_shape(), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(reader.step(), (TimeStep{12 * 3600, 0}));
  EXPECT_EQ(reader.num_dates(), 4);
  EXPECT_EQ(format_date(reader.dates()[2]), "2020-02-29T00:00:00");
  EXPECT_EQ(reader.latitudes()[4], 0);
  EXPECT_EQ(reader.longitudes()[3], 270);
  for (int64_t d = 0; d < 4; ++d) {
    const auto fields = read(reader, d);
    for (int64_t v = 0; v < 3; ++v)
      for (int64_t c = 0; c < 12; ++c) {
        if (v == 2 && c == 7)
          EXPECT_TRUE(std::isnan(fields[v * 12 + c]));
        else
          EXPECT_NEAR(fields[v * 12 + c], value(d, v % 2, 0, c), 1e-3);
      }
  }
}

TEST_F(CreateDataset, ReadsMembersOnAReducedGaussianGridOfGrib) {
  CREATE_OR_SKIP({.inputs = {kFixtures + "octahedral.grib"}, .output = output});
  const auto reader = DatasetReader::open({.path = output});
  EXPECT_EQ(reader.variables(), Names{"q_300"});
  EXPECT_EQ(reader.num_members(), 2);
  EXPECT_EQ(reader.num_cells(), 208);
  EXPECT_EQ(format_date(reader.dates()[0]), "2022-01-01T00:00:00");  // dates are those for which forecasts are valid
  EXPECT_EQ(reader.step(), (TimeStep{6 * 3600, 0}));
  EXPECT_NEAR(reader.latitudes()[0], 73.7992, 1e-3);
  EXPECT_NEAR(reader.longitudes()[1], 18, 1e-6);
  for (int64_t d = 0; d < 2; ++d)
    for (int64_t e = 0; e < 2; ++e)
      for (int64_t c = 0; c < 208; ++c) EXPECT_NEAR(read(reader, d)[e * 208 + c], value(d, 0, e, c), 1e-3);
  EXPECT_NE(inspect_dataset(output).find("resolution o4"), std::string::npos);
}

TEST_F(CreateDataset, HoldsOutTheDatesAfterTheStatistics) {
  CREATE_OR_SKIP({.inputs = {kFixtures + "points_first.nc", kFixtures + "points_second.nc"},
                  .output = output,
                  .start = "2000-01-01",
                  .statistics_end = "2000-01-01",
                  .tendencies = {"1d"}});
  const auto reader = DatasetReader::open({.path = output});
  EXPECT_EQ(reader.num_dates(), 3);
  EXPECT_EQ(reader.statistics().minimum[0], 100);
  EXPECT_EQ(reader.statistics().maximum[0], 100.5);
  EXPECT_EQ(reader.statistics().mean[0], 100.25);
}

TEST_F(CreateDataset, BadInputIsOneErrorAndLeavesNothing) {
  CREATE_OR_SKIP({.inputs = {kFixtures + "curvilinear.nc"}, .output = output});
  const std::string regular = kFixtures + "regular.nc", second = folder / "second.zarr";
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {regular}, .output = output}), config, "exists already");
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {regular}, .output = folder / "second"}), config,
                      "does not end in .zarr");
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {}, .output = second}), config, "no inputs");
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {regular}, .output = second, .variables = {"t_50"}}), config,
                      "near names: t_500");
  BOREAS_EXPECT_ERROR(
      create_dataset({.inputs = {regular}, .output = second, .variables = {"t"}, .forcings = {"insolatoin"}}), config,
      "near names: insolation");
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {regular}, .output = second, .variables = {"t"}, .start = "2020"}),
                      invalid_argument, "4 dates from 2008-01-01T00:00:00");
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {regular}, .output = second, .variables = {"t"}, .tendencies = {"4h"}}),
                      config, "no multiple of the step 6h");
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {folder / "absent.nc"}, .output = second}), io,
                      "absent.nc: there is no such file");
  BOREAS_EXPECT_ERROR(
      create_dataset({.inputs = {regular, kFixtures + "curvilinear.nc"}, .output = second, .variables = {"t", "t2m"}}),
      config, "lie on different grids");
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {regular, kFixtures + "regular_ll.grib"}, .output = second}), config,
                      "one is NetCDF, the other GRIB");
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {regular, regular}, .output = second}), config, "a second time at");
  std::ofstream(folder / "note.txt") << "neither";
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {folder / "note.txt"}, .output = second}), unsupported,
                      "neither a NetCDF nor a GRIB");
  const auto damage = [&](const std::string& from, const std::string& to) {
    fs::copy_file(kFixtures + from, folder / to, fs::copy_options::overwrite_existing);
    fs::resize_file(folder / to, fs::file_size(folder / to) * 7 / 10);
    BOREAS_EXPECT_ERROR(create_dataset({.inputs = {folder / to}, .output = second}), corrupt_data, to);
  };
  damage("points_first.nc", "cut.nc");
  damage("regular_ll.grib", "cut.grib");
  // Rows and columns that do not make the points: ecCodes would look for them where there are none.
  fs::copy_file(kFixtures + "regular_ll.grib", folder / "rows.grib");
  std::fstream(folder / "rows.grib", std::ios::binary | std::ios::in | std::ios::out).seekp(74).put(0);
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {folder / "rows.grib"}, .output = second}), corrupt_data,
                      "rows.grib: a GRIB message has 12 points on 0 rows of 4");
  // A file whose last message, 2t at the last date, is gone.
  fs::copy_file(kFixtures + "regular_ll.grib", folder / "lacking.grib");
  fs::resize_file(folder / "lacking.grib", fs::file_size(folder / "lacking.grib") / 12 * 11);
  BOREAS_EXPECT_ERROR(create_dataset({.inputs = {folder / "lacking.grib"}, .output = second, .allow_nans = true}),
                      corrupt_data, "no field of variable '2t' at 2020-02-29T12:00:00");
  EXPECT_FALSE(fs::exists(second));
  EXPECT_FALSE(fs::exists(folder / ".second.zarr.partial"));
}

TEST(CfTime, DecodesUnitsAndCalendars) {
  const auto decode = [](double number, std::string_view units, std::string_view calendar = "") {
    return format_date(decode_cf_times(std::span(&number, 1), units, calendar, "t")[0]);
  };
  EXPECT_EQ(decode(17598, "hour since 1980-01-14 14:00:00"), "1982-01-16T20:00:00");
  EXPECT_EQ(decode(1.5, "days since 2000-01-01"), "2000-01-02T12:00:00");
  EXPECT_EQ(decode(90, "minutes since 2000-1-1 00:00:0.0"), "2000-01-01T01:30:00");
  EXPECT_EQ(decode(-1, "seconds since 1970-01-01T00:00:00Z"), "1969-12-31T23:59:59");
  EXPECT_EQ(decode(0, "days since 1900-01-01 06:30:00 +05:30"), "1900-01-01T01:00:00");
  EXPECT_EQ(decode(0, "hours since 2000-01-01 12:00 UTC"), "2000-01-01T12:00:00");
  // The standard calendar is Julian before 15 October 1582: two days apart from the proleptic one in the year 1.
  EXPECT_EQ(decode(17593032, "hours since 1-1-1 00:00:0.0", "standard"), "2008-01-01T00:00:00");
  EXPECT_EQ(decode(17592984, "hours since 1-1-1", "proleptic_gregorian"), "2008-01-01T00:00:00");
  EXPECT_EQ(decode(0, "days since 1582-10-04", "gregorian"), "1582-10-14T00:00:00");
  EXPECT_EQ(decode(0, "days since 1582-10-15", "gregorian"), "1582-10-15T00:00:00");
  BOREAS_EXPECT_ERROR(decode(0, "days since 2000-01-01", "noleap"), unsupported, "calendar 'noleap'");
  BOREAS_EXPECT_ERROR(decode(0, "months since 2000-01-01"), unsupported, "no fixed length");
  BOREAS_EXPECT_ERROR(decode(0, "fortnights since 2000-01-01"), corrupt_data, "hours since 1970-01-01");
  BOREAS_EXPECT_ERROR(decode(0, "days since 99999999999999999999-01-01"), corrupt_data, "hours since 1970-01-01");
  BOREAS_EXPECT_ERROR(decode(0, "days since 2000-13-01"), corrupt_data, "count from no date");
  BOREAS_EXPECT_ERROR(decode(0, "days since yesterday"), corrupt_data, "hours since 1970-01-01");
  BOREAS_EXPECT_ERROR(decode(1e30, "days since 2000-01-01"), corrupt_data, "is no date");
}

// The monthly winds of Debian's ferret-datasets, where they are installed.
TEST_F(CreateDataset, ReadsTheMonthlyNavyWinds) {
  const std::string input = "/usr/share/ferret-vis/data/monthly_navy_winds.cdf";
  if (!fs::exists(input)) GTEST_SKIP() << "ferret-datasets is not installed";
  CREATE_OR_SKIP({.inputs = {input},
                  .output = output,
                  .rename = {{"UWND", "u"}, {"VWND", "v"}},
                  .statistics_end = "1989-12-31",
                  .tendencies = {"730.5h"}});
  const auto reader = DatasetReader::open({.path = output});
  EXPECT_EQ(reader.variables(), (Names{"u", "v"}));
  EXPECT_EQ(reader.units(0), "M/S");
  EXPECT_EQ(reader.num_dates(), 132);
  EXPECT_EQ(reader.step(), (TimeStep{2629800, 0}));
  EXPECT_EQ(format_date(reader.dates()[0]), "1982-01-16T20:00:00");
  EXPECT_EQ(reader.field_shape(), (std::vector<int64_t>{73, 144}));
  EXPECT_EQ(reader.latitudes().front(), -90);
  EXPECT_EQ(reader.latitudes().back(), 90);
  EXPECT_EQ(reader.longitudes().front(), 20);
  EXPECT_TRUE(reader.tendency_statistics(parse_step("730.5h")).has_value());
  EXPECT_EQ(reader.anchors(2, 3).size(), 128u);
  const auto fields = read(reader, 0);
  EXPECT_NEAR(fields[0], 2.9, 10);
  for (const float x : fields) ASSERT_LT(std::abs(x), 60);
}

}  // namespace
}  // namespace boreas
