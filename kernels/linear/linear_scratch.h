// What the GPU's backward keeps in scratch memory: shared by its launcher and by the op, which declares the size.
#pragma once

#include <algorithm>

#include "kernels/core/scratch.h"
#include "kernels/linear/linear.h"

namespace boreas::cuda {

/// Columns that a block of the column sums owns, and the parts that rows are split into: functions of the shapes only.
constexpr int64_t linear_sum_columns(DType dtype) { return 32 * (16 / size_of(dtype)); }
constexpr int64_t linear_sum_parts(int64_t rows, int64_t cols, DType dtype) {
  constexpr int64_t kBlocks = 132 * 8;  // of an H100 or H200; a plan must not depend on the machine it is made on
  const int64_t column_blocks = (cols + linear_sum_columns(dtype) - 1) / linear_sum_columns(dtype);
  return std::clamp<int64_t>(rows / 64, 1, std::max<int64_t>(kBlocks / std::max<int64_t>(column_blocks, 1), 1));
}

struct LinearScratch {
  float* partial_sums;  ///< [parts, M]: of the rows of d_y, for d_bias
  void* rounded;        ///< [N, rounded_stride]: d_y in the type of the products, if it has another
  int64_t rounded_stride;
  int64_t bytes;

  LinearScratch(const LinearBackward& op, DType dtype, void* base = nullptr) {
    const int64_t rows = op.d_y.rows(), cols = op.d_y.cols();
    ScratchPieces pieces(base);
    partial_sums = pieces.take<float>(op.d_bias ? linear_sum_parts(rows, cols, op.d_y.dtype()) * cols : 0);
    rounded_stride = (cols + 7) / 8 * 8;  // 16-byte aligned rows, which products like
    const bool rounds = dtype != op.d_y.dtype() && (op.d_x || op.d_weight);
    rounded = pieces.take<char>(rounds ? rows * rounded_stride * size_of(dtype) : 0);
    if (!rounds) rounded = nullptr;
    bytes = pieces.bytes();
  }
};

}  // namespace boreas::cuda
