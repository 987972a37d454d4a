// Mappers: from the nodes of one set to those of another, along a graph.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/sharded_graph.h"
#include "models/layers/edge_attention.h"
#include "models/layers/mlp.h"

namespace boreas {

/// One graph-transformer block from sources j to destinations i (Linear embeddings omitted where a mapper has none):
///
///   s = W_s x_src + b_s   (encoder)          d = W_d x_dst + b_d
///   k, v = W LN(s) + b                       q, r = W LN(d) + b
///   p = Attention(q, k, v along edges) + r   (see EdgeAttention; 0 + r for a destination without edges)
///   h = d + W_p p + b_p
///   z = h + Mlp(LN(h))
///   y = z (encoder)   |   y = W_o LN(z) + b_o (decoder)
///
/// Encoder: x_dst is [N_dst, .] and the same for all items, so d, q and r are computed once for all of them.
/// Decoder: x_dst is [items * N_dst, .].
///
/// Memory. Items follow one another; within an item, keys and values are computed once for all sources; then chunks of
/// destinations follow one another, each with only the rows of its own sources. The result does not depend on the
/// number of chunks (beyond rounding). Without recompute all is kept for backward but norms and activations. With
/// recompute nothing is: backward computes the sources again item by item, and each chunk just before its own backward.
/// The room needed is then that of keys and values and their gradients for one item, and of one chunk.
///
/// Shapes   x_src: [items * N_src, .]   edge_attributes: [M, A]; their gradient is added   y.x_dst: [items * N_dst,
/// out] Names    <prefix>.emb_nodes_src, emb_nodes_dst, proc..., node_data_extractor.{0,1} Errors   config: heads do
/// not divide channels;  shape: rows are no multiple of the nodes Source   Shi et al. 2021; Lang et al. 2024 (AIFS)
class Mapper {
 public:
  enum class Kind : uint8_t { encoder, decoder };
  struct Options {
    Kind kind = Kind::encoder;
    int64_t src_channels = 0, dst_channels = 0, out_channels = 0;  ///< out_channels: decoder only
    int64_t edge_channels = 0;
    int64_t num_chunks = 1;
    bool recompute = false;
    bool zero_extractor = false;
  };
  struct Inputs {
    Tensor x_src, x_dst, edge_attributes;
  };
  struct Outputs {
    Tensor x_dst;
  };

  struct SourceBlock {
    Tensor x;  // s
    NormedLinear::Saved projection;
  };
  struct Sources {
    Tensor keys_values, k_stats;
    std::vector<SourceBlock> blocks;  // empty: to be computed again
  };
  struct Destinations {
    Tensor x;  // d
    NormedLinear::Saved projection;
    Tensor queries;  // q | r
    Tensor q_stats;
  };
  struct ChunkSaved {
    Arena::Mark begin;
    Destinations destinations;  // decoder; the encoder's are shared
    Tensor attention_stats, attended, middle, last;
    FeedForward::Saved feed_forward;
    NormedLinear::Saved extractor;
  };
  struct ItemSaved {
    Arena::Mark begin;
    Sources sources;
    std::vector<ChunkSaved> chunks;
  };
  struct Saved {
    Arena::Mark begin;
    Destinations shared;  // encoder
    std::vector<ItemSaved> items;
  };

  Mapper(ParameterStore& store, const std::string& prefix, const BlockShape& shape, const Options& options,
         Graph graph);

  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in) const;

 private:
  /// What the chunks of an item share; q, k, v are ready for the attention.
  struct Item {
    int64_t first_dst = 0;  // row in x_dst and y
    Tensor x_dst;           // decoder: input rows of the item
    Destinations shared;    // encoder
    Tensor q;               // encoder
    Tensor k, v, features;
  };
  /// Gradients that the chunks of an item write or add to.
  struct ItemGradient {
    Tensor y;                         // in
    Tensor x_dst;                     // decoder, written; may be empty
    Tensor shared_x, shared_queries;  // encoder
    bool first = true;                // encoder: nothing has been written to the shared ones yet
    Tensor k, v, features;
  };

  int64_t num_items(const Inputs& in) const;
  Range source_block(int64_t i) const;
  /// `keys_values` may be empty: not wanted.
  SourceBlock project_block(Context& ctx, const Tensor& x_src, const Tensor& keys_values, Keep keep) const;
  Sources project_sources(Context& ctx, const Tensor& x_src, Keep keep) const;
  Destinations project_destinations(Context& ctx, const Tensor& x_dst, Keep keep) const;
  void backward_sources(Context& ctx, const Tensor& x_src, const Sources& sources, const Tensor& d_keys_values,
                        const Tensor& d_x_src) const;
  /// `d_x` comes in as the gradient that reaches d past the norm.
  void backward_destinations(Context& ctx, const Tensor& x_dst, const Destinations& destinations,
                             const Tensor& d_queries, const Tensor& d_x, const Tensor& d_x_dst) const;
  Tensor gather(Context& ctx, const ShardedGraph::Chunk& chunk, const Tensor& x) const;
  void forward_chunk(Context& ctx, const ShardedGraph::Chunk& chunk, const Item& item, const Tensor& y,
                     ChunkSaved* saved) const;
  void backward_chunk(Context& ctx, const ShardedGraph::Chunk& chunk, const Item& item, const ChunkSaved& saved,
                      const ItemGradient& d) const;

  Tensor first_half(const Tensor& x) const { return x.columns({0, shape_.attention_channels}); }
  Tensor second_half(const Tensor& x) const {
    return x.columns({shape_.attention_channels, 2 * shape_.attention_channels});
  }

  BlockShape shape_;
  Options options_;
  ShardedGraph graph_;
  std::optional<Linear> embed_src_;
  Linear embed_dst_;
  NormedLinear src_projection_, dst_projection_;
  HeadNorm q_norm_, k_norm_;
  EdgeAttention attention_;
  Linear projection_;
  FeedForward feed_forward_;
  std::optional<NormedLinear> extractor_;
};
static_assert(Layer<Mapper>);

}  // namespace boreas
