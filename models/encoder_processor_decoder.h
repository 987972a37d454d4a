// The encoder-processor-decoder model.
#pragma once

#include <optional>
#include <vector>

#include "kernels/graph/graph_data.h"
#include "models/config.h"
#include "models/layers/node_attributes.h"
#include "models/mapper.h"
#include "models/processor.h"

namespace boreas {

/// How a sample is split over the ranks of a group: each owns a contiguous range of the data nodes and one of the
/// hidden nodes, balanced. By default there is one rank. With `kind` heads each rank has all edges and their trainable
/// attributes.
struct ModelShard {
  Communicator* ranks = nullptr;  ///< must outlive the model
  ExchangeKind exchange = ExchangeKind::halo;
  ShardKind kind = ShardKind::edges;

  int64_t num_ranks() const { return ranks ? ranks->size() : 1; }
  bool by_heads() const { return kind == ShardKind::heads && num_ranks() > 1; }
  /// This rank's rows of n.
  Range rows_of(int64_t n) const { return Partition::balanced(n, num_ranks())[ranks ? ranks->rank() : 0]; }
};

/// One step of a weather model on the data grid, in normalised variables:
///
///   s   = [x, coordinates, trainable]                      data nodes
///   z   = Encoder(s -> hidden nodes)
///   z'  = Processor(z) + z                                 (+ z with latent_skip; without a processor z' = z)
///   y   = Decoder(z' -> data nodes, s)
///   y[t, prognostic] += x[last step, prognostic]           for each output step t
///   y   = boundings(y)                                     in order, for each output step
///
/// Shapes   x: [items * N_data, T_i * V_i]   y: [items * N_data, T_o * V_o]; items = batch * members, item-major;
///          columns time-major: column t * V + v;  N_data: the data nodes of this rank
/// Types    x, y and their gradients: accumulator type of the weights' type T (f32 where T is bf16), and with them the
///          prognostic residual and the boundings; inside T, the residual stream T or with residual_dtype f32 wider
/// Names    those of the reference implementation: encoder.<data>, processor, decoder.<data>, node_attributes,
///          encoder_graph_provider.<data>.trainable.trainable, ...
/// Errors   config: heads do not divide channels, a graph without the edges that the model needs, more ranks than
///          nodes, more ranks than heads with head sharding;
///          shape: x or y
/// Source   Lang et al. 2024 (AIFS); the encoder-processor-decoder of Anemoi models
class EncoderProcessorDecoder {
 public:
  struct Inputs {
    Tensor x;
  };
  struct Outputs {
    Tensor y;
  };
  struct Saved {
    Arena::Mark begin;
    Tensor data, hidden;       // node features, padded; those of edges are put together again
    Tensor latent, processed;  // z, z'
    Mapper::Saved encoder, decoder;
    Processor::Saved processor;
    std::vector<Tensor> before_bounding;  // per output step and bounding: the columns that backward needs
  };

  EncoderProcessorDecoder(const ModelConfig& config, ModelShape shape, const GraphData& graph, ParameterStore& store,
                          const ModelShard& shard = {});

  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in) const;

  /// What weights and graph alone decide, kept from step to step of a forecast: attributes of the edges put together,
  /// the encoder's destinations embedded and projected. Stale as soon as the weights change.
  struct Fixed {
    Tensor encoder_edges, processor_edges, decoder_edges;
    Mapper::Fixed encoder, decoder;
  };
  Fixed fix(Context& ctx) const;  ///< from the saved end of the arena
  /// Room for s of one item.
  Tensor alloc_features(Context& ctx, Keep keep) const;
  /// Coordinates and trainable columns of s, behind those of x.
  void write_attributes(Context& ctx, const Tensor& features) const;
  /// forward of one item whose s stands ready, to the bit, with y in place: before, the last of the T_o steps of y
  /// holds x[last step, prognostic]. y exists once, since the decoder's chunks add to theirs one after another. Null:
  /// what is fixed is made again.
  void step(Context& ctx, const Tensor& features, const Tensor& y, const Fixed* fixed) const;

  const ModelShape& shape() const { return shape_; }
  const Mapper& encoder() const { return encoder_; }
  const Mapper& decoder() const { return decoder_; }
  int64_t num_data_nodes() const { return data_attributes_.num_nodes(); }
  int64_t num_hidden_nodes() const { return hidden_attributes_.num_nodes(); }
  int64_t input_columns() const { return shape_.num_input_steps * shape_.num_inputs; }
  int64_t output_columns() const { return shape_.num_output_steps * shape_.num_outputs; }

 private:
  int64_t data_columns() const { return input_columns() + data_attributes_.num_columns(); }
  DType outer_dtype() const { return accumulator_of(dtype_); }
  int64_t num_items(const Tensor& x) const;
  Tensor output_step(const Tensor& y, int64_t step) const;
  Tensor latest_input(const Tensor& x) const;
  Tensor hidden_features(Context& ctx, Keep keep) const;
  /// From s to z'. Of nothing saved these are lent by the caller's scope.
  void encode(Context& ctx, Saved& s, bool keeps, const Fixed* fixed) const;
  /// y, of all or some rows, + the prognostic columns of the latest state, then bounded.
  void finish(Context& ctx, const Tensor& latest, std::span<const int32_t> latest_columns, const Tensor& y,
              Saved* saved) const;
  void bound(Context& ctx, const ResolvedBounding& bounding, const Tensor& step, Saved* saved) const;

  ModelShape shape_;
  int64_t num_channels_;
  bool latent_skip_;
  DType dtype_, residual_dtype_;
  NodeAttributes data_attributes_, hidden_attributes_;
  EdgeAttributes encoder_edges_, decoder_edges_;
  std::optional<EdgeAttributes> processor_edges_;  // graph transformer only
  const ParameterStore& store_;
  Mapper encoder_;
  size_t first_of_decoder_;  // array in the store
  Mapper decoder_;
  std::optional<Processor> processor_;
};
static_assert(Layer<EncoderProcessorDecoder>);

}  // namespace boreas
