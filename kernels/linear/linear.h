// Linear layers: products of rows with a weight matrix.
#pragma once

#include "kernels/core/op.h"

namespace boreas {

/// What a linear layer applies to its result. gelu is exact (erf); see activation.h.
enum class Activation : uint8_t { none, gelu };

/// Who applies, on a GPU, what goes with a product: GELU, its derivative, the sums of a bias gradient. fused: the
/// product itself, where it can: its GELU is the tanh form (in bf16 only), and bias gradients are sums of the product's
/// d_y if that needed no rounding. separate: kernels of their own, exact. automatic: what is faster, so GELU and its
/// derivative fused, the sums separate.
enum class LinearEpilogue : uint8_t { automatic, fused, separate };

/// Columns of a matrix whose rows begin at multiples of 16 bytes in every type. Matrix units want sums over so many.
constexpr int64_t padded_columns(int64_t cols) { return (cols + 7) / 8 * 8; }

/// Linear map of rows, forward.
///
///   z[n,m] = sum_k x[n,k] weight[m,k] + bias[m]       y = activation(z) + residual
///
/// Shapes   x: [N, K], or [N, padded_columns(K)] with zeros in the columns from K on   weight: [M, K]   bias: [M]
///          residual, pre_activation, y: [N, M]; bias, residual and pre_activation may be empty
/// Types    x, weight, bias, pre_activation: equal, f64 | f32 (GPU: also bf16);  y: that type or accumulator_of it
///          (without an activation);  residual: as y
/// Alias    residual may be y.   Repeatable: yes, for a fixed thread count.
/// Saves for backward: x (borrowed); z in pre_activation, if given
/// Errors   shape: N, K or M disagree;  invalid_argument: types differ, an activation and a residual, pre_activation
///          without an activation
/// Source   y = x W^T + b, as torch.nn.Linear
struct LinearForward {
  static constexpr const char* name = "linear_forward";
  Tensor x, weight, bias, residual;
  Activation activation = Activation::none;
  Tensor pre_activation;
  Tensor y;
  LinearEpilogue epilogue = LinearEpilogue::automatic;

  void check() const;
  int64_t scratch_bytes() const;
  int64_t flops() const { return 2 * x.rows() * x.cols() * weight.rows(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("weight", weight, Access::read);
    f("bias", bias, Access::read);
    f("residual", residual, Access::read);
    f("pre_activation", pre_activation, Access::write);
    f("y", y, Access::write);
  }
};

/// Linear map of rows, backward. The residual's gradient is d_y itself.
///
///   d_x[n,k] = sum_m d_y[n,m] weight[m,k]       (added to d_x with accumulate_d_x; times gelu'(pre_activation[n,k])
///                                               if pre_activation, of the layer that made x, is given)
///   d_weight[m,k] += sum_n d_y[n,m] x[n,k]      d_bias[m] += sum_n d_y[n,m]
///
/// Here y is the result before an activation: that of this layer is differentiated by whoever makes d_y.
///
/// Shapes   as forward, x with padding too; pre_activation, d_x: [N, K]   d_weight: [M, K]   d_bias: [M]; each of the
///          last three may be empty (not wanted)
/// Types    x, weight, pre_activation: equal, f64 | f32 (GPU: also bf16);  d_y: that type or accumulator_of it;
///          d_x: likewise, but without pre_activation;  d_weight, d_bias: accumulator_of that type
/// Alias    none.   Repeatable: yes, for a fixed thread count.
/// Errors   as forward;  invalid_argument: pre_activation and accumulate_d_x
struct LinearBackward {
  static constexpr const char* name = "linear_backward";
  Tensor x;       ///< only read for d_weight; may be empty without it
  Tensor weight;  ///< only read for d_x; may be empty without it
  Tensor d_y;
  Tensor pre_activation;
  Tensor d_x;
  bool accumulate_d_x = false;
  Tensor d_weight, d_bias;
  LinearEpilogue epilogue = LinearEpilogue::automatic;

  /// Type of the products' operands, which d_y and d_x may exceed.
  DType storage_type() const {
    if (d_weight && x) return x.dtype();
    return d_x && weight ? weight.dtype() : d_y.dtype();
  }
  void check() const;
  int64_t scratch_bytes() const;
  int64_t flops() const {
    return 2 * d_y.size() * ((d_x ? d_x.cols() : 0) + (d_weight ? d_weight.cols() : 0) + (d_bias ? 1 : 0));
  }
  void tensors(auto&& f) const {
    f("x", d_weight ? x : Tensor(), Access::read);
    f("weight", d_x ? weight : Tensor(), Access::read);
    f("d_y", d_y, Access::read);
    f("pre_activation", pre_activation, Access::read);
    f("d_x", d_x, accumulate_d_x ? Access::update : Access::write);
    f("d_weight", d_weight, Access::update);
    f("d_bias", d_bias, Access::update);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const LinearForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const LinearBackward& op, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context& ctx, const LinearForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const LinearBackward& op, Tensor scratch);
}  // namespace cuda

}  // namespace boreas
