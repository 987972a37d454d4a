// How many blocks the GPU's backward runs with: shared by its launcher and by the size of its scratch memory.
#pragma once

#include <algorithm>
#include <cstdint>

namespace boreas::cuda {

/// Multiprocessors of the H100 and H200. A plan must not depend on the machine that it is made on; on another device
/// only speed suffers.
inline constexpr int64_t kMultiprocessors = 132;

/// Blocks a multiprocessor has registers for, by the columns that a lane keeps sums of.
constexpr int layer_norm_resident_blocks(int columns) { return columns > 16 ? 4 : columns > 8 ? 5 : 7; }

/// Blocks of the pass that sums parameter gradients; each leaves one partial sum. A function of the shapes only. Blocks
/// stay resident: there are as many as fit at once.
constexpr int64_t layer_norm_blocks(int64_t num_segments, int64_t width) {
  const int resident = layer_norm_resident_blocks(int(std::min<int64_t>(width, 1024)) / 32);
  return std::clamp<int64_t>((num_segments + 15) / 16, 1, kMultiprocessors * resident);
}

}  // namespace boreas::cuda
