// What ranks on GPUs send each other, and that it can be recorded.
#include <cstdlib>

#include "comm/communicator.h"
#include "comm/head_exchange.h"
#include "comm/row_exchange.h"
#include "kernels/elementwise/elementwise.h"
#include "tests/support/gpu_ranks.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::gpu_of_rank;
using test::GpuWorkspace;
using test::Workspace;
using test::world;

/// What rank r holds: the same function on all ranks, so that each can work out the others'.
Tensor values_of_rank(Workspace& w, int rank, DType dtype, Shape shape, int seed = 0) {
  Workspace source(uint64_t(100 + 1000 * seed + rank));
  return w.copy_of(source.random(dtype, shape));
}

/// The sum over all ranks, in their order, in the type of the terms.
Tensor sum_of_ranks(Workspace& w, DType dtype, Shape shape, int seed = 0) {
  const Tensor sum = values_of_rank(w, 0, dtype, shape, seed);
  for (int rank = 1; rank < world().size(); ++rank)
    run(w.ctx, Add{.a = sum, .b = values_of_rank(w, rank, dtype, shape, seed), .y = sum});
  return sum;
}

TEST(CommunicatorCudaRanks, AllReduceSumsInRankOrder) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  for (const auto& [dtype, size] : {std::pair{DType::f32, 1}, std::pair{DType::f32, 70001}, std::pair{DType::f64, 3}}) {
    Workspace w;
    GpuWorkspace gpu(gpu_of_rank());
    const Tensor x = gpu.upload(values_of_rank(w, world().rank(), dtype, {size}));
    world().all_reduce(gpu.ctx, x);
    EXPECT_TRUE(test::identical(gpu.download(w, x), sum_of_ranks(w, dtype, {size}))) << size;
  }
}

TEST(CommunicatorCudaRanks, BroadcastsGathersAndScatters) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  const int ranks = world().size(), me = world().rank(), last = ranks - 1;
  const Partition parts = Partition::balanced(2 * ranks + 1, ranks);
  Workspace w;
  GpuWorkspace gpu(gpu_of_rank());
  const Tensor x = gpu.upload(values_of_rank(w, me, DType::bf16, {5, 3}));
  world().broadcast(gpu.ctx, x, last);
  EXPECT_TRUE(test::identical(gpu.download(w, x), values_of_rank(w, last, DType::bf16, {5, 3})));

  const Shape shape{parts.size(), 4};
  const Tensor whole = values_of_rank(w, 77, DType::f32, shape), part = w.filled(DType::f32, shape, 0);
  run(w.ctx, Copy{.x = whole.slice(parts[me]), .y = part.slice(parts[me])});
  const Tensor gathered = gpu.upload(part);
  world().all_gather_rows(gpu.ctx, parts, gathered);
  EXPECT_TRUE(test::identical(gpu.download(w, gathered), whole));

  const Tensor mine = gpu.upload(values_of_rank(w, me, DType::f32, shape));
  world().reduce_scatter_rows(gpu.ctx, parts, mine);
  EXPECT_TRUE(test::identical(w.copy_of(gpu.download(w, mine).slice(parts[me])),
                              w.copy_of(sum_of_ranks(w, DType::f32, shape).slice(parts[me]))));

  // A group of some of the ranks is one of its own.
  const auto group = world().split(me / 2);
  group->connect(gpu_of_rank());
  const Tensor y = gpu.upload(values_of_rank(w, me, DType::f32, {7}));
  group->broadcast(gpu.ctx, y, 0);
  EXPECT_TRUE(test::identical(gpu.download(w, y), values_of_rank(w, me / 2 * 2, DType::f32, {7})));
}

TEST(CommunicatorCudaRanks, ARecordingSendsWhatIsThere) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  Workspace w;
  GpuWorkspace gpu(gpu_of_rank());
  const Shape shape{1000};
  const Tensor x = gpu.upload(w.filled(DType::f32, shape, 0));
  world().all_reduce(gpu.ctx, x);
  const Recording recording(gpu.ctx.compute(), [&] { world().all_reduce(gpu.ctx, x); });
  for (int seed = 1; seed <= 3; ++seed) {
    gpu.copy(x, values_of_rank(w, world().rank(), DType::f32, shape, seed));
    recording.launch(gpu.ctx.compute());
    EXPECT_TRUE(test::identical(gpu.download(w, x), sum_of_ranks(w, DType::f32, shape, seed))) << seed;
  }
}

TEST(CommunicatorCudaRanks, RowsArriveAsOnTheCpu) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  const Partition owners = Partition::balanced(20, world().size());
  const Range own = owners[world().rank()];
  std::vector<int64_t> needed;
  for (int64_t row = 0; row < owners.size(); ++row)
    if ((row + world().rank()) % 3 == 0 || row + 1 == own.begin || row == own.end) needed.push_back(row);
  for (const ExchangeKind kind : {ExchangeKind::halo, ExchangeKind::allgather})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const bool strided : {false, true}) {
        Workspace w(uint64_t(5 + world().rank()));
        GpuWorkspace gpu(gpu_of_rank());
        const RowExchange on_cpu = RowExchange::make(world(), owners, needed, kind, Device::cpu()),
                          on_gpu = RowExchange::make(world(), owners, needed, kind, gpu_of_rank());
        // In bf16 the CPU does not add: sums are small whole numbers, exact in any type.
        const Tensor rows = w.random(DType::f32, {on_cpu.num_rows(), 8});
        if (dtype == DType::bf16)
          for (int64_t i = 0; i < rows.size(); ++i) rows.as<float>()[i] = float(i % 7);
        const Tensor stored = w.copy_of(rows, dtype);
        const Tensor x = strided ? gpu.upload_strided(stored) : gpu.upload(stored);
        on_cpu.forward(w.ctx, rows);
        on_gpu.forward(gpu.ctx, x);
        EXPECT_TRUE(test::identical(gpu.download(w, x), w.copy_of(rows, dtype)));
        on_cpu.backward(w.ctx, rows);
        on_gpu.backward(gpu.ctx, x);
        EXPECT_TRUE(test::identical(w.copy_of(gpu.download(w, x).slice(on_gpu.own())),
                                    w.copy_of(rows.slice(on_cpu.own()), dtype)));
      }
}

TEST(CommunicatorCudaRanks, HeadsThereAndBack) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  constexpr int64_t kHeads = 5, kSize = 4, kRows = 17;
  const HeadExchange exchange(world(), Partition::balanced(kRows, world().size()), kHeads);
  Workspace w;  // the same whole on every rank
  GpuWorkspace gpu(gpu_of_rank());
  const Tensor whole = w.random(DType::f32, {kRows, kHeads * kSize});
  const Range rows = exchange.own_rows(), heads = exchange.own_heads();
  const Tensor by_heads = gpu.upload(w.output(DType::f32, {kRows, heads.size() * kSize}));
  const Tensor by_rows = gpu.upload(w.copy_of(whole.slice(rows))),
               back = gpu.upload(w.output(DType::f32, {rows.size(), kHeads * kSize}));
  exchange.to_heads(gpu.ctx, by_rows, by_heads);
  EXPECT_TRUE(
      test::identical(gpu.download(w, by_heads), w.copy_of(whole.columns({heads.begin * kSize, heads.end * kSize}))));
  exchange.to_rows(gpu.ctx, by_heads, back);
  EXPECT_TRUE(test::identical(gpu.download(w, back), w.copy_of(whole.slice(rows))));
}

TEST(CommunicatorCudaRanks, SharingAGpuIsRefused) {
  BOREAS_CONNECT_GPUS_OR_SKIP();
  const char* const shared = std::getenv("BOREAS_SHARE_GPU");
  if (!shared || world().size() == 1) GTEST_SKIP() << "needs ranks that share a GPU: BOREAS_SHARE_GPU=1";
  const std::string value = shared;
  unsetenv("BOREAS_SHARE_GPU");
  const std::string why_not = world().why_not_on(Device::cuda(0));
  const auto group = world().split(0);
  BOREAS_EXPECT_ERROR(group->connect(Device::cuda(0)), comm, "each needs one of its own");
  setenv("BOREAS_SHARE_GPU", value.c_str(), 1);
  EXPECT_TRUE(why_not.starts_with("ranks 0 and 1 have the same GPU (NVIDIA ")) << why_not;
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN
