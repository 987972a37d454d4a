// Reading one date of a dataset: `data` of shape (dates, variables, 1, cells), one date and all variables per chunk.
//
// The arguments are: chunks along the cells (1, 4, 16), share of the cells that is read (1, 4, 16 for 1/1, 1/4, 1/16),
// threads besides the caller's. Counters: GB/s of what the caller gets; and per read the bytes fetched, the blocks
// decoded and the ratio of bytes decoded to bytes asked for. BOREAS_BENCH_CELLS sets the number of cells (default
// 40320, an O96 grid; 542080 is N320), BOREAS_BENCH_FOLDER where the file lies (default: the temporary folder).
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "io/zarr.h"

namespace {

using namespace boreas;

constexpr int64_t kDates = 4, kVariables = 20;

int64_t num_cells() {
  const char* text = std::getenv("BOREAS_BENCH_CELLS");
  return text ? std::atoll(text) : 40320;
}

std::string folder() {
  const char* text = std::getenv("BOREAS_BENCH_FOLDER");
  return (text ? std::string(text) : std::filesystem::temp_directory_path().string()) + "/boreas_bench.zarr";
}

// Smooth fields with noise in the last bits: about as compressible as meteorological fields.
std::vector<float> fields() {
  std::vector<float> values(size_t(kDates * kVariables * num_cells()));
  uint32_t noise = 1;
  for (size_t i = 0; i < values.size(); ++i) {
    noise = noise * 1664525u + 1013904223u;
    values[i] = 280.0f + 20.0f * std::sin(float(i) * 1e-3f) + float(noise >> 20) * 1e-4f;
  }
  return values;
}

struct Dataset {
  std::string path = folder();
  std::shared_ptr<Store> store;
  ThreadPool pool{1};

  Dataset() {
    std::filesystem::remove_all(path);
    store = create_directory_store(path);
    const std::vector<float> values = fields();
    for (const int64_t parts : {1, 4, 16}) {
      for (const std::string cname : {"lz4", "zstd", "none"}) {
        Codec codec{.cname = cname, .level = cname == "zstd" ? 3 : 5};
        if (cname == "none") codec = {.kind = Codec::Kind::none};
        const ZarrSpec spec{.shape = {kDates, kVariables, 1, num_cells()},
                            .chunks = {1, kVariables, 1, (num_cells() + parts - 1) / parts},
                            .compressor = codec};
        ZarrArray array = ZarrArray::create(store, cname + std::to_string(parts), spec);
        array.write(array.whole(), values.data(), pool);
      }
    }
  }
  ~Dataset() { std::filesystem::remove_all(path); }
};

void read_range(benchmark::State& state, const std::string& cname) {
  static const Dataset dataset;
  const int64_t parts = state.range(0), share = state.range(1);
  ThreadPool pool(int(state.range(2)));
  const ZarrArray array = ZarrArray::open(dataset.store, cname + std::to_string(parts));
  const int64_t count = num_cells() / share, begin = (share / 2) * count;  // a range in the middle
  std::vector<float> out(size_t(kVariables * count));
  ReadStats stats;
  int64_t date = 0;
  for (auto _ : state) {
    array.read({{date, 0, 0, begin}, {date + 1, kVariables, 1, begin + count}}, out.data(), pool, &stats);
    benchmark::DoNotOptimize(out.data());
    date = (date + 1) % kDates;
  }
  const double bytes = double(state.iterations()) * double(out.size() * sizeof(float)), n = double(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(bytes / 1e9, benchmark::Counter::kIsRate);
  state.counters["fetched_kB"] = double(stats.bytes_read) / n / 1e3;
  state.counters["blocks"] = double(stats.blocks_decoded) / n;
  state.counters["decoded/asked"] = double(stats.bytes_decoded) / bytes;
}

void arguments(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"chunks", "share", "threads"})
      ->MeasureProcessCPUTime()
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
  for (const int threads : {0, 1}) {
    for (const int parts : {1, 4, 16}) {
      for (const int share : {1, 4, 16}) bench->Args({parts, share, threads});
    }
  }
}

BENCHMARK_CAPTURE(read_range, lz4, std::string("lz4"))->Apply(arguments);
BENCHMARK_CAPTURE(read_range, zstd, std::string("zstd"))->Apply(arguments);
BENCHMARK_CAPTURE(read_range, none, std::string("none"))->Apply(arguments);

}  // namespace

BENCHMARK_MAIN();
