// StepModel: a network with its weights, its variables and its normaliser; it advances a state by one model step.
#pragma once

#include "engine/model_setup.h"
#include "kernels/core/context.h"
#include "models/encoder_processor_decoder.h"
#include "models/parameters.h"

namespace boreas {

/// Of weights and activations.
DType storage_type(Precision precision);

/// Physical fields of some samples at consecutive times, as datasets hold them.
struct FieldWindow {
  Tensor fields;            ///< f32 [samples, times, variables, members * cells]
  int64_t num_members = 1;  ///< here
  int64_t all_members = 0;  ///< with those that other ranks have; 0: num_members

  int64_t num_items() const { return fields.size(0) * num_members; }
  int64_t num_times() const { return fields.size(1); }
  /// [variables, cells] of one item (item = sample * num_members + member) at one time.
  Tensor at(int64_t item, int64_t time) const {
    const int64_t first = (item / num_members * num_times() + time) * fields.size(2);
    const int64_t num_cells = fields.size(3) / num_members, member = item % num_members;
    return fields.slice({first, first + fields.size(2)}).columns({member * num_cells, (member + 1) * num_cells});
  }
};

/// Shapes. x: [items * N, T_i * V_i], y and targets: [items * N, T_o * V_o], normalised, columns time-major;
/// N cells (of this rank, as in its windows), V_i input and V_o output variables, T_i input and T_o output steps.
///
/// Training and forecasting differ in where the fields come from only:
///
///   start(x, window)                     the first T_i times of the window
///   network().forward(x, y)              the next T_o states
///   advance(x, y, window, t, x_next)     older states shift towards slot 0; the newest min(T_i, T_o) slots take the
///                                        prognostic variables from y and all else from the times t, t+1, ... of the
///                                        window: true forcings in training, computed and dynamic ones in a forecast
///
/// `predicted` is the output mask: rows of each item outside it are boundary, and keep the window's prognostic values.
class StepModel {
 public:
  /// `ranks` share each sample, and must outlive the model; collective. Null: one rank has all cells.
  StepModel(const ModelSetup& setup, Device device, Communicator* ranks = nullptr);
  StepModel(const StepModel&) = delete;

  const ModelSetup& setup() const { return setup_; }
  const VariableTable& variables() const { return setup_.variables; }
  const Preprocess& preprocess() const { return preprocess_; }
  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }
  const EncoderProcessorDecoder& network() const { return network_; }
  /// Of x, y and targets: wider than that of activations in a bf16 model.
  DType state_dtype() const { return parameters_.master_dtype(); }
  Device device() const { return parameters_.device(); }
  /// The ranks that share a sample; a group of one where there is one.
  Communicator& ranks() const { return *ranks_; }
  Range cells() const { return cells_; }  ///< which this rank has; of the dataset's order, or that of patches
  int64_t num_cells() const { return cells_.size(); }
  Shape input_shape(int64_t num_items) const { return {num_items * num_cells(), network_.input_columns()}; }
  Shape output_shape(int64_t num_items) const { return {num_items * num_cells(), network_.output_columns()}; }
  void set_predicted(Range rows) { predicted_ = rows; }
  Range predicted() const { return predicted_; }

  void start(Context& ctx, const FieldWindow& window, const Tensor& x) const;
  /// `x_next` and x do not overlap.
  void advance(Context& ctx, const Tensor& x, const Tensor& y, const FieldWindow& window, int64_t first_time,
               const Tensor& x_next) const;
  /// Adjoint of advance, in two parts because d_y is an input and d_x an output of the network's backward: d_y += what
  /// the newest slots of x_next owe to y; d_x += what its older slots owe to x.
  void advance_backward_y(Context& ctx, const Tensor& d_x_next, const Tensor& d_y) const;
  void advance_backward_x(Context& ctx, const Tensor& d_x_next, const Tensor& d_x) const;
  /// The normalised truth of T_o times from `first_time`.
  void target(Context& ctx, const FieldWindow& window, int64_t first_time, const Tensor& target) const;
  /// Physical outputs f32 [V_o, N] of one item's rows of y at one output step.
  void physical(Context& ctx, const Tensor& y_item, int64_t output_step, const Tensor& fields) const;

 private:
  int64_t num_kept() const;  // slots that an advance renews
  Tensor item_rows(const Tensor& x, int64_t item) const;
  Tensor input_slot(const Tensor& x, int64_t slot) const;
  Tensor output_slot(const Tensor& y, int64_t slot) const;

  ModelSetup setup_;
  Communicator* ranks_;
  Range cells_;
  Preprocess preprocess_;
  ParameterStore parameters_;
  EncoderProcessorDecoder network_;
  Range predicted_;
  std::vector<int32_t> output_columns_;  // 0 .. V_o - 1
};

}  // namespace boreas
