#include <cmath>
#include <limits>

#include "kernels/adamw/adamw.h"
#include "kernels/core/cpu_loops.h"

namespace boreas {

namespace {

struct Control {
  double learning_rate, bias1, bias2, grad_scale;
};

template <class T>
Control control_of(const AdamW& op) {
  if (!op.control)
    return {op.learning_rate, 1 - std::pow(op.beta1, double(op.step)), 1 - std::pow(op.beta2, double(op.step)),
            op.grad_scale};
  const T* const given = op.control.as<T>();
  return {double(given[0]), double(given[1]), double(given[2]), double(given[3])};
}

void store_rounded(const Tensor& stored, int64_t i, int64_t j, int64_t n, const auto* value) {
  dispatch_dtype(stored.dtype(), [&]<class S>() {
    if constexpr (std::is_constructible_v<S, float>)
      for (int64_t k = 0; k < n; ++k) stored.row<S>(i)[j + k] = S(value[k]);
  });
}

}  // namespace

void cpu::launch(Backend, Context&, const AdamW& op, Tensor) {
  dispatch_float(op.value.dtype(), [&]<class T>() {
    const Control control = control_of<T>(op);
    if (std::isnan(control.grad_scale)) return;
    const T beta1 = T(op.beta1), beta2 = T(op.beta2), grown1 = T(1 - op.beta1), grown2 = T(1 - op.beta2);
    const T correction1 = T(control.learning_rate / control.bias1), correction2 = T(1 / std::sqrt(control.bias2));
    const T decay = T(1 - control.learning_rate * op.weight_decay), eps = T(op.eps), scale = T(control.grad_scale);
    const T clip = op.clip_value > 0 ? T(op.clip_value) : std::numeric_limits<T>::infinity();
    const bool flat = op.value.contiguous() && op.grad.contiguous() && op.first_moment.contiguous() &&
                      op.second_moment.contiguous() && op.stored.contiguous();
    for_each_stretch(
        flat ? 1 : op.value.rows(), flat ? op.value.size() : op.value.cols(), [&](int64_t i, int64_t j, int64_t n) {
          T* const value = op.value.row<T>(i) + j;
          const T* const grad = op.grad.row<T>(i) + j;
          T* const first = op.first_moment.row<T>(i) + j;
          T* const second = op.second_moment.row<T>(i) + j;
#pragma omp simd
          for (int64_t k = 0; k < n; ++k) {
            T g = grad[k] * scale;
            g = g > clip ? clip : g;  // a NaN stays a NaN
            g = g < -clip ? -clip : g;
            first[k] = beta1 * first[k] + grown1 * g;
            second[k] = beta2 * second[k] + grown2 * g * g;
            value[k] = value[k] * decay - correction1 * first[k] / (std::sqrt(second[k]) * correction2 + eps);
          }
          if (op.stored) store_rounded(op.stored, i, j, n, value);
        });
  });
}

void cpu::launch(Backend, Context&, const ClipScale& op, Tensor) {
  dispatch_float(op.control.dtype(), [&]<class T>() {
    const double norm = op.base_scale * std::sqrt(op.sum_of_squares.as<double>()[0]);
    double scale = op.base_scale;
    if (op.max_norm > 0 && norm > op.max_norm) scale *= op.max_norm / norm;
    op.control.as<T>()[3] = std::isfinite(norm) ? T(scale) : std::numeric_limits<T>::quiet_NaN();
  });
}

}  // namespace boreas
