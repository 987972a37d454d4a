// A model small enough to be run many times in a test, and data to train it on.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numbers>
#include <sstream>
#include <string>

#include "engine/training_step.h"
#include "io/dataset_writer.h"
#include "kernels/core/rng.h"
#include "models/mesh/nodes.h"

namespace boreas::test {

inline constexpr int64_t kTinyRows = 6, kTinyColumns = 10;

/// 6 x 10 cells, rows north to south, without poles.
inline void tiny_grid(std::vector<double>& latitudes, std::vector<double>& longitudes) {
  for (int64_t i = 0; i < kTinyRows; ++i)
    for (int64_t j = 0; j < kTinyColumns; ++j) {
      latitudes.push_back(90 - 180 * (double(i) + 0.5) / double(kTinyRows));
      longitudes.push_back(360 * double(j) / double(kTinyColumns));
    }
}

/// Two prognostic variables (a, b), one forcing (f) and one diagnostic (p), in the order f, a, p, b.
inline RunConfig tiny_config(const std::string& output = "unused") {
  RunConfig config;
  config.output = output;
  config.device = DeviceChoice::cpu;
  config.data.roles.forcing = {"f"};
  config.data.roles.diagnostic = {"p"};
  config.graph.build.hidden.level = 1;
  config.graph.build.encoder.cutoff_factor = 1.2;
  config.model.num_channels = 16;
  config.model.num_heads = 2;
  config.model.mlp_ratio = 2;
  config.model.processor.num_layers = 2;
  config.model.trainable = {2, 2, 1, 1, 1};
  config.training.max_steps = 20;
  config.training.batch_size = 2;
  config.training.learning_rate = {.peak = 3e-3, .minimum = 1e-5, .warmup_steps = 2, .decay_steps = 0};
  return config;
}

inline ModelSetup tiny_setup(const RunConfig& config) {
  ModelSetup setup;
  setup.config = config;
  setup.variables = VariableTable({"f", "a", "p", "b"}, config.data.roles);
  setup.units = {"1", "m s-1", "kg", "K"};
  setup.constant = {0, 0, 0, 0};
  setup.computed = {0, 0, 0, 0};
  setup.statistics = {{0, 1, 0.5, -1}, {1, 2, 0.5, 1.5}, {-3, -5, -1, -6}, {3, 7, 2, 4}, {}};
  setup.step = {.seconds = 6 * 3600, .months = 0};
  tiny_grid(setup.latitudes, setup.longitudes);
  setup.field_shape = {kTinyRows, kTinyColumns};
  setup.graph = build_graph(config.graph.build, setup.latitudes, setup.longitudes);
  return setup;
}

/// Random fields f32 [samples, times, 4, cells], about as large as the statistics of tiny_setup say.
struct RandomWindow {
  std::vector<float> values;
  FieldWindow window;
  RandomWindow(int64_t num_samples, int64_t num_times, uint64_t seed = 1) {
    const int64_t num_cells = kTinyRows * kTinyColumns;
    const Philox random(seed, 7);
    values.resize(size_t(num_samples * num_times * 4 * num_cells));
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(random.normal(i));
    window.fields = Tensor(values.data(), DType::f32, {num_samples, num_times, 4, num_cells});
  }
};

/// Waves that travel east at a speed of their own: `a` follows from itself, `b` from `a` and the forcing, p from both.
/// The value at (date, cell) of variable `nan_variable` is NaN. Member m has everything 0.1 m greater.
inline void write_tiny_dataset(const std::string& path, int64_t num_dates, int64_t nan_date = -1,
                               int64_t nan_variable = 1, int64_t num_members = 1) {
  DatasetSpec spec;
  spec.variables = {{"f", "1", "", false}, {"a", "m s-1", "", false}, {"p", "kg", "", false}, {"b", "K", "", false}};
  for (int64_t i = 0; i < num_dates; ++i) spec.dates.push_back(i * 6 * 3600);
  tiny_grid(spec.latitudes, spec.longitudes);
  spec.field_shape = {kTinyRows, kTinyColumns};
  spec.allow_nans = nan_date >= 0;
  spec.num_members = num_members;
  const size_t num_cells = spec.latitudes.size();
  DatasetWriter writer(path, spec);
  std::vector<float> fields(4 * num_cells);
  for (int64_t date = 0; date < num_dates; ++date) {
    const double t = double(date);
    for (size_t i = 0; i < num_cells; ++i) {
      const double lat = spec.latitudes[i] * std::numbers::pi / 180, lon = spec.longitudes[i] * std::numbers::pi / 180;
      const double f = std::sin(0.7 * t), a = std::cos(lat) * std::sin(lon - 0.5 * t);
      const double b = std::sin(lat) + 0.5 * std::cos(2 * lon - 0.3 * t) + 0.2 * f;
      fields[i] = float(f);
      fields[num_cells + i] = float(3 * a + 1);
      fields[2 * num_cells + i] = float(a * a);
      fields[3 * num_cells + i] = float(2 * b - 4);
    }
    if (date == nan_date) fields[size_t(nan_variable) * num_cells + 5] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> of_members;
    for (size_t i = 0; i < 4 * size_t(num_members); ++i)
      for (size_t c = 0; c < num_cells; ++c)
        of_members.push_back(fields[i / size_t(num_members) * num_cells + c] + 0.1F * float(i % size_t(num_members)));
    writer.append(of_members.data());
  }
  writer.close();
}

inline std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace boreas::test
