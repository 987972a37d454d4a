#include "engine/step_model.h"

#include <algorithm>
#include <numeric>

#include "kernels/core/op.h"
#include "kernels/elementwise/elementwise.h"

namespace boreas {

DType storage_type(Precision precision) {
  switch (precision) {
    case Precision::f64:
      return DType::f64;
    case Precision::bf16:
      return DType::bf16;
    case Precision::f32:
      break;
  }
  return DType::f32;
}

StepModel::StepModel(const ModelSetup& setup, Device device, Communicator* ranks)
    : setup_(setup),
      ranks_(ranks ? ranks : ProcessGrid::one_rank().model.get()),
      cells_(ModelShard{.ranks = ranks}.rows_of(setup.num_cells())),
      preprocess_(setup.preprocess()),
      parameters_(storage_type(setup.config.precision), device),
      network_(setup.config.model, setup.shape(), setup.graph, parameters_,
               {.ranks = ranks, .exchange = setup.config.parallel.exchange, .kind = setup.config.parallel.shard}),
      predicted_{0, network_.num_data_nodes()},
      output_columns_(size_t(setup.variables.num_outputs())) {
  std::iota(output_columns_.begin(), output_columns_.end(), 0);
}

int64_t StepModel::num_kept() const {
  return std::min(network_.shape().num_input_steps, network_.shape().num_output_steps);
}

Tensor StepModel::item_rows(const Tensor& x, int64_t item) const {
  return x.slice({item * num_cells(), (item + 1) * num_cells()});
}

Tensor StepModel::input_slot(const Tensor& x, int64_t slot) const {
  const int64_t width = network_.shape().num_inputs;
  return x.columns({slot * width, (slot + 1) * width});
}

Tensor StepModel::output_slot(const Tensor& y, int64_t slot) const {
  const int64_t width = network_.shape().num_outputs;
  return y.columns({slot * width, (slot + 1) * width});
}

void StepModel::start(Context& ctx, const FieldWindow& window, const Tensor& x) const {
  for (int64_t item = 0; item < window.num_items(); ++item)
    for (int64_t slot = 0; slot < network_.shape().num_input_steps; ++slot)
      run(ctx, NormaliseFields{.fields = window.at(item, slot),
                               .mul = preprocess_.mul(),
                               .add = preprocess_.add(),
                               .fill = preprocess_.fill(FieldUse::input),
                               .columns = variables().input(),
                               .y = input_slot(item_rows(x, item), slot)});
}

void StepModel::advance(Context& ctx, const Tensor& x, const Tensor& y, const FieldWindow& window, int64_t first_time,
                        const Tensor& x_next) const {
  const ModelShape& shape = network_.shape();
  const int64_t kept = num_kept(), num_old = shape.num_input_steps - kept;
  for (int64_t slot = 0; slot < num_old; ++slot)
    run(ctx, Copy{.x = input_slot(x, slot + kept), .y = input_slot(x_next, slot)});
  for (int64_t item = 0; item < window.num_items(); ++item) {
    for (int64_t i = 0; i < kept; ++i) {
      const int64_t output_step = shape.num_output_steps - kept + i;
      const Tensor slot = input_slot(item_rows(x_next, item), num_old + i);
      run(ctx, NormaliseFields{.fields = window.at(item, first_time + output_step),
                               .mul = preprocess_.mul(),
                               .add = preprocess_.add(),
                               .fill = preprocess_.fill(FieldUse::target),
                               .columns = variables().input(),
                               .y = slot});
      run(ctx, CopyColumns{.x = output_slot(item_rows(y, item), output_step).slice(predicted_),
                           .x_columns = shape.output_prognostic,
                           .y = slot.slice(predicted_),
                           .y_columns = shape.input_prognostic});
    }
  }
}

void StepModel::advance_backward_y(Context& ctx, const Tensor& d_x_next, const Tensor& d_y) const {
  const ModelShape& shape = network_.shape();
  const int64_t kept = num_kept(), num_old = shape.num_input_steps - kept;
  const int64_t num_items = d_y.rows() / num_cells();
  for (int64_t item = 0; item < num_items; ++item)
    for (int64_t i = 0; i < kept; ++i)
      run(ctx, AddColumns{.x = input_slot(item_rows(d_x_next, item), num_old + i).slice(predicted_),
                          .x_columns = shape.input_prognostic,
                          .y = output_slot(item_rows(d_y, item), shape.num_output_steps - kept + i).slice(predicted_),
                          .y_columns = shape.output_prognostic});
}

void StepModel::advance_backward_x(Context& ctx, const Tensor& d_x_next, const Tensor& d_x) const {
  const int64_t kept = num_kept(), num_old = network_.shape().num_input_steps - kept;
  for (int64_t slot = 0; slot < num_old; ++slot) {
    const Tensor older = input_slot(d_x, slot + kept);
    run(ctx, Add{.a = older, .b = input_slot(d_x_next, slot), .y = older});
  }
}

void StepModel::target(Context& ctx, const FieldWindow& window, int64_t first_time, const Tensor& target) const {
  for (int64_t item = 0; item < window.num_items(); ++item)
    for (int64_t step = 0; step < network_.shape().num_output_steps; ++step)
      run(ctx, NormaliseFields{.fields = window.at(item, first_time + step),
                               .mul = preprocess_.mul(),
                               .add = preprocess_.add(),
                               .fill = preprocess_.fill(FieldUse::target),
                               .columns = variables().output(),
                               .y = output_slot(item_rows(target, item), step)});
}

void StepModel::physical(Context& ctx, const Tensor& y_item, int64_t output_step, const Tensor& fields) const {
  run(ctx, DenormaliseFields{.x = output_slot(y_item, output_step),
                             .mul = preprocess_.output_mul(),
                             .add = preprocess_.output_add(),
                             .columns = output_columns_,
                             .fields = fields});
}

}  // namespace boreas
