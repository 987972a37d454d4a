// Walks over matrices with strided rows in chunks of a few elements, and the kernel of elementwise maps.
#pragma once

#include "kernels/cuda/vector_io.cuh"

namespace boreas::cuda {

/// n / divisor by one multiplication, exact while n * divisor < 2^64.
class Divisor {
 public:
  explicit Divisor(int64_t divisor) : divisor_(divisor), magic_(divisor == 1 ? 0 : ~uint64_t{0} / divisor + 1) {}
  __device__ int64_t quotient(int64_t n) const {
    return magic_ == 0 ? n : int64_t((static_cast<unsigned __int128>(n) * magic_) >> 64);
  }
  __device__ int64_t remainder(int64_t n) const { return n - quotient(n) * divisor_; }

 private:
  int64_t divisor_;
  uint64_t magic_;  // 2^64 / divisor, rounded up; 0 for the divisor 1
};

/// Where the rows of a tensor lie, in the order of `ids` if there are any.
template <class T>
struct RowsOf {
  T* data;
  int64_t stride;
  const int32_t* ids = nullptr;
  __device__ T* at(int64_t row, int64_t column) const {
    return data + (ids ? int64_t(__ldg(ids + row)) : row) * stride + column;
  }
};

template <class T>
RowsOf<T> rows_of(const Tensor& tensor) {
  return {tensor ? tensor.as<std::remove_const_t<T>>() : nullptr, tensor.row_stride()};
}

struct Place {
  int64_t row, column;
};

/// The chunks of `kSize` elements of all rows; the last chunk of a row may be shorter.
template <int kSize>
struct Chunks {
  int64_t columns, per_row, count;
  Divisor row_of;
  Chunks(int64_t rows, int64_t cols)
      : columns(cols), per_row((cols + kSize - 1) / kSize), count(rows * per_row), row_of(per_row > 0 ? per_row : 1) {}
  __device__ Place place(int64_t chunk) const {
    const int64_t row = row_of.quotient(chunk);
    return {row, (chunk - row * per_row) * kSize};
  }
};

inline constexpr int kMapThreads = 256;
/// Chunks that a thread of a map owns: chunk first + u * kMapThreads of its block.
template <int kSize>
inline constexpr int kChunksAThread = kSize >= 8 ? 2 : 4;

template <int kSize>
__device__ inline int64_t chunk_of_thread(int u) {
  return (int64_t(blockIdx.x) * kChunksAThread<kSize> + u) * kMapThreads + threadIdx.x;
}

/// y = f(x...), element by element. A thread reads all its chunks before it writes the first, so y may be an x.
template <int kSize, class F, class Y, class... X>
__global__ void __launch_bounds__(kMapThreads) map_chunks(Chunks<kSize> chunks, F f, RowsOf<Y> y, RowsOf<X>... x) {
  constexpr int kChunks = kChunksAThread<kSize>;
  float in[sizeof...(X)][kChunks][kSize];
  Place place[kChunks];
#pragma unroll
  for (int u = 0; u < kChunks; ++u) {
    const int64_t chunk = chunk_of_thread<kSize>(u);
    if (chunk >= chunks.count) continue;
    place[u] = chunks.place(chunk);
    int input = 0;
    (load_elements<kSize>(x.at(place[u].row, place[u].column), chunks.columns - place[u].column, in[input++][u]), ...);
  }
#pragma unroll
  for (int u = 0; u < kChunks; ++u) {
    if (chunk_of_thread<kSize>(u) >= chunks.count) continue;
    float out[kSize];
#pragma unroll
    for (int k = 0; k < kSize; ++k)
      if constexpr (sizeof...(X) == 1)
        out[k] = f(in[0][u][k]);
      else
        out[k] = f(in[0][u][k], in[1][u][k]);
    store_elements<kSize>(y.at(place[u].row, place[u].column), chunks.columns - place[u].column, out);
  }
}

/// Rows whose elements are moved one by one: a warp owns kRows rows of a tile of columns, and lane l the columns l,
/// l + 32, ... of the tile. Nothing is divided, and many narrow loads are on their way at once.
struct RowTiles {
  static constexpr int kRows = 4, kParts = 4, kColumns = 32 * kParts, kRowsABlock = kMapThreads / 32 * kRows;
  int64_t rows, columns;

  /// Whether lanes have enough to do, and tiles of columns fit in a grid.
  bool suit() const { return rows > 1 && columns >= 32 && columns <= 65535 * int64_t{kColumns}; }
  dim3 blocks() const {
    return {unsigned((rows + kRowsABlock - 1) / kRowsABlock), unsigned((columns + kColumns - 1) / kColumns)};
  }
  __device__ Place place(int r, int part) const {
    return {int64_t(blockIdx.x) * kRowsABlock + threadIdx.x / 32 * kRows + r,
            int64_t(blockIdx.y) * kColumns + part * 32 + threadIdx.x % 32};
  }
  __device__ bool holds(Place place) const { return place.row < rows && place.column < columns; }
};

/// y = f(x...), element by element; y may be an x.
template <class F, class Y, class... X>
__global__ void __launch_bounds__(kMapThreads) map_row_tiles(RowTiles tiles, F f, RowsOf<Y> y, RowsOf<X>... x) {
  constexpr int kRows = RowTiles::kRows, kParts = RowTiles::kParts;
  float in[sizeof...(X)][kRows][kParts];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const Place place = tiles.place(r, part);
      int input = 0;
      ((in[input++][r][part] = widen(tiles.holds(place) ? *x.at(place.row, place.column) : std::remove_const_t<X>())),
       ...);
    }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const Place place = tiles.place(r, part);
      if (!tiles.holds(place)) continue;
      float out;
      if constexpr (sizeof...(X) == 1)
        out = f(in[0][r][part]);
      else
        out = f(in[0][r][part], in[1][r][part]);
      *y.at(place.row, place.column) = narrow<Y>(out);
    }
}

/// Words of rows, from one place to another; x may have row ids. Threads own chunks as in a map.
template <class W>
__global__ void __launch_bounds__(kMapThreads) copy_words(Chunks<1> chunks, RowsOf<const W> x, RowsOf<W> y) {
  constexpr int kWords = kChunksAThread<1>;
  W word[kWords];
  Place place[kWords];
#pragma unroll
  for (int u = 0; u < kWords; ++u)
    if (chunk_of_thread<1>(u) < chunks.count) {
      place[u] = chunks.place(chunk_of_thread<1>(u));
      word[u] = *x.at(place[u].row, place[u].column);
    }
#pragma unroll
  for (int u = 0; u < kWords; ++u)
    if (chunk_of_thread<1>(u) < chunks.count) *y.at(place[u].row, place[u].column) = word[u];
}

/// The same by tiles.
template <class W>
__global__ void __launch_bounds__(kMapThreads) copy_row_tiles(RowTiles tiles, RowsOf<const W> x, RowsOf<W> y) {
  W word[RowTiles::kRows][RowTiles::kParts];
#pragma unroll
  for (int r = 0; r < RowTiles::kRows; ++r)
#pragma unroll
    for (int part = 0; part < RowTiles::kParts; ++part) {
      const Place place = tiles.place(r, part);
      word[r][part] = tiles.holds(place) ? *x.at(place.row, place.column) : W();
    }
#pragma unroll
  for (int r = 0; r < RowTiles::kRows; ++r)
#pragma unroll
    for (int part = 0; part < RowTiles::kParts; ++part) {
      const Place place = tiles.place(r, part);
      if (tiles.holds(place)) *y.at(place.row, place.column) = word[r][part];
    }
}

}  // namespace boreas::cuda
