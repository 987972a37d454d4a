#include "comm/sharded_graph.h"

#include <algorithm>

#include "kernels/core/partition.h"

namespace boreas {

namespace {

Graph moved_to(Graph graph, Device device) {
  return device.is_cuda() ? graph.to(device, Stream(device)) : std::move(graph);
}

Subgraph moved_to(Subgraph part, Device device) {
  part.graph = moved_to(std::move(part.graph), device);
  if (!device.is_cuda()) return part;
  Buffer ids = Buffer::on(device, part.storage.bytes(), part.storage.label());
  const Stream stream(device);
  copy_bytes(stream, ids.data(), device, part.storage.data(), Device::cpu(), ids.bytes());
  stream.synchronize();
  part.storage = std::move(ids);
  part.src_ids = part.storage.tensor(DType::i32, part.src_ids.shape());
  return part;
}

}  // namespace

int64_t ShardedGraph::num_chunk_sources() const {
  int64_t sum = 0;
  for (const Subgraph& chunk : chunks) sum += chunk.graph.num_src();
  return sum;
}

ShardedGraph make_sharded_graph(Graph graph, int64_t num_chunks, Device device) {
  BOREAS_CHECK(num_chunks >= 1, config, "num_chunks is {}; it must be at least 1", num_chunks);
  ShardedGraph sharded{graph.num_src(), graph.num_dst(), graph.num_edges(), {}};
  num_chunks = std::min(num_chunks, std::max<int64_t>(1, sharded.num_dst));
  if (num_chunks == 1) {
    sharded.chunks.push_back({.graph = moved_to(std::move(graph), device),
                              .dst = {0, sharded.num_dst},
                              .edges = {0, sharded.num_edges},
                              .storage = {},
                              .src_ids = {}});
    return sharded;
  }
  const Partition parts = Partition::balanced(sharded.num_dst, num_chunks);
  for (int64_t i = 0; i < num_chunks; ++i) sharded.chunks.push_back(moved_to(restrict_to(graph, parts[i]), device));
  return sharded;
}

}  // namespace boreas
