// AdamW: the optimiser's update of a flat array of parameters.
#pragma once

#include "kernels/core/op.h"

namespace boreas {

/// One step of Adam with decoupled weight decay.
///
///   g = clamp(grad * grad_scale, -clip_value, clip_value)                    (no clamp for clip_value <= 0)
///   m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
///   value = value (1 - learning_rate weight_decay) - learning_rate (m / (1 - beta1^step)) / (sqrt(v / (1 -
///   beta2^step)) + eps)
///
/// Shapes   all equal
/// Types    all equal: f64 | f32
/// Repeatable: yes, for any thread count.
/// Errors   shape: sizes disagree;  invalid_argument: types differ, step < 1, betas outside [0, 1), eps <= 0
/// Source   Loshchilov, Hutter 2019, algorithm 2
struct AdamW {
  static constexpr const char* name = "adamw";
  Tensor value, grad, first_moment, second_moment;
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
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const AdamW& op, Tensor scratch);
}  // namespace cpu

}  // namespace boreas
