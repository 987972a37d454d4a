// Kernels of bounding, and their launches: a thread owns a row.
#pragma once

#include <algorithm>

#include "kernels/bounding/bounding.h"
#include "kernels/cuda/map.cuh"

namespace boreas::cuda {

inline constexpr int kBoundingThreads = 256;

/// Some of the columns of a rule, by value; longer lists take several launches.
struct BoundedColumns {
  static constexpr int kMost = 448;
  float minimum, maximum, leak;
  bool has_maximum;
  int32_t first, count, total;  ///< first: position in the rule; total: column that is multiplied in, or -1
  int32_t column[kMost];
  float offset[kMost];
};

struct Bounded {
  float value, slope;
};

__device__ inline Bounded bound(const BoundedColumns& rule, float x, float offset) {
  const float z = x - offset;
  if (!(z > rule.minimum)) return {rule.minimum + rule.leak * (z - rule.minimum) + offset, rule.leak};
  if (rule.has_maximum && !(z < rule.maximum))
    return {rule.maximum + rule.leak * (z - rule.maximum) + offset, rule.leak};
  return {offset == 0.0f ? x : z + offset, 1.0f};
}

static __global__ void __launch_bounds__(kBoundingThreads)
    bound_forward(int64_t num_rows, BoundedColumns rule, RowsOf<float> y) {
  const int64_t row = int64_t(blockIdx.x) * kBoundingThreads + threadIdx.x;
  if (row >= num_rows) return;
  const float total = rule.total >= 0 ? *y.at(row, rule.total) : 1.0f;
  for (int k = 0; k < rule.count; ++k) {
    float* const value = y.at(row, rule.column[k]);
    *value = bound(rule, *value, rule.offset[k]).value * total;
  }
}

/// `before`: the values before, in the order of the rule; the total, if any, is column `total_before`.
static __global__ void __launch_bounds__(kBoundingThreads)
    bound_backward(int64_t num_rows, BoundedColumns rule, int64_t total_before, RowsOf<const float> before,
                   RowsOf<float> d_y) {
  const int64_t row = int64_t(blockIdx.x) * kBoundingThreads + threadIdx.x;
  if (row >= num_rows) return;
  const float total = rule.total >= 0 ? *before.at(row, total_before) : 1.0f;
  float d_total = 0;
  for (int k = 0; k < rule.count; ++k) {
    float* const d = d_y.at(row, rule.column[k]);
    const Bounded bounded = bound(rule, *before.at(row, rule.first + k), rule.offset[k]);
    d_total += *d * bounded.value;
    *d *= bounded.slope * total;
  }
  if (rule.total >= 0) *d_y.at(row, rule.total) += d_total;
}

// --- launches ---

/// Calls f(columns) for the columns of each launch.
template <class F>
void for_each_launch(const BoundingRule& rule, F&& f) {
  using Kind = BoundingKind;
  const bool leaky = rule.kind == Kind::leaky_relu || rule.kind == Kind::normalized_leaky_relu ||
                     rule.kind == Kind::leaky_hardtanh || rule.kind == Kind::leaky_fraction;
  const bool shifted = rule.kind == Kind::normalized_relu || rule.kind == Kind::normalized_leaky_relu;
  const bool limited = rule.kind == Kind::hardtanh || rule.kind == Kind::leaky_hardtanh || rule.is_fraction();
  BoundedColumns columns{.minimum = limited ? float(rule.minimum) : 0.0f,
                         .maximum = limited ? float(rule.maximum) : 0.0f,
                         .leak = leaky ? 0.01f : 0.0f,
                         .has_maximum = limited,
                         .total = rule.is_fraction() ? rule.total_column : -1};
  for (size_t first = 0; first < rule.columns.size(); first += BoundedColumns::kMost) {
    columns.first = int32_t(first);
    columns.count = int32_t(std::min<size_t>(BoundedColumns::kMost, rule.columns.size() - first));
    for (int k = 0; k < columns.count; ++k) {
      columns.column[k] = rule.columns[first + k];
      columns.offset[k] = shifted ? float(rule.offsets[first + k]) : 0.0f;
    }
    f(columns);
  }
}

inline unsigned blocks_of(int64_t num_rows) { return unsigned((num_rows + kBoundingThreads - 1) / kBoundingThreads); }

inline void enqueue(Context& ctx, const BoundingForward& op, Tensor) {
  require_f32(op.name, op.y.dtype());
  if (op.y.rows() == 0) return;
  for_each_launch(op.rule, [&](const BoundedColumns& columns) {
    launch_kernel(bound_forward, blocks_of(op.y.rows()), kBoundingThreads, 0, stream_of(ctx), op.y.rows(), columns,
                  rows_of<float>(op.y));
  });
}

inline void enqueue(Context& ctx, const BoundingBackward& op, Tensor) {
  require_f32(op.name, op.d_y.dtype());
  if (op.d_y.rows() == 0) return;
  for_each_launch(op.rule, [&](const BoundedColumns& columns) {
    launch_kernel(bound_backward, blocks_of(op.d_y.rows()), kBoundingThreads, 0, stream_of(ctx), op.d_y.rows(), columns,
                  int64_t(op.rule.columns.size()), rows_of<const float>(op.y_before), rows_of<float>(op.d_y));
  });
}

}  // namespace boreas::cuda
