// Kernels of the ops in elementwise.h that are not plain maps, and the launches of all of them.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/cuda/map.cuh"
#include "kernels/elementwise/elementwise.h"

namespace boreas::cuda {

struct Same {
  __device__ float operator()(float x) const { return x; }
};
struct Mixture {
  float weight;
  __device__ float operator()(float x, float y) const { return y + weight * (x - y); }
};

template <class W>
__global__ void __launch_bounds__(kMapThreads) fill_words(Chunks<1> chunks, W value, RowsOf<W> y) {
#pragma unroll
  for (int u = 0; u < kChunksAThread<1>; ++u)
    if (chunk_of_thread<1>(u) < chunks.count) {
      const Place place = chunks.place(chunk_of_thread<1>(u));
      *y.at(place.row, place.column) = value;
    }
}

// --- columns by number: a warp owns rows of a tile, as in RowTiles, but of listed columns. Blocks stay, because lanes
// read the lists slowly, each another entry ---

inline constexpr int kColumnBlocksResident = 3;  // on a multiprocessor

/// Pairs of columns, by value; longer lists take several launches.
struct ColumnPairs {
  static constexpr int kMost = 448;
  int32_t count;
  int32_t from[kMost], to[kMost];  ///< from: -1 if nothing is added
};

/// y[:, to] = x[:, from], and before[:, to], which may be y, is added if kAdd.
template <bool kAdd, class T>
__global__ void __launch_bounds__(kMapThreads, kColumnBlocksResident)
    pair_columns(RowTiles tiles, ColumnPairs pairs, RowsOf<const float> x, RowsOf<const float> before, RowsOf<T> y) {
  constexpr int kRows = RowTiles::kRows, kParts = RowTiles::kParts;
  int from[kParts], to[kParts];  // -1: none
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int k = int(tiles.place(0, part).column);
    from[part] = k < pairs.count ? pairs.from[k] : -1;
    to[part] = k < pairs.count ? pairs.to[k] : -1;
  }
  const int64_t step = int64_t(gridDim.x) * RowTiles::kRowsABlock;
  for (int64_t first = tiles.place(0, 0).row; first < tiles.rows; first += step) {
    float value[kRows][kParts], sum[kRows][kParts];
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const bool exists = first + r < tiles.rows;
        value[r][part] = exists && from[part] >= 0 ? *x.at(first + r, from[part]) : 0.0f;
        sum[r][part] = kAdd && exists && to[part] >= 0 ? *before.at(first + r, to[part]) : 0.0f;
      }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        if (first + r < tiles.rows && to[part] >= 0)
          *y.at(first + r, to[part]) = narrow<T>(value[r][part] + sum[r][part]);
  }
}

// --- fields [V, cells] to rows [cells, n] and back: a block transposes kTileCells cells through shared memory
// ---------

inline constexpr int kTileCells = 64, kTilePitch = kTileCells + 1, kTileThreads = 256;
inline constexpr int kTileWarps = kTileThreads / 32, kTileBatch = 8, kTileBlocksResident = 5;

/// At most kMost columns of rows, `first` the first of them, with their fields and y = field * mul + add.
template <class A>
struct FieldColumns {
  static constexpr int kMost = 128;
  int32_t first, count;
  int32_t field[kMost];
  A mul[kMost], add[kMost];
};
/// What replaces NaN, by column.
struct FillValues {
  float value[FieldColumns<float>::kMost];
};

template <class T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocksResident)
    normalise_fields(int64_t num_cells, FieldColumns<float> columns, FillValues fill, RowsOf<const float> fields,
                     RowsOf<T> y) {
  float* const tile = dynamic_shared<float>();  // [columns.count, kTilePitch]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_cell = int64_t(blockIdx.x) * kTileCells;
  // A warp reads 64 cells of one field, each lane two of them, of kTileBatch fields before it uses the first.
  for (int begin = warp; begin < columns.count; begin += kTileWarps * kTileBatch) {
    float value[kTileBatch][2];
#pragma unroll
    for (int b = 0; b < kTileBatch; ++b) {
      const int k = begin + b * kTileWarps;
      const float* const field = fields.data + columns.field[min(k, columns.count - 1)] * fields.stride + first_cell;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int cell = lane + half * 32;
        value[b][half] = k < columns.count && first_cell + cell < num_cells ? field[cell] : 0.0f;
      }
    }
#pragma unroll
    for (int b = 0; b < kTileBatch; ++b) {
      const int k = begin + b * kTileWarps;
      if (k >= columns.count) break;
      const float mul = columns.mul[k], add = columns.add[k], missing = fill.value[k];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float normalised = value[b][half] * mul + add;
        tile[k * kTilePitch + lane + half * 32] = isnan(normalised) ? missing : normalised;
      }
    }
  }
  __syncthreads();
  // A warp writes the columns of one row, from the beginning of a sector of memory on, so that no two stores share one.
  constexpr int kSector = 32 / int(sizeof(T));
#pragma unroll 2
  for (int cell = warp; cell < kTileCells; cell += kTileWarps) {
    T* const row = y.data + (first_cell + cell) * y.stride + columns.first;
    const int before = int(reinterpret_cast<uintptr_t>(row) / sizeof(T) % kSector);
#pragma unroll
    for (int part = 0; part < FieldColumns<float>::kMost / 32 + 1; ++part) {
      const int k = lane + part * 32 - before;
      if (k >= 0 && k < columns.count && first_cell + cell < num_cells) row[k] = narrow<T>(tile[k * kTilePitch + cell]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kTileThreads)
    denormalise_fields(int64_t num_cells, FieldColumns<double> columns, RowsOf<const T> x, RowsOf<float> fields) {
  float* const tile = dynamic_shared<float>();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_cell = int64_t(blockIdx.x) * kTileCells;
#pragma unroll 2
  for (int cell = warp; cell < kTileCells; cell += kTileWarps) {
    constexpr int kParts = FieldColumns<float>::kMost / 32;
    const T* const row = x.data + (first_cell + cell) * x.stride + columns.first;
    float value[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int k = lane + part * 32;
      value[part] = k < columns.count && first_cell + cell < num_cells ? widen(row[k]) : 0.0f;
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      if (lane + part * 32 < columns.count) tile[(lane + part * 32) * kTilePitch + cell] = value[part];
  }
  __syncthreads();
  for (int k = warp; k < columns.count; k += kTileWarps) {
    const double mul = columns.mul[k], add = columns.add[k];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int cell = lane + half * 32;
      if (first_cell + cell < num_cells)
        *fields.at(columns.field[k], first_cell + cell) = float(double(tile[k * kTilePitch + cell]) * mul + add);
    }
  }
}

// --- launches ---

/// The bits of one element, repeated to fill a word.
template <class W>
W repeated(DType dtype, double value) {
  W word;
  dispatch_dtype(dtype, [&]<class T>() {
    T element;
    if constexpr (std::is_same_v<T, bfloat16>)
      element = bfloat16(float(value));
    else
      element = T(value);
    for (size_t at = 0; at < sizeof(W); at += sizeof(T))
      std::memcpy(reinterpret_cast<char*>(&word) + at, &element, std::min(sizeof(T), sizeof(W) - at));
  });
  return word;
}

inline bool is_run(std::span<const int32_t> columns) {
  for (size_t k = 1; k < columns.size(); ++k)
    if (columns[k] != columns[0] + int32_t(k)) return false;
  return true;
}

inline Tensor run_of(const Tensor& tensor, std::span<const int32_t> columns) {
  return tensor.columns({columns.front(), columns.front() + int64_t(columns.size())});
}

/// y[:, to] = x[:, from] + before[:, to]; without `before`, the copy alone.
template <bool kAdd>
void launch_pairs(Context& ctx, const Tensor& x, std::span<const int32_t> from, const Tensor& before, const Tensor& y,
                  std::span<const int32_t> to) {
  for (size_t first = 0; first < to.size(); first += ColumnPairs::kMost) {
    ColumnPairs pairs;
    pairs.count = int32_t(std::min<size_t>(ColumnPairs::kMost, to.size() - first));
    std::copy_n(from.begin() + first, pairs.count, pairs.from);
    std::copy_n(to.begin() + first, pairs.count, pairs.to);
    const RowTiles tiles{y.rows(), pairs.count};
    dim3 blocks = tiles.blocks();
    blocks.x = std::min(blocks.x, 132u * kColumnBlocksResident);  // what an H200 holds
    const auto launch = [&]<class T>(const Tensor& before_y) {
      launch_kernel(pair_columns<kAdd, T>, blocks, kMapThreads, 0, stream_of(ctx), tiles, pairs,
                    rows_of<const float>(x), rows_of<const float>(before_y), rows_of<T>(y));
    };
    if constexpr (kAdd)
      launch.template operator()<float>(before);
    else
      dispatch_stored("copy_columns", y.dtype(), [&]<class T>() { launch.template operator()<T>(x); });
  }
}

inline void enqueue(Context& ctx, const Copy& op, Tensor);

template <bool kAdd>
void copy_or_add_columns(Context& ctx, const char* name, const Tensor& x, std::span<const int32_t> x_columns,
                         const Tensor& y, std::span<const int32_t> y_columns) {
  require_f32(name, x.dtype());
  if (y.rows() == 0 || y_columns.empty()) return;
  if (!is_run(x_columns) || !is_run(y_columns)) return launch_pairs<kAdd>(ctx, x, x_columns, y, y, y_columns);
  const Tensor from = run_of(x, x_columns), to = run_of(y, y_columns);
  if constexpr (kAdd)
    launch_map<float, const float, const float>(ctx, Sum{}, to, to, from);
  else
    enqueue(ctx, Copy{.x = from, .y = to}, {});
}

/// Calls f(first, count) for the columns of each launch: as few launches as lists allow, of nearly equal width.
template <class F>
void for_each_group(int64_t num_columns, F&& f) {
  const int64_t most = FieldColumns<float>::kMost, groups = (num_columns + most - 1) / most;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * num_columns / groups, end = (g + 1) * num_columns / groups;
    f(begin, end - begin);
  }
}

inline unsigned tile_blocks(int64_t num_cells) { return unsigned((num_cells + kTileCells - 1) / kTileCells); }

/// Sums in f64 are of the few numbers that a whole step comes to, such as a norm.
static __global__ void __launch_bounds__(kMapThreads)
    add_f64(int64_t num_rows, int64_t num_columns, RowsOf<const double> a, RowsOf<const double> b, RowsOf<double> y) {
  for (int64_t row = blockIdx.x; row < num_rows; row += gridDim.x)
    for (int64_t column = threadIdx.x; column < num_columns; column += kMapThreads)
      *y.at(row, column) = *a.at(row, column) + *b.at(row, column);
}

inline void enqueue(Context& ctx, const Add& op, Tensor) {
  if (op.y.dtype() == DType::f64 && op.y.size() == 0) return;
  if (op.y.dtype() == DType::f64)
    return launch_kernel(add_f64, unsigned(std::min<int64_t>(op.y.rows(), 1024)), kMapThreads, 0, stream_of(ctx),
                         op.y.rows(), op.y.cols(), rows_of<const double>(op.a), rows_of<const double>(op.b),
                         rows_of<double>(op.y));
  dispatch_stored(op.name, op.y.dtype(), [&]<class Y>() {
    dispatch_stored(op.name, op.a.dtype(), [&]<class A>() {
      dispatch_stored(op.name, op.b.dtype(),
                      [&]<class B>() { launch_map<Y, const A, const B>(ctx, Sum{}, op.y, op.a, op.b); });
    });
  });
}

inline void enqueue(Context& ctx, const Copy& op, Tensor) {
  if (op.x.dtype() == op.y.dtype()) return copy_bytes_of_rows(ctx, op.x, op.y);
  dispatch_stored(op.name, op.y.dtype(), [&]<class Y>() {
    dispatch_stored(op.name, op.x.dtype(), [&]<class X>() { launch_map<Y, const X>(ctx, Same{}, op.y, op.x); });
  });
}

inline void enqueue(Context& ctx, const Fill& op, Tensor) {
  if (op.y.size() == 0) return;
  const bool flat = op.y.contiguous();
  with_word(flat ? op.y.bytes() : op.y.cols() * size_of(op.y.dtype()), {flat ? op.y.reshape({op.y.size()}) : op.y},
            [&]<class W>(int64_t words) {
              const Chunks<1> chunks(flat ? 1 : op.y.rows(), words);
              launch_kernel(fill_words<W>, map_blocks(chunks), kMapThreads, 0, stream_of(ctx), chunks,
                            repeated<W>(op.y.dtype(), op.value), words_of<W>(op.y));
            });
}

inline void enqueue(Context& ctx, const Blend& op, Tensor) {
  dispatch_stored(op.name, op.y.dtype(), [&]<class T>() {
    launch_map<T, const T, const T>(ctx, Mixture{float(op.weight)}, op.y, op.x, op.y);
  });
}

inline void enqueue(Context& ctx, const AddPrognostic& op, Tensor) {
  require_f32(op.name, op.y.dtype());
  if (op.y.size() == 0) return;
  if (op.y.data() == op.delta.data())
    return copy_or_add_columns<true>(ctx, op.name, op.x, op.input_columns, op.y, op.output_columns);
  std::vector<int32_t> from(op.y.cols(), -1), to(op.y.cols());
  for (size_t k = 0; k < op.output_columns.size(); ++k) from[op.output_columns[k]] = op.input_columns[k];
  std::iota(to.begin(), to.end(), 0);
  launch_pairs<true>(ctx, op.x, from, op.delta, op.y, to);
}

inline void enqueue(Context& ctx, const CopyColumns& op, Tensor) {
  copy_or_add_columns<false>(ctx, op.name, op.x, op.x_columns, op.y, op.y_columns);
}

inline void enqueue(Context& ctx, const AddColumns& op, Tensor) {
  copy_or_add_columns<true>(ctx, op.name, op.x, op.x_columns, op.y, op.y_columns);
}

inline void enqueue(Context& ctx, const NormaliseFields& op, Tensor) {
  dispatch_stored(op.name, op.y.dtype(), [&]<class T>() {
    if (op.y.size() == 0) return;
    for_each_group(op.y.cols(), [&](int64_t first, int64_t count) {
      FieldColumns<float> columns{int32_t(first), int32_t(count)};
      FillValues fill;
      for (int64_t k = 0; k < count; ++k) {
        const int32_t v = columns.field[k] = op.columns[first + k];
        columns.mul[k] = float(op.mul[v]);
        columns.add[k] = float(op.add[v]);
        fill.value[k] = float(op.fill[v]);
      }
      launch_kernel(normalise_fields<T>, tile_blocks(op.y.rows()), kTileThreads, count * kTilePitch * sizeof(float),
                    stream_of(ctx), op.y.rows(), columns, fill, rows_of<const float>(op.fields), rows_of<T>(op.y));
    });
  });
}

inline void enqueue(Context& ctx, const DenormaliseFields& op, Tensor) {
  dispatch_stored(op.name, op.x.dtype(), [&]<class T>() {
    if (op.x.size() == 0) return;
    for_each_group(op.x.cols(), [&](int64_t first, int64_t count) {
      FieldColumns<double> columns{int32_t(first), int32_t(count)};
      for (int64_t k = 0; k < count; ++k) {
        const int32_t v = columns.field[k] = op.columns[first + k];
        columns.mul[k] = 1 / op.mul[v];
        columns.add[k] = -op.add[v] / op.mul[v];
      }
      launch_kernel(denormalise_fields<T>, tile_blocks(op.x.rows()), kTileThreads, count * kTilePitch * sizeof(float),
                    stream_of(ctx), op.x.rows(), columns, rows_of<const T>(op.x), rows_of<float>(op.fields));
    });
  });
}

}  // namespace boreas::cuda
