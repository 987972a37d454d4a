#include "kernels/gather_rows/gather_rows.h"

#include "kernels/core/check.h"

namespace boreas {

namespace {

template <class Op>
void check_common(const Op& op) {
  BOREAS_CHECK(op.x && op.y, invalid_argument, "{}: x and y are required", op.name);
  check_dtype(op.name, "ids", op.ids, DType::i32);
  BOREAS_CHECK(op.x.cols() == op.y.cols(), shape, "{}: x is {} and y is {}; their columns must agree", op.name,
               to_string(op.x), to_string(op.y));
}

}  // namespace

void GatherRows::check() const {
  check_common(*this);
  check_dtype(name, "y", y, x.dtype());
  check_vector(name, "ids", ids, y.rows(), "y", y);
}

void ScatterAddRows::check() const {
  check_common(*this);
  check_floating(name, "x", x);
  check_dtype(name, "y", y, accumulator_of(x.dtype()));
  check_vector(name, "ids", ids, x.rows(), "x", x);
}

}  // namespace boreas
