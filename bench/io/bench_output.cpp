// Writing a forecast: 8 variables of an N320 grid, step after step, as one rank does.
//
// The argument is the number of threads besides the caller's. Counters: GB/s of f32 values that are handed over; the
// size of the files beside that of the values. BOREAS_BENCH_CELLS sets the number of cells, BOREAS_BENCH_FOLDER where
// the files lie (default: /dev/shm).
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "io/atomic_replace.h"
#include "io/forecast_writer.h"

namespace {

using namespace boreas;
namespace fs = std::filesystem;

constexpr int64_t kVariables = 8, kSteps = 8;

int64_t num_cells() {
  const char* text = std::getenv("BOREAS_BENCH_CELLS");
  return text ? std::atoll(text) : 542080;
}

std::string path_of(const std::string& suffix) {
  const char* text = std::getenv("BOREAS_BENCH_FOLDER");
  return (text ? std::string(text) : "/dev/shm") + "/boreas_bench_output" + suffix;
}

// Smooth fields with noise in the last bits: about as compressible as meteorological fields.
std::vector<float> smooth_fields() {
  std::vector<float> values(size_t(kVariables * num_cells()));
  uint32_t noise = 1;
  for (size_t i = 0; i < values.size(); ++i) {
    noise = noise * 1664525u + 1013904223u;
    values[i] = 280.0f + 20.0f * std::sin(float(i) * 1e-3f) + float(noise >> 20) * 1e-4f;
  }
  return values;
}

int64_t bytes_below(const fs::path& path) {
  if (fs::is_regular_file(path)) return int64_t(fs::file_size(path));
  int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) bytes += int64_t(entry.file_size());
  return bytes;
}

void write_forecast(benchmark::State& state, const std::string& suffix, const std::string& compressor, bool packed) {
  static const std::vector<float> fields = smooth_fields();
  ThreadPool pool(int(state.range(0)));
  ForecastLayout layout;
  for (int64_t v = 0; v < kVariables; ++v) {
    layout.variables.push_back({std::string("v") + std::to_string(v), "K", ""});
    if (packed) layout.variables.back().packed_range = {200, 360};
  }
  layout.start_dates = {0};
  layout.step = {6 * 3600, 0};
  for (int64_t k = 1; k <= kSteps; ++k) layout.steps.push_back(k);
  layout.latitudes.resize(size_t(num_cells()));
  layout.longitudes.resize(size_t(num_cells()));
  if (compressor == "none") {
    layout.compressor.kind = Codec::Kind::none;
  } else {
    layout.compressor.cname = compressor;
  }
  const std::string path = path_of(suffix);
  double bytes = 0, written = 0;
  for (auto _ : state) {
    state.PauseTiming();  // what is done once for a forecast
    remove_quietly(path);
    create_forecast(path, layout);
    const ForecastWriter writer(path, layout, forecast_places(path, layout), {{0, kVariables}, {0, num_cells()}});
    writer.clear(pool);
    state.ResumeTiming();
    for (int64_t step = 0; step < kSteps; ++step) writer.write(0, step, fields.data(), pool);
    state.PauseTiming();
    publish_forecast(path);
    written = double(bytes_below(path));
    state.ResumeTiming();
    bytes += double(kSteps) * double(fields.size() * sizeof(float));
  }
  remove_quietly(path);
  state.counters["GB/s"] = benchmark::Counter(bytes / 1e9, benchmark::Counter::kIsRate);
  state.counters["file/fields"] = written * double(state.iterations()) / bytes;
}

void arguments(benchmark::internal::Benchmark* bench) {
  bench->ArgName("threads")->Arg(0)->Arg(1)->MeasureProcessCPUTime()->UseRealTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(write_forecast, zarr_none, std::string(".zarr"), std::string("none"), false)->Apply(arguments);
BENCHMARK_CAPTURE(write_forecast, zarr_lz4, std::string(".zarr"), std::string("lz4"), false)->Apply(arguments);
BENCHMARK_CAPTURE(write_forecast, zarr_zstd, std::string(".zarr"), std::string("zstd"), false)->Apply(arguments);
BENCHMARK_CAPTURE(write_forecast, zarr_int16, std::string(".zarr"), std::string("lz4"), true)->Apply(arguments);
BENCHMARK_CAPTURE(write_forecast, netcdf, std::string(".nc"), std::string("none"), false)->Apply(arguments);
BENCHMARK_CAPTURE(write_forecast, netcdf_int16, std::string(".nc"), std::string("none"), true)->Apply(arguments);

}  // namespace

BENCHMARK_MAIN();
