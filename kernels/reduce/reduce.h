// Reductions of a whole tensor to one number.
#pragma once

#include "kernels/core/op.h"

namespace boreas {

/// out = sum of squares of all elements of x.
///
/// Shapes   x: [N, C]   out: one value, f64 (overwritten)
/// Types    x: f64 | f32 | bf16; the sum is kept in f64
/// Repeatable: yes, for any thread count.
/// Errors   shape: out is not one value;  invalid_argument: types
struct SumOfSquares {
  static constexpr const char* name = "sum_of_squares";
  Tensor x;
  Tensor out;

  void check() const;
  int64_t scratch_bytes() const;
  int64_t flops() const { return 2 * x.size(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("out", out, Access::write);
  }
};

/// out = number of elements of x that are NaN or infinite.
///
/// Shapes   x: [N, C]   out: one value, i64 (overwritten)
/// Types    x: f64 | f32 | bf16
/// Errors   as SumOfSquares
struct CountNonFinite {
  static constexpr const char* name = "count_non_finite";
  Tensor x;
  Tensor out;

  void check() const;
  int64_t scratch_bytes() const;
  int64_t flops() const { return x.size(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("out", out, Access::write);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const SumOfSquares& op, Tensor scratch);
void launch(Backend, Context& ctx, const CountNonFinite& op, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context& ctx, const SumOfSquares& op, Tensor scratch);
void launch(Backend, Context& ctx, const CountNonFinite& op, Tensor scratch);
}  // namespace cuda

}  // namespace boreas
