// GraphData: the node and edge sets of one model grid as plain arrays. models/mesh makes it, io stores it, the model
// builds its Graph objects from it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/core/fields.h"
#include "kernels/core/tensor.h"

namespace boreas {

/// What ranks that share a sample own of each node set; always as many nodes, give or take one.
enum class GraphPartition : uint8_t {
  bands,   ///< contiguous ranges of its order
  patches  ///< compact parts, found by bisection; numbered so that they are contiguous ranges
};
template <>
struct EnumNames<GraphPartition> {
  static constexpr std::array values{std::pair{GraphPartition::bands, std::string_view("bands")},
                                     std::pair{GraphPartition::patches, std::string_view("patches")}};
};

/// The rows of a set that a rank has, where it has not all.
struct GraphRows {
  Range rows;
  int64_t num_rows = 0;            ///< of the whole set
  std::vector<Range> stored = {};  ///< of patches: where the rows stand in files and datasets, one after the other
};

/// A set of points on the sphere.
struct NodeSet {
  std::string name;
  std::vector<double> latitudes, longitudes;              ///< radians
  std::map<std::string, std::vector<double>> attributes;  ///< one value for each node, such as `area_weight`
  std::optional<GraphRows> part = {};                     ///< the nodes that these are; all by default

  int64_t size() const { return part ? part->num_rows : int64_t(latitudes.size()); }  ///< of the whole set
  Range rows() const { return part ? part->rows : Range{0, size()}; }
};

/// Directed edges `src_of[m]` -> `dst_of[m]` from one node set to another, sorted by destination, then source.
struct EdgeSet {
  std::string src, dst;                      ///< names of the node sets
  std::vector<int32_t> src_of, dst_of;       ///< [M]
  std::vector<std::string> attribute_names;  ///< in column order
  std::vector<int> attribute_widths;         ///< columns of each attribute
  std::vector<double> attributes;            ///< [M, attribute_width()], row-major, normalised
  std::optional<GraphRows> part = {};        ///< the edges that these are; all by default. Nodes keep their numbers

  int64_t size() const { return part ? part->num_rows : int64_t(src_of.size()); }  ///< of the whole set
  Range rows() const { return part ? part->rows : Range{0, size()}; }
  int attribute_width() const;
};

struct GraphData {
  std::vector<NodeSet> nodes;
  std::vector<EdgeSet> edges;
  std::string stated_hash = {};  ///< that of the whole graph, where this is a part of it

  bool is_part() const { return !stated_hash.empty(); }  ///< or the whole in another order than it is stored in

  const NodeSet& node_set(std::string_view name) const;                         ///< throws config, lists the names
  const EdgeSet& edge_set(std::string_view src, std::string_view dst) const;    ///< throws config, lists the names
  const EdgeSet* find_edges(std::string_view src, std::string_view dst) const;  ///< null if there are none

  /// Content hash, 16 hexadecimal digits: equal names, coordinates, edges and attributes give equal hashes on every run
  /// and machine. Guards against mix-ups, not against forgery. Of a part: the stated hash of the whole.
  std::string hash() const;

  /// Throws corrupt_data naming the first inconsistency: sizes that disagree, an unknown node set, a node number out of
  /// range, edges not sorted by destination, a value that is not finite.
  void validate() const;
};

/// What rank `index` of `count` needs of a whole graph: its nodes, balanced ranges of each set, and the edges that end
/// in them.
GraphData part_of(const GraphData& whole, int64_t index, int64_t count);

/// Orders in which the balanced ranges of `count` ranks are compact: by set, the node at each place. All sets are
/// bisected again and again, in proportion to the ranks of each half, across the axis along which the part of the
/// smallest set is longest; within a patch nodes keep their order. Throws corrupt_data for coordinates that are not
/// finite.
std::vector<std::vector<int32_t>> patch_orders(std::span<const NodeSet> sets, int64_t count);
/// The places in an order of its nodes.
std::vector<int32_t> places_in(std::span<const int32_t> order);
/// The whole graph with its nodes in these orders, and its edges sorted by destination there. A destination keeps the
/// order of its edges, so that sums do.
GraphData in_patches(const GraphData& whole, int64_t count);

}  // namespace boreas
