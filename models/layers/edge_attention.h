// Attention along edges with their attributes: what mappers and the graph-transformer block share.
#pragma once

#include <optional>
#include <string>

#include "kernels/graph_attention/graph_attention.h"
#include "models/config.h"
#include "models/layers/norm.h"

namespace boreas {

/// Sizes of a transformer block, checked.
struct BlockShape {
  int64_t num_channels = 0, attention_channels = 0, num_heads = 0, mlp_hidden = 0;
  MlpKind mlp = MlpKind::mlp;
  bool qk_norm = false, edge_pre_mlp = false;
  WindowAttentionKernel window_kernel = WindowAttentionKernel::automatic;

  /// Throws config unless the heads divide the attention channels.
  static BlockShape of(const ModelConfig& config);
};

/// Normalisation of queries and keys, head by head, where a model wants it.
class HeadNorm {
 public:
  HeadNorm(ParameterStore& store, const std::string& name, const BlockShape& shape);

  /// Room for the statistics; empty without the norm.
  Tensor alloc_stats(Context& ctx, Keep keep, const Tensor& x) const;
  /// LN(x) by heads, in scratch memory unless kept, or x itself without the norm.
  Tensor forward(Context& ctx, const Tensor& x, const Tensor& stats, Keep keep = Keep::scratch) const;
  /// The same in two parts, so that `rows` of y may be made when these rows of x are there: room for y, or x itself.
  Tensor alloc(Context& ctx, const Tensor& x, Keep keep = Keep::scratch) const;
  void forward(Context& ctx, const Tensor& x, const Tensor& stats, const Tensor& y, Range rows) const;
  /// d becomes the gradient of x where it was that of LN(x).
  void backward(Context& ctx, const Tensor& x, const Tensor& stats, const Tensor& d) const;
  void backward(Context& ctx, const Tensor& x, const Tensor& stats, const Tensor& d, Range rows) const;

 private:
  std::optional<LayerNorm> norm_;
};

/// Graph attention (see GraphAttentionForward) with keys and values widened by the edges:
///
///   e = W_edge pre(a) + b_edge,   pre(a) = GELU(W_pre a + b_pre) with edge_pre_mlp, else a
///
/// pre(a) is computed once for all items and chunks of a call. Since edge attributes serve many calls, their gradient
/// is added to what its caller holds (and zeroes), for as many of the last columns as that tensor has.
///
/// Types    all that of the weights, T, but statistics and the gradients of attributes and features: accumulator type
class EdgeAttention {
 public:
  EdgeAttention(ParameterStore& store, const std::string& prefix, const BlockShape& shape, int64_t edge_channels);

  /// pre(a), in scratch memory unless it is a or kept.
  Tensor features(Context& ctx, const Tensor& attributes, Keep keep = Keep::scratch) const;
  /// Where the gradients of the features are summed: d_attributes itself, or zeroed scratch memory with a pre-MLP.
  Tensor start_gradient(Context& ctx, const Tensor& attributes, const Tensor& d_attributes) const;
  /// From the sum to the pre-MLP's parameters and to d_attributes.
  void finish_gradient(Context& ctx, const Tensor& attributes, const Tensor& d_features,
                       const Tensor& d_attributes) const;

  struct Arguments {
    const Graph* graph = nullptr;
    Tensor q, k, v, features;
    Range heads = {};         ///< that the columns of q, k and v are; none: all
    Range destinations = {};  ///< that attend, forward; none: all
  };
  Tensor alloc_stats(Context& ctx, Keep keep, const Tensor& q) const;
  /// o = attention + r; o may be r; r may be empty.
  void forward(Context& ctx, const Arguments& in, const Tensor& r, const Tensor& o, const Tensor& stats) const;
  /// d_in.features is added to and may be empty or narrower than the features; the others are overwritten.
  void backward(Context& ctx, const Arguments& in, const Tensor& stats, const Tensor& d_o,
                const Arguments& d_in) const {
    run(ctx, backward_op(in, stats, d_o, d_in));
  }
  /// The op of backward, for a caller that runs it in passes.
  GraphAttentionBackward backward_op(const Arguments& in, const Tensor& stats, const Tensor& d_o,
                                     const Arguments& d_in) const;

 private:
  Range heads_of(const Arguments& in) const { return in.heads.size() > 0 ? in.heads : Range{0, num_heads_}; }
  /// Rows of the weight, and values of the bias, that belong to these heads.
  Tensor weight_of(const Tensor& weight, Range heads) const;
  Tensor bias_of(const Tensor& bias, Range heads) const;

  int64_t num_heads_;
  std::optional<Linear> pre_;
  const Parameter *weight_, *bias_;
};

}  // namespace boreas
