// Ten days of forecasts with output: full-size models on made-up weather, written while the next step is computed.
//
//   bench_forecast [shapes] [options]      shapes: A B D, small (default)
//
//   A       N320 to an icosahedral mesh of level 6, graph transformer, 16 layers, 512 channels
//   B       the same, 1024 channels
//   D       O1280 to O320, encoder and decoder only, 512 channels, encoder in 48 and decoder in 96 chunks
//
// 85 prognostic, 16 constant forcing and 4 diagnostic variables, two input steps; all 89 outputs of every step are
// written to --folder. The time of a forecast goes from an initial state on the device to files that have their names;
// beside it that of as many steps whose outputs stay on the device, of the same with the fields fetched to the host,
// and of what comes before: initial fields from the host's memory to the device. --repeats 0 writes nothing.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/engine/synthetic.h"
#include "engine/forecast_output.h"
#include "engine/model_state.h"

namespace boreas::bench {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int64_t kPrognostic = 85, kForcings = 16, kDiagnostic = 4;
constexpr double kGiB = 1024.0 * 1024 * 1024;

struct Options {
  std::vector<std::string> shapes{"small"};
  std::string device = "auto", folder = "/dev/shm", format = "zarr", compressor = "lz4", packing = "none", out;
  int64_t steps = 40, threads = 2, buffers = 3, repeats = 2, layers = 16, encoder_chunks = 0, decoder_chunks = 0;
  bool no_fold = false;
};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

ModelSetup setup_of(const std::string& shape, const Options& options, Device device) {
  const bool small = shape == "small";
  BOREAS_CHECK(small || shape == "A" || shape == "B" || shape == "D", invalid_argument,
               "there is no shape {}; shapes are A, B, D, small", shape);
  RunConfig config = n320_config(small ? 64 : shape == "B" ? 1024 : 512, small ? 2 : options.layers, kForcings);
  config.model.decoder.num_chunks = 4;
  config.precision = device.is_cuda() ? Precision::bf16 : Precision::f32;
  config.graph.build.area_weight = AreaWeight::cosine_latitude;
  if (shape == "D") {
    config.model.processor.kind = ProcessorKind::none;
    config.graph.build.processor.kind = EdgesKind::none;
    config.graph.build.hidden.kind = NodesKind::reduced_gaussian_octahedral;
    config.graph.build.hidden.number = 320;
    config.model.encoder.num_chunks = 48;
    config.model.decoder.num_chunks = 96;
  }
  if (options.encoder_chunks) config.model.encoder.num_chunks = options.encoder_chunks;
  if (options.decoder_chunks) config.model.decoder.num_chunks = options.decoder_chunks;
  config.forecast.fold = !options.no_fold;
  if (small) config.graph.build.hidden.level = 3;
  ModelSetup setup = wave_setup(config,
                                shape == "D" ? octahedral_nodes(kDataNodes, 1280)
                                : small      ? octahedral_nodes(kDataNodes, 32)
                                             : n320_nodes(kDataNodes),
                                kPrognostic, kForcings, kDiagnostic);
  for (int64_t v = 0; v < setup.variables.size(); ++v)
    setup.constant[size_t(v)] = setup.variables.role(v) == Role::forcing;
  return setup;
}

int64_t bytes_below(const fs::path& path) {
  int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) bytes += int64_t(entry.file_size());
  return bytes;
}

Json measure(const std::string& shape, const Options& options, Device device) {
  auto begin = Clock::now();
  const ModelSetup setup = setup_of(shape, options, device);
  const double graph_seconds = seconds_since(begin);
  begin = Clock::now();
  const DeviceMemory driver = device.is_cuda() ? memory_of(device) : DeviceMemory{};
  StepModel model(setup, device);
  model.parameters().materialise(1);
  model.parameters().keep_values_only();
  ModelState state(model);
  const double startup = seconds_since(begin);
  const Waves waves(setup.latitudes, setup.longitudes);
  const int64_t num_inputs = model.network().shape().num_input_steps;
  const auto start = [&] {
    state.begin(0);
    for (int64_t t = 0; t < num_inputs; ++t)
      for (int64_t v = 0; v < setup.variables.size(); ++v)
        if (state.needs_initial(v)) waves.fill(v, double(t), state.initial(v, t).data());
    const auto filled = Clock::now();
    state.prepare();
    state.context().compute().synchronize();
    return seconds_since(filled);
  };

  // Steps alone, then with their fields fetched; the first forecast of each records and warms up.
  std::map<std::string, double> seconds;
  for (const std::string what : {"steps", "steps_and_fetch"})
    for (int64_t i = 0; i < 2; ++i) {
      seconds["initial"] = start();
      begin = Clock::now();
      for (int64_t k = 0; k < options.steps; ++k) {
        state.step();
        if (what == "steps_and_fetch") state.fetch();
      }
      if (what == "steps_and_fetch") state.fields();
      state.context().compute().synchronize();
      seconds[what] = seconds_since(begin);
    }

  RunConfig config = setup.config;
  config.output = options.folder;
  config.forecast.formats = {options.format == "zarr" ? ForecastFormat::zarr : ForecastFormat::netcdf};
  config.forecast.lead_steps = options.steps;
  config.forecast.compressor = options.compressor;
  config.forecast.packing = options.packing == "int16" ? ForecastPacking::int16 : ForecastPacking::none;
  config.forecast.num_threads = options.threads;
  config.forecast.num_buffers = options.buffers;
  config.forecast.output = "bench_forecast_" + shape;
  std::vector<double> walls;
  double opened = 0, closed = 0;
  int64_t written = 0;
  for (int64_t i = 0; i < options.repeats; ++i) {
    start();
    begin = Clock::now();
    ForecastOutput output(model, config, {0}, {}, "none", false);
    opened = seconds_since(begin);
    const bool overlaps = device.is_cuda();
    const auto deliver = [&](int64_t lead) {
      const Tensor fields = state.fields();
      output.write(0, lead, {fields.as<float>(), size_t(fields.size())});
    };
    for (int64_t k = 1; k <= options.steps; ++k) {  // as Forecaster does
      state.step();
      if (overlaps && k > 1) deliver(k - 1);
      state.fetch();
      if (!overlaps || k == options.steps) deliver(k);
    }
    const auto before_close = Clock::now();
    const std::vector<std::string> paths = output.close();
    closed = seconds_since(before_close);
    walls.push_back(seconds_since(begin));
    written = fs::is_directory(paths[0]) ? bytes_below(paths[0]) : int64_t(fs::file_size(paths[0]));
    for (const std::string& path : paths) fs::remove_all(path);
  }
  const double wall = walls.empty() ? seconds["steps_and_fetch"] : *std::min_element(walls.begin(), walls.end());
  const double field_bytes = 4.0 * double(options.steps * (kPrognostic + kDiagnostic) * setup.num_cells());
  Json json = {{"shape", shape},
               {"format", options.format},
               {"compressor", options.compressor},
               {"packing", options.packing},
               {"threads", options.threads},
               {"steps", options.steps},
               {"fold", setup.config.forecast.fold},
               {"encoder_chunks", setup.config.model.encoder.num_chunks},
               {"decoder_chunks", setup.config.model.decoder.num_chunks},
               {"graph_s", graph_seconds},
               {"startup_s", startup},
               {"initial_s", seconds["initial"]},
               {"step_ms", seconds["steps"] / double(options.steps) * 1e3},
               {"steps_s", seconds["steps"]},
               {"steps_and_fetch_s", seconds["steps_and_fetch"]},
               {"forecast_s", wall},
               {"forecasts_s", walls},
               {"of_steps", wall / seconds["steps"]},
               {"open_s", opened},
               {"close_s", closed},
               {"field_gb", field_bytes * 1e-9},
               {"written_gb", double(written) * 1e-9},
               {"field_gb_per_s", field_bytes * 1e-9 / wall},
               {"host_buffers_gib", double(ForecastOutput::staging_bytes(model, config.forecast)) / kGiB}};
  if (device.is_cuda()) {
    const DeviceMemory memory = memory_of(device);
    json["buffers_gib"] = double(live_device_bytes()) / kGiB;
    json["driver_gib"] = double(memory.total - memory.free - (driver.total - driver.free)) / kGiB;
  }
  std::printf("%s\n", json.dump().c_str());
  std::fflush(stdout);
  return json;
}

int run_all(const Options& options) {
  const bool on_gpu = options.device == "cuda" || (options.device == "auto" && why_no_cuda().empty());
  if (on_gpu) BOREAS_CHECK(why_no_cuda().empty(), unsupported, "{}", why_no_cuda());
  const Device device = on_gpu ? Device::cuda(0) : Device::cpu();
  Json results = Json::array();
  for (const std::string& shape : options.shapes) {
    results.push_back(measure(shape, options, device));
    if (!options.out.empty())
      std::ofstream(options.out) << Json{{"hardware", on_gpu ? name_of(device) : "cpu"},
                                         {"what", "a forecast with all its outputs written, beside its steps alone"},
                                         {"results", results}}
                                        .dump(1)
                                 << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) try {
  boreas::bench::Options options;
  CLI::App app("Forecasts with output");
  app.add_option("shapes", options.shapes, "A B D small");
  app.add_option("--device", options.device, "auto, cpu or cuda");
  app.add_option("--folder", options.folder, "where the files go, and are removed again");
  app.add_option("--format", options.format, "zarr or netcdf");
  app.add_option("--compressor", options.compressor, "of Zarr");
  app.add_option("--packing", options.packing, "none or int16");
  app.add_option("--steps", options.steps, "of a forecast");
  app.add_option("--layers", options.layers, "of the processor");
  app.add_option("--encoder-chunks", options.encoder_chunks, "instead of the shape's");
  app.add_option("--decoder-chunks", options.decoder_chunks, "instead of the shape's");
  app.add_flag("--no-fold", options.no_fold, "compute in each step what weights and graph alone decide");
  app.add_option("--threads", options.threads, "that encode and write");
  app.add_option("--buffers", options.buffers, "field sets under way");
  app.add_option("--repeats", options.repeats, "forecasts that are made");
  app.add_option("--out", options.out, "JSON file");
  CLI11_PARSE(app, argc, argv);
  return boreas::bench::run_all(options);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
