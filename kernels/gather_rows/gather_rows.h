// Rows by index, and the adjoint.
#pragma once

#include "kernels/core/op.h"

namespace boreas {

/// Rows by index.
///
///   y[i,:] = x[ids[i],:]
///
/// Shapes   x: [n, C]   ids: [m] i32   y: [m, C]
/// Types    x, y: equal, any
/// Alias    none.   Repeatable: yes.
/// Errors   shape: C or m disagree;  invalid_argument: types differ, an id outside [0, n) (CPU: checked as it is read)
struct GatherRows {
  static constexpr const char* name = "gather_rows";
  Tensor x, ids;
  Tensor y;

  void check() const;
  int64_t flops() const { return 0; }
  int64_t bytes() const { return 2 * y.bytes() + ids.bytes(); }  ///< of x the rows that are named
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("ids", ids, Access::read);
    f("y", y, Access::write);
  }
};

/// Adds rows to rows by index: the adjoint of GatherRows for ids without repetition.
///
///   y[ids[i],:] += x[i,:]
///
/// Shapes   x: [m, C]   ids: [m] i32, unique   y: [n, C], accumulated; the caller zeroes it
/// Types    x: f64 | f32 | bf16;  y: accumulator_of that type
/// Alias    none.   Repeatable: yes, because ids are unique.
/// Errors   as GatherRows
struct ScatterAddRows {
  static constexpr const char* name = "scatter_add_rows";
  Tensor x, ids;
  Tensor y;

  void check() const;
  int64_t flops() const { return x.size(); }
  int64_t bytes() const {  ///< of y the rows that are named
    return x.bytes() + ids.bytes() + 2 * x.size() * size_of(y.dtype());
  }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("ids", ids, Access::read);
    f("y", y, Access::update);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const GatherRows& op, Tensor scratch);
void launch(Backend, Context& ctx, const ScatterAddRows& op, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context& ctx, const GatherRows& op, Tensor scratch);
void launch(Backend, Context& ctx, const ScatterAddRows& op, Tensor scratch);
}  // namespace cuda

}  // namespace boreas
