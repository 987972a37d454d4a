// Products of matrices that fit in the first-level cache, on one thread.
#pragma once

#include <type_traits>

#include "kernels/core/simd.h"

namespace boreas {

/// Rows in memory, `stride` apart.
template <class T>
struct Matrix {
  T* data = nullptr;
  int64_t stride = 0;
  T* row(int64_t i) const { return data + i * stride; }
  Matrix at(int64_t row, int64_t column) const { return {data + row * stride + column, stride}; }
  operator Matrix<const T>() const requires(!std::is_const_v<T>) { return {data, stride}; }
};
/// The left side of a product, of which either rows or columns are contiguous: a Matrix, or transposed(matrix).
template <class T>
struct LeftSide {
  const T* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
  LeftSide(const T* d, int64_t rows, int64_t columns) : data(d), row_stride(rows), column_stride(columns) {}
  LeftSide(const Matrix<const T>& m) : LeftSide(m.data, m.stride, 1) {}
  LeftSide(const Matrix<T>& m) : LeftSide(m.data, m.stride, 1) {}
  LeftSide from_row(int64_t r) const { return {data + r * row_stride, row_stride, column_stride}; }
};
template <class T>
LeftSide<std::remove_const_t<T>> transposed(const Matrix<T>& m) {
  return {m.data, 1, m.stride};
}

namespace detail {

// c [NumRows, NumVectors * Width] = (or +=) a b, all sums in registers.
template <class T, int Width, int NumRows, int NumVectors, bool Accumulate>
inline void multiply_block(int64_t depth, LeftSide<T> a, Matrix<const T> b, Matrix<T> c) {
  simd::Vec<T, Width> sums[NumRows][NumVectors];
#pragma GCC unroll 8
  for (int r = 0; r < NumRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < NumVectors; ++v)
      sums[r][v] = Accumulate ? simd::load<T, Width>(c.row(r) + v * Width) : simd::Vec<T, Width>{};
  for (int64_t p = 0; p < depth; ++p) {
    simd::Vec<T, Width> right[NumVectors];
#pragma GCC unroll 2
    for (int v = 0; v < NumVectors; ++v) right[v] = simd::load<T, Width>(b.row(p) + v * Width);
#pragma GCC unroll 8
    for (int r = 0; r < NumRows; ++r) {
      const T left = a.data[r * a.row_stride + p * a.column_stride];
#pragma GCC unroll 2
      for (int v = 0; v < NumVectors; ++v) sums[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < NumRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < NumVectors; ++v) simd::store<T, Width>(c.row(r) + v * Width, sums[r][v]);
}

}  // namespace detail

/// c [rows, columns] = a [rows, depth] b [depth, columns], or += with Accumulate. The columns are a multiple of Width.
template <class T, int Width, bool Accumulate>
inline void multiply(int64_t rows, int64_t columns, int64_t depth, LeftSide<T> a, Matrix<const T> b, Matrix<T> c) {
  const auto strip = [&]<int NumVectors>(int64_t column) {
    int64_t r = 0;
    const auto blocks = [&]<int NumRows>() {
      for (; r + NumRows <= rows; r += NumRows)
        detail::multiply_block<T, Width, NumRows, NumVectors, Accumulate>(depth, a.from_row(r), b.at(0, column),
                                                                          c.at(r, column));
    };
    blocks.template operator()<8>();
    blocks.template operator()<4>();
    blocks.template operator()<1>();
  };
  int64_t column = 0;
  for (; column + 2 * Width <= columns; column += 2 * Width) strip.template operator()<2>(column);
  if (column < columns) strip.template operator()<1>(column);
}

}  // namespace boreas
