// How the GPU's losses are cut into blocks: shared by their launchers and by the size of their scratch memory.
#pragma once

#include <algorithm>
#include <cstdint>

namespace boreas::cuda {

/// A block owns 128 columns (32 lanes with 4 each) of rows that its 8 warps take in turn.
inline constexpr int kLossLanes = 32, kLossWarps = 8, kLossColumnsALane = 4;
inline constexpr int kLossColumns = kLossLanes * kLossColumnsALane;

inline constexpr int kLossBlocksResident = 4;  ///< on a multiprocessor

/// Blocks that share the rows. A function of the shape only: those that an H200 holds at once.
constexpr int64_t loss_blocks(int64_t rows) {
  return std::clamp<int64_t>((rows + 2 * kLossWarps - 1) / (2 * kLossWarps), 1, 132 * kLossBlocksResident);
}

constexpr int64_t loss_column_tiles(int64_t cols) { return (cols + kLossColumns - 1) / kLossColumns; }

/// Partial sums that the blocks of the same rows leave: one a column, or one a tile of columns.
constexpr int64_t loss_sums_a_block(int64_t cols, int64_t num_losses) {
  return num_losses > 1 ? num_losses : loss_column_tiles(cols);
}

}  // namespace boreas::cuda
