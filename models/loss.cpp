#include "models/loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/member_exchange.h"
#include "kernels/core/near_names.h"
#include "kernels/core/op.h"
#include "kernels/elementwise/elementwise.h"

namespace boreas {
namespace {

LossKind kind_of(Score score) {
  switch (score) {
    case Score::mae:
      return LossKind::mae;
    case Score::rmse:
      return LossKind::rmse;
    case Score::huber:
      return LossKind::huber;
    case Score::logcosh:
      return LossKind::logcosh;
    case Score::mse:
    case Score::crps:
      break;
  }
  return LossKind::mse;
}

double level_weight(const PressureLevelConfig& config, double level) {
  const double x = config.slope * level;
  switch (config.scaling) {
    case LevelScaling::none:
      break;
    case LevelScaling::relu:
      return std::max(config.intercept, x);
    case LevelScaling::linear:
      return x + config.intercept;
    case LevelScaling::polynomial:
      return x * x + config.intercept;
  }
  return 1;
}

double tendency_weight(TendencyScaling scaling, const VariableTable& variables, const VariableStatistics& statistics,
                       int64_t v) {
  if (scaling == TendencyScaling::none || variables.role(v) != Role::prognostic) return 1;
  const auto size = size_t(variables.size());
  BOREAS_CHECK(
      statistics.stdev.size() == size && statistics.tendency_stdev.size() == size, config,
      "loss.tendency is {} but the dataset has no tendency statistics for the model's step; create the dataset with "
      "them or set loss.tendency: none",
      to_string(scaling));
  const double ratio = statistics.stdev[size_t(v)] / statistics.tendency_stdev[size_t(v)];
  return scaling == TendencyScaling::variance ? ratio * ratio : ratio;
}

void check_weights_are_used(const std::map<std::string, double>& weights, const VariableTable& variables) {
  std::vector<std::string> known = variables.output_names();
  for (const int32_t v : variables.output()) known.push_back(variables.base(v));
  for (const auto& [name, weight] : weights)
    BOREAS_CHECK(std::find(known.begin(), known.end(), name) != known.end(), config,
                 "loss.variable_weights: '{}' is neither an output of the model nor the base name of one{}", name,
                 near_names(name, known));
}

}  // namespace

std::vector<double> variable_scaling(const LossConfig& config, const VariableTable& variables,
                                     const VariableStatistics& statistics) {
  check_weights_are_used(config.variable_weights, variables);
  const std::vector<std::string>& on_levels = config.pressure_level.variables;
  std::vector<double> weights;
  for (const int32_t v : variables.output()) {
    double weight = 1;
    for (const std::string& name : {variables.name(v), variables.base(v)})
      if (const auto given = config.variable_weights.find(name); given != config.variable_weights.end()) {
        weight = given->second;
        break;
      }
    const bool on_level = std::find(on_levels.begin(), on_levels.end(), variables.base(v)) != on_levels.end();
    if (on_level && variables.level(v)) weight *= level_weight(config.pressure_level, *variables.level(v));
    weight *= tendency_weight(config.tendency, variables, statistics, v);
    BOREAS_CHECK(std::isfinite(weight) && weight >= 0, config,
                 "the weight of variable '{}' in the loss is {}; expected a finite number that is not negative. Check "
                 "loss.variable_weights, loss.pressure_level and the tendency statistics",
                 variables.name(v), weight);
    weights.push_back(weight);
  }
  return weights;
}

std::vector<double> node_scaling(std::span<const double> areas, std::span<const uint8_t> mask, Communicator* ranks) {
  BOREAS_CHECK(mask.empty() || mask.size() == areas.size(), invalid_argument,
               "the output mask has {} values but there are {} nodes", mask.size(), areas.size());
  std::vector<double> weights(areas.begin(), areas.end());
  for (size_t n = 0; n < weights.size(); ++n) {
    BOREAS_CHECK(std::isfinite(weights[n]) && weights[n] >= 0, invalid_argument,
                 "node {} has area {}; expected at least 0", n, weights[n]);
    if (!mask.empty() && mask[n] == 0) weights[n] = 0;
  }
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (ranks && ranks->size() > 1) ranks->sum_values({&total, 1});
  BOREAS_CHECK(total > 0, invalid_argument, "the areas of the {} nodes that count sum to {}; the loss would be empty",
               weights.size(), total);
  for (double& weight : weights) weight /= total;
  return weights;
}

Loss::Loss(const LossConfig& config, const VariableTable& variables, const VariableStatistics& statistics,
           std::span<const double> areas, int64_t num_output_steps, DType dtype, Device device,
           std::span<const uint8_t> output_mask, Communicator* ranks, Communicator* ensemble)
    : score_(config.score),
      crps_alpha_(config.crps_alpha),
      ignore_nans_(config.ignore_nans),
      ranks_(ranks && ranks->size() > 1 ? ranks : nullptr),
      ensemble_(ensemble && ensemble->size() > 1 ? ensemble : nullptr) {
  const std::vector<double> nodes = node_scaling(areas, output_mask, ranks);
  const std::vector<double> scaling = variable_scaling(config, variables, statistics);
  std::vector<double> columns;
  for (int64_t t = 0; t < num_output_steps; ++t)
    for (const double weight : scaling) columns.push_back(weight / (double(num_output_steps) * double(scaling.size())));

  std::vector<double> all = nodes;
  all.insert(all.end(), columns.begin(), columns.end());
  all.insert(all.end(), columns.size(), 1.0);
  const auto size = int64_t(all.size());
  const DType type = accumulator_of(dtype);
  storage_ = Buffer::on(device, size * size_of(type), "loss weights");
  dispatch_float(type, [&]<class T>() {
    const std::vector<T> values(all.begin(), all.end());
    copy_now(storage_.data(), device, values.data(), Device::cpu(), storage_.bytes());
  });
  const auto num_nodes = int64_t(nodes.size()), num_columns = int64_t(columns.size());
  node_weights_ = storage_.tensor(type, {num_nodes});
  column_weights_ = storage_.tensor(type, {num_columns}, num_nodes * size_of(type));
  unit_weights_ = storage_.tensor(type, {num_columns}, (num_nodes + num_columns) * size_of(type));
}

void Loss::score(Context& ctx, const Call& call, const Tensor& column_weights) const {
  const int64_t all_members = call.all_members > 0 ? call.all_members : call.num_members;
  if (score_ == Score::crps) {
    const CrpsLoss op{.prediction = call.prediction,
                      .target = call.target,
                      .node_weights = node_weights_,
                      .column_weights = column_weights,
                      .num_items = call.num_items,
                      .num_members = all_members,
                      .alpha = crps_alpha_,
                      .ignore_nans = ignore_nans_,
                      .loss = call.loss,
                      .d_prediction = call.d_prediction,
                      .loss_scale = call.loss_scale};
    if (ensemble_) return crps_of_all(ctx, call, op);
    run(ctx, op);
    return;
  }
  BOREAS_CHECK(
      call.num_members == 1 || call.target.rows() == call.prediction.rows(), invalid_argument,
      "the score {} needs a target for each of the {} members but has {} rows of targets for {} of predictions; "
      "give as many, or use crps",
      to_string(score_), call.num_members, call.target.rows(), call.prediction.rows());
  const WeightedLoss op{.kind = kind_of(score_),
                        .prediction = call.prediction,
                        .target = call.target,
                        .node_weights = node_weights_,
                        .column_weights = column_weights,
                        .num_items = call.num_items * call.num_members,
                        .all_items = call.num_items * all_members,
                        .ignore_nans = ignore_nans_,
                        .loss = call.loss,
                        .d_prediction = call.d_prediction,
                        .loss_scale = call.loss_scale};
  if (score_ == Score::rmse && (ranks_ || ensemble_)) return root_of_all(ctx, op);
  run(ctx, op);
}

void Loss::root_of_all(Context& ctx, WeightedLoss op) const {
  const Scope scope(ctx);
  WeightedLoss sum = op;
  sum.kind = LossKind::mse;
  sum.loss = ctx.alloc(Keep::scratch, op.loss.dtype(), {op.loss.size()});
  sum.d_prediction = Tensor();
  run(ctx, sum);
  bool is_first = true;
  for (Communicator* const ranks : {ranks_, ensemble_}) {
    if (!ranks) continue;
    ranks->all_reduce(ctx, sum.loss);
    is_first = is_first && ranks->rank() == 0;
  }
  op.total = sum.loss;
  run(ctx, op);
  if (!is_first) run(ctx, Fill{.y = op.loss, .value = 0});
}

void Loss::crps_of_all(Context& ctx, const Call& call, CrpsLoss op) const {
  const OwnerScope owner(ctx, "members");
  const Scope scope(ctx);
  const MemberExchange members(*ensemble_, call.num_items, op.num_members, num_nodes());
  const MemberExchange truth(*ensemble_, call.num_items, 1, num_nodes());
  op.prediction = ctx.alloc(Keep::scratch, call.prediction.dtype(), {members.whole_rows(), num_columns()});
  op.target = ctx.alloc(Keep::scratch, call.prediction.dtype(), {truth.whole_rows(), num_columns()});
  members.to_cells(ctx, call.prediction, op.prediction);
  truth.to_cells(ctx, call.target, op.target);
  op.node_weights = node_weights_.columns(members.cells());
  if (call.d_prediction) op.d_prediction = op.prediction;
  if (members.cells().size() > 0)
    run(ctx, op);
  else
    run(ctx, Fill{.y = op.loss, .value = 0});
  if (call.d_prediction) members.to_members(ctx, op.prediction, call.d_prediction);
}

}  // namespace boreas
