// Graph: bipartite edges sorted by destination; a rank's shard and a chunk are the same operation on it.
#pragma once

#include <span>
#include <vector>

#include "kernels/core/buffer.h"

namespace boreas {

/// Edges j -> i from `num_src` sources to `num_dst` destinations, in two orders that share the edge numbers:
///
///   by destination (CSC)  dst_ptr [num_dst + 1] i64, src_of [M] i32: edge m ends in i for dst_ptr[i] <= m <
///   dst_ptr[i+1] by source      (CSR)  src_ptr [num_src + 1] i64, edge_of [M] i32, dst_of [M] i32: positions
///   src_ptr[j] .. src_ptr[j+1]
///                         list the edges that leave j, ascending, and where they end
///
/// Both passes of a backward therefore reduce in a fixed order: no float atomics. Nodes without edges are legal.
/// Edge attributes are a separate tensor in destination order.
class Graph {
 public:
  Graph() = default;
  Graph(Graph&&) = default;
  Graph& operator=(Graph&&) = default;

  /// From destination-sorted edges: `dst_ptr` ascending from 0 to M, `src_of[m]` in [0, num_src). Builds the by-source
  /// index, in linear time. Throws corrupt_data naming the first offending entry.
  static Graph from_sorted(int64_t num_src, int64_t num_dst, std::span<const int64_t> dst_ptr,
                           std::span<const int32_t> src_of);

  int64_t num_src() const { return num_src_; }
  int64_t num_dst() const { return num_dst_; }
  int64_t num_edges() const { return num_edges_; }
  /// The number of edges that end in every destination, so that edge m ends in m / fixed_degree(); 0 if it varies or
  /// there are no edges.
  int64_t fixed_degree() const { return fixed_degree_; }

  Tensor dst_ptr, src_of, src_ptr, edge_of, dst_of;

  /// A copy on another device, complete when this returns.
  Graph to(Device device, const Stream& stream) const;

 private:
  Graph(Buffer storage, int64_t num_src, int64_t num_dst, int64_t num_edges);  ///< lays the arrays over the buffer

  int64_t num_src_ = 0, num_dst_ = 0, num_edges_ = 0, fixed_degree_ = 0;
  Buffer storage_;
};

/// Edges in any order, sorted stably by destination, in linear time: `permutation[m]` is the input position of sorted
/// edge m. Throws shape if the lengths differ, corrupt_data naming the first edge whose ends do not exist.
struct SortedEdges {
  std::vector<int64_t> dst_ptr;
  std::vector<int32_t> src_of;
  std::vector<int64_t> permutation;
};
SortedEdges sort_by_destination(int64_t num_src, int64_t num_dst, std::span<const int32_t> src,
                                std::span<const int32_t> dst);

/// The edges that end in a range of destinations: destinations renumbered from zero, sources renumbered, ascending, to
/// those used.
struct Subgraph {
  Graph graph;
  Range dst;       ///< in the parent
  Range edges;     ///< in the parent; contiguous, because edges are sorted by destination
  Buffer storage;  ///< owns src_ids
  Tensor src_ids;  ///< i32 [graph.num_src()]: source in the parent, ascending, unique
};
Subgraph restrict_to(const Graph& graph, Range dst);  ///< host graphs only

}  // namespace boreas
