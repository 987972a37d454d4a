// Forecaster: rolls a trained model forward from one start date.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/step_model.h"
#include "io/dataset_reader.h"

namespace boreas {

/// Rolls a model out from dates of a dataset, one member at a time.
///
/// Inputs of step k = 0, 1, ...: the initial T_i states come from the dataset; afterwards prognostic variables come
/// from the model, computed forcings from their formulae at the valid dates, constant ones keep their initial values,
/// and other forcings are read from the dataset at the valid dates (an error where it ends: a forecast cannot invent
/// them). Memory is planned beforehand: one arena, and a window of max(T_i, T_o) times of all variables.
class Forecaster {
 public:
  /// `model` and `reader` must outlive it. Throws config if the reader lacks a variable of the model, or has another
  /// grid.
  Forecaster(const StepModel& model, const DatasetReader& reader);
  ~Forecaster();

  /// Valid date and physical outputs [V_o][cells] of model output variable order; the span dies with the call.
  using Sink = std::function<void(int64_t lead_steps, int64_t valid_date, std::span<const float> fields)>;

  /// Throws invalid_argument for a start date whose inputs the dataset lacks, naming the date; corrupt_data for an
  /// input that is not finite, naming variable and date.
  void run(int64_t start_date, int64_t lead_steps, const Sink& sink);

  int64_t arena_bytes() const;                        ///< planned and taken
  int64_t arena_peak_bytes() const;                   ///< actually used since construction
  static int64_t plan_bytes(const StepModel& model);  ///< the same plan without a dataset

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace boreas
