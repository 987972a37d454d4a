// Optimizer: AdamW on the flat parameters, its learning-rate schedule, clipping, and the running average of the
// weights.
#pragma once

#include <array>
#include <functional>

#include "comm/communicator.h"
#include "engine/config.h"
#include "kernels/core/context.h"
#include "models/parameters.h"

namespace boreas {

/// Learning rate of the update that follows t others; see LearningRateConfig. `decay_steps` is resolved: not 0.
double learning_rate_at(const LearningRateConfig& config, int64_t decay_steps, int64_t t);

/// The values of one tensor on the host, as f64; zeros when the context only plans.
std::vector<double> host_values(Context& ctx, const Tensor& tensor);

/// State: two moments, and the average if ema_decay > 0, each laid out as ParameterStore::flat_masters, which it
/// trains. Like the store it can plan before it has memory.
class Optimizer {
 public:
  /// `ranks` hold the shards of the parameters, and must outlive this.
  Optimizer(const TrainingConfig& config, ParameterStore& parameters,
            Communicator& ranks = *ProcessGrid::one_rank().model);

  /// Allocates: moments zero, the average equal to the parameters. May be called once, after the store's.
  void materialise();
  void reset_average();  ///< to the parameters as they are now
  int64_t moment_bytes() const { return 2 * parameters_.gradient_bytes(); }
  int64_t average_bytes() const { return averages() ? parameters_.gradient_bytes() : 0; }

  /// What an update depends on besides the gradients; it lies on the device, so that an update can be replayed.
  static constexpr int64_t kControlSize = 4;
  struct Control {
    Tensor values;          ///< [kControlSize], the masters' type: see AdamW
    Tensor sum_of_squares;  ///< f64 [1], written: of the gradients before clipping
  };
  /// The values that the host sets; `step` counts from 1.
  std::array<double, kControlSize> control_values(int64_t step, double learning_rate) const;
  /// Clips the gradients, updates the parameters, then the average; queued. Changes nothing but the average, towards
  /// the parameters, if the gradients are not finite.
  void update(Context& ctx, const Control& control);

  bool averages() const { return config_.ema_decay > 0; }
  /// Runs `task` while the parameters hold their average, if there is one.
  void with_average(Context& ctx, const std::function<void()>& task);

  Tensor first_moment() const { return first_moment_; }
  Tensor second_moment() const { return second_moment_; }
  Tensor average() const { return average_; }  ///< empty without one

 private:
  TrainingConfig config_;
  ParameterStore& parameters_;
  Communicator& ranks_;
  Buffer moments_, average_storage_;
  Tensor first_moment_, second_moment_, average_;
};

}  // namespace boreas
