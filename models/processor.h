// Processors: blocks on the hidden nodes, one after another.
#pragma once

#include <memory>
#include <optional>
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
/// Ranks    where a halo is exchanged along a graph and parts are small, blocks work on own nodes in an order of their
///          own (see InteriorFirst), into which x and the edges are brought first, and y in the end out of it again
class Processor {
 public:
  using Inputs = AttentionBlock::Inputs;
  using Outputs = AttentionBlock::Outputs;
  struct Saved {
    Arena::Mark begin;
    std::vector<Tensor> x;  // input of each block
    std::vector<AttentionBlock::Saved> blocks;
  };

  /// Graph transformer. The graph lies on the host; the processor keeps what it needs on the store's device. `heads`:
  /// head sharding; the graph is then whole, and its exchange has this rank's nodes only.
  Processor(ParameterStore& store, const std::string& prefix, const BlockShape& shape, int64_t num_layers,
            bool recompute, RankGraph graph, int64_t edge_channels, std::shared_ptr<const HeadSharding> heads = {});
  /// Windowed transformer: `rows` are this rank's positions of the sequence and those within the window of them.
  Processor(ParameterStore& store, const std::string& prefix, const BlockShape& shape, int64_t num_layers,
            bool recompute, RowExchange rows, int64_t window, std::shared_ptr<const HeadSharding> heads = {});

  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in) const;

 private:
  /// Where the nodes and edges of the blocks' order are in that of the caller, and where its nodes are in theirs.
  struct Order {
    Buffer storage;
    Tensor nodes, edges, places;  // i32
    int64_t num_interior;

    Order(const InteriorFirst& order, Device device);
    /// y[i] = x[ids[i]] for each item.
    static void gather(Context& ctx, const Tensor& x, const Tensor& ids, const Tensor& y);
  };

  Tensor edge_attributes(Context& ctx, const Tensor& attributes) const;  ///< in the blocks' order, scratch

  const ParameterStore* store_;
  bool recompute_;
  std::optional<Order> order_;               // none: the caller's
  std::unique_ptr<const Graph> graph_;       // blocks point to it
  std::unique_ptr<const RowExchange> rows_;  // and to this
  std::vector<AttentionBlock> blocks_;
  std::vector<size_t> first_arrays_;  // of each block, in the store
};
static_assert(Layer<Processor>);

}  // namespace boreas
