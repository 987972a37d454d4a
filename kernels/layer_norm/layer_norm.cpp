#include "kernels/layer_norm/layer_norm.h"

#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/cpu_loops.h"
#include "kernels/layer_norm/layer_norm_blocks.h"

namespace boreas {

namespace {

template <class Op>
void check_common(const Op& op) {
  check_floating(op.name, "x", op.x);
  check_floating(op.name, "gamma", op.gamma);
  check_dtype_or_accumulator(op.name, "x", op.x, op.gamma.dtype());
  check_dtype(op.name, "stats", op.stats, accumulator_of(op.gamma.dtype()));
  BOREAS_CHECK(op.groups >= 1 && op.x.cols() % op.groups == 0, invalid_argument,
               "{}: rows of {} values cannot be split into {} equal groups", op.name, op.x.cols(), op.groups);
  BOREAS_CHECK(op.x.cols() <= std::numeric_limits<int32_t>::max(), unsupported, "{}: rows of {} values are too wide",
               op.name, op.x.cols());
  const int64_t width = op.x.cols() / op.groups;
  BOREAS_CHECK(op.gamma.size() == width && op.gamma.contiguous(), shape,
               "{}: gamma has {} channels but x is {} in {} groups of {}; they must agree", op.name, op.gamma.size(),
               to_string(op.x), op.groups, width);
  check_shape(op.name, "stats", op.stats, op.x.rows() * op.groups, 2, "x", op.x);
}

template <class Op>
void check_beta(const Op& op) {
  if (op.beta.empty()) return;
  check_dtype(op.name, "beta", op.beta, op.gamma.dtype());
  check_vector(op.name, "beta", op.beta, op.gamma.size(), "gamma", op.gamma);
}

void check_like_x(const char* op, const char* name, const Tensor& tensor, DType dtype, const Tensor& x) {
  check_dtype(op, name, tensor, dtype);
  check_shape(op, name, tensor, x.rows(), x.cols(), "x", x);
}

}  // namespace

void LayerNormForward::check() const {
  check_common(*this);
  check_like_x(name, "y", y, gamma.dtype(), x);
  check_beta(*this);
  BOREAS_CHECK(eps > 0, invalid_argument, "{}: eps is {} but must be positive", name, eps);
}

void LayerNormBackward::check() const {
  check_common(*this);
  check_like_x(name, "d_y", d_y, gamma.dtype(), x);
  check_dtype_or_accumulator(name, "d_x", d_x, gamma.dtype());
  check_like_x(name, "d_x", d_x, d_x.dtype(), x);
  if (d_residual) check_like_x(name, "d_residual", d_residual, d_x.dtype(), x);
  if (y) {
    check_like_x(name, "y", y, gamma.dtype(), x);
    check_beta(*this);
    BOREAS_CHECK(y.data() != d_x.data() || y.size() == 0, invalid_argument, "{}: y and d_x must not be the same memory",
                 name);
  }
  for (const auto& [label, tensor] : {std::pair{"d_gamma", d_gamma}, std::pair{"d_beta", d_beta}}) {
    if (tensor.empty()) continue;
    check_dtype(name, label, tensor, accumulator_of(gamma.dtype()));
    check_vector(name, label, tensor, gamma.size(), "gamma", gamma);
  }
}

int64_t LayerNormBackward::scratch_bytes() const {
  if (!d_gamma && !d_beta) return 0;
  const int64_t num_partials = x.device().is_cuda() ? cuda::layer_norm_blocks(x.rows() * groups, gamma.size())
                                                    : cpu::summation_parts(x.rows()).num_parts();
  return num_partials * 2 * gamma.size() * size_of(accumulator_of(gamma.dtype()));
}

}  // namespace boreas
