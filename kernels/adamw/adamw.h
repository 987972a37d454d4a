// AdamW: the optimiser's update of a flat array of parameters.
#pragma once

#include "kernels/core/op.h"

namespace boreas {

/// One step of Adam with decoupled weight decay.
///
///   g = clamp(grad * grad_scale, -clip_value, clip_value)                    (no clamp for clip_value <= 0)
///   m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
///   value = value (1 - learning_rate weight_decay) - learning_rate (m / bias1) / (sqrt(v / bias2) + eps)
///   stored = value,   bias1 = 1 - beta1^step,   bias2 = 1 - beta2^step
///
/// With `control` = (learning_rate, bias1, bias2, grad_scale), which lies on the device, the numbers of those names and
/// `step` are not used: an update that is recorded once can then be replayed at every step. A grad_scale that is NaN
/// means: change nothing.
///
/// Shapes   value, grad, moments, stored: equal   control: 4 values   stored and control may be empty
/// Types    value, grad, moments, control: equal, f64 | f32;  stored: the same, or bf16 for f32
/// Repeatable: yes, for any thread count; numbers and a control of the same values give the same bits.
/// Errors   shape: sizes disagree;  invalid_argument: types differ, step < 1, betas outside [0, 1), eps <= 0
/// Source   Loshchilov, Hutter 2019, algorithm 2
struct AdamW {
  static constexpr const char* name = "adamw";
  Tensor value, grad, first_moment, second_moment;
  Tensor stored;  ///< the values as ops use them, rounded to their type
  Tensor control;
  double learning_rate = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.01;
  int64_t step = 1;       ///< 1 for the first update
  double clip_value = 0;  ///< <= 0: off
  double grad_scale = 1;  ///< multiplies the gradient first: a mean over micro-steps, or a clip by global norm

  void check() const;
  int64_t flops() const { return 16 * value.size(); }
  void tensors(auto&& f) const {
    f("value", value, Access::update);
    f("grad", grad, Access::read);
    f("first_moment", first_moment, Access::update);
    f("second_moment", second_moment, Access::update);
    f("stored", stored, Access::write);
    f("control", control, Access::read);
  }
};

/// The factor by which AdamW multiplies gradients, from their sum of squares: clips by global norm without the host.
///
///   norm = base_scale * sqrt(sum_of_squares)
///   control[3] = base_scale * min(1, max_norm / norm);   base_scale for max_norm <= 0;   NaN if norm is not finite
///
/// Shapes   sum_of_squares: 1 value, f64   control: 4 values, as AdamW takes them; the other three stay
/// Types    control: f64 | f32
/// Errors   shape: sizes;  invalid_argument: types, base_scale <= 0
struct ClipScale {
  static constexpr const char* name = "clip_scale";
  Tensor sum_of_squares;
  double max_norm = 0;
  double base_scale = 1;  ///< for gradients that are sums, not means
  Tensor control;

  void check() const;
  int64_t flops() const { return 4; }
  void tensors(auto&& f) const {
    f("sum_of_squares", sum_of_squares, Access::read);
    f("control", control, Access::update);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const AdamW& op, Tensor scratch);
void launch(Backend, Context& ctx, const ClipScale& op, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context& ctx, const AdamW& op, Tensor scratch);
void launch(Backend, Context& ctx, const ClipScale& op, Tensor scratch);
}  // namespace cuda

}  // namespace boreas
