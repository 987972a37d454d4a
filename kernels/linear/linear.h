// Linear layers: products of rows with a weight matrix.
#pragma once

#include "kernels/core/op.h"

namespace boreas {

/// Linear map of rows, forward.
///
///   y[n,m] = sum_k x[n,k] weight[m,k] + bias[m] + residual[n,m]
///
/// Shapes   x: [N, K]   weight: [M, K]   bias: [M], may be empty   residual, y: [N, M], residual may be empty
/// Types    all equal: f64 | f32
/// Alias    residual may be y.   Repeatable: yes, for a fixed thread count.   Saves for backward: nothing (x is
/// borrowed) Errors   shape: N, K or M disagree;  invalid_argument: types differ Source   y = x W^T + b, as
/// torch.nn.Linear
struct LinearForward {
  static constexpr const char* name = "linear_forward";
  Tensor x, weight, bias, residual;
  Tensor y;

  void check() const;
  int64_t flops() const { return 2 * x.rows() * x.cols() * weight.rows(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("weight", weight, Access::read);
    f("bias", bias, Access::read);
    f("residual", residual, Access::read);
    f("y", y, Access::write);
  }
};

/// Linear map of rows, backward. The residual's gradient is d_y itself.
///
///   d_x[n,k] = sum_m d_y[n,m] weight[m,k]       (added to d_x with accumulate_d_x)
///   d_weight[m,k] += sum_n d_y[n,m] x[n,k]      d_bias[m] += sum_n d_y[n,m]
///
/// Shapes   as forward; d_x: [N, K]   d_weight: [M, K]   d_bias: [M]; each of the three may be empty (not wanted)
/// Types    x, weight, d_y, d_x: equal, f64 | f32;  d_weight, d_bias: accumulator_of that type
/// Errors   as forward
struct LinearBackward {
  static constexpr const char* name = "linear_backward";
  Tensor x;       ///< only read for d_weight; may be empty without it
  Tensor weight;  ///< only read for d_x; may be empty without it
  Tensor d_y;
  Tensor d_x;
  bool accumulate_d_x = false;
  Tensor d_weight, d_bias;

  void check() const;
  int64_t scratch_bytes() const;
  int64_t flops() const {
    return 2 * d_y.size() * ((d_x ? d_x.cols() : 0) + (d_weight ? d_weight.cols() : 0) + (d_bias ? 1 : 0));
  }
  void tensors(auto&& f) const {
    f("x", d_weight ? x : Tensor(), Access::read);
    f("weight", d_x ? weight : Tensor(), Access::read);
    f("d_y", d_y, Access::read);
    f("d_x", d_x, accumulate_d_x ? Access::update : Access::write);
    f("d_weight", d_weight, Access::update);
    f("d_bias", d_bias, Access::update);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const LinearForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const LinearBackward& op, Tensor scratch);
}  // namespace cpu

}  // namespace boreas
