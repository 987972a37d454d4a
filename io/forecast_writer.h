// Forecasts as CF NetCDF-4 or Zarr.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/time.h"

namespace boreas {

/// What a forecast file holds.
struct ForecastLayout {
  struct Variable {
    std::string name;
    std::string units;      // "" if unknown
    std::string long_name;  // "" if unknown
  };
  std::vector<Variable> variables;
  std::vector<int64_t> start_dates;               // dates of the initial states
  TimeStep step;                                  // of the model
  int64_t first_step = 1;                         // 0 to hold the initial state too
  int64_t num_steps = 0;                          // steps first_step .. first_step + num_steps - 1 of each start
  std::vector<double> latitudes, longitudes;      // degrees, per cell
  std::vector<int64_t> field_shape;               // {rows, columns} of a 2-D grid, else {num_cells} or {}
  std::map<std::string, std::string> attributes;  // of the file: title, source, history, ...
};

/// Writes one file or store, field set by field set, in any order; what is never written is NaN.
///
/// Dimensions: forecast_reference_time, step, then latitude and longitude for a regular grid, y and x for another 2-D
/// grid, or cell. Coordinates: forecast_reference_time and time (valid time, by start and step) in seconds since
/// 1970-01-01, step as a count, lead_time in hours (by start and step, since calendar months differ), latitude and
/// longitude in degrees. The suffix of the path chooses the format: .nc is NetCDF-4, .zarr is Zarr format 2.
///
/// The file is written aside as `.<name>.partial` and takes its name, replacing what was there, in close(); without
/// close() it is removed. Errors: unsupported (built without NetCDF, unknown suffix), io, shape.
class ForecastWriter {
 public:
  ForecastWriter(const std::string& path, ForecastLayout layout);
  ~ForecastWriter();
  ForecastWriter(ForecastWriter&&) noexcept;

  /// fields[v][cell] of start date `start` (an index) at step number `step` (first_step is the first).
  void write(int64_t start, int64_t step, const float* fields);
  /// The same for one variable, by its place in the layout: field[cell].
  void write_field(int64_t start, int64_t step, int64_t variable, const float* field);
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace boreas
