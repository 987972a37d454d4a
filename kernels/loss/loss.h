// Training losses: weighted sums of pointwise scores, with their gradients.
#pragma once

#include "kernels/core/fields.h"
#include "kernels/core/op.h"

namespace boreas {

enum class LossKind : uint8_t { mse, mae, rmse, huber, logcosh };

template <>
struct EnumNames<LossKind> {
  static constexpr std::array values{
      std::pair{LossKind::mse, std::string_view("mse")}, std::pair{LossKind::mae, std::string_view("mae")},
      std::pair{LossKind::rmse, std::string_view("rmse")}, std::pair{LossKind::huber, std::string_view("huber")},
      std::pair{LossKind::logcosh, std::string_view("logcosh")}};
};

/// Weighted loss and, if wanted, its gradient. With e = prediction - target and R = num_items * N rows, items
/// outermost:
///
///   loss = 1/num_items sum_{r,w} node_weights[r] column_weights[w] term(e[r,w])
///   term:  mse e^2 | mae |e| | rmse as mse, then the root of the loss | huber |e| < 1 ? e^2/2 : |e| - 1/2 | logcosh
///   log(cosh(e))
///   d_prediction = loss_scale * d loss / d prediction
///
/// Means over variables and time steps are factors of column_weights, which the caller makes. With `loss` of W values,
/// each column's own sum is kept; d_prediction is then the gradient of their sum.
/// The rows may be a share of all: sums of shares add up. Only the root needs all of them first. With `total`, what the
/// mse of all shares adds up to, rmse takes loss from it, and d_prediction is the gradient of that.
///
/// Shapes   prediction, target, d_prediction: [R, W]   node_weights: N values, or R   column_weights: W values
///          loss: 1 or W values (overwritten)   total: as loss   d_prediction and total may be empty
/// Types    prediction, target, weights, loss, total: equal, f64 | f32;  d_prediction: the same, or bf16 for f32
/// Alias    d_prediction may be prediction or target.   Repeatable: yes, for any thread count (sums are kept in f64).
/// NaN      with ignore_nans a point whose target is NaN adds nothing and has no gradient; the divisor stays
/// Errors   shape: sizes disagree;  invalid_argument: types differ, a total of another kind than rmse
struct WeightedLoss {
  static constexpr const char* name = "weighted_loss";
  LossKind kind = LossKind::mse;
  Tensor prediction, target;
  Tensor node_weights, column_weights;
  int64_t num_items = 1, all_items = 0;  ///< all_items: the divisor, with those of other shares; 0: num_items
  bool ignore_nans = false;
  Tensor total = {};
  Tensor loss;
  Tensor d_prediction;
  double loss_scale = 1;

  void check() const;
  double divisor() const { return double(all_items > 0 ? all_items : num_items); }
  int64_t scratch_bytes() const;
  int64_t flops() const { return 8 * prediction.size(); }
  void tensors(auto&& f) const {
    f("prediction", prediction, Access::read);
    f("target", target, Access::read);
    f("node_weights", node_weights, Access::read);
    f("column_weights", column_weights, Access::read);
    f("total", total, Access::read);
    f("loss", loss, Access::write);
    f("d_prediction", d_prediction, Access::write);
  }
};

/// Almost-fair continuous ranked probability score of an ensemble of E members x_e against the target t, weighted and
/// summed as in WeightedLoss, and its gradient. With eps = (1 - alpha) / E:
///
///   term = 1/E sum_e |x_e - t| - (1 - eps) / (2 E (E - 1)) sum_{e,f} |x_e - x_f|
///   d term / d x_e = sign(x_e - t) / E - (1 - eps) / (E (E - 1)) sum_f sign(x_e - x_f),   sign(0) = 0
///
/// Shapes   prediction, d_prediction: [num_items * E * N, W], item outermost, then member   target: [num_items * N, W]
///          node_weights: N values   column_weights: W values   loss: 1 or W values (overwritten)
/// Types    as WeightedLoss
/// NaN      with ignore_nans a point where the target or any member is NaN adds nothing and has no gradient
/// Alias    d_prediction may be prediction.   Repeatable: yes, for any thread count.
/// Errors   shape: sizes disagree;  invalid_argument: fewer than two members, alpha outside [0, 1];  unsupported: more
///          than 64 members on a GPU
/// Source   Lang et al. 2024 (AIFS-CRPS), equation 4
struct CrpsLoss {
  static constexpr const char* name = "crps_loss";
  Tensor prediction, target;
  Tensor node_weights, column_weights;
  int64_t num_items = 1, num_members = 2;
  double alpha = 0.95;
  bool ignore_nans = false;
  Tensor loss;
  Tensor d_prediction;
  double loss_scale = 1;

  void check() const;
  int64_t scratch_bytes() const;
  int64_t flops() const { return 3 * prediction.size() * num_members; }
  void tensors(auto&& f) const {
    f("prediction", prediction, Access::read);
    f("target", target, Access::read);
    f("node_weights", node_weights, Access::read);
    f("column_weights", column_weights, Access::read);
    f("loss", loss, Access::write);
    f("d_prediction", d_prediction, Access::write);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const WeightedLoss& op, Tensor scratch);
void launch(Backend, Context& ctx, const CrpsLoss& op, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context& ctx, const WeightedLoss& op, Tensor scratch);
void launch(Backend, Context& ctx, const CrpsLoss& op, Tensor scratch);
}  // namespace cuda

}  // namespace boreas
