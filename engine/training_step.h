// TrainingStep: what happens in one update, in which order; the same code plans its memory and runs.
#pragma once

#include <vector>

#include "comm/communicator.h"
#include "engine/optimizer.h"
#include "engine/rollout.h"

namespace boreas {

/// Model, loss and optimizer of a training. Ranks that train on different samples meet in one place: gradients are
/// summed before they are applied, and each rank's share of the mean is in its loss.
class TrainingStep {
 public:
  TrainingStep(const ModelSetup& setup, Device device,
               std::unique_ptr<Communicator> ranks = make_single_rank_communicator());
  TrainingStep(const TrainingStep&) = delete;

  StepModel& model() { return model_; }
  Optimizer& optimizer() { return optimizer_; }
  /// Allocates parameters, gradients and optimizer state; before that only planning is possible.
  void materialise();

  /// An update is begin, `micro_steps` times accumulate, apply.
  void begin(Context& ctx);
  /// Adds the gradient of one batch; returns its loss, the mean over the rollout.
  double accumulate(Context& ctx, const FieldWindow& window, int64_t rollout);
  double apply(Context& ctx, int64_t step, double learning_rate);  ///< as Optimizer::update

  struct Scores {
    double loss = 0;                     ///< mean over the rollout
    std::vector<double> squared_errors;  ///< [rollout * T_o * V_o], of normalised variables
  };
  Scores validate(Context& ctx, const FieldWindow& window, int64_t rollout);

  /// Walks through one update at the longest rollout, and one validation, on a planning context.
  void plan(Context& ctx, int64_t num_variables, int64_t num_members);

 private:
  StepModel model_;
  Loss loss_, squared_error_;
  Rollout rollout_;
  Optimizer optimizer_;
  std::unique_ptr<Communicator> ranks_;
};

/// Number of times of a sample: T_i + T_o rollout.
int64_t window_length(const DataConfig& data, int64_t rollout);

/// High-water mark of the arena when `task` runs.
Arena::Peak plan_peak(Device device, const std::function<void(Context&)>& task);

/// One step of a forecast: y = network(x); its T_o states, in their units, to `states` f32 [T_o, V_o, N]; then x_next
/// with all but the prognostic variables taken from `next` at T_o times (see StepModel::advance), unless it is empty.
/// One item.
void forecast_step(Context& ctx, const StepModel& model, const Tensor& x, const Tensor& states, const FieldWindow& next,
                   const Tensor& x_next);

}  // namespace boreas
