// A graph as one rank works on it: in chunks that are done one after another to save memory.
#pragma once

#include <vector>

#include "kernels/graph/graph.h"

namespace boreas {

struct ShardedGraph {
  int64_t num_src = 0, num_dst = 0, num_edges = 0;
  /// Contiguous ranges of destinations, at least one. The only chunk has no src_ids: its sources are all, in their
  /// order.
  std::vector<Subgraph> chunks;

  int64_t num_chunks() const { return int64_t(chunks.size()); }
  /// Rows of sources that the chunks work on, one after the other: sources that several of them use count each time.
  int64_t num_chunk_sources() const;
};

/// Splits the destinations of a graph on the host into balanced contiguous ranges, no more than there are destinations,
/// and copies these to the device. Throws config if num_chunks < 1.
ShardedGraph make_sharded_graph(Graph graph, int64_t num_chunks, Device device = Device::cpu());

}  // namespace boreas
