// Windowed attention by plain multiplications, in any type and for any head size up to 32 * kC. A block of four warps
// owns 4 * kR rows of one head; tiles of 32 columns go through shared memory. A warp computes the scores of its kR
// rows, lane j those of column j, and then the sums, lane l those of channels l, l + 32, ... Rows are queries and
// columns keys, except in backward_keys, where they swap so that every sum is made by one warp in one order.
#pragma once

#include "kernels/cuda/matrix.cuh"
#include "kernels/window_attention/window_attention_launch.cuh"

namespace boreas::cuda::window_attention {

inline constexpr int kR = 8, kGenericRows = kWarps * kR, kGenericColumns = 32;

template <int kC>
constexpr int kRowStride = 32 * kC + 4;  // four more, so that 16-byte reads of different rows meet different banks

/// Rows [first, first + 32) of a head, filled up with zeros beyond the `length` rows that there are, and the head.
template <int kC, class T>
__device__ inline void load_rows(float* tile, const Sizes& n, int length, const Rows<const T>& source, int head,
                                 int first) {
  for (int i = threadIdx.x; i < 32 * 32 * kC; i += kThreads) {
    const int row = i / (32 * kC), c = i % (32 * kC);
    const bool valid = first + row < length && c < n.head_size;
    tile[row * kRowStride<kC> + c] = valid ? widen(*source.at(first + row, head * n.head_size + c)) : 0.0f;
  }
}

/// products[r] = row r of the warp times the lane's column.
template <int kC>
__device__ inline void multiply_rows(float (&products)[kR], const float* rows, const float* columns) {
#pragma unroll
  for (int r = 0; r < kR; ++r) products[r] = 0;
  const float* const column = columns + threadIdx.x % 32 * kRowStride<kC>;
#pragma unroll 4
  for (int c = 0; c < 32 * kC; c += 4) {
    const float4 x = *reinterpret_cast<const float4*>(column + c);
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const float4 y = *reinterpret_cast<const float4*>(rows + r * kRowStride<kC> + c);
      products[r] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, products[r]))));
    }
  }
}

/// sums[r][i] += sum over columns of scores[r], of which each lane gives its column, times channel lane + 32 i of the
/// column. `exchange` is the warp's own: [kR, 32].
template <int kC>
__device__ inline void add_columns(float (&sums)[kR][kC], const float (&scores)[kR], const float* columns,
                                   float* exchange) {
  const int lane = threadIdx.x % 32;
  __syncwarp();
#pragma unroll
  for (int r = 0; r < kR; ++r) exchange[r * 32 + lane] = scores[r];
  __syncwarp();
#pragma unroll 2
  for (int j = 0; j < 32; j += 4) {
    float4 score[kR];
#pragma unroll
    for (int r = 0; r < kR; ++r) score[r] = *reinterpret_cast<const float4*>(exchange + r * 32 + j);
#pragma unroll
    for (int i = 0; i < kC; ++i) {
      const float* const value = columns + j * kRowStride<kC> + lane + 32 * i;
#pragma unroll
      for (int r = 0; r < kR; ++r) {
        sums[r][i] = fmaf(score[r].x, value[0], sums[r][i]);
        sums[r][i] = fmaf(score[r].y, value[kRowStride<kC>], sums[r][i]);
        sums[r][i] = fmaf(score[r].z, value[2 * kRowStride<kC>], sums[r][i]);
        sums[r][i] = fmaf(score[r].w, value[3 * kRowStride<kC>], sums[r][i]);
      }
    }
  }
}

template <int kC, class T>
__device__ inline void store_sums(const Sizes& n, const float (&sums)[kR][kC], const float (&factor)[kR],
                                  const Rows<T>& target, int head, int row) {
#pragma unroll
  for (int r = 0; r < kR; ++r)
#pragma unroll
    for (int i = 0; i < kC; ++i) {
      const int c = threadIdx.x % 32 + 32 * i;
      if (row + r < n.num_rows && c < n.head_size)
        *target.at(row + r, head * n.head_size + c) = narrow<T>(sums[r][i] * factor[r]);
    }
}

template <int kC>
constexpr int kGenericTile = 32 * kRowStride<kC>;  // elements
template <int kC>
constexpr int kGenericForwardBytes = (3 * kGenericTile<kC> + kGenericRows * 32) * int(sizeof(float));
template <int kC>
constexpr int kGenericBackwardBytes = (4 * kGenericTile<kC> + kGenericRows * 32) * int(sizeof(float));

template <class T, int kC>
__global__ void __launch_bounds__(kThreads) forward_generic(const Forward<T> p) {
  float* const tiles = dynamic_shared<float>();
  float *const queries = tiles, *const keys = queries + kGenericTile<kC>, *const values = keys + kGenericTile<kC>;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  float* const exchange = values + kGenericTile<kC> + warp * kR * 32;
  const float* const rows = queries + warp * kR * kRowStride<kC>;
  const Sizes n = p.n;
  const auto [head, block_row] = place_of_block(n, kGenericRows);
  const int row = block_row + warp * kR;
  const Steps steps = steps_of(n, block_row, kGenericRows, kGenericColumns);
  const float factor = n.scale * kLog2E;

  load_rows<kC>(queries, n, n.num_rows, p.q, head, block_row);
  float out[kR][kC] = {}, largest[kR], total[kR] = {};
#pragma unroll
  for (int r = 0; r < kR; ++r) largest[r] = -INFINITY;
  for (int step = 0; step < steps.count; ++step) {
    const int first = steps.first + step * kGenericColumns;
    __syncthreads();
    load_rows<kC>(keys, n, n.num_columns, p.k, head, first);
    load_rows<kC>(values, n, n.num_columns, p.v, head, first);
    __syncthreads();
    if (overlap_of(n, row, kR, first, kGenericColumns) == Overlap::none) continue;
    float scores[kR];
    multiply_rows<kC>(scores, rows, keys);
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      float here = are_partners(n, row + r, first + lane) ? scores[r] * factor : -INFINITY;
      scores[r] = here;
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) here = fmaxf(here, __shfl_xor_sync(kFullMask, here, offset));
      const float before = largest[r];
      largest[r] = fmaxf(before, here);
      const float shift = largest[r] == -INFINITY ? 0 : largest[r];  // a row without partners so far
      const float correction = fast_exp2(before - shift);
      scores[r] = fast_exp2(scores[r] - shift);
      total[r] = total[r] * correction + scores[r];
#pragma unroll
      for (int i = 0; i < kC; ++i) out[r][i] *= correction;
    }
    add_columns<kC>(out, scores, values, exchange);
  }
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    total[r] = sum_lanes<32>(total[r]);
    if (lane == 0 && row + r < n.num_rows) *p.stats.at(row + r, head) = (largest[r] + log2f(total[r])) * kLog2;
    total[r] = 1 / total[r];
  }
  store_sums<kC>(n, out, total, p.o, head, row);
}

/// d_q of the rows of a block.
template <class T, int kC>
__global__ void __launch_bounds__(kThreads) backward_queries_generic(const Backward<T> p) {
  float* const tiles = dynamic_shared<float>();
  float *const queries = tiles, *const gradients = queries + kGenericTile<kC>,
               *const keys = gradients + kGenericTile<kC>, *const values = keys + kGenericTile<kC>;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  float* const exchange = values + kGenericTile<kC> + warp * kR * 32;
  const Sizes n = p.n;
  const auto [head, block_row] = place_of_block(n, kGenericRows);
  const int warp_row = warp * kR, row = block_row + warp_row;
  const Steps steps = steps_of(n, block_row, kGenericRows, kGenericColumns);
  const float* const log2_sum = p.log2_sum + head * p.padded_length + row;
  const float* const mean = p.mean + head * p.padded_length + row;

  load_rows<kC>(queries, n, n.num_rows, p.q, head, block_row);
  load_rows<kC>(gradients, n, n.num_rows, p.d_o, head, block_row);
  float out[kR][kC] = {}, factor[kR];
  for (int step = 0; step < steps.count; ++step) {
    const int first = steps.first + step * kGenericColumns;
    __syncthreads();
    load_rows<kC>(keys, n, n.num_columns, p.k, head, first);
    load_rows<kC>(values, n, n.num_columns, p.v, head, first);
    __syncthreads();
    if (overlap_of(n, row, kR, first, kGenericColumns) == Overlap::none) continue;
    float scores[kR], products[kR];
    multiply_rows<kC>(scores, queries + warp_row * kRowStride<kC>, keys);
    multiply_rows<kC>(products, gradients + warp_row * kRowStride<kC>, values);
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const float weight = fast_exp2(fmaf(scores[r], n.scale * kLog2E, -log2_sum[r]));
      scores[r] = are_partners(n, row + r, first + lane) ? weight * (products[r] - mean[r]) : 0;
    }
    add_columns<kC>(out, scores, keys, exchange);
  }
#pragma unroll
  for (int r = 0; r < kR; ++r) factor[r] = n.scale;
  store_sums<kC>(n, out, factor, p.d_q, head, row);
}

/// d_k and d_v of the rows of a block: rows are keys, columns queries.
template <class T, int kC>
__global__ void __launch_bounds__(kThreads) backward_keys_generic(const Backward<T> p) {
  float* const tiles = dynamic_shared<float>();
  float *const keys = tiles, *const values = keys + kGenericTile<kC>, *const queries = values + kGenericTile<kC>,
               *const gradients = queries + kGenericTile<kC>;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  float* const exchange = gradients + kGenericTile<kC> + warp * kR * 32;
  const Sizes n = p.n;
  const auto [head, block_row] = place_of_block(n, kGenericRows);
  const int warp_row = warp * kR, row = block_row + warp_row;
  const Steps steps = steps_of(n, block_row, kGenericRows, kGenericColumns);

  load_rows<kC>(keys, n, n.num_rows, p.k, head, block_row);
  load_rows<kC>(values, n, n.num_rows, p.v, head, block_row);
  float key_sums[kR][kC] = {}, value_sums[kR][kC] = {}, factor[kR];
  for (int step = 0; step < steps.count; ++step) {
    const int first = steps.first + step * kGenericColumns;
    __syncthreads();
    load_rows<kC>(queries, n, n.num_columns, p.q, head, first);
    load_rows<kC>(gradients, n, n.num_columns, p.d_o, head, first);
    __syncthreads();
    if (overlap_of(n, row, kR, first, kGenericColumns) == Overlap::none) continue;
    const float log2_sum = p.log2_sum[head * p.padded_length + first + lane];
    const float mean = p.mean[head * p.padded_length + first + lane];
    float scores[kR], products[kR];
    multiply_rows<kC>(scores, keys + warp_row * kRowStride<kC>, queries);
    multiply_rows<kC>(products, values + warp_row * kRowStride<kC>, gradients);
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const float weight = fast_exp2(fmaf(scores[r], n.scale * kLog2E, -log2_sum));
      scores[r] = are_partners(n, row + r, first + lane) ? weight : 0;
      products[r] = scores[r] * (products[r] - mean);
    }
    add_columns<kC>(value_sums, scores, gradients, exchange);
    add_columns<kC>(key_sums, products, queries, exchange);
  }
#pragma unroll
  for (int r = 0; r < kR; ++r) factor[r] = n.scale;
  store_sums<kC>(n, key_sums, factor, p.d_k, head, row);
#pragma unroll
  for (int r = 0; r < kR; ++r) factor[r] = 1;
  store_sums<kC>(n, value_sums, factor, p.d_v, head, row);
}

// --- launch ---

/// Calls f<32 channels how often>() for the narrowest that holds the head.
template <class F>
void with_channels(int64_t head_size, F&& f) {
  if (head_size <= 32) return f.template operator()<1>();
  if (head_size <= 64) return f.template operator()<2>();
  if (head_size <= 128) return f.template operator()<4>();
  f.template operator()<8>();
}

template <class T>
void launch_generic(Context& ctx, const WindowAttentionForward& op) {
  with_channels(head_size_of(op), [&]<int kC>() {
    launch_blocks(ctx, forward_generic<T, kC>, kGenericRows, kGenericForwardBytes<kC>, parameters_of<T>(op));
  });
}

/// The row terms were filled before.
template <class T>
void launch_generic(Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  with_channels(head_size_of(op), [&]<int kC>() {
    const auto p = parameters_of<T>(op, scratch);
    if (op.d_q) launch_blocks(ctx, backward_queries_generic<T, kC>, kGenericRows, kGenericBackwardBytes<kC>, p);
    launch_blocks(ctx, backward_keys_generic<T, kC>, kGenericRows, kGenericBackwardBytes<kC>, by_keys(p, op));
  });
}

}  // namespace boreas::cuda::window_attention
