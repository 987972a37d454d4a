#include "comm/sharded_graph.h"

#include <gtest/gtest.h>

#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

constexpr int64_t kSources = 13, kDestinations = 11;

Graph make_graph() {
  const test::RandomEdges edges = test::random_edges(kSources, kDestinations, 3);
  return Graph::from_sorted(kSources, kDestinations, edges.dst_ptr, edges.src_of);
}

TEST(ShardedGraph, OneChunkIsTheWholeGraph) {
  const ShardedGraph sharded = make_sharded_graph(make_graph(), 1);
  ASSERT_EQ(sharded.num_chunks(), 1);
  const Subgraph& chunk = sharded.chunks[0];
  EXPECT_EQ(chunk.graph.num_src(), kSources);
  EXPECT_TRUE(chunk.src_ids.empty());
  EXPECT_EQ(chunk.dst, (Range{0, kDestinations}));
  EXPECT_EQ(chunk.edges, (Range{0, sharded.num_edges}));
  EXPECT_EQ(sharded.num_chunk_sources(), kSources);
}

TEST(ShardedGraph, ChunksCoverDestinationsAndEdges) {
  const Graph whole = make_graph();
  for (const int64_t num_chunks : {2, 4, 11}) {
    const ShardedGraph sharded = make_sharded_graph(make_graph(), num_chunks);
    ASSERT_EQ(sharded.num_chunks(), num_chunks);
    int64_t dst = 0, edge = 0, sources = 0;
    for (const Subgraph& chunk : sharded.chunks) {
      EXPECT_EQ(chunk.dst.begin, dst);
      EXPECT_EQ(chunk.edges.begin, edge);
      EXPECT_LE(chunk.dst.size(), kDestinations / num_chunks + 1);
      ASSERT_EQ(chunk.graph.num_edges(), chunk.edges.size());
      for (int64_t m = 0; m < chunk.edges.size(); ++m)
        EXPECT_EQ(chunk.src_ids.as<int32_t>()[chunk.graph.src_of.as<int32_t>()[m]],
                  whole.src_of.as<int32_t>()[chunk.edges.begin + m]);
      dst = chunk.dst.end;
      edge = chunk.edges.end;
      sources += chunk.src_ids.size();
    }
    EXPECT_EQ(dst, kDestinations);
    EXPECT_EQ(edge, whole.num_edges());
    EXPECT_EQ(sharded.num_chunk_sources(), sources);
  }
}

TEST(ShardedGraph, HasNoMoreChunksThanDestinations) {
  EXPECT_EQ(make_sharded_graph(make_graph(), 1000).num_chunks(), kDestinations);
  BOREAS_EXPECT_ERROR(make_sharded_graph(make_graph(), 0), config, "num_chunks is 0");
}

}  // namespace
}  // namespace boreas
