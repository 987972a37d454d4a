#include "kernels/activation/activation.h"
#include "kernels/core/cpu_loops.h"
#include "kernels/core/vector_math.h"

namespace boreas {

namespace {

/// A gate's value and slope.
template <class T>
struct Opening {
  T value, slope;
};

template <Gate kind, class T>
inline Opening<T> open(T g) {
  if constexpr (kind == Gate::sigmoid) {
    const T s = vector_math::sigmoid(g);
    return {s, s * (T(1) - s)};
  } else if constexpr (kind == Gate::silu) {
    const T s = vector_math::sigmoid(g);
    return {g * s, s * (T(1) + g * (T(1) - s))};
  } else if constexpr (kind == Gate::gelu) {
    const auto normal = vector_math::normal(g);
    return {g * normal.cdf, normal.cdf + g * normal.density};
  } else {
    return {g > T(0) ? g : T(0), g > T(0) ? T(1) : T(0)};
  }
}

}  // namespace

void cpu::launch(Backend, Context&, const GeluForward& op, Tensor) {
  dispatch_float(op.x.dtype(),
                 [&]<class T>() { map_elements<T>([](T x) { return open<Gate::gelu>(x).value; }, op.y, op.x); });
}

void cpu::launch(Backend, Context&, const GeluBackward& op, Tensor) {
  dispatch_float(op.x.dtype(), [&]<class T>() {
    map_elements<T>([](T x, T d_y) { return d_y * open<Gate::gelu>(x).slope; }, op.d_x, op.x, op.d_y);
  });
}

void cpu::launch(Backend, Context&, const GatedForward& op, Tensor) {
  dispatch_float(op.y.dtype(), [&]<class T>() {
    dispatch_gate(op.kind, [&]<Gate kind>() {
      map_elements<T>([](T gate, T value) { return open<kind>(gate).value * value; }, op.y, op.gate, op.value);
    });
  });
}

void cpu::launch(Backend, Context&, const GatedBackward& op, Tensor) {
  dispatch_float(op.d_y.dtype(), [&]<class T>() {
    dispatch_gate(op.kind, [&]<Gate kind>() {
      for_each_stretch(op.d_y.rows(), op.d_y.cols(), [&](int64_t i, int64_t j, int64_t n) {
        const T *gate = op.gate.row<T>(i) + j, *value = op.value.row<T>(i) + j, *d_y = op.d_y.row<T>(i) + j;
        T *d_gate = op.d_gate.row<T>(i) + j, *d_value = op.d_value.row<T>(i) + j;
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) {
          const Opening<T> opening = open<kind>(gate[k]);
          const T d = d_y[k], v = value[k];
          d_gate[k] = d * v * opening.slope;
          d_value[k] = d * opening.value;
        }
      });
    });
  });
}

}  // namespace boreas
