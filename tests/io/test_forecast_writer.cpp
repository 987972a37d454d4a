#include "io/forecast_writer.h"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "io/hdf5_file.h"
#include "io/input_files.h"
#include "io/zarr.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;

ForecastLayout small_layout(TimeStep step = {2629800, 0}) {
  ForecastLayout layout;
  layout.variables = {{"u", "m s-1", "zonal wind"}, {"v", "m s-1", ""}};
  layout.start_dates = {parse_date("1990-01-16T20:00"), parse_date("1990-03-18T17:00")};
  layout.step = step;
  layout.steps = {1, 2, 3};
  for (int64_t c = 0; c < 12; ++c) {
    layout.latitudes.push_back(-60 + 60 * double(c / 4));
    layout.longitudes.push_back(20 + 90 * double(c % 4));
  }
  layout.field_shape = {3, 4};
  layout.attributes = {{"title", "a test"}};
  return layout;
}

float value_at(int64_t start, int64_t step, int64_t variable, int64_t cell) {
  return float(1000 * start + 100 * step + 50 * variable + cell);
}

// As ranks do: each writes a range of cells.
void write_all(const std::string& path, const ForecastLayout& layout, int num_writers = 1) {
  create_forecast(path, layout);
  const std::string places = forecast_places(path, layout);
  ThreadPool pool(2);
  for (int w = 0; w < num_writers; ++w) {
    const ForecastPart part = forecast_part(path, layout, w, num_writers);
    const ForecastWriter writer(path, layout, places, part);
    writer.clear(pool);
    for (int64_t start = 1; start >= 0; --start)  // any order
      for (int64_t step = 0; step < 3; ++step) {
        if (start == 0 && step == 1) continue;
        std::vector<float> fields;
        for (int64_t v = part.variables.begin; v < part.variables.end; ++v)
          for (int64_t c = part.cells.begin; c < part.cells.end; ++c) fields.push_back(value_at(start, step + 1, v, c));
        writer.write(start, step, fields.data(), pool);
      }
    EXPECT_EQ(writer.num_clipped(), 0);
  }
  publish_forecast(path);
}

// Both formats give arrays by name; NetCDF-4 files are HDF5 files.
template <class Read>
void expect_contents(const Read& read, const std::vector<double>& leads_of_first) {
  for (int64_t v = 0; v < 2; ++v) {
    const std::vector<double> values = read(v == 0 ? "u" : "v");
    ASSERT_EQ(values.size(), 2u * 3 * 12);
    for (int64_t start = 0; start < 2; ++start)
      for (int64_t k = 0; k < 3; ++k)
        for (int64_t c = 0; c < 12; ++c) {
          const double value = values[(start * 3 + k) * 12 + c];
          if (start == 0 && k == 1)
            EXPECT_TRUE(std::isnan(value));
          else
            EXPECT_EQ(value, value_at(start, k + 1, v, c));
        }
  }
  EXPECT_EQ(read("step"), (std::vector<double>{1, 2, 3}));
  const std::vector<double> leads = read("lead_time"), times = read("time"), starts = read("forecast_reference_time");
  ASSERT_EQ(leads.size(), 6u);
  EXPECT_EQ(starts[0], double(parse_date("1990-01-16T20:00")));
  for (size_t k = 0; k < 3; ++k) {
    EXPECT_EQ(leads[k], leads_of_first[k]);
    EXPECT_EQ(times[k], starts[0] + leads[k] * 3600);
  }
}

std::vector<double> read_zarr(const std::string& path, const std::string& name) {
  ThreadPool pool(0);
  return ZarrArray::open(open_store(path), name).read_all<double>(pool);
}

std::vector<double> read_netcdf(const std::string& path, const std::string& name) {
  const Hdf5File file = Hdf5File::open(path);
  const auto [buffer, tensor] = file.read(name);
  std::vector<double> values;
  dispatch_dtype(tensor.dtype(), [&, &tensor = tensor]<class T>() {
    for (int64_t i = 0; i < tensor.size(); ++i) {
      if constexpr (std::is_same_v<T, bfloat16>)
        values.push_back(double(float(tensor.as<T>()[i])));
      else
        values.push_back(double(tensor.as<T>()[i]));
    }
  });
  return values;
}

// Writes the file, or skips the test where this build has no NetCDF.
#define WRITE_OR_SKIP(...)                                                    \
  try {                                                                       \
    write_all(__VA_ARGS__);                                                   \
  } catch (const Error& error) {                                              \
    if (error.code() == ErrorCode::unsupported) GTEST_SKIP() << error.what(); \
    throw;                                                                    \
  }

TEST(ForecastWriter, WritesZarr) {
  test::TemporaryFolder folder;
  const std::string path = folder / "forecast.zarr";
  write_all(path, small_layout());
  expect_contents([&](const char* name) { return read_zarr(path, name); }, {730.5, 1461, 2191.5});
  EXPECT_EQ(read_zarr(path, "latitude"), (std::vector<double>{-60, 0, 60}));
  EXPECT_EQ(read_zarr(path, "longitude"), (std::vector<double>{20, 110, 200, 290}));
  const auto store = open_store(path);
  const auto array = ZarrArray::open(store, "u");
  EXPECT_EQ(array.dimension_names(),
            (std::vector<std::string>{"forecast_reference_time", "step", "latitude", "longitude"}));
  EXPECT_EQ(array.chunks(), (std::vector<int64_t>{1, 1, 3, 4}));
  const auto attributes = nlohmann::json::parse(read_attributes(*store, "u"));
  EXPECT_EQ(attributes["units"], "m s-1");
  EXPECT_EQ(attributes["long_name"], "zonal wind");
  EXPECT_EQ(attributes["coordinates"], "time lead_time");
  EXPECT_EQ(nlohmann::json::parse(read_attributes(*store, ""))["title"], "a test");
  EXPECT_TRUE(store->exists(".zmetadata"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

TEST(ForecastWriter, WritesNetcdf) {
  test::TemporaryFolder folder;
  const std::string path = folder / "forecast.nc";
  WRITE_OR_SKIP(path, small_layout());
  expect_contents([&](const char* name) { return read_netcdf(path, name); }, {730.5, 1461, 2191.5});
  EXPECT_EQ(read_netcdf(path, "latitude"), (std::vector<double>{-60, 0, 60}));
  const Hdf5File file = Hdf5File::open(path);
  EXPECT_EQ(file.info("u").shape, (Shape{2, 3, 3, 4}));
  EXPECT_EQ(file.read_text_attribute("u", "units"), "m s-1");
  EXPECT_EQ(file.read_text_attribute("lead_time", "standard_name"), "forecast_period");
  EXPECT_EQ(file.read_text_attribute("lead_time", "units"), "hours");
  EXPECT_EQ(file.read_text_attribute("time", "units"), "seconds since 1970-01-01 00:00:00");
  EXPECT_EQ(file.read_text_attribute("", "Conventions"), "CF-1.8");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

// Forecast f is of start date f / 2 and member f % 2; three writers, since the files do not depend on their number.
void write_members(const std::string& path, const ForecastLayout& layout) {
  create_forecast(path, layout);
  const std::string places = forecast_places(path, layout);
  ThreadPool pool(1);
  for (int w = 0; w < 3; ++w) {
    const ForecastPart part = forecast_part(path, layout, w, 3);
    const ForecastWriter writer(path, layout, places, part);
    writer.clear(pool);
    for (int64_t f = 0; f < 4; ++f)
      for (int64_t step = 0; step < 3; ++step) {
        std::vector<float> fields;
        for (int64_t v = part.variables.begin; v < part.variables.end; ++v)
          for (int64_t c = part.cells.begin; c < part.cells.end; ++c) fields.push_back(value_at(f, step, v, c));
        writer.write(f, step, fields.data(), pool);
      }
  }
  publish_forecast(path);
}

TEST(ForecastWriter, MembersAreADimension) {
  test::TemporaryFolder folder;
  ForecastLayout layout = small_layout();
  layout.members = {2, 5};
  layout.chunk_cells = 4;
  const auto expect_members = [&](const auto& read) {
    EXPECT_EQ(read("realization"), (std::vector<double>{2, 5}));
    const std::vector<double> v = read("v");
    ASSERT_EQ(v.size(), 4u * 3 * 12);
    for (int64_t f = 0; f < 4; ++f)
      for (int64_t i = 0; i < 36; ++i) EXPECT_EQ(v[size_t(f * 36 + i)], value_at(f, i / 12, 1, i % 12));
    EXPECT_EQ(read("time").size(), 6u);
  };
  const std::string zarr = folder / "a.zarr";
  write_members(zarr, layout);
  expect_members([&](const char* name) { return read_zarr(zarr, name); });
  EXPECT_EQ(ZarrArray::open(open_store(zarr), "u").dimension_names(),
            (std::vector<std::string>{"forecast_reference_time", "realization", "step", "latitude", "longitude"}));
  layout.field_shape = {};  // points
  write_members(zarr, layout);
  expect_members([&](const char* name) { return read_zarr(zarr, name); });
  const std::string netcdf = folder / "a.nc";
  try {
    write_members(netcdf, layout);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::unsupported) GTEST_SKIP() << error.what();
    throw;
  }
  expect_members([&](const char* name) { return read_netcdf(netcdf, name); });
  EXPECT_EQ(Hdf5File::open(netcdf).read_text_attribute("realization", "standard_name"), "realization");
  layout.members = {5, 2};
  BOREAS_EXPECT_ERROR(create_forecast(zarr, layout), invalid_argument, "members are [5, 2]");
}

TEST(ForecastWriter, LeadTimesFollowCalendarMonths) {
  test::TemporaryFolder folder;
  ForecastLayout layout = small_layout({0, 1});
  write_all(folder / "forecast.zarr", layout);
  expect_contents([&](const char* name) { return read_zarr(folder / "forecast.zarr", name); },
                  {31 * 24, 59 * 24, 90 * 24});
}

TEST(ForecastWriter, OtherGridsKeepTheirCells) {
  test::TemporaryFolder folder;
  ForecastLayout layout = small_layout();
  layout.field_shape = {};
  write_all(folder / "points.zarr", layout);
  EXPECT_EQ(read_zarr(folder / "points.zarr", "latitude"), layout.latitudes);
  EXPECT_EQ(ZarrArray::open(open_store(folder / "points.zarr"), "u").dimension_names().back(), "cell");
  layout.field_shape = {3, 4};
  layout.latitudes[5] += 0.25;  // not regular any more
  write_all(folder / "local.zarr", layout);
  EXPECT_EQ(read_zarr(folder / "local.zarr", "latitude"), layout.latitudes);
  EXPECT_EQ(ZarrArray::open(open_store(folder / "local.zarr"), "latitude").shape(), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(ZarrArray::open(open_store(folder / "local.zarr"), "u").dimension_names()[2], "y");
  // Longitudes may be the rows.
  layout = small_layout();
  std::swap(layout.latitudes, layout.longitudes);
  for (double& latitude : layout.latitudes) latitude /= 4;
  write_all(folder / "turned.zarr", layout);
  EXPECT_EQ(ZarrArray::open(open_store(folder / "turned.zarr"), "u").dimension_names()[2], "longitude");
  EXPECT_EQ(read_zarr(folder / "turned.zarr", "latitude").size(), 4u);
}

std::map<std::string, std::string> bytes_below(const fs::path& path) {
  std::map<std::string, std::string> bytes;
  const auto add = [&](const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    bytes[fs::relative(file, path).string()] = {std::istreambuf_iterator<char>(in), {}};
  };
  if (!fs::is_directory(path)) add(path);
  for (const auto& entry :
       fs::is_directory(path) ? fs::recursive_directory_iterator(path) : fs::recursive_directory_iterator())
    if (entry.is_regular_file()) add(entry.path());
  return bytes;
}

TEST(ForecastWriter, FilesDoNotDependOnTheNumberOfWriters) {
  test::TemporaryFolder folder;
  for (const std::string name : {"a.zarr", "a.nc"})
    for (const bool packed : {false, true}) {
      ForecastLayout layout = small_layout();
      layout.chunk_cells = 4;
      if (packed) layout.variables[0].packed_range = {-1000, 3000};
      WRITE_OR_SKIP(folder / name, layout);
      const auto one = bytes_below(folder / name);
      for (const int num_writers : {2, 3, 5}) {
        write_all(folder / name, layout, num_writers);
        EXPECT_EQ(bytes_below(folder / name), one) << name << " by " << num_writers;
      }
      if (!packed && name == "a.zarr")
        expect_contents([&](const char* v) { return read_zarr(folder / name, v); }, {730.5, 1461, 2191.5});
    }
}

TEST(ForecastWriter, PackedValuesAreAsFarOffAsStated) {
  test::TemporaryFolder folder;
  ForecastLayout layout = small_layout();
  layout.variables[0].packed_range = {-10, 20};
  const double error = packing_error({-10, 20});
  EXPECT_NEAR(error, 30 / 65534.0 / 2, 1e-12);
  for (const std::string name : {"a.zarr", "a.nc"}) {
    std::vector<float> fields(24);
    for (size_t i = 0; i < 24; ++i) fields[i] = float(-10 + 29.7 * double(i) / 12);
    fields[3] = NAN;
    fields[4] = 25;
    const std::string path = folder / name;
    create_forecast(path, layout);
    ThreadPool pool(0);
    {
      const ForecastWriter writer(path, layout, forecast_places(path, layout), {{0, 2}, {0, 12}});
      writer.clear(pool);
      writer.write(0, 0, fields.data(), pool);
      EXPECT_EQ(writer.num_clipped(), 1);
    }
    publish_forecast(path);
    double scale = 0, offset = 0, worst = 0;
    std::vector<double> stored;
    if (name == "a.zarr") {
      const auto attributes = nlohmann::json::parse(read_attributes(*open_store(path), "u"));
      scale = attributes["scale_factor"], offset = attributes["add_offset"];
      stored = read_zarr(path, "u");
    } else {
      const Hdf5File file = Hdf5File::open(path);
      scale = file.read_real_attribute("u", "scale_factor"), offset = file.read_real_attribute("u", "add_offset");
      // 16-bit integers are no type of Hdf5File: the bytes, at their place.
      std::ifstream in(path, std::ios::binary);
      const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), data = H5Dopen2(id, "u", H5P_DEFAULT);
      in.seekg(std::streamoff(H5Dget_offset(data)));
      std::vector<int16_t> packed(72);
      in.read(reinterpret_cast<char*>(packed.data()), 144);
      H5Dclose(data);
      H5Fclose(id);
      stored.assign(packed.begin(), packed.end());
    }
    for (size_t i = 0; i < 12; ++i)
      if (i != 3 && i != 4) worst = std::max(worst, std::abs(offset + scale * stored[i] - double(fields[i])));
    EXPECT_LE(worst, error * 1.0001);
    EXPECT_GT(worst, error / 10);
    EXPECT_EQ(stored[3], -32768);
    EXPECT_EQ(stored[12], -32768) << "never written";
    EXPECT_NEAR(offset + scale * stored[4], 20, 1e-9);
  }
}

TEST(ForecastWriter, GribComesBack) {
  test::TemporaryFolder folder;
  const std::string path = folder / "a.grib";
  ForecastLayout layout = small_layout({6 * 3600, 0});
  layout.start_dates = {parse_date("1990-01-16T18:00"), parse_date("1990-03-18T12:00")};
  layout.variables = {{"10u", "m s-1", ""}, {"t_850", "K", ""}};
  layout.steps = {1, 2, 3};
  WRITE_OR_SKIP(path, layout);
  const auto one = bytes_below(path);
  write_all(path, layout, 3);
  EXPECT_EQ(bytes_below(path), one);

  InputCatalog catalog = open_grib_files({path});
  ASSERT_EQ(catalog.variables.size(), 2U);
  ASSERT_EQ(catalog.grids.size(), 1U);
  EXPECT_EQ(catalog.grids[0].field_shape, (std::vector<int64_t>{3, 4}));
  for (size_t c = 0; c < 12; ++c) {
    EXPECT_NEAR(catalog.grids[0].latitudes[c], layout.latitudes[c], 1e-6);
    EXPECT_NEAR(catalog.grids[0].longitudes[c], layout.longitudes[c], 1e-6);
  }
  for (size_t v = 0; v < 2; ++v) {
    const InputVariable& variable = catalog.variables[v];
    EXPECT_EQ(variable.name, layout.variables[v].name);
    int64_t num_fields = 0;
    for (int64_t start = 0; start < 2; ++start)
      for (int64_t k = 0; k < 3; ++k) {
        const auto found = variable.fields.find(advance(layout.start_dates[size_t(start)], layout.step, k + 1));
        if (start == 0 && k == 1) {
          EXPECT_EQ(found, variable.fields.end());
          continue;
        }
        ASSERT_NE(found, variable.fields.end());
        ++num_fields;
        std::vector<double> values(12);
        catalog.read(found->second.at(0), values);
        for (int64_t c = 0; c < 12; ++c)
          EXPECT_NEAR(values[size_t(c)], value_at(start, k + 1, int64_t(v), c), 11 / 65535.0);
      }
    EXPECT_EQ(num_fields, int64_t(variable.fields.size()));
  }
  layout.variables[1].name = "nonsense";
  BOREAS_EXPECT_ERROR(create_forecast(path, layout), unsupported, "shortName = nonsense");
  layout.variables[1].name = "10v";
  layout.latitudes[3] += 1;
  BOREAS_EXPECT_ERROR(create_forecast(path, layout), unsupported, "neither regular");
}

// Of an instant and accumulated, and of more members than GRIB counts.
TEST(ForecastWriter, GribNumbersMembers) {
  test::TemporaryFolder folder;
  const std::string path = folder / "a.grib";
  ForecastLayout layout = small_layout({6 * 3600, 0});
  layout.start_dates = {parse_date("1990-01-16T18:00"), parse_date("1990-03-18T12:00")};
  layout.variables = {{"10u", "m s-1", ""}, {"tp", "m", ""}};
  layout.members = {2, 5};
  try {
    write_members(path, layout);
  } catch (const Error& error) {
    if (std::string(error.what()).find("cannot write GRIB") != std::string::npos) GTEST_SKIP() << error.what();
    throw;
  }
  InputCatalog catalog = open_grib_files({path});
  ASSERT_EQ(catalog.variables.size(), 2U);
  for (size_t v = 0; v < 2; ++v)
    for (int64_t start = 0; start < 2; ++start)
      for (int64_t k = 0; k < 3; ++k) {
        EXPECT_EQ(catalog.variables[v].name, layout.variables[v].name);
        const auto found =
            catalog.variables[v].fields.find(advance(layout.start_dates[size_t(start)], layout.step, k + 1));
        ASSERT_NE(found, catalog.variables[v].fields.end());
        ASSERT_EQ(found->second.size(), 2U);
        for (size_t m = 0; m < 2; ++m) {
          std::vector<double> values(12);
          catalog.read(found->second[m], values);
          for (int64_t c = 0; c < 12; ++c)
            EXPECT_NEAR(values[size_t(c)], value_at(2 * start + int64_t(m), k, int64_t(v), c), 11 / 65535.0);
        }
      }
  layout.members.resize(300);
  std::iota(layout.members.begin(), layout.members.end(), 0);
  BOREAS_EXPECT_ERROR(create_forecast(path, layout), unsupported, "perturbationNumber = 299");
}

// A missing value, a constant field, and the octahedral grid.
TEST(ForecastWriter, GribOnAReducedGaussianGrid) {
  test::TemporaryFolder folder;
  const std::string path = folder / "a.grib";
  ForecastLayout layout = small_layout({1, 0});
  layout.start_dates = {parse_date("1990-01-16")};
  layout.step = {3600, 0};
  layout.steps = {6};
  layout.variables = {{"msl", "Pa", ""}, {"2t", "K", ""}};
  layout.field_shape = {};
  // Latitudes of the Gaussian grid of 4 rows.
  const std::vector<double> rows = {59.44440828916676, 19.87571914744090, -19.87571914744090, -59.44440828916676};
  const std::vector<int> sizes = {20, 24, 24, 20};
  layout.latitudes.clear();
  layout.longitudes.clear();
  for (size_t r = 0; r < 4; ++r)
    for (int i = 0; i < sizes[r]; ++i) {
      layout.latitudes.push_back(rows[r]);
      layout.longitudes.push_back(360.0 * i / sizes[r]);
    }
  try {
    create_forecast(path, layout);
  } catch (const Error& error) {
    if (std::string(error.what()).find("cannot write GRIB") != std::string::npos) GTEST_SKIP() << error.what();
    throw;
  }
  std::vector<float> fields(176, 7);
  for (size_t i = 0; i < 88; ++i) fields[i] = 100000 + 10 * float(i);
  fields[5] = NAN;
  ThreadPool pool(1);
  ForecastWriter(path, layout, forecast_places(path, layout), {{0, 2}, {0, 88}}).write(0, 0, fields.data(), pool);
  publish_forecast(path);
  const InputCatalog catalog = open_grib_files({path});
  ASSERT_EQ(catalog.variables.size(), 2U);
  EXPECT_EQ(catalog.grids[0].resolution, "o2");
  for (size_t v = 0; v < 2; ++v) {
    std::vector<double> values(88);
    catalog.read(catalog.variables[v].fields.begin()->second.at(0), values);
    EXPECT_EQ(catalog.variables[v].fields.begin()->first, parse_date("1990-01-16T06"));
    for (size_t c = 0; c < 88; ++c) {
      if (v == 0 && c == 5)
        EXPECT_TRUE(std::isnan(values[c]));
      else
        EXPECT_NEAR(values[c], fields[v * 88 + c], 870 / 65535.0);
    }
  }
}

TEST(ForecastWriter, TakesItsNameWhenItIsPublished) {
  test::TemporaryFolder folder;
  for (const char* name : {"a.zarr", "a.nc"}) {
    const std::string path = folder / name;
    WRITE_OR_SKIP(path, small_layout());
    const auto first = [&] { return path.ends_with(".nc") ? read_netcdf(path, "u")[0] : read_zarr(path, "u")[0]; };
    EXPECT_EQ(first(), 100);
    create_forecast(path, small_layout());
    ThreadPool pool(0);
    ForecastWriter(path, small_layout(), forecast_places(path, small_layout()), {{0, 2}, {0, 12}})
        .write(0, 0, std::vector<float>(24, 7).data(), pool);
    EXPECT_EQ(first(), 100);
    publish_forecast(path);
    EXPECT_EQ(first(), 7);
    EXPECT_FALSE(fs::exists(folder / (std::string(".") + name + ".partial")));
    BOREAS_EXPECT_ERROR(forecast_places(path, small_layout()), io, "there is no");
  }
}

TEST(ForecastWriter, RefusesWrongUse) {
  test::TemporaryFolder folder;
  BOREAS_EXPECT_ERROR(create_forecast(folder / "a.hdf", small_layout()), unsupported, ".nc, .zarr or .grib");
  BOREAS_EXPECT_ERROR(create_forecast(folder / "no/a.zarr", small_layout()), io, "there is no folder");
  ForecastLayout layout = small_layout();
  layout.field_shape = {3, 5};
  BOREAS_EXPECT_ERROR(create_forecast(folder / "a.zarr", layout), shape, "does not hold 12 cells");
  layout = small_layout();
  layout.longitudes.pop_back();
  BOREAS_EXPECT_ERROR(create_forecast(folder / "a.zarr", layout), shape, "12 latitudes and 11 longitudes");
  layout = small_layout();
  layout.steps = {};
  BOREAS_EXPECT_ERROR(create_forecast(folder / "a.zarr", layout), invalid_argument,
                      "needs variables, start dates and steps");
  layout = small_layout();
  layout.variables[1].packed_range = {1, 1};
  BOREAS_EXPECT_ERROR(create_forecast(folder / "a.zarr", layout), invalid_argument, "v cannot be packed");
  create_forecast(folder / "a.zarr", small_layout());
  BOREAS_EXPECT_ERROR(ForecastWriter(folder / "a.zarr", small_layout(), "", {{0, 2}, {0, 6}}), invalid_argument,
                      "no part that is written by itself");
  ThreadPool pool(0);
  const ForecastWriter writer(folder / "a.zarr", small_layout(), "", {{0, 2}, {0, 12}});
  BOREAS_EXPECT_ERROR(writer.write(0, 3, nullptr, pool), invalid_argument, "3 steps");
  BOREAS_EXPECT_ERROR(writer.write(2, 1, nullptr, pool), invalid_argument, "2 forecasts");
}

// A limit on the size of files stands for a full disk.
TEST(ForecastWriter, FullDiskIsOneError) {
  for (const char* name : {"a.zarr", "a.nc"}) {
    test::TemporaryFolder folder;
    ForecastLayout layout = small_layout();
    layout.field_shape = {};
    layout.latitudes.resize(20000);
    layout.longitudes.resize(20000);
    std::vector<float> fields(40000);
    for (size_t i = 0; i < fields.size(); ++i) fields[i] = float(std::sin(double(i * i)));
    const auto write = [&] {
      create_forecast(folder / name, layout);
      ThreadPool pool(1);
      const ForecastWriter writer(folder / name, layout, forecast_places(folder / name, layout), {{0, 2}, {0, 20000}});
      writer.clear(pool);
      writer.write(0, 0, fields.data(), pool);
      publish_forecast(folder / name);
    };
    try {
      write();
    } catch (const Error& error) {
      if (error.code() == ErrorCode::unsupported) continue;
      throw;
    }
    // The largest file: of a store, its largest chunk.
    int64_t largest = 0;
    for (const auto& entry : fs::recursive_directory_iterator(folder.path()))
      if (entry.is_regular_file()) largest = std::max(largest, int64_t(entry.file_size()));
    fs::remove_all(folder / name);
    rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    const auto handler = signal(SIGXFSZ, SIG_IGN);
    for (const int64_t size : {largest / 50, largest / 2, largest - 300, largest - 1}) {
      const rlimit limit{rlim_t(size), before.rlim_max};
      setrlimit(RLIMIT_FSIZE, &limit);
      BOREAS_EXPECT_ERROR(write(), io, "a.");
      setrlimit(RLIMIT_FSIZE, &before);
      EXPECT_FALSE(fs::exists(folder / name)) << name << " limited to " << size << " of " << largest;
    }
    signal(SIGXFSZ, handler);
  }
}

}  // namespace
}  // namespace boreas
