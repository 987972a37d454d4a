// What emulated kernels are made of behaves as on the GPU, and mistakes show.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/matrix.cuh"
#include "kernels/cuda/warp.cuh"
#include "tests/support/tolerances.h"

namespace boreas::cuda {
namespace {

// Each block writes the sum of its threads' values; without the barrier, what was there before.
__global__ void sum_block(const float* x, float* y, bool with_barrier) {
  float* const shared = dynamic_shared<float>();
  const float sum = sum_lanes<32>(x[blockIdx.x * blockDim.x + threadIdx.x]);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  if (with_barrier) __syncthreads();
  if (threadIdx.x != 0) return;
  float total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) total += shared[w];
  y[blockIdx.x] = total;
}

TEST(Emulation, ShufflesBarriersAndSharedMemory) {
  std::vector<float> x(3 * 128), y(3);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i);
  for (const auto order : {emulation::Order::ascending, emulation::Order::descending}) {
    emulation::order() = order;
    launch_kernel(sum_block, 3, 128, 4 * sizeof(float), nullptr, x.data(), y.data(), true);
    for (int b = 0; b < 3; ++b) EXPECT_EQ(y[b], 128.f * 127 / 2 + 128.f * 128 * float(b));
  }
  emulation::order() = emulation::Order::ascending;
  launch_kernel(sum_block, 3, 128, 4 * sizeof(float), nullptr, x.data(), y.data(), false);
  EXPECT_TRUE(std::isnan(y[0])) << "a missing barrier was not seen";
}

__global__ void shuffle_in_half_a_warp(int* y) {
  if (threadIdx.x < 16) *y = __shfl_sync(kFullMask, int(threadIdx.x), 0);
}

TEST(Emulation, SaysThatLanesAreMissing) {
  int y = 0;
  BOREAS_EXPECT_ERROR(launch_kernel(shuffle_in_half_a_warp, 1, 32, 0, nullptr, &y), internal, "never come");
}

// c = a b by the fragments that matrix.cuh documents, operands through shared memory; a is [16, 16], b is [16, 8] or
// its transpose.
__global__ void multiply(const bfloat16* a, const bfloat16* b, bool transposed, float* c) {
  bfloat16* const shared = dynamic_shared<bfloat16>();
  const int lane = int(threadIdx.x);
  copy_async(shared + 8 * lane, a + 8 * lane, true);
  if (lane < 16) copy_async(shared + 256 + 8 * lane, b + 8 * lane, true);
  commit_copies();
  wait_for_copies<0>();
  __syncwarp();
  uint32_t left[4], right[4];
  load_matrices(left, shared + lane % 16 * 16 + lane / 16 * 8);
  if (transposed)
    load_matrices(right, shared + 256 + lane % 8 * 16 + lane / 8 % 2 * 8);  // [8, 16]
  else
    load_matrices_transposed(right, shared + 256 + lane % 16 * 8);
  float sum[4] = {};
  mma_bf16(sum, left, right[0], right[1]);
  for (int e = 0; e < 4; ++e) c[(lane / 4 + e / 2 * 8) * 8 + 2 * (lane % 4) + e % 2] = sum[e];
}

TEST(Emulation, MatrixProducts) {
  std::vector<bfloat16> a(256), b(128), b_transposed(128);
  for (int i = 0; i < 256; ++i) a[i] = bfloat16(float(i * 7 % 31) - 15);
  for (int i = 0; i < 128; ++i) b[i] = b_transposed[i % 8 * 16 + i / 8] = bfloat16(float(i * 5 % 23) - 11);
  for (const bool transposed : {false, true}) {
    std::vector<float> c(128);
    launch_kernel(multiply, 1, 32, 384 * 2, nullptr, a.data(), transposed ? b_transposed.data() : b.data(), transposed,
                  c.data());
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) {
        float expected = 0;
        for (int k = 0; k < 16; ++k) expected += float(a[i * 16 + k]) * float(b[k * 8 + j]);
        EXPECT_EQ(c[i * 8 + j], expected) << i << ", " << j;
      }
  }
}

// One warp copies in, another adds one, the first copies out; several rounds through the same memory.
__global__ void add_one_by_bulk_copies(const float* x, float* y, int num_rounds, bool with_wait) {
  float* const shared = dynamic_shared<float>();
  auto* const barriers = reinterpret_cast<SharedBarrier*>(shared + 64);
  if (threadIdx.x == 0) {
    init_barrier(&barriers[0], 1);
    init_barrier(&barriers[1], 32);
    publish_barriers();
  }
  __syncthreads();
  for (int round = 0; round < num_rounds; ++round) {
    if (threadIdx.x == 0) {
      arrive_expecting(&barriers[0], 2 * 128);
      load_bulk(shared, x + 64 * round, 128, &barriers[0]);
      load_bulk(shared + 32, x + 64 * round + 32, 128, &barriers[0]);
      wait_phase(&barriers[1], round);
      store_bulk(y + 64 * round, shared, 256);
      commit_bulk_stores();
      wait_bulk_stores_read();
    } else if (threadIdx.x >= 32) {
      if (with_wait) wait_phase(&barriers[0], round);
      for (int i = int(threadIdx.x) - 32; i < 64; i += 32) shared[i] += 1;
      fence_bulk();
      arrive(&barriers[1]);
    }
  }
  if (threadIdx.x == 0) wait_bulk_stores();
}

TEST(Emulation, BulkCopiesComeLate) {
  std::vector<float> x(128), y(128);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i);
  for (const auto order : {emulation::Order::ascending, emulation::Order::descending}) {
    emulation::order() = order;
    launch_kernel(add_one_by_bulk_copies, 1, 64, 64 * sizeof(float) + 2 * sizeof(SharedBarrier), nullptr, x.data(),
                  y.data(), 2, true);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], x[i] + 1) << i;
  }
  emulation::order() = emulation::Order::ascending;
  BOREAS_EXPECT_ERROR(launch_kernel(add_one_by_bulk_copies, 1, 64, 64 * sizeof(float) + 2 * sizeof(SharedBarrier),
                                    nullptr, x.data(), y.data(), 1, false),
                      internal, "a copy is not waited for");
}

}  // namespace
}  // namespace boreas::cuda
