// One GPU against several.
#include "tests/models/sharded_model.h"
#include "tests/support/gpu_ranks.h"

namespace boreas {
namespace {

using namespace test;

/// Heads and channels as kernels for tensor cores take them.
Case on_gpu(Case c, DType dtype) {
  c.config.num_channels = 32;
  c.config.num_heads = 2;
  c.config.mlp_ratio = 2;
  c.dtype = dtype;
  c.device = gpu_of_rank();
  c.name += fmt::format(" as {} on {}", to_string(dtype), to_string(c.device));
  return c;
}

TEST(ShardedModelCudaRanks, EqualsOneGpu) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  const auto graph = ProcessorKind::graph_transformer, window = ProcessorKind::transformer;
  const auto halo = ExchangeKind::halo, allgather = ExchangeKind::allgather;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    compare(on_gpu(make_case(graph, 1, Recompute::none, halo, false), dtype), world());
    compare(on_gpu(make_case(window, 2, Recompute::block, halo, true), dtype), world());
    if (quick_tests()) continue;
    compare(on_gpu(make_case(graph, 2, Recompute::mappers, allgather, true), dtype), world());
    compare(on_gpu(make_case(window, 1, Recompute::none, allgather, false), dtype), world());
  }
}

TEST(ShardedModelCudaRanks, RepeatsBitForBit) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  for (const ProcessorKind processor : {ProcessorKind::graph_transformer, ProcessorKind::transformer})
    repeats(on_gpu(make_case(processor, 2, Recompute::block, ExchangeKind::halo, false), DType::bf16), world());
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN
