// The block of a processor: attention along a graph or inside a window, then an MLP.
#pragma once

#include <optional>
#include <string>

#include "models/layers/edge_attention.h"
#include "models/layers/mlp.h"

namespace boreas {

/// Pre-norm transformer block on the nodes of one set. With n = LN(x), and attention item by item:
///
///   graph    q, k, v, r = W n + b;  p = Attention(q, k, v along edges) + r      (see EdgeAttention)
///   window   q, k, v = W n;         p = Attention(q, k, v inside the window)    (see WindowAttentionForward)
///   h = x + W_p p + b_p
///   y = h + Mlp(LN(h))
///
/// with LN of each head of q and k under qk_norm.
///
/// Shapes   x, y: [items * N, C]   edge_attributes: [M, A], graph only, the same for all items; their gradient is added
/// Types    x, y, h and their gradients: that of the weights, T, or its accumulator type; edge_attributes: T, their
///          gradient: accumulator type
/// Alias    y may be x when nothing is saved; d_in.x may be d_out.y
/// Saves    the projections (p in the place of r), h, the MLP before its activations; if kept briefly also norms and
///          activations, which are else computed again
/// Source   Shi et al. 2021 (graph); Vaswani et al. 2017, Beltagy et al. 2020 (window)
class AttentionBlock {
 public:
  struct Inputs {
    Tensor x, edge_attributes;
  };
  struct Outputs {
    Tensor y;
  };
  struct Saved {
    Arena::Mark begin;
    bool brief = false;
    NormedLinear::Saved projection;
    Tensor projected;         // q | k | v, and p for the graph
    Tensor attended;          // p for the window
    Tensor q_stats, k_stats;  // qk_norm
    Tensor attention_stats;
    Tensor middle;  // h
    FeedForward::Saved feed_forward;
  };

  /// Along a graph, which the caller owns. Parameters `<prefix>.lin_query` ...
  AttentionBlock(ParameterStore& store, const std::string& prefix, const BlockShape& shape, const Graph& graph,
                 int64_t edge_channels);
  /// Inside a window of the node order: |i - j| <= window, all if negative. Parameters `<prefix>.attention.lin_q` ...
  AttentionBlock(ParameterStore& store, const std::string& prefix, const BlockShape& shape, int64_t num_nodes,
                 int64_t window);

  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in) const;

 private:
  int64_t num_parts() const { return edges_ ? 4 : 3; }
  Tensor part(const Tensor& projected, int64_t i) const;
  int64_t num_items(const Tensor& x) const;

  BlockShape shape_;
  const Graph* graph_ = nullptr;
  int64_t num_nodes_ = 0, window_ = -1;
  NormedLinear projections_;
  HeadNorm q_norm_, k_norm_;
  std::optional<EdgeAttention> edges_;
  Linear projection_;
  FeedForward feed_forward_;
};
static_assert(Layer<AttentionBlock>);

}  // namespace boreas
