#include "models/processor.h"

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

}  // namespace

Processor::Processor(ParameterStore& store, const std::string& prefix, const BlockShape& shape, int64_t num_layers,
                     bool recompute, RankGraph graph, int64_t edge_channels, std::shared_ptr<const HeadSharding> heads)
    : store_(&store),
      recompute_(recompute),
      graph_(std::make_unique<const Graph>(
          store.device().is_cuda() ? graph.graph.to(store.device(), Stream(store.device())) : std::move(graph.graph))),
      rows_(std::make_unique<const RowExchange>(std::move(graph.sources))) {
  check_layers(num_layers);
  for (int64_t l = 0; l < num_layers; ++l) {
    first_arrays_.push_back(store.num_arrays());
    blocks_.emplace_back(store, block_name(prefix, l), shape, *graph_, *rows_, edge_channels, heads);
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
  Tensor x = in.x;
  for (size_t l = 0; l < blocks_.size(); ++l) {
    const OwnerScope owner(ctx, fmt::format("block {}", l));
    Tensor y = out.y;  // of nothing saved: the blocks after the first work in place
    if (saved) {
      saved->x.push_back(x);
      if (l + 1 < blocks_.size()) y = ctx.alloc(Keep::saved, x.dtype(), {x.rows(), x.cols()});
    }
    run_forward(ctx, blocks_[l], recompute_, {.x = x, .edge_attributes = in.edge_attributes}, {.y = y},
                saved ? &saved->blocks[l] : nullptr);
    x = y;
  }
}

void Processor::backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out,
                         const Inputs& d_in) const {
  Tensor d_y = d_out.y;
  for (size_t l = blocks_.size(); l-- > 0;) {
    const OwnerScope owner(ctx, fmt::format("block {}", l));
    run_backward(ctx, blocks_[l], recompute_, {.x = saved.x[l], .edge_attributes = in.edge_attributes}, saved.blocks[l],
                 {.y = d_y}, {.x = d_in.x, .edge_attributes = d_in.edge_attributes});
    d_y = d_in.x;
    store_->gradients_are_ready(ctx, first_arrays_[l]);
  }
  ctx.arena().rewind(Keep::saved, saved.begin);
}

}  // namespace boreas
