// Forecasts: against the steps done by hand, against a restart from their own output, and what they need and refuse.
#include "engine/forecaster.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "engine/rollout.h"
#include "engine/training_step.h"
#include "io/forecast_writer.h"
#include "tests/engine/forecast_by_training.h"
#include "tests/engine/small_model.h"
#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

// Asked by the leak sanitizer: these libraries forget some memory of files that end too early.
extern "C" const char* __lsan_default_suppressions() { return "leak:libeccodes\nleak:libhdf5\nleak:libnetcdf"; }

namespace boreas {
namespace {

using test::forecast_by_training;
using test::small_config;
using test::small_data;
using test::SmallDataset;
using test::SmallWorld;
using test::StoredWindow;

using Fields = std::vector<std::vector<float>>;  // by lead, then [V_o, cells]

Fields forecast(Forecaster& forecaster, int64_t start_date, int64_t lead_steps, int64_t member = 0) {
  Fields fields;
  const auto keep = [&](int64_t lead, int64_t, std::span<const float> values) {
    EXPECT_EQ(lead, int64_t(fields.size()) + 1);
    fields.emplace_back(values.begin(), values.end());
  };
  forecaster.run(start_date, lead_steps, keep, member);
  return fields;
}

Fields forecast(const StepModel& model, const DatasetReader& reader, int64_t start_date, int64_t lead_steps) {
  Forecaster forecaster(model, reader);
  return forecast(forecaster, start_date, lead_steps);
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  const std::vector<double> x(a.begin(), a.end()), y(b.begin(), b.end());
  return test::relative_error(x, y);
}

bool same_bytes(const Fields& a, const Fields& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].size() != b[i].size() || std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0)
      return false;
  return true;
}

// What a step keeps or does in place changes no bit of what training makes of the same states.
TEST(Forecaster, StepsAreThoseOfTrainingToTheBit) {
  const SmallDataset data = small_data(20, true);
  for (const auto& [num_inputs, num_outputs] : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {3, 2}})
    for (const bool with_all : {false, true})
      for (const bool fold : {true, false}) {
        RunConfig config = small_config(data, num_inputs, num_outputs);
        config.forecast.fold = fold;
        config.precision = fold == with_all ? Precision::f64 : Precision::f32;
        if (with_all) {
          config.model.encoder.num_chunks = config.model.decoder.num_chunks = 3;
          config.model.qk_norm = config.model.edge_pre_mlp = true;
          config.model.residual_dtype = ResidualType::f32;
          config.model.bounding = {{.kind = BoundingKind::relu, .variables = {"p", "a"}}};
        }
        SCOPED_TRACE(fmt::format("{} input and {} output steps, fold {}", num_inputs, num_outputs, fold));
        const SmallWorld world(data, config);
        const Fields expected = forecast_by_training(world.model, world.reader, 5, 3);
        Forecaster forecaster(world.model, world.reader);
        for (int repeat = 0; repeat < 2; ++repeat)
          EXPECT_TRUE(same_bytes(forecast(forecaster, world.date(5), 3 * num_outputs), expected));
        EXPECT_EQ(forecaster.arena_peak_bytes(), Forecaster::plan(world.model, Device::cpu()).bytes);
      }
}

TEST(Forecaster, WhatIsKeptFollowsTheWeights) {
  const SmallDataset data = small_data(20);
  RunConfig config = small_config(data);
  const SmallWorld world(data, config);
  const DatasetReader& reader = world.reader;
  TrainingStep training(make_setup(config, reader), Device::cpu());
  training.materialise();
  Arena arena(Buffer::on(Device::cpu(), int64_t{64} << 20, "arena"));
  Context ctx(Device::cpu(), arena);
  const StoredWindow batch(training.model(), reader, 2, 2);
  Forecaster forecaster(training.model(), reader);
  const Fields before = forecast(forecaster, data.dates[5], 3);
  for (int64_t step = 1; step <= 2; ++step) {
    training.update(
        ctx, [&] { return batch.window; }, 1, step, 1e-2);
    training.collect();
    const Fields after = forecast(forecaster, data.dates[5], 3);
    EXPECT_FALSE(same_bytes(after, before));
    EXPECT_TRUE(same_bytes(after, forecast_by_training(training.model(), reader, 5, 3)));
  }
}

// What a forecast does at lead L is what a forecast would do that starts from its state at lead L. The second one reads
// all its forcings from the dataset, so those that the first one computed or held are checked too.
TEST(Forecaster, LaterStepsFollowFromItsOwnStates) {
  const SmallDataset data = small_data(16, true);
  for (const auto& [num_inputs, num_outputs] : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {3, 2}}) {
    SCOPED_TRACE(fmt::format("{} input and {} output steps", num_inputs, num_outputs));
    const SmallWorld world(data, small_config(data, num_inputs, num_outputs));
    constexpr int64_t kStart = 5, kLead = 6;
    const Fields whole = forecast(world.model, world.reader, world.date(kStart), kLead);
    EXPECT_GT(difference(whole[kLead - 1], whole[kLead - 2]), 1e-3);  // it does not stand still

    SmallDataset continued = data;
    const std::vector<std::string> outputs = world.model.variables().output_names();
    for (size_t v = 0; v < outputs.size(); ++v)
      for (auto& variable : continued.variables)
        if (variable.name == outputs[v])
          variable.value = [&, v, truth = variable.value](int64_t t, int64_t c) {
            const int64_t lead = t - kStart;
            if (lead < 1 || lead > kLead) return truth(t, c);
            return whole[size_t(lead - 1)][v * size_t(data.num_cells()) + size_t(c)];
          };
    const DatasetReader reader = world.open("continued.zarr", continued);
    for (int64_t lead = num_outputs; lead < kLead; lead += num_outputs) {
      const Fields rest = forecast(world.model, reader, world.date(kStart + lead), kLead - lead);
      for (size_t i = 0; i < rest.size(); ++i) EXPECT_LT(difference(rest[i], whole[size_t(lead) + i]), 2e-5);
    }
  }
}

TEST(Forecaster, RollsOutAsInTraining) {
  const SmallDataset data = small_data(16, true);
  const SmallWorld world(data, small_config(data, 2, 2));
  const StepModel& model = world.model;
  const ModelSetup& setup = model.setup();
  constexpr int64_t kStart = 4, kSteps = 3;
  const Loss loss(LossConfig{}, setup.variables, setup.statistics, node_areas(setup), 2, DType::f32, Device::cpu());
  const StoredWindow window(model, world.reader, kStart - 1, 2 + 2 * kSteps);
  test::Workspace work(1, int64_t{32} << 20);
  const int64_t num_outputs = model.variables().num_outputs();
  const Tensor losses = work.output(DType::f32, {1, kSteps});
  const Tensor errors = work.output(DType::f32, {kSteps, 2 * num_outputs});
  Rollout(model, loss, &loss)
      .forward(work.ctx, {.window = window.window, .num_steps = kSteps}, {.losses = losses, .squared_errors = errors},
               nullptr);

  const Fields found = forecast(model, world.reader, world.date(kStart), 2 * kSteps);
  const std::span<const double> areas = node_areas(setup);
  for (int64_t lead = 1; lead <= 2 * kSteps; ++lead)
    for (int64_t v = 0; v < num_outputs; ++v) {
      const int64_t variable = model.variables().output()[size_t(v)];
      double square = 0, total = 0;
      for (int64_t c = 0; c < data.num_cells(); ++c) {
        const double truth = data.variables[size_t(variable)].value(kStart + lead, c);
        const double error = found[size_t(lead - 1)][size_t(v * data.num_cells() + c)] - truth;
        square += areas[size_t(c)] * std::pow(error * model.preprocess().mul()[size_t(variable)], 2);
        total += areas[size_t(c)];
      }
      const double expected = errors.row<float>((lead - 1) / 2)[(lead - 1) % 2 * num_outputs + v];
      EXPECT_NEAR(square / total / expected, 1, 1e-4) << "variable " << v << " lead " << lead;
    }
}

// The long dataset shows what happens after the end of the short one; a forecast must neither see nor need it.
TEST(Forecaster, KnowsItsForcingsBeyondTheEndOfTheDataset) {
  const SmallDataset data = small_data(10);
  const SmallWorld world(data);
  ASSERT_TRUE(world.model.setup().constant[2]);  // orography
  SmallDataset longer = small_data(20);
  longer.variables[2].value = [&](int64_t t, int64_t c) { return t < 10 ? data.variables[2].value(t, c) : 5e3F; };
  const DatasetReader reader = world.open("longer.zarr", longer);
  const Fields expected = forecast(world.model, reader, world.date(9), 6);
  EXPECT_TRUE(same_bytes(forecast(world.model, world.reader, world.date(9), 6), expected));
}

TEST(Forecaster, MissingForcingsNameVariableDateAndDataset) {
  SmallDataset data = small_data(12, true);
  data.missing = {6};
  const SmallWorld world(data);
  EXPECT_EQ(forecast(world.model, world.reader, world.date(11), 1).size(), 1U);  // one step needs no later forcing
  BOREAS_EXPECT_ERROR(forecast(world.model, world.reader, world.date(11), 2), invalid_argument,
                      "needs dynamic on 2001-03-07T06:00:00, which " + world.reader.name() +
                          " does not hold; it holds 2001-03-04T06:00:00 to 2001-03-07T00:00:00, step 6h");
  BOREAS_EXPECT_ERROR(forecast(world.model, world.reader, world.date(4), 4), invalid_argument,
                      "needs dynamic on 2001-03-05T18:00:00, which " + world.reader.name() + " marks as missing");
}

TEST(Forecaster, StartsOutsideOfTheDatasetNameItsDates) {
  SmallDataset data = small_data(12);
  data.missing = {6};
  const SmallWorld world(data, small_config(data, 2));
  const std::string holds = "; it holds 2001-03-04T06:00:00 to 2001-03-07T00:00:00, step 6h";
  const auto expect_error = [&](const std::string& start, const std::string& text) {
    BOREAS_EXPECT_ERROR(forecast(world.model, world.reader, parse_date(start), 1), invalid_argument, text);
  };
  expect_error("1999-01-01",
               "needs insolation on 1998-12-31T18:00:00, which " + world.reader.name() + " does not hold" + holds);
  expect_error("2001-03-08", "does not hold" + holds);
  expect_error("2001-03-05T03", "needs insolation on 2001-03-04T21:00:00");  // between two dates
  expect_error("2001-03-04T06", "needs insolation on 2001-03-04T00:00:00");  // the first: no state before it
  expect_error("2001-03-06T00", "2001-03-05T18:00:00");                      // follows the missing one
  EXPECT_NO_THROW(forecast(world.model, world.reader, parse_date("2001-03-04T12"), 1));
  BOREAS_EXPECT_ERROR(forecast(world.model, world.reader, world.date(3), 0), invalid_argument, "at least one step");
}

TEST(Forecaster, PeakOfTheArenaIsThePlannedOneToTheByte) {
  const SmallDataset data = small_data(12);
  for (const auto& [num_inputs, num_outputs] : {std::pair{1, 1}, {2, 1}, {2, 2}})
    for (const int64_t chunks : {1, 3}) {
      RunConfig config = small_config(data, num_inputs, num_outputs);
      config.model.encoder.num_chunks = config.model.decoder.num_chunks = chunks;
      const SmallWorld world(data, config);
      Forecaster forecaster(world.model, world.reader);
      forecast(forecaster, world.date(4), 5);
      EXPECT_EQ(forecaster.arena_peak_bytes(), Forecaster::plan(world.model, Device::cpu()).bytes)
          << num_inputs << " input steps, " << num_outputs << " output steps, " << chunks << " chunks";
    }
}

TEST(Forecaster, IsBitwiseReproducible) {
  const SmallDataset data = small_data(12, true);
  const SmallWorld world(data, small_config(data, 2, 2));
  Forecaster forecaster(world.model, world.reader);
  const Fields first = forecast(forecaster, world.date(4), 5);
  ASSERT_EQ(first.size(), 5U);
  EXPECT_FALSE(same_bytes(forecast(forecaster, world.date(6), 5), first));
  EXPECT_TRUE(same_bytes(forecast(forecaster, world.date(4), 5), first));  // nothing is left of the run between
  EXPECT_TRUE(same_bytes(forecast(world.model, world.reader, world.date(4), 5), first));
  const Fields shorter = forecast(world.model, world.reader, world.date(4), 3);  // ends inside of a step
  EXPECT_TRUE(same_bytes(shorter, {first.begin(), first.begin() + 3}));
}

TEST(Forecaster, ImputedCellsAreMissingInEveryForecast) {
  SmallDataset data = small_data(12);
  data.allow_nans = true;
  const auto value = data.variables[4].value;
  const auto is_land = [](int64_t c) { return c % 5 == 0; };
  data.variables[4].value = [=](int64_t t, int64_t c) { return is_land(c) ? std::nanf("") : value(t, c); };
  RunConfig config = small_config(data, 1, 2);
  config.data.preprocess.imputer.mean = {"b"};
  const SmallWorld world(data, config);
  const std::vector<std::string> outputs = world.model.variables().output_names();
  for (const auto& fields : forecast(world.model, world.reader, world.date(5), 3))
    for (size_t i = 0; i < fields.size(); ++i) {
      const std::string& name = outputs[i / size_t(data.num_cells())];
      EXPECT_EQ(std::isnan(fields[i]), name == "b" && is_land(int64_t(i) % data.num_cells())) << name << " " << i;
    }
}

TEST(Forecaster, NanThatIsNotImputedNamesVariableAndDate) {
  SmallDataset data = small_data(12);
  data.allow_nans = true;
  const auto value = data.variables[4].value;
  data.variables[4].value = [=](int64_t t, int64_t c) { return t == 7 && c == 9 ? std::nanf("") : value(t, c); };
  const SmallWorld world(data);
  EXPECT_NO_THROW(forecast(world.model, world.reader, world.date(6), 4));  // the truth of later dates is not read
  BOREAS_EXPECT_ERROR(forecast(world.model, world.reader, world.date(7), 1), corrupt_data, "b");
  BOREAS_EXPECT_ERROR(forecast(world.model, world.reader, world.date(7), 1), corrupt_data, "2001-03-06T00:00:00");
  BOREAS_EXPECT_ERROR(forecast(world.model, world.reader, world.date(7), 1), corrupt_data, "imputer");
}

TEST(Forecaster, FindsItsVariablesByName) {
  const SmallDataset data = small_data(10);
  const SmallWorld world(data);
  const Fields expected = forecast(world.model, world.reader, world.date(4), 2);
  const DatasetReader reordered =
      DatasetReader::open({.path = world.folder / "data.zarr", .drop = {"insolation"}, .reorder = {"sort"}});
  EXPECT_TRUE(same_bytes(forecast(world.model, reordered, world.date(4), 2), expected));  // computed instead of read
  const DatasetReader lacking = DatasetReader::open({.path = world.folder / "data.zarr", .rename = {{"a", "aa"}}});
  BOREAS_EXPECT_ERROR(Forecaster(world.model, lacking), invalid_argument, "there is no variable 'a'; near names: ");
}

// A member of an ensemble is forecast as a dataset of that member alone would be, with its own later forcings.
TEST(Forecaster, EveryMemberStartsFromItsOwnStates) {
  SmallDataset data = small_data(12, true);
  data.num_members = 3;
  data.member_step = 0.5F;
  const SmallWorld world(data, small_config(data, 2, 2));
  Forecaster forecaster(world.model, world.reader);
  std::vector<Fields> of_members;
  for (const int64_t member : {0, 1, 2}) {
    SmallDataset alone = small_data(12, true);
    for (auto& variable : alone.variables)
      if (variable.value)
        variable.value = [member, value = variable.value](int64_t t, int64_t c) {
          float sum = value(t, c);
          for (int64_t m = 0; m < member; ++m) sum += 0.5F;
          return sum;
        };
    const DatasetReader reader = world.open("alone.zarr", alone);
    of_members.push_back(forecast(forecaster, world.date(4), 5, member));
    EXPECT_TRUE(same_bytes(of_members.back(), forecast(world.model, reader, world.date(4), 5))) << member;
  }
  EXPECT_FALSE(same_bytes(of_members[0], of_members[2]));
  BOREAS_EXPECT_ERROR(forecast(forecaster, world.date(4), 1, 3), invalid_argument, "has no member 3; it has 3");
}

TEST(Forecaster, RefusesDatasetsOfAnotherGridOrStep) {
  const SmallWorld world(small_data(10));
  SmallDataset other = small_data(10);
  other.num_rows = 5;
  const DatasetReader smaller = world.open("smaller.zarr", other);
  BOREAS_EXPECT_ERROR(Forecaster(world.model, smaller), config, "has 60 cells but the model was trained on 72");
  other = small_data(10);
  std::swap(other.num_rows, other.num_columns);
  const DatasetReader turned = world.open("turned.zarr", other);
  BOREAS_EXPECT_ERROR(Forecaster(world.model, turned), config, "another grid than the model was trained on: cell 0");
  const DatasetReader slower = DatasetReader::open({.path = world.folder / "data.zarr", .frequency = "12h"});
  BOREAS_EXPECT_ERROR(Forecaster(world.model, slower), config, "a step of 12h but the model makes steps of 6h");
}

// --- from states in files
// ---------------------------------------------------------------------------------------------------

// A state as a forecast file: of a start date and the steps 0 .. num_steps - 1 after it.
struct StateFile {
  ForecastLayout layout;
  std::vector<const SmallDataset::Variable*> variables;
  std::vector<int64_t> cells;  // of the dataset, in the order of the file
  int64_t first = 0;           // date of the dataset
  float member_step = 0;

  StateFile(const SmallDataset& data, const std::vector<std::string>& names, int64_t first_in, int64_t num_steps)
      : first(first_in) {
    for (const std::string& name : names)
      for (const auto& variable : data.variables)
        if (variable.name == name) {
          variables.push_back(&variable);
          layout.variables.push_back({name, variable.units, ""});
        }
    layout.start_dates = {data.dates[size_t(first)]};
    layout.step = {6 * 3600, 0};
    for (int64_t k = 0; k < num_steps; ++k) layout.steps.push_back(k);
    layout.field_shape = {data.num_rows, data.num_columns};
    for (int64_t c = 0; c < data.num_cells(); ++c) cells.push_back(c);
    place(data);
  }
  void place(const SmallDataset& data) {
    layout.latitudes.clear();
    layout.longitudes.clear();
    for (const int64_t c : cells) {
      layout.latitudes.push_back(data.latitude(c));
      layout.longitudes.push_back(data.longitude(c));
    }
  }
  std::string write(const std::string& path) const {
    create_forecast(path, layout);
    ThreadPool pool(0);
    {
      const ForecastWriter writer(path, layout, forecast_places(path, layout), forecast_part(path, layout, 0, 1));
      for (int64_t f = 0; f < layout.num_forecasts(); ++f)
        for (size_t k = 0; k < layout.steps.size(); ++k) {
          std::vector<float> fields;
          for (const auto* variable : variables)
            for (const int64_t c : cells)
              fields.push_back(variable->value(first + layout.steps[k], c) + float(f) * member_step);
          writer.write(f, int64_t(k), fields.data(), pool);
        }
    }
    publish_forecast(path);
    return path;
  }
};

bool is_unsupported(const std::function<void()>& task) {
  try {
    task();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::unsupported) return true;
    throw;
  }
  return false;
}

Fields from_files(const StepModel& model, const std::vector<std::string>& paths, int64_t start, int64_t lead_steps,
                  int64_t member = 0) {
  Forecaster forecaster(model, file_source(model, paths));
  return forecast(forecaster, start, lead_steps, member);
}

const std::vector<std::string> kNeeded = {"a", "b", "dynamic", "orography"};

TEST(ForecastFromFiles, IsTheForecastOfADatasetWithTheSameStates) {
  const SmallDataset data = small_data(12, true);
  const SmallWorld world(data, small_config(data, 2, 2));
  const Fields expected = forecast(world.model, world.reader, world.date(5), 5);
  const auto expect_same = [&](const std::vector<std::string>& paths) {
    SCOPED_TRACE(paths[0]);
    EXPECT_TRUE(same_bytes(from_files(world.model, paths, world.date(5), 5), expected));
  };
  // Dates 4 and 5 are the state, 6 to 9 are those on which `dynamic` is needed.
  const StateFile whole(data, kNeeded, 4, 6);
  const std::string zarr = whole.write(world.folder / "whole.zarr");
  expect_same({zarr});
  expect_same({world.folder / "data.zarr"});  // an Anemoi dataset is a state too
  // Of several files, in another order of the cells, that go round the other way and begin elsewhere.
  StateFile turned(data, {"b", "a"}, 3, 4);
  std::sort(turned.cells.begin(), turned.cells.end(), [&](int64_t x, int64_t y) {
    return std::pair{-(x / 12), (x + 5) % 12} < std::pair{-(y / 12), (y + 5) % 12};
  });
  turned.place(data);
  for (double& longitude : turned.layout.longitudes) longitude = std::remainder(longitude, 360.0) + 3e-5;
  StateFile constant(data, {"orography"}, 0, 1);
  constant.layout.field_shape = {};  // points
  expect_same({turned.write(world.folder / "turned.zarr"), constant.write(world.folder / "constant.zarr"),
               StateFile(data, {"dynamic"}, 4, 8).write(world.folder / "dynamic.zarr")});
  std::string netcdf;
  if (is_unsupported([&] { netcdf = whole.write(world.folder / "whole.nc"); })) GTEST_SKIP() << "no NetCDF";
  expect_same({netcdf});
  expect_same({netcdf, constant.write(world.folder / "constant.nc")});  // a constant may be in each of the files
  StateFile packed = whole;
  for (auto& variable : packed.layout.variables) variable.packed_range = {-500, 500};
  const auto near = [&](const std::string& path) {
    const Fields found = from_files(world.model, {path}, world.date(5), 5);
    for (size_t i = 0; i < found.size(); ++i) EXPECT_LT(difference(found[i], expected[i]), 1e-2);
    EXPECT_FALSE(same_bytes(found, expected));
  };
  near(packed.write(world.folder / "packed.zarr"));
  near(packed.write(world.folder / "packed.nc"));
}

TEST(ForecastFromFiles, ReadsGrib) {
  SmallDataset data = small_data(8);
  const std::map<std::string, std::string> names = {{"a", "10u"}, {"b", "t_850"}, {"orography", "z"}, {"p", "tp"}};
  for (auto& variable : data.variables)
    if (const auto at = names.find(variable.name); at != names.end()) variable.name = at->second;
  data.variables[2].units = "m**2 s**-2";
  RunConfig config = small_config(data, 2);
  config.data.roles.forcing = {"insolation", "z", "cos_julian_day"};
  config.data.roles.diagnostic = {"tp"};
  const SmallWorld world(data, config);
  const std::string path = world.folder / "state.grib";
  if (is_unsupported([&] { StateFile(data, {"10u", "t_850", "z"}, 3, 2).write(path); })) GTEST_SKIP() << "no ecCodes";
  const Fields found = from_files(world.model, {path}, world.date(4), 3);
  const Fields expected = forecast(world.model, world.reader, world.date(4), 3);
  for (size_t i = 0; i < 3; ++i) EXPECT_LT(difference(found[i], expected[i]), 1e-3);
}

TEST(ForecastFromFiles, HasMembers) {
  const SmallDataset data = small_data(8);
  const SmallWorld world(data);
  StateFile state(data, {"a", "b"}, 4, 1);
  state.layout.members = {0, 1};
  state.member_step = 0.5F;
  const std::vector<std::string> paths = {state.write(world.folder / "a.zarr"),
                                          StateFile(data, {"orography"}, 4, 1).write(world.folder / "o.zarr")};
  EXPECT_EQ(file_source(world.model, paths)->num_members(), 2);
  const Fields expected = forecast(world.model, world.reader, world.date(4), 2);
  EXPECT_TRUE(same_bytes(from_files(world.model, paths, world.date(4), 2), expected));
  EXPECT_FALSE(same_bytes(from_files(world.model, paths, world.date(4), 2, 1), expected));
  BOREAS_EXPECT_ERROR(from_files(world.model, paths, world.date(4), 2, 2), invalid_argument, "has no member 2");
  state = StateFile(data, {"orography"}, 4, 1);
  state.layout.members = {0, 1, 2};
  BOREAS_EXPECT_ERROR(file_source(world.model, {paths[0], state.write(world.folder / "three.zarr")}), config,
                      "three.zarr: 'orography' has 3 members, where others have 2");
}

TEST(ForecastFromFiles, WhatIsWrongIsNamed) {
  const SmallDataset data = small_data(12, true);
  const SmallWorld world(data, small_config(data, 2));
  const std::string path = world.folder / "state.zarr";
  const auto state = [&](int64_t num_steps = 2) { return StateFile(data, kNeeded, 4, num_steps); };
  const auto expect_error = [&](const StateFile& file, ErrorCode code, const std::string& text,
                                int64_t lead_steps = 1) {
    std::filesystem::remove_all(path);
    file.write(path);
    try {
      from_files(world.model, {path}, world.date(5), lead_steps);
      ADD_FAILURE() << "no error: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(to_string(error.code()), to_string(code)) << error.what();
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  const std::string there = path + " does not hold";
  expect_error(StateFile(data, {"a", "dynamic", "orography"}, 4, 2), ErrorCode::invalid_argument,
               "the forecast starts from b, which " + there);
  expect_error(StateFile(data, {"a", "b", "dynamic", "orography"}, 5, 1), ErrorCode::invalid_argument,
               "on 2001-03-05T06:00:00, which " + there +
                   "; it holds 2001-03-05T12:00:00; the model makes steps of 6h and starts from 2 states");
  StateFile spaced = state();
  spaced.layout.steps = {0, 1, 3};
  spaced.first = 2;
  spaced.layout.start_dates = {world.date(2)};
  expect_error(spaced, ErrorCode::invalid_argument, "on 2001-03-05T06:00:00, which " + there);
  // The forcing that changes is needed for every step but the first.
  expect_error(state(), ErrorCode::invalid_argument, "needs dynamic on 2001-03-05T18:00:00, which " + there, 2);
  StateFile other = state();
  other.layout.variables[0].units = "km h-1";
  expect_error(other, ErrorCode::config, "is in 'km h-1', and the model was trained on 'm s-1'; convert it");
  other = state();
  other.cells.resize(60);
  other.layout.field_shape = {5, 12};
  other.place(data);
  expect_error(other, ErrorCode::config, "another grid than the model was trained on: regular, 5 latitudes x 12");
  other = state();
  other.layout.latitudes[7] += 0.5;
  expect_error(other, ErrorCode::config, "it has no cell at latitude -75, longitude 210");
  SmallDataset holes = data;
  const auto value = data.variables[1].value;
  holes.variables[1].value = [=](int64_t t, int64_t c) { return t == 4 && c == 9 ? std::nanf("") : value(t, c); };
  expect_error(StateFile(holes, kNeeded, 4, 2), ErrorCode::corrupt_data,
               "2001-03-05T06:00:00: variable 'a' is NaN in 1 of 72 cells");
  // Other spellings of the same units are the same.
  for (const char* const units : {"m s**-1", "m/s", "m s^-1", "s-1 m", ""}) {
    other = state();
    for (auto& variable : other.layout.variables)
      if (variable.name == "a") variable.units = units;
    std::filesystem::remove_all(path);
    EXPECT_NO_THROW(from_files(world.model, {other.write(path)}, world.date(5), 1)) << units;
  }
  std::filesystem::remove_all(path);
  state().write(path);
  BOREAS_EXPECT_ERROR(from_files(world.model, {path, path}, world.date(5), 1), config, "is in both " + path);
  BOREAS_EXPECT_ERROR(file_source(world.model, {world.folder / "absent.nc"}), io, "absent.nc: there is no such file");
  std::filesystem::create_directory(world.folder / "empty.zarr");
  BOREAS_EXPECT_ERROR(file_source(world.model, {world.folder / "empty.zarr"}), corrupt_data, "holds no Zarr arrays");
}

// Whatever a file holds, it is read or refused. NetCDF's and GRIB's own bytes are left to their libraries, but for
// files that end too early.
TEST(ForecastFromFiles, DamagedFilesAreReadOrRefused) {
  const SmallDataset data = small_data(12, true);
  const SmallWorld world(data, small_config(data, 2));
  const std::string whole = StateFile(data, kNeeded, 4, 2).write(world.folder / "whole.zarr");
  const std::string damaged = world.folder / "damaged.zarr";
  std::vector<float> values(size_t(data.num_cells()));
  int64_t num_refused = 0, num_read = 0;
  const auto try_to_read = [&](const std::string& path) {
    try {
      const auto source = file_source(world.model, {path});
      for (int64_t v = 0; v < world.model.variables().size(); ++v)
        for (const int64_t date : {world.date(4), world.date(5)})
          if (source->holds(v)) source->read(v, date, source->num_members() - 1, values);
      ++num_read;
    } catch (const Error& error) {
      EXPECT_NE(error.code(), ErrorCode::internal) << error.what();
      ++num_refused;
    }
  };
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(whole))
    if (entry.is_regular_file()) files.push_back(std::filesystem::relative(entry.path(), whole));
  std::sort(files.begin(), files.end());
  const auto bytes_of = [](const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const Philox random(7, 1);
  const char* const tokens[] = {"-1", "0",  "1e300", "99999999999", "null", "\"\"",
                                "[]", "{}", "NaN",   "\"<i2\"",     "true"};
  const int64_t num_trials = std::getenv("BOREAS_FUZZ") ? 20000 : 400;
  for (int64_t trial = 0; trial < num_trials; ++trial) {
    auto draw = [&, i = uint64_t{0}](int64_t n) mutable { return random.below(uint64_t(trial) * 64 + i++, n); };
    std::filesystem::remove_all(damaged);
    std::filesystem::copy(whole, damaged, std::filesystem::copy_options::recursive);
    const std::filesystem::path file = std::filesystem::path(damaged) / files[size_t(draw(int64_t(files.size())))];
    std::string bytes = bytes_of(file);
    const bool is_json = file.filename().string().starts_with(".z");
    switch (draw(4)) {
      case 0:
        bytes[size_t(draw(int64_t(bytes.size())))] = char(draw(256));
        break;
      case 1:
        bytes.resize(size_t(draw(int64_t(bytes.size()))));
        break;
      case 2:
        bytes.insert(size_t(draw(int64_t(bytes.size()))), is_json ? tokens[draw(11)] : "abc");
        break;
      default: {  // another value of a number or a word
        size_t begin = size_t(draw(int64_t(bytes.size()))), end = begin;
        while (begin > 0 && std::isalnum(static_cast<unsigned char>(bytes[begin - 1]))) --begin;
        while (end < bytes.size() && std::isalnum(static_cast<unsigned char>(bytes[end]))) ++end;
        bytes.replace(begin, end - begin, tokens[draw(11)]);
      }
    }
    std::ofstream(file, std::ios::binary) << bytes;
    try_to_read(damaged);
  }
  EXPECT_GT(num_refused, num_trials / 4);
  EXPECT_GT(num_read, num_trials / 50);
  for (const std::string name : {"whole.nc", "whole.grib"}) {
    StateFile state(data, {"a", "b", "dynamic", "orography"}, 4, 2);
    if (name == "whole.grib")
      for (size_t v = 0; v < 4; ++v) state.layout.variables[v].name = std::vector<std::string>{"u", "v", "t", "z"}[v];
    if (is_unsupported([&] { state.write(world.folder / name); })) continue;
    const std::string bytes = bytes_of(world.folder / name);
    for (uint64_t trial = 0; trial < 40; ++trial) {
      std::ofstream(world.folder / ("cut_" + name), std::ios::binary)
          << bytes.substr(0, size_t(random.below(trial + (uint64_t{1} << 40), int64_t(bytes.size()))));
      try_to_read(world.folder / ("cut_" + name));
    }
  }
}

}  // namespace
}  // namespace boreas
