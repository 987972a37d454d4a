// The block of a processor: attention along a graph or inside a window, then an MLP.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "comm/row_exchange.h"
#include "kernels/window_attention/window_attention.h"
#include "models/layers/edge_attention.h"
#include "models/layers/head_sharding.h"
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
/// Ranks    x holds this rank's nodes; keys and values of others come by the exchange while q and r are projected, and
///          their gradients go home beside that of W_p. For the window, `rows` are consecutive positions of the
///          sequence; where a part has less than 32 windows, queries whose keys are all own ones attend while those of
///          others travel, and the gradients of the others' keys and values are made first and go home beside all other
///          gradients of the attention. So it is along a graph whose first `num_interior` own nodes need own rows only;
///          the gradients of others go home beside those of own keys and values. With `heads` the exchange has own rows
///          only, the graph is whole, and attention is between all rows, head by head: see HeadSharding.
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
    Tensor keys_values;       // k | v of all rows that attention reads: columns of `projected` on one rank
    Tensor attended;          // p for the window
    Tensor q_stats, k_stats;  // qk_norm
    Tensor attention_stats;
    std::vector<HeadArrays> heads;  // of each item, with head sharding
    Tensor middle;                  // h
    FeedForward::Saved feed_forward;
  };

  /// Along a graph whose sources are the rows of the exchange; the caller owns both. `num_interior`: see
  /// InteriorFirst; negative: in the order that the graph has. Parameters `<prefix>.lin_query` ...
  AttentionBlock(ParameterStore& store, const std::string& prefix, const BlockShape& shape, const Graph& graph,
                 const RowExchange& rows, int64_t num_interior, int64_t edge_channels,
                 std::shared_ptr<const HeadSharding> heads = {});
  /// Inside a window of the node order: |i - j| <= window, all if negative. Parameters `<prefix>.attention.lin_q` ...
  AttentionBlock(ParameterStore& store, const std::string& prefix, const BlockShape& shape, const RowExchange& rows,
                 int64_t window, std::shared_ptr<const HeadSharding> heads = {});

  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in) const;

 private:
  int64_t num_parts() const { return edges_ ? 4 : 3; }
  Tensor part(const Tensor& projected, int64_t i) const;
  int64_t num_nodes() const { return rows_->own().size(); }
  int64_t num_items(const Tensor& x) const;
  /// Rows of item i of an array by own nodes, or by all rows that attention reads.
  Range own_rows(int64_t i) const { return {i * num_nodes(), (i + 1) * num_nodes()}; }
  Range all_rows(int64_t i) const { return {i * rows_->num_rows(), (i + 1) * rows_->num_rows()}; }
  /// Among them, the own rows and those of others.
  Range own_keys(int64_t i) const {
    return {all_rows(i).begin + rows_->own().begin, all_rows(i).begin + rows_->own().end};
  }
  std::array<Range, 2> others_keys(int64_t i) const {
    return {{{all_rows(i).begin, own_keys(i).begin}, {own_keys(i).end, all_rows(i).end}}};
  }
  Tensor keys(const Tensor& keys_values) const { return keys_values.columns({0, shape_.attention_channels}); }
  Tensor values(const Tensor& keys_values) const {
    return keys_values.columns({shape_.attention_channels, 2 * shape_.attention_channels});
  }
  /// k | v of own nodes, in an array shaped as `projected`.
  Tensor own_keys_values(const Tensor& projected) const {
    return projected.columns({shape_.attention_channels, 3 * shape_.attention_channels});
  }
  /// Fills `projected` and returns k | v of all rows; those of others arrive when `moving` of each item is finished.
  Tensor project(Context& ctx, Keep keep, const Tensor& x, const Tensor& projected, NormedLinear::Saved* saved,
                 std::vector<RowExchange::Moving>& moving) const;
  /// Whether messages travel beside the attention of what needs none, not only beside projections: along graphs in
  /// that order, and inside windows, of parts that are short.
  bool interior_first() const;
  /// Then the own rows, counted from the first of them, that attend to own rows only.
  Range interior() const;
  /// Attention of these of the own rows, which needs the keys that they attend to only.
  void attend(Context& ctx, const EdgeAttention::Arguments& in, const Tensor& p, const Tensor& stats,
              Range queries) const;
  /// Inside the window, the gradients of the keys and values of others alone, in arrays of all rows of an item.
  void backward_others(Context& ctx, const WindowAttentionBackward& item, const Tensor& d_k, const Tensor& d_v) const;
  HeadArrays forward_heads(Context& ctx, Keep keep, const EdgeAttention::Arguments& in, const Tensor& p) const;
  void backward_heads(Context& ctx, const HeadArrays& arrays, const Tensor& features, const Tensor& d_p,
                      const EdgeAttention::Arguments& d_in) const;

  BlockShape shape_;
  const Graph* graph_ = nullptr;
  const RowExchange* rows_;
  std::shared_ptr<const HeadSharding> heads_;  // null: edge sharding
  int64_t window_ = -1, num_interior_ = -1;
  NormedLinear projections_;
  HeadNorm q_norm_, k_norm_;
  std::optional<EdgeAttention> edges_;
  Linear projection_;
  FeedForward feed_forward_;
};
static_assert(Layer<AttentionBlock>);

}  // namespace boreas
