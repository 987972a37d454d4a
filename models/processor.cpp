#include "models/processor.h"

#include <algorithm>

#include "kernels/elementwise/elementwise.h"
#include "kernels/gather_rows/gather_rows.h"

namespace boreas {

namespace {

void check_layers(int64_t num_layers) {
  BOREAS_CHECK(num_layers > 0, config,
               "model.processor.num_layers is {}; it must be positive (kind: none leaves the processor out)",
               num_layers);
}

std::string block_name(const std::string& prefix, int64_t layer) {
  return join_name(prefix, fmt::format("proc.{}", layer));
}

/// An attention in two parts takes some 50 us longer than in one. With more values of queries to project than these,
/// the projections alone take nearly as long as the messages, and less than that is to be won: docs/sharding.md.
bool pays_interior_first(const RankGraph& graph, const BlockShape& shape) {
  constexpr int64_t kMostProjected = int64_t{8} << 20;
  return !graph.sources.is_local() && graph.sources.kind() == ExchangeKind::halo &&
         graph.sources.own().size() * shape.attention_channels <= kMostProjected;
}

}  // namespace

Processor::Order::Order(const InteriorFirst& order, Device device) : num_interior(order.num_interior) {
  std::vector<int32_t> back(order.nodes.size());
  for (size_t i = 0; i < back.size(); ++i) back[size_t(order.nodes[i])] = int32_t(i);
  const int64_t num_nodes = int64_t(back.size()), num_edges = int64_t(order.edges.size());
  storage = Buffer::on(device, std::max<int64_t>(1, 2 * num_nodes + num_edges) * 4, "graph");
  int64_t offset = 0;
  const auto put = [&](const std::vector<int32_t>& values) {
    const Tensor array = storage.tensor(DType::i32, {int64_t(values.size())}, offset);
    copy_now(array.data(), device, values.data(), Device::cpu(), array.bytes());
    offset += array.bytes();
    return array;
  };
  nodes = put(order.nodes), places = put(back), edges = put(order.edges);
}

void Processor::Order::gather(Context& ctx, const Tensor& x, const Tensor& ids, const Tensor& y) {
  for (int64_t begin = 0; begin < x.rows(); begin += ids.size()) {
    const Range item{begin, begin + ids.size()};
    run(ctx, GatherRows{.x = x.slice(item), .ids = ids, .y = y.slice(item)});
  }
}

Tensor Processor::edge_attributes(Context& ctx, const Tensor& attributes) const {
  if (!order_) return attributes;
  const Tensor y = alloc_aligned_rows(ctx, Keep::scratch, attributes.dtype(), attributes.rows(), attributes.cols());
  run(ctx, GatherRows{.x = attributes, .ids = order_->edges, .y = y});
  return y;
}

Processor::Processor(ParameterStore& store, const std::string& prefix, const BlockShape& shape, int64_t num_layers,
                     bool recompute, RankGraph graph, int64_t edge_channels, std::shared_ptr<const HeadSharding> heads)
    : store_(&store), recompute_(recompute) {
  check_layers(num_layers);
  const Device device = store.device();
  if (pays_interior_first(graph, shape)) {
    InteriorFirst ordered = interior_first(std::move(graph));
    order_.emplace(ordered, device);
    graph = std::move(ordered.part);
  }
  graph_ =
      std::make_unique<const Graph>(device.is_cuda() ? graph.graph.to(device, Stream(device)) : std::move(graph.graph));
  rows_ = std::make_unique<const RowExchange>(std::move(graph.sources));
  for (int64_t l = 0; l < num_layers; ++l) {
    first_arrays_.push_back(store.num_arrays());
    blocks_.emplace_back(store, block_name(prefix, l), shape, *graph_, *rows_, order_ ? order_->num_interior : -1,
                         edge_channels, heads);
  }
}

Processor::Processor(ParameterStore& store, const std::string& prefix, const BlockShape& shape, int64_t num_layers,
                     bool recompute, RowExchange rows, int64_t window, std::shared_ptr<const HeadSharding> heads)
    : store_(&store), recompute_(recompute), rows_(std::make_unique<const RowExchange>(std::move(rows))) {
  check_layers(num_layers);
  for (int64_t l = 0; l < num_layers; ++l) {
    first_arrays_.push_back(store.num_arrays());
    blocks_.emplace_back(store, block_name(prefix, l), shape, *rows_, window, heads);
  }
}

void Processor::forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const {
  if (saved) *saved = {.begin = ctx.arena().mark(Keep::saved), .x = {}, .blocks = {}};
  if (saved) saved->blocks.resize(blocks_.size());
  const Scope scope(ctx);
  Tensor x = in.x, last = out.y;
  if (order_) {
    x = ctx.alloc(keep_if(saved), in.x.dtype(), {in.x.rows(), in.x.cols()});
    Order::gather(ctx, in.x, order_->nodes, x);
    if (out.y) last = saved ? ctx.alloc(Keep::scratch, x.dtype(), {x.rows(), x.cols()}) : x;
  }
  const Tensor attributes = edge_attributes(ctx, in.edge_attributes);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    const OwnerScope owner(ctx, fmt::format("block {}", l));
    Tensor y = last;  // of nothing saved: the blocks after the first work in place
    if (saved) {
      saved->x.push_back(x);
      if (l + 1 < blocks_.size()) y = ctx.alloc(Keep::saved, x.dtype(), {x.rows(), x.cols()});
    }
    run_forward(ctx, blocks_[l], recompute_, {.x = x, .edge_attributes = attributes}, {.y = y},
                saved ? &saved->blocks[l] : nullptr);
    x = y;
  }
  if (order_ && out.y) Order::gather(ctx, last, order_->places, out.y);
}

void Processor::backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out,
                         const Inputs& d_in) const {
  {
    const Scope scope(ctx);
    Tensor d_y = d_out.y, d_x = d_in.x, d_attributes = d_in.edge_attributes;
    if (order_) {
      d_y = d_x = ctx.alloc(Keep::scratch, d_out.y.dtype(), {d_out.y.rows(), d_out.y.cols()});
      Order::gather(ctx, d_out.y, order_->nodes, d_y);
      if (d_attributes) {
        d_attributes = ctx.alloc(Keep::scratch, d_attributes.dtype(), {d_attributes.rows(), d_attributes.cols()});
        run(ctx, Fill{.y = d_attributes, .value = 0});
      }
    }
    const Tensor attributes = edge_attributes(ctx, in.edge_attributes);
    for (size_t l = blocks_.size(); l-- > 0;) {
      const OwnerScope owner(ctx, fmt::format("block {}", l));
      run_backward(ctx, blocks_[l], recompute_, {.x = saved.x[l], .edge_attributes = attributes}, saved.blocks[l],
                   {.y = d_y}, {.x = d_x, .edge_attributes = d_attributes});
      d_y = d_x;
      store_->gradients_are_ready(ctx, first_arrays_[l]);
    }
    if (order_) {
      Order::gather(ctx, d_x, order_->places, d_in.x);
      if (d_attributes) run(ctx, ScatterAddRows{.x = d_attributes, .ids = order_->edges, .y = d_in.edge_attributes});
    }
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

}  // namespace boreas
