// Elementwise operations, and those that move columns.
#pragma once

#include <span>

#include "kernels/core/op.h"

namespace boreas {

/// y = a + b
///
/// Shapes   a, b, y: [N, C]
/// Types    all f64, or each f32 | bf16 (the sum is made in f32)
/// Alias    y may be a or b.   Repeatable: yes.
/// Errors   shape: they disagree;  invalid_argument: types differ
struct Add {
  static constexpr const char* name = "add";
  Tensor a, b;
  Tensor y;

  void check() const;
  int64_t flops() const { return y.size(); }
  void tensors(auto&& f) const {
    f("a", a, Access::read);
    f("b", b, Access::read);
    f("y", y, Access::write);
  }
};

/// y = x, converted to the type of y (to bf16: nearest, ties to even). Writing into column slices concatenates.
///
/// Shapes   x, y: [N, C]
/// Types    equal, any; or both floating
/// Errors   shape: they disagree;  invalid_argument: a conversion that involves an integer type
struct Copy {
  static constexpr const char* name = "copy";
  Tensor x;
  Tensor y;

  void check() const;
  int64_t flops() const { return 0; }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("y", y, Access::write);
  }
};

/// y = value
///
/// Types    any
struct Fill {
  static constexpr const char* name = "fill";
  Tensor y;
  double value = 0;

  void check() const;
  int64_t flops() const { return 0; }
  void tensors(auto&& f) const { f("y", y, Access::write); }
};

/// y += weight * (x - y): the running average of parameters.
///
/// Shapes   x, y: [N, C]
/// Types    equal: f64 | f32
/// Errors   shape: they disagree;  invalid_argument: types differ, weight outside [0, 1]
struct Blend {
  static constexpr const char* name = "blend";
  Tensor x;
  double weight = 1;
  Tensor y;

  void check() const;
  int64_t flops() const { return 3 * y.size(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("y", y, Access::update);
  }
};

/// The prognostic residual: the model predicts the change of what it knows.
///
///   y = delta;   y[:, output_columns[k]] += x[:, input_columns[k]]   for all k
///
/// Shapes   x: [N, V_i]   delta, y: [N, V_o]   both lists: equally long, positions in x and in y; output_columns unique
/// Types    equal: f64 | f32
/// Alias    y may be delta.   Backward: d_delta = d_y (Copy), d_x by AddColumns
/// Errors   shape: sizes disagree;  invalid_argument: types differ, a column that does not exist
struct AddPrognostic {
  static constexpr const char* name = "add_prognostic";
  Tensor x, delta;
  std::span<const int32_t> input_columns, output_columns;  ///< on the host
  Tensor y;

  void check() const;
  int64_t flops() const { return y.rows() * int64_t(output_columns.size()); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("delta", delta, Access::read);
    f("y", y, Access::write);
  }
};

/// y[:, y_columns[k]] = x[:, x_columns[k]], or += for AddColumns. Columns of y that are not listed keep their values.
///
/// Shapes   x: [N, A]   y: [N, B]   both lists: equally long; y_columns unique
/// Types    equal: f64 | f32; a copy also f32 to bf16 (nearest, ties to even)
/// Alias    none
/// Errors   shape: sizes disagree;  invalid_argument: types differ, a column that does not exist
struct CopyColumns {
  static constexpr const char* name = "copy_columns";
  Tensor x;
  std::span<const int32_t> x_columns;  ///< on the host
  Tensor y;
  std::span<const int32_t> y_columns;

  void check() const;
  int64_t flops() const { return 0; }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("y", y, Access::update);
  }
};

struct AddColumns {
  static constexpr const char* name = "add_columns";
  Tensor x;
  std::span<const int32_t> x_columns;  ///< on the host
  Tensor y;
  std::span<const int32_t> y_columns;

  void check() const;
  int64_t flops() const { return y.rows() * int64_t(y_columns.size()); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("y", y, Access::update);
  }
};

/// Fields as files hold them, to rows as models see them: picks, normalises, imputes and transposes.
///
///   y[c,k] = fields[v,c] * mul[v] + add[v],  v = columns[k];   fill[v] where that is NaN, unless fill[v] is NaN
///
/// Shapes   fields: [V, cells]   mul, add, fill: V   columns: n, positions in fields   y: [cells, n]
/// Types    fields: f32;  y: f64 | f32 | bf16 (the arithmetic is done in f64 for f64, else in f32)
/// Errors   shape: sizes disagree;  invalid_argument: types differ, a column that does not exist
struct NormaliseFields {
  static constexpr const char* name = "normalise_fields";
  Tensor fields;
  std::span<const double> mul, add, fill;  ///< on the host
  std::span<const int32_t> columns;
  Tensor y;

  void check() const;
  int64_t flops() const { return 2 * y.size(); }
  void tensors(auto&& f) const {
    f("fields", fields, Access::read);
    f("y", y, Access::write);
  }
};

/// The way back: rows of normalised values to fields in their units. Fields that `columns` does not list keep their
/// values.
///
///   fields[v,c] = (x[c,k] - add[v]) / mul[v],  v = columns[k]
///
/// Shapes, types   as NormaliseFields, with x: [cells, n] and columns unique
/// Errors   as NormaliseFields;  invalid_argument: mul is 0 for a listed field
struct DenormaliseFields {
  static constexpr const char* name = "denormalise_fields";
  Tensor x;
  std::span<const double> mul, add;  ///< on the host
  std::span<const int32_t> columns;
  Tensor fields;

  void check() const;
  int64_t flops() const { return 2 * x.size(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("fields", fields, Access::update);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const Add& op, Tensor scratch);
void launch(Backend, Context& ctx, const Copy& op, Tensor scratch);
void launch(Backend, Context& ctx, const Fill& op, Tensor scratch);
void launch(Backend, Context& ctx, const Blend& op, Tensor scratch);
void launch(Backend, Context& ctx, const AddPrognostic& op, Tensor scratch);
void launch(Backend, Context& ctx, const CopyColumns& op, Tensor scratch);
void launch(Backend, Context& ctx, const AddColumns& op, Tensor scratch);
void launch(Backend, Context& ctx, const NormaliseFields& op, Tensor scratch);
void launch(Backend, Context& ctx, const DenormaliseFields& op, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context& ctx, const Add& op, Tensor scratch);
void launch(Backend, Context& ctx, const Copy& op, Tensor scratch);
void launch(Backend, Context& ctx, const Fill& op, Tensor scratch);
void launch(Backend, Context& ctx, const Blend& op, Tensor scratch);
void launch(Backend, Context& ctx, const AddPrognostic& op, Tensor scratch);
void launch(Backend, Context& ctx, const CopyColumns& op, Tensor scratch);
void launch(Backend, Context& ctx, const AddColumns& op, Tensor scratch);
void launch(Backend, Context& ctx, const NormaliseFields& op, Tensor scratch);
void launch(Backend, Context& ctx, const DenormaliseFields& op, Tensor scratch);
}  // namespace cuda

}  // namespace boreas
