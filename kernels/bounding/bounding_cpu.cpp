#include "kernels/bounding/bounding.h"
#include "kernels/core/cpu_loops.h"

namespace boreas {

namespace {

template <class T>
struct Bounded {
  T value, slope;
};

/// The bound as a function of one value: leaky outside [minimum, maximum] by `leak`, shifted by `offset`.
template <class T>
struct Bound {
  T minimum, maximum, leak;
  bool has_maximum;

  Bounded<T> operator()(T x, T offset) const {
    const T z = x - offset;
    if (!(z > minimum)) return {minimum + leak * (z - minimum) + offset, leak};
    if (has_maximum && !(z < maximum)) return {maximum + leak * (z - maximum) + offset, leak};
    return {offset == T(0) ? x : z + offset, T(1)};
  }
};

template <class T>
Bound<T> bound_of(const BoundingRule& rule) {
  constexpr T kLeak = T(0.01);
  switch (rule.kind) {
    case BoundingKind::relu:
    case BoundingKind::normalized_relu:
      return {0, 0, 0, false};
    case BoundingKind::leaky_relu:
    case BoundingKind::normalized_leaky_relu:
      return {0, 0, kLeak, false};
    case BoundingKind::hardtanh:
    case BoundingKind::fraction:
      return {T(rule.minimum), T(rule.maximum), 0, true};
    case BoundingKind::leaky_hardtanh:
    case BoundingKind::leaky_fraction:
      return {T(rule.minimum), T(rule.maximum), kLeak, true};
  }
  BOREAS_FAIL(internal, "unknown bounding kind {}", int(rule.kind));
}

bool is_shifted(BoundingKind kind) {
  return kind == BoundingKind::normalized_relu || kind == BoundingKind::normalized_leaky_relu;
}

}  // namespace

void cpu::launch(Backend, Context&, const BoundingForward& op, Tensor) {
  dispatch_float(op.y.dtype(), [&]<class T>() {
    const BoundingRule& rule = op.rule;
    const Bound<T> bound = bound_of<T>(rule);
    const int64_t num_columns = int64_t(rule.columns.size());
    const bool shifted = is_shifted(rule.kind), fraction = rule.is_fraction();
#pragma omp parallel for schedule(static) if (op.y.rows() * num_columns >= kParallelElements)
    for (int64_t i = 0; i < op.y.rows(); ++i) {
      T* const y = op.y.row<T>(i);
      for (int64_t k = 0; k < num_columns; ++k) {
        T& value = y[rule.columns[k]];
        value = bound(value, shifted ? T(rule.offsets[k]) : T(0)).value;
        if (fraction) value *= y[rule.total_column];
      }
    }
  });
}

void cpu::launch(Backend, Context&, const BoundingBackward& op, Tensor) {
  dispatch_float(op.d_y.dtype(), [&]<class T>() {
    const BoundingRule& rule = op.rule;
    const Bound<T> bound = bound_of<T>(rule);
    const int64_t num_columns = int64_t(rule.columns.size());
    const bool shifted = is_shifted(rule.kind), fraction = rule.is_fraction();
#pragma omp parallel for schedule(static) if (op.d_y.rows() * num_columns >= kParallelElements)
    for (int64_t i = 0; i < op.d_y.rows(); ++i) {
      const T* const before = op.y_before.row<T>(i);
      T* const d_y = op.d_y.row<T>(i);
      const T total = fraction ? before[num_columns] : T(1);
      T d_total = 0;
      for (int64_t k = 0; k < num_columns; ++k) {
        T& d = d_y[rule.columns[k]];
        const Bounded<T> bounded = bound(before[k], shifted ? T(rule.offsets[k]) : T(0));
        d_total += d * bounded.value;
        d *= bounded.slope * total;
      }
      if (fraction) d_y[rule.total_column] += d_total;
    }
  });
}

}  // namespace boreas
