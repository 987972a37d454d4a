#include "models/layers/node_attributes.h"

#include <algorithm>
#include <cmath>

#include "kernels/elementwise/elementwise.h"
#include "models/layer.h"

namespace boreas {

namespace {

/// Of the nodes or edges of a set.
ShardSpec shards_of(const std::optional<Range>& rows, const auto& set) {
  if (!rows) return {};
  ShardSpec shards{.rows = *rows, .num_rows = set.size()};
  const int64_t first = set.rows().begin;
  if (set.part) shards.stored = cut(set.part->stored, {rows->begin - first, rows->end - first});
  return shards;
}

}  // namespace

NodeAttributes::NodeAttributes(ParameterStore& store, const NodeSet& nodes, int64_t num_trainable,
                               std::optional<Range> rows) {
  BOREAS_CHECK(num_trainable >= 0, config, "model.trainable: {} values for each node of {}; it must not be negative",
               num_trainable, nodes.name);
  const Range own = rows.value_or(Range{0, nodes.size()});
  const int64_t n = own.size();
  std::vector<double> values(size_t(4 * n));
  const int64_t first = own.begin - nodes.rows().begin;
  for (int64_t i = 0; i < n; ++i) {
    const double latitude = nodes.latitudes[size_t(first + i)], longitude = nodes.longitudes[size_t(first + i)];
    double* row = &values[size_t(4 * i)];
    row[0] = std::sin(latitude);
    row[1] = std::sin(longitude);
    row[2] = std::cos(latitude);
    row[3] = std::cos(longitude);
  }
  latlons_ = store.add_constant("node_attributes.latlons_" + nodes.name, {n, 4}, values, shards_of(rows, nodes));
  if (num_trainable > 0)
    trainable_ = store.add("node_attributes.trainable_tensors." + nodes.name + ".trainable", {n, num_trainable},
                           Init::zeros(), shards_of(rows, nodes));
}

void NodeAttributes::forward(Context& ctx, const Tensor& y) const {
  const int64_t fixed = latlons_.cols();
  for (int64_t begin = 0; begin < y.rows(); begin += num_nodes()) {
    const Tensor item = y.slice({begin, begin + num_nodes()});
    run(ctx, Copy{.x = latlons_, .y = item.columns({0, fixed})});
    if (trainable_) run(ctx, Copy{.x = trainable_->value, .y = item.columns({fixed, num_columns()})});
  }
}

void NodeAttributes::backward(Context& ctx, const Tensor& d_y) const {
  if (!trainable_) return;
  const Tensor d = d_y.columns({d_y.cols() - num_trainable(), d_y.cols()});
  for (int64_t begin = 0; begin < d.rows(); begin += num_nodes())
    run(ctx, Add{.a = trainable_->grad, .b = d.slice({begin, begin + num_nodes()}), .y = trainable_->grad});
}

EdgeAttributes::EdgeAttributes(ParameterStore& store, const std::string& provider, const EdgeSet& edges,
                               int64_t num_trainable, std::optional<Range> rows_of_rank) {
  BOREAS_CHECK(num_trainable >= 0, config, "model.trainable: {} values for each edge of {}; it must not be negative",
               num_trainable, provider);
  const int64_t width = edges.attribute_width();
  BOREAS_CHECK(
      width + num_trainable > 0, config,
      "the edges {} -> {} have neither attributes nor trainable values; add edge_length to graph.attributes or set "
      "model.trainable",
      edges.src, edges.dst);
  // Without trainable columns these are what layers read, row by row.
  const int64_t stride = num_trainable > 0 ? width : (width + 7) / 8 * 8;
  const Range own = rows_of_rank.value_or(Range{0, edges.size()});
  storage_ = Buffer::on(store.device(), std::max<int64_t>(1, own.size() * stride) * size_of(store.dtype()), "graph");
  const Tensor rows = storage_.tensor(store.dtype(), {own.size(), stride});
  std::vector<double> padded(size_t(rows.size()), 0);
  const int64_t first = own.begin - edges.rows().begin;
  for (int64_t m = 0; m < own.size(); ++m)
    std::copy_n(edges.attributes.begin() + (first + m) * width, width, padded.begin() + m * stride);
  fill_from_host(rows, padded);
  fixed_ = rows.columns({0, width});
  if (num_trainable > 0)
    trainable_ = store.add(join_name(provider, "trainable.trainable"), {own.size(), num_trainable}, Init::zeros(),
                           shards_of(rows_of_rank, edges));
}

Tensor EdgeAttributes::forward(Context& ctx, Keep keep) const {
  if (!trainable_) return fixed_;
  const Tensor y = alloc_aligned_rows(ctx, keep, fixed_.dtype(), fixed_.rows(), num_columns());
  const int64_t width = fixed_.cols();
  if (width > 0) run(ctx, Copy{.x = fixed_, .y = y.columns({0, width})});
  run(ctx, Copy{.x = trainable_->value, .y = y.columns({width, num_columns()})});
  return y;
}

}  // namespace boreas
