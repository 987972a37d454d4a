// Linear maps, alone or several in one product.
#pragma once

#include <string>
#include <vector>

#include "kernels/linear/linear.h"
#include "models/parameters.h"

namespace boreas {

/// y = W x + b (+ residual), W: [out, in]. Keeps nothing but its input, which its caller holds: its two directions are
/// therefore plain functions, and the parts of backward can be ordered so that buffers are reused.
///
/// Shapes   x: [N, in], or padded_columns(in) with zeros at the end   y, residual: [N, out]
/// Types    x: that of the weights, T;  y, residual, d_y, d_x: T or its accumulator type
class Linear {
 public:
  enum class Bias : bool { no, yes };

  /// Parameters `<name>.weight` and `<name>.bias`, U(+-1/sqrt(in)); or zero.
  Linear(ParameterStore& store, const std::string& name, int64_t in, int64_t out, bool zero = false);
  /// Several maps of one input as one product: rows of y are their results side by side, parameters
  /// `<prefix>.<part>.weight`.
  Linear(ParameterStore& store, const std::string& prefix, const std::vector<ParameterStore::StackPart>& parts,
         int64_t in, Bias bias);

  int64_t out() const { return weight_->shape[0]; }
  DType dtype() const { return weight_->value.dtype(); }
  void forward(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& residual = {}) const;
  /// y = W[rows] x + b[rows]
  void forward_rows(Context& ctx, const Tensor& x, const Tensor& y, Range rows) const;
  /// y = GELU(before), before = W x + b; `before` may be empty.
  void forward_gelu(Context& ctx, const Tensor& x, const Tensor& before, const Tensor& y) const;
  /// Gradients of weight and bias.
  void backward_parameters(Context& ctx, const Tensor& x, const Tensor& d_y) const;
  /// d_x = d_y W, or += ; with fewer columns than x: of the last columns of x.
  void backward_input(Context& ctx, const Tensor& d_y, const Tensor& d_x, bool accumulate = false) const;
  /// d_before = (d_y W) GELU'(before), for x = GELU(before).
  void backward_gelu(Context& ctx, const Tensor& d_y, const Tensor& before, const Tensor& d_before) const;

 private:
  const Parameter *weight_, *bias_ = nullptr;
};

}  // namespace boreas
