#include "engine/training_step.h"

#include <cmath>
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

Loss make_loss(const ModelSetup& setup, const LossConfig& config, const StepModel& model, const ProcessGrid& ranks) {
  return Loss(config, setup.variables, setup.statistics, node_areas(setup, model.cells()),
              setup.config.data.num_output_steps, model.state_dtype(), model.parameters().device(), {}, &model.ranks(),
              ranks.ensemble.get());
}

// A step has what it asks of the dataset's members.
const ModelSetup& with_members(const ModelSetup& setup, const ProcessGrid& ranks) {
  BOREAS_CHECK(
      ranks.ensemble->size() <= setup.num_members, config,
      "parallel.ensemble_ranks is {}, but the members to divide in data.dataset are {}; choose at most as many",
      ranks.ensemble->size(), setup.num_members);
  BOREAS_CHECK(setup.config.training.loss.score != Score::crps || setup.num_members > 1, config,
               "training.loss.score is crps, which scores ensembles, but the samples of data.dataset have one member; "
               "use a dataset with members, or another score");
  return setup;
}

}  // namespace

TrainingStep::TrainingStep(const ModelSetup& setup, Device device, const ProcessGrid& ranks)
    : model_(with_members(setup, ranks), device, ranks.model.get()),
      loss_(make_loss(setup, training_loss(setup), model_, ranks)),
      squared_error_(make_loss(setup, mean_square(setup), model_, ranks)),
      rollout_(model_, loss_, &squared_error_),
      optimizer_(setup.config.training, model_.parameters(), ranks),
      ranks_(ranks),
      replay_(setup.config.cuda_graphs) {}

SampleShare TrainingStep::share() const {
  SampleShare share{.member_part = ranks_.ensemble->rank(),
                    .num_member_parts = ranks_.ensemble->size(),
                    .cells = model_.cells(),
                    .group = ranks_.data_group(),
                    .num_groups = ranks_.num_data_groups()};
  const NodeSet& nodes = model_.setup().graph.node_set(kDataNodes);
  if (!nodes.part || ranks_.model->size() == 1) return share;
  const int64_t first = nodes.rows().begin;
  share.patch = cut(nodes.part->stored, {share.cells.begin - first, share.cells.end - first});
  share.ranks = ranks_.model.get();
  return share;
}

void TrainingStep::materialise() {
  model_.parameters().materialise(uint64_t(training().seed));
  optimizer_.materialise();
  const Device device = model_.parameters().device();
  const DType dtype = model_.state_dtype();
  staging_ = Buffer(device, Buffer::Kind::pinned, staging_bytes(), "staging");
  staging_.zero();
  for (int64_t i = 0; i < kPlaces; ++i) {
    Pending& pending = pending_.emplace_back(device);
    int64_t offset = i * pending_bytes();
    pending.sum_of_squares = staging_.tensor(DType::f64, {1}, offset);
    pending.control = staging_.tensor(dtype, {Optimizer::kControlSize}, offset += pending.sum_of_squares.bytes());
    pending.losses =
        staging_.tensor(dtype, {training().micro_steps, training().rollout.maximum}, offset += pending.control.bytes());
    for (int64_t micro = 0; micro < training().micro_steps; ++micro) {
      pending.asked.emplace_back(device);
      pending.ready.emplace_back(device);
    }
  }
}

int64_t TrainingStep::pending_bytes() const {
  const int64_t numbers = Optimizer::kControlSize + training().micro_steps * training().rollout.maximum;
  const int64_t bytes = size_of(DType::f64) + numbers * size_of(model_.state_dtype());
  return (bytes + 7) / 8 * 8;
}

void TrainingStep::accumulate(Context& ctx, const FieldWindow& window, int64_t rollout, const Tensor& losses,
                              bool last) {
  Rollout::Saved saved;
  const double share = 1.0 / double(rollout * training().micro_steps * ranks_.num_data_groups());
  rollout_.forward(ctx, {.window = window, .num_steps = rollout, .loss_scale = share},
                   {.losses = losses, .squared_errors = {}}, &saved);
  if (last) {
    const Scope scope(ctx);
    ParameterStore& parameters = model_.parameters();
    FlatShards::Sum sum(ctx, optimizer_.shards(), parameters.flat_gradients());
    rollout_.backward(ctx, saved, [&] { parameters.listen([&](Context&, int64_t from) { sum.ready(ctx, from); }); });
    parameters.listen({});
    sum.finish(ctx);
  } else {
    rollout_.backward(ctx, saved);
  }
  ranks_.world->all_reduce(ctx, losses);
}

void TrainingStep::update(Context& ctx, const std::function<FieldWindow()>& next_batch, int64_t rollout, int64_t step,
                          double learning_rate) {
  BOREAS_CHECK(num_pending() < kMostPending, internal, "{} updates are queued and none was collected", num_pending());
  const Scope scope(ctx);
  const DType dtype = model_.state_dtype();
  const Optimizer::Control control{ctx.alloc(Keep::scratch, dtype, {Optimizer::kControlSize}),
                                   ctx.alloc(Keep::scratch, DType::f64, {1})};
  const Tensor losses = ctx.alloc(Keep::scratch, dtype, {rollout});
  Pending* const pending = ctx.planning() ? nullptr : &pending_[size_t(num_queued_ % kPlaces)];
  const auto copy = [&](const Tensor& to, const Tensor& from) {
    copy_bytes(ctx.compute(), to.data(), to.device(), from.data(), from.device(), from.bytes());
  };
  if (pending) {
    pending->rollout = rollout;
    pending->follows = num_pending() > 0;
    fill_from_host(pending->control, optimizer_.control_values(step, learning_rate));
  }
  for (int64_t micro = 0; micro < training().micro_steps; ++micro) {
    const bool first = micro == 0, last = micro + 1 == training().micro_steps;
    if (pending) pending->asked[size_t(micro)].record(ctx.compute());
    const FieldWindow window = next_batch();
    if (pending) {
      pending->ready[size_t(micro)].record(ctx.compute());
      if (last) copy(control.values, pending->control);
    }
    replay_.run(ctx, {rollout, first, last, key_of(window.fields.data()), window.fields.size(0)}, [&] {
      if (first) model_.parameters().zero_gradients(ctx);
      accumulate(ctx, window, rollout, losses, last);
      if (last) optimizer_.apply(ctx, control);
    });
    if (pending) copy(pending->losses.slice({micro, micro + 1}).columns({0, rollout}), losses);
  }
  if (!pending) return;
  model_.parameters().values_change();
  copy(pending->sum_of_squares, control.sum_of_squares);
  pending->end.record(ctx.compute());
  ++num_queued_;
}

UpdateOutcome TrainingStep::collect() {
  BOREAS_CHECK(num_pending() > 0, internal, "no update is queued");
  const Pending& pending = pending_[size_t(num_collected_ % kPlaces)];
  pending.end.synchronize();
  ++num_collected_;
  UpdateOutcome outcome;
  dispatch_float(pending.losses.dtype(), [&]<class T>() {
    for (int64_t micro = 0; micro < pending.losses.rows(); ++micro) {
      const T* const losses = pending.losses.row<T>(micro);
      outcome.loss += std::accumulate(losses, losses + pending.rollout, 0.0) / double(pending.rollout) /
                      double(training().micro_steps * ranks_.num_data_groups());
    }
  });
  outcome.gradient_norm = std::sqrt(*pending.sum_of_squares.as<double>());
  const Event& before = pending_[size_t((num_collected_ - 2 + kPlaces) % kPlaces)].end;  // num_collected_ counts this
  outcome.seconds = pending.end.seconds_since(pending.follows ? before : pending.asked[0]);
  for (size_t micro = 0; micro < pending.asked.size(); ++micro)
    outcome.data_seconds += pending.ready[micro].seconds_since(pending.asked[micro]);
  return outcome;
}

TrainingStep::Scores TrainingStep::validate(Context& ctx, const FieldWindow& window, int64_t rollout) {
  const Scope scope(ctx);
  const DType dtype = model_.state_dtype();
  const Tensor losses = ctx.alloc(Keep::scratch, dtype, {rollout});
  const Tensor errors = ctx.alloc(Keep::scratch, dtype, {rollout, model_.network().output_columns()});
  rollout_.forward(ctx, {.window = window, .num_steps = rollout}, {.losses = losses, .squared_errors = errors},
                   nullptr);
  ranks_.model->all_reduce(ctx, losses);
  ranks_.model->all_reduce(ctx, errors);
  const std::vector<double> values = host_values(ctx, losses);
  return {std::accumulate(values.begin(), values.end(), 0.0) / double(rollout), host_values(ctx, errors)};
}

FieldWindow TrainingStep::planned_window(int64_t rollout, int64_t num_variables, int64_t num_members) const {
  const RunConfig& config = model_.setup().config;
  const int64_t own_members = Partition::balanced(num_members, ranks_.ensemble->size())[ranks_.ensemble->rank()].size();
  return {Tensor(nullptr, DType::f32,
                 {config.training.batch_size, window_length(config.data, rollout), num_variables,
                  own_members * model_.num_cells()},
                 model_.parameters().device()),
          own_members, num_members};
}

void TrainingStep::plan(Context& ctx, int64_t num_variables, int64_t num_members) {
  {
    const OwnerScope owner(ctx, "training");
    plan_update(ctx, training().rollout.maximum, num_variables, num_members);
  }
  const OwnerScope owner(ctx, "validation");
  const int64_t rollout = training().validation.rollout;
  const FieldWindow window = planned_window(rollout, num_variables, num_members);
  optimizer_.with_average(ctx, [&] { validate(ctx, window, rollout); });
}

void TrainingStep::plan_update(Context& ctx, int64_t rollout, int64_t num_variables, int64_t num_members) {
  const FieldWindow window = planned_window(rollout, num_variables, num_members);
  update(
      ctx, [&] { return window; }, rollout, 1, 0);
}

TrainingStep::Work TrainingStep::work(int64_t rollout, int64_t num_variables, int64_t num_members) {
  const FieldWindow window = planned_window(rollout, num_variables, num_members);
  const auto flops_of = [&](const std::function<void(Context&)>& task) {
    Arena arena;
    Context ctx(model_.parameters().device(), arena, Mode::plan);
    Trace trace;
    ctx.trace = &trace;
    task(ctx);
    return trace.flops();
  };
  Work work;
  work.flops = flops_of([&](Context& ctx) { plan_update(ctx, rollout, num_variables, num_members); });
  const int64_t forward = flops_of([&](Context& ctx) {
    const Tensor losses = ctx.alloc(Keep::scratch, model_.state_dtype(), {rollout});
    rollout_.forward(ctx, {.window = window, .num_steps = rollout}, {.losses = losses, .squared_errors = {}}, nullptr);
  });
  work.flops_without_recompute = 3 * forward * training().micro_steps;
  return work;
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

}  // namespace boreas
