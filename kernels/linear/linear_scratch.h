// What the GPU keeps in scratch memory: shared by the launchers and by the ops, which declare the size.
//
// Matrix units want sums over multiples of 8 and rows aligned to 16 bytes. Weights that have neither are copied with
// zeros behind and below them: they are small beside the rows that they multiply. Results that have neither are made
// with such rows and then copied.
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

/// A matrix in scratch memory that stands for another one; empty if that one will do itself.
class ScratchMatrix {
 public:
  ScratchMatrix() = default;
  ScratchMatrix(ScratchPieces& pieces, DType dtype, int64_t rows, int64_t cols, Device device)
      : matrix_(pieces.take<char>(rows * padded_columns(cols) * size_of(dtype)), dtype, {rows, cols}, device,
                padded_columns(cols)) {}
  explicit operator bool() const { return bool(matrix_); }
  const Tensor& operator*() const { return matrix_; }
  const Tensor& or_else(const Tensor& itself) const { return matrix_ ? matrix_ : itself; }

 private:
  Tensor matrix_;
};

inline bool has_aligned_rows(const Tensor& matrix) { return matrix.rows() <= 1 || matrix.row_stride() % 8 == 0; }

struct LinearForwardScratch {
  void* bias;            ///< [M], or as many as `result` has columns: in the type of y and aligned
  ScratchMatrix weight;  ///< with the columns of x and the rows of `result`
  ScratchMatrix result;  ///< [N, padded_columns(M)]: y with padding
  int64_t bytes;

  explicit LinearForwardScratch(const LinearForward& op, void* base = nullptr) {
    ScratchPieces pieces(base);
    const bool is_bf16 = op.x.dtype() == DType::bf16;
    const bool pads = is_bf16 && op.y.cols() % 8 != 0 && !op.residual && op.activation == Activation::none;
    const int64_t m = pads ? padded_columns(op.y.cols()) : op.y.cols();
    bias = pieces.take<char>(op.bias ? m * size_of(op.y.dtype()) : 0);
    if (is_bf16 && (m != op.weight.rows() || op.x.cols() != op.weight.cols() || !has_aligned_rows(op.weight)))
      weight = ScratchMatrix(pieces, op.x.dtype(), m, op.x.cols(), op.x.device());
    if (pads) result = ScratchMatrix(pieces, op.y.dtype(), op.y.rows(), m, op.y.device());
    bytes = pieces.bytes();
  }
};

struct LinearScratch {
  float* partial_sums;     ///< [parts, M]: of the rows of d_y, for d_bias
  ScratchMatrix rounded;   ///< [N, padded_columns(M)]: d_y in the type of the products, if it has another
  ScratchMatrix weight;    ///< with as many rows as the products' d_y has columns
  ScratchMatrix d_weight;  ///< likewise, with the columns of x
  int64_t bytes;

  LinearScratch(const LinearBackward& op, DType dtype, void* base = nullptr) {
    const int64_t rows = op.d_y.rows(), cols = op.d_y.cols();
    const Device device = op.d_y.device();
    ScratchPieces pieces(base);
    partial_sums = pieces.take<float>(op.d_bias ? linear_sum_parts(rows, cols, op.d_y.dtype()) * cols : 0);
    int64_t m = cols;
    if (dtype != op.d_y.dtype() && (op.d_x || op.d_weight))
      rounded = ScratchMatrix(pieces, dtype, rows, m = padded_columns(cols), device);
    if (dtype == DType::bf16 && op.d_x && (m != cols || !has_aligned_rows(op.weight)))
      weight = ScratchMatrix(pieces, dtype, m, op.d_x.cols(), device);
    if (dtype == DType::bf16 && op.d_weight && (m != cols || op.x.cols() != op.d_weight.cols()))
      d_weight = ScratchMatrix(pieces, DType::f32, m, op.x.cols(), device);
    bytes = pieces.bytes();
  }
};

}  // namespace boreas::cuda
