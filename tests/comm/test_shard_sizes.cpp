#include "comm/shard_sizes.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

int64_t owner_of(const Partition& owners, int64_t row) {
  for (int64_t rank = 0; rank < owners.num_parts(); ++rank)
    if (row >= owners[rank].begin && row < owners[rank].end) return rank;
  return -1;
}

TEST(ShardSizes, CountsEachNeededRowOnce) {
  for (const int64_t ranks : {1, 2, 3, 7, 20}) {
    const test::RandomEdges edges = test::random_edges(60, 41, 4);
    const Partition src = Partition::balanced(60, ranks), dst = Partition::balanced(41, ranks);
    const std::vector<ShardSize> sizes = shard_sizes(edges.dst_ptr, edges.src_of, src, dst);
    std::vector<int64_t> sent(size_t(ranks), 0);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      std::set<int64_t> rows, neighbours;
      int64_t num_edges = 0;
      for (int64_t i = dst[rank].begin; i < dst[rank].end; ++i)
        for (int64_t m = edges.dst_ptr[size_t(i)]; m < edges.dst_ptr[size_t(i) + 1]; ++m, ++num_edges)
          if (const int64_t row = edges.src_of[size_t(m)]; owner_of(src, row) != rank) {
            if (rows.insert(row).second) ++sent[size_t(owner_of(src, row))];
            neighbours.insert(owner_of(src, row));
          }
      const ShardSize& size = sizes[size_t(rank)];
      EXPECT_EQ(size.rows_received, int64_t(rows.size()));
      EXPECT_EQ(size.num_neighbours, int64_t(neighbours.size()));
      EXPECT_EQ(size.num_edges, num_edges);
      EXPECT_EQ(size.num_src, src[rank].size());
      EXPECT_EQ(size.num_dst, dst[rank].size());
    }
    for (int64_t rank = 0; rank < ranks; ++rank) EXPECT_EQ(sizes[size_t(rank)].rows_sent, sent[size_t(rank)]);
  }
}

TEST(ShardSizes, OfAWindow) {
  const Partition owners = Partition::balanced(10, 4);  // 3, 3, 2, 2
  const auto of = [&](int64_t window) { return window_shard_sizes(owners, window); };
  EXPECT_EQ(of(0)[1].rows_received, 0);
  EXPECT_EQ(of(1)[0].rows_received, 1);
  EXPECT_EQ(of(1)[1].rows_received, 2);
  EXPECT_EQ(of(1)[1].rows_sent, 2);
  EXPECT_EQ(of(4)[0].rows_received, 4);  // more than its neighbour has
  EXPECT_EQ(of(4)[0].num_neighbours, 2);
  EXPECT_EQ(of(-1)[2].rows_received, 8);
  EXPECT_EQ(of(-1)[2].num_neighbours, 3);
}

TEST(ShardSizes, PartitionsMustFit) {
  const test::RandomEdges edges = test::random_edges(6, 4, 2);
  BOREAS_EXPECT_ERROR(shard_sizes(edges.dst_ptr, edges.src_of, Partition::balanced(6, 2), Partition::balanced(5, 2)),
                      shape, "into 4 destinations cannot be split like 5 rows in 2 parts");
}

}  // namespace
}  // namespace boreas
