#include "kernels/core/check.h"

namespace boreas {

void check_shape(const char* op, const char* name, const Tensor& tensor, int64_t rows, int64_t cols,
                 const char* reference_name, const Tensor& reference) {
  BOREAS_CHECK(!tensor.empty() && tensor.rows() == rows && tensor.cols() == cols, shape,
               "{}: {} is {} but must be [{}, {}] to fit {} {}", op, name, to_string(tensor), rows, cols,
               reference_name, to_string(reference));
}

void check_vector(const char* op, const char* name, const Tensor& vector, int64_t size, const char* reference_name,
                  const Tensor& reference) {
  BOREAS_CHECK(!vector.empty() && vector.size() == size && vector.contiguous(), shape,
               "{}: {} is {} but must be {} contiguous values to fit {} {}", op, name, to_string(vector), size,
               reference_name, to_string(reference));
}

void check_dtype(const char* op, const char* name, const Tensor& tensor, DType dtype) {
  BOREAS_CHECK(!tensor.empty(), invalid_argument, "{}: {} is required but was not given", op, name);
  BOREAS_CHECK(tensor.dtype() == dtype, invalid_argument, "{}: {} is {} but must be {}", op, name,
               to_string(tensor.dtype()), to_string(dtype));
}

void check_dtype_or_accumulator(const char* op, const char* name, const Tensor& tensor, DType dtype) {
  const DType accumulator = accumulator_of(dtype);
  if (tensor.empty() || accumulator == dtype) return check_dtype(op, name, tensor, dtype);
  BOREAS_CHECK(tensor.dtype() == dtype || tensor.dtype() == accumulator, invalid_argument,
               "{}: {} is {} but must be {} or {}", op, name, to_string(tensor.dtype()), to_string(dtype),
               to_string(accumulator));
}

void check_floating(const char* op, const char* name, const Tensor& tensor) {
  BOREAS_CHECK(!tensor.empty(), invalid_argument, "{}: {} is required but was not given", op, name);
  BOREAS_CHECK(is_floating(tensor.dtype()), invalid_argument, "{}: {} is {} but must be f64, f32 or bf16", op, name,
               to_string(tensor.dtype()));
}

void check_stored_as(const char* op, const char* name, const Tensor& tensor, DType accumulator) {
  BOREAS_CHECK(!tensor.empty(), invalid_argument, "{}: {} is required but was not given", op, name);
  BOREAS_CHECK(is_floating(tensor.dtype()) && accumulator_of(tensor.dtype()) == accumulator, invalid_argument,
               "{}: {} is {} but must be {}", op, name, to_string(tensor.dtype()),
               accumulator == DType::f32 ? "f32 or bf16" : to_string(accumulator));
}

}  // namespace boreas
