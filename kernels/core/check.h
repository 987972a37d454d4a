// Checks that most ops make, with one wording.
#pragma once

#include "kernels/core/tensor.h"

namespace boreas {

/// Throws `shape` unless the tensor has these rows and columns: "linear_forward: weight is f32 [8, 3] but must be [8,
/// 4] to fit x f32 [10, 4]".
void check_shape(const char* op, const char* name, const Tensor& tensor, int64_t rows, int64_t cols,
                 const char* reference_name, const Tensor& reference);

/// Throws `shape` unless `vector` is a contiguous row of `size` elements.
void check_vector(const char* op, const char* name, const Tensor& vector, int64_t size, const char* reference_name,
                  const Tensor& reference);

/// Throws `invalid_argument` unless the tensor is there and has that type.
void check_dtype(const char* op, const char* name, const Tensor& tensor, DType dtype);

/// The same where a storage type or the type of its sums is taken.
void check_dtype_or_accumulator(const char* op, const char* name, const Tensor& tensor, DType dtype);

/// Throws `invalid_argument` unless the tensor is there and is f64, f32 or bf16.
void check_floating(const char* op, const char* name, const Tensor& tensor);

/// Throws `invalid_argument` unless the tensor is there and has that type, or a storage type whose sums are kept in it.
void check_stored_as(const char* op, const char* name, const Tensor& tensor, DType accumulator);

}  // namespace boreas
