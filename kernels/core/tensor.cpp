#include "kernels/core/tensor.h"

namespace boreas {

Shape::Shape(std::initializer_list<int64_t> sizes) {
  BOREAS_CHECK(sizes.size() <= sizes_.size(), shape, "a tensor has at most 4 dimensions, not {}", sizes.size());
  for (const int64_t size : sizes) {
    BOREAS_CHECK(size >= 0, shape, "dimension {} of a tensor is negative: {}", rank_, size);
    sizes_[rank_++] = size;
  }
}

int64_t Shape::size() const {
  int64_t product = 1;
  for (int i = 0; i < rank_; ++i)
    BOREAS_CHECK(!__builtin_mul_overflow(product, sizes_[i], &product), shape, "the size of {} overflows 64 bits",
                 to_string(*this));
  return product;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) text += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return text + "]";
}

Tensor::Tensor(void* data, DType dtype, Shape shape, Device device, int64_t row_stride)
    : data_(data), dtype_(dtype), device_(device), shape_(shape) {
  BOREAS_CHECK(shape.rank() > 0, shape, "a tensor needs at least one dimension");
  cols_ = shape[shape.rank() - 1];
  rows_ = 1;
  for (int i = 0; i + 1 < shape.rank(); ++i) rows_ *= shape[i];
  (void)shape.size();
  row_stride_ = row_stride < 0 ? cols_ : row_stride;
  BOREAS_CHECK(row_stride_ >= cols_ || rows_ <= 1, shape, "row stride {} is shorter than a row of {}", row_stride_,
               cols_);
}

Tensor Tensor::slice(Range rows) const {
  BOREAS_CHECK(0 <= rows.begin && rows.begin <= rows.end && rows.end <= rows_, shape, "rows [{}, {}) are outside {}",
               rows.begin, rows.end, to_string(*this));
  void* const begin = static_cast<char*>(data_) + rows.begin * row_stride_ * size_of(dtype_);
  return Tensor(begin, dtype_, {rows.size(), cols_}, device_, row_stride_);
}

Tensor Tensor::columns(Range columns) const {
  BOREAS_CHECK(0 <= columns.begin && columns.begin <= columns.end && columns.end <= cols_, shape,
               "columns [{}, {}) are outside {}", columns.begin, columns.end, to_string(*this));
  void* const begin = static_cast<char*>(data_) + columns.begin * size_of(dtype_);
  return Tensor(begin, dtype_, {rows_, columns.size()}, device_, row_stride_);
}

Tensor Tensor::reshape(Shape shape) const {
  BOREAS_CHECK(shape.size() == size() && shape.rank() > 0, shape, "{} cannot be seen as {}", to_string(*this),
               to_string(shape));
  if (contiguous()) return Tensor(data_, dtype_, shape, device_);
  BOREAS_CHECK(shape[shape.rank() - 1] == cols_, shape, "{} has a row stride of {} and cannot be seen as {}",
               to_string(*this), row_stride_, to_string(shape));
  return Tensor(data_, dtype_, shape, device_, row_stride_);
}

void Tensor::throw_dtype(DType wanted) const {
  BOREAS_FAIL(invalid_argument, "a tensor {} was read as {}", to_string(*this), to_string(wanted));
}

std::string to_string(const Tensor& tensor) {
  if (tensor.empty()) return "(none)";
  return fmt::format("{} {}", to_string(tensor.dtype()), to_string(tensor.shape()));
}

}  // namespace boreas
