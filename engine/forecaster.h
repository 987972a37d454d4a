// Forecaster: rolls a trained model forward from the dates of a dataset, or from states in files.
#pragma once

#include <functional>
#include <span>

#include "engine/forecast_source.h"
#include "engine/model_state.h"

namespace boreas {

/// Rolls a model out, one start date and one member of the source at a time.
///
/// The T_i states that it starts from come from the source, a dataset or files. Afterwards prognostic variables come
/// from the model, computed forcings from their formulae at the valid dates, constant forcings keep their initial
/// values, and other forcings are read from the source at the valid dates: an error where it ends, since they cannot be
/// invented. All memory is taken at construction.
///
/// Of a model over several ranks each reads, computes and delivers its own cells; all of them run the same forecasts.
class Forecaster {
 public:
  /// The model must outlive it.
  Forecaster(const StepModel& model, std::unique_ptr<ForecastSource> source);
  /// From a dataset: see dataset_source.
  Forecaster(const StepModel& model, const DatasetReader& reader);

  /// Outputs in their units, f32 [V_o][cells of this rank], in the order of the model's output variables; valid during
  /// the call.
  using Sink = std::function<void(int64_t lead_steps, int64_t valid_date, std::span<const float> fields)>;

  /// Calls `sink` for lead_steps states. Throws invalid_argument for a start date whose inputs the source lacks, and
  /// corrupt_data for an input that is not finite and not imputed, naming variable and date.
  void run(int64_t start_date, int64_t lead_steps, const Sink& sink, int64_t member = 0);
  /// The same step by step, so that several forecasts can go on together: begin, then next for every T_o states. The
  /// source is read as far as the states that are asked for need it.
  void begin(int64_t start_date, int64_t member = 0);
  void next(const Sink& sink);

  /// What construction takes besides the model: that of its state.
  static Arena::Peak plan(const StepModel& model, Device device);

  int64_t arena_peak_bytes() const { return state_.arena_peak_bytes(); }  ///< of the steps that really ran

 private:
  int64_t num_input_steps() const { return model_.network().shape().num_input_steps; }
  int64_t num_output_steps() const { return model_.network().shape().num_output_steps; }
  int64_t num_done() const { return state_.num_steps() * num_output_steps(); }
  void read_initial();
  void read_forcings();
  void deliver(int64_t done, int64_t lead_steps, const Sink& sink);

  const StepModel& model_;
  const std::unique_ptr<ForecastSource> source_;
  ModelState state_;
  int64_t member_ = 0;
};

}  // namespace boreas
