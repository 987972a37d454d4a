// An optimizer whose state is divided over the ranks does what one rank does.
#include <cmath>
#include <map>
#include <optional>

#include "engine/optimizer.h"
#include "kernels/core/rng.h"
#include "tests/support/ranks.h"

namespace boreas {
namespace {

using test::world;

constexpr int64_t kShardedRows = 11, kShardedCols = 3;

/// Replicated arrays of many sizes, and one that the ranks of a group share.
struct Parts {
  Buffer memory{Device::cpu(), Buffer::Kind::host, 1 << 20, "arena"};
  Arena arena;
  Context ctx;
  ParameterStore store;
  TrainingConfig config;
  std::optional<Optimizer> optimizer;

  Parts(const ProcessGrid& ranks, int64_t bucket_bytes, ClipKind clip)
      : arena(std::move(memory)), ctx(Device::cpu(), arena), store(DType::f64) {
    store.add("matrix", {37, 23}, Init::linear(23));
    store.add_stack({{"first", 8}, {"second", 5}}, 9, Init::linear(9));
    store.add("bias", {101}, Init::linear(4));
    const Range own = Partition::balanced(kShardedRows, ranks.model->size())[ranks.model->rank()];
    store.add("nodes", {own.size(), kShardedCols}, Init::linear(2), ShardSpec{own, kShardedRows});
    config.ema_decay = 0.9;
    config.clip = {clip, 0.5};
    optimizer.emplace(config, store, ranks, bucket_bytes);
    store.materialise(5);
    optimizer->materialise();
  }

  /// What a rank of the world finds, of its samples, in a step; an element's number is that in the whole array.
  static double gradient(int rank, const std::string& name, int64_t i, int64_t step) {
    return Philox(uint64_t(rank) + 1, std::hash<std::string>()(name)).normal(uint64_t(1000 * step + i));
  }
  double update(int64_t step) {
    const Scope scope(ctx);
    const Optimizer::Control control{ctx.alloc(Keep::scratch, DType::f64, {Optimizer::kControlSize}),
                                     ctx.alloc(Keep::scratch, DType::f64, {1})};
    fill_from_host(control.values, optimizer->control_values(step, 0.01));
    optimizer->update(ctx, control);
    return *control.sum_of_squares.as<double>();
  }
  std::map<std::string, std::vector<double>> values() const {
    std::map<std::string, std::vector<double>> all;
    store.for_each([&](const std::string& name, Tensor value, Tensor) {
      all[name] = std::vector<double>(value.as<double>(), value.as<double>() + value.size());
    });
    return all;
  }
};

/// That of rank r of the world and of its group among `whole`, which one rank computed.
void expect_same(const Parts& part, const Parts& whole) {
  const auto expected = whole.values();
  for (const auto& [name, values] : part.values()) {
    const int64_t first = part.store.shards_of(name).rows.begin * kShardedCols;
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = expected.at(name)[size_t(first) + i];
      ASSERT_NEAR(values[i], value, 1e-13 * (1 + std::abs(value))) << name << " " << i;
    }
  }
}

void compare(int64_t model_ranks, int64_t bucket_bytes, ClipKind clip) {
  SCOPED_TRACE(fmt::format("groups of {}, buckets of {} bytes, clip {}", model_ranks, bucket_bytes, to_string(clip)));
  const ProcessGrid ranks = ProcessGrid::make(world().split(0), model_ranks);
  Parts part(ranks, bucket_bytes, clip), whole(ProcessGrid::one_rank(), FlatShards::kBucketBytes, clip);
  EXPECT_EQ(whole.optimizer->shards().state_size(), whole.store.flat_size());
  // Equal parts, but for one unit of 256 bytes in each bucket.
  const int64_t units = part.store.replicated().size() / 32, buckets = (units * 256 + bucket_bytes - 1) / bucket_bytes;
  EXPECT_LE(part.optimizer->shards().state_size() - part.store.sharded().size(),
            32 * (units / world().size() + buckets + 1));

  for (int64_t step = 1; step <= 5; ++step) {
    const int size = world().size(), group_size = ranks.model->size();
    part.store.for_each([&](const std::string& name, Tensor, Tensor grad) {
      const int64_t first = part.store.shards_of(name).rows.begin * kShardedCols;
      for (int64_t i = 0; i < grad.size(); ++i)
        grad.as<double>()[i] = Parts::gradient(world().rank(), name, first + i, step);
    });
    whole.store.for_each([&](const std::string& name, Tensor, Tensor grad) {
      for (int64_t i = 0; i < grad.size(); ++i) {
        double sum = 0;
        for (int rank = 0; rank < size; ++rank) {
          const Range rows = Partition::balanced(kShardedRows, group_size)[rank % group_size];
          const int64_t row = i / kShardedCols;
          if (name != "nodes" || (row >= rows.begin && row < rows.end)) sum += Parts::gradient(rank, name, i, step);
        }
        grad.as<double>()[i] = sum;
      }
    });
    const double expected = whole.update(step);
    EXPECT_NEAR(part.update(step), expected, 1e-13 * expected);
    expect_same(part, whole);
    part.optimizer->with_average(part.ctx,
                                 [&] { whole.optimizer->with_average(whole.ctx, [&] { expect_same(part, whole); }); });
    expect_same(part, whole);
  }
}

TEST(OptimizerRanks, DividedStateEqualsOneRank) {
  const int64_t size = world().size();
  for (const ClipKind clip : {ClipKind::norm, ClipKind::value})
    for (const int64_t bucket_bytes : {int64_t{256}, int64_t{2000}, FlatShards::kBucketBytes}) {
      compare(size, bucket_bytes, clip);
      compare(1, bucket_bytes, clip);
      if (size % 2 == 0) compare(size / 2, bucket_bytes, clip);
    }
}

TEST(OptimizerRanks, EveryElementHasOneOwner) {
  const ProcessGrid ranks = ProcessGrid::make(world().split(0), 0);
  const Parts part(ranks, 1000, ClipKind::none);
  const FlatShards& shards = part.optimizer->shards();
  int64_t next = 0, own = 0;
  for (const FlatShards::Owned& owned : shards.owners_of(part.store.replicated())) {
    EXPECT_EQ(owned.flat.begin, next);
    next = owned.flat.end;
    if (owned.rank == world().rank()) own += owned.flat.size();
  }
  EXPECT_EQ(next, part.store.replicated().size());
  EXPECT_EQ(own + part.store.sharded().size(), shards.state_size());
}

TEST(OptimizerRanks, RepeatsBitForBit) {
  const ProcessGrid ranks = ProcessGrid::make(world().split(0), 0);
  std::map<std::string, std::vector<double>> results[2];
  for (auto& result : results) {
    Parts part(ranks, 1000, ClipKind::norm);
    part.store.for_each([&](const std::string& name, Tensor, Tensor grad) {
      for (int64_t i = 0; i < grad.size(); ++i) grad.as<double>()[i] = Parts::gradient(world().rank(), name, i, 1);
    });
    part.update(1);
    result = part.values();
  }
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN
