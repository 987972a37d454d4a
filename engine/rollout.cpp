#include "engine/rollout.h"

#include "kernels/elementwise/elementwise.h"

namespace boreas {

// The truth of an ensemble: moves what belongs to the first member of each sample to the front.
Tensor Rollout::first_members(Context& ctx, const Tensor& target, int64_t num_members) const {
  const int64_t cells = model_.num_cells(), num_samples = target.rows() / (cells * num_members);
  for (int64_t sample = 1; sample < num_samples && num_members > 1; ++sample) {
    const int64_t first = sample * num_members * cells;
    run(ctx,
        Copy{.x = target.slice({first, first + cells}), .y = target.slice({sample * cells, (sample + 1) * cells})});
  }
  return target.slice({0, num_samples * cells});
}

void Rollout::forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const {
  const ModelShape& shape = model_.network().shape();
  const int64_t num_items = in.window.num_items(), num_members = in.window.num_members;
  const int64_t all_members = in.window.all_members > 0 ? in.window.all_members : num_members;
  BOREAS_CHECK(in.window.num_times() >= shape.num_input_steps + shape.num_output_steps * in.num_steps, internal,
               "a window of {} times is too short for a rollout of {}", in.window.num_times(), in.num_steps);
  const Scope scope(ctx);
  if (saved) saved->steps.resize(size_t(in.num_steps));

  Arena::Mark begin = ctx.arena().mark(Keep::saved);
  Tensor x = ctx.alloc(keep_if(saved), model_.state_dtype(), model_.input_shape(num_items)), spare;
  if (!saved && in.num_steps > 1) spare = ctx.alloc(Keep::scratch, model_.state_dtype(), x.shape());
  model_.start(ctx, in.window, x);
  for (int64_t k = 0; k < in.num_steps; ++k) {
    const Scope step_scope(ctx);
    const OwnerScope owner(ctx, fmt::format("step {}", k));
    Saved::Step* const step = saved ? &saved->steps[size_t(k)] : nullptr;
    const int64_t first_time = shape.num_input_steps + k * shape.num_output_steps;

    // In training the loss turns y into its gradient in place, below what the network saves.
    const Tensor y = ctx.alloc(keep_if(saved), model_.state_dtype(), model_.output_shape(num_items));
    run_forward(ctx, model_.network(), recompute_steps(), {.x = x}, {.y = y}, step ? &step->network : nullptr);

    const Arena::Mark next_begin = ctx.arena().mark(Keep::saved);
    Tensor x_next;
    if (k + 1 < in.num_steps) {
      x_next = saved ? ctx.alloc(Keep::saved, model_.state_dtype(), x.shape()) : spare;
      model_.advance(ctx, x, y, in.window, first_time, x_next);
    }
    const Tensor target = ctx.alloc(Keep::scratch, model_.state_dtype(), y.shape());
    model_.target(ctx, in.window, first_time, target);
    if (out.squared_errors)
      squared_error_->compute_unweighted(ctx, {.prediction = y,
                                               .target = target,
                                               .num_items = num_items / num_members,
                                               .num_members = num_members,
                                               .all_members = all_members,
                                               .loss = out.squared_errors.slice({k, k + 1}),
                                               .d_prediction = {}});
    loss_.compute(ctx, {.prediction = y,
                        .target = loss_.of_ensembles() ? first_members(ctx, target, num_members) : target,
                        .num_items = num_items / num_members,
                        .num_members = num_members,
                        .all_members = all_members,
                        .loss = out.losses.columns({k, k + 1}),
                        .d_prediction = saved ? y : Tensor(),
                        .loss_scale = in.loss_scale});
    if (step) {
      step->begin = begin;
      step->x = x;
      step->d_y = y;
    } else {
      spare = x;
    }
    x = x_next;
    begin = next_begin;
  }
}

void Rollout::backward(Context& ctx, Saved& saved, const std::function<void()>& before_first) const {
  const Scope scope(ctx);
  const int64_t num_steps = int64_t(saved.steps.size());
  Tensor d_x, d_x_next;
  if (num_steps > 1) {
    const Shape shape = saved.steps[0].x.shape();
    d_x = ctx.alloc(Keep::scratch, model_.state_dtype(), shape);
    d_x_next = ctx.alloc(Keep::scratch, model_.state_dtype(), shape);
  }
  for (int64_t k = num_steps; k-- > 0;) {
    const OwnerScope owner(ctx, fmt::format("step {} backward", k));
    const Saved::Step& step = saved.steps[size_t(k)];
    const bool is_last = k + 1 == num_steps;
    const Tensor d_input = k > 0 ? d_x : Tensor();
    if (!is_last) model_.advance_backward_y(ctx, d_x_next, step.d_y);
    if (k == 0 && before_first) before_first();
    run_backward(ctx, model_.network(), recompute_steps(), {.x = step.x}, step.network, {.y = step.d_y},
                 {.x = d_input});
    if (!is_last && d_input) model_.advance_backward_x(ctx, d_x_next, d_input);
    ctx.arena().rewind(Keep::saved, step.begin);
    std::swap(d_x, d_x_next);
  }
  saved.steps.clear();
}

}  // namespace boreas
