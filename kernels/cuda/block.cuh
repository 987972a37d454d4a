// Sums over the threads of a block, and over what blocks leave.
#pragma once

#include "kernels/cuda/warp.cuh"

namespace boreas::cuda {

/// Sum over the kThreads threads of a block, in an order that is always the same; valid in thread 0. Every thread must
/// take part, and a barrier must lie between two calls with the same `shared`.
template <int kThreads, class A>
__device__ inline A sum_block(A value, A (&shared)[kThreads / 32]) {
  const int thread = threadIdx.x + threadIdx.y * blockDim.x;
  value = sum_lanes<32>(value);
  if (thread % 32 == 0) shared[thread / 32] = value;
  __syncthreads();
  A sum = 0;
  if (thread == 0)
    for (int w = 0; w < kThreads / 32; ++w) sum += shared[w];
  return sum;
}

/// Sum of `count` values that lie `stride` apart, by the kThreads threads of a block; valid in thread 0.
template <int kThreads, class A>
__device__ inline A sum_strided(const A* values, int64_t count, int64_t stride) {
  __shared__ A shared[kThreads / 32];
  A sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += values[i * stride];
  return sum_block<kThreads>(sum, shared);
}

}  // namespace boreas::cuda
