// Reading the fields of a dataset as training does: all variables and a range of cells of several dates, from an array
// (dates, variables, 1, cells) of one date a chunk, whose cells lie in 1, 4, 8, 16 or 32 chunks.
//
//   bench_dataset_read FOLDER [--cells 542080] [--dates 8] [--threads 0] [--repeats 3] [--keep] [--out FILE.json]
//
// FOLDER should lie in memory (/dev/shm/...): what is measured is reading and decoding, not a disk. The arrays are made
// in it if it does not have them (about 0.2 GB a date for each way to cut the cells), and removed at the end without
// --keep. --threads 0: all processors. Rows: GB/s of what the caller gets, best of the repeats; the same for each
// second of processor time, which other programs on the machine disturb less; bytes read from the store and blosc
// blocks decoded, both for one date. bench/peers/tensorstore_read.py reads the same files with TensorStore.
#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "io/zarr.h"
#include "kernels/core/error.h"

namespace {

using namespace boreas;

constexpr int64_t kVariables = 101;

struct Options {
  std::string folder, out;
  int64_t cells = 542080, dates = 8, threads = 0, repeats = 3;
  bool keep = false;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--keep") {
      options.keep = true;
    } else if (name.starts_with("--")) {
      BOREAS_CHECK(i + 1 < argc, invalid_argument, "{} needs a value", name);
      const std::string value = argv[++i];
      if (name == "--out")
        options.out = value;
      else if (name == "--cells")
        options.cells = std::stoll(value);
      else if (name == "--dates")
        options.dates = std::stoll(value);
      else if (name == "--threads")
        options.threads = std::stoll(value);
      else if (name == "--repeats")
        options.repeats = std::stoll(value);
      else
        BOREAS_FAIL(invalid_argument, "there is no option {}", name);
    } else {
      options.folder = name;
    }
  }
  BOREAS_CHECK(!options.folder.empty(), invalid_argument,
               "usage: bench_dataset_read FOLDER [--cells N] [--dates N] [--threads N] [--repeats N] [--keep] [--out "
               "FILE.json]");
  if (options.threads <= 0) options.threads = std::max(1u, std::thread::hardware_concurrency());
  return options;
}

// A smooth field and a random walk, rounded to 1/64 as GRIB packs values: lz4 makes a sixth of it.
std::vector<float> make_date(int64_t cells, int64_t date) {
  std::vector<float> values(size_t(kVariables * cells));
  uint32_t state = 12345;
  const auto noise = [&] {
    state = state * 1664525u + 1013904223u;
    return double(state >> 8) / double(1 << 23) - 1;
  };
  for (int64_t v = 0; v < kVariables; ++v) {
    const double amplitude = 15 * noise();
    double walk = 0;
    for (int64_t c = 0; c < cells; ++c) {
      walk += 0.017 * noise();
      const double latitude = 2 * double(c) / double(cells) - 1;
      const double value = 280 + amplitude * std::sin(3 * latitude) + walk;
      values[size_t(v * cells + (c + date) % cells)] = float(std::round(value * 64) / 64);
    }
  }
  return values;
}

double processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// "AMD EPYC, 16 threads", as the peer writes it.
std::string hardware() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name"))
      return fmt::format("{}, {} threads", line.substr(line.find(':') + 2), std::thread::hardware_concurrency());
  return fmt::format("{} threads", std::thread::hardware_concurrency());
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

nlohmann::json measure(const Options& options, const ZarrArray& array, int64_t share, ThreadPool& pool) {
  const int64_t count = options.cells / share;
  const size_t a_date = size_t(kVariables * count);
  std::vector<float> out(size_t(options.dates) * a_date);
  double best = 1e30, processor = 1e30;
  ReadStats stats;
  for (int64_t repeat = 0; repeat <= options.repeats; ++repeat) {  // the first one does not count
    std::vector<ReadStats> each(static_cast<size_t>(options.dates));
    const double begin = now(), processor_begin = processor_seconds();
    pool.parallel_for(options.dates, [&](int64_t date) {
      array.read({{date, 0, 0, 0}, {date + 1, kVariables, 1, count}}, out.data() + size_t(date) * a_date, pool,
                 &each[size_t(date)]);
    });
    stats = each[0];
    if (repeat == 0) continue;
    best = std::min(best, now() - begin);
    processor = std::min(processor, processor_seconds() - processor_begin);
  }
  const double gigabytes = double(out.size()) * sizeof(float) * 1e-9;
  return {{"cells", fmt::format("1/{}", share)},
          {"gbps", gigabytes / best},
          {"gbps_a_processor", gigabytes / processor},
          {"megabytes_read", double(stats.bytes_read) * 1e-6},
          {"megabytes_decoded", double(stats.bytes_decoded) * 1e-6},
          {"blocks_decoded", stats.blocks_decoded}};
}

int run(int argc, char** argv) {
  const Options options = parse(argc, argv);
  ThreadPool pool(int(options.threads) - 1);
  const bool made = std::filesystem::create_directories(options.folder);
  const auto store = open_store(options.folder);
  nlohmann::json results = nlohmann::json::array();
  fmt::print("{} dates, {} variables, {} cells, {} threads\n", options.dates, kVariables, options.cells,
             options.threads);
  fmt::print("{:>6} {:>5} {:>8} {:>14} {:>9} {:>12} {:>7}\n", "chunks", "cells", "GB/s", "GB/s/processor", "MB read",
             "MB decoded", "blocks");
  for (const int64_t parts : {1, 4, 8, 16, 32}) {
    const std::string name = fmt::format("cells_in_{}", parts);
    const std::vector<int64_t> shape = {options.dates, kVariables, 1, options.cells};
    if (!ZarrArray::exists(*store, name) || ZarrArray::open(store, name).shape() != shape) {
      ZarrArray array = ZarrArray::create(
          store, name, {.shape = shape, .chunks = {1, kVariables, 1, (options.cells + parts - 1) / parts}});
      pool.parallel_for(options.dates, [&](int64_t date) {
        const std::vector<float> values = make_date(options.cells, date);
        array.write({{date, 0, 0, 0}, {date + 1, kVariables, 1, options.cells}}, values.data(), pool);
      });
    }
    const ZarrArray array = ZarrArray::open(store, name);
    for (const int64_t share : {1, 4, 16}) {
      nlohmann::json row = measure(options, array, share, pool);
      row["chunks"] = parts;
      fmt::print("{:>6} {:>5} {:>8.2f} {:>14.2f} {:>9.2f} {:>12.2f} {:>7}\n", parts, row["cells"].get<std::string>(),
                 row["gbps"].get<double>(), row["gbps_a_processor"].get<double>(), row["megabytes_read"].get<double>(),
                 row["megabytes_decoded"].get<double>(), row["blocks_decoded"].get<int64_t>());
      std::fflush(stdout);
      results.push_back(row);
    }
    if (!options.keep) std::filesystem::remove_all(std::filesystem::path(options.folder) / name);
  }
  if (made && !options.keep) std::filesystem::remove(options.folder);
  if (!options.out.empty())
    std::ofstream(options.out) << nlohmann::json{{"hardware", hardware()},     {"dates", options.dates},
                                                 {"variables", kVariables},    {"cells", options.cells},
                                                 {"threads", options.threads}, {"results", results}}
                                      .dump(1)
                               << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "bench_dataset_read: " << error.what() << "\n";
    return 1;
  }
}
