#include "models/layers/norm.h"

namespace boreas {

LayerNorm::LayerNorm(ParameterStore& store, const std::string& name, int64_t channels)
    : gamma_(store.add(join_name(name, "weight"), {channels}, Init::ones())),
      beta_(store.add(join_name(name, "bias"), {channels}, Init::zeros())),
      groups_(1) {}

LayerNorm LayerNorm::of_heads(ParameterStore& store, const std::string& name, int64_t channels, int64_t num_heads) {
  return {store.add(join_name(name, "weight"), {channels / num_heads}, Init::ones()), nullptr, num_heads};
}

Tensor LayerNorm::alloc_stats(Context& ctx, Keep keep, const Tensor& x) const {
  return ctx.alloc(keep, accumulator_of(dtype()), {x.rows() * groups_, 2});
}

void LayerNorm::forward(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& stats) const {
  LayerNormForward op;
  op.x = x;
  op.gamma = gamma_->value;
  if (beta_) op.beta = beta_->value;
  op.groups = groups_;
  op.y = y;
  op.stats = stats;
  run(ctx, op);
}

void LayerNorm::backward(Context& ctx, const Tensor& x, const Tensor& stats, const Tensor& d_y, const Tensor& d_x,
                         const Tensor& d_residual, const Tensor& y) const {
  LayerNormBackward op;
  op.x = x;
  op.gamma = gamma_->value;
  if (beta_) op.beta = beta_->value;
  op.stats = stats;
  op.groups = groups_;
  op.d_y = d_y;
  op.d_residual = d_residual;
  op.d_x = d_x;
  op.y = y;
  op.d_gamma = gamma_->grad;
  if (beta_) op.d_beta = beta_->grad;
  run(ctx, op);
}

Tensor NormedLinear::normalise(Context& ctx, const Tensor& x, Saved* saved) const {
  if (saved) saved->begin = ctx.arena().mark(Keep::saved);
  const bool brief = saved && saved->brief;
  const Tensor stats = norm_.alloc_stats(ctx, keep_if(saved), x);
  const Tensor normed = ctx.alloc(brief ? Keep::saved : Keep::scratch, norm_.dtype(), {x.rows(), x.cols()});
  norm_.forward(ctx, x, normed, stats);
  if (saved) saved->stats = stats;
  if (brief) saved->normed = normed;
  return normed;
}

void NormedLinear::map(Context& ctx, const Tensor& normed, const Tensor& y, Range columns) const {
  linear_.forward_rows(ctx, normed, y.columns(columns), columns);
}

void NormedLinear::forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const {
  const Scope scope(ctx);
  const Tensor normed = normalise(ctx, in.x, saved);
  if (out.y) linear_.forward(ctx, normed, out.y);
}

void NormedLinear::backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out,
                            const Inputs& d_in, const Tensor& d_residual) const {
  {
    const Scope scope(ctx);
    Tensor normed = saved.normed;
    if (!normed) normed = ctx.alloc(Keep::scratch, norm_.dtype(), {in.x.rows(), in.x.cols()});
    const Tensor& d_normed = normed;  // one takes the place of the other
    if (!saved.normed && d_in.x && d_in.x.data() != in.x.data()) {
      linear_.backward_input(ctx, d_out.y, d_normed);
      norm_.backward(ctx, in.x, saved.stats, d_normed, d_in.x, d_residual, normed);  // gives LN(x) again
      linear_.backward_parameters(ctx, normed, d_out.y);
    } else {
      if (!saved.normed) norm_.forward(ctx, in.x, normed, saved.stats);
      linear_.backward_parameters(ctx, normed, d_out.y);
      linear_.backward_input(ctx, d_out.y, d_normed);
      norm_.backward(ctx, in.x, saved.stats, d_normed, d_in.x ? d_in.x : d_normed, d_residual);
    }
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

}  // namespace boreas
