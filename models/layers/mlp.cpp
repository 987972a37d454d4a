#include "models/layers/mlp.h"

#include <cmath>

namespace boreas {

namespace {

Gate gate_of(MlpKind kind) {
  switch (kind) {
    case MlpKind::glu:
      return Gate::sigmoid;
    case MlpKind::swiglu:
      return Gate::silu;
    case MlpKind::geglu:
      return Gate::gelu;
    default:
      return Gate::relu;
  }
}

}  // namespace

int64_t mlp_hidden_channels(int64_t channels, double ratio) {
  BOREAS_CHECK(std::isfinite(ratio) && ratio > 0, config, "model.mlp_ratio is {}; it must be a positive number", ratio);
  return std::max<int64_t>(1, int64_t(std::floor(double(channels) * ratio + 0.5)));
}

Mlp::Mlp(ParameterStore& store, const std::string& prefix, MlpKind kind, int64_t in, int64_t hidden, int64_t out,
         int64_t num_extra)
    : kind_(kind), hidden_(hidden) {
  const bool gated = kind != MlpKind::mlp;
  // The reference counts an activation as an element of the sequence, a gated layer as one.
  const auto name = [&](int64_t layer) { return join_name(prefix, fmt::format("mlp.{}", gated ? layer : 2 * layer)); };
  for (int64_t i = 0; i <= num_extra; ++i) {
    const int64_t width = i == 0 ? in : hidden;
    if (gated)
      layers_.emplace_back(store, name(i),
                           std::vector<ParameterStore::StackPart>{{"gate_proj", hidden}, {"value_proj", hidden}}, width,
                           Linear::Bias::yes);
    else
      layers_.emplace_back(store, name(i), width, hidden);
  }
  layers_.emplace_back(store, name(num_extra + 1), hidden, out);
}

void Mlp::activate(Context& ctx, const Tensor& before, const Tensor& y) const {
  if (gated())
    run(ctx, GatedForward{.kind = gate_of(kind_),
                          .gate = before.columns({0, hidden_}),
                          .value = before.columns({hidden_, 2 * hidden_}),
                          .y = y});
  else
    run(ctx, GeluForward{.x = before, .y = y});
}

void Mlp::forward_layer(Context& ctx, const Linear& layer, const Tensor& x, const Tensor& before,
                        const Tensor& y) const {
  if (!gated()) return layer.forward_gelu(ctx, x, before, y);
  layer.forward(ctx, x, before);
  activate(ctx, before, y);
}

void Mlp::forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const {
  if (saved) saved->begin = ctx.arena().mark(Keep::saved);
  const Scope scope(ctx);
  const DType dtype = in.x.dtype();
  const int64_t rows = in.x.rows();
  const bool brief = saved && saved->brief;
  Tensor x = in.x;
  for (size_t i = 0; i + 1 < layers_.size(); ++i) {
    Tensor before;
    if (saved || gated()) before = ctx.alloc(keep_if(saved), dtype, {rows, layers_[i].out()});
    if (saved) saved->before_activation.push_back(before);
    const bool last = i + 2 == layers_.size();
    if (last && !out.y && !brief) return layers_[i].forward(ctx, x, before);
    Tensor y;
    if (!saved && gated())
      y = before.columns({0, hidden_});  // in place
    else
      y = ctx.alloc(brief ? Keep::saved : Keep::scratch, dtype, {rows, hidden_});
    if (brief) saved->activated.push_back(y);
    forward_layer(ctx, layers_[i], x, before, y);
    x = y;
  }
  if (out.y) layers_.back().forward(ctx, x, out.y, in.residual);
}

void Mlp::backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in,
                   const std::function<void()>& restore_x) const {
  {
    const Scope scope(ctx);
    Tensor d_y = d_out.y, scratch;
    if (saved.activated.empty()) scratch = ctx.alloc(Keep::scratch, in.x.dtype(), {in.x.rows(), hidden_});
    for (size_t i = layers_.size() - 1; i > 0; --i) {
      const Tensor before = saved.before_activation[i - 1];
      const Tensor activated = scratch ? scratch : saved.activated[i - 1];
      if (scratch) activate(ctx, before, activated);
      layers_[i].backward_parameters(ctx, activated, d_y);
      const Tensor& d_activated = activated;  // its values have served
      if (gated()) {
        layers_[i].backward_input(ctx, d_y, d_activated);
        const Tensor gate = before.columns({0, hidden_}), value = before.columns({hidden_, 2 * hidden_});
        run(ctx, GatedBackward{.kind = gate_of(kind_),
                               .gate = gate,
                               .value = value,
                               .d_y = d_activated,
                               .d_gate = gate,
                               .d_value = value});
        d_y = before;  // now the gradient of what stood there
      } else {
        layers_[i].backward_gelu(ctx, d_y, before, d_activated);
        d_y = d_activated;
        scratch = scratch ? before : Tensor();  // the next layer's activations: what stood there has served
      }
    }
    if (!restore_x) layers_[0].backward_parameters(ctx, in.x, d_y);
    if (d_in.x) layers_[0].backward_input(ctx, d_y, d_in.x);
    if (restore_x) {
      restore_x();
      layers_[0].backward_parameters(ctx, in.x, d_y);
    }
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

void FeedForward::forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const {
  if (saved) saved->begin = ctx.arena().mark(Keep::saved);
  const Scope scope(ctx);
  const bool brief = saved && saved->brief;
  const Tensor stats = norm_.alloc_stats(ctx, keep_if(saved), in.x);
  const Tensor normed = ctx.alloc(brief ? Keep::saved : Keep::scratch, norm_.dtype(), {in.x.rows(), in.x.cols()});
  norm_.forward(ctx, in.x, normed, stats);
  if (brief) saved->normed = normed, saved->mlp.brief = true;
  mlp_.forward(ctx, {.x = normed, .residual = in.x}, {.y = out.y}, saved ? &saved->mlp : nullptr);
  if (saved) saved->stats = stats;
}

void FeedForward::backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out,
                           const Inputs& d_in) const {
  {
    const Scope scope(ctx);
    const auto backward_mlp = [&](const Tensor& normed, const std::function<void()>& restore) {
      mlp_.backward(ctx, {.x = normed, .residual = in.x}, saved.mlp, {.y = d_out.y}, {.x = normed, .residual = {}},
                    restore);
    };
    if (saved.normed) {
      backward_mlp(saved.normed, {});
      norm_.backward(ctx, in.x, saved.stats, saved.normed, d_in.x, d_out.y);
    } else {  // the norm's backward gives LN(x) again
      const Tensor normed = ctx.alloc(Keep::scratch, norm_.dtype(), {in.x.rows(), in.x.cols()});
      backward_mlp(normed, [&] { norm_.backward(ctx, in.x, saved.stats, normed, d_in.x, d_out.y, normed); });
    }
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

}  // namespace boreas
