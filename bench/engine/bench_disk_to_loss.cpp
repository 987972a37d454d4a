// From the disk to the loss: `boreas train` at N320 with 101 variables from a Zarr, beside the same update on a batch
// that stays on the device.
//
//   bench_disk_to_loss FOLDER [--dates 16] [--steps 60] [--channels 512] [--layers 16] [--grid-chunks 1] [--threads 8]
//                      [--precision bf16] [--out result.json]
//
// FOLDER (on a file system in memory, or on a disk whose cache is warm) gets the dataset, which is kept, and the run.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/engine/synthetic.h"
#include "engine/memory_plan.h"
#include "engine/trainer.h"
#include "io/dataset_writer.h"
#include "io/thread_pool.h"

namespace boreas::bench {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPrognostic = 89, kForcings = 12;

void write_dataset(const std::string& path, const ModelSetup& setup, int64_t num_dates, int64_t grid_chunks,
                   int num_threads) {
  DatasetSpec spec;
  for (const std::string& name : setup.variables.names()) spec.variables.push_back({name, "1", "", false});
  for (int64_t i = 0; i < num_dates; ++i) spec.dates.push_back(i * 6 * 3600);
  spec.latitudes = setup.latitudes;
  spec.longitudes = setup.longitudes;
  spec.storage.grid_chunks = grid_chunks;
  DatasetWriter writer(path, spec, std::make_shared<ThreadPool>(num_threads - 1));
  const Waves waves(setup.latitudes, setup.longitudes);
  std::vector<float> fields(size_t(setup.variables.size() * setup.num_cells()));
  for (int64_t date = 0; date < num_dates; ++date) {
    for (int64_t v = 0; v < setup.variables.size(); ++v)
      waves.fill(v, double(date), fields.data() + v * setup.num_cells());
    writer.append(fields.data());
  }
  writer.close();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + int64_t(values.size()) / 2, values.end());
  return values[values.size() / 2];
}

// Median seconds of an update on one batch that stays.
double resident_seconds(const ModelSetup& setup, Device device, int64_t num_steps) {
  TrainingStep step(setup, device);
  const Arena::Peak peak = plan_peak(device, [&](Context& ctx) { step.plan(ctx, setup.variables.size(), 1); });
  step.materialise();
  Arena arena(Buffer::on(device, peak.bytes, "arena"));
  Context ctx(device, arena);
  const Waves waves(setup.latitudes, setup.longitudes);
  const WaveWindow batch(setup, waves, window_length(setup.config.data, 1), 0, device);
  std::vector<double> seconds;
  for (int64_t i = 0; i < num_steps; ++i) {
    step.update(
        ctx, [&] { return batch.window; }, 1, i + 1, 1e-5);
    if (step.num_pending() == TrainingStep::kMostPending) seconds.push_back(step.collect().seconds);
  }
  step.collect();
  seconds.erase(seconds.begin(), seconds.begin() + 3);
  return median(seconds);
}

int main_of(const std::string& folder, const std::map<std::string, std::string>& options) {
  const auto number = [&](const char* name, int64_t otherwise) {
    return options.contains(name) ? std::stoll(options.at(name)) : otherwise;
  };
  BOREAS_CHECK(why_no_cuda().empty(), unsupported, "{}", why_no_cuda());
  const Device device = Device::cuda(0);
  RunConfig config = n320_config(number("channels", 512), number("layers", 16), kForcings);
  config.output = folder + "/run";
  config.device = DeviceChoice::cuda;
  config.precision =
      options.contains("precision") && options.at("precision") == "f32" ? Precision::f32 : Precision::bf16;
  config.data.dataset.path = folder + "/n320.zarr";
  config.data.num_threads = number("threads", 8);
  config.training.max_steps = number("steps", 60);
  config.training.learning_rate = {.peak = 1e-5, .minimum = 1e-6, .warmup_steps = 10, .decay_steps = 0};
  config.training.checkpoint.every_steps = 1 << 30;

  ModelSetup setup = wave_setup(config, n320_nodes(kDataNodes), kPrognostic, kForcings);
  if (!fs::exists(config.data.dataset.path))
    write_dataset(config.data.dataset.path, setup, number("dates", 16), number("grid-chunks", 1),
                  int(number("threads", 8)));
  setup.config = fit_to_budget(setup, device);
  config.model = setup.config.model;  // the same settings from disk
  const double resident = resident_seconds(setup, device, number("resident-steps", 20));

  fs::remove_all(config.output);
  train(config, {});
  std::vector<double> seconds, waits;
  std::ifstream timing(config.output + "/timing.jsonl");
  double total = 0;
  for (std::string line; std::getline(timing, line);) {
    const auto record = nlohmann::json::parse(line);
    seconds.push_back(record["seconds"]);
    waits.push_back(record["data_seconds"]);
  }
  seconds.erase(seconds.begin(), seconds.begin() + 5);
  waits.erase(waits.begin(), waits.begin() + 5);
  for (const double s : seconds) total += s;
  const double from_disk = median(seconds), mean = total / double(seconds.size());
  std::printf(
      "resident %.2f ms, from disk %.2f ms (median), %.2f ms (mean), wait %.2f ms (median), %.2f ms (largest): "
      "%+.2f %% (median), %+.2f %% (mean)\n",
      resident * 1e3, from_disk * 1e3, mean * 1e3, median(waits) * 1e3,
      *std::max_element(waits.begin(), waits.end()) * 1e3, 100 * (from_disk / resident - 1),
      100 * (mean / resident - 1));
  if (options.contains("out"))
    std::ofstream(options.at("out"))
        << nlohmann::ordered_json{{"what", "an update of `boreas train` at N320, 101 variables, from a Zarr"},
                                  {"hardware", name_of(device)},
                                  {"channels", number("channels", 512)},
                                  {"layers", number("layers", 16)},
                                  {"dates", number("dates", 16)},
                                  {"grid_chunks", number("grid-chunks", 1)},
                                  {"threads", number("threads", 8)},
                                  {"resident_ms", resident * 1e3},
                                  {"from_disk_ms_median", from_disk * 1e3},
                                  {"from_disk_ms_mean", mean * 1e3},
                                  {"wait_ms_median", median(waits) * 1e3}}
               .dump(1)
        << "\n";
  return mean <= 1.03 * resident ? 0 : 1;
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) try {
  std::map<std::string, std::string> options;
  for (int i = 2; i + 1 < argc; i += 2) options[std::string(argv[i]).substr(2)] = argv[i + 1];
  return boreas::bench::main_of(argc > 1 ? argv[1] : "disk-to-loss", options);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
