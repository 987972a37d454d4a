// Bounding: keeps output variables inside physical limits.
#pragma once

#include <span>

#include "kernels/core/fields.h"
#include "kernels/core/op.h"

namespace boreas {

enum class BoundingKind : uint8_t {
  relu,
  leaky_relu,
  normalized_relu,
  normalized_leaky_relu,
  hardtanh,
  leaky_hardtanh,
  fraction,
  leaky_fraction
};

template <>
struct EnumNames<BoundingKind> {
  static constexpr std::array values{
      std::pair{BoundingKind::relu, std::string_view("relu")},
      std::pair{BoundingKind::leaky_relu, std::string_view("leaky_relu")},
      std::pair{BoundingKind::normalized_relu, std::string_view("normalized_relu")},
      std::pair{BoundingKind::normalized_leaky_relu, std::string_view("normalized_leaky_relu")},
      std::pair{BoundingKind::hardtanh, std::string_view("hardtanh")},
      std::pair{BoundingKind::leaky_hardtanh, std::string_view("leaky_hardtanh")},
      std::pair{BoundingKind::fraction, std::string_view("fraction")},
      std::pair{BoundingKind::leaky_fraction, std::string_view("leaky_fraction")}};
};

/// Which columns are bounded, and how. The lists live on the host and must outlive the op.
struct BoundingRule {
  BoundingKind kind = BoundingKind::relu;
  std::span<const int32_t> columns;  ///< of y, unique
  double minimum = 0, maximum = 1;   ///< hardtanh and fraction kinds
  std::span<const double> offsets;   ///< normalized kinds: the lower bound m of each column, normalised
  int32_t total_column = -1;         ///< fraction kinds: the column that is multiplied in; not one of `columns`

  bool is_fraction() const { return kind == BoundingKind::fraction || kind == BoundingKind::leaky_fraction; }
  /// Columns of the values before the bounding that backward needs: `columns`, then the total.
  int64_t num_saved_columns() const { return int64_t(columns.size()) + (is_fraction() ? 1 : 0); }
};

/// Bounding of columns in place, forward. With s = 0, or 0.01 for the leaky kinds:
///
///   relu kinds          y = x > 0 ? x : s x
///   normalized kinds    y = (x - m > 0 ? x - m : s (x - m)) + m
///   hardtanh kinds      y = h(x),  h = x inside [minimum, maximum], bound + s (x - bound) outside
///   fraction kinds      y = h(x) * y[total_column]
///
/// Shapes   y: [R, W]
/// Types    f64 | f32
/// Repeatable: yes.   Saves for backward: BoundingRule::num_saved_columns() columns, taken by CopyColumns before
/// Errors   invalid_argument: a column that does not exist or is listed twice, offsets missing, minimum > maximum, no
///          total column for a fraction or one that is itself bounded
/// Source   the bounding strategies of Anemoi models (layers/bounding)
struct BoundingForward {
  static constexpr const char* name = "bounding_forward";
  BoundingRule rule;
  Tensor y;

  void check() const;
  int64_t flops() const { return 3 * y.rows() * int64_t(rule.columns.size()); }
  void tensors(auto&& f) const { f("y", y, Access::update); }
};

/// Bounding, backward, in place: d_y becomes the gradient of the values before. At a bound the slope is that outside.
///
/// Shapes   y_before: [R, num_saved_columns]: rule.columns in order, then the total column of a fraction   d_y: [R, W]
/// Types    equal: f64 | f32
/// Errors   as forward;  shape: y_before does not fit
struct BoundingBackward {
  static constexpr const char* name = "bounding_backward";
  BoundingRule rule;
  Tensor y_before;
  Tensor d_y;

  void check() const;
  int64_t flops() const { return 3 * d_y.rows() * int64_t(rule.columns.size()); }
  void tensors(auto&& f) const {
    f("y_before", y_before, Access::read);
    f("d_y", d_y, Access::update);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const BoundingForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const BoundingBackward& op, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context& ctx, const BoundingForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const BoundingBackward& op, Tensor scratch);
}  // namespace cuda

}  // namespace boreas
