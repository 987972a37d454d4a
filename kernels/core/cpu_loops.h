// How CPU ops walk over tensors: parallel, honouring row strides, in an order that no timing changes.
#pragma once

#include <algorithm>

#include "kernels/core/partition.h"

namespace boreas::cpu {

/// Below this many elements a parallel region costs more than it saves.
inline constexpr int64_t kParallelElements = 1 << 14;

/// Calls body(i, j, n) for stretches of n elements from (row i, column j) that together cover rows x cols.
template <class Body>
void for_each_stretch(int64_t rows, int64_t cols, Body&& body) {
  constexpr int64_t kStretch = 8192;
  if (rows == 0 || cols == 0) return;
  const bool parallel = rows * cols >= kParallelElements;
  if (cols >= kStretch) {
    const int64_t per_row = (cols + kStretch - 1) / kStretch;
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t task = 0; task < rows * per_row; ++task) {
      const int64_t i = task / per_row, j = task % per_row * kStretch;
      body(i, j, std::min(kStretch, cols - j));
    }
  } else {
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t i = 0; i < rows; ++i) body(i, int64_t{0}, cols);
  }
}

/// y = f(inputs...) element by element. y may be one of the inputs, but must not overlap them otherwise.
template <class T, class F, class... Inputs>
void map_elements(const F& f, const Tensor& y, const Inputs&... inputs) {
  const bool flat = (y.contiguous() && ... && inputs.contiguous());
  for_each_stretch(flat ? 1 : y.rows(), flat ? y.size() : y.cols(), [&](int64_t i, int64_t j, int64_t n) {
    [&f, n](T* out, const auto*... in) {
#pragma omp simd
      for (int64_t k = 0; k < n; ++k) out[k] = f(in[k]...);
    }(y.row<T>(i) + j, static_cast<const T*>(inputs.template row<T>(i) + j)...);
  });
}

/// The parts in which rows are summed: a function of their number only, so sums do not depend on the thread count.
inline Partition summation_parts(int64_t rows) {
  return Partition::balanced(rows, std::clamp<int64_t>(rows / 64, 1, 64));
}

}  // namespace boreas::cpu
