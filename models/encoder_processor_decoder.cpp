#include "models/encoder_processor_decoder.h"

#include <algorithm>
#include <numeric>

#include "kernels/elementwise/elementwise.h"

namespace boreas {

namespace {

/// Rows of a node set, or the edges that end in them, that this rank owns; none if it owns all.
std::optional<Range> own_nodes(const NodeSet& nodes, const ModelShard& shard) {
  if (shard.num_ranks() == 1) return {};
  BOREAS_CHECK(nodes.size() >= shard.num_ranks(), config,
               "{} ranks cannot share the {} nodes of {}; start at most that many ranks, or lower "
               "parallel.model_ranks",
               shard.num_ranks(), nodes.size(), nodes.name);
  return shard.rows_of(nodes.size());
}

std::optional<Range> own_edges(const GraphData& graph, const EdgeSet& edges, const ModelShard& shard) {
  const std::optional<Range> dst = own_nodes(graph.node_set(edges.dst), shard);
  if (!dst || shard.by_heads()) return {};
  const auto first = [&](int64_t node) {
    return edges.rows().begin + std::lower_bound(edges.dst_of.begin(), edges.dst_of.end(), int32_t(node)) -
           edges.dst_of.begin();
  };
  return Range{first(dst->begin), first(dst->end)};
}

/// Where the edges begin that end in each of a range of nodes, counted from the first of them.
std::vector<int64_t> destination_pointers(std::span<const int32_t> dst_of, Range nodes) {
  std::vector<int64_t> dst_ptr(size_t(nodes.size() + 1), 0);
  for (const int32_t dst : dst_of) ++dst_ptr[size_t(dst - nodes.begin) + 1];
  for (size_t i = 1; i < dst_ptr.size(); ++i) dst_ptr[i] += dst_ptr[i - 1];
  return dst_ptr;
}

/// This rank's part of an edge set; with head sharding all of it.
RankGraph make_part(const GraphData& data, const EdgeSet& edges, const ModelShard& shard, Device device) {
  const int64_t num_src = data.node_set(edges.src).size(), num_dst = data.node_set(edges.dst).size();
  if (const std::optional<Range> own = own_edges(data, edges, shard)) {
    const Partition src = Partition::balanced(num_src, shard.num_ranks());
    const Partition dst = Partition::balanced(num_dst, shard.num_ranks());
    const auto of_rank = [&](const std::vector<int32_t>& ends) {
      return std::span(ends).subspan(size_t(own->begin - edges.rows().begin), size_t(own->size()));
    };
    return make_rank_graph(*shard.ranks, src, dst, destination_pointers(of_rank(edges.dst_of), shard.rows_of(num_dst)),
                           of_rank(edges.src_of), own->begin, shard.exchange, device);
  }
  RankGraph all = make_rank_graph(
      Graph::from_sorted(num_src, num_dst, destination_pointers(edges.dst_of, {0, num_dst}), edges.src_of));
  if (shard.by_heads()) {
    all.sources = RowExchange::local(shard.rows_of(num_src).size());
    all.dst = shard.rows_of(num_dst);
  }
  return all;
}

/// This rank's positions of a sequence, and those within the window of them.
RowExchange make_window(int64_t num_nodes, int64_t window, const ModelShard& shard, Device device) {
  const Range own = shard.rows_of(num_nodes);
  if (shard.num_ranks() == 1 || shard.by_heads()) return RowExchange::local(own.size());
  const int64_t begin = window < 0 ? 0 : std::max<int64_t>(0, own.begin - window);
  const int64_t end = window < 0 ? num_nodes : std::min(num_nodes, own.end + window);
  std::vector<int64_t> needed(size_t(end - begin));
  std::iota(needed.begin(), needed.end(), begin);
  return RowExchange::make(*shard.ranks, Partition::balanced(num_nodes, shard.num_ranks()), needed, shard.exchange,
                           device);
}

/// Null with edge sharding.
std::shared_ptr<const HeadSharding> head_sharding(const GraphData& data, const std::string& src, const std::string& dst,
                                                  int64_t num_heads, const ModelShard& shard) {
  if (!shard.by_heads()) return {};
  return std::make_shared<HeadSharding>(*shard.ranks, data.node_set(src).size(), data.node_set(dst).size(), num_heads);
}

ModelShape checked(ModelShape shape) {
  BOREAS_CHECK(shape.num_input_steps > 0 && shape.num_output_steps > 0 && shape.num_inputs > 0 && shape.num_outputs > 0,
               config, "a model needs at least one step and one variable in and out, not {} x {} in and {} x {} out",
               shape.num_input_steps, shape.num_inputs, shape.num_output_steps, shape.num_outputs);
  BOREAS_CHECK(shape.input_prognostic.size() == shape.output_prognostic.size(), internal,
               "{} prognostic inputs but {} prognostic outputs", shape.input_prognostic.size(),
               shape.output_prognostic.size());
  return shape;
}

BlockShape processor_shape(const ModelConfig& config) {
  BlockShape shape = BlockShape::of(config);
  shape.qk_norm = config.processor.qk_norm.value_or(config.qk_norm);
  return shape;
}

}  // namespace

EncoderProcessorDecoder::EncoderProcessorDecoder(const ModelConfig& config, ModelShape shape, const GraphData& graph,
                                                 ParameterStore& store, const ModelShard& shard)
    : shape_(checked(std::move(shape))),
      num_channels_(config.num_channels),
      latent_skip_(config.latent_skip),
      dtype_(store.dtype()),
      residual_dtype_(config.residual_dtype == ResidualType::f32 ? accumulator_of(dtype_) : dtype_),
      data_attributes_(store, graph.node_set(shape_.data_name), config.trainable.data,
                       own_nodes(graph.node_set(shape_.data_name), shard)),
      hidden_attributes_(store, graph.node_set(shape_.hidden_name), config.trainable.hidden,
                         own_nodes(graph.node_set(shape_.hidden_name), shard)),
      encoder_edges_(store, "encoder_graph_provider." + shape_.data_name,
                     graph.edge_set(shape_.data_name, shape_.hidden_name), config.trainable.encoder,
                     own_edges(graph, graph.edge_set(shape_.data_name, shape_.hidden_name), shard)),
      decoder_edges_(store, "decoder_graph_provider." + shape_.data_name,
                     graph.edge_set(shape_.hidden_name, shape_.data_name), config.trainable.decoder,
                     own_edges(graph, graph.edge_set(shape_.hidden_name, shape_.data_name), shard)),
      store_(store),
      encoder_(store, "encoder." + shape_.data_name, BlockShape::of(config),
               {.kind = Mapper::Kind::encoder,
                .src_channels = input_columns() + data_attributes_.num_columns(),
                .dst_channels = hidden_attributes_.num_columns(),
                .edge_channels = encoder_edges_.num_columns(),
                .num_chunks = config.encoder.num_chunks,
                .recompute = config.recompute >= Recompute::mappers,
                .wide_residual = config.residual_dtype == ResidualType::f32},
               make_part(graph, graph.edge_set(shape_.data_name, shape_.hidden_name), shard, store.device()),
               head_sharding(graph, shape_.data_name, shape_.hidden_name, config.num_heads, shard)),
      first_of_decoder_(store.num_arrays()),
      decoder_(store, "decoder." + shape_.data_name, BlockShape::of(config),
               {.kind = Mapper::Kind::decoder,
                .src_channels = config.num_channels,
                .dst_channels = input_columns() + data_attributes_.num_columns(),
                .out_channels = output_columns(),
                .edge_channels = decoder_edges_.num_columns(),
                .num_chunks = config.decoder.num_chunks,
                .recompute = config.recompute >= Recompute::mappers,
                .wide_residual = config.residual_dtype == ResidualType::f32,
                .zero_extractor = config.decoder.initialise_data_extractor_zero},
               make_part(graph, graph.edge_set(shape_.hidden_name, shape_.data_name), shard, store.device()),
               head_sharding(graph, shape_.hidden_name, shape_.data_name, config.num_heads, shard)) {
  const auto heads = head_sharding(graph, shape_.hidden_name, shape_.hidden_name, config.num_heads, shard);
  const bool recompute = config.recompute >= Recompute::block;
  switch (config.processor.kind) {
    case ProcessorKind::graph_transformer: {
      const EdgeSet& edges = graph.edge_set(shape_.hidden_name, shape_.hidden_name);
      processor_edges_.emplace(store, "processor_graph_provider", edges, config.trainable.processor,
                               own_edges(graph, edges, shard));
      processor_.emplace(store, "processor", processor_shape(config), config.processor.num_layers, recompute,
                         make_part(graph, edges, shard, store.device()), processor_edges_->num_columns(), heads);
      break;
    }
    case ProcessorKind::transformer:
      processor_.emplace(
          store, "processor", processor_shape(config), config.processor.num_layers, recompute,
          make_window(graph.node_set(shape_.hidden_name).size(), config.processor.window, shard, store.device()),
          config.processor.window, heads);
      break;
    case ProcessorKind::none:
      break;
  }
}

int64_t EncoderProcessorDecoder::num_items(const Tensor& x) const {
  BOREAS_CHECK(x.cols() == input_columns() && x.rows() > 0 && x.rows() % num_data_nodes() == 0, shape,
               "model: x is {}; expected a multiple of {} rows (data nodes) and {} columns ({} steps of {} variables)",
               to_string(x), num_data_nodes(), input_columns(), shape_.num_input_steps, shape_.num_inputs);
  return x.rows() / num_data_nodes();
}

Tensor EncoderProcessorDecoder::output_step(const Tensor& y, int64_t step) const {
  return y.columns({step * shape_.num_outputs, (step + 1) * shape_.num_outputs});
}

Tensor EncoderProcessorDecoder::latest_input(const Tensor& x) const {
  return x.columns({(shape_.num_input_steps - 1) * shape_.num_inputs, shape_.num_input_steps * shape_.num_inputs});
}

Tensor EncoderProcessorDecoder::alloc_features(Context& ctx, Keep keep) const {
  return alloc_padded_rows(ctx, keep, dtype_, num_data_nodes(), data_columns());
}

void EncoderProcessorDecoder::write_attributes(Context& ctx, const Tensor& features) const {
  data_attributes_.forward(ctx, features.columns({input_columns(), data_columns()}));
}

EncoderProcessorDecoder::Fixed EncoderProcessorDecoder::fix(Context& ctx) const {
  constexpr Keep keep = Keep::saved;
  const Scope scope(ctx);
  const OwnerScope owner(ctx, "fixed");
  Fixed fixed{.encoder_edges = encoder_edges_.forward(ctx, keep),
              .processor_edges = processor_edges_ ? processor_edges_->forward(ctx, keep) : Tensor(),
              .decoder_edges = decoder_edges_.forward(ctx, keep)};
  fixed.encoder = encoder_.fix(
      ctx, {.x_src = {}, .x_dst = hidden_features(ctx, Keep::scratch), .edge_attributes = fixed.encoder_edges});
  fixed.decoder = decoder_.fix(ctx, {.x_src = {}, .x_dst = {}, .edge_attributes = fixed.decoder_edges});
  return fixed;
}

Tensor EncoderProcessorDecoder::hidden_features(Context& ctx, Keep keep) const {
  const Tensor hidden = alloc_padded_rows(ctx, keep, dtype_, num_hidden_nodes(), hidden_attributes_.num_columns());
  hidden_attributes_.forward(ctx, hidden.columns({0, hidden_attributes_.num_columns()}));
  return hidden;
}

void EncoderProcessorDecoder::encode(Context& ctx, Saved& s, bool keeps, const Fixed* fixed) const {
  const Keep keep = keeps ? Keep::saved : Keep::scratch;
  const int64_t hidden_rows = s.data.rows() / num_data_nodes() * num_hidden_nodes();
  {
    const OwnerScope owner(ctx, "inputs");
    s.hidden = fixed ? fixed->encoder.shared.x : hidden_features(ctx, keep);  // only its rows count if it is fixed
    s.latent = ctx.alloc(keep, residual_dtype_, {hidden_rows, num_channels_});
    s.processed = processor_ ? ctx.alloc(keep, residual_dtype_, {hidden_rows, num_channels_}) : s.latent;
  }
  {
    const Scope edges(ctx);
    const OwnerScope owner(ctx, "encoder");
    encoder_.forward(
        ctx, {.x_src = s.data, .x_dst = s.hidden, .edge_attributes = fixed ? Tensor() : encoder_edges_.forward(ctx)},
        {.x_dst = s.latent}, keeps ? &s.encoder : nullptr, {.fixed = fixed ? &fixed->encoder : nullptr});
  }
  if (processor_) {
    const Scope edges(ctx);
    const OwnerScope owner(ctx, "processor");
    Tensor attributes;
    if (processor_edges_) attributes = fixed ? fixed->processor_edges : processor_edges_->forward(ctx);
    processor_->forward(ctx, {.x = s.latent, .edge_attributes = attributes}, {.y = s.processed},
                        keeps ? &s.processor : nullptr);
    if (latent_skip_) run(ctx, Add{.a = s.processed, .b = s.latent, .y = s.processed});
  }
}

void EncoderProcessorDecoder::finish(Context& ctx, const Tensor& latest, std::span<const int32_t> latest_columns,
                                     const Tensor& y, Saved* saved) const {
  const OwnerScope owner(ctx, "outputs");
  for (int64_t t = 0; t < shape_.num_output_steps; ++t) {
    const Tensor step = output_step(y, t);
    run(ctx, AddColumns{.x = latest, .x_columns = latest_columns, .y = step, .y_columns = shape_.output_prognostic});
    for (const ResolvedBounding& bounding : shape_.boundings) bound(ctx, bounding, step, saved);
  }
}

void EncoderProcessorDecoder::forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const {
  const Arena::Mark begin = ctx.arena().mark(Keep::saved);
  const Scope scope(ctx);
  const Keep keep = keep_if(saved);
  const int64_t data_rows = num_items(in.x) * num_data_nodes();
  Saved s;
  s.begin = begin;

  {
    const OwnerScope owner(ctx, "inputs");
    s.data = alloc_padded_rows(ctx, keep, dtype_, data_rows, data_columns());
    run(ctx, Copy{.x = in.x, .y = s.data.columns({0, input_columns()})});
    write_attributes(ctx, s.data);
  }
  encode(ctx, s, saved, nullptr);
  Tensor y = out.y;  // backward of a bounding reads the values before it, so they are needed even if y is not
  if (!y && saved && !shape_.boundings.empty())
    y = ctx.alloc(Keep::scratch, outer_dtype(), {data_rows, output_columns()});
  {
    const Scope edges(ctx);
    const OwnerScope owner(ctx, "decoder");
    decoder_.forward(ctx, {.x_src = s.processed, .x_dst = s.data, .edge_attributes = decoder_edges_.forward(ctx)},
                     {.x_dst = y}, saved ? &s.decoder : nullptr);
  }
  if (y) finish(ctx, latest_input(in.x), shape_.input_prognostic, y, saved ? &s : nullptr);
  if (saved) *saved = std::move(s);
}

void EncoderProcessorDecoder::step(Context& ctx, const Tensor& features, const Tensor& y, const Fixed* fixed) const {
  const Scope scope(ctx);
  Saved s;
  s.data = features;
  encode(ctx, s, false, fixed);
  const Tensor latest = output_step(y, shape_.num_output_steps - 1);
  const OwnerScope owner(ctx, "decoder");
  decoder_.forward(
      ctx, {.x_src = s.processed, .x_dst = s.data, .edge_attributes = fixed ? Tensor() : decoder_edges_.forward(ctx)},
      {}, nullptr, {.fixed = fixed ? &fixed->decoder : nullptr, .take = [&](Range rows, const Tensor& chunk) {
                      finish(ctx, latest.slice(rows), shape_.output_prognostic, chunk, nullptr);
                      run(ctx, Copy{.x = chunk, .y = y.slice(rows)});
                    }});
}

void EncoderProcessorDecoder::bound(Context& ctx, const ResolvedBounding& bounding, const Tensor& step,
                                    Saved* saved) const {
  if (bounding.columns.empty()) return;
  const BoundingRule rule = bounding.rule();
  if (saved) {
    std::vector<int32_t> from(bounding.columns), to(size_t(rule.num_saved_columns()));
    if (rule.is_fraction()) from.push_back(rule.total_column);
    for (size_t i = 0; i < to.size(); ++i) to[i] = int32_t(i);
    const Tensor before = ctx.alloc(Keep::saved, step.dtype(), {step.rows(), rule.num_saved_columns()});
    run(ctx, CopyColumns{.x = step, .x_columns = from, .y = before, .y_columns = to});
    saved->before_bounding.push_back(before);
  }
  run(ctx, BoundingForward{.rule = rule, .y = step});
}

void EncoderProcessorDecoder::backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out,
                                       const Inputs& d_in) const {
  {
    const Scope scope(ctx);
    const int64_t items = num_items(in.x), data_rows = in.x.rows(), hidden_rows = items * num_hidden_nodes();

    Tensor d_y = d_out.y;
    if (!saved.before_bounding.empty()) {
      d_y = ctx.alloc(Keep::scratch, outer_dtype(), {data_rows, output_columns()});
      run(ctx, Copy{.x = d_out.y, .y = d_y});
      size_t n = saved.before_bounding.size();
      for (int64_t t = shape_.num_output_steps; t-- > 0;)
        for (size_t b = shape_.boundings.size(); b-- > 0;) {
          if (shape_.boundings[b].columns.empty()) continue;
          run(ctx, BoundingBackward{.rule = shape_.boundings[b].rule(),
                                    .y_before = saved.before_bounding[--n],
                                    .d_y = output_step(d_y, t)});
        }
    }
    if (d_in.x) {
      run(ctx, Fill{.y = d_in.x, .value = 0});
      for (int64_t t = 0; t < shape_.num_output_steps; ++t)
        run(ctx, AddColumns{.x = output_step(d_y, t),
                            .x_columns = shape_.output_prognostic,
                            .y = latest_input(d_in.x),
                            .y_columns = shape_.input_prognostic});
    }

    // Where both mappers add the gradient of the data nodes' features: of all columns if x wants its own, else of the
    // trainable ones, which stand last and belong to one item as they are.
    Tensor d_data = data_attributes_.gradient();
    const bool sum_items = d_in.x || (d_data && items > 1);
    if (sum_items) {
      d_data = ctx.alloc(Keep::scratch, outer_dtype(),
                         {data_rows, d_in.x ? data_columns() : data_attributes_.num_trainable()});
      run(ctx, Fill{.y = d_data, .value = 0});
    }
    const Tensor d_latent = ctx.alloc(Keep::scratch, residual_dtype_, {hidden_rows, num_channels_});
    {
      const Scope processed(ctx);
      const Tensor d_processed =
          processor_ ? ctx.alloc(Keep::scratch, residual_dtype_, {hidden_rows, num_channels_}) : d_latent;
      {
        const Scope edges(ctx);
        const OwnerScope owner(ctx, "decoder");
        decoder_.backward(
            ctx, {.x_src = saved.processed, .x_dst = saved.data, .edge_attributes = decoder_edges_.forward(ctx)},
            saved.decoder, {.x_dst = d_y},
            {.x_src = d_processed, .x_dst = d_data, .edge_attributes = decoder_edges_.gradient()});
      }
      if (processor_) {
        const Scope edges(ctx);
        const OwnerScope owner(ctx, "processor");
        processor_->backward(
            ctx, {.x = saved.latent, .edge_attributes = processor_edges_ ? processor_edges_->forward(ctx) : Tensor()},
            saved.processor, {.y = d_processed},
            {.x = d_latent, .edge_attributes = processor_edges_ ? processor_edges_->gradient() : Tensor()});
        if (latent_skip_) run(ctx, Add{.a = d_latent, .b = d_processed, .y = d_latent});
      }
    }
    store_.gradients_are_ready(ctx, first_of_decoder_);
    {
      const Scope edges(ctx);
      const OwnerScope owner(ctx, "encoder");
      encoder_.backward(
          ctx, {.x_src = saved.data, .x_dst = saved.hidden, .edge_attributes = encoder_edges_.forward(ctx)},
          saved.encoder, {.x_dst = d_latent},
          {.x_src = d_data, .x_dst = hidden_attributes_.gradient(), .edge_attributes = encoder_edges_.gradient()});
    }
    if (sum_items) data_attributes_.backward(ctx, d_data);
    if (d_in.x) run(ctx, Add{.a = d_in.x, .b = d_data.columns({0, input_columns()}), .y = d_in.x});
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

}  // namespace boreas
