// What a model knows of its nodes and edges beside the fields: coordinates, and values that it learns.
#pragma once

#include <optional>
#include <string>

#include "kernels/graph/graph_data.h"
#include "models/parameters.h"

namespace boreas {

/// [sin lat, sin lon, cos lat, cos lon, trainable]: the same for every item.
///
/// Names    node_attributes.latlons_<set> (constant, [N, 4]), node_attributes.trainable_tensors.<set>.trainable ([N,
/// t])
class NodeAttributes {
 public:
  /// `rows`: those of this rank, which the set must have; all by default.
  NodeAttributes(ParameterStore& store, const NodeSet& nodes, int64_t num_trainable, std::optional<Range> rows = {});

  int64_t num_nodes() const { return latlons_.rows(); }
  int64_t num_columns() const { return latlons_.cols() + num_trainable(); }
  int64_t num_trainable() const { return trainable_ ? trainable_->shape[1] : 0; }

  /// y: [items * N, num_columns()], usually the last columns of the node features.
  void forward(Context& ctx, const Tensor& y) const;
  /// d_y: [items * N, any], accumulator type; its last num_trainable() columns are used.
  void backward(Context& ctx, const Tensor& d_y) const;
  /// Where layers add the gradient of the trainable columns of one item; empty if there are none.
  Tensor gradient() const { return trainable_ ? trainable_->grad : Tensor(); }

 private:
  Tensor latlons_;
  const Parameter* trainable_ = nullptr;
};

/// [fixed attributes, trainable] of each edge, in destination order.
///
/// Names    <provider>.trainable.trainable ([M, t]); the fixed attributes belong to the graph and are not stored
class EdgeAttributes {
 public:
  /// `rows`: the edges of this rank; all by default.
  EdgeAttributes(ParameterStore& store, const std::string& provider, const EdgeSet& edges, int64_t num_trainable,
                 std::optional<Range> rows = {});

  int64_t num_columns() const { return fixed_.cols() + (trainable_ ? trainable_->shape[1] : 0); }
  /// [M, num_columns()], with aligned rows; if there are trainable columns in scratch memory, or kept.
  Tensor forward(Context& ctx, Keep keep = Keep::scratch) const;
  /// Where layers add the gradient of the trainable columns; empty if there are none.
  Tensor gradient() const { return trainable_ ? trainable_->grad : Tensor(); }

 private:
  Buffer storage_;
  Tensor fixed_;
  const Parameter* trainable_ = nullptr;
};

}  // namespace boreas
