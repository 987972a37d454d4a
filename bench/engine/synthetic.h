// Weather that is made up: waves that travel east, cheap enough to fill N320 with 101 variables, and a model to learn
// it.
#pragma once

#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "bench/grids.h"
#include "engine/step_model.h"
#include "kernels/core/rng.h"

namespace boreas::bench {

/// Each variable is the sum of two waves cos(lat)^k cos(k lon - speed t + phase), of mean 0 and a standard deviation of
/// about 1; speeds and phases are the variable's own.
class Waves {
 public:
  Waves(std::span<const double> latitudes_degrees, std::span<const double> longitudes_degrees)
      : num_cells_(int64_t(latitudes_degrees.size())), tables_(size_t(2 * kWaveNumbers * num_cells_)) {
    constexpr double degree = std::numbers::pi / 180;
    std::vector<double> norm(kWaveNumbers, 0);
    for (int64_t k = 0; k < kWaveNumbers; ++k) {
      double sum = 0;
      for (int64_t c = 0; c < num_cells_; ++c) {
        const double lat = latitudes_degrees[size_t(c)] * degree, lon = longitudes_degrees[size_t(c)] * degree;
        const double amplitude = std::pow(std::cos(lat), double(k + 1));
        table(2 * k)[c] = float(amplitude * std::cos(double(k + 1) * lon));
        table(2 * k + 1)[c] = float(amplitude * std::sin(double(k + 1) * lon));
        sum += amplitude * amplitude / 2;
      }
      const float scale = float(1 / std::sqrt(2 * sum / double(num_cells_)));
      for (int64_t c = 0; c < 2 * num_cells_; ++c) table(2 * k)[c] *= scale;
    }
  }

  /// [cells] of one variable at time t, in steps.
  void fill(int64_t variable, double t, float* out) const {
    const Philox random(17, uint64_t(variable));
    const float* tables[4];
    float factors[4];
    for (int64_t j = 0; j < 2; ++j) {
      const int64_t k = (variable + j * (1 + variable / kWaveNumbers % (kWaveNumbers - 1))) % kWaveNumbers;
      const double speed = 0.2 + 0.4 * random.uniform(uint64_t(2 * j));
      const double angle = speed * t + 2 * std::numbers::pi * random.uniform(uint64_t(2 * j + 1));
      for (int64_t part = 0; part < 2; ++part) tables[2 * j + part] = table(2 * k + part);
      factors[2 * j] = float(std::cos(angle));
      factors[2 * j + 1] = float(std::sin(angle));
    }
#pragma omp parallel for simd schedule(static)
    for (int64_t c = 0; c < num_cells_; ++c)
      out[c] =
          factors[0] * tables[0][c] + factors[1] * tables[1][c] + factors[2] * tables[2][c] + factors[3] * tables[3][c];
  }

 private:
  static constexpr int64_t kWaveNumbers = 6;
  float* table(int64_t i) { return tables_.data() + i * num_cells_; }
  const float* table(int64_t i) const { return tables_.data() + i * num_cells_; }

  int64_t num_cells_;
  std::vector<float> tables_;
};

/// "p0", "p1", ...: prognostic, then "f0", ...: forcings.
inline std::vector<std::string> wave_names(int64_t num_prognostic, int64_t num_forcings) {
  std::vector<std::string> names;
  for (int64_t v = 0; v < num_prognostic; ++v) names.push_back(fmt::format("p{}", v));
  for (int64_t v = 0; v < num_forcings; ++v) names.push_back(fmt::format("f{}", v));
  return names;
}

/// N320 to an icosahedral mesh of level 6, graph transformer.
inline RunConfig n320_config(int64_t num_channels, int64_t num_layers, int64_t num_forcings) {
  RunConfig config;
  for (int64_t v = 0; v < num_forcings; ++v) config.data.roles.forcing.push_back(fmt::format("f{}", v));
  config.graph.build.hidden.level = 6;
  config.model.num_channels = num_channels;
  config.model.processor.num_layers = num_layers;
  return config;
}

inline void set_places(ModelSetup& setup, const NodeSet& nodes) {
  for (int64_t i = 0; i < nodes.size(); ++i) {
    setup.latitudes.push_back(nodes.latitudes[size_t(i)] * 180 / std::numbers::pi);
    setup.longitudes.push_back(nodes.longitudes[size_t(i)] * 180 / std::numbers::pi);
  }
}

/// A model of waves on these nodes.
inline ModelSetup wave_setup(const RunConfig& config, const NodeSet& nodes, int64_t num_prognostic,
                             int64_t num_forcings, int64_t num_diagnostic = 0) {
  ModelSetup setup;
  setup.config = config;
  std::vector<std::string> names = wave_names(num_prognostic, num_forcings);
  for (int64_t v = 0; v < num_diagnostic; ++v) names.push_back(fmt::format("d{}", v));
  setup.variables = VariableTable(names, config.data.roles);
  const size_t n = size_t(setup.variables.size());
  setup.units.assign(n, "1");
  setup.constant.assign(n, 0);
  setup.computed.assign(n, 0);
  setup.statistics = {
      std::vector<double>(n, 0), std::vector<double>(n, 1), std::vector<double>(n, -3), std::vector<double>(n, 3), {}};
  setup.step = {.seconds = 6 * 3600, .months = 0};
  set_places(setup, nodes);
  setup.field_shape = {nodes.size()};
  setup.graph = build_graph(config.graph.build, setup.latitudes, setup.longitudes);
  return setup;
}

/// f32 [1, times, variables, cells] of waves from time `first` on, on a device; of all cells, or a rank's.
class WaveWindow {
 public:
  WaveWindow(const ModelSetup& setup, const Waves& waves, int64_t num_times, int64_t first, Device device)
      : WaveWindow(setup, waves, num_times, first, device, {0, setup.num_cells()}) {}
  WaveWindow(const ModelSetup& setup, const Waves& waves, int64_t num_times, int64_t first, Device device, Range cells)
      : storage_(Buffer::on(device, num_times * setup.variables.size() * cells.size() * 4, "batch")) {
    const int64_t num_variables = setup.variables.size();
    window.fields = storage_.tensor(DType::f32, {1, num_times, num_variables, cells.size()});
    std::vector<float> field(size_t(setup.num_cells()), 0);
    for (int64_t t = 0; t < num_times; ++t)
      for (int64_t v = 0; v < num_variables; ++v) {
        waves.fill(v, double(first + t), field.data());
        copy_now(window.at(0, t).row<float>(v), device, field.data() + cells.begin, Device::cpu(), cells.size() * 4);
      }
  }
  FieldWindow window;

 private:
  Buffer storage_;
};

}  // namespace boreas::bench
