#include "engine/training_step.h"

#include <numeric>

namespace boreas {

namespace {

LossConfig training_loss(const ModelSetup& setup) {
  LossConfig config = setup.config.training.loss;
  config.ignore_nans = config.ignore_nans || setup.preprocess().imputes_any();
  return config;
}

// Weights play no part in it: each column is scored by itself.
LossConfig mean_square(const ModelSetup& setup) {
  LossConfig config;
  config.ignore_nans = training_loss(setup).ignore_nans;
  return config;
}

Loss make_loss(const ModelSetup& setup, const LossConfig& config, const StepModel& model) {
  return Loss(config, setup.variables, setup.statistics, node_areas(setup), setup.config.data.num_output_steps,
              model.state_dtype(), model.parameters().device());
}

}  // namespace

TrainingStep::TrainingStep(const ModelSetup& setup, Device device, std::unique_ptr<Communicator> ranks)
    : model_(setup, device),
      loss_(make_loss(setup, training_loss(setup), model_)),
      squared_error_(make_loss(setup, mean_square(setup), model_)),
      rollout_(model_, loss_, &squared_error_),
      optimizer_(setup.config.training, model_.parameters()),
      ranks_(std::move(ranks)) {}

void TrainingStep::materialise() {
  model_.parameters().materialise(uint64_t(model_.setup().config.training.seed));
  optimizer_.materialise();
}

void TrainingStep::begin(Context& ctx) { model_.parameters().zero_gradients(ctx); }

double TrainingStep::accumulate(Context& ctx, const FieldWindow& window, int64_t rollout) {
  const Scope scope(ctx);
  const int64_t micro_steps = model_.setup().config.training.micro_steps;
  const Tensor losses = ctx.alloc(Keep::scratch, model_.state_dtype(), {rollout});
  Rollout::Saved saved;
  const double share = 1.0 / double(rollout * micro_steps * ranks_->size());
  rollout_.forward(ctx, {.window = window, .num_steps = rollout, .loss_scale = share},
                   {.losses = losses, .squared_errors = {}}, &saved);
  rollout_.backward(ctx, saved);
  const std::vector<double> values = host_values(ctx, losses);
  return std::accumulate(values.begin(), values.end(), 0.0) / double(rollout);
}

double TrainingStep::apply(Context& ctx, int64_t step, double learning_rate) {
  ranks_->all_reduce(ctx, model_.parameters().flat_gradients());
  return optimizer_.update(ctx, step, learning_rate);
}

TrainingStep::Scores TrainingStep::validate(Context& ctx, const FieldWindow& window, int64_t rollout) {
  const Scope scope(ctx);
  const DType dtype = model_.state_dtype();
  const Tensor losses = ctx.alloc(Keep::scratch, dtype, {rollout});
  const Tensor errors = ctx.alloc(Keep::scratch, dtype, {rollout, model_.network().output_columns()});
  rollout_.forward(ctx, {.window = window, .num_steps = rollout}, {.losses = losses, .squared_errors = errors},
                   nullptr);
  const std::vector<double> values = host_values(ctx, losses);
  return {std::accumulate(values.begin(), values.end(), 0.0) / double(rollout), host_values(ctx, errors)};
}

void TrainingStep::plan(Context& ctx, int64_t num_variables, int64_t num_members) {
  const RunConfig& config = model_.setup().config;
  const auto window = [&](int64_t rollout) {
    return FieldWindow{Tensor(nullptr, DType::f32,
                              {config.training.batch_size, window_length(config.data, rollout), num_variables,
                               num_members * model_.num_cells()},
                              ctx.device()),
                       num_members};
  };
  {
    const OwnerScope owner(ctx, "training");
    begin(ctx);
    accumulate(ctx, window(config.training.rollout.maximum), config.training.rollout.maximum);
    apply(ctx, 1, 0);
  }
  const OwnerScope owner(ctx, "validation");
  optimizer_.with_average(
      ctx, [&] { validate(ctx, window(config.training.validation.rollout), config.training.validation.rollout); });
}

int64_t window_length(const DataConfig& data, int64_t rollout) {
  return data.num_input_steps + data.num_output_steps * rollout;
}

Arena::Peak plan_peak(Device device, const std::function<void(Context&)>& task) {
  Arena arena;
  Context ctx(device, arena, Mode::plan);
  task(ctx);
  return arena.peak();
}

void forecast_step(Context& ctx, const StepModel& model, const Tensor& x, const Tensor& states, const FieldWindow& next,
                   const Tensor& x_next) {
  const Scope scope(ctx);
  const ModelShape& shape = model.network().shape();
  const Tensor y = ctx.alloc(Keep::scratch, model.state_dtype(), model.output_shape(1));
  model.network().forward(ctx, {.x = x}, {.y = y}, nullptr);
  for (int64_t step = 0; step < shape.num_output_steps; ++step)
    model.physical(ctx, y, step, states.slice({step * shape.num_outputs, (step + 1) * shape.num_outputs}));
  if (x_next) model.advance(ctx, x, y, next, 0, x_next);
}

}  // namespace boreas
