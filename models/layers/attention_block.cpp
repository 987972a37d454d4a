#include "models/layers/attention_block.h"

#include <algorithm>

#include "kernels/elementwise/elementwise.h"

namespace boreas {

AttentionBlock::AttentionBlock(ParameterStore& store, const std::string& prefix, const BlockShape& shape,
                               const Graph& graph, const RowExchange& rows, int64_t num_interior, int64_t edge_channels,
                               std::shared_ptr<const HeadSharding> heads)
    : shape_(shape),
      graph_(&graph),
      rows_(&rows),
      heads_(std::move(heads)),
      num_interior_(num_interior),
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
  const int64_t num_src = heads_ ? heads_->num_src() : rows.num_rows();
  const int64_t num_dst = heads_ ? heads_->num_dst() : rows.own().size();
  BOREAS_CHECK(graph.num_src() == num_src && graph.num_dst() == num_dst, shape,
               "a processor's edges must join one node set, not {} sources and {} destinations", graph.num_src(),
               graph.num_dst());
}

AttentionBlock::AttentionBlock(ParameterStore& store, const std::string& prefix, const BlockShape& shape,
                               const RowExchange& rows, int64_t window, std::shared_ptr<const HeadSharding> heads)
    : shape_(shape),
      rows_(&rows),
      heads_(std::move(heads)),
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
  BOREAS_CHECK(num_nodes() > 0 && x.rows() % num_nodes() == 0, shape,
               "attention block: x is {} but its rows must be a multiple of the {} nodes", to_string(x), num_nodes());
  return x.rows() / num_nodes();
}

Tensor AttentionBlock::project(Context& ctx, Keep keep, const Tensor& x, const Tensor& projected,
                               NormedLinear::Saved* saved, std::vector<RowExchange::Moving>& moving) const {
  const Tensor own = own_keys_values(projected);
  if (rows_->is_local()) {
    projections_.forward(ctx, {.x = x}, {.y = projected}, saved);
    return own;
  }
  const int64_t items = num_items(x);
  const Tensor all = ctx.alloc(keep, projected.dtype(), {items * rows_->num_rows(), own.cols()});
  const Tensor normed = projections_.normalise(ctx, x, saved);
  const int64_t width = shape_.attention_channels;
  projections_.map(ctx, normed, projected, {width, 3 * width});
  for (int64_t i = 0; i < items; ++i) {
    const Tensor item = all.slice(all_rows(i));
    run(ctx, Copy{.x = own.slice(own_rows(i)), .y = item.slice(rows_->own())});
    moving.push_back(rows_->start_forward(ctx, item));
  }
  projections_.map(ctx, normed, projected, {0, width});
  if (edges_) projections_.map(ctx, normed, projected, {3 * width, 4 * width});
  return all;
}

bool AttentionBlock::interior_first() const {
  // Of longer parts the projections alone take longer than the messages: docs/sharding.md.
  constexpr int64_t kMostWindows = 32;
  if (edges_) return num_interior_ >= 0;
  return !rows_->is_local() && (window_ < 0 || num_nodes() < kMostWindows * window_);
}

Range AttentionBlock::interior() const {
  if (edges_) return {0, std::max<int64_t>(0, num_interior_)};
  if (!interior_first() || window_ < 0) return {};
  const Range own = rows_->own();
  const int64_t begin = own.begin > 0 ? window_ : 0;
  const int64_t end = own.size() - (own.end < rows_->num_rows() ? window_ : 0);
  return begin < end ? Range{begin, end} : Range{};
}

void AttentionBlock::attend(Context& ctx, const EdgeAttention::Arguments& in, const Tensor& p, const Tensor& stats,
                            Range queries) const {
  if (queries.size() == 0) return;
  if (edges_) {
    const Tensor o = p.slice(queries);
    return edges_->forward(ctx, {in.graph, in.q.slice(queries), in.k, in.v, in.features, {}, queries}, o, o,
                           stats.slice(queries));
  }
  // Keys that these queries do not attend to may not have arrived: they are left out.
  const Range at{rows_->own().begin + queries.begin, rows_->own().begin + queries.end}, all{0, in.k.rows()};
  const Range keys =
      window_ < 0 ? all : Range{std::max(all.begin, at.begin - window_), std::min(all.end, at.end + window_)};
  run(ctx, WindowAttentionForward{.q = in.q.slice(queries),
                                  .k = in.k.slice(keys),
                                  .v = in.v.slice(keys),
                                  .num_heads = shape_.num_heads,
                                  .window = window_,
                                  .first_query = at.begin - keys.begin,
                                  .kernel = shape_.window_kernel,
                                  .o = p.slice(queries),
                                  .stats = stats.slice(queries)});
}

void AttentionBlock::backward_others(Context& ctx, const WindowAttentionBackward& item, const Tensor& d_k,
                                     const Tensor& d_v) const {
  const Range own = rows_->own();
  const int64_t near = window_ < 0 ? own.size() : std::min(own.size(), window_);
  const auto make = [&](Range wanted, Range queries, Range keys) {
    if (wanted.size() == 0) return;
    WindowAttentionBackward op = item;
    for (Tensor* rows : {&op.q, &op.o, &op.stats, &op.d_o}) *rows = rows->slice(queries);
    for (Tensor* rows : {&op.k, &op.v}) *rows = rows->slice(keys);
    op.d_q = {};
    op.d_k = d_k.slice(wanted), op.d_v = d_v.slice(wanted);
    op.first_query = own.begin + queries.begin - keys.begin;
    op.first_key = wanted.begin - keys.begin;
    run(ctx, op);
  };
  make({0, own.begin}, {0, near}, {0, own.begin + near});
  make({own.end, d_k.rows()}, {own.size() - near, own.size()}, {own.end - near, d_k.rows()});
}

HeadArrays AttentionBlock::forward_heads(Context& ctx, Keep keep, const EdgeAttention::Arguments& in,
                                         const Tensor& p) const {
  const HeadArrays arrays = heads_->gather(ctx, keep, in.q, in.k, in.v);
  if (edges_)
    edges_->forward(ctx, {graph_, arrays.q, arrays.k, arrays.v, in.features, heads_->heads()}, {}, arrays.o,
                    arrays.stats);
  else
    run(ctx, WindowAttentionForward{.q = arrays.q,
                                    .k = arrays.k,
                                    .v = arrays.v,
                                    .num_heads = heads_->heads().size(),
                                    .window = window_,
                                    .kernel = shape_.window_kernel,
                                    .o = arrays.o,
                                    .stats = arrays.stats});
  heads_->scatter_output(ctx, arrays.o, edges_ ? p : Tensor(), p);
  return arrays;
}

void AttentionBlock::backward_heads(Context& ctx, const HeadArrays& arrays, const Tensor& features, const Tensor& d_p,
                                    const EdgeAttention::Arguments& d_in) const {
  const Scope scope(ctx);
  const HeadArrays d = heads_->gather_gradient(ctx, arrays, d_p);
  if (edges_)
    edges_->backward(ctx, {graph_, arrays.q, arrays.k, arrays.v, features, heads_->heads()}, arrays.stats, d.o,
                     {graph_, d.q, d.k, d.v, d_in.features});
  else
    run(ctx, WindowAttentionBackward{.q = arrays.q,
                                     .k = arrays.k,
                                     .v = arrays.v,
                                     .o = arrays.o,
                                     .stats = arrays.stats,
                                     .num_heads = heads_->heads().size(),
                                     .window = window_,
                                     .kernel = shape_.window_kernel,
                                     .d_o = d.o,
                                     .d_q = d.q,
                                     .d_k = d.k,
                                     .d_v = d.v});
  heads_->scatter(ctx, d, d_in.q, d_in.k, d_in.v);
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
  if (!heads_) s.attention_stats = ctx.alloc(keep, accumulator_of(dtype), {rows, shape_.num_heads});
  s.attended = edges_ ? part(s.projected, 3) : ctx.alloc(keep, dtype, {rows, shape_.attention_channels});
  {
    const Scope attention(ctx);
    std::vector<RowExchange::Moving> moving;
    s.keys_values = project(ctx, keep, in.x, s.projected, saved ? &s.projection : nullptr, moving);
    const Tensor raw_q = part(s.projected, 0), raw_k = keys(s.keys_values), v = values(s.keys_values);
    s.q_stats = q_norm_.alloc_stats(ctx, keep, raw_q);
    s.k_stats = k_norm_.alloc_stats(ctx, keep, raw_k);
    const Tensor q = q_norm_.forward(ctx, raw_q, s.q_stats), k = k_norm_.alloc(ctx, raw_k);
    Tensor features;
    if (edges_) features = edges_->features(ctx, in.edge_attributes);
    const auto attend_item = [&](int64_t i, Range queries) {
      const Range own = own_rows(i), all = all_rows(i);
      attend(ctx, {graph_, q.slice(own), k.slice(all), v.slice(all), features}, s.attended.slice(own),
             s.attention_stats.slice(own), queries);
    };
    const Range first = interior();
    for (int64_t i = 0; i < items && first.size() > 0; ++i) {
      k_norm_.forward(ctx, raw_k, s.k_stats, k, own_keys(i));
      attend_item(i, first);
    }
    for (const RowExchange::Moving& rows_of_others : moving) rows_->finish_forward(ctx, rows_of_others);
    if (first.size() == 0) k_norm_.forward(ctx, raw_k, s.k_stats, k, {0, k.rows()});
    for (int64_t i = 0; i < items; ++i) {
      const Scope item(ctx);
      const Range own = own_rows(i);
      if (heads_) {
        s.heads.push_back(forward_heads(ctx, keep, {graph_, q.slice(own), k.slice(own), v.slice(own), features},
                                        s.attended.slice(own)));
      } else if (first.size() == 0) {
        attend_item(i, {0, own.size()});
      } else {
        for (const Range& others : others_keys(i)) k_norm_.forward(ctx, raw_k, s.k_stats, k, others);
        for (const Range& rest : {Range{0, first.begin}, Range{first.end, own.size()}}) attend_item(i, rest);
      }
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
    const Tensor raw_q = part(saved.projected, 0), raw_k = keys(saved.keys_values), v = values(saved.keys_values);
    const int64_t width = shape_.attention_channels;
    const Tensor d_own = own_keys_values(d_projected);
    const Tensor d_keys_values =
        rows_->is_local() ? d_own : ctx.alloc(Keep::scratch, dtype, {items * rows_->num_rows(), 2 * width});
    const Tensor d_q = part(d_projected, 0), d_k = keys(d_keys_values), d_v = values(d_keys_values);
    {
      const Scope attention(ctx);
      // d_p is the gradient of both the attention and r.
      const Tensor d_p =
          edges_ ? part(d_projected, 3) : ctx.alloc(Keep::scratch, dtype, {rows, shape_.attention_channels});
      projection_.backward_input(ctx, d_middle, d_p);
      const Tensor q = q_norm_.forward(ctx, raw_q, saved.q_stats), k = k_norm_.forward(ctx, raw_k, saved.k_stats);
      const auto in_window = [&](int64_t i, Range keys) {
        const Range own = own_rows(i), all = all_rows(i);
        return WindowAttentionBackward{.q = q.slice(own),
                                       .k = k.slice(all),
                                       .v = v.slice(all),
                                       .o = saved.attended.slice(own),
                                       .stats = saved.attention_stats.slice(own),
                                       .num_heads = shape_.num_heads,
                                       .window = window_,
                                       .first_query = rows_->own().begin,
                                       .first_key = keys.begin - all.begin,
                                       .kernel = shape_.window_kernel,
                                       .d_o = d_p.slice(own),
                                       .d_q = d_q.slice(own),
                                       .d_k = d_k.slice(keys),
                                       .d_v = d_v.slice(keys)};
      };
      std::vector<RowExchange::Moving> moving;
      const auto start = [&](int64_t i) {
        for (const Range& others : others_keys(i)) k_norm_.backward(ctx, raw_k, saved.k_stats, d_k, others);
        moving.push_back(rows_->start_backward(ctx, d_keys_values.slice(all_rows(i))));
      };
      const bool others_first = interior_first();
      for (int64_t i = 0; i < items && others_first && !edges_; ++i) {
        backward_others(ctx, in_window(i, {}), d_k.slice(all_rows(i)), d_v.slice(all_rows(i)));
        start(i);
      }
      Tensor features, d_features, workspace;
      if (edges_) {
        features = edges_->features(ctx, in.edge_attributes);
        d_features = edges_->start_gradient(ctx, in.edge_attributes, d_in.edge_attributes);
      }
      for (int64_t i = 0; i < items; ++i) {
        const Range own = own_rows(i), all = all_rows(i);
        if (heads_)
          backward_heads(ctx, saved.heads[size_t(i)], features, d_p.slice(own),
                         {graph_, d_q.slice(own), d_k.slice(own), d_v.slice(own), d_features});
        else if (edges_) {
          GraphAttentionBackward op = edges_->backward_op(
              {graph_, q.slice(own), k.slice(all), v.slice(all), features}, saved.attention_stats.slice(own),
              d_p.slice(own), {graph_, d_q.slice(own), d_k.slice(all), d_v.slice(all), d_features});
          if (!others_first) {
            run(ctx, op);
            continue;
          }
          if (!workspace) workspace = ctx.alloc(Keep::scratch, DType::u8, {op.workspace_bytes()});
          op.workspace = workspace;
          op.pass = GraphAttentionBackward::Pass::destinations;
          run(ctx, op);
          op.pass = GraphAttentionBackward::Pass::sources;
          const auto sources = [&](Range rows) {
            op.sources = rows;
            if (rows.size() > 0) run(ctx, op);
          };
          sources({0, rows_->own().begin});
          sources({rows_->own().end, rows_->num_rows()});
          start(i);
          sources(rows_->own());
        } else
          run(ctx, in_window(i, others_first ? own_keys(i) : all));
      }
      if (edges_) edges_->finish_gradient(ctx, in.edge_attributes, d_features, d_in.edge_attributes);
      for (int64_t i = 0; i < items && !others_first && !rows_->is_local(); ++i) start(i);
      if (rows_->is_local())
        k_norm_.backward(ctx, raw_k, saved.k_stats, d_k);
      else
        for (int64_t i = 0; i < items; ++i) k_norm_.backward(ctx, raw_k, saved.k_stats, d_k, own_keys(i));
      q_norm_.backward(ctx, raw_q, saved.q_stats, d_q);
      projection_.backward_parameters(ctx, saved.attended, d_middle);
      for (size_t i = 0; i < moving.size(); ++i) {
        rows_->finish_backward(ctx, moving[i]);
        run(ctx, Copy{.x = moving[i].rows.slice(rows_->own()), .y = d_own.slice(own_rows(int64_t(i)))});
      }
    }
    projections_.backward(ctx, {.x = in.x}, saved.projection, {.y = d_projected}, {.x = d_in.x}, d_middle);
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

}  // namespace boreas
