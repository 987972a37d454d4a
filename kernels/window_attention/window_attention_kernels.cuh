// What the kernels of windowed attention take, and the tiles of the band that a block visits.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/vector_io.cuh"
#include "kernels/cuda/warp.cuh"

namespace boreas::cuda::window_attention {

inline constexpr float kLog2E = 1.4426950408889634f, kLog2 = 0.6931471805599453f;
inline constexpr int kThreads = 128, kWarps = kThreads / 32;

/// A tensor of which a block works on one head.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
  __device__ T* at(int64_t row, int column) const { return data + row * stride + column; }
};

/// Rows are queries and columns keys, or the other way round.
struct Sizes {
  int num_rows, num_columns;
  int shift;  // row i stands in the sequence where column i + shift does
  int window, num_heads, head_size;
  float scale;
};

template <class T>
struct Forward {
  Sizes n;
  Rows<const T> q, k, v;
  Rows<T> o;
  Rows<float> stats;
};

template <class T>
struct Backward {
  Sizes n;  // rows are queries; for kernels that own keys, keys
  Rows<const T> q, k, v, o, d_o;
  Rows<const float> stats;
  Rows<T> d_q, d_k, d_v;
  float *log2_sum, *mean;  // [H, padded length]; see RowTerms
  int64_t padded_length;
};

/// Blocks are numbered with heads fastest: those in flight together read the same rows.
struct BlockPlace {
  int head, first_row;
};
__device__ inline BlockPlace place_of_block(const Sizes& n, int rows_per_block) {
  return {int(blockIdx.x) % n.num_heads, int(blockIdx.x) / n.num_heads * rows_per_block};
}

/// Tiles of columns that hold all partners of the rows [first_row, first_row + rows): column `first + t * kColumns` and
/// following, t < count; at least one, also where there are no partners.
struct Steps {
  int first, count;
};
__device__ inline Steps steps_of(const Sizes& n, int first_row, int rows, int columns) {
  constexpr int kAligned = 4;  // so that row terms can be copied 16 bytes at a time
  const int end = n.num_columns - 1, last_row = min(first_row + rows, n.num_rows) - 1 + n.shift;
  const int first = min(max(first_row + n.shift - n.window, 0), end) / kAligned * kAligned;
  const int last = last_row < end - n.window ? max(last_row + n.window, first) : end;
  return {first, (last - first) / columns + 1};
}

/// How a tile of rows and a tile of columns meet: not at all, in every pair, or in some.
enum class Overlap { none, some, all };
__device__ inline Overlap overlap_of(const Sizes& n, int first_row, int rows, int first_column, int columns) {
  const int from = first_row + n.shift, to = from + rows - 1, last_column = first_column + columns - 1;
  if (first_row >= n.num_rows || first_column - to > n.window || from - last_column > n.window) return Overlap::none;
  const bool all = last_column < n.num_columns && last_column - from <= n.window && to - first_column <= n.window;
  return all ? Overlap::all : Overlap::some;
}

__device__ inline bool are_partners(const Sizes& n, int row, int column) {
  const int distance = row + n.shift - column;
  return column < n.num_columns && distance <= n.window && -distance <= n.window;
}

/// Fills the row terms, padding included. A group of `lanes` lanes (a power of two) owns one row of one head.
template <class T, bool kVectors>
__global__ void __launch_bounds__(kThreads) row_terms(const Backward<T> p, int lanes) {
  constexpr int kStep = kVectors ? kVectorSize<T> : 1;
  const int64_t pair = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / lanes;
  const int64_t row = pair / p.n.num_heads;
  const int head = int(pair % p.n.num_heads);
  float mean = 0;
  if (row < p.n.num_rows)
    for (int c = int(threadIdx.x) % lanes * kStep; c < p.n.head_size; c += lanes * kStep) {
      const T* const g = p.d_o.at(row, head * p.n.head_size + c);
      const T* const o = p.o.at(row, head * p.n.head_size + c);
      if constexpr (kVectors) {
        float left[kStep], right[kStep];
        load_vector(g, left);
        load_vector(o, right);
#pragma unroll
        for (int k = 0; k < kStep; ++k) mean += left[k] * right[k];
      } else {
        mean += widen(*g) * widen(*o);
      }
    }
  for (int offset = lanes / 2; offset > 0; offset /= 2) mean += __shfl_xor_sync(kFullMask, mean, offset);
  if (int(threadIdx.x) % lanes != 0 || row >= p.padded_length) return;
  p.log2_sum[head * p.padded_length + row] = row < p.n.num_rows ? *p.stats.at(row, head) * kLog2E : INFINITY;
  p.mean[head * p.padded_length + row] = mean;
}

}  // namespace boreas::cuda::window_attention
