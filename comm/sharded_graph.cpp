#include "comm/sharded_graph.h"

#include <algorithm>

#include "kernels/core/partition.h"

namespace boreas {

ShardedGraph::Chunk ShardedGraph::chunk(int64_t i) const {
  if (chunks.empty()) return {&whole, {0, whole.num_dst()}, {0, whole.num_edges()}, {}};
  const Subgraph& part = chunks[size_t(i)];
  return {&part.graph, part.dst, part.edges, part.src_ids};
}

ShardedGraph make_sharded_graph(Graph graph, int64_t num_chunks) {
  BOREAS_CHECK(num_chunks >= 1, config, "num_chunks is {}; it must be at least 1", num_chunks);
  ShardedGraph sharded{.whole = std::move(graph), .chunks = {}};
  num_chunks = std::min(num_chunks, std::max<int64_t>(1, sharded.whole.num_dst()));
  if (num_chunks == 1) return sharded;
  const Partition parts = Partition::balanced(sharded.whole.num_dst(), num_chunks);
  for (int64_t i = 0; i < num_chunks; ++i) sharded.chunks.push_back(restrict_to(sharded.whole, parts[i]));
  return sharded;
}

}  // namespace boreas
