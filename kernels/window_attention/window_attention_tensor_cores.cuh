// Windowed attention in bf16 by mma.sync. A block of four warps owns kM * 64 rows of one head, a warp kM * 16 of them,
// of which it keeps scores and sums in registers. Tiles of columns go round through two stages of shared memory: while
// one is computed with, the next is copied. Rows are queries and columns keys, except in backward_keys, where they swap
// so that every sum is made by one warp in one order. A head smaller than kD is filled up with zeros.
#pragma once

#include "kernels/cuda/matrix.cuh"
#include "kernels/window_attention/window_attention_launch.cuh"

namespace boreas::cuda::window_attention {

/// Rows of kD channels in shared memory. The 16-byte chunks of a row are permuted so that the eight rows of a matrix
/// lie in different banks.
template <int kD>
struct Tile {
  static constexpr int kChunks = kD / 8, kGroup = kChunks < 8 ? kChunks : 8;
  bfloat16* data;

  __device__ bfloat16* at(int row, int chunk) const {
    return data + row * kD + (chunk ^ (row / (8 / kGroup) % kGroup)) * 8;
  }

  /// Starts the copy of kRows rows of a head, from row `first` on; zeros beyond the `length` rows that there are, and
  /// the head.
  template <int kRows>
  __device__ void copy_from(const Sizes& n, int length, const Rows<const bfloat16>& source, int head, int first) const {
#pragma unroll
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int row = (threadIdx.x + i * kThreads) / kChunks, chunk = (threadIdx.x + i * kThreads) % kChunks;
      const bool valid = first + row < length && chunk * 8 < n.head_size;
      copy_async(at(row, chunk), source.at(valid ? first + row : 0, valid ? head * n.head_size + chunk * 8 : 0), valid);
    }
  }

  /// Rows [first, first + 16) and channels [16 k, 16 k + 16) as the left factor.
  __device__ void load_left(uint32_t (&a)[4], int first, int k) const {
    const int lane = threadIdx.x % 32;
    load_matrices(a, at(first + lane % 16, 2 * k + lane / 16));
  }
  /// The same as the right factor of a product over channels: b[channel][row], two blocks of 8 rows.
  __device__ void load_right(uint32_t (&b)[4], int first, int k) const {
    const int lane = threadIdx.x % 32;
    load_matrices(b, at(first + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
  }
  /// The same as the right factor of a product over rows: b[row][channel], two blocks of 8 channels.
  __device__ void load_right_transposed(uint32_t (&b)[4], int first, int k) const {
    const int lane = threadIdx.x % 32;
    load_matrices_transposed(b, at(first + lane % 16, 2 * k + lane / 16));
  }
};

/// c[m][n] = sum over channels of a(row) b(column); `left(a, m, k)` gives the left factors.
template <int kD, int kM, int kColumns, class Left>
__device__ inline void multiply_channels(float (&c)[kM][kColumns / 8][4], Left&& left, const Tile<kD>& columns) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) c[m][n][e] = 0;
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) left(a[m], m, k);
#pragma unroll
    for (int n = 0; n < kColumns / 16; ++n) {
      uint32_t b[4];
      columns.load_right(b, n * 16, k);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_bf16(c[m][2 * n], a[m], b[0], b[1]);
        mma_bf16(c[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// Scores rounded to bf16, as the left factor of a product over columns.
template <int kM, int kColumns>
__device__ inline void round_scores(const float (&scores)[kM][kColumns / 8][4], uint32_t (&out)[kM][kColumns / 16][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int pair = 0; pair < 2; ++pair)
          out[m][k][2 * half + pair] =
              pack_bf16(scores[m][2 * k + half][2 * pair], scores[m][2 * k + half][2 * pair + 1]);
}

/// out[m][channel] += sum over columns of scores(row, column) value(column, channel).
template <int kD, int kM, int kColumns>
__device__ inline void multiply_columns(float (&out)[kM][kD / 8][4], const uint32_t (&scores)[kM][kColumns / 16][4],
                                        const Tile<kD>& columns) {
#pragma unroll
  for (int k = 0; k < kColumns / 16; ++k)
#pragma unroll
    for (int n = 0; n < kD / 16; ++n) {
      uint32_t b[4];
      columns.load_right_transposed(b, k * 16, n);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_bf16(out[m][2 * n], scores[m][k], b[0], b[1]);
        mma_bf16(out[m][2 * n + 1], scores[m][k], b[2], b[3]);
      }
    }
}

/// Calls f(row of the lane r, row of the warp, column of the tile, score) for what the lane holds; r < 2 kM.
template <int kM, int kColumns, class F>
__device__ inline void for_scores(float (&scores)[kM][kColumns / 8][4], F&& f) {
  const int g = threadIdx.x % 32 / 4, p = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) f(2 * m + e / 2, 16 * m + 8 * (e / 2) + g, 8 * n + 2 * p + e % 2, scores[m][n][e]);
}

/// Writes the sums of a warp's rows, times `factor(r)`, through the rows of a tile that only this warp uses.
template <int kD, int kM, class Factor>
__device__ inline void store_rows(const Sizes& n, const float (&sums)[kM][kD / 8][4], Factor&& factor,
                                  const Tile<kD>& tile, int tile_row, const Rows<bfloat16>& target, int head, int row) {
  const int lane = threadIdx.x % 32, g = lane / 4, p = lane % 4;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int c = 0; c < kD / 8; ++c) {
        const float f = factor(2 * m + half);
        const uint32_t pair = pack_bf16(sums[m][c][2 * half] * f, sums[m][c][2 * half + 1] * f);
        *reinterpret_cast<uint32_t*>(tile.at(tile_row + 16 * m + 8 * half + g, c) + 2 * p) = pair;
      }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kM * 16 * (kD / 8) / 32; ++i) {
    const int r = (lane + i * 32) / (kD / 8), chunk = (lane + i * 32) % (kD / 8);
    if (row + r >= n.num_rows || chunk * 8 >= n.head_size) continue;
    *reinterpret_cast<uint4*>(target.at(row + r, head * n.head_size + chunk * 8)) =
        *reinterpret_cast<const uint4*>(tile.at(tile_row + r, chunk));
  }
}

// --- forward ---

template <int kD_, int kM_, int kColumns_, int kBlocks_>
struct TileShape {
  static constexpr int kD = kD_, kM = kM_, kColumns = kColumns_;
  static constexpr int kBlocks = kBlocks_;  // resident on a multiprocessor
  static constexpr int kWarpRows = 16 * kM, kRows = kWarps * kWarpRows;
};

template <class S>
constexpr int kForwardSharedBytes = (S::kRows + 4 * S::kColumns) * S::kD* int(sizeof(bfloat16));

template <class S>
__global__ void __launch_bounds__(kThreads, S::kBlocks) forward_tensor_cores(const Forward<bfloat16> p) {
  constexpr int kD = S::kD, kM = S::kM, kColumns = S::kColumns, kColumnElements = kColumns * kD;
  constexpr bool kKeepQueries = kD <= 64;  // in registers
  bfloat16* const shared = dynamic_shared<bfloat16>();
  const Tile<kD> queries{shared}, keys{shared + S::kRows * kD}, values{keys.data + 2 * kColumnElements};
  const Sizes n = p.n;
  const auto [head, block_row] = place_of_block(n, S::kRows);
  const int warp_row = int(threadIdx.x) / 32 * S::kWarpRows, row = block_row + warp_row;
  const Steps steps = steps_of(n, block_row, S::kRows, kColumns);

  const auto start_copy = [&](int step) {
    const int stage = step % 2 * kColumnElements, first = steps.first + step * kColumns;
    Tile<kD>{keys.data + stage}.template copy_from<kColumns>(n, n.num_columns, p.k, head, first);
    Tile<kD>{values.data + stage}.template copy_from<kColumns>(n, n.num_columns, p.v, head, first);
    commit_copies();
  };
  queries.template copy_from<S::kRows>(n, n.num_rows, p.q, head, block_row);
  start_copy(0);

  float out[kM][kD / 8][4] = {};
  float largest[2 * kM], total[2 * kM];  // of a row: the maximum, in base-2 units of the exponent; the lane's sum
#pragma unroll
  for (int r = 0; r < 2 * kM; ++r) {
    largest[r] = -INFINITY;
    total[r] = 0;
  }
  uint32_t kept[kKeepQueries ? kM : 1][kKeepQueries ? kD / 16 : 1][4];
  const auto left = [&](uint32_t(&a)[4], int m, int k) {
    if constexpr (kKeepQueries) {
#pragma unroll
      for (int e = 0; e < 4; ++e) a[e] = kept[m][k][e];
    } else {
      queries.load_left(a, warp_row + 16 * m, k);
    }
  };
  const float factor = n.scale * kLog2E;

  for (int step = 0; step < steps.count; ++step) {
    wait_for_copies<0>();
    __syncthreads();  // the tile is there, and nobody uses the other stage any more
    if (step + 1 < steps.count) start_copy(step + 1);
    if constexpr (kKeepQueries)
      if (step == 0) {
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int k = 0; k < kD / 16; ++k) queries.load_left(kept[m][k], warp_row + 16 * m, k);
      }
    const int first = steps.first + step * kColumns, stage = step % 2 * kColumnElements;
    const Overlap overlap = overlap_of(n, row, S::kWarpRows, first, kColumns);
    if (overlap == Overlap::none) continue;

    float scores[kM][kColumns / 8][4];
    multiply_channels<kD, kM, kColumns>(scores, left, Tile<kD>{keys.data + stage});
    if (overlap == Overlap::some)
      for_scores<kM, kColumns>(scores, [&](int, int r, int c, float& score) {
        if (!are_partners(n, row + r, first + c)) score = -INFINITY;
      });

    float here[2 * kM], offset[2 * kM];
#pragma unroll
    for (int r = 0; r < 2 * kM; ++r) here[r] = -INFINITY;
    for_scores<kM, kColumns>(scores, [&](int r, int, int, float& score) { here[r] = fmaxf(here[r], score); });
#pragma unroll
    for (int r = 0; r < 2 * kM; ++r) {
      here[r] = fmaxf(here[r], __shfl_xor_sync(kFullMask, here[r], 1));
      here[r] = fmaxf(here[r], __shfl_xor_sync(kFullMask, here[r], 2));
      const float before = largest[r];
      largest[r] = fmaxf(before, here[r] * factor);
      offset[r] = largest[r] == -INFINITY ? 0 : largest[r];  // a row without partners so far
      const float correction = fast_exp2(before - offset[r]);
      total[r] *= correction;
#pragma unroll
      for (int c = 0; c < kD / 8; ++c) {
        out[r / 2][c][r % 2 * 2] *= correction;
        out[r / 2][c][r % 2 * 2 + 1] *= correction;
      }
    }
    for_scores<kM, kColumns>(scores, [&](int r, int, int, float& score) {
      score = fast_exp2(fmaf(score, factor, -offset[r]));
      total[r] += score;
    });
    uint32_t weights[kM][kColumns / 16][4];
    round_scores<kM, kColumns>(scores, weights);
    multiply_columns<kD, kM, kColumns>(out, weights, Tile<kD>{values.data + stage});
  }

  if (row >= n.num_rows) return;
#pragma unroll
  for (int r = 0; r < 2 * kM; ++r) {
    total[r] = sum_lanes<4>(total[r]);
    const int i = row + r / 2 * 16 + r % 2 * 8 + int(threadIdx.x) % 32 / 4;
    if (threadIdx.x % 4 == 0 && i < n.num_rows) *p.stats.at(i, head) = (largest[r] + log2f(total[r])) * kLog2;
  }
  store_rows<kD, kM>(
      n, out, [&](int r) { return 1 / total[r]; }, queries, warp_row, p.o, head, row);
}

// --- backward ---

template <class S>
constexpr int kBackwardSharedBytes = (2 * S::kRows + 4 * S::kColumns) * S::kD* int(sizeof(bfloat16)) +
                                     4 * S::kColumns* int(sizeof(float));

/// d_q of the rows of a block.
template <class S>
__global__ void __launch_bounds__(kThreads, S::kBlocks) backward_queries_tensor_cores(const Backward<bfloat16> p) {
  constexpr int kD = S::kD, kM = S::kM, kColumns = S::kColumns, kColumnElements = kColumns * kD;
  bfloat16* const shared = dynamic_shared<bfloat16>();
  const Tile<kD> queries{shared}, gradients{queries.data + S::kRows * kD}, keys{gradients.data + S::kRows * kD},
      values{keys.data + 2 * kColumnElements};
  const Sizes n = p.n;
  const auto [head, block_row] = place_of_block(n, S::kRows);
  const int warp_row = int(threadIdx.x) / 32 * S::kWarpRows, row = block_row + warp_row;
  const Steps steps = steps_of(n, block_row, S::kRows, kColumns);

  const auto start_copy = [&](int step) {
    const int stage = step % 2 * kColumnElements, first = steps.first + step * kColumns;
    Tile<kD>{keys.data + stage}.template copy_from<kColumns>(n, n.num_columns, p.k, head, first);
    Tile<kD>{values.data + stage}.template copy_from<kColumns>(n, n.num_columns, p.v, head, first);
    commit_copies();
  };
  queries.template copy_from<S::kRows>(n, n.num_rows, p.q, head, block_row);
  gradients.template copy_from<S::kRows>(n, n.num_rows, p.d_o, head, block_row);
  start_copy(0);

  float log2_sum[2 * kM], mean[2 * kM];
#pragma unroll
  for (int r = 0; r < 2 * kM; ++r) {
    const int i = row + r / 2 * 16 + r % 2 * 8 + int(threadIdx.x) % 32 / 4;
    const int64_t at = head * p.padded_length + min(i, n.num_rows);  // beyond the queries: the first padding value
    log2_sum[r] = p.log2_sum[at];
    mean[r] = p.mean[at];
  }
  float out[kM][kD / 8][4] = {};
  const float factor = n.scale * kLog2E;

  for (int step = 0; step < steps.count; ++step) {
    wait_for_copies<0>();
    __syncthreads();
    if (step + 1 < steps.count) start_copy(step + 1);
    const int first = steps.first + step * kColumns, stage = step % 2 * kColumnElements;
    const Overlap overlap = overlap_of(n, row, S::kWarpRows, first, kColumns);
    if (overlap == Overlap::none) continue;

    float scores[kM][kColumns / 8][4], products[kM][kColumns / 8][4];
    const auto left_of = [&](const Tile<kD>& tile) {
      return [&](uint32_t(&a)[4], int m, int k) { tile.load_left(a, warp_row + 16 * m, k); };
    };
    multiply_channels<kD, kM, kColumns>(scores, left_of(queries), Tile<kD>{keys.data + stage});
    multiply_channels<kD, kM, kColumns>(products, left_of(gradients), Tile<kD>{values.data + stage});
    if (overlap == Overlap::some)
      for_scores<kM, kColumns>(scores, [&](int, int r, int c, float& score) {
        if (!are_partners(n, row + r, first + c)) score = -INFINITY;
      });
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int c = 0; c < kColumns / 8; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int r = 2 * m + e / 2;
          const float weight = fast_exp2(fmaf(scores[m][c][e], factor, -log2_sum[r]));
          scores[m][c][e] = weight * (products[m][c][e] - mean[r]);
        }
    uint32_t d_scores[kM][kColumns / 16][4];
    round_scores<kM, kColumns>(scores, d_scores);
    multiply_columns<kD, kM, kColumns>(out, d_scores, Tile<kD>{keys.data + stage});
  }
  store_rows<kD, kM>(
      n, out, [&](int) { return n.scale; }, queries, warp_row, p.d_q, head, row);
}

/// d_k and d_v of the rows of a block: rows are keys, columns queries.
template <class S>
__global__ void __launch_bounds__(kThreads, S::kBlocks) backward_keys_tensor_cores(const Backward<bfloat16> p) {
  constexpr int kD = S::kD, kM = S::kM, kColumns = S::kColumns, kColumnElements = kColumns * kD;
  bfloat16* const shared = dynamic_shared<bfloat16>();
  const Tile<kD> keys{shared}, values{keys.data + S::kRows * kD}, queries{values.data + S::kRows * kD},
      gradients{queries.data + 2 * kColumnElements};
  float* const row_terms = reinterpret_cast<float*>(gradients.data + 2 * kColumnElements);  // [stage, 2, kColumns]
  const Sizes n = p.n;
  const auto [head, block_row] = place_of_block(n, S::kRows);
  const int warp_row = int(threadIdx.x) / 32 * S::kWarpRows, row = block_row + warp_row;
  const Steps steps = steps_of(n, block_row, S::kRows, kColumns);

  const auto start_copy = [&](int step) {
    const int stage = step % 2 * kColumnElements, first = steps.first + step * kColumns;
    Tile<kD>{queries.data + stage}.template copy_from<kColumns>(n, n.num_columns, p.q, head, first);
    Tile<kD>{gradients.data + stage}.template copy_from<kColumns>(n, n.num_columns, p.d_o, head, first);
    constexpr int kChunks = kColumns / 4;
    if (threadIdx.x < 2 * kChunks) {
      const float* const source = threadIdx.x < kChunks ? p.log2_sum : p.mean;
      copy_async(row_terms + step % 2 * 2 * kColumns + threadIdx.x * 4,
                 source + head * p.padded_length + first + threadIdx.x % kChunks * 4, true);
    }
    commit_copies();
  };
  keys.template copy_from<S::kRows>(n, n.num_rows, p.k, head, block_row);
  values.template copy_from<S::kRows>(n, n.num_rows, p.v, head, block_row);
  start_copy(0);

  float key_sums[kM][kD / 8][4] = {}, value_sums[kM][kD / 8][4] = {};
  const float factor = n.scale * kLog2E;

  for (int step = 0; step < steps.count; ++step) {
    wait_for_copies<0>();
    __syncthreads();
    if (step + 1 < steps.count) start_copy(step + 1);
    const int first = steps.first + step * kColumns, stage = step % 2 * kColumnElements;
    const Overlap overlap = overlap_of(n, row, S::kWarpRows, first, kColumns);
    if (overlap == Overlap::none) continue;

    const float* const log2_sum = row_terms + step % 2 * 2 * kColumns;
    const float* const mean = log2_sum + kColumns;
    const auto left_of = [&](const Tile<kD>& tile) {
      return [&](uint32_t(&a)[4], int m, int k) { tile.load_left(a, warp_row + 16 * m, k); };
    };
    float scores[kM][kColumns / 8][4];
    uint32_t rounded[kM][kColumns / 16][4];
    multiply_channels<kD, kM, kColumns>(scores, left_of(keys), Tile<kD>{queries.data + stage});
    if (overlap == Overlap::some)
      for_scores<kM, kColumns>(scores, [&](int, int r, int c, float& score) {
        if (!are_partners(n, row + r, first + c)) score = -INFINITY;
      });
    for_scores<kM, kColumns>(
        scores, [&](int, int, int c, float& score) { score = fast_exp2(fmaf(score, factor, -log2_sum[c])); });
    round_scores<kM, kColumns>(scores, rounded);
    multiply_columns<kD, kM, kColumns>(value_sums, rounded, Tile<kD>{gradients.data + stage});

    float products[kM][kColumns / 8][4];
    multiply_channels<kD, kM, kColumns>(products, left_of(values), Tile<kD>{gradients.data + stage});
    const int p2 = 2 * (int(threadIdx.x) % 4);
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int c = 0; c < kColumns / 8; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[m][c][e] *= products[m][c][e] - mean[8 * c + p2 + e % 2];
    round_scores<kM, kColumns>(scores, rounded);
    multiply_columns<kD, kM, kColumns>(key_sums, rounded, Tile<kD>{queries.data + stage});
  }
  store_rows<kD, kM>(
      n, key_sums, [&](int) { return n.scale; }, keys, warp_row, p.d_k, head, row);
  store_rows<kD, kM>(
      n, value_sums, [](int) { return 1.0f; }, values, warp_row, p.d_v, head, row);
}

// --- launch ---

/// Calls f<shape of forward, shape of d_q, shape of d_k and d_v>() for the narrowest that holds the head.
template <class F>
void with_shapes(int64_t head_size, F&& f) {
  if (head_size <= 16)
    return f.template operator()<TileShape<16, 2, 64, 3>, TileShape<16, 2, 64, 2>, TileShape<16, 2, 64, 2>>();
  if (head_size <= 32)
    return f.template operator()<TileShape<32, 2, 64, 2>, TileShape<32, 2, 64, 2>, TileShape<32, 2, 64, 2>>();
  if (head_size <= 64)
    return f.template operator()<TileShape<64, 2, 64, 2>, TileShape<64, 2, 32, 2>, TileShape<64, 2, 32, 2>>();
  f.template operator()<TileShape<128, 1, 64, 2>, TileShape<128, 1, 32, 2>, TileShape<128, 1, 32, 2>>();
}

inline void launch_tensor_cores(Context& ctx, const WindowAttentionForward& op) {
  with_shapes(head_size_of(op), [&]<class S, class, class>() {
    launch_blocks(ctx, forward_tensor_cores<S>, S::kRows, kForwardSharedBytes<S>, parameters_of<bfloat16>(op));
  });
}

/// The row terms were filled before.
inline void launch_tensor_cores(Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  with_shapes(head_size_of(op), [&]<class, class Q, class K>() {
    const auto p = parameters_of<bfloat16>(op, scratch);
    if (op.d_q) launch_blocks(ctx, backward_queries_tensor_cores<Q>, Q::kRows, kBackwardSharedBytes<Q>, p);
    launch_blocks(ctx, backward_keys_tensor_cores<K>, K::kRows, kBackwardSharedBytes<K>, by_keys(p, op));
  });
}

}  // namespace boreas::cuda::window_attention
