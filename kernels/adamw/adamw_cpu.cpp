#include <cmath>
#include <limits>

#include "kernels/adamw/adamw.h"
#include "kernels/core/cpu_loops.h"

namespace boreas {

void cpu::launch(Backend, Context&, const AdamW& op, Tensor) {
  dispatch_float(op.value.dtype(), [&]<class T>() {
    const T beta1 = T(op.beta1), beta2 = T(op.beta2), grown1 = T(1 - op.beta1), grown2 = T(1 - op.beta2);
    const T correction1 = T(op.learning_rate / (1 - std::pow(op.beta1, double(op.step))));
    const T correction2 = T(1 / std::sqrt(1 - std::pow(op.beta2, double(op.step))));
    const T decay = T(1 - op.learning_rate * op.weight_decay), eps = T(op.eps), scale = T(op.grad_scale);
    const T clip = op.clip_value > 0 ? T(op.clip_value) : std::numeric_limits<T>::infinity();
    const bool flat =
        op.value.contiguous() && op.grad.contiguous() && op.first_moment.contiguous() && op.second_moment.contiguous();
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
        });
  });
}

}  // namespace boreas
