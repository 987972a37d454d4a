// Loss: what a forecast is scored by, and the weights of nodes, variables, levels and steps in it.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "kernels/core/buffer.h"
#include "kernels/core/context.h"
#include "kernels/loss/loss.h"
#include "models/variables.h"

namespace boreas {

/// The pointwise term; see kernels/loss/loss.h. `crps` scores an ensemble by the almost-fair CRPS.
enum class Score : uint8_t { mse, mae, rmse, huber, logcosh, crps };
template <>
struct EnumNames<Score> {
  static constexpr std::array values{
      std::pair{Score::mse, std::string_view("mse")},         std::pair{Score::mae, std::string_view("mae")},
      std::pair{Score::rmse, std::string_view("rmse")},       std::pair{Score::huber, std::string_view("huber")},
      std::pair{Score::logcosh, std::string_view("logcosh")}, std::pair{Score::crps, std::string_view("crps")}};
};

/// How the weight of a variable on a pressure level l (hPa) depends on l.
enum class LevelScaling : uint8_t { none, relu, linear, polynomial };
template <>
struct EnumNames<LevelScaling> {
  static constexpr std::array values{std::pair{LevelScaling::none, std::string_view("none")},
                                     std::pair{LevelScaling::relu, std::string_view("relu")},
                                     std::pair{LevelScaling::linear, std::string_view("linear")},
                                     std::pair{LevelScaling::polynomial, std::string_view("polynomial")}};
};

/// Weights by how fast a variable changes: (stdev / stdev of the tendency), or its square.
enum class TendencyScaling : uint8_t { none, stdev, variance };
template <>
struct EnumNames<TendencyScaling> {
  static constexpr std::array values{std::pair{TendencyScaling::none, std::string_view("none")},
                                     std::pair{TendencyScaling::stdev, std::string_view("stdev")},
                                     std::pair{TendencyScaling::variance, std::string_view("variance")}};
};

struct PressureLevelConfig {
  LevelScaling scaling = LevelScaling::relu;
  double slope = 0.001, intercept = 0.2;
  std::vector<std::string> variables{"q", "t", "u", "v", "w", "z"};
  void fields(auto&& visit) {
    visit("scaling", scaling, "",
          "weight on level l: relu max(intercept, slope l), linear slope l + intercept, polynomial (slope l)^2 + "
          "intercept");
    visit("slope", slope, "1/hPa", "weight for each hPa");
    visit("intercept", intercept, "1", "weight at the top");
    visit("variables", variables, "", "base names of the pressure-level variables; others, and surface ones, weigh 1");
  }
};

struct LossConfig {
  Score score = Score::mse;
  double crps_alpha = 0.95;
  std::map<std::string, double> variable_weights;
  PressureLevelConfig pressure_level;
  TendencyScaling tendency = TendencyScaling::none;
  bool ignore_nans = false;
  void fields(auto&& visit) {
    visit("score", score, "", "mse, mae, rmse, huber, logcosh or crps (ensembles)");
    visit("crps_alpha", crps_alpha, "1", "1: fair CRPS, 0: the plain one");
    visit("variable_weights", variable_weights, "1", "weight by variable (u_500) or base name (u); default 1");
    visit("pressure_level", pressure_level, "", "weight by level");
    visit("tendency", tendency, "",
          "weight prognostic variables by stdev / tendency stdev (stdev), or its square (variance)");
    visit("ignore_nans", ignore_nans, "", "take nothing from cells whose target is NaN; set if anything is imputed");
  }
};

/// Weight of each output variable (V_o values): variable_weights x pressure level x tendency, not normalised.
/// Throws config: a weight for an unknown variable, a weight that is negative or not finite, absent tendency
/// statistics.
std::vector<double> variable_scaling(const LossConfig& config, const VariableTable& variables,
                                     const VariableStatistics& statistics);

/// areas / sum(areas), zero where `mask` (N values or empty) is 0: nodes that a limited-area model does not predict.
/// `ranks`: those that share the nodes, of which each gives its own; the sum is over all. Throws invalid_argument: an
/// area that is negative or not finite, or no area left.
std::vector<double> node_scaling(std::span<const double> areas, std::span<const uint8_t> mask = {},
                                 Communicator* ranks = nullptr);

/// The loss of T_o output steps at once:
///
///   loss = mean over items of sum_{t,n,v} node_weight[n] variable_weight[v] / (T_o V_o) term(prediction, target)
///
/// The mean over variables is not weighted: the magnitude depends on the weights and on V_o. rmse is the root of that
/// sum.
///
/// `ranks`: those that share a sample, null for one; they make this together. `areas` and `output_mask` are then of
/// this rank's nodes. node_weight sums to 1 over the nodes of all, so that the losses of these ranks add up to the
/// loss; of rmse the first rank has all, and they compute it together.
/// `ensemble`: those that divide the members of these nodes, as Partition::balanced does; null for one. Their losses
/// add up in the same way. For crps each of them scores all members of a part of the nodes: see MemberExchange.
///
/// crps holds all members of an item against one truth; for other scores each member is an item of its own.
///
/// Shapes   prediction, d_prediction: [items * members * N, T_o * V_o], item outermost, columns time-major
///          target: as prediction;  of crps [items * N, T_o * V_o], which only the rank with the first member gives
///          loss: 1 value, or one for each column
/// Types    prediction, target: the dtype of the constructor;  loss: accumulator_of it
class Loss {
 public:
  Loss(const LossConfig& config, const VariableTable& variables, const VariableStatistics& statistics,
       std::span<const double> areas, int64_t num_output_steps, DType dtype, Device device,
       std::span<const uint8_t> output_mask = {}, Communicator* ranks = nullptr, Communicator* ensemble = nullptr);

  struct Call {
    Tensor prediction, target;
    int64_t num_items = 1, num_members = 1;
    int64_t all_members = 0;  ///< with those of other ranks; 0: num_members
    Tensor loss;
    Tensor d_prediction;  ///< loss_scale * gradient; empty: not wanted
    double loss_scale = 1;
  };
  /// The training loss.
  void compute(Context& ctx, const Call& call) const { score(ctx, call, column_weights_); }
  /// The same with weight 1 for each column and no mean over them: with a `loss` of one value for each column, the
  /// score of each variable at each step, for validation.
  void compute_unweighted(Context& ctx, const Call& call) const { score(ctx, call, unit_weights_); }

  bool of_ensembles() const { return score_ == Score::crps; }
  int64_t num_nodes() const { return node_weights_.size(); }
  int64_t num_columns() const { return column_weights_.size(); }
  int64_t bytes() const { return storage_.bytes(); }  ///< of its weights

 private:
  void score(Context& ctx, const Call& call, const Tensor& column_weights) const;
  void root_of_all(Context& ctx, WeightedLoss op) const;
  void crps_of_all(Context& ctx, const Call& call, CrpsLoss op) const;

  Score score_;
  double crps_alpha_;
  bool ignore_nans_;
  Communicator *ranks_, *ensemble_;  // null: one rank
  Buffer storage_;
  Tensor node_weights_, column_weights_, unit_weights_;
};

}  // namespace boreas
