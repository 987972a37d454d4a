// One rank against several, on the CPU.
#include "tests/models/sharded_model.h"

namespace boreas {
namespace {

using namespace test;

TEST(ShardedModelRanks, EqualsOneRank) {
  // The largest group that the hidden nodes allow.
  const int size = int(std::min<int64_t>(world().size(), kHidden));
  const auto group = world().split(world().rank() < size ? 0 : 1);
  if (world().rank() >= size) return;
  for (const ProcessorKind processor :
       {ProcessorKind::graph_transformer, ProcessorKind::transformer, ProcessorKind::none})
    for (const ExchangeKind exchange : {ExchangeKind::halo, ExchangeKind::allgather}) {
      compare(make_case(processor, 1, Recompute::none, exchange, false), *group);
      compare(make_case(processor, 2, Recompute::block, exchange, true), *group);
      compare(make_case(processor, 5, Recompute::none, exchange, false), *group);
      compare(make_case(processor, 2, Recompute::mappers, exchange, false, DType::f32), *group);
    }
}

TEST(ShardedModelRanks, GlobalWindowsAndTheWiderThanAPart) {
  const int size = int(std::min<int64_t>(world().size(), kHidden));
  const auto group = world().split(world().rank() < size ? 0 : 1);
  if (world().rank() >= size) return;
  for (const int64_t window : {-1, 0, 5}) {
    Case c = make_case(ProcessorKind::transformer, 1, Recompute::none, ExchangeKind::halo, true);
    c.config.processor.window = window;
    c.name += fmt::format(" window {}", window);
    compare(c, *group);
  }
}

TEST(ShardedModelRanks, HeadsEqualOneRank) {
  const int size = int(std::min<int64_t>(world().size(), kHidden));
  const auto group = world().split(world().rank() < size ? 0 : 1);
  if (world().rank() >= size) return;
  const auto compare_heads = [&](Case c, int64_t num_heads) {
    c.kind = ShardKind::heads;
    c.config.num_heads = num_heads;
    c.config.attention_channels = 3 * num_heads;
    c.name += fmt::format(" {} heads", num_heads);
    compare(c, *group);
  };
  for (const ProcessorKind processor :
       {ProcessorKind::graph_transformer, ProcessorKind::transformer, ProcessorKind::none}) {
    compare_heads(make_case(processor, 1, Recompute::none, ExchangeKind::halo, false), 7);
    compare_heads(make_case(processor, 2, Recompute::block, ExchangeKind::halo, true), size);
    compare_heads(make_case(processor, 5, Recompute::none, ExchangeKind::halo, true), 8);
    compare_heads(make_case(processor, 2, Recompute::mappers, ExchangeKind::halo, false, DType::f32), 8);
  }
  if (size == 1) return;
  Case c = make_case(ProcessorKind::none, 1, Recompute::none, ExchangeKind::halo, false);
  c.kind = ShardKind::heads;
  c.config.num_heads = 1;
  BOREAS_EXPECT_ERROR(Model(c, group.get()), config, fmt::format("{} ranks", size));
}

TEST(ShardedModelRanks, RepeatsBitForBit) {
  const int size = int(std::min<int64_t>(world().size(), kHidden));
  const auto group = world().split(world().rank() < size ? 0 : 1);
  if (world().rank() >= size) return;
  for (const ProcessorKind processor : {ProcessorKind::graph_transformer, ProcessorKind::transformer})
    repeats(make_case(processor, 2, Recompute::block, ExchangeKind::halo, false, DType::f32), *group);
}

TEST(ShardedModelRanks, MoreRanksThanNodesAreRefused) {
  if (world().size() <= kHidden) GTEST_SKIP() << "there are not more ranks than hidden nodes";
  const Case c = make_case(ProcessorKind::none, 1, Recompute::none, ExchangeKind::halo, false);
  BOREAS_EXPECT_ERROR(Model(c, &world()), config, "8 ranks cannot share the 7 nodes of hidden");
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN
