// The second stage of sums over rows without atomics: the partial sums of blocks, added up in a fixed order.
#pragma once

#include "kernels/cuda/kernel.cuh"

namespace boreas::cuda {

inline constexpr int kSumColumns = 32, kSumRows = 32;

/// out[c] += sum over p of partials[p * columns + c]. A block of kSumColumns x kSumRows threads owns kSumColumns of the
/// columns; row r of threads adds up partial sums r, r + kSumRows, ...; then the rows are added in order. Columns from
/// `split` on go to `second`, from its beginning; a null output is not wanted.
template <class A>
__global__ void add_partial_sums(const A* partials, int64_t num_partials, int64_t columns, int64_t split, A* first,
                                 A* second) {
  __shared__ A sums[kSumRows][kSumColumns];
  const int64_t column = int64_t(blockIdx.x) * kSumColumns + threadIdx.x;
  A sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t p = threadIdx.y; p < num_partials; p += kSumRows) sum += partials[p * columns + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int r = 1; r < kSumRows; ++r) sum += sums[r][threadIdx.x];
  if (column < split) {
    if (first) first[column] += sum;
  } else if (second) {
    second[column - split] += sum;
  }
}

template <class A>
void launch_add_partial_sums(const A* partials, int64_t num_partials, int64_t columns, int64_t split, A* first,
                             A* second, cudaStream_t stream) {
  const int blocks = int((columns + kSumColumns - 1) / kSumColumns);
  launch_kernel(add_partial_sums<A>, blocks, dim3(kSumColumns, kSumRows), 0, stream, partials, num_partials, columns,
                split, first, second);
}

}  // namespace boreas::cuda
