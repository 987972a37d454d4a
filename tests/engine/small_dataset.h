// Datasets of a few cells whose fields are formulae: what forecasts and scores are tested on.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "io/dataset_writer.h"
#include "io/forcings.h"
#include "kernels/core/rng.h"

namespace boreas::test {

inline std::vector<int64_t> dates_from(const std::string& first, TimeStep step, int64_t num_dates) {
  std::vector<int64_t> dates;
  for (int64_t i = 0; i < num_dates; ++i) dates.push_back(advance(parse_date(first), step, i));
  return dates;
}

/// A value of the normal distribution, a function of its arguments only.
inline float noise(int64_t variable, int64_t date, int64_t cell) {
  return float(Philox(11, uint64_t(variable)).normal(uint64_t(date * 1000 + cell)));
}

struct SmallDataset {
  struct Variable {
    std::string name, units;
    std::function<float(int64_t date, int64_t cell)> value;  ///< none: a computed forcing
  };
  std::vector<Variable> variables;
  std::vector<int64_t> dates;
  std::set<int64_t> missing;
  bool allow_nans = false;
  int64_t num_members = 1;
  float member_step = 0;                   ///< between a member and the next, in all that is not computed
  int64_t num_rows = 6, num_columns = 12;  ///< regular grid, south to north, without poles

  int64_t num_cells() const { return num_rows * num_columns; }
  double latitude(int64_t cell) const { return 180 * (double(cell / num_columns) + 0.5) / double(num_rows) - 90; }
  double longitude(int64_t cell) const { return 360 * double(cell % num_columns) / double(num_columns); }

  void write(const std::string& path) const {
    DatasetSpec spec;
    spec.dates = dates;
    spec.num_members = num_members;
    spec.allow_nans = allow_nans;
    spec.field_shape = {num_rows, num_columns};
    for (int64_t cell = 0; cell < num_cells(); ++cell) {
      spec.latitudes.push_back(latitude(cell));
      spec.longitudes.push_back(longitude(cell));
    }
    for (const Variable& variable : variables)
      spec.variables.push_back({variable.name, variable.units, "", !variable.value});
    DatasetWriter writer(path, spec);
    std::vector<float> field(static_cast<size_t>(num_cells())), fields;
    for (int64_t date = 0; date < int64_t(dates.size()); ++date) {
      if (missing.contains(date)) {
        writer.append_missing();
        continue;
      }
      fields.clear();
      for (const Variable& variable : variables) {
        if (variable.value)
          for (int64_t cell = 0; cell < num_cells(); ++cell) field[size_t(cell)] = variable.value(date, cell);
        else
          compute_forcing(variable.name, dates[size_t(date)], spec.latitudes, spec.longitudes, std::span<float>(field));
        for (int64_t member = 0; member < num_members; ++member) {
          if (member > 0 && variable.value)
            for (float& value : field) value += member_step;
          fields.insert(fields.end(), field.begin(), field.end());
        }
      }
      writer.append(fields.data());
    }
    writer.close();
  }
};

}  // namespace boreas::test
