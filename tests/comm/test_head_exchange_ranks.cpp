#include "comm/head_exchange.h"
#include "tests/support/fixtures.h"
#include "tests/support/ranks.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::world;

TEST(HeadExchangeRanks, ThereAndBack) {
  constexpr int64_t kHeads = 11, kSize = 3;
  const int ranks = world().size();
  for (const int64_t num_rows : {int64_t(ranks), int64_t(29)}) {
    const HeadExchange exchange(world(), Partition::balanced(num_rows, ranks), kHeads);
    test::Workspace w;  // the same whole on every rank
    const Tensor whole = w.random(DType::f64, {num_rows, kHeads * kSize});
    const Range rows = exchange.own_rows(), heads = exchange.own_heads();
    const Tensor by_heads = w.output(DType::f64, {num_rows, heads.size() * kSize});
    exchange.to_heads(w.ctx, whole.slice(rows), by_heads);
    for (int64_t i = 0; i < num_rows; ++i)
      for (int64_t c = 0; c < by_heads.cols(); ++c)
        EXPECT_EQ(by_heads.row<double>(i)[c], whole.row<double>(i)[heads.begin * kSize + c]);

    const Tensor back = w.output_strided(DType::f64, rows.size(), kHeads * kSize);
    const int64_t before = world().bytes_sent();
    exchange.to_rows(w.ctx, by_heads, back);
    EXPECT_EQ(world().bytes_sent() - before, (num_rows - rows.size()) * by_heads.cols() * 8);
    EXPECT_TRUE(test::identical(w.copy_of(back), w.copy_of(whole.slice(rows))));
    w.expect_padding_untouched();
  }
}

TEST(HeadExchangeRanks, MoreRanksThanHeadsAreRefused) {
  if (world().size() == 1) GTEST_SKIP() << "one rank is never more than the heads";
  BOREAS_EXPECT_ERROR(HeadExchange(world(), Partition::balanced(20, world().size()), world().size() - 1), config,
                      "set parallel.shard: edges");
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN
