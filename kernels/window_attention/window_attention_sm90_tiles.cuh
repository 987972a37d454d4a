// What forward and backward on Hopper share: tiles in shared memory, the ring between producer and consumers, and which
// tiles of the band a block works on.
#pragma once

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/matrix.cuh"

namespace boreas::cuda::sm90 {

using namespace hopper;

inline constexpr double kLog2E = 1.4426950408889634, kLog2 = 0.6931471805599453;

/// A fragment of a product as the left operand of another.
template <int kSize>
__device__ inline void pack_fragment(const float (&d)[kSize], uint32_t (&a)[kSize / 2]) {
#pragma unroll
  for (int i = 0; i < kSize / 2; ++i) a[i] = pack_bf16(d[2 * i], d[2 * i + 1]);
}

// Over the four threads that share a row of a fragment.
__device__ inline float maximum_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float sum_of_row(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

/// Which elements of a fragment a thread of a warpgroup holds: rows `row` and row + 8, columns `column` and column + 1
/// of every eight.
struct Lane {
  int thread = threadIdx.x % 128, row = thread / 32 * 16 + thread % 32 / 4, column = 2 * (thread % 4);
};

/// A tile of rows of one head, as panels of columns.
template <int kHeadSize>
struct TileLayout {
  static constexpr int kPanel = kHeadSize < 64 ? kHeadSize : 64, kPanels = kHeadSize / kPanel;
  static constexpr int bytes(int rows) { return rows * kHeadSize * 2; }

  __device__ static void load(uint32_t to, const CUtensorMap* map, int head, int row, int rows,
                              SharedBarrier* barrier) {
#pragma unroll
    for (int i = 0; i < kPanels; ++i) load_tile(to + i * rows * kPanel * 2, map, i * kPanel, head, row, barrier);
  }
  __device__ static void store(const CUtensorMap* map, uint32_t from, int head, int row, int rows) {
#pragma unroll
    for (int i = 0; i < kPanels; ++i) store_tile(map, from + i * rows * kPanel * 2, i * kPanel, head, row);
  }

  /// The operand of 16 channels from `column` on, summed over.
  __device__ static uint64_t columns(uint32_t tile, int rows, int column) {
    return descriptor<kPanel>(tile + column / kPanel * (rows * kPanel * 2) + column % kPanel * 2);
  }
  /// The operand of 16 rows from `row` on, summed over.
  __device__ static uint64_t rows(uint32_t tile, int rows, int row) {
    return descriptor<kPanel>(tile + row * kPanel * 2, rows * kPanel * 2);
  }

  /// Where 16 bytes from `column` on lie in a tile of 64 rows.
  __device__ static int offset(int row, int column) {
    const int swizzle = kPanel == 64 ? row % 8 : row / 2 % 4;
    return column / kPanel * (64 * kPanel * 2) + row * kPanel * 2 + (column % kPanel / 8 ^ swizzle) * 16;
  }

  /// A tile of 64 rows as left operands of products, 16 channels each.
  __device__ static void read(const char* tile, uint32_t (&a)[kHeadSize / 4], const Lane& lane) {
    const int matrix = lane.thread % 32 / 8, row = lane.thread / 32 * 16 + matrix % 2 * 8 + lane.thread % 8;
#pragma unroll
    for (int x = 0; x < kHeadSize / 16; ++x) {
      uint32_t words[4];
      load_matrices(words, tile + offset(row, 16 * x + matrix / 2 * 8));
#pragma unroll
      for (int i = 0; i < 4; ++i) a[4 * x + i] = words[i];
    }
  }

  /// Writes the fragment of a [64, kHeadSize] product, times a factor for either row, as a tile of 64 rows.
  __device__ static void write(uint32_t tile, const float (&d)[kHeadSize / 2], const Lane& lane,
                               const float (&factor)[2]) {
    __syncwarp();  // other lanes may have read these rows
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int n = 0; n < kHeadSize / 8; ++n) {
        const uint32_t address = tile + offset(lane.row + 8 * r, 8 * n) + lane.column * 2;
        const uint32_t pair = pack_bf16(d[4 * n + 2 * r] * factor[r], d[4 * n + 2 * r + 1] * factor[r]);
        store_word(address, pair);
      }
  }
};

/// Stages of shared memory that the producer fills and consumers empty, in the same order. Uses are counted from 0.
template <int kStages>
struct Ring {
  SharedBarrier* barriers;  // full[kStages], empty[kStages]

  static constexpr int kNumBarriers = 2 * kStages;
  __device__ SharedBarrier* full(int use) const { return barriers + use % kStages; }
  __device__ SharedBarrier* empty(int use) const { return barriers + kStages + use % kStages; }
  __device__ void init(int releases) const {
    for (int i = 0; i < kStages; ++i) {
      init_barrier(full(i), 1);
      init_barrier(empty(i), releases);
    }
  }
  /// The barrier to copy `bytes` on, once the stage is free.
  __device__ SharedBarrier* fill(int use, int bytes) const {
    wait_phase(empty(use), (use / kStages + 1) % 2);
    arrive_expecting(full(use), bytes);
    return full(use);
  }
  __device__ void wait(int use) const { wait_phase(full(use), use / kStages % 2); }
  __device__ void release(int use) const { arrive(empty(use)); }
};

/// A consumer's place in a ring. It releases all stages, also those it has no use for; all lanes of its warps do, each
/// for what it has read (one for its warp, after a warp barrier, takes as long, and racecheck cannot follow it).
template <int kStages>
struct Cursor {
  const Ring<kStages>& ring;
  int use = 0;

  /// Passes over the uses before `wanted`, and waits for that.
  __device__ void wait(int wanted) {
    skip(wanted);
    ring.wait(use);
  }
  /// Done with the use waited for.
  __device__ void release() {
    ring.release(use);
    ++use;
  }
  /// A release before the fill would count for the use before, so this waits too.
  __device__ void skip(int end) {
    while (use < end) {
      ring.wait(use);
      release();
    }
  }
};

/// The pairs of rows and columns of a sequence that are at most `window` apart, by heads. Row i stands where column
/// i + shift does; `place`: such a position of a row.
struct Band {
  int num_rows, num_columns, shift, num_heads, window, num_tiles;

  /// Whether all pairs of the rows from a place on and these columns belong to it.
  __device__ bool covers(int place, int rows, int column, int columns) const {
    return column >= place + rows - 1 - window && column + columns - 1 <= place + window &&
           column + columns <= num_columns;
  }
};

/// Rows that a block owns, and the other side's rows that they meet, kStep at a time: at least one step. Heads go
/// fastest, so that blocks which run together share what they stream in the L2 cache.
struct Tile {
  int head, row, place, first, num_steps;
  __device__ Tile(const Band& band, int index, int rows, int step, int alignment = 1) {
    head = index % band.num_heads;
    row = index / band.num_heads * rows;
    place = row + band.shift;
    const int end = band.num_columns - 1;
    first = min(max(place - band.window, 0), end) / alignment * alignment;
    num_steps = (max(min(place + rows - 1 + band.window, end), first) - first) / step + 1;
  }
};

/// Those of a tile's steps that meet 64 of its rows, from a place on: at least one.
struct Steps {
  int begin, end;
  __device__ Steps(const Band& band, const Tile& tile, int place, int step) {
    const int last = min(place + 63 + band.window, band.num_columns - 1);
    begin = min((max(place - band.window, 0) - tile.first) / step, tile.num_steps - 1);
    end = max(min((last - tile.first) / step + 1, tile.num_steps), begin + 1);
  }
};

/// Sets the elements of a fragment that lie outside of the band. `place`, `column`: of the thread's first element.
template <int kSize>
__device__ inline void mask_fragment(float (&s)[kSize], const Band& band, int place, int column, float outside) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int i = place + 8 * r;
    const int first = i - band.window - column, last = min(i + band.window, band.num_columns - 1) - column;
#pragma unroll
    for (int n = 0; n < kSize / 4; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (8 * n + e < first || 8 * n + e > last) s[4 * n + 2 * r + e] = outside;
  }
}

}  // namespace boreas::cuda::sm90
