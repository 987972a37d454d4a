// Mappers: from the nodes of one set to those of another, along a graph.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/rank_graph.h"
#include "comm/sharded_graph.h"
#include "models/layers/edge_attention.h"
#include "models/layers/head_sharding.h"
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
/// Memory. Items follow one another; within an item, chunks of destinations follow one another, each with the rows of
/// its own sources: sources that several chunks use are projected by each of them, which is little as long as
/// neighbours in the order of destinations are neighbours on the sphere. The result does not depend on the number of
/// chunks (beyond rounding). Without recompute all is kept for backward but norms and activations. With recompute
/// nothing is: each chunk is computed again just before its own backward. The room needed is then that of one chunk.
///
/// Ranks. x_src, x_dst and y hold this rank's nodes; its chunks work on the rows of the exchange, which are filled
/// for one item at a time: raw features in an encoder, hidden nodes in a decoder. While they travel the destinations'
/// queries are projected, an encoder's of the first item and those of a decoder's first chunk; while the gradients of
/// the sources go home, those of the same destinations' projections are made. With head sharding a rank projects
/// its own sources and destinations and attends, head by head, along the whole graph; chunks are then of what follows.
///
/// Shapes   x_src: [items * N_src, .]   edge_attributes: [M, A]   y.x_dst: [items * N_dst, out]; features may be
///          padded as a linear layer's x
/// Types    T is that of the weights, A its accumulator type. Features (encoder: x_src, x_dst; decoder: x_dst) and
///          edge_attributes: T, their gradients: A.  Nodes of the residual stream (encoder: y; decoder: x_src), h, z
///          and their gradients: T, or A with wide_residual.  y of a decoder: T or A.
/// Writes   gradients of features and edge_attributes are added to what is there, as they serve many uses;
///          d_in.x_src of a decoder is written
/// Names    <prefix>.emb_nodes_src, emb_nodes_dst, proc..., node_data_extractor.{0,1}
/// Errors   config: heads do not divide channels;  shape: rows are no multiple of the nodes
/// Source   Shi et al. 2021; Lang et al. 2024 (AIFS)
class Mapper {
 public:
  enum class Kind : uint8_t { encoder, decoder };
  struct Options {
    Kind kind = Kind::encoder;
    int64_t src_channels = 0, dst_channels = 0, out_channels = 0;  ///< out_channels: decoder only
    int64_t edge_channels = 0;
    int64_t num_chunks = 1;
    bool recompute = false;
    bool wide_residual = false;
    bool zero_extractor = false;
  };
  struct Inputs {
    Tensor x_src, x_dst, edge_attributes;
  };
  struct Outputs {
    Tensor x_dst;
  };

  struct Sources {
    Tensor x;  // s of an encoder
    NormedLinear::Saved projection;
    Tensor keys_values, k_stats;
  };
  struct Destinations {
    Tensor x;  // d
    NormedLinear::Saved projection;
    Tensor queries;  // q | r
    Tensor q_stats;
  };
  struct TailSaved {
    bool brief = false;
    Tensor middle, last;
    FeedForward::Saved feed_forward;
    NormedLinear::Saved extractor;
  };
  struct ChunkSaved {
    Arena::Mark begin;
    bool brief = false;
    Sources sources;
    Destinations destinations;  // decoder; the encoder's are shared
    Tensor attention_stats, attended;
    HeadArrays heads;              // head sharding
    std::vector<TailSaved> tails;  // one, or with head sharding one for each chunk that was asked for
  };
  struct Saved {
    Arena::Mark begin;
    Destinations shared;             // encoder
    std::vector<Tensor> x_src;       // of each item, with the rows of others
    std::vector<ChunkSaved> chunks;  // of all items, one after the other
  };

  /// What forward makes of weights and graph alone: a forecast keeps it from step to step.
  struct Fixed {
    Tensor features;      // of edges, for the attention
    Destinations shared;  // encoder
    Tensor q;             // encoder
  };
  /// What a forecast does otherwise; the numbers are the same.
  struct Forecast {
    const Fixed* fixed = nullptr;                               ///< null: made again
    std::function<void(Range dst, const Tensor& y)> take = {};  ///< if given, out is empty: gets y chunk by chunk, in
                                                                ///< the accumulator type, which lives for the call
  };

  Mapper(ParameterStore& store, const std::string& prefix, const BlockShape& shape, const Options& options,
         RankGraph graph, std::shared_ptr<const HeadSharding> heads = {});

  /// From x_dst of an encoder and edge_attributes, which must live as long; from the saved end of the arena.
  Fixed fix(Context& ctx, const Inputs& in) const;
  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const {
    forward(ctx, in, out, saved, {});
  }
  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved, const Forecast& forecast) const;
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in) const;

  /// Rows of sources that are projected for each source: 1 if no two chunks share any.
  double projections_per_source() const {
    return double(graph_.num_chunk_sources()) / double(std::max<int64_t>(1, graph_.num_src));
  }

 private:
  /// What the chunks of an item share.
  struct Item {
    Tensor x_src, x_dst;                            // its rows; x_dst: decoder
    std::optional<RowExchange::Moving> on_its_way;  // what x_src is waited for with
    Destinations shared;                            // encoder
    Tensor q;                                       // encoder
    Tensor features;
  };
  /// Gradients that the chunks of an item write or add to.
  struct ItemGradient {
    Tensor y;                         // in
    Tensor x_src;                     // added to, or written by the only chunk of a decoder; may be empty
    Tensor x_dst;                     // decoder, added to; may be empty
    Tensor shared_x, shared_queries;  // encoder
    bool first = true;                // encoder: nothing has been written to the shared ones yet
    bool leaves = false;              // decoder: after this chunk x_src goes to its owners
    Tensor features;
  };

  bool is_encoder() const { return options_.kind == Kind::encoder; }
  DType dtype() const { return projection_.dtype(); }
  DType residual_dtype() const { return options_.wide_residual ? accumulator_of(dtype()) : dtype(); }
  int64_t num_items(const Inputs& in) const;
  /// An item's own rows of x_src, and those of other ranks behind and before them: these start to travel.
  void start_sources(Context& ctx, const Tensor& x_src, int64_t item, Keep keep, Item& to) const;
  void finish_sources(Context& ctx, Item& item) const;
  Tensor gather(Context& ctx, const Subgraph& chunk, const Tensor& x_src) const;
  /// `x_src`: all rows of an item.
  Sources project_sources(Context& ctx, const Subgraph& chunk, const Tensor& x_src, Keep keep, bool brief) const;
  Destinations project_destinations(Context& ctx, const Tensor& x_dst, Keep keep, bool brief) const;
  void backward_sources(Context& ctx, const Subgraph& chunk, const Tensor& x_src, const Sources& sources,
                        const Tensor& d_keys_values, const Tensor& d_x_src) const;
  /// `d_x` comes in as the gradient that reaches d past the norm.
  void backward_destinations(Context& ctx, const Tensor& x_dst, const Destinations& destinations,
                             const Tensor& d_queries, const Tensor& d_x, const Tensor& d_x_dst) const;
  void forward_chunk(Context& ctx, const Subgraph& chunk, Item& item, const Tensor& y, ChunkSaved* saved) const;
  void backward_chunk(Context& ctx, const Subgraph& chunk, const Item& item, const ChunkSaved& saved,
                      const ItemGradient& d) const;
  /// Rows of a chunk's destinations in which the tail is computed.
  Partition tails_of(int64_t rows) const;
  /// From the attention's output to y.
  void forward_tail(Context& ctx, const Tensor& attended, const Tensor& x, const Tensor& y, TailSaved* saved) const;
  void backward_tail(Context& ctx, const TailSaved& saved, const Tensor& d_y, const Tensor& d_middle) const;
  void attend(Context& ctx, const EdgeAttention::Arguments& in, const Tensor& r, Keep keep, ChunkSaved& s) const;
  void attend_backward(Context& ctx, const EdgeAttention::Arguments& in, const ChunkSaved& saved, const Tensor& d_p,
                       const EdgeAttention::Arguments& d_in) const;

  Tensor first_half(const Tensor& x) const { return x.columns({0, shape_.attention_channels}); }
  Tensor second_half(const Tensor& x) const {
    return x.columns({shape_.attention_channels, 2 * shape_.attention_channels});
  }

  BlockShape shape_;
  Options options_;
  RowExchange sources_;
  std::shared_ptr<const HeadSharding> heads_;  // null: edge sharding
  ShardedGraph graph_;                         // with head sharding of one chunk, which is the whole graph
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
