// The program itself, run as a user runs it: the whole way from a NetCDF file to scores, and every kind of bad input,
// which must give exit status 2, one clear error, and leave nothing half-written.
#include "tests/engine/command_line.h"

#include <bit>
#include <thread>

#include "engine/checkpoint.h"
#include "engine/memory_plan.h"

namespace boreas {
namespace {

using namespace test;
using nlohmann::json;

// A file in the classic NetCDF format, so that making it needs no library: all values big-endian, all dimensions fixed.
class ClassicNetcdf {
 public:
  struct Variable {
    std::string name, units;
    std::vector<int> dimensions;
    bool is_double = false;
    std::vector<double> values;
  };

  static std::string make(const std::vector<std::pair<std::string, int>>& dimensions,
                          const std::vector<Variable>& variables) {
    int64_t begin = int64_t(header(dimensions, variables, 0).size());
    std::string file = header(dimensions, variables, begin);
    for (const Variable& variable : variables)
      for (const double value : variable.values)
        variable.is_double ? number(file, std::bit_cast<uint64_t>(value))
                           : number(file, std::bit_cast<uint32_t>(float(value)));
    return file;
  }

 private:
  template <class T>
  static void number(std::string& out, T value) {
    for (int shift = 8 * int(sizeof(T)) - 8; shift >= 0; shift -= 8) out.push_back(char(value >> shift));
  }
  static void text(std::string& out, const std::string& value) {
    number(out, uint32_t(value.size()));
    out += value;
    out.resize((out.size() + 3) / 4 * 4, '\0');
  }
  static std::string header(const std::vector<std::pair<std::string, int>>& dimensions,
                            const std::vector<Variable>& variables, int64_t begin) {
    constexpr uint32_t kDimension = 10, kVariable = 11, kAttribute = 12, kChar = 2, kFloat = 5, kDouble = 6;
    std::string out("CDF\1", 4);
    number(out, uint32_t(0));
    number(out, kDimension);
    number(out, uint32_t(dimensions.size()));
    for (const auto& [name, size] : dimensions) {
      text(out, name);
      number(out, uint32_t(size));
    }
    number(out, uint64_t(0));  // no global attributes
    number(out, kVariable);
    number(out, uint32_t(variables.size()));
    for (const Variable& variable : variables) {
      text(out, variable.name);
      number(out, uint32_t(variable.dimensions.size()));
      for (const int dimension : variable.dimensions) number(out, uint32_t(dimension));
      number(out, kAttribute);
      number(out, uint32_t(1));
      text(out, "units");
      number(out, kChar);
      text(out, variable.units);
      number(out, variable.is_double ? kDouble : kFloat);
      const auto num_bytes = uint32_t(variable.values.size() * (variable.is_double ? 8 : 4));
      number(out, num_bytes);
      number(out, uint32_t(begin));
      begin += num_bytes;
    }
    return out;
  }
};

// --- commands
// ---------------------------------------------------------------------------------------------------------

TEST_F(CommandLine, EveryCommandExplainsItself) {
  const std::string overview = succeed("--help").out;
  for (const std::string command :
       {"dataset", "graph", "plan", "train", "forecast", "evaluate", "import", "export", "config"}) {
    EXPECT_NE(overview.find("\n  " + command), std::string::npos) << overview;
    const std::string help = succeed(command + " --help").out;
    EXPECT_NE(help.find("--help"), std::string::npos) << help;
    EXPECT_NE(help.find("boreas " + command), std::string::npos) << help;
  }
  for (const std::string command : {"create", "inspect", "rechunk"})
    EXPECT_NE(succeed("dataset " + command + " --help").out.find("boreas dataset " + command), std::string::npos);
  EXPECT_TRUE(succeed("--version").out.starts_with("boreas "));
  EXPECT_NE(succeed("config").out.find("`training.rollout.maximum`"), std::string::npos);
}

TEST_F(CommandLine, WrongArgumentsAreOneErrorEach) {
  fail("", {"boreas: ", "--help"});
  fail("trian config.yaml", {"'trian'", "near names: train"});
  fail("dataset inspekt x", {"'inspekt'", "near names: inspect"});
  fail("train", {"config"});
  fail("plan config.yaml --sett a=b", {"--sett"});
  fail("dataset create out.zarr --from absent.nc", {"absent.nc"});
  fail("dataset create out.zarr --from /dev/null --rename u", {"--rename u", "OLD=NEW"});
  fail("dataset inspect absent.zarr", {"absent.zarr"});
  fail("export absent out.h5", {"absent: no such checkpoint or output folder"});
  EXPECT_TRUE(files_below(folder.path()).empty());
}

TEST_F(CommandLine, TyposInAConfigNameTheNearestKey) {
  write_config();
  fail("plan absent.yaml", {"absent.yaml"});
  write("typo.yaml", "output: run\ntraining:\n  rolout: {maximum: 2}\n");
  fail("train typo.yaml", {"typo.yaml:3", "training.rolout", "near names: rollout"});
  fail("train config.yaml --set modle.num_channels=8", {"--set modle.num_channels=8", "near names: model"});
  fail("train config.yaml --set model.num_channels=many", {"model.num_channels", "many", "integer"});
  fail("train config.yaml --set training.batch_size=0", {"training.batch_size is 0", "at least 1"});
  fail("train config.yaml --set model.processor.kind=graph_transfomer", {"near names: graph_transformer"});
  write("syntax.yaml", "data: [1, 2\ntraining: }");
  fail("graph syntax.yaml", {"syntax.yaml:"});
  EXPECT_FALSE(fs::exists(folder / "run"));
}

TEST_F(CommandLine, FromANetcdfFileToScoresAndBack) {
  // dataset create, inspect, rechunk
  const SmallDataset source = data();
  const int num_dates = int(source.dates.size());
  std::vector<ClassicNetcdf::Variable> variables = {{"time", "hours since 2001-03-01", {0}, true, {}},
                                                    {"lat", "degrees_north", {1}, true, {}},
                                                    {"lon", "degrees_east", {2}, true, {}},
                                                    {"UWND", "m s-1", {0, 1, 2}, false, {}},
                                                    {"VWND", "m s-1", {0, 1, 2}, false, {}}};
  for (int t = 0; t < num_dates; ++t) variables[0].values.push_back(6 * t);
  for (int row = 0; row < 6; ++row) variables[1].values.push_back(source.latitude(12 * row));
  for (int column = 0; column < 12; ++column) variables[2].values.push_back(source.longitude(column));
  for (int v = 0; v < 2; ++v)
    for (int t = 0; t < num_dates; ++t)
      for (int c = 0; c < 72; ++c)
        variables[size_t(3 + v)].values.push_back(source.variables[size_t(1 + v)].value(t, c));
  write("winds.nc", ClassicNetcdf::make({{"time", num_dates}, {"lat", 6}, {"lon", 12}}, variables));
  const Outcome created =
      run("dataset create data.zarr --from winds.nc --rename UWND=u,VWND=v --forcings insolation "
          "--statistics-end 2001-03-04");
  if (created.err.find("this build cannot read NetCDF files") != std::string::npos) GTEST_SKIP() << created.err;
  ASSERT_EQ(created.status, 0) << created.err;
  const std::string shown = succeed("dataset inspect data.zarr").out;
  for (const char* text : {"u", "v", "insolation", "2001-03-01", "6h", "72"})
    EXPECT_NE(shown.find(text), std::string::npos) << shown;
  succeed("dataset rechunk data.zarr chunked.zarr --grid-chunks 4 --compressor zstd");
  fail("dataset rechunk data.zarr chunked.zarr", {"chunked.zarr", "allow overwriting"});
  fail("dataset create data.zarr --from winds.nc", {"data.zarr", "allow overwriting"});

  // graph, plan, train
  write_config();
  const std::string graph = succeed("graph config.yaml").out;
  EXPECT_NE(graph.find("72"), std::string::npos) << graph;
  EXPECT_TRUE(fs::exists(folder / "run/graph.h5"));
  const std::string plan = succeed("plan config.yaml").out;
  for (const char* owner : {"parameters", "gradients", "optimizer", "saved", "scratch", "forecast"})
    EXPECT_NE(plan.find(owner), std::string::npos) << plan;
  const Outcome trained =
      succeed("train config.yaml --set data.validation.start=2001-03-05 --set training.validation.every_steps=4");
  EXPECT_NE(trained.out.find("wrote run/checkpoints/step_00000004.h5"), std::string::npos) << trained.out;
  EXPECT_EQ(lines_of(read_text_file(folder / "run/metrics.jsonl")).size(), 5U);  // four updates, one validation
  EXPECT_TRUE(fs::exists(folder / "run/checkpoints/best.h5"));
  fail("train config.yaml", {"run already holds a training", "--resume"});

  // forecast, evaluate
  const std::string forecast = succeed("forecast config.yaml --set forecast.formats=[netcdf,zarr]").out;
  EXPECT_EQ(forecast, "wrote run/winds.nc\nwrote run/winds.zarr\n");
  EXPECT_TRUE(fs::exists(folder / "run/winds.nc"));
  EXPECT_TRUE(fs::exists(folder / "run/winds.zarr/u/.zarray"));
  const std::string table = succeed("evaluate config.yaml --set data.dataset.path=chunked.zarr").out;
  EXPECT_NE(table.find("persistence"), std::string::npos) << table;
  const json evaluation = json::parse(read_text_file(folder / "run/evaluation.json"));
  ASSERT_EQ(evaluation["scores"].size(), 4U);  // two variables, two leads
  for (const json& score : evaluation["scores"]) {
    EXPECT_EQ(score["num_targets"], 8);
    EXPECT_EQ(score["lead_hours"], 6.0 * score["lead_steps"].get<double>());
    EXPECT_TRUE(std::isfinite(score["rmse"].get<double>()));
  }
  EXPECT_NE(read_text_file(folder / "run/report.html").find("<svg"), std::string::npos);
  EXPECT_TRUE(fs::exists(folder / "run/maps"));

  // Settings of the forecast are those of the command, not those that the checkpoint was trained with. Folding changes
  // no value, but takes memory.
  struct Folded {
    json values;
    std::string arena;
  };
  const auto folded = [&](const std::string& fold) {
    const std::string log =
        succeed("forecast config.yaml --set forecast.output=folded --set forecast.fold=" + fold).err;
    const std::string before = "the arena of the forecasts held ";
    const size_t at = log.find(before), end = log.find(" bytes at most", at);
    EXPECT_NE(end, std::string::npos) << log;
    return Folded{checksums("folded"), at < end ? log.substr(at + before.size(), end - at - before.size()) : ""};
  };
  const Folded with = folded("true"), again = folded("true"), without = folded("false");
  EXPECT_EQ(with.values.size(), 4U);
  EXPECT_EQ(with.values, again.values);
  EXPECT_EQ(with.arena, again.arena);
  EXPECT_EQ(with.values, without.values);
  EXPECT_NE(with.arena, without.arena);

  // export and import: the same weights make the same forecast
  for (const std::string file : {"weights.h5", "weights.safetensors"}) {
    EXPECT_EQ(succeed("export run " + file).out, "wrote " + file + "\n");
    const std::string again = "again_" + file.substr(8);
    const std::string imported = succeed("import config.yaml " + file + " --set output=" + again).out;
    EXPECT_NE(imported.find("wrote " + again + "/checkpoints/step_00000000.h5"), std::string::npos) << imported;
    EXPECT_EQ(imported.find("not used"), std::string::npos) << imported;
    succeed("forecast config.yaml --set output=" + again);
    for (const char* name : {"u", "v"})
      for (const auto& entry : fs::directory_iterator(folder / ("run/winds.zarr/" + std::string(name))))
        EXPECT_EQ(read_text_file(entry.path().string()),
                  read_text_file(folder / (again + "/winds.zarr/" + name + "/" + entry.path().filename().string())));
  }
  // An imported model is a training of 0 updates, and goes on from there.
  succeed("train config.yaml --resume --set output=again_h5");
  EXPECT_TRUE(fs::exists(folder / "again_h5/checkpoints/step_00000004.h5"));
}

// Both variables of the model are in its forecasts, the forcing is computed: a forecast starts another.
TEST_F(CommandLine, ForecastsGoOnFromForecasts) {
  write_inputs();
  succeed("train config.yaml");
  succeed(
      "forecast config.yaml --set 'forecast.end=\"\"' --set forecast.lead_steps=4 --set "
      "forecast.formats=[zarr,netcdf]");
  fs::remove_all(folder / "data.zarr");  // not needed any more
  const auto from = [&](const std::string& state, const std::string& start) {
    succeed("forecast config.yaml --set forecast.output=second --set 'forecast.end=\"\"' --set forecast.lead_steps=1 " +
            ("--set forecast.state=[" + state + "] --set forecast.start=" + start));
    return checksums("second").back();
  };
  const json zarr = from("run/winds.zarr", "'\"\"'"), netcdf = from("run/winds.nc", "'\"\"'");
  EXPECT_EQ(zarr, netcdf);
  EXPECT_EQ(zarr["start"], "2001-03-06T00:00:00");  // the last state with one before it
  EXPECT_EQ(from("run/winds.zarr", "2001-03-05T12")["start"], "2001-03-05T12:00:00");
  fail("forecast config.yaml --set forecast.state=[run/winds.zarr] --set forecast.start=2001-03-05T06",
       {"needs u on 2001-03-05T00:00:00, which run/winds.zarr does not hold"});
  fail("forecast config.yaml --set forecast.state=[run/graph.h5]", {"run/graph.h5"});
  succeed(
      "forecast config.yaml --set forecast.state=[run/winds.nc] --set forecast.start=2001-03-05T12 --set "
      "forecast.output=two");
  fail("forecast config.yaml --set forecast.state=[run/two.zarr]",
       {"run/two.zarr: variable 'u' occurs a second time at 2001-03-0", "in forecasts from two dates"});
  fail("forecast config.yaml --set forecast.state=[run/winds.zarr] --set forecast.members=[1]", {"has 1 member"});
}

// Chunks are raised until the plan fits; what comes out is the same but for rounding.
TEST_F(CommandLine, ForecastsAndEvaluationsFitABudget) {
  write_inputs();
  const std::string finer = " --set graph.hidden.level=3 --set model.processor.kind=none";
  succeed("train config.yaml" + finer);
  const std::string forecast = "forecast config.yaml --set forecast.compressor=none --set forecast.output=";
  const auto values = [&](const std::string& name) {
    std::vector<float> all;
    for (const char* variable : {"u", "v"})
      for (const auto& [file, size] : files_below(folder.path() / "run" / (name + ".zarr") / variable))
        if (!file.starts_with(".")) {
          const std::string bytes = read_text_file(folder / fmt::format("run/{}.zarr/{}/{}", name, variable, file));
          all.resize(all.size() + bytes.size() / 4);
          std::memcpy(all.data() + all.size() - bytes.size() / 4, bytes.data(), bytes.size());
        }
    return all;
  };
  const auto rmse = [&] {
    std::vector<double> all;
    for (const json& score : json::parse(read_text_file(folder / "run/evaluation.json"))["scores"])
      all.push_back(score["rmse"]);
    return all;
  };
  EXPECT_EQ(succeed(forecast + "free").err.find("memory.budget"), std::string::npos);
  succeed("evaluate config.yaml");
  const std::vector<double> free_rmse = rmse();
  ModelSetup setup = load_setup(folder / "run/checkpoints/step_00000004.h5");
  setup.config.forecast.formats = {ForecastFormat::zarr};
  setup.config.forecast.lead_steps = 3;
  Communicator& one = *ProcessGrid::one_rank().world;
  const auto planned = [&](bool writes) {
    return plan_forecast(setup, Device::cpu(), one, {.writes = writes}).forecast_bytes();
  };
  const auto budget = [](int64_t bytes) { return fmt::format(" --set memory.budget={}", bytes); };
  const std::string chosen = "encoder.num_chunks=2 decoder.num_chunks=2", as_it_is = "encoder.num_chunks=1 decoder";
  EXPECT_NE(succeed(forecast + "same" + budget(planned(true))).err.find(as_it_is), std::string::npos);
  EXPECT_EQ(checksums("same"), checksums("free"));
  const std::string log = succeed(forecast + "fitted" + budget(planned(true) - 1)).err;
  EXPECT_NE(log.find(chosen), std::string::npos) << log;
  const std::vector<float> fitted = values("fitted"), expected = values("free");
  ASSERT_EQ(fitted.size(), expected.size());
  ASSERT_EQ(fitted.size(), 4U * 3 * 2 * 72);
  for (size_t i = 0; i < fitted.size(); ++i) EXPECT_NEAR(fitted[i], expected[i], 1e-4) << i;
  const std::string evaluated = succeed("evaluate config.yaml" + budget(planned(false) - 1)).err;
  EXPECT_NE(evaluated.find(chosen), std::string::npos) << evaluated;
  ASSERT_EQ(rmse().size(), free_rmse.size());
  for (size_t i = 0; i < free_rmse.size(); ++i) EXPECT_NEAR(rmse()[i], free_rmse[i], 1e-4 * free_rmse[i]);

  const auto before = files_below(folder.path());
  for (const std::string command : {"forecast", "evaluate"})
    fail(command + " config.yaml --set memory.budget=10KiB",
         {"memory.budget is 10.00 KiB but a forecast needs at least", "chunks. Raise the budget"});
  EXPECT_EQ(files_below(folder.path()), before);
}

TEST_F(CommandLine, ForecastsOpenInOtherTools) {
  write_inputs();
  succeed("train config.yaml");
  succeed("forecast config.yaml --set forecast.formats=[netcdf,zarr] --set forecast.packing=int16");
  write("check.py", R"(
import numpy as np, xarray as xr
n, z = xr.open_dataset("run/winds.nc"), xr.open_zarr("run/winds.zarr")
for d in (n, z):
    assert d.u.dims == ("forecast_reference_time", "step", "latitude", "longitude"), d.u.dims
    assert d.u.shape == (4, 3, 6, 12) and d.u.attrs["units"] == "m s-1", d.u
    assert np.isfinite(d.u.values).all() and abs(d.u.values).max() < 100
    lead = d.time.values - d.forecast_reference_time.values[:, None]
    assert (lead / np.timedelta64(6, "h") == d.step.values).all(), lead
assert (n.u.values == z.u.values).all() and (n.latitude.values == z.latitude.values).all()
)");
  if (finish(folder.path(), start(folder.path(), "ncdump -h run/winds.nc")).status == 127)
    GTEST_SKIP() << "there is no ncdump";
  const Outcome header = finish(folder.path(), start(folder.path(), "ncdump -h run/winds.nc"));
  EXPECT_EQ(header.status, 0) << header.err;
  for (const char* text : {"short u(forecast_reference_time, step, latitude, longitude)", "u:units = \"m s-1\"",
                           "u:_FillValue = -32768s", "lead_time:standard_name = \"forecast_period\""})
    EXPECT_NE(header.out.find(text), std::string::npos) << header.out;
  if (finish(folder.path(), start(folder.path(), "python3 -c 'import xarray, zarr, netCDF4'")).status != 0)
    GTEST_SKIP() << "python3 has no xarray, zarr and netCDF4; ncdump has passed";
  const Outcome checked = finish(folder.path(), start(folder.path(), "python3 check.py"));
  EXPECT_EQ(checked.status, 0) << checked.err;
}

TEST_F(CommandLine, InterruptSavesAndResumeGoesOn) {
  write_inputs();
  const pid_t pid = start(folder.path(), "exec " BOREAS_CLI " train config.yaml --set training.max_steps=1000000");
  const std::string metrics = folder / "run/metrics.jsonl";
  for (int i = 0; i < 3000 && !(fs::exists(metrics) && fs::file_size(metrics) > 500); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_EQ(kill(pid, SIGINT), 0);
  const Outcome interrupted = finish(folder.path(), pid);
  EXPECT_EQ(interrupted.status, 0) << interrupted.err;
  EXPECT_NE(interrupted.err.find("stopped at step"), std::string::npos) << interrupted.err;
  const auto lines = lines_of(read_text_file(metrics));
  const int64_t steps = int64_t(lines.size());
  EXPECT_GE(steps, 2);
  const std::string checkpoint = fmt::format("run/checkpoints/step_{:08}.h5", steps);
  EXPECT_EQ(interrupted.out, "wrote " + checkpoint + "\n");
  EXPECT_TRUE(fs::exists(folder / checkpoint));

  const Outcome resumed = succeed(fmt::format("train config.yaml --resume --set training.max_steps={}", steps + 3));
  EXPECT_NE(resumed.err.find("resuming from " + checkpoint), std::string::npos) << resumed.err;
  const auto all = lines_of(read_text_file(metrics));
  ASSERT_EQ(int64_t(all.size()), steps + 3);
  for (int64_t i = 0; i < steps + 3; ++i) EXPECT_EQ(json::parse(all[size_t(i)])["step"], i + 1);
  EXPECT_TRUE(std::equal(lines.begin(), lines.end(), all.begin()));
}

// --- bad input
// --------------------------------------------------------------------------------------------------------

TEST_F(CommandLine, DamagedChunksNameArrayChunkAndFile) {
  write_inputs();
  const std::string whole = read_text_file(chunk("data.zarr", 5));
  const auto expect_failures = [&](const std::vector<std::string>& texts) {
    fail("train config.yaml", texts);
    EXPECT_FALSE(fs::exists(folder / "run/checkpoints/step_00000004.h5"));
    fail("dataset rechunk data.zarr other.zarr", texts);
    EXPECT_FALSE(fs::exists(folder / "other.zarr"));
  };
  const std::vector<std::string> place = {"array 'data'", "chunk data/5.0.0.0", "in data.zarr/data/5.0.0.0"};
  write("data.zarr/data/5.0.0.0", whole.substr(0, whole.size() / 2));
  expect_failures(place);
  std::string corrupted = whole;
  for (size_t i = 4; i < 16; ++i) corrupted[i] = '\xff';  // the sizes in the header of the frame
  write("data.zarr/data/5.0.0.0", corrupted);
  expect_failures(place);
  write("data.zarr/data/5.0.0.0", "");
  expect_failures(place);
  fs::remove(chunk("data.zarr", 5));
  expect_failures({"5.0.0.0", "array 'data'", "data.zarr", "2001-03-02T06:00:00", "absent"});

  // Where a forecast or an evaluation meets one.
  write("data.zarr/data/5.0.0.0", whole);
  succeed("train config.yaml");
  write("data.zarr/data/16.0.0.0", read_text_file(chunk("data.zarr", 16)).substr(0, 20));
  const auto before = files_below(folder.path());
  fail("forecast config.yaml", {"array 'data'", "chunk data/16.0.0.0"});
  fail("evaluate config.yaml", {"array 'data'", "chunk data/16.0.0.0"});
  EXPECT_EQ(files_below(folder.path()), before);
}

TEST_F(CommandLine, WrongTypesAndShapesAreNamed) {
  write_inputs();
  const std::string array = "data.zarr/data/.zarray", original = read_text_file(folder / array);
  const auto expect_failure = [&](const std::function<void(json&)>& change, const std::vector<std::string>& texts) {
    edit_json(array, change);
    fail("train config.yaml", texts);
    fail("dataset inspect data.zarr", texts);
    write(array, original);
  };
  expect_failure([](json& a) { a["dtype"] = "<i4", a["fill_value"] = 0; },
                 {"array 'data' holds", "expected <f4 or <f8"});
  expect_failure([](json& a) { a["dtype"] = "|O"; }, {"data", "|O"});
  expect_failure(
      [](json& a) {
        a["shape"] = {24, 3, 72}, a["chunks"] = {1, 3, 72};
      },
      {"array 'data' has shape [24, 3, 72]", "expected 4 dimensions"});
  expect_failure([](json& a) { a["shape"][1] = 4; }, {"array 'data' has 4 variables", "names 3"});
  expect_failure([](json& a) { a["shape"][0] = 25; }, {"array 'data' has 25 dates", "24"});
  expect_failure([](json& a) { a["shape"][3] = 71; }, {"array 'data' has 71 cells", "72 latitudes"});
  edit_json(array, [](json& a) { a["dtype"] = "<f8"; });  // only the chunks, which are of <f4, show that it is wrong
  fail("train config.yaml", {"array 'data'", "0.0.0", "the blosc header says 864 decoded bytes", "say 1728"});
  EXPECT_FALSE(fs::exists(folder / "run/checkpoints/step_00000004.h5"));
}

// Nothing is allocated for what metadata claim: the program may use 2 GiB of addresses in all.
TEST_F(CommandLine, HostileMetadataIsRefused) {
  write_inputs();
  const std::string array = "data.zarr/data/.zarray", original = read_text_file(folder / array);
  const auto expect_failure = [&](const std::function<void(json&)>& change, const std::vector<std::string>& texts) {
    edit_json(array, change);
    fail("dataset inspect data.zarr", texts, "ulimit -v 2097152; ");
    fail("train config.yaml", texts, "ulimit -v 2097152; ");
    write(array, original);
  };
  expect_failure([](json& a) { a["shape"] = {1 << 30, 1 << 30, 1 << 30, 1 << 30}; }, {"data", "64 bits"});
  expect_failure([](json& a) { a["shape"][3] = int64_t{1} << 40; }, {"data", "1099511627776"});
  expect_failure([](json& a) { a["chunks"] = {1, -3, 1, 72}; }, {"data", "-3"});
  expect_failure([](json& a) { a["chunks"] = {0, 3, 1, 72}; }, {"data", "chunks"});
  expect_failure([](json& a) { a["chunks"] = {1, 3, 1, int64_t{1} << 50}; }, {"data"});
  expect_failure([](json& a) { a["dimension_separator"] = "/../../"; }, {"data", "dimension_separator"});
  // A link that leads out of the dataset.
  write("secret", read_text_file(chunk("data.zarr", 5)));
  fs::remove(chunk("data.zarr", 5));
  fs::create_symlink(folder / "secret", chunk("data.zarr", 5));
  fail("train config.yaml", {"5.0.0.0"});
  EXPECT_FALSE(fs::exists(folder / "run/checkpoints/step_00000004.h5"));
}

TEST_F(CommandLine, AbsentVariablesListNearNames) {
  write_inputs();
  fail("train config.yaml --set data.forcing=[insolaton]", {"insolaton", "near names: insolation"});
  fail("train config.yaml --set data.dataset.select=[u,vv]", {"select", "'vv'", "near names: ", "v"});
  fail("train config.yaml --set data.normaliser.std=[w]", {"normaliser.std", "'w'"});
  EXPECT_FALSE(fs::exists(folder / "run"));
  succeed("train config.yaml");
  const auto before = files_below(folder.path());
  fail("forecast config.yaml --set forecast.variables=[uu]", {"forecast.variables", "'uu'", "near names: u"});
  fail("forecast config.yaml --set data.dataset.drop=[v]", {"'v'"});
  fail("evaluate config.yaml --set data.dataset.drop=[v]", {"'v'"});
  EXPECT_EQ(files_below(folder.path()), before);
}

TEST_F(CommandLine, DatesOutsideOfTheDatasetNameItsRange) {
  write_inputs();
  const std::string first = "2001-03-01T00:00:00", last = "2001-03-06T18:00:00";
  fail("train config.yaml --set data.training.start=2005 --set data.training.end=2006",
       {"data.training", "2005", first, last});
  fail("train config.yaml --set data.validation.start=1999-01 --set data.validation.end=1999-12",
       {"data.validation", "1999-01", first, last});
  fail("train config.yaml --set data.dataset.start=2010", {"2010", first, last});
  fail("train config.yaml --set data.training.start=2001-02-31", {"data.training: ", "2001-02-31"});
  fail("train config.yaml --set training.batch_size=40", {"data.training", "samples", "40 are needed"});
  fail("train config.yaml --set data.validation.start=2001-03-04", {"data.training and data.validation share"});
  succeed("train config.yaml");
  const auto before = files_below(folder.path());
  fail("forecast config.yaml --set forecast.start=2005-01-01", {"forecast", "2005-01-01", first, last});
  fail("forecast config.yaml --set forecast.start=2001-03-01 --set forecast.end=2001-03-01T00",
       {"needs insolation on 2001-02-28T18:00:00", first, last});
  fail("evaluate config.yaml --set evaluation.start=2005-01-01", {"evaluation", "2005-01-01", first, last});
  fail("evaluate config.yaml --set evaluation.climatology_end=2001-03-05", {"overlap"});
  fail("forecast config.yaml --set forecast.start=tomorrow", {"forecast: 'tomorrow' is no date"});
  fail("forecast config.yaml --set forecast.lead_steps=0", {"forecast.lead_steps is 0"});
  fail("forecast config.yaml --set forecast.members=[0,1]", {"forecast.members has 1", "has 1 member, counted from 0"});
  fail("forecast config.yaml --set forecast.members=[0,0]", {"forecast.members is [0, 0]", "ascend"});
  fail("forecast config.yaml --set forecast.formats=[]", {"forecast.formats is empty"});
  EXPECT_EQ(files_below(folder.path()), before);
}

TEST_F(CommandLine, NanInTrainingDataNamesVariableDateAndImputer) {
  SmallDataset holes = data();
  holes.allow_nans = true;
  const auto value = holes.variables[2].value;
  holes.variables[2].value = [=](int64_t t, int64_t c) { return t == 6 && c == 3 ? std::nanf("") : value(t, c); };
  holes.write(folder / "data.zarr");
  write_config();
  fail("train config.yaml", {"v", "2001-03-02T12:00:00", "NaN", "imputer"});
  EXPECT_FALSE(fs::exists(folder / "run/checkpoints/step_00000004.h5"));
  succeed("train config.yaml --resume --set data.imputer.mean=[v]");
}

TEST_F(CommandLine, ACheckpointThatDoesNotFitListsEachDifference) {
  write_inputs();
  succeed("train config.yaml");
  const auto before = files_below(folder.path());
  const std::string message = fail(
      "train config.yaml --resume --set model.num_channels=24 --set data.num_input_steps=1 "
      "--set data.dataset.drop=[v]",
      {"run/checkpoints/step_00000004.h5 does not fit this run",
       "model.num_channels: 16 in the checkpoint, 24 in "
       "the config",
       "data.num_input_steps: 2 in the checkpoint, 1 in the config",
       "variable v: present in the checkpoint, absent in the config", "parameter "});
  EXPECT_GT(lines_of(message).size(), 4U);
  fail("train config.yaml --resume --set graph.decoder.num_nearest_neighbours=2", {"graph: hash "});
  fail("train config.yaml --set output=other --set model.num_channels=24 --from run/checkpoints/step_00000004.h5",
       {"step_00000004.h5 does not fit this run", "parameter "});
  fail("forecast config.yaml --checkpoint run/graph.h5", {"run/graph.h5", "no boreas checkpoint"});
  fail("forecast config.yaml --checkpoint config.yaml", {"config.yaml"});
  fail("evaluate config.yaml --set output=nowhere", {"nowhere: no such checkpoint or output folder"});
  fs::resize_file(folder / "run/checkpoints/step_00000004.h5", 5000);
  fail("forecast config.yaml", {"step_00000004.h5"});
  fail("train config.yaml --resume", {"step_00000004.h5"});
  auto after = files_below(folder.path());
  for (const auto& [name, size] : before)
    if (!name.ends_with("step_00000004.h5")) {
      EXPECT_EQ(after[name], size) << name;
    }
}

// Neither the graph, nor checkpoints that the new settings would not keep.
TEST_F(CommandLine, ATrainingThatIsRefusedLeavesFilesAsTheyWere) {
  write_inputs();
  succeed("train config.yaml --set training.checkpoint.every_steps=1");
  SmallDataset other = data();
  std::swap(other.num_rows, other.num_columns);
  other.write(folder / "other.zarr");
  const auto contents = [&] {
    std::map<std::string, std::string> files;
    for (const auto& [name, size] : files_below(folder.path())) files[name] = read_text_file(folder / name);
    return files;
  };
  const auto before = contents();
  const std::string with_other =
      "train config.yaml --set data.dataset.path=other.zarr --set training.checkpoint.keep=1";
  fail(with_other + " --resume", {"step_00000004.h5 does not fit this run", "graph: hash "});
  EXPECT_TRUE(contents() == before);
  fail(with_other, {"run already holds a training"});
  EXPECT_TRUE(contents() == before);
  fail("train config.yaml --resume --set training.checkpoint.keep=1 --set graph.encoder.cutoff_factor=1.5",
       {"graph: hash "});
  EXPECT_TRUE(contents() == before);
  fs::remove(folder / "run/graph.h5");  // is made again for the training that it is of
  succeed("train config.yaml --resume --set training.max_steps=5");
  EXPECT_TRUE(fs::exists(folder / "run/graph.h5"));
}

// A limit on the size of files fails as a full disk does, in the middle of a write.
TEST_F(CommandLine, AFullDiskIsOneErrorAndLeavesNothing) {
  write_inputs();
  const std::string limit = "ulimit -f 40; ";  // 512 bytes each
  fail("graph config.yaml", {"run/graph.h5", "File too large"}, limit);
  EXPECT_FALSE(fs::exists(folder / "run/graph.h5"));
  succeed("train config.yaml");
  const std::string saved = read_text_file(folder / "run/checkpoints/step_00000004.h5");
  fail("train config.yaml --resume --set training.max_steps=8", {"step_00000008.h5", "File too large"}, limit);
  EXPECT_FALSE(fs::exists(folder / "run/checkpoints/step_00000008.h5"));
  EXPECT_EQ(read_text_file(folder / "run/checkpoints/step_00000004.h5"), saved);
  const auto before = files_below(folder.path());
  const std::string tiny = "ulimit -f 1; ";
  fail("dataset rechunk data.zarr other.zarr", {"other.zarr", "File too large"}, tiny);
  EXPECT_FALSE(fs::exists(folder / "other.zarr"));
  fail("export run weights.h5", {"weights.h5", "File too large"}, tiny);
  fail("export run weights.safetensors", {"weights.safetensors", "File too large"}, tiny);
  fail("forecast config.yaml", {"run/.winds.zarr.partial", "File too large"}, tiny);
  fail("forecast config.yaml --set forecast.formats=[netcdf]", {"run/winds.nc"}, tiny);
  fail("evaluate config.yaml", {"run/", "File too large"}, tiny);
  EXPECT_EQ(files_below(folder.path()), before);
  succeed("train config.yaml --resume --set training.max_steps=8");
  if (fs::exists("/dev/full"))
    for (const char* command : {"config", "plan config.yaml"})
      fail(std::string(command) + " > /dev/full", {"No space left on device"});
}

TEST_F(CommandLine, AnOutputFolderThatCannotBeIsAnError) {
  write_inputs();
  write("file", "in the way");
  fail("graph config.yaml --set output=file/run", {"file/run"});
  fail("train config.yaml --set output=file", {"file"});
  EXPECT_EQ(read_text_file(folder / "file"), "in the way");
  fail("export " + (folder / "config.yaml") + " file/weights.h5", {});
}

}  // namespace
}  // namespace boreas
