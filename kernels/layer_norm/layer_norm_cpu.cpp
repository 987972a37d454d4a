#include <algorithm>
#include <cmath>

#include "kernels/core/cpu_loops.h"
#include "kernels/layer_norm/layer_norm.h"

namespace boreas {

namespace {

// One segment: a first mean, then mean and variance about it (a mean far from 0 loses nothing), then the result. A
// segment stays in the first cache level.
template <class T>
void normalise_segment(const T* x, const T* gamma, const T* beta, int64_t width, T eps, T* y, T* stats) {
  T sum = 0, rest = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < width; ++c) sum += x[c];
  const T first = sum / T(width);
#pragma omp simd reduction(+ : rest, squares)
  for (int64_t c = 0; c < width; ++c) {
    const T d = x[c] - first;
    rest += d;
    squares += d * d;
  }
  const T shift = rest / T(width), mean = first + shift;
  const T rstd = T(1) / std::sqrt(std::max(squares / T(width) - shift * shift, T(0)) + eps);
  if (beta) {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) y[c] = (x[c] - mean) * rstd * gamma[c] + beta[c];
  } else {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) y[c] = (x[c] - mean) * rstd * gamma[c];
  }
  stats[0] = mean;
  stats[1] = rstd;
}

template <class T>
struct ParameterSums {
  T *d_gamma, *d_beta;  // null: not wanted
};

// y and beta may be null.
template <class T>
void differentiate_segment(const T* x, const T* gamma, const T* beta, const T* stats, const T* d_y, const T* d_residual,
                           int64_t width, T* d_x, T* y, ParameterSums<T> sums) {
  const T mean = stats[0], rstd = stats[1];
  if (sums.d_gamma) {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) {
      sums.d_gamma[c] += d_y[c] * ((x[c] - mean) * rstd);
      sums.d_beta[c] += d_y[c];
    }
  }
  T sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
  for (int64_t c = 0; c < width; ++c) {
    const T a = d_y[c] * gamma[c];
    sum += a;
    product += a * ((x[c] - mean) * rstd);
  }
  const T mean_a = sum / T(width), mean_product = product / T(width);
  if (d_residual) {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c)
      d_x[c] = rstd * (d_y[c] * gamma[c] - mean_a - (x[c] - mean) * rstd * mean_product) + d_residual[c];
  } else {
#pragma omp simd
    for (int64_t c = 0; c < width; ++c)
      d_x[c] = rstd * (d_y[c] * gamma[c] - mean_a - (x[c] - mean) * rstd * mean_product);
  }
  if (!y) return;
#pragma omp simd
  for (int64_t c = 0; c < width; ++c) y[c] = (x[c] - mean) * rstd * gamma[c] + (beta ? beta[c] : T(0));
}

}  // namespace

void cpu::launch(Backend, Context&, const LayerNormForward& op, Tensor) {
  dispatch_float(op.x.dtype(), [&]<class T>() {
    const int64_t width = op.gamma.size();
    const T* const gamma = op.gamma.as<T>();
    const T* const beta = op.beta ? op.beta.as<T>() : nullptr;
#pragma omp parallel for schedule(static) if (op.x.size() >= kParallelElements)
    for (int64_t i = 0; i < op.x.rows(); ++i)
      for (int64_t g = 0; g < op.groups; ++g)
        normalise_segment(op.x.row<T>(i) + g * width, gamma, beta, width, T(op.eps), op.y.row<T>(i) + g * width,
                          op.stats.row<T>(i * op.groups + g));
  });
}

void cpu::launch(Backend, Context&, const LayerNormBackward& op, Tensor scratch) {
  dispatch_float(op.x.dtype(), [&]<class T>() {
    const int64_t width = op.gamma.size();
    const T* const gamma = op.gamma.as<T>();
    const T* const beta = op.beta ? op.beta.as<T>() : nullptr;
    const bool want_sums = op.d_gamma || op.d_beta;
    T* const part_sums = static_cast<T*>(scratch.data());  // [parts, 2, width]: d_gamma, d_beta
    const Partition parts = summation_parts(op.x.rows());
#pragma omp parallel for schedule(static) if (op.x.size() >= kParallelElements)
    for (int64_t p = 0; p < parts.num_parts(); ++p) {
      ParameterSums<T> sums{};
      if (want_sums) {
        sums = {part_sums + 2 * p * width, part_sums + (2 * p + 1) * width};
        std::fill_n(sums.d_gamma, 2 * width, T(0));
      }
      for (int64_t i = parts[p].begin; i < parts[p].end; ++i)
        for (int64_t g = 0; g < op.groups; ++g) {
          const int64_t begin = g * width;
          const auto part_of = [&](const Tensor& tensor) { return tensor ? tensor.row<T>(i) + begin : nullptr; };
          differentiate_segment<T>(part_of(op.x), gamma, beta, op.stats.row<T>(i * op.groups + g), part_of(op.d_y),
                                   part_of(op.d_residual), width, part_of(op.d_x), part_of(op.y), sums);
        }
    }
    const auto add_parts = [&](const Tensor& out, int64_t which) {
      if (!out) return;
      T* const to = out.as<T>();
      for (int64_t p = 0; p < parts.num_parts(); ++p)
        for (int64_t c = 0; c < width; ++c) to[c] += part_sums[(2 * p + which) * width + c];
    };
    add_parts(op.d_gamma, 0);
    add_parts(op.d_beta, 1);
  });
}

}  // namespace boreas
