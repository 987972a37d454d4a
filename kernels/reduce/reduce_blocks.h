// How many blocks the GPU sums with: shared by its launcher and by the size of its scratch memory.
#pragma once

#include <algorithm>
#include <cstdint>

namespace boreas::cuda {

/// Each block leaves one partial sum. A function of the size only: enough to fill an H200, one block for small tensors.
constexpr int64_t reduce_blocks(int64_t size) { return std::clamp<int64_t>(size / 8192, 1, 132 * 8); }

}  // namespace boreas::cuda
