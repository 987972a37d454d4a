// Tensor: a non-owning typed view of host or device memory.
#pragma once

#include <array>
#include <initializer_list>
#include <string>

#include "kernels/core/device.h"
#include "kernels/core/dtype.h"

namespace boreas {

/// A half-open range of rows, cells, edges or columns.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// Up to four sizes, row-major.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes);
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return sizes_[i]; }
  int64_t size() const;  ///< product of the sizes, overflow checked; 1 for rank 0
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, 4> sizes_{};
  int rank_ = 0;
};

std::string to_string(const Shape& shape);

/// View of rows() x cols() elements: cols() is the last size, rows() the product of the others; elements of a row are
/// contiguous, rows are row_stride() elements apart. A column slice of a wider matrix is therefore a Tensor, and
/// concatenation is writing into slices. Copying a Tensor copies the view; methods are const, and who may write is
/// stated by the op. A default-constructed Tensor is empty and means "not wanted"; a tensor of zero rows is not empty.
class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, DType dtype, Shape shape, Device device = Device::cpu(), int64_t row_stride = -1);

  bool empty() const { return shape_.rank() == 0; }
  explicit operator bool() const { return !empty(); }

  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t size(int i) const { return shape_[i]; }
  int64_t size() const { return empty() ? 0 : rows_ * cols_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t row_stride() const { return row_stride_; }
  bool contiguous() const { return row_stride_ == cols_ || rows_ <= 1; }
  int64_t bytes() const { return size() * size_of(dtype_); }
  void* data() const { return data_; }

  /// Typed pointer to the first element; throws if T is not the dtype.
  template <class T>
  T* as() const {
    if (dtype_ != dtype_of<T>) throw_dtype(dtype_of<T>);
    return static_cast<T*>(data_);
  }
  /// Typed pointer to the first element of row i.
  template <class T>
  T* row(int64_t i) const {
    return as<T>() + i * row_stride_;
  }

  /// Rows [begin, end) of the [rows, cols] view: a 2-D tensor.
  Tensor slice(Range rows) const;
  /// Columns [begin, end): a 2-D tensor with the same row stride.
  Tensor columns(Range columns) const;
  /// The same elements under another shape; needs contiguous() unless the last size stays.
  Tensor reshape(Shape shape) const;

 private:
  [[noreturn]] void throw_dtype(DType wanted) const;

  void* data_ = nullptr;
  DType dtype_ = DType::f32;
  Device device_;
  Shape shape_;
  int64_t rows_ = 0, cols_ = 0, row_stride_ = 0;
};

/// "f32 [40320, 1024]"
std::string to_string(const Tensor& tensor);

}  // namespace boreas
