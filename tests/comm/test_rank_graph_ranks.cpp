#include "comm/rank_graph.h"

#include "comm/shard_sizes.h"
#include "tests/support/fixtures.h"
#include "tests/support/ranks.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::world;

Graph whole_graph(int64_t num_src, int64_t num_dst) {
  const test::RandomEdges edges = test::random_edges(num_src, num_dst, 3);
  return Graph::from_sorted(num_src, num_dst, edges.dst_ptr, edges.src_of);
}

TEST(RankGraphRanks, EveryEdgeIsOnTheRankOfItsDestination) {
  const int ranks = world().size(), me = world().rank();
  for (const auto& [num_src, num_dst] : {std::pair{40, 23}, std::pair{23, 40}, std::pair{ranks, ranks}})
    for (const ExchangeKind kind : {ExchangeKind::halo, ExchangeKind::allgather}) {
      const Graph whole = whole_graph(num_src, num_dst);
      const Partition src = Partition::balanced(num_src, ranks), dst = Partition::balanced(num_dst, ranks);
      const RankGraph mine = make_rank_graph(world(), whole, src, dst, kind, Device::cpu());
      EXPECT_EQ(mine.dst, dst[me]);
      EXPECT_EQ(mine.graph.num_dst(), dst[me].size());
      EXPECT_EQ(mine.graph.num_src(), mine.sources.num_rows());
      ASSERT_EQ(mine.graph.num_edges(), mine.edges.size());
      for (int64_t m = 0; m < mine.graph.num_edges(); ++m) {
        const int64_t source = mine.sources.ids()[size_t(mine.graph.src_of.as<int32_t>()[m])];
        EXPECT_EQ(source, whole.src_of.as<int32_t>()[mine.edges.begin + m]);
      }
      if (kind == ExchangeKind::halo) {
        const ShardSize planned =
            shard_sizes({whole.dst_ptr.as<int64_t>(), size_t(num_dst + 1)},
                        {whole.src_of.as<int32_t>(), size_t(whole.num_edges())}, src, dst)[size_t(me)];
        EXPECT_EQ(planned.rows_received, mine.sources.num_received());
        EXPECT_EQ(planned.rows_sent, mine.sources.num_sent());
        EXPECT_EQ(planned.num_edges, mine.graph.num_edges());
      }
      for (int64_t i = 0; i <= mine.graph.num_dst(); ++i)
        EXPECT_EQ(mine.graph.dst_ptr.as<int64_t>()[i] + mine.edges.begin,
                  whole.dst_ptr.as<int64_t>()[mine.dst.begin + i]);
    }
}

TEST(RankGraphRanks, AsymmetricNeedsAreAgreed) {
  // Every destination of rank r needs the first row of rank r + 1 only: nobody needs what the last edges would suggest.
  const int ranks = world().size(), me = world().rank();
  const int64_t n = 4 * ranks;
  const Partition parts = Partition::balanced(n, ranks);
  std::vector<int64_t> dst_ptr{0};
  std::vector<int32_t> src_of;
  for (int64_t i = 0; i < n; ++i) {
    src_of.push_back(int32_t(parts[int(i / 4 + 1) % ranks].begin));
    dst_ptr.push_back(i + 1);
  }
  const Graph whole = Graph::from_sorted(n, n, dst_ptr, src_of);
  const RankGraph mine = make_rank_graph(world(), whole, parts, parts, ExchangeKind::halo, Device::cpu());
  EXPECT_EQ(mine.sources.num_received(), ranks > 1 ? 1 : 0);
  EXPECT_EQ(mine.sources.num_sent(), ranks > 1 ? 1 : 0);
  test::Workspace w;
  const Tensor rows = w.output(DType::f64, {mine.sources.num_rows(), 1});
  for (int64_t i = mine.sources.own().begin; i < mine.sources.own().end; ++i)
    rows.row<double>(i)[0] = double(mine.sources.ids()[size_t(i)]);
  mine.sources.forward(w.ctx, rows);
  EXPECT_EQ(rows.row<double>(mine.graph.src_of.as<int32_t>()[0])[0], double(parts[(me + 1) % ranks].begin));
}

// Own nodes change their places, edges go with them, and other ranks get the rows that they asked for as before.
TEST(RankGraphRanks, InteriorFirst) {
  const int ranks = world().size();
  if (ranks == 1) GTEST_SKIP() << "one rank has no halo";
  int64_t interior = 0, boundary = 0;
  for (const int64_t n : {int64_t(60), int64_t(7 * ranks), int64_t(ranks)}) {
    // Along a ring most nodes need their neighbours only; every seventh one has an edge to the other side.
    std::vector<int64_t> dst_ptr{0};
    std::vector<int32_t> src_of;
    for (int64_t i = 0; i < n; ++i) {
      for (const int64_t source : {i, (i + 1) % n, i % 7 == 3 ? (i + n / 2) % n : (i + n - 1) % n})
        src_of.push_back(int32_t(source));
      dst_ptr.push_back(int64_t(src_of.size()));
    }
    const Graph whole = Graph::from_sorted(n, n, dst_ptr, src_of);
    const Partition parts = Partition::balanced(n, ranks);
    const RankGraph plain = make_rank_graph(world(), whole, parts, parts, ExchangeKind::halo, Device::cpu());
    const InteriorFirst ordered =
        interior_first(make_rank_graph(world(), whole, parts, parts, ExchangeKind::halo, Device::cpu()));
    const Graph& graph = ordered.part.graph;
    const Range own = ordered.part.sources.own();
    ASSERT_EQ(own, plain.sources.own());
    ASSERT_EQ(int64_t(ordered.nodes.size()), own.size());
    ASSERT_EQ(graph.num_edges(), plain.graph.num_edges());

    // The same edges between the same nodes of the whole.
    const std::vector<int64_t>& ids = ordered.part.sources.ids();
    for (int64_t i = 0; i < own.size(); ++i) {
      const int32_t was = ordered.nodes[size_t(i)];
      EXPECT_EQ(ids[size_t(own.begin + i)], plain.sources.ids()[size_t(own.begin + was)]);
      const int64_t begin = graph.dst_ptr.as<int64_t>()[i], end = graph.dst_ptr.as<int64_t>()[i + 1];
      const int64_t old_begin = plain.graph.dst_ptr.as<int64_t>()[was];
      ASSERT_EQ(end - begin, plain.graph.dst_ptr.as<int64_t>()[was + 1] - old_begin);
      bool needs_others = false;
      for (int64_t m = begin; m < end; ++m) {
        EXPECT_EQ(ordered.edges[size_t(m)], old_begin + m - begin);
        const int32_t source = graph.src_of.as<int32_t>()[m];
        EXPECT_EQ(ids[size_t(source)], whole.src_of.as<int32_t>()[plain.edges.begin + ordered.edges[size_t(m)]]);
        needs_others |= source < own.begin || source >= own.end;
      }
      EXPECT_EQ(needs_others, i >= ordered.num_interior);
      EXPECT_TRUE(i == 0 || i == ordered.num_interior || ordered.nodes[size_t(i - 1)] < was);
    }
    interior += ordered.num_interior, boundary += own.size() - ordered.num_interior;

    // Every row arrives as the node that it is, and its gradient where it belongs.
    test::Workspace w;
    const Tensor rows = w.output(DType::f64, {int64_t(ids.size()), 1});
    for (int64_t i = own.begin; i < own.end; ++i) rows.row<double>(i)[0] = double(ids[size_t(i)]);
    ordered.part.sources.forward(w.ctx, rows);
    for (int64_t i = 0; i < rows.rows(); ++i) EXPECT_EQ(rows.row<double>(i)[0], double(ids[size_t(i)]));
    const Tensor plain_rows = w.output(DType::f64, {int64_t(ids.size()), 1});
    for (int64_t i = 0; i < rows.rows(); ++i) {
      rows.row<double>(i)[0] = double(1 + world().rank()) * double(ids[size_t(i)]);
      plain_rows.row<double>(i)[0] = double(1 + world().rank()) * double(plain.sources.ids()[size_t(i)]);
    }
    ordered.part.sources.backward(w.ctx, rows);
    plain.sources.backward(w.ctx, plain_rows);
    for (int64_t i = 0; i < own.size(); ++i)
      EXPECT_EQ(rows.row<double>(own.begin + i)[0], plain_rows.row<double>(own.begin + ordered.nodes[size_t(i)])[0]);
  }
  EXPECT_GT(interior, 0);
  EXPECT_GT(boundary, 0);
}

TEST(RankGraphRanks, ADifferentSplitIsRefused) {
  const int ranks = world().size();
  const Graph whole = whole_graph(10, 10);
  BOREAS_EXPECT_ERROR(make_rank_graph(world(), whole, Partition::balanced(9, ranks), Partition::balanced(10, ranks),
                                      ExchangeKind::halo, Device::cpu()),
                      shape, "cannot be split like 9 and 10 rows");
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN
