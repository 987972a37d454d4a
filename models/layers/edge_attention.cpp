#include "models/layers/edge_attention.h"

#include "kernels/activation/activation.h"
#include "kernels/elementwise/elementwise.h"
#include "models/layers/mlp.h"

namespace boreas {

BlockShape BlockShape::of(const ModelConfig& config) {
  BlockShape shape{.num_channels = config.num_channels,
                   .attention_channels = config.attention_channels ? config.attention_channels : config.num_channels,
                   .num_heads = config.num_heads,
                   .mlp_hidden = mlp_hidden_channels(config.num_channels, config.mlp_ratio),
                   .mlp = config.mlp,
                   .qk_norm = config.qk_norm,
                   .edge_pre_mlp = config.edge_pre_mlp,
                   .window_kernel = config.processor.attention_kernel};
  BOREAS_CHECK(shape.num_channels > 0, config, "model.num_channels is {}; it must be positive", shape.num_channels);
  BOREAS_CHECK(
      shape.num_heads > 0 && shape.attention_channels > 0 && shape.attention_channels % shape.num_heads == 0, config,
      "model.num_heads is {}, which does not divide the {} attention channels; change {}", shape.num_heads,
      shape.attention_channels,
      config.attention_channels ? "model.attention_channels" : "model.num_channels or model.attention_channels");
  return shape;
}

HeadNorm::HeadNorm(ParameterStore& store, const std::string& name, const BlockShape& shape) {
  if (shape.qk_norm) norm_ = LayerNorm::of_heads(store, name, shape.attention_channels, shape.num_heads);
}

namespace {

/// Of some rows of x: there are as many for each row as heads.
Tensor stats_of(const Tensor& stats, const Tensor& x, Range rows) {
  const int64_t heads = stats.rows() / x.rows();
  return stats.slice({rows.begin * heads, rows.end * heads});
}

}  // namespace

Tensor HeadNorm::alloc_stats(Context& ctx, Keep keep, const Tensor& x) const {
  return norm_ ? norm_->alloc_stats(ctx, keep, x) : Tensor();
}

Tensor HeadNorm::forward(Context& ctx, const Tensor& x, const Tensor& stats, Keep keep) const {
  const Tensor y = alloc(ctx, x, keep);
  forward(ctx, x, stats, y, {0, x.rows()});
  return y;
}

Tensor HeadNorm::alloc(Context& ctx, const Tensor& x, Keep keep) const {
  return norm_ ? ctx.alloc(keep, x.dtype(), {x.rows(), x.cols()}) : x;
}

void HeadNorm::forward(Context& ctx, const Tensor& x, const Tensor& stats, const Tensor& y, Range rows) const {
  if (norm_ && rows.size() > 0) norm_->forward(ctx, x.slice(rows), y.slice(rows), stats_of(stats, x, rows));
}

void HeadNorm::backward(Context& ctx, const Tensor& x, const Tensor& stats, const Tensor& d) const {
  backward(ctx, x, stats, d, {0, x.rows()});
}

void HeadNorm::backward(Context& ctx, const Tensor& x, const Tensor& stats, const Tensor& d, Range rows) const {
  if (!norm_ || rows.size() == 0) return;
  norm_->backward(ctx, x.slice(rows), stats_of(stats, x, rows), d.slice(rows), d.slice(rows));
}

EdgeAttention::EdgeAttention(ParameterStore& store, const std::string& prefix, const BlockShape& shape,
                             int64_t edge_channels)
    : num_heads_(shape.num_heads) {
  const Init init = Init::linear(edge_channels);
  weight_ = store.add(join_name(prefix, "lin_edge.weight"), {shape.attention_channels, edge_channels}, init);
  bias_ = store.add(join_name(prefix, "lin_edge.bias"), {shape.attention_channels}, init);
  if (shape.edge_pre_mlp) pre_.emplace(store, join_name(prefix, "edge_pre_mlp.0"), edge_channels, edge_channels);
}

Tensor EdgeAttention::features(Context& ctx, const Tensor& attributes, Keep keep) const {
  if (!pre_) return attributes;
  const Tensor y = alloc_aligned_rows(ctx, keep, attributes.dtype(), attributes.rows(), attributes.cols());
  pre_->forward_gelu(ctx, attributes, {}, y);
  return y;
}

Tensor EdgeAttention::start_gradient(Context& ctx, const Tensor& attributes, const Tensor& d_attributes) const {
  if (!pre_) return d_attributes;
  const Tensor d = ctx.alloc(Keep::scratch, accumulator_of(attributes.dtype()), {attributes.rows(), attributes.cols()});
  run(ctx, Fill{.y = d, .value = 0});
  return d;
}

void EdgeAttention::finish_gradient(Context& ctx, const Tensor& attributes, const Tensor& d_features,
                                    const Tensor& d_attributes) const {
  if (!pre_) return;
  const Scope scope(ctx);
  const auto alloc = [&] {
    return alloc_aligned_rows(ctx, Keep::scratch, attributes.dtype(), attributes.rows(), attributes.cols());
  };
  const Tensor before = alloc(), d = alloc();
  pre_->forward(ctx, attributes, before);
  run(ctx, Copy{.x = d_features, .y = d});
  run(ctx, GeluBackward{.x = before, .d_y = d, .d_x = d});
  pre_->backward_parameters(ctx, attributes, d);
  if (d_attributes) pre_->backward_input(ctx, d, d_attributes, true);
}

Tensor EdgeAttention::alloc_stats(Context& ctx, Keep keep, const Tensor& q) const {
  return ctx.alloc(keep, accumulator_of(q.dtype()), {q.rows(), num_heads_});
}

Tensor EdgeAttention::weight_of(const Tensor& weight, Range heads) const {
  const int64_t size = weight.rows() / num_heads_;
  return weight.slice({heads.begin * size, heads.end * size});
}

Tensor EdgeAttention::bias_of(const Tensor& bias, Range heads) const {
  const int64_t size = bias.size() / num_heads_;
  return bias.columns({heads.begin * size, heads.end * size}).reshape({heads.size() * size});
}

void EdgeAttention::forward(Context& ctx, const Arguments& in, const Tensor& r, const Tensor& o,
                            const Tensor& stats) const {
  const Range heads = heads_of(in);
  run(ctx, GraphAttentionForward{.graph = in.graph,
                                 .q = in.q,
                                 .k = in.k,
                                 .v = in.v,
                                 .edge_attributes = in.features,
                                 .w_edge = weight_of(weight_->value, heads),
                                 .b_edge = bias_of(bias_->value, heads),
                                 .r = r,
                                 .num_heads = heads.size(),
                                 .destinations = in.destinations,
                                 .o = o,
                                 .stats = stats});
}

GraphAttentionBackward EdgeAttention::backward_op(const Arguments& in, const Tensor& stats, const Tensor& d_o,
                                                  const Arguments& d_in) const {
  const Range heads = heads_of(in);
  return {.graph = in.graph,
          .q = in.q,
          .k = in.k,
          .v = in.v,
          .edge_attributes = in.features,
          .w_edge = weight_of(weight_->value, heads),
          .b_edge = bias_of(bias_->value, heads),
          .num_heads = heads.size(),
          .stats = stats,
          .d_o = d_o,
          .d_q = d_in.q,
          .d_k = d_in.k,
          .d_v = d_in.v,
          .d_w_edge = weight_of(weight_->grad, heads),
          .d_b_edge = bias_of(bias_->grad, heads),
          .d_edge_attributes = d_in.features,
          .first_edge_column = d_in.features ? in.features.cols() - d_in.features.cols() : 0};
}

}  // namespace boreas
