// Kernels of the ops in elementwise.h that are not plain maps, and the launches of all of them.
#pragma once

#include <algorithm>
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

// --- columns by number: a warp owns kColumnRows rows at a time, its lanes walk over the listed columns --------------

inline constexpr int kColumnBlocksResident = 5;  // on a multiprocessor
inline constexpr int kColumnWarps = 8, kColumnRows = 4, kColumnRowsABlock = kColumnWarps * kColumnRows;

/// Pairs of columns, by value; longer lists take several launches.
struct ColumnPairs {
  static constexpr int kMost = 448;
  int32_t count;
  int32_t from[kMost], to[kMost];
};

/// y[:, to] = x[:, from], or += .
template <bool kAdd>
__global__ void __launch_bounds__(kColumnWarps * 32, kColumnBlocksResident)
    pair_columns(int64_t num_rows, ColumnPairs pairs, RowsOf<const float> x, RowsOf<float> y) {
  __shared__ int32_t from[ColumnPairs::kMost], to[ColumnPairs::kMost];  // lanes read different entries
  for (int k = threadIdx.x; k < pairs.count; k += kColumnWarps * 32) {
    from[k] = pairs.from[k];
    to[k] = pairs.to[k];
  }
  __syncthreads();
  const int64_t step = int64_t(gridDim.x) * kColumnRowsABlock;
  for (int64_t row = int64_t(blockIdx.x) * kColumnRowsABlock + threadIdx.x / 32 * kColumnRows; row < num_rows;
       row += step)
    for (int k = threadIdx.x % 32; k < pairs.count; k += 32) {
      const float* const source = x.data + row * x.stride + from[k];
      float* const target = y.data + row * y.stride + to[k];
      float value[kColumnRows], before[kColumnRows];
#pragma unroll
      for (int r = 0; r < kColumnRows; ++r) {
        value[r] = row + r < num_rows ? source[r * x.stride] : 0.0f;
        before[r] = kAdd && row + r < num_rows ? target[r * y.stride] : 0.0f;
      }
#pragma unroll
      for (int r = 0; r < kColumnRows; ++r)
        if (row + r < num_rows) target[r * y.stride] = value[r] + before[r];
    }
}

/// Which column of x is added to each of `count` columns of y, from `first` on; -1: none.
struct ColumnSources {
  static constexpr int kMost = 896;
  int32_t first, count;
  int32_t source[kMost];
};

/// y = delta, plus the columns of x that have a place in y.
static __global__ void __launch_bounds__(kColumnWarps * 32, kColumnBlocksResident)
    add_prognostic(int64_t num_rows, ColumnSources columns, RowsOf<const float> x, RowsOf<const float> delta,
                   RowsOf<float> y) {
  __shared__ int32_t source[ColumnSources::kMost];
  for (int k = threadIdx.x; k < columns.count; k += kColumnWarps * 32) source[k] = columns.source[k];
  __syncthreads();
  const int64_t step = int64_t(gridDim.x) * kColumnRowsABlock;
  for (int64_t row = int64_t(blockIdx.x) * kColumnRowsABlock + threadIdx.x / 32 * kColumnRows; row < num_rows;
       row += step)
    for (int k = threadIdx.x % 32; k < columns.count; k += 32) {
      const int from = source[k], c = columns.first + k;
      const float* const deltas = delta.data + row * delta.stride + c;
      const float* const added = x.data + row * x.stride + from;
      float* const target = y.data + row * y.stride + c;
      float value[kColumnRows], before[kColumnRows];
#pragma unroll
      for (int r = 0; r < kColumnRows; ++r) {
        value[r] = row + r < num_rows ? deltas[r * delta.stride] : 0.0f;
        before[r] = from >= 0 && row + r < num_rows ? added[r * x.stride] : 0.0f;
      }
#pragma unroll
      for (int r = 0; r < kColumnRows; ++r)
        if (row + r < num_rows) target[r * y.stride] = value[r] + before[r];
    }
}

// --- fields [V, cells] to rows [cells, n] and back: a block transposes kTileCells cells through shared memory
// ---------

inline constexpr int kTileCells = 64, kTilePitch = kTileCells + 1, kTileThreads = 256;
inline constexpr int kTileWarps = kTileThreads / 32, kTileBatch = 4;

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
__global__ void __launch_bounds__(kTileThreads)
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
  // A warp writes the columns of one row.
#pragma unroll 2
  for (int cell = warp; cell < kTileCells; cell += kTileWarps) {
    T* const row = y.data + (first_cell + cell) * y.stride + columns.first;
#pragma unroll
    for (int part = 0; part < FieldColumns<float>::kMost / 32; ++part) {
      const int k = lane + part * 32;
      if (k < columns.count && first_cell + cell < num_cells) row[k] = narrow<T>(tile[k * kTilePitch + cell]);
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

inline unsigned column_blocks(int64_t num_rows) {
  constexpr int64_t kResident = 132 * kColumnBlocksResident;  // on an H200; each loads the table of columns once
  return unsigned(std::min((num_rows + kColumnRowsABlock - 1) / kColumnRowsABlock, kResident));
}

template <bool kAdd>
void launch_pairs(Context& ctx, const char* name, const Tensor& x, std::span<const int32_t> x_columns, const Tensor& y,
                  std::span<const int32_t> y_columns) {
  require_f32(name, y.dtype());
  if (y.rows() == 0 || y_columns.empty()) return;
  if (is_run(x_columns) && is_run(y_columns)) {
    const Tensor from = run_of(x, x_columns), to = run_of(y, y_columns);
    if constexpr (kAdd)
      launch_map<float, const float, const float>(ctx, Sum{}, to, to, from);
    else
      copy_bytes_of_rows(ctx, from, to);
    return;
  }
  for (size_t first = 0; first < y_columns.size(); first += ColumnPairs::kMost) {
    ColumnPairs pairs;
    pairs.count = int32_t(std::min<size_t>(ColumnPairs::kMost, y_columns.size() - first));
    std::copy_n(x_columns.begin() + first, pairs.count, pairs.from);
    std::copy_n(y_columns.begin() + first, pairs.count, pairs.to);
    launch_kernel(pair_columns<kAdd>, column_blocks(y.rows()), kColumnWarps * 32, 0, stream_of(ctx), y.rows(), pairs,
                  rows_of<const float>(x), rows_of<float>(y));
  }
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
  if (op.y.data() == op.delta.data())
    return launch_pairs<true>(ctx, op.name, op.x, op.input_columns, op.y, op.output_columns);
  if (op.y.size() == 0) return;
  std::vector<int32_t> source_of(op.y.cols(), -1);
  for (size_t k = 0; k < op.output_columns.size(); ++k) source_of[op.output_columns[k]] = op.input_columns[k];
  for (int64_t first = 0; first < op.y.cols(); first += ColumnSources::kMost) {
    ColumnSources columns;
    columns.first = int32_t(first);
    columns.count = int32_t(std::min<int64_t>(ColumnSources::kMost, op.y.cols() - first));
    std::copy_n(source_of.begin() + first, columns.count, columns.source);
    launch_kernel(add_prognostic, column_blocks(op.y.rows()), kColumnWarps * 32, 0, stream_of(ctx), op.y.rows(),
                  columns, rows_of<const float>(op.x), rows_of<const float>(op.delta), rows_of<float>(op.y));
  }
}

inline void enqueue(Context& ctx, const CopyColumns& op, Tensor) {
  launch_pairs<false>(ctx, op.name, op.x, op.x_columns, op.y, op.y_columns);
}

inline void enqueue(Context& ctx, const AddColumns& op, Tensor) {
  launch_pairs<true>(ctx, op.name, op.x, op.x_columns, op.y, op.y_columns);
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
