// Column sums of a matrix, and its copy in a narrower type, in one pass.
#pragma once

#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/matrix.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/vector_io.cuh"
#include "kernels/linear/linear_scratch.h"

namespace boreas::cuda {

inline constexpr int kSumLanes = 32, kSumWarps = 8;

template <class From>
struct ColumnSums {
  int64_t rows, cols;
  const From* from;
  int64_t from_stride;
  float* partial_sums;  ///< [gridDim.y, cols]; null: not wanted
  bfloat16* rounded;    ///< [rows, rounded_cols], contiguous, zeros from `cols` on; null: not wanted
  int64_t rounded_cols;
};

/// Block (x, y) owns the columns [x, x + 1) * kSumLanes * kVector of the rows of part y; a lane owns kVector columns, a
/// warp each kSumWarps-th row. kVector: 1 or kVectorSize<From>, where rows are aligned.
template <class From, int kVector>
__global__ void __launch_bounds__(kSumLanes* kSumWarps) sum_columns(ColumnSums<From> p) {
  constexpr int kUnroll = 4;
  __shared__ float sums[kSumWarps][kVector][kSumLanes];
  const int lane = threadIdx.x % kSumLanes, warp = threadIdx.x / kSumLanes;
  const int64_t c = (int64_t(blockIdx.x) * kSumLanes + lane) * kVector;
  const int64_t begin = p.rows * blockIdx.y / gridDim.y, end = p.rows * (blockIdx.y + 1) / gridDim.y;
  float sum[kVector] = {};
  const int64_t cols = p.rounded ? p.rounded_cols : p.cols;
  for (int64_t i = begin + warp; i < end && c < cols; i += kUnroll * kSumWarps) {
    float value[kUnroll][kVector] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const From* const from = p.from + (i + u * kSumWarps) * p.from_stride + c;
      if (i + u * kSumWarps >= end || c >= p.cols) continue;
      if constexpr (kVector == 1)
        value[u][0] = widen(*from);
      else
        load_vector(from, value[u]);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int k = 0; k < kVector; ++k) sum[k] += value[u][k];
      if (!p.rounded || i + u * kSumWarps >= end) continue;
      bfloat16* const to = p.rounded + (i + u * kSumWarps) * p.rounded_cols + c;
      if constexpr (kVector == 4)
        *reinterpret_cast<uint2*>(to) =
            make_uint2(pack_bf16(value[u][0], value[u][1]), pack_bf16(value[u][2], value[u][3]));
      else
#pragma unroll
        for (int k = 0; k < kVector; ++k) to[k] = narrow<bfloat16>(value[u][k]);
    }
  }
  if (!p.partial_sums) return;
#pragma unroll
  for (int k = 0; k < kVector; ++k) sums[warp][k][lane] = sum[k];
  __syncthreads();
  for (int k = warp; k < kVector; k += kSumWarps) {
    float total = 0;
    for (int w = 0; w < kSumWarps; ++w) total += sums[w][k][lane];
    if (c < p.cols) p.partial_sums[blockIdx.y * p.cols + c + k] = total;
  }
}

/// d_bias, and d_y rounded to bf16, as far as they are wanted.
template <class From>
void launch_sum_columns(const LinearBackward& op, const LinearScratch& scratch, cudaStream_t stream) {
  const int64_t parts = linear_sum_parts(op.d_y.rows(), op.d_y.cols(), op.d_y.dtype());
  const ColumnSums<From> p{.rows = op.d_y.rows(),
                           .cols = op.d_y.cols(),
                           .from = op.d_y.as<From>(),
                           .from_stride = op.d_y.row_stride(),
                           .partial_sums = op.d_bias ? scratch.partial_sums : nullptr,
                           .rounded = scratch.rounded ? (*scratch.rounded).template as<bfloat16>() : nullptr,
                           .rounded_cols = scratch.rounded ? (*scratch.rounded).cols() : 0};
  constexpr int kVector = kVectorSize<From>;
  const bool aligned = p.cols % kVector == 0 && (p.rows <= 1 || p.from_stride % kVector == 0) &&
                       reinterpret_cast<uintptr_t>(p.from) % 16 == 0;
  const int64_t columns = kSumLanes * (aligned ? kVector : 1);
  const dim3 grid(unsigned((p.cols + columns - 1) / columns), unsigned(parts));
  launch_kernel(aligned ? sum_columns<From, kVector> : sum_columns<From, 1>, grid, kSumLanes * kSumWarps, 0, stream, p);
  if (op.d_bias)
    launch_add_partial_sums<float>(p.partial_sums, parts, p.cols, p.cols, op.d_bias.as<float>(), nullptr, stream);
}

/// to[i] = from[i] in another type; zeros from `size` on.
template <class From, class To>
__global__ void __launch_bounds__(256) convert_vector(const From* from, int64_t size, To* to, int64_t to_size) {
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i < to_size) to[i] = i < size ? narrow<To>(widen(from[i])) : narrow<To>(0.0f);
}

template <class From, class To>
void launch_convert_vector(const Tensor& from, const Tensor& to, cudaStream_t stream) {
  launch_kernel(convert_vector<From, To>, unsigned((to.size() + 255) / 256), 256, 0, stream, from.as<From>(),
                from.size(), to.as<To>(), to.size());
}

inline constexpr int kPadRows = 4, kPadLanes = 64;  // of a block

/// to = from, and zeros behind it, up to the stride of `to`, and below it.
__global__ inline void __launch_bounds__(kPadRows* kPadLanes)
    pad_matrix(const bfloat16* from, int64_t rows, int64_t cols, int64_t stride, bfloat16* to, int64_t to_rows,
               int64_t to_stride) {
  const int64_t i = int64_t(blockIdx.x) * kPadRows + threadIdx.x / kPadLanes;
  if (i >= to_rows) return;
  for (int64_t j = threadIdx.x % kPadLanes; j < to_stride; j += kPadLanes)
    to[i * to_stride + j] = i < rows && j < cols ? from[i * stride + j] : narrow<bfloat16>(0.0f);
}

inline void launch_pad_matrix(const Tensor& from, const Tensor& to, cudaStream_t stream) {
  launch_kernel(pad_matrix, unsigned((to.rows() + kPadRows - 1) / kPadRows), kPadRows * kPadLanes, 0, stream,
                from.as<bfloat16>(), from.rows(), from.cols(), from.row_stride(), to.as<bfloat16>(), to.rows(),
                to.row_stride());
}

}  // namespace boreas::cuda
