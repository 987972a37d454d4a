// Forecaster: rolls a trained model forward from the dates of a dataset.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "engine/step_model.h"
#include "io/dataset_reader.h"

namespace boreas {

/// Rolls a model out, one start date at a time.
///
/// The T_i states that it starts from come from the dataset. Afterwards prognostic variables come from the model,
/// computed forcings from their formulae at the valid dates, constant forcings keep their initial values, and other
/// forcings are read from the dataset at the valid dates: an error where it ends, since they cannot be invented.
/// All memory is taken at construction.
///
/// Of a model over several ranks each reads, computes and delivers its own cells; all of them run the same forecasts.
class Forecaster {
 public:
  /// Both must outlive it. Throws config if the dataset lacks a variable of the model, or has another grid or step, and
  /// unsupported if it has several members.
  Forecaster(const StepModel& model, const DatasetReader& reader);
  ~Forecaster();

  /// Outputs in their units, f32 [V_o][cells of this rank], in the order of the model's output variables; valid during
  /// the call.
  using Sink = std::function<void(int64_t lead_steps, int64_t valid_date, std::span<const float> fields)>;

  /// Calls `sink` for lead_steps states. Throws invalid_argument for a start date whose inputs the dataset lacks, and
  /// corrupt_data for an input that is not finite and not imputed, naming variable and date.
  void run(int64_t start_date, int64_t lead_steps, const Sink& sink);

  /// What construction takes besides the model: the arena, at the high-water mark of a planned step, and the staging of
  /// (T_i + T_o) times of all variables and T_o times of the outputs.
  static Arena::Peak plan(const StepModel& model, Device device);
  static int64_t staging_bytes(const StepModel& model);

  int64_t arena_peak_bytes() const;  ///< of the steps that really ran

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace boreas
