#include "kernels/graph/graph.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/core/rng.h"
#include "tests/support/error_of.h"

namespace boreas {
namespace {

template <class T>
std::vector<T> to_vector(const Tensor& t) {
  return {t.as<T>(), t.as<T>() + t.size()};
}

using test::message_of;

// 4 sources (0 unused), 5 destinations (1 and 4 without edges).
Graph small_graph() {
  const std::vector<int64_t> dst_ptr{0, 2, 2, 5, 6, 6};
  const std::vector<int32_t> src_of{3, 1, 2, 3, 1, 3};
  return Graph::from_sorted(4, 5, dst_ptr, src_of);
}

TEST(Graph, FromSortedBuildsTheIndexBySource) {
  const Graph graph = small_graph();
  EXPECT_EQ(graph.num_src(), 4);
  EXPECT_EQ(graph.num_dst(), 5);
  EXPECT_EQ(graph.num_edges(), 6);
  EXPECT_EQ(to_vector<int64_t>(graph.dst_ptr), (std::vector<int64_t>{0, 2, 2, 5, 6, 6}));
  EXPECT_EQ(to_vector<int32_t>(graph.src_of), (std::vector<int32_t>{3, 1, 2, 3, 1, 3}));
  EXPECT_EQ(to_vector<int64_t>(graph.src_ptr), (std::vector<int64_t>{0, 0, 2, 3, 6}));
  EXPECT_EQ(to_vector<int32_t>(graph.edge_of), (std::vector<int32_t>{1, 4, 2, 0, 3, 5}));
  EXPECT_EQ(to_vector<int32_t>(graph.dst_of), (std::vector<int32_t>{0, 2, 2, 0, 2, 3}));
}

TEST(Graph, KnowsAFixedDegree) {
  const auto degree_of = [](std::vector<int64_t> dst_ptr) {
    const std::vector<int32_t> src_of(dst_ptr.back(), 0);
    return Graph::from_sorted(1, int64_t(dst_ptr.size()) - 1, dst_ptr, src_of).fixed_degree();
  };
  EXPECT_EQ(degree_of({0, 3, 6, 9}), 3);
  EXPECT_EQ(degree_of({0, 3, 5, 9}), 0);
  EXPECT_EQ(degree_of({0, 3, 6, 8}), 0);
  EXPECT_EQ(degree_of({0, 0, 0}), 0);
  EXPECT_EQ(degree_of({0}), 0);
  const Graph pairs = Graph::from_sorted(2, 2, std::vector<int64_t>{0, 2, 4}, std::vector<int32_t>{0, 1, 1, 0});
  EXPECT_EQ(pairs.fixed_degree(), 2);
  EXPECT_EQ(restrict_to(pairs, {1, 2}).graph.fixed_degree(), 2);
}

TEST(Graph, EmptyGraphsAreLegal) {
  const Graph none = Graph::from_sorted(0, 0, std::vector<int64_t>{0}, {});
  EXPECT_EQ(none.num_edges(), 0);
  const Graph no_edges = Graph::from_sorted(3, 2, std::vector<int64_t>{0, 0, 0}, {});
  EXPECT_EQ(to_vector<int64_t>(no_edges.src_ptr), (std::vector<int64_t>{0, 0, 0, 0}));
  EXPECT_EQ(restrict_to(no_edges, {0, 1}).graph.num_src(), 0);
}

TEST(Graph, FromSortedNamesTheFirstOffendingEntry) {
  const auto build = [](int64_t num_src, int64_t num_dst, std::vector<int64_t> dst_ptr, std::vector<int32_t> src_of) {
    return message_of([&] { Graph::from_sorted(num_src, num_dst, dst_ptr, src_of); });
  };
  EXPECT_EQ(build(2, 2, {0, 1}, {0}), "corrupt_data: graph: dst_ptr has 2 entries; 2 destinations need 3");
  EXPECT_EQ(build(2, 2, {1, 1, 1}, {0}), "corrupt_data: graph: dst_ptr[0] is 1; it must be 0");
  EXPECT_EQ(build(2, 3, {0, 2, 1, 0}, {0}), "corrupt_data: graph: dst_ptr[2] = 1 is less than dst_ptr[1] = 2");
  EXPECT_EQ(build(2, 2, {0, 1, 3}, {0, 1}), "corrupt_data: graph: dst_ptr[2] is 3; it must be the number of edges, 2");
  EXPECT_EQ(build(2, 2, {0, 1, 3}, {0, 2, -1}), "corrupt_data: graph: src_of[1] = 2 is not a source in [0, 2)");
  EXPECT_EQ(build(2, 1, {0, 1}, {-1}), "corrupt_data: graph: src_of[0] = -1 is not a source in [0, 2)");
  EXPECT_EQ(build(-1, 0, {0}, {}), "corrupt_data: graph: -1 sources and 0 destinations; neither may be negative");
  EXPECT_EQ(build(int64_t(1) << 31, 0, {0}, {}),
            "unsupported: graph: 2147483648 sources, 0 destinations, 0 edges; indices have 32 bits, so each may be at "
            "most 2147483647");
}

TEST(Graph, SortByDestinationIsStable) {
  const std::vector<int32_t> src{5, 0, 5, 2, 1, 5}, dst{2, 0, 2, 0, 1, 0};
  const SortedEdges sorted = sort_by_destination(6, 4, src, dst);
  EXPECT_EQ(sorted.dst_ptr, (std::vector<int64_t>{0, 3, 4, 6, 6}));
  EXPECT_EQ(sorted.src_of, (std::vector<int32_t>{0, 2, 5, 1, 5, 5}));
  EXPECT_EQ(sorted.permutation, (std::vector<int64_t>{1, 3, 5, 4, 0, 2}));
}

TEST(Graph, SortByDestinationNamesTheFirstBadEdge) {
  const std::vector<int32_t> three{0, 1, 2}, two{0, 1}, negative{0, -1, 0};
  EXPECT_EQ(message_of([&] { sort_by_destination(3, 3, three, two); }),
            "shape: graph: 3 edge sources but 2 edge destinations");
  EXPECT_EQ(message_of([&] { sort_by_destination(2, 3, three, three); }),
            "corrupt_data: graph: edge 2 goes from 2 to 2; sources are [0, 2), destinations [0, 3)");
  EXPECT_EQ(message_of([&] { sort_by_destination(3, 3, three, negative); }),
            "corrupt_data: graph: edge 1 goes from 1 to -1; sources are [0, 3), destinations [0, 3)");
}

TEST(Graph, RestrictToRenumbersBothEnds) {
  const Graph graph = small_graph();
  const Subgraph sub = restrict_to(graph, {1, 4});
  EXPECT_EQ(sub.dst, (Range{1, 4}));
  EXPECT_EQ(sub.edges, (Range{2, 6}));
  EXPECT_EQ(to_vector<int32_t>(sub.src_ids), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(sub.graph.num_dst(), 3);
  EXPECT_EQ(sub.graph.num_src(), 3);
  EXPECT_EQ(to_vector<int64_t>(sub.graph.dst_ptr), (std::vector<int64_t>{0, 0, 3, 4}));
  EXPECT_EQ(to_vector<int32_t>(sub.graph.src_of), (std::vector<int32_t>{1, 2, 0, 2}));
  EXPECT_EQ(to_vector<int64_t>(sub.graph.src_ptr), (std::vector<int64_t>{0, 1, 2, 4}));

  const Subgraph none = restrict_to(graph, {4, 5});
  EXPECT_EQ(none.graph.num_edges(), 0);
  EXPECT_EQ(none.src_ids.size(), 0);
}

// Random edges: the pieces put together are the whole, and a shard's chunk is the chunk of the whole.
TEST(Graph, PiecesMakeTheWhole) {
  const Philox random(7, 0);
  const int64_t num_src = 40, num_dst = 60, num_edges = 300;
  std::vector<int32_t> src(num_edges), dst(num_edges);
  for (int64_t m = 0; m < num_edges; ++m) {
    src[m] = int32_t(random.below(2 * m, num_src));
    dst[m] = int32_t(random.below(2 * m + 1, num_dst));
  }
  const SortedEdges sorted = sort_by_destination(num_src, num_dst, src, dst);
  const Graph whole = Graph::from_sorted(num_src, num_dst, sorted.dst_ptr, sorted.src_of);

  std::vector<int32_t> joined;
  for (const Range range : {Range{0, 0}, Range{0, 17}, Range{17, 18}, Range{18, 60}, Range{60, 60}}) {
    const Subgraph piece = restrict_to(whole, range);
    const auto ids = to_vector<int32_t>(piece.src_ids);
    EXPECT_TRUE(std::ranges::is_sorted(ids, std::ranges::less_equal{}));
    EXPECT_EQ(piece.edges.begin, int64_t(joined.size()));
    for (const int32_t j : to_vector<int32_t>(piece.graph.src_of)) joined.push_back(ids[j]);
  }
  EXPECT_EQ(joined, sorted.src_of);

  const Subgraph shard = restrict_to(whole, {10, 50});
  const Subgraph chunk = restrict_to(shard.graph, {5, 25});
  const Subgraph direct = restrict_to(whole, {15, 35});
  std::vector<int32_t> ids = to_vector<int32_t>(chunk.src_ids);
  for (int32_t& j : ids) j = shard.src_ids.as<int32_t>()[j];
  EXPECT_EQ(ids, to_vector<int32_t>(direct.src_ids));
  EXPECT_EQ(to_vector<int32_t>(chunk.graph.src_of), to_vector<int32_t>(direct.graph.src_of));
}

TEST(Graph, RestrictToRejectsRangesOutsideTheGraph) {
  const Graph graph = small_graph();
  EXPECT_EQ(message_of([&] {
              restrict_to(graph, {3, 6});
            }),
            "invalid_argument: graph: destinations [3, 6) are not a range of the 5 destinations");
  EXPECT_EQ(message_of([&] {
              restrict_to(graph, {2, 1});
            }),
            "invalid_argument: graph: destinations [2, 1) are not a range of the 5 destinations");
  EXPECT_EQ(message_of([&] {
              restrict_to(Graph{}, {0, 0});
            }),
            "invalid_argument: graph: restrict_to needs a graph on the host");
}

TEST(Graph, CopiesAndCountsItsMemory) {
  const int64_t before = live_bytes("graph");
  {
    const Graph graph = small_graph();
    EXPECT_EQ(live_bytes("graph") - before, (6 + 5) * 8 + 3 * 6 * 4);
    const Stream stream(Device::cpu());
    const Graph copy = graph.to(Device::cpu(), stream);
    EXPECT_NE(copy.src_of.data(), graph.src_of.data());
    EXPECT_EQ(copy.num_edges(), graph.num_edges());
    EXPECT_EQ(to_vector<int64_t>(copy.dst_ptr), to_vector<int64_t>(graph.dst_ptr));
    EXPECT_EQ(to_vector<int32_t>(copy.src_of), to_vector<int32_t>(graph.src_of));
    EXPECT_EQ(to_vector<int64_t>(copy.src_ptr), to_vector<int64_t>(graph.src_ptr));
    EXPECT_EQ(to_vector<int32_t>(copy.edge_of), to_vector<int32_t>(graph.edge_of));
    EXPECT_EQ(to_vector<int32_t>(copy.dst_of), to_vector<int32_t>(graph.dst_of));
  }
  EXPECT_EQ(live_bytes("graph"), before);
}

}  // namespace
}  // namespace boreas
