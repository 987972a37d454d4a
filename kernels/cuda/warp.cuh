// Sums over the lanes of a warp.
#pragma once

#include <cuda_runtime.h>

namespace boreas::cuda {

inline constexpr unsigned kFullMask = 0xffffffffu;

/// Sum over each aligned group of kLanes lanes, the same bits in every lane. All lanes of the warp must take part.
template <int kLanes, class A>
__device__ inline A sum_lanes(A value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kFullMask, value, offset);
  return value;
}

}  // namespace boreas::cuda
