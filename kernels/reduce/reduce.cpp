#include "kernels/reduce/reduce.h"

#include "kernels/core/check.h"

namespace boreas {

namespace {

void check_one_value(const char* op, const Tensor& x, const Tensor& out, DType dtype) {
  check_floating(op, "x", x);
  check_dtype(op, "out", out, dtype);
  BOREAS_CHECK(out.size() == 1, shape, "{}: out is {} but must be one value", op, to_string(out));
}

}  // namespace

void SumOfSquares::check() const { check_one_value(name, x, out, DType::f64); }
void CountNonFinite::check() const { check_one_value(name, x, out, DType::i64); }

}  // namespace boreas
