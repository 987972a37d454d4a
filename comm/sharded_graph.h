// A graph as one rank works on it: whole, and in chunks that are done one after another to save memory.
#pragma once

#include <vector>

#include "kernels/graph/graph.h"

namespace boreas {

struct ShardedGraph {
  Graph whole;
  std::vector<Subgraph> chunks;  ///< empty: the whole graph is the only chunk

  /// One chunk as its users see it.
  struct Chunk {
    const Graph* graph;
    Range dst, edges;  ///< in the whole
    Tensor src_ids;    ///< sources in the whole; empty: all, in their order
  };
  int64_t num_chunks() const { return chunks.empty() ? 1 : int64_t(chunks.size()); }
  Chunk chunk(int64_t i) const;
};

/// Splits the destinations into balanced contiguous ranges, no more than there are destinations. Throws config if
/// num_chunks < 1.
ShardedGraph make_sharded_graph(Graph graph, int64_t num_chunks);

}  // namespace boreas
