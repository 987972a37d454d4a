#include "models/mapper.h"

#include "kernels/core/partition.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/gather_rows/gather_rows.h"

namespace boreas {

Mapper::Mapper(ParameterStore& store, const std::string& prefix, const BlockShape& shape, const Options& options,
               Graph graph)
    : shape_(shape),
      options_(options),
      graph_(make_sharded_graph(std::move(graph), options.num_chunks)),
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
  const int64_t num_src = graph_.whole.num_src(), num_dst = graph_.whole.num_dst();
  const int64_t items = num_src > 0 ? in.x_src.rows() / num_src : 0;
  const int64_t wanted = options_.kind == Kind::encoder ? num_dst : items * num_dst;
  BOREAS_CHECK(items * num_src == in.x_src.rows() && wanted == in.x_dst.rows(), shape,
               "mapper: x_src is {} and x_dst {}; expected {} rows for each item of x_src and {} rows {}",
               to_string(in.x_src), to_string(in.x_dst), num_src, num_dst,
               options_.kind == Kind::encoder ? "of x_dst" : "for each item of x_dst");
  return items;
}

Range Mapper::source_block(int64_t i) const {
  return Partition::balanced(graph_.whole.num_src(), graph_.num_chunks())[i];
}

Mapper::SourceBlock Mapper::project_block(Context& ctx, const Tensor& x_src, const Tensor& keys_values,
                                          Keep keep) const {
  SourceBlock block{.x = x_src, .projection = {}};
  if (embed_src_) {
    block.x = ctx.alloc(keep, x_src.dtype(), {x_src.rows(), shape_.num_channels});
    embed_src_->forward(ctx, x_src, block.x);
  }
  src_projection_.forward(ctx, {.x = block.x}, {.y = keys_values}, keep == Keep::saved ? &block.projection : nullptr);
  return block;
}

Mapper::Sources Mapper::project_sources(Context& ctx, const Tensor& x_src, Keep keep) const {
  Sources sources;
  sources.keys_values = ctx.alloc(keep, x_src.dtype(), {x_src.rows(), 2 * shape_.attention_channels});
  sources.k_stats = k_norm_.alloc_stats(ctx, keep, first_half(sources.keys_values));
  for (int64_t i = 0; i < graph_.num_chunks(); ++i) {
    const Scope scope(ctx);
    const Range rows = source_block(i);
    const SourceBlock block = project_block(ctx, x_src.slice(rows), sources.keys_values.slice(rows), keep);
    if (keep == Keep::saved) sources.blocks.push_back(block);
  }
  return sources;
}

Mapper::Destinations Mapper::project_destinations(Context& ctx, const Tensor& x_dst, Keep keep) const {
  const DType dtype = x_dst.dtype();
  Destinations destinations;
  destinations.x = ctx.alloc(keep, dtype, {x_dst.rows(), shape_.num_channels});
  destinations.queries = ctx.alloc(keep, dtype, {x_dst.rows(), 2 * shape_.attention_channels});
  destinations.q_stats = q_norm_.alloc_stats(ctx, keep, first_half(destinations.queries));
  embed_dst_.forward(ctx, x_dst, destinations.x);
  dst_projection_.forward(ctx, {.x = destinations.x}, {.y = destinations.queries},
                          keep == Keep::saved ? &destinations.projection : nullptr);
  return destinations;
}

void Mapper::backward_sources(Context& ctx, const Tensor& x_src, const Sources& sources, const Tensor& d_keys_values,
                              const Tensor& d_x_src) const {
  k_norm_.backward(ctx, first_half(sources.keys_values), sources.k_stats, first_half(d_keys_values));
  for (int64_t i = graph_.num_chunks(); i-- > 0;) {
    const Scope scope(ctx);
    const Arena::Mark begin = ctx.arena().mark(Keep::saved);
    const Range rows = source_block(i);
    const bool again = sources.blocks.empty();
    const SourceBlock block =
        again ? project_block(ctx, x_src.slice(rows), {}, Keep::saved) : sources.blocks[size_t(i)];
    const Tensor d_x_rows = d_x_src ? d_x_src.slice(rows) : Tensor();
    const Tensor d_x =
        embed_src_ ? ctx.alloc(Keep::scratch, x_src.dtype(), {rows.size(), shape_.num_channels}) : d_x_rows;
    src_projection_.backward(ctx, {.x = block.x}, block.projection, {.y = d_keys_values.slice(rows)}, {.x = d_x});
    if (embed_src_) {
      embed_src_->backward_parameters(ctx, x_src.slice(rows), d_x);
      if (d_x_rows) embed_src_->backward_input(ctx, d_x, d_x_rows);
    }
    if (again) ctx.arena().rewind(Keep::saved, begin);
  }
}

void Mapper::backward_destinations(Context& ctx, const Tensor& x_dst, const Destinations& destinations,
                                   const Tensor& d_queries, const Tensor& d_x, const Tensor& d_x_dst) const {
  q_norm_.backward(ctx, first_half(destinations.queries), destinations.q_stats, first_half(d_queries));
  dst_projection_.backward(ctx, {.x = destinations.x}, destinations.projection, {.y = d_queries}, {.x = d_x}, d_x);
  embed_dst_.backward_parameters(ctx, x_dst, d_x);
  if (d_x_dst) embed_dst_.backward_input(ctx, d_x, d_x_dst);
}

Tensor Mapper::gather(Context& ctx, const ShardedGraph::Chunk& chunk, const Tensor& x) const {
  if (!chunk.src_ids) return x;
  const Tensor y = ctx.alloc(Keep::scratch, x.dtype(), {chunk.graph->num_src(), x.cols()});
  run(ctx, GatherRows{.x = x, .ids = chunk.src_ids, .y = y});
  return y;
}

void Mapper::forward_chunk(Context& ctx, const ShardedGraph::Chunk& chunk, const Item& item, const Tensor& y,
                           ChunkSaved* saved) const {
  const Arena::Mark begin = ctx.arena().mark(Keep::saved);
  const Scope scope(ctx);
  const Keep keep = keep_if(saved);
  const DType dtype = item.k.dtype();
  const int64_t rows = chunk.dst.size();
  const bool shared = options_.kind == Kind::encoder;

  Destinations destinations;
  Tensor x, queries;
  if (shared) {
    x = item.shared.x.slice(chunk.dst);
    queries = item.shared.queries.slice(chunk.dst);
  } else {
    destinations = project_destinations(ctx, item.x_dst.slice(chunk.dst), keep);
    x = destinations.x;
    queries = destinations.queries;
  }
  // r is read once: p takes its place, unless other items need it too.
  const Tensor r = second_half(queries);
  const Tensor p = shared ? ctx.alloc(keep, dtype, {rows, shape_.attention_channels}) : r;
  const Tensor attention_stats = attention_.alloc_stats(ctx, keep, p);
  {
    const Scope heads(ctx);
    const Tensor q = shared ? item.q.slice(chunk.dst) : q_norm_.forward(ctx, first_half(queries), destinations.q_stats);
    attention_.forward(ctx,
                       {.graph = chunk.graph,
                        .q = q,
                        .k = gather(ctx, chunk, item.k),
                        .v = gather(ctx, chunk, item.v),
                        .features = item.features.slice(chunk.edges)},
                       r, p, attention_stats);
  }
  const Tensor middle = ctx.alloc(keep, dtype, {rows, shape_.num_channels});
  projection_.forward(ctx, p, middle, x);
  const Tensor last = extractor_ ? ctx.alloc(keep, dtype, {rows, shape_.num_channels}) : y;
  if (saved)
    *saved = {.begin = begin,
              .destinations = destinations,
              .attention_stats = attention_stats,
              .attended = p,
              .middle = middle,
              .last = last,
              .feed_forward = {},
              .extractor = {}};
  feed_forward_.forward(ctx, {.x = middle}, {.y = last}, saved ? &saved->feed_forward : nullptr);
  if (extractor_) extractor_->forward(ctx, {.x = last}, {.y = y}, saved ? &saved->extractor : nullptr);
}

void Mapper::backward_chunk(Context& ctx, const ShardedGraph::Chunk& chunk, const Item& item, const ChunkSaved& saved,
                            const ItemGradient& d) const {
  {
    const Scope scope(ctx);
    const DType dtype = item.k.dtype();
    const int64_t rows = chunk.dst.size();
    const bool shared = options_.kind == Kind::encoder;
    // The first item to come writes the shared gradients, the others add to them.
    const bool in_place = shared && d.first;
    const auto gradient = [&](const Tensor& total, int64_t cols) {
      return in_place ? total.slice(chunk.dst) : ctx.alloc(Keep::scratch, dtype, {rows, cols});
    };
    const Tensor d_middle = gradient(d.shared_x, shape_.num_channels);
    const Tensor d_queries = gradient(d.shared_queries, 2 * shape_.attention_channels);
    {
      const Scope tail(ctx);
      Tensor d_last = d.y.slice(chunk.dst);
      if (extractor_) {
        const Tensor d_y = d_last;
        d_last = ctx.alloc(Keep::scratch, dtype, {rows, shape_.num_channels});
        extractor_->backward(ctx, {.x = saved.last}, saved.extractor, {.y = d_y}, {.x = d_last});
      }
      feed_forward_.backward(ctx, {.x = saved.middle}, saved.feed_forward, {.y = d_last}, {.x = d_middle});
    }
    const Tensor d_p = second_half(d_queries);  // of the attention and of r
    projection_.backward_parameters(ctx, saved.attended, d_middle);
    projection_.backward_input(ctx, d_middle, d_p);
    {
      const Scope heads(ctx);
      const bool gathered = bool(chunk.src_ids);
      const auto source_gradient = [&](const Tensor& total) {
        return gathered ? ctx.alloc(Keep::scratch, dtype, {chunk.graph->num_src(), shape_.attention_channels}) : total;
      };
      const Tensor d_k = source_gradient(d.k), d_v = source_gradient(d.v);
      const Tensor q = shared
                           ? item.q.slice(chunk.dst)
                           : q_norm_.forward(ctx, first_half(saved.destinations.queries), saved.destinations.q_stats);
      attention_.backward(ctx,
                          {.graph = chunk.graph,
                           .q = q,
                           .k = gather(ctx, chunk, item.k),
                           .v = gather(ctx, chunk, item.v),
                           .features = item.features.slice(chunk.edges)},
                          saved.attention_stats, d_p,
                          {.graph = chunk.graph,
                           .q = first_half(d_queries),
                           .k = d_k,
                           .v = d_v,
                           .features = d.features ? d.features.slice(chunk.edges) : Tensor()});
      if (gathered) {
        run(ctx, ScatterAddRows{.x = d_k, .ids = chunk.src_ids, .y = d.k});
        run(ctx, ScatterAddRows{.x = d_v, .ids = chunk.src_ids, .y = d.v});
      }
    }
    if (!shared) {
      backward_destinations(ctx, item.x_dst.slice(chunk.dst), saved.destinations, d_queries, d_middle,
                            d.x_dst ? d.x_dst.slice(chunk.dst) : Tensor());
    } else if (!in_place) {
      const Tensor x = d.shared_x.slice(chunk.dst), queries = d.shared_queries.slice(chunk.dst);
      run(ctx, Add{.a = x, .b = d_middle, .y = x});
      run(ctx, Add{.a = queries, .b = d_queries, .y = queries});
    }
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

void Mapper::forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const {
  if (saved) *saved = {.begin = ctx.arena().mark(Keep::saved), .shared = {}, .items = {}};
  const int64_t items = num_items(in), num_src = graph_.whole.num_src(), num_dst = graph_.whole.num_dst();
  if (saved && options_.recompute) saved = nullptr;
  const Keep keep = keep_if(saved);
  const Scope scope(ctx);

  Item item;
  item.features = attention_.features(ctx, in.edge_attributes);
  if (options_.kind == Kind::encoder) {
    item.shared = project_destinations(ctx, in.x_dst, keep);
    item.q = q_norm_.forward(ctx, first_half(item.shared.queries), item.shared.q_stats);
    if (saved) saved->shared = item.shared;
  }
  for (int64_t i = 0; i < items; ++i) {
    const Scope item_scope(ctx);
    ItemSaved* const item_saved = saved ? &saved->items.emplace_back() : nullptr;
    if (item_saved) item_saved->begin = ctx.arena().mark(Keep::saved);
    const Range dst{i * num_dst, (i + 1) * num_dst};
    const Sources sources = project_sources(ctx, in.x_src.slice({i * num_src, (i + 1) * num_src}), keep);
    item.k = k_norm_.forward(ctx, first_half(sources.keys_values), sources.k_stats);
    item.v = second_half(sources.keys_values);
    if (options_.kind == Kind::decoder) item.x_dst = in.x_dst.slice(dst);
    if (item_saved) item_saved->sources = sources;
    for (int64_t c = 0; c < graph_.num_chunks(); ++c) {
      const ShardedGraph::Chunk chunk = graph_.chunk(c);
      const OwnerScope owner(ctx, fmt::format("chunk {}", c));
      forward_chunk(ctx, chunk, item, out.x_dst ? out.x_dst.slice(dst).slice(chunk.dst) : Tensor(),
                    item_saved ? &item_saved->chunks.emplace_back() : nullptr);
    }
  }
}

void Mapper::backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out,
                      const Inputs& d_in) const {
  const bool encoder = options_.kind == Kind::encoder;
  const int64_t items = num_items(in), num_src = graph_.whole.num_src(), num_dst = graph_.whole.num_dst();
  const DType dtype = in.x_src.dtype();
  {
    const Scope scope(ctx);
    Item item;
    ItemGradient d;
    item.features = attention_.features(ctx, in.edge_attributes);
    d.features = attention_.start_gradient(ctx, in.edge_attributes, d_in.edge_attributes);
    if (encoder) {
      item.shared = options_.recompute ? project_destinations(ctx, in.x_dst, Keep::saved) : saved.shared;
      item.q = q_norm_.forward(ctx, first_half(item.shared.queries), item.shared.q_stats);
      d.shared_x = ctx.alloc(Keep::scratch, dtype, {num_dst, shape_.num_channels});
      d.shared_queries = ctx.alloc(Keep::scratch, dtype, {num_dst, 2 * shape_.attention_channels});
    }
    for (int64_t i = items; i-- > 0;) {
      const Scope item_scope(ctx);
      const Range src{i * num_src, (i + 1) * num_src}, dst{i * num_dst, (i + 1) * num_dst};
      ItemSaved again;
      if (options_.recompute)
        again = {.begin = ctx.arena().mark(Keep::saved),
                 .sources = project_sources(ctx, in.x_src.slice(src), Keep::scratch),
                 .chunks = {}};
      const ItemSaved& item_saved = options_.recompute ? again : saved.items[size_t(i)];
      const Sources& sources = item_saved.sources;
      const Tensor d_keys_values = ctx.alloc(Keep::scratch, dtype, {num_src, 2 * shape_.attention_channels});
      if (graph_.num_chunks() > 1) run(ctx, Fill{.y = d_keys_values, .value = 0});
      item.k = k_norm_.forward(ctx, first_half(sources.keys_values), sources.k_stats);
      item.v = second_half(sources.keys_values);
      if (!encoder) item.x_dst = in.x_dst.slice(dst);
      d.y = d_out.x_dst.slice(dst);
      if (!encoder && d_in.x_dst) d.x_dst = d_in.x_dst.slice(dst);
      d.k = first_half(d_keys_values);
      d.v = second_half(d_keys_values);
      for (int64_t c = graph_.num_chunks(); c-- > 0;) {
        const ShardedGraph::Chunk chunk = graph_.chunk(c);
        const OwnerScope owner(ctx, fmt::format("chunk {}", c));
        ChunkSaved chunk_again;
        if (options_.recompute) forward_chunk(ctx, chunk, item, {}, &chunk_again);
        backward_chunk(ctx, chunk, item, options_.recompute ? chunk_again : item_saved.chunks[size_t(c)], d);
      }
      d.first = false;
      backward_sources(ctx, in.x_src.slice(src), sources, d_keys_values, d_in.x_src ? d_in.x_src.slice(src) : Tensor());
      ctx.arena().rewind(Keep::saved, item_saved.begin);
    }
    if (encoder && items > 0)
      backward_destinations(ctx, in.x_dst, item.shared, d.shared_queries, d.shared_x, d_in.x_dst);
    attention_.finish_gradient(ctx, in.edge_attributes, d.features, d_in.edge_attributes);
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

}  // namespace boreas
