#include "models/mapper.h"

#include <algorithm>

#include "kernels/elementwise/elementwise.h"
#include "kernels/gather_rows/gather_rows.h"

namespace boreas {

namespace {

/// A whole graph as the only chunk of a rank's own sources and destinations.
ShardedGraph whole_graph(Graph graph, int64_t num_src, int64_t num_dst, Device device) {
  ShardedGraph whole = make_sharded_graph(std::move(graph), 1, device);
  whole.num_src = num_src;
  whole.num_dst = num_dst;
  whole.chunks[0].dst = {0, num_dst};
  return whole;
}

}  // namespace

Mapper::Mapper(ParameterStore& store, const std::string& prefix, const BlockShape& shape, const Options& options,
               RankGraph graph, std::shared_ptr<const HeadSharding> heads)
    : shape_(shape),
      options_(options),
      sources_(std::move(graph.sources)),
      heads_(std::move(heads)),
      graph_(heads_ ? whole_graph(std::move(graph.graph), sources_.own().size(), graph.dst.size(), store.device())
                    : make_sharded_graph(std::move(graph.graph), options.num_chunks, store.device())),
      embed_dst_(store, join_name(prefix, "emb_nodes_dst"), options.dst_channels, shape.num_channels),
      src_projection_(LayerNorm(store, join_name(prefix, "proc.layer_norm_attention_src"), shape.num_channels),
                      Linear(store, join_name(prefix, "proc"),
                             {{"lin_key", shape.attention_channels}, {"lin_value", shape.attention_channels}},
                             shape.num_channels, Linear::Bias::yes)),
      dst_projection_(LayerNorm(store, join_name(prefix, "proc.layer_norm_attention"), shape.num_channels),
                      Linear(store, join_name(prefix, "proc"),
                             {{"lin_query", shape.attention_channels}, {"lin_self", shape.attention_channels}},
                             shape.num_channels, Linear::Bias::yes)),
      q_norm_(store, join_name(prefix, "proc.q_norm"), shape),
      k_norm_(store, join_name(prefix, "proc.k_norm"), shape),
      attention_(store, join_name(prefix, "proc"), shape, options.edge_channels),
      projection_(store, join_name(prefix, "proc.projection"), shape.attention_channels, shape.num_channels),
      feed_forward_(LayerNorm(store, join_name(prefix, "proc.layer_norm_mlp_dst"), shape.num_channels),
                    Mlp(store, join_name(prefix, "proc.node_dst_mlp"), shape.mlp, shape.num_channels, shape.mlp_hidden,
                        shape.num_channels)) {
  if (options.kind == Kind::encoder) {
    embed_src_.emplace(store, join_name(prefix, "emb_nodes_src"), options.src_channels, shape.num_channels);
  } else {
    BOREAS_CHECK(options.src_channels == shape.num_channels, config,
                 "{}: a decoder's sources have num_channels = {} columns, not {}", prefix, shape.num_channels,
                 options.src_channels);
    extractor_.emplace(LayerNorm(store, join_name(prefix, "node_data_extractor.0"), shape.num_channels),
                       Linear(store, join_name(prefix, "node_data_extractor.1"), shape.num_channels,
                              options.out_channels, options.zero_extractor));
  }
}

int64_t Mapper::num_items(const Inputs& in) const {
  const int64_t num_src = sources_.own().size(), num_dst = graph_.num_dst;
  const int64_t items = num_src > 0 ? in.x_src.rows() / num_src : 0;
  const int64_t wanted = is_encoder() ? num_dst : items * num_dst;
  BOREAS_CHECK(items * num_src == in.x_src.rows() && wanted == in.x_dst.rows(), shape,
               "mapper: x_src is {} and x_dst {}; expected {} rows for each item of x_src and {} rows {}",
               to_string(in.x_src), to_string(in.x_dst), num_src, num_dst,
               is_encoder() ? "of x_dst" : "for each item of x_dst");
  return items;
}

void Mapper::start_sources(Context& ctx, const Tensor& x_src, int64_t item, Keep keep, Item& to) const {
  const int64_t n = sources_.own().size();
  const Tensor own = x_src.slice({item * n, (item + 1) * n});
  to.x_src = own;
  if (sources_.is_local()) return;
  to.x_src = alloc_aligned_rows(ctx, keep, x_src.dtype(), sources_.num_rows(), x_src.cols());
  run(ctx, Copy{.x = own, .y = to.x_src.slice(sources_.own())});
  to.on_its_way.emplace(sources_.start_forward(ctx, to.x_src));
}

void Mapper::finish_sources(Context& ctx, Item& item) const {
  if (item.on_its_way) sources_.finish_forward(ctx, *item.on_its_way);
  item.on_its_way.reset();
}

Tensor Mapper::gather(Context& ctx, const Subgraph& chunk, const Tensor& x_src) const {
  if (!chunk.src_ids) return x_src;
  const Tensor y = alloc_aligned_rows(ctx, Keep::scratch, x_src.dtype(), chunk.graph.num_src(), x_src.cols());
  run(ctx, GatherRows{.x = x_src, .ids = chunk.src_ids, .y = y});
  return y;
}

Mapper::Sources Mapper::project_sources(Context& ctx, const Subgraph& chunk, const Tensor& x_src, Keep keep,
                                        bool brief) const {
  const int64_t rows = chunk.src_ids ? chunk.graph.num_src() : x_src.rows();
  Sources sources;
  sources.projection.brief = brief;
  sources.keys_values = ctx.alloc(keep, dtype(), {rows, 2 * shape_.attention_channels});
  sources.k_stats = k_norm_.alloc_stats(ctx, keep, first_half(sources.keys_values));
  const Scope scope(ctx);
  Tensor x = gather(ctx, chunk, x_src);
  if (embed_src_) {
    sources.x = ctx.alloc(keep, dtype(), {rows, shape_.num_channels});
    embed_src_->forward(ctx, x, sources.x);
    x = sources.x;
  }
  src_projection_.forward(ctx, {.x = x}, {.y = sources.keys_values},
                          keep == Keep::saved ? &sources.projection : nullptr);
  return sources;
}

Mapper::Destinations Mapper::project_destinations(Context& ctx, const Tensor& x_dst, Keep keep, bool brief) const {
  Destinations destinations;
  destinations.projection.brief = brief;
  destinations.x = ctx.alloc(keep, residual_dtype(), {x_dst.rows(), shape_.num_channels});
  destinations.queries = ctx.alloc(keep, dtype(), {x_dst.rows(), 2 * shape_.attention_channels});
  destinations.q_stats = q_norm_.alloc_stats(ctx, keep, first_half(destinations.queries));
  embed_dst_.forward(ctx, x_dst, destinations.x);
  dst_projection_.forward(ctx, {.x = destinations.x}, {.y = destinations.queries},
                          keep == Keep::saved ? &destinations.projection : nullptr);
  return destinations;
}

void Mapper::backward_sources(Context& ctx, const Subgraph& chunk, const Tensor& x_src, const Sources& sources,
                              const Tensor& d_keys_values, const Tensor& d_x_src) const {
  const Scope scope(ctx);
  k_norm_.backward(ctx, first_half(sources.keys_values), sources.k_stats, first_half(d_keys_values));
  const bool gathered = bool(chunk.src_ids);
  Tensor d_rows;  // of the chunk's sources
  if (embed_src_) {
    // Where memory is short the gradient of s takes the place of s, which then must be normed in a pass of its own.
    const Tensor& s = sources.x;
    const Tensor d_s = sources.projection.brief ? s : ctx.alloc(Keep::scratch, s.dtype(), {s.rows(), s.cols()});
    src_projection_.backward(ctx, {.x = s}, sources.projection, {.y = d_keys_values}, {.x = d_s});
    embed_src_->backward_parameters(ctx, gather(ctx, chunk, x_src), d_s);
    if (!d_x_src) return;
    if (!gathered) return embed_src_->backward_input(ctx, d_s, d_x_src, true);
    d_rows = alloc_aligned_rows(ctx, Keep::scratch, dtype(), s.rows(), d_x_src.cols());
    embed_src_->backward_input(ctx, d_s, d_rows);
  } else {
    const Tensor x = gather(ctx, chunk, x_src);
    if (gathered && d_x_src) d_rows = ctx.alloc(Keep::scratch, x.dtype(), {x.rows(), x.cols()});
    src_projection_.backward(ctx, {.x = x}, sources.projection, {.y = d_keys_values}, {.x = d_rows ? d_rows : d_x_src});
  }
  if (d_x_src && gathered) run(ctx, ScatterAddRows{.x = d_rows, .ids = chunk.src_ids, .y = d_x_src});
}

void Mapper::backward_destinations(Context& ctx, const Tensor& x_dst, const Destinations& destinations,
                                   const Tensor& d_queries, const Tensor& d_x, const Tensor& d_x_dst) const {
  q_norm_.backward(ctx, first_half(destinations.queries), destinations.q_stats, first_half(d_queries));
  dst_projection_.backward(ctx, {.x = destinations.x}, destinations.projection, {.y = d_queries}, {.x = d_x}, d_x);
  embed_dst_.backward_parameters(ctx, x_dst, d_x);
  if (d_x_dst) embed_dst_.backward_input(ctx, d_x, d_x_dst, true);
}

Partition Mapper::tails_of(int64_t rows) const {
  return Partition::balanced(rows,
                             heads_ ? std::clamp<int64_t>(options_.num_chunks, 1, std::max<int64_t>(1, rows)) : 1);
}

void Mapper::forward_tail(Context& ctx, const Tensor& attended, const Tensor& x, const Tensor& y,
                          TailSaved* saved) const {
  const Scope scope(ctx);
  const Keep keep = keep_if(saved);
  TailSaved s{.brief = saved && saved->brief};
  s.feed_forward.brief = s.extractor.brief = s.brief;
  s.middle = ctx.alloc(keep, x.dtype(), {x.rows(), shape_.num_channels});
  projection_.forward(ctx, attended, s.middle, x);
  s.last = extractor_ ? ctx.alloc(keep, x.dtype(), {x.rows(), shape_.num_channels}) : y;
  feed_forward_.forward(ctx, {.x = s.middle}, {.y = s.last}, saved ? &s.feed_forward : nullptr);
  if (extractor_) extractor_->forward(ctx, {.x = s.last}, {.y = y}, saved ? &s.extractor : nullptr);
  if (saved) *saved = std::move(s);
}

void Mapper::backward_tail(Context& ctx, const TailSaved& saved, const Tensor& d_y, const Tensor& d_middle) const {
  const Scope scope(ctx);
  Tensor d_last = d_y;
  if (extractor_) {
    d_last = ctx.alloc(Keep::scratch, residual_dtype(), {d_y.rows(), shape_.num_channels});
    extractor_->backward(ctx, {.x = saved.last}, saved.extractor, {.y = d_y}, {.x = d_last});
  }
  feed_forward_.backward(ctx, {.x = saved.middle}, saved.feed_forward, {.y = d_last}, {.x = d_middle});
}

void Mapper::attend(Context& ctx, const EdgeAttention::Arguments& in, const Tensor& r, Keep keep, ChunkSaved& s) const {
  if (!heads_) return attention_.forward(ctx, in, r, s.attended, s.attention_stats);
  s.heads = heads_->gather(ctx, keep, in.q, in.k, in.v);
  attention_.forward(ctx, {in.graph, s.heads.q, s.heads.k, s.heads.v, in.features, heads_->heads()}, {}, s.heads.o,
                     s.heads.stats);
  heads_->scatter_output(ctx, s.heads.o, r, s.attended);
}

void Mapper::attend_backward(Context& ctx, const EdgeAttention::Arguments& in, const ChunkSaved& saved,
                             const Tensor& d_p, const EdgeAttention::Arguments& d_in) const {
  if (!heads_) return attention_.backward(ctx, in, saved.attention_stats, d_p, d_in);
  const Scope scope(ctx);
  const HeadArrays& arrays = saved.heads;
  const HeadArrays d = heads_->gather_gradient(ctx, arrays, d_p);
  attention_.backward(ctx, {in.graph, arrays.q, arrays.k, arrays.v, in.features, heads_->heads()}, arrays.stats, d.o,
                      {in.graph, d.q, d.k, d.v, d_in.features});
  heads_->scatter(ctx, d, d_in.q, d_in.k, d_in.v);
}

void Mapper::forward_chunk(Context& ctx, const Subgraph& chunk, Item& item, const Tensor& y, ChunkSaved* saved) const {
  ChunkSaved s{.begin = ctx.arena().mark(Keep::saved), .brief = saved && saved->brief};
  const Scope scope(ctx);
  const Keep keep = keep_if(saved);
  const int64_t rows = chunk.dst.size();

  if (!is_encoder()) s.destinations = project_destinations(ctx, item.x_dst.slice(chunk.dst), keep, s.brief);
  finish_sources(ctx, item);
  s.sources = project_sources(ctx, chunk, item.x_src, keep, s.brief);
  const Tensor x = is_encoder() ? item.shared.x.slice(chunk.dst) : s.destinations.x;
  const Tensor queries = is_encoder() ? item.shared.queries.slice(chunk.dst) : s.destinations.queries;
  // r is read once: p takes its place, unless other items need it too.
  const Tensor r = second_half(queries);
  s.attended = is_encoder() ? ctx.alloc(keep, dtype(), {rows, shape_.attention_channels}) : r;
  if (!heads_) s.attention_stats = attention_.alloc_stats(ctx, keep, r);
  {
    const Scope heads(ctx);
    attend(ctx,
           {.graph = &chunk.graph,
            .q = is_encoder() ? item.q.slice(chunk.dst)
                              : q_norm_.forward(ctx, first_half(queries), s.destinations.q_stats),
            .k = k_norm_.forward(ctx, first_half(s.sources.keys_values), s.sources.k_stats),
            .v = second_half(s.sources.keys_values),
            .features = item.features.slice(chunk.edges)},
           r, keep, s);
  }
  const Partition tails = tails_of(rows);
  for (int64_t t = 0; t < tails.num_parts(); ++t)
    forward_tail(ctx, s.attended.slice(tails[t]), x.slice(tails[t]), y ? y.slice(tails[t]) : Tensor(),
                 saved ? &s.tails.emplace_back(TailSaved{.brief = s.brief}) : nullptr);
  if (saved) *saved = std::move(s);
}

void Mapper::backward_chunk(Context& ctx, const Subgraph& chunk, const Item& item, const ChunkSaved& saved,
                            const ItemGradient& d) const {
  {
    const Scope scope(ctx);
    const int64_t rows = chunk.dst.size();
    // The first item to come writes the shared gradients, the others add to them.
    const bool in_place = is_encoder() && d.first;
    const auto gradient = [&](const Tensor& total, DType type, int64_t cols) {
      return in_place ? total.slice(chunk.dst) : ctx.alloc(Keep::scratch, type, {rows, cols});
    };
    const Tensor d_middle = gradient(d.shared_x, residual_dtype(), shape_.num_channels);
    const Partition tails = tails_of(rows);
    for (int64_t t = tails.num_parts(); t-- > 0;)
      backward_tail(ctx, saved.tails[size_t(t)], d.y.slice(chunk.dst).slice(tails[t]), d_middle.slice(tails[t]));
    const Tensor d_keys_values =
        ctx.alloc(Keep::scratch, dtype(), {saved.sources.keys_values.rows(), 2 * shape_.attention_channels});
    {
      const Scope destinations(ctx);
      const Tensor d_queries = gradient(d.shared_queries, dtype(), 2 * shape_.attention_channels);
      const Tensor d_p = second_half(d_queries);  // of the attention and of r
      projection_.backward_parameters(ctx, saved.attended, d_middle);
      projection_.backward_input(ctx, d_middle, d_p);
      {
        const Scope heads(ctx);
        const Tensor q = is_encoder()
                             ? item.q.slice(chunk.dst)
                             : q_norm_.forward(ctx, first_half(saved.destinations.queries), saved.destinations.q_stats);
        attend_backward(ctx,
                        {.graph = &chunk.graph,
                         .q = q,
                         .k = k_norm_.forward(ctx, first_half(saved.sources.keys_values), saved.sources.k_stats),
                         .v = second_half(saved.sources.keys_values),
                         .features = item.features.slice(chunk.edges)},
                        saved, d_p,
                        {.graph = &chunk.graph,
                         .q = first_half(d_queries),
                         .k = first_half(d_keys_values),
                         .v = second_half(d_keys_values),
                         .features = d.features ? d.features.slice(chunk.edges) : Tensor()});
      }
      if (!is_encoder()) {
        backward_sources(ctx, chunk, item.x_src, saved.sources, d_keys_values, d.x_src);
        std::optional<RowExchange::Moving> moving;
        if (d.leaves) moving.emplace(sources_.start_backward(ctx, d.x_src));
        backward_destinations(ctx, item.x_dst.slice(chunk.dst), saved.destinations, d_queries, d_middle,
                              d.x_dst ? d.x_dst.slice(chunk.dst) : Tensor());
        if (moving) sources_.finish_backward(ctx, *moving);
      } else if (!in_place) {
        const Tensor x = d.shared_x.slice(chunk.dst), queries = d.shared_queries.slice(chunk.dst);
        run(ctx, Add{.a = x, .b = d_middle, .y = x});
        run(ctx, Add{.a = queries, .b = d_queries, .y = queries});
      }
    }
    if (is_encoder()) backward_sources(ctx, chunk, item.x_src, saved.sources, d_keys_values, d.x_src);
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

Mapper::Fixed Mapper::fix(Context& ctx, const Inputs& in) const {
  constexpr Keep keep = Keep::saved;
  Fixed fixed;
  fixed.features = attention_.features(ctx, in.edge_attributes, keep);
  if (is_encoder()) {
    fixed.shared = project_destinations(ctx, in.x_dst, keep, false);
    fixed.q = q_norm_.forward(ctx, first_half(fixed.shared.queries), fixed.shared.q_stats, keep);
  }
  return fixed;
}

void Mapper::forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved, const Forecast& forecast) const {
  if (saved) saved->begin = ctx.arena().mark(Keep::saved);
  const int64_t items = num_items(in), num_dst = graph_.num_dst;
  if (saved && options_.recompute) {
    if (!out.x_dst) return;
    saved = nullptr;
  }
  const Keep keep = keep_if(saved);
  const Scope scope(ctx);

  Item item;
  if (is_encoder() && items > 0) start_sources(ctx, in.x_src, 0, keep, item);
  Fixed made;
  if (!forecast.fixed) {
    made.features = attention_.features(ctx, in.edge_attributes);
    if (is_encoder()) {
      made.shared = project_destinations(ctx, in.x_dst, keep, false);
      made.q = q_norm_.forward(ctx, first_half(made.shared.queries), made.shared.q_stats);
      if (saved) saved->shared = made.shared;
    }
  }
  const Fixed& fixed = forecast.fixed ? *forecast.fixed : made;
  item.features = fixed.features;
  item.shared = fixed.shared;
  item.q = fixed.q;
  for (int64_t i = 0; i < items; ++i) {
    const Scope item_scope(ctx);
    const Range dst{i * num_dst, (i + 1) * num_dst};
    if (!is_encoder() || i > 0) start_sources(ctx, in.x_src, i, keep, item);
    if (saved) saved->x_src.push_back(item.x_src);
    if (!is_encoder()) item.x_dst = in.x_dst.slice(dst);
    for (int64_t c = 0; c < graph_.num_chunks(); ++c) {
      const Subgraph& chunk = graph_.chunks[size_t(c)];
      const OwnerScope owner(ctx, fmt::format("chunk {}", c));
      const Scope chunk_scope(ctx);
      Tensor y = out.x_dst ? out.x_dst.slice(dst).slice(chunk.dst) : Tensor();
      if (forecast.take)
        y = ctx.alloc(Keep::scratch, accumulator_of(dtype()), {chunk.dst.size(), options_.out_channels});
      forward_chunk(ctx, chunk, item, y, saved ? &saved->chunks.emplace_back() : nullptr);
      if (forecast.take) forecast.take(chunk.dst, y);
    }
  }
}

void Mapper::backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out,
                      const Inputs& d_in) const {
  const int64_t items = num_items(in), num_src = graph_.num_src, num_dst = graph_.num_dst;
  const int64_t num_own = sources_.own().size();
  const int64_t num_chunks = graph_.num_chunks();
  {
    const Scope scope(ctx);
    Item item;
    ItemGradient d;
    item.features = attention_.features(ctx, in.edge_attributes);
    d.features = attention_.start_gradient(ctx, in.edge_attributes, d_in.edge_attributes);
    if (is_encoder()) {
      if (options_.recompute && items > 0) start_sources(ctx, in.x_src, items - 1, Keep::scratch, item);
      item.shared = options_.recompute ? project_destinations(ctx, in.x_dst, Keep::saved, true) : saved.shared;
      item.q = q_norm_.forward(ctx, first_half(item.shared.queries), item.shared.q_stats);
      d.shared_x = ctx.alloc(Keep::scratch, residual_dtype(), {num_dst, shape_.num_channels});
      d.shared_queries = ctx.alloc(Keep::scratch, dtype(), {num_dst, 2 * shape_.attention_channels});
    }
    for (int64_t i = items; i-- > 0;) {
      const Scope item_scope(ctx);
      const Range src{i * num_own, (i + 1) * num_own}, dst{i * num_dst, (i + 1) * num_dst};
      if (!options_.recompute)
        item.x_src = saved.x_src[size_t(i)];
      else if (!is_encoder() || i + 1 < items)
        start_sources(ctx, in.x_src, i, Keep::scratch, item);
      if (!is_encoder()) item.x_dst = in.x_dst.slice(dst);
      d.y = d_out.x_dst.slice(dst);
      if (!is_encoder() && d_in.x_dst) d.x_dst = d_in.x_dst.slice(dst);
      const Tensor d_x_src = d_in.x_src ? d_in.x_src.slice(src) : Tensor();
      d.x_src = d_x_src;
      // Sums are kept in the wider type: over the chunks of a decoder, over the uses of an encoder's features.
      const bool sums = is_encoder() || num_chunks > 1;
      if (const DType type = sums ? accumulator_of(dtype()) : residual_dtype();
          d_x_src && (!sources_.is_local() || (!is_encoder() && type != d_x_src.dtype())))
        d.x_src = ctx.alloc(Keep::scratch, type, {num_src, d_x_src.cols()});
      const bool apart = d_x_src && d.x_src.data() != d_x_src.data();
      if (d_x_src && sums && (apart || !is_encoder())) run(ctx, Fill{.y = d.x_src, .value = 0});
      for (int64_t c = num_chunks; c-- > 0;) {
        const Subgraph& chunk = graph_.chunks[size_t(c)];
        const OwnerScope owner(ctx, fmt::format("chunk {}", c));
        ChunkSaved again;
        again.brief = true;
        d.leaves = !is_encoder() && c == 0 && apart && !sources_.is_local();
        if (options_.recompute) forward_chunk(ctx, chunk, item, {}, &again);
        backward_chunk(ctx, chunk, item, options_.recompute ? again : saved.chunks[size_t(i * num_chunks + c)], d);
      }
      d.first = false;
      std::optional<RowExchange::Moving> moving;
      if (is_encoder() && apart) moving.emplace(sources_.start_backward(ctx, d.x_src));
      if (is_encoder() && i == 0)
        backward_destinations(ctx, in.x_dst, item.shared, d.shared_queries, d.shared_x, d_in.x_dst);
      if (moving) sources_.finish_backward(ctx, *moving);
      if (!apart) continue;
      const Tensor own = d.x_src.slice(sources_.own());
      if (is_encoder())
        run(ctx, Add{.a = d_x_src, .b = own, .y = d_x_src});
      else
        run(ctx, Copy{.x = own, .y = d_x_src});
    }
    attention_.finish_gradient(ctx, in.edge_attributes, d.features, d_in.edge_attributes);
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

}  // namespace boreas
