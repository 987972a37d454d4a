// Layer normalisation of rows, or of equal segments of rows.
#pragma once

#include "kernels/core/op.h"

namespace boreas {

/// Layer normalisation, forward. Each row is `groups` segments of G = C / groups values that are normalised apart, with
/// one gamma and beta for all: groups = 1 is layer normalisation of the row, groups = number of heads that of each
/// head.
///
///   y[n,g,c] = gamma[c] * (x[n,g,c] - mean[n,g]) * rstd[n,g] + beta[c],   rstd = 1/sqrt(var + eps), biased variance
///
/// Shapes   x, y: [N, C]   gamma: [G]   beta: [G], may be empty   stats: [N * groups, 2] = (mean, rstd)
/// Types    y, gamma, beta: equal, f64 | f32 (GPU: also bf16);  x: that type or accumulator_of it;  stats:
///          accumulator_of that type
/// Alias    y may be x where their types are equal.   Repeatable: yes.   Saves for backward: x, stats
/// Errors   shape: C, G or N disagree;  invalid_argument: eps <= 0, groups does not divide C
/// Source   Ba, Kiros, Hinton 2016, section 3
struct LayerNormForward {
  static constexpr const char* name = "layer_norm_forward";
  Tensor x, gamma, beta;
  int64_t groups = 1;
  double eps = 1e-5;
  Tensor y, stats;

  void check() const;
  int64_t flops() const { return 8 * x.size(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("gamma", gamma, Access::read);
    f("beta", beta, Access::read);
    f("y", y, Access::write);
    f("stats", stats, Access::write);
  }
};

/// Layer normalisation, backward. With xhat = (x - mean) * rstd and a = d_y * gamma, per segment:
///
///   d_x = rstd * (a - mean(a) - xhat * mean(a * xhat)) + d_residual
///   d_gamma[c] += sum_{n,g} d_y * xhat        d_beta[c] += sum_{n,g} d_y
///   y = gamma * xhat + beta                   (what forward gave, again, if wanted; only then is beta read)
///
/// Shapes   as forward; d_residual, d_x, y: [N, C]   d_gamma, d_beta: [G]; d_residual, d_gamma, d_beta, y may be empty
/// Types    as forward, d_y as y; d_x: that type or accumulator_of it;  d_residual: as d_x;  d_gamma, d_beta:
///          accumulator_of that type
/// Alias    d_x may be d_y or x, where their types are equal, or d_residual; y may be d_y, but not d_x, and not asked
///          for where d_x is x.   Repeatable: yes, for any thread count.
/// Errors   as forward
struct LayerNormBackward {
  static constexpr const char* name = "layer_norm_backward";
  Tensor x, gamma, beta, stats;
  int64_t groups = 1;
  Tensor d_y, d_residual;
  Tensor d_x, d_gamma, d_beta, y;

  void check() const;
  int64_t scratch_bytes() const;
  int64_t flops() const { return 16 * x.size(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("gamma", gamma, Access::read);
    f("beta", y ? beta : Tensor(), Access::read);
    f("stats", stats, Access::read);
    f("d_y", d_y, Access::read);
    f("d_residual", d_residual, Access::read);
    f("d_x", d_x, Access::write);
    f("d_gamma", d_gamma, Access::update);
    f("d_beta", d_beta, Access::update);
    f("y", y, Access::write);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const LayerNormForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const LayerNormBackward& op, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context& ctx, const LayerNormForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const LayerNormBackward& op, Tensor scratch);
}  // namespace cuda

}  // namespace boreas
