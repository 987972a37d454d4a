// A model of a few thousand weights on a small dataset: what forecasts and evaluations are tested with.
#pragma once

#include <memory>

#include "engine/step_model.h"
#include "tests/engine/small_dataset.h"
#include "tests/support/temporary_folder.h"

namespace boreas::test {

/// Six-hourly: a constant and two computed forcings, `dynamic` (a forcing that only the dataset knows) if wanted, the
/// prognostic a and b, the diagnostic p.
inline SmallDataset small_data(int64_t num_dates, bool dynamic = false) {
  SmallDataset data;
  data.dates = dates_from("2001-03-04T06", {6 * 3600, 0}, num_dates);
  const auto wave = [](int64_t v) {
    return [v](int64_t t, int64_t c) { return float(10 * v) + 2 * noise(v, t / 3, c % 12) + noise(v + 10, t, c); };
  };
  data.variables = {{"insolation", "1", {}},
                    {"a", "m s-1", wave(1)},
                    {"orography", "m", [](int64_t, int64_t c) { return 100 * noise(5, 0, c); }},
                    {"p", "kg", wave(3)},
                    {"b", "K", wave(4)},
                    {"cos_julian_day", "1", {}}};
  if (dynamic) data.variables.insert(data.variables.begin() + 2, {"dynamic", "Pa", wave(2)});
  return data;
}

inline RunConfig small_config(const SmallDataset& data, int64_t num_input_steps = 1, int64_t num_output_steps = 1) {
  RunConfig config;
  config.output = "no such folder";
  config.device = DeviceChoice::cpu;
  config.data.num_input_steps = num_input_steps;
  config.data.num_output_steps = num_output_steps;
  for (const auto& variable : data.variables) {
    if (!variable.value || variable.name == "orography" || variable.name == "dynamic")
      config.data.roles.forcing.push_back(variable.name);
    if (variable.name == "p") config.data.roles.diagnostic.push_back(variable.name);
  }
  config.data.preprocess.normaliser.none = {"insolation", "cos_julian_day"};
  config.graph.build.hidden.level = 1;
  config.graph.build.encoder.cutoff_factor = 1.2;
  config.model.num_channels = 16;
  config.model.num_heads = 2;
  config.model.mlp_ratio = 2;
  config.model.processor.num_layers = 1;
  config.model.trainable = {2, 2, 1, 1, 1};
  return config;
}

/// A dataset on the disk, opened, and a model with random weights made for it.
struct SmallWorld {
  TemporaryFolder folder;
  SmallDataset data;
  DatasetReader reader;
  StepModel model;

  explicit SmallWorld(const SmallDataset& data_in) : SmallWorld(data_in, small_config(data_in)) {}
  SmallWorld(const SmallDataset& data_in, const RunConfig& config)
      : data(data_in), reader(open("data.zarr", data)), model(make_setup(config, reader), Device::cpu()) {
    model.parameters().materialise(3);
  }

  /// Writes another dataset into the same folder.
  DatasetReader open(const std::string& name, const SmallDataset& other) const {
    other.write(folder / name);
    return DatasetReader::open({.path = folder / name});
  }
  int64_t date(int64_t index) const { return data.dates[size_t(index)]; }
};

}  // namespace boreas::test
