// What tests compute with: a context with memory, tensors of random values, graphs.
#pragma once

#include <deque>
#include <initializer_list>
#include <span>
#include <vector>

#include "kernels/core/context.h"
#include "kernels/core/rng.h"

namespace boreas::test {

/// Owns an arena, a context and every tensor it makes. Random values are a function of (seed, order of the calls), the
/// same in f32 and f64 up to rounding: they are multiples of 2^-12, so both hold them exactly.
class Workspace {
  Arena arena_;
  uint64_t seed_, num_made_ = 0;
  std::deque<Buffer> buffers_;
  std::vector<Tensor> padded_, wide_;

 public:
  Context ctx;

  explicit Workspace(uint64_t seed = 1, int64_t arena_bytes = int64_t{256} << 20);
  Workspace(const Workspace&) = delete;

  /// Normal values times `scale`.
  Tensor random(DType dtype, Shape shape, double scale = 1);
  /// The same as a column slice of a wider matrix: row stride > cols. See expect_padding_untouched.
  Tensor random_strided(DType dtype, int64_t rows, int64_t cols, double scale = 1);
  /// Full of NaN (floating types) or -1: an output that is not overwritten shows.
  Tensor output(DType dtype, Shape shape);
  Tensor output_strided(DType dtype, int64_t rows, int64_t cols);
  Tensor filled(DType dtype, Shape shape, double value);
  Tensor of(DType dtype, Shape shape, std::span<const double> values);
  Tensor of(DType dtype, Shape shape, std::initializer_list<double> values) {
    return of(dtype, shape, std::span(values.begin(), values.size()));
  }
  Tensor ids(std::span<const int32_t> values);
  Tensor ids(std::initializer_list<int32_t> values) { return ids(std::span(values.begin(), values.size())); }
  /// A contiguous copy, converted to another floating type if given.
  Tensor copy_of(const Tensor& tensor) { return copy_of(tensor, tensor.dtype()); }
  Tensor copy_of(const Tensor& tensor, DType dtype);

  /// Fails the test if anything wrote between the columns of a strided tensor and the next row.
  void expect_padding_untouched() const;

 private:
  Tensor allocate(DType dtype, Shape shape);
  Tensor allocate_strided(DType dtype, int64_t rows, int64_t cols);
  void fill_random(const Tensor& tensor, double scale);
};

/// Sets all elements of a host tensor.
void fill(const Tensor& tensor, double value);

/// sum of a * b over all elements, in f64: the scalar "loss" of a gradient check.
double dot(const Tensor& a, const Tensor& b);

/// Random edges sorted by destination: about `mean_degree` a destination, none into every fifth destination, none from
/// the last source (if there is more than one). Graph::from_sorted takes it as it is.
struct RandomEdges {
  int64_t num_src = 0, num_dst = 0;
  std::vector<int64_t> dst_ptr;
  std::vector<int32_t> src_of;
};
RandomEdges random_edges(int64_t num_src, int64_t num_dst, int64_t mean_degree, uint64_t seed = 1);

}  // namespace boreas::test
