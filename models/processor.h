// Processors: blocks on the hidden nodes, one after another.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/rank_graph.h"
#include "models/layers/attention_block.h"

namespace boreas {

/// y = block_{L-1}(... block_0(x)).
///
/// Shapes   x, y: [items * N, C]   edge_attributes: [M, A], graph only; their gradient is added
/// Types    as AttentionBlock
/// Names    <prefix>.proc.<layer>...
/// Says     after the backward of each block that its gradients are ready: see ParameterStore::listen
/// Saves    the input of each block, and what the block saves unless it is recomputed
class Processor {
 public:
  using Inputs = AttentionBlock::Inputs;
  using Outputs = AttentionBlock::Outputs;
  struct Saved {
    Arena::Mark begin;
    std::vector<Tensor> x;  // input of each block
    std::vector<AttentionBlock::Saved> blocks;
  };

  /// Graph transformer. The graph lies on the host; the processor keeps it on the store's device. `heads`: head
  /// sharding; the graph is then whole, and its exchange has this rank's nodes only.
  Processor(ParameterStore& store, const std::string& prefix, const BlockShape& shape, int64_t num_layers,
            bool recompute, RankGraph graph, int64_t edge_channels, std::shared_ptr<const HeadSharding> heads = {});
  /// Windowed transformer: `rows` are this rank's positions of the sequence and those within the window of them.
  Processor(ParameterStore& store, const std::string& prefix, const BlockShape& shape, int64_t num_layers,
            bool recompute, RowExchange rows, int64_t window, std::shared_ptr<const HeadSharding> heads = {});

  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in) const;

 private:
  const ParameterStore* store_;
  bool recompute_;
  std::unique_ptr<const Graph> graph_;       // blocks point to it
  std::unique_ptr<const RowExchange> rows_;  // and to this
  std::vector<AttentionBlock> blocks_;
  std::vector<size_t> first_arrays_;  // of each block, in the store
};
static_assert(Layer<Processor>);

}  // namespace boreas
