#include "kernels/linear/linear.h"

#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/cpu_loops.h"
#include "kernels/linear/linear_scratch.h"

namespace boreas {

namespace {

void check_widths(const char* op, int64_t m, int64_t k) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  BOREAS_CHECK(m >= 1 && k >= 1, shape, "{}: a weight of [{}, {}] has nothing to multiply", op, m, k);
  BOREAS_CHECK(m <= kLargest && k <= kLargest, unsupported,
               "{}: a weight of [{}, {}] has more rows or columns than a matrix product takes ({})", op, m, k,
               kLargest);
}

// x may have zeros behind its columns.
bool matches(const Tensor& x, int64_t cols) { return x.cols() == cols || x.cols() == padded_columns(cols); }

}  // namespace

void LinearForward::check() const {
  check_floating(name, "x", x);
  check_dtype(name, "weight", weight, x.dtype());
  check_dtype_or_accumulator(name, "y", y, x.dtype());
  BOREAS_CHECK(matches(x, weight.cols()), shape, "{}: weight {} has {} inputs but x is {}; they must agree", name,
               to_string(weight), weight.cols(), to_string(x));
  check_shape(name, "y", y, x.rows(), weight.rows(), "weight", weight);
  if (bias) {
    check_dtype(name, "bias", bias, x.dtype());
    check_vector(name, "bias", bias, weight.rows(), "weight", weight);
  }
  if (residual) {
    check_dtype(name, "residual", residual, y.dtype());
    check_shape(name, "residual", residual, y.rows(), y.cols(), "y", y);
  }
  if (activation != Activation::none) {
    check_dtype(name, "y", y, x.dtype());
    BOREAS_CHECK(!residual, invalid_argument, "{}: a residual cannot be added to an activation", name);
  }
  if (pre_activation) {
    BOREAS_CHECK(activation != Activation::none, invalid_argument,
                 "{}: pre_activation is given but there is no activation", name);
    check_dtype(name, "pre_activation", pre_activation, x.dtype());
    check_shape(name, "pre_activation", pre_activation, y.rows(), y.cols(), "y", y);
    BOREAS_CHECK(pre_activation.data() != y.data() || y.size() == 0, invalid_argument,
                 "{}: pre_activation and y must not be the same memory", name);
  }
  check_widths(name, weight.rows(), weight.cols());
}

int64_t LinearForward::scratch_bytes() const {
  return y.device().is_cuda() ? cuda::LinearForwardScratch(*this).bytes : 0;
}

void LinearBackward::check() const {
  check_floating(name, "d_y", d_y);
  const DType dtype = storage_type();
  check_dtype_or_accumulator(name, "d_y", d_y, dtype);
  if (d_x) {
    check_dtype(name, "weight", weight, dtype);
    check_dtype_or_accumulator(name, "d_x", d_x, dtype);
    check_shape(name, "weight", weight, d_y.cols(), d_x.cols(), "d_y", d_y);
    check_shape(name, "d_x", d_x, d_y.rows(), weight.cols(), "d_y", d_y);
    check_widths(name, weight.rows(), weight.cols());
  }
  if (pre_activation) {
    BOREAS_CHECK(d_x && !accumulate_d_x, invalid_argument,
                 "{}: pre_activation needs a d_x that is written, not added to", name);
    check_dtype(name, "pre_activation", pre_activation, dtype);
    check_dtype(name, "d_x", d_x, dtype);
    check_shape(name, "pre_activation", pre_activation, d_x.rows(), d_x.cols(), "d_x", d_x);
    BOREAS_CHECK(pre_activation.data() != d_x.data() || d_x.size() == 0, invalid_argument,
                 "{}: pre_activation and d_x must not be the same memory", name);
  }
  if (d_weight) {
    check_dtype(name, "x", x, dtype);
    check_dtype(name, "d_weight", d_weight, accumulator_of(dtype));
    BOREAS_CHECK(!x.empty() && x.rows() == d_y.rows() && matches(x, d_weight.cols()), shape,
                 "{}: x is {}; expected {} rows, as d_y, and {} columns, as d_weight", name, to_string(x), d_y.rows(),
                 d_weight.cols());
    check_shape(name, "d_weight", d_weight, d_y.cols(), d_weight.cols(), "d_y", d_y);
    check_widths(name, d_weight.rows(), d_weight.cols());
  }
  if (d_bias) {
    check_dtype(name, "d_bias", d_bias, accumulator_of(d_y.dtype()));
    check_vector(name, "d_bias", d_bias, d_y.cols(), "d_y", d_y);
  }
}

int64_t LinearBackward::scratch_bytes() const {
  if (d_y.device().is_cuda()) return cuda::LinearScratch(*this, storage_type()).bytes;
  if (!d_bias) return 0;
  return cpu::summation_parts(d_y.rows()).num_parts() * d_y.cols() * size_of(accumulator_of(d_y.dtype()));
}

}  // namespace boreas
