// How many blocks the GPU sums with: shared by its launcher and by the size of its scratch memory.
#pragma once

#include <algorithm>
#include <cstdint>

namespace boreas::cuda {

inline constexpr int kReduceBlocksResident = 6;  ///< on a multiprocessor

/// Each block leaves one partial sum. A function of the size only: those that an H200 holds at once, one block for
/// small tensors.
constexpr int64_t reduce_blocks(int64_t size) {
  return std::clamp<int64_t>(size / 8192, 1, 132 * kReduceBlocksResident);
}

}  // namespace boreas::cuda
