// How many blocks the GPU's backward runs with: shared by its launcher and by the size of its scratch memory.
#pragma once

#include <algorithm>
#include <cstdint>

namespace boreas::cuda {

/// Multiprocessors of the H100 and H200. A plan must not depend on the machine that it is made on; on another device
/// only speed suffers.
inline constexpr int64_t kMultiprocessors = 132;

/// Blocks of the pass that sums parameter gradients; each leaves one partial sum. A function of the shapes only. Blocks
/// stay resident, so there are as many a multiprocessor as the registers for that width allow.
constexpr int64_t layer_norm_blocks(int64_t num_segments, int64_t width) {
  const int64_t resident = width <= 256 ? 8 : width <= 512 ? 4 : 3;
  return std::clamp<int64_t>((num_segments + 15) / 16, 1, kMultiprocessors * resident);
}

}  // namespace boreas::cuda
