// Forecaster: rolls a trained model forward from the dates of a dataset.
#pragma once

#include <functional>
#include <span>

#include "engine/model_state.h"
#include "io/dataset_reader.h"

namespace boreas {

/// Rolls a model out, one start date and one member of the dataset at a time.
///
/// The T_i states that it starts from come from the dataset. Afterwards prognostic variables come from the model,
/// computed forcings from their formulae at the valid dates, constant forcings keep their initial values, and other
/// forcings are read from the dataset at the valid dates: an error where it ends, since they cannot be invented.
/// All memory is taken at construction.
///
/// Of a model over several ranks each reads, computes and delivers its own cells; all of them run the same forecasts.
class Forecaster {
 public:
  /// Both must outlive it. Throws config if the dataset lacks a variable of the model, or has another grid or step.
  Forecaster(const StepModel& model, const DatasetReader& reader);

  /// Outputs in their units, f32 [V_o][cells of this rank], in the order of the model's output variables; valid during
  /// the call.
  using Sink = std::function<void(int64_t lead_steps, int64_t valid_date, std::span<const float> fields)>;

  /// Calls `sink` for lead_steps states. Throws invalid_argument for a start date whose inputs the dataset lacks, and
  /// corrupt_data for an input that is not finite and not imputed, naming variable and date.
  void run(int64_t start_date, int64_t lead_steps, const Sink& sink, int64_t member = 0);

  /// What construction takes besides the model: that of its state.
  static Arena::Peak plan(const StepModel& model, Device device);
  static int64_t staging_bytes(const StepModel& model);

  int64_t arena_peak_bytes() const { return state_.arena_peak_bytes(); }  ///< of the steps that really ran

 private:
  int64_t num_input_steps() const { return model_.network().shape().num_input_steps; }
  int64_t num_output_steps() const { return model_.network().shape().num_output_steps; }
  void read_initial(int64_t member);
  void read_forcings(int64_t member);
  void read(int64_t variable, int64_t date, int64_t member, std::span<float> values);

  const StepModel& model_;
  const DatasetReader& reader_;
  ModelState state_;
  std::vector<int64_t> column_of_;  // by variable of the model: in the reader; -1: computed from its formula
};

}  // namespace boreas
