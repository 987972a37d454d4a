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
  bfloat16* rounded;    ///< [rows, cols] at rounded_stride; null: not wanted
  int64_t rounded_stride;
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
  for (int64_t i = begin + warp; i < end && c < p.cols; i += kUnroll * kSumWarps) {
    float value[kUnroll][kVector] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const From* const from = p.from + (i + u * kSumWarps) * p.from_stride + c;
      if (i + u * kSumWarps >= end) continue;
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
      bfloat16* const to = p.rounded + (i + u * kSumWarps) * p.rounded_stride + c;
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
                           .rounded = static_cast<bfloat16*>(scratch.rounded),
                           .rounded_stride = scratch.rounded_stride};
  constexpr int kVector = kVectorSize<From>;
  const bool aligned = p.cols % kVector == 0 && (p.rows <= 1 || p.from_stride % kVector == 0) &&
                       reinterpret_cast<uintptr_t>(p.from) % 16 == 0;
  const int64_t columns = kSumLanes * (aligned ? kVector : 1);
  const dim3 grid(unsigned((p.cols + columns - 1) / columns), unsigned(parts));
  launch_kernel(aligned ? sum_columns<From, kVector> : sum_columns<From, 1>, grid, kSumLanes * kSumWarps, 0, stream, p);
  if (op.d_bias)
    launch_add_partial_sums<float>(p.partial_sums, parts, p.cols, p.cols, op.d_bias.as<float>(), nullptr, stream);
}

/// to[i] = from[i], in another type.
template <class From, class To>
__global__ void __launch_bounds__(256) convert_vector(const From* from, To* to, int64_t size) {
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i < size) to[i] = narrow<To>(widen(from[i]));
}

template <class From, class To>
void launch_convert_vector(const Tensor& from, const Tensor& to, cudaStream_t stream) {
  launch_kernel(convert_vector<From, To>, unsigned((from.size() + 255) / 256), 256, 0, stream, from.as<From>(),
                to.as<To>(), from.size());
}

}  // namespace boreas::cuda
