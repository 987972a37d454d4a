#include <cblas.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/cpu_loops.h"
#include "kernels/core/vector_math.h"
#include "kernels/linear/linear.h"

namespace boreas {

namespace {

// BLAS takes 32-bit sizes; inside, offsets are 64-bit. Rows are the only size that can exceed them.
constexpr int64_t kMostRows = int64_t{1} << 30;

// A tensor of one row may have any stride, but BLAS wants one that is at least the row and fits 32 bits.
int leading_dimension(const Tensor& tensor) {
  const int64_t stride = tensor.rows() <= 1 ? std::max<int64_t>(tensor.cols(), 1) : tensor.row_stride();
  BOREAS_CHECK(stride <= INT32_MAX, unsupported, "a matrix product takes row strides up to {}, not {}", INT32_MAX,
               stride);
  return std::max(int(stride), 1);
}

// c = a op(b) + beta c, or c = a^T b + beta c; all row-major.
void product(CBLAS_TRANSPOSE trans_a, CBLAS_TRANSPOSE trans_b, const Tensor& a, const Tensor& b, double beta,
             const Tensor& c) {
  const int m = int(c.rows()), n = int(c.cols()), k = int(trans_a == CblasNoTrans ? a.cols() : a.rows());
  const int lda = leading_dimension(a), ldb = leading_dimension(b), ldc = leading_dimension(c);
  if (c.dtype() == DType::f64)
    cblas_dgemm(CblasRowMajor, trans_a, trans_b, m, n, k, 1.0, a.as<double>(), lda, b.as<double>(), ldb, beta,
                c.as<double>(), ldc);
  else
    cblas_sgemm(CblasRowMajor, trans_a, trans_b, m, n, k, 1.0f, a.as<float>(), lda, b.as<float>(), ldb, float(beta),
                c.as<float>(), ldc);
}

template <class Body>
void for_each_row_block(int64_t rows, Body&& body) {
  for (int64_t begin = 0; begin < rows; begin += kMostRows) body(Range{begin, std::min(begin + kMostRows, rows)});
}

// Writes to `sum` what the product is added to: bias and residual. False if there is neither, so nothing was written.
template <class T>
bool prefill(const LinearForward& op, const Tensor& sum) {
  const T* const bias = op.bias ? op.bias.as<T>() : nullptr;
  const bool in_place = op.residual && op.residual.data() == sum.data();
  if (!bias && !op.residual) return false;
  if (!bias && in_place) return true;
  cpu::for_each_stretch(sum.rows(), sum.cols(), [&](int64_t i, int64_t j, int64_t n) {
    T* const y = sum.row<T>(i) + j;
    if (!op.residual) {
      std::memcpy(y, bias + j, n * sizeof(T));
      return;
    }
    const T* const residual = op.residual.row<T>(i) + j;
    if (!bias) {
      std::memcpy(y, residual, n * sizeof(T));
      return;
    }
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) y[k] = bias[j + k] + residual[k];
  });
  return true;
}

// d_bias += sum of the rows of d_y: by parts, then over the parts in order.
template <class T>
void add_column_sums(const Tensor& d_y, const Tensor& d_bias, const Tensor& scratch) {
  const Partition parts = cpu::summation_parts(d_y.rows());
  const int64_t cols = d_y.cols();
  T* const sums = static_cast<T*>(scratch.data());
#pragma omp parallel for schedule(static) if (d_y.size() >= cpu::kParallelElements)
  for (int64_t p = 0; p < parts.num_parts(); ++p) {
    T* const sum = sums + p * cols;
    std::fill_n(sum, cols, T(0));
    for (int64_t i = parts[p].begin; i < parts[p].end; ++i) {
      const T* const row = d_y.row<T>(i);
#pragma omp simd
      for (int64_t j = 0; j < cols; ++j) sum[j] += row[j];
    }
  }
  T* const out = d_bias.as<T>();
  for (int64_t p = 0; p < parts.num_parts(); ++p)
    for (int64_t j = 0; j < cols; ++j) out[j] += sums[p * cols + j];
}

// Functions of their own: inside the launchers the compiler does not vectorise them.
template <class T>
[[gnu::noinline]] void apply_gelu(const Tensor& y, const Tensor& z) {
  cpu::map_elements<T>([](T x) { return vector_math::gelu(x); }, y, z);
}
template <class T>
[[gnu::noinline]] void apply_gelu_slope(const Tensor& d, const Tensor& z) {
  cpu::map_elements<T>([](T g, T x) { return g * vector_math::gelu_slope(x); }, d, d, z);
}

}  // namespace

void cpu::launch(Backend, Context&, const LinearForward& op, Tensor) {
  dispatch_float(op.x.dtype(), [&]<class T>() {
    if (op.y.size() == 0) return;
    const Tensor& sum = op.pre_activation ? op.pre_activation : op.y;
    const double beta = prefill<T>(op, sum) ? 1 : 0;
    for_each_row_block(sum.rows(), [&](Range rows) {
      product(CblasNoTrans, CblasTrans, op.x.slice(rows).columns({0, op.weight.cols()}), op.weight, beta,
              sum.slice(rows));
    });
    if (op.activation == Activation::gelu) apply_gelu<T>(op.y, sum);
  });
}

void cpu::launch(Backend, Context&, const LinearBackward& op, Tensor scratch) {
  dispatch_float(op.d_y.dtype(), [&]<class T>() {
    if (op.d_bias) add_column_sums<T>(op.d_y, op.d_bias, scratch);
    for_each_row_block(op.d_y.rows(), [&](Range rows) {
      if (op.d_weight && op.d_weight.size() > 0)
        product(CblasTrans, CblasNoTrans, op.d_y.slice(rows), op.x.slice(rows).columns({0, op.d_weight.cols()}), 1,
                op.d_weight);
      if (op.d_x && op.d_x.size() > 0)
        product(CblasNoTrans, CblasNoTrans, op.d_y.slice(rows), op.weight, op.accumulate_d_x ? 1 : 0,
                op.d_x.slice(rows));
    });
    if (op.pre_activation) apply_gelu_slope<T>(op.d_x, op.pre_activation);
  });
}

}  // namespace boreas
