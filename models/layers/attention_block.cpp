#include "models/layers/attention_block.h"

#include "kernels/elementwise/elementwise.h"
#include "kernels/window_attention/window_attention.h"

namespace boreas {

AttentionBlock::AttentionBlock(ParameterStore& store, const std::string& prefix, const BlockShape& shape,
                               const Graph& graph, int64_t edge_channels)
    : shape_(shape),
      graph_(&graph),
      num_nodes_(graph.num_dst()),
      projections_(LayerNorm(store, join_name(prefix, "layer_norm_attention"), shape.num_channels),
                   Linear(store, prefix,
                          {{"lin_query", shape.attention_channels},
                           {"lin_key", shape.attention_channels},
                           {"lin_value", shape.attention_channels},
                           {"lin_self", shape.attention_channels}},
                          shape.num_channels, Linear::Bias::yes)),
      q_norm_(store, join_name(prefix, "q_norm"), shape),
      k_norm_(store, join_name(prefix, "k_norm"), shape),
      edges_(std::in_place, store, prefix, shape, edge_channels),
      projection_(store, join_name(prefix, "projection"), shape.attention_channels, shape.num_channels),
      feed_forward_(LayerNorm(store, join_name(prefix, "layer_norm_mlp_dst"), shape.num_channels),
                    Mlp(store, join_name(prefix, "node_dst_mlp"), shape.mlp, shape.num_channels, shape.mlp_hidden,
                        shape.num_channels)) {
  BOREAS_CHECK(graph.num_src() == graph.num_dst(), shape,
               "a processor's edges must join one node set, not {} sources and {} destinations", graph.num_src(),
               graph.num_dst());
}

AttentionBlock::AttentionBlock(ParameterStore& store, const std::string& prefix, const BlockShape& shape,
                               int64_t num_nodes, int64_t window)
    : shape_(shape),
      num_nodes_(num_nodes),
      window_(window),
      projections_(LayerNorm(store, join_name(prefix, "layer_norm_attention"), shape.num_channels),
                   Linear(store, join_name(prefix, "attention"),
                          {{"lin_q", shape.attention_channels},
                           {"lin_k", shape.attention_channels},
                           {"lin_v", shape.attention_channels}},
                          shape.num_channels, Linear::Bias::no)),
      q_norm_(store, join_name(prefix, "attention.q_norm"), shape),
      k_norm_(store, join_name(prefix, "attention.k_norm"), shape),
      projection_(store, join_name(prefix, "attention.projection"), shape.attention_channels, shape.num_channels),
      feed_forward_(
          LayerNorm(store, join_name(prefix, "layer_norm_mlp"), shape.num_channels),
          Mlp(store, join_name(prefix, "mlp"), shape.mlp, shape.num_channels, shape.mlp_hidden, shape.num_channels)) {}

Tensor AttentionBlock::part(const Tensor& projected, int64_t i) const {
  return projected.columns({i * shape_.attention_channels, (i + 1) * shape_.attention_channels});
}

int64_t AttentionBlock::num_items(const Tensor& x) const {
  BOREAS_CHECK(num_nodes_ > 0 && x.rows() % num_nodes_ == 0, shape,
               "attention block: x is {} but its rows must be a multiple of the {} nodes", to_string(x), num_nodes_);
  return x.rows() / num_nodes_;
}

void AttentionBlock::forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const {
  if (!saved && !out.y) return;
  Saved s{.begin = ctx.arena().mark(Keep::saved), .brief = saved && saved->brief};
  s.projection.brief = s.feed_forward.brief = s.brief;
  const Scope scope(ctx);
  const Keep keep = keep_if(saved);
  const DType dtype = projection_.dtype();
  const int64_t rows = in.x.rows(), items = num_items(in.x);

  s.projected = ctx.alloc(keep, dtype, {rows, num_parts() * shape_.attention_channels});
  projections_.forward(ctx, {.x = in.x}, {.y = s.projected}, saved ? &s.projection : nullptr);
  const Tensor raw_q = part(s.projected, 0), raw_k = part(s.projected, 1), v = part(s.projected, 2);
  s.q_stats = q_norm_.alloc_stats(ctx, keep, raw_q);
  s.k_stats = k_norm_.alloc_stats(ctx, keep, raw_k);
  s.attention_stats = ctx.alloc(keep, accumulator_of(dtype), {rows, shape_.num_heads});
  s.attended = edges_ ? part(s.projected, 3) : ctx.alloc(keep, dtype, {rows, shape_.attention_channels});
  {
    const Scope heads(ctx);
    const Tensor q = q_norm_.forward(ctx, raw_q, s.q_stats), k = k_norm_.forward(ctx, raw_k, s.k_stats);
    Tensor features;
    if (edges_) features = edges_->features(ctx, in.edge_attributes);
    for (int64_t i = 0; i < items; ++i) {
      const Range item{i * num_nodes_, (i + 1) * num_nodes_};
      const Tensor p = s.attended.slice(item);
      if (edges_)
        edges_->forward(ctx, {graph_, q.slice(item), k.slice(item), v.slice(item), features}, p, p,
                        s.attention_stats.slice(item));
      else
        run(ctx, WindowAttentionForward{.q = q.slice(item),
                                        .k = k.slice(item),
                                        .v = v.slice(item),
                                        .num_heads = shape_.num_heads,
                                        .window = window_,
                                        .kernel = shape_.window_kernel,
                                        .o = p,
                                        .stats = s.attention_stats.slice(item)});
    }
  }
  s.middle = ctx.alloc(keep, in.x.dtype(), {rows, shape_.num_channels});
  projection_.forward(ctx, s.attended, s.middle, in.x);
  feed_forward_.forward(ctx, {.x = s.middle}, {.y = out.y}, saved ? &s.feed_forward : nullptr);
  if (saved) *saved = std::move(s);
}

void AttentionBlock::backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out,
                              const Inputs& d_in) const {
  {
    const Scope scope(ctx);
    const DType dtype = projection_.dtype();
    const int64_t rows = in.x.rows(), items = num_items(in.x);
    const Tensor d_middle = ctx.alloc(Keep::scratch, in.x.dtype(), {rows, shape_.num_channels});
    feed_forward_.backward(ctx, {.x = saved.middle}, saved.feed_forward, {.y = d_out.y}, {.x = d_middle});

    const Tensor d_projected = ctx.alloc(Keep::scratch, dtype, {rows, num_parts() * shape_.attention_channels});
    const Tensor raw_q = part(saved.projected, 0), raw_k = part(saved.projected, 1), v = part(saved.projected, 2);
    const Tensor d_q = part(d_projected, 0), d_k = part(d_projected, 1), d_v = part(d_projected, 2);
    {
      const Scope heads(ctx);
      // d_p is the gradient of both the attention and r.
      const Tensor d_p =
          edges_ ? part(d_projected, 3) : ctx.alloc(Keep::scratch, dtype, {rows, shape_.attention_channels});
      projection_.backward_parameters(ctx, saved.attended, d_middle);
      projection_.backward_input(ctx, d_middle, d_p);
      const Tensor q = q_norm_.forward(ctx, raw_q, saved.q_stats), k = k_norm_.forward(ctx, raw_k, saved.k_stats);
      Tensor features, d_features;
      if (edges_) {
        features = edges_->features(ctx, in.edge_attributes);
        d_features = edges_->start_gradient(ctx, in.edge_attributes, d_in.edge_attributes);
      }
      for (int64_t i = 0; i < items; ++i) {
        const Range item{i * num_nodes_, (i + 1) * num_nodes_};
        if (edges_)
          edges_->backward(ctx, {graph_, q.slice(item), k.slice(item), v.slice(item), features},
                           saved.attention_stats.slice(item), d_p.slice(item),
                           {graph_, d_q.slice(item), d_k.slice(item), d_v.slice(item), d_features});
        else
          run(ctx, WindowAttentionBackward{.q = q.slice(item),
                                           .k = k.slice(item),
                                           .v = v.slice(item),
                                           .o = saved.attended.slice(item),
                                           .stats = saved.attention_stats.slice(item),
                                           .num_heads = shape_.num_heads,
                                           .window = window_,
                                           .kernel = shape_.window_kernel,
                                           .d_o = d_p.slice(item),
                                           .d_q = d_q.slice(item),
                                           .d_k = d_k.slice(item),
                                           .d_v = d_v.slice(item)});
      }
      if (edges_) edges_->finish_gradient(ctx, in.edge_attributes, d_features, d_in.edge_attributes);
    }
    q_norm_.backward(ctx, raw_q, saved.q_stats, d_q);
    k_norm_.backward(ctx, raw_k, saved.k_stats, d_k);
    projections_.backward(ctx, {.x = in.x}, saved.projection, {.y = d_projected}, {.x = d_in.x}, d_middle);
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

}  // namespace boreas
