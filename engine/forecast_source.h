// ForecastSource: where the states come from that forecasts start from.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/step_model.h"
#include "io/dataset_reader.h"

namespace boreas {

/// Fields of the variables of a model, by date and member, on the cells of this rank.
class ForecastSource {
 public:
  virtual ~ForecastSource() = default;
  virtual const std::string& name() const = 0;  ///< for messages
  /// Ascending; states are there on those of which it has_state.
  virtual const std::vector<int64_t>& dates() const = 0;
  virtual bool has_state(int64_t date) const = 0;
  virtual int64_t num_members() const = 0;
  /// Whether initial values of a variable are read; else they are computed.
  virtual bool holds(int64_t variable) const = 0;
  /// values f32 [cells of this rank]. Throws invalid_argument, naming variable, date and what there is, for a field
  /// that is not there.
  virtual void read(int64_t variable, int64_t date, int64_t member, std::span<float> values) const = 0;
};

/// Throws config unless a dataset has the grid and the step of the model.
void check_same_grid(const StepModel& model, const DatasetReader& reader);

/// A dataset. The model must outlive it. Throws invalid_argument if it lacks a variable of the model, and config if it
/// has another grid or step.
std::unique_ptr<ForecastSource> dataset_source(const StepModel& model, const DatasetReader& reader);

/// States in files: NetCDF, GRIB, Zarr stores as xarray (and boreas) writes them, or Anemoi datasets, each with any of
/// the fields, variables named as the model's. Cells may lie in any order. Computed forcings are always computed;
/// constant ones may lie on any date, or on none.
///
/// The model must outlive it. Throws invalid_argument for a variable that no file holds, config for other units,
/// another grid or numbers of members that disagree, and what open_input_files throws.
std::unique_ptr<ForecastSource> file_source(const StepModel& model, const std::vector<std::string>& paths);

}  // namespace boreas
