#include "tests/support/fixtures.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace boreas::test {

namespace {

constexpr double kPadding = 96;  // exact in every type

template <class T>
T convert(double value) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return bfloat16(float(value));
  else
    return T(value);
}

/// Calls set(element, index) for all elements, in row-major order.
void for_each_element(const Tensor& tensor, auto&& value_of) {
  dispatch_dtype(tensor.dtype(), [&]<class T>() {
    int64_t index = 0;
    for (int64_t i = 0; i < tensor.rows(); ++i)
      for (int64_t j = 0; j < tensor.cols(); ++j) tensor.row<T>(i)[j] = convert<T>(value_of(index++));
  });
}

double element(const Tensor& tensor, int64_t i, int64_t j) {
  return dispatch_dtype(tensor.dtype(), [&]<class T>() -> double {
    if constexpr (std::is_same_v<T, bfloat16>)
      return float(tensor.row<T>(i)[j]);
    else
      return double(tensor.row<T>(i)[j]);
  });
}

double unset(DType dtype) { return is_floating(dtype) ? std::numeric_limits<double>::quiet_NaN() : -1; }

}  // namespace

Workspace::Workspace(uint64_t seed, int64_t arena_bytes)
    : arena_(Buffer::on(Device::cpu(), arena_bytes, "test arena")), seed_(seed), ctx(Device::cpu(), arena_) {}

Tensor Workspace::allocate(DType dtype, Shape shape) {
  return buffers_
      .emplace_back(Device::cpu(), Buffer::Kind::host, std::max<int64_t>(shape.size() * size_of(dtype), 1), "test")
      .tensor(dtype, shape);
}

Tensor Workspace::allocate_strided(DType dtype, int64_t rows, int64_t cols) {
  const Tensor wide = allocate(dtype, {rows, cols + 5});
  for_each_element(wide, [](int64_t) { return kPadding; });
  const Tensor tensor = wide.columns({2, cols + 2});
  wide_.push_back(wide);
  padded_.push_back(tensor);
  return tensor;
}

void Workspace::fill_random(const Tensor& tensor, double scale) {
  const Philox rng(seed_, num_made_++);
  for_each_element(tensor, [&](int64_t i) { return std::round(rng.normal(i) * scale * 4096) / 4096; });
}

Tensor Workspace::random(DType dtype, Shape shape, double scale) {
  const Tensor tensor = allocate(dtype, shape);
  fill_random(tensor, scale);
  return tensor;
}

Tensor Workspace::random_strided(DType dtype, int64_t rows, int64_t cols, double scale) {
  const Tensor tensor = allocate_strided(dtype, rows, cols);
  fill_random(tensor, scale);
  return tensor;
}

Tensor Workspace::output(DType dtype, Shape shape) { return filled(dtype, shape, unset(dtype)); }

Tensor Workspace::output_strided(DType dtype, int64_t rows, int64_t cols) {
  const Tensor tensor = allocate_strided(dtype, rows, cols);
  fill(tensor, unset(dtype));
  return tensor;
}

Tensor Workspace::filled(DType dtype, Shape shape, double value) {
  const Tensor tensor = allocate(dtype, shape);
  fill(tensor, value);
  return tensor;
}

Tensor Workspace::of(DType dtype, Shape shape, std::span<const double> values) {
  BOREAS_CHECK(int64_t(values.size()) == shape.size(), shape, "{} values for {}", values.size(), to_string(shape));
  const Tensor tensor = allocate(dtype, shape);
  for_each_element(tensor, [&](int64_t i) { return values[i]; });
  return tensor;
}

Tensor Workspace::ids(std::span<const int32_t> values) {
  const Tensor tensor = allocate(DType::i32, {int64_t(values.size())});
  std::copy(values.begin(), values.end(), tensor.as<int32_t>());
  return tensor;
}

Tensor Workspace::copy_of(const Tensor& tensor, DType dtype) {
  const Tensor copy = allocate(dtype, tensor.shape());
  for_each_element(copy, [&](int64_t i) { return element(tensor, i / tensor.cols(), i % tensor.cols()); });
  return copy;
}

void Workspace::expect_padding_untouched() const {
  for (size_t k = 0; k < wide_.size(); ++k) {
    const Tensor &wide = wide_[k], &tensor = padded_[k];
    for (int64_t i = 0; i < wide.rows(); ++i)
      for (int64_t j = 0; j < wide.cols(); ++j) {
        const bool padding = j < 2 || j >= tensor.cols() + 2;
        ASSERT_TRUE(!padding || element(wide, i, j) == kPadding)
            << to_string(tensor) << ": the row padding was overwritten at row " << i << ", column " << j - 2;
      }
  }
}

void fill(const Tensor& tensor, double value) {
  for_each_element(tensor, [&](int64_t) { return value; });
}

double dot(const Tensor& a, const Tensor& b) {
  BOREAS_CHECK(a.rows() == b.rows() && a.cols() == b.cols(), shape, "dot of {} and {}", to_string(a), to_string(b));
  double sum = 0;
  for (int64_t i = 0; i < a.rows(); ++i)
    for (int64_t j = 0; j < a.cols(); ++j) sum += element(a, i, j) * element(b, i, j);
  return sum;
}

RandomEdges random_edges(int64_t num_src, int64_t num_dst, int64_t mean_degree, uint64_t seed) {
  RandomEdges edges{num_src, num_dst, {0}, {}};
  const Philox rng(seed, 0x6772);
  const uint64_t num_used = uint64_t(std::max<int64_t>(num_src - 1, 1));
  uint64_t counter = 0;
  for (int64_t i = 0; i < num_dst; ++i) {
    const int64_t degree = i % 5 == 4 || num_src == 0 ? 0 : int64_t(rng.below(counter++, 2 * mean_degree)) + 1;
    std::vector<int32_t> sources;
    for (int64_t m = 0; m < degree; ++m) sources.push_back(int32_t(rng.below(counter++, num_used)));
    std::sort(sources.begin(), sources.end());
    edges.src_of.insert(edges.src_of.end(), sources.begin(), sources.end());
    edges.dst_ptr.push_back(int64_t(edges.src_of.size()));
  }
  return edges;
}

}  // namespace boreas::test
