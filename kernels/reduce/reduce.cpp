#include "kernels/reduce/reduce.h"

#include "kernels/core/check.h"
#include "kernels/reduce/reduce_blocks.h"

namespace boreas {

namespace {

void check_one_value(const char* op, const Tensor& x, const Tensor& out, DType dtype) {
  check_floating(op, "x", x);
  check_dtype(op, "out", out, dtype);
  BOREAS_CHECK(out.size() == 1, shape, "{}: out is {} but must be one value", op, to_string(out));
}

int64_t partial_bytes(const Tensor& x) {
  return x.device().is_cuda() ? cuda::reduce_blocks(x.size()) * int64_t(sizeof(double)) : 0;
}

}  // namespace

void SumOfSquares::check() const { check_one_value(name, x, out, DType::f64); }
void CountNonFinite::check() const { check_one_value(name, x, out, DType::i64); }
int64_t SumOfSquares::scratch_bytes() const { return partial_bytes(x); }
int64_t CountNonFinite::scratch_bytes() const { return partial_bytes(x); }

}  // namespace boreas
