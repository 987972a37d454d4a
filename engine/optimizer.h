// Optimizer: AdamW on the flat parameters, its learning-rate schedule, clipping, and the running average of the
// weights.
#pragma once

#include <array>
#include <functional>

#include "comm/communicator.h"
#include "engine/config.h"
#include "engine/flat_shards.h"
#include "kernels/core/context.h"
#include "models/parameters.h"

namespace boreas {

/// Learning rate of the update that follows t others; see LearningRateConfig. `decay_steps` is resolved: not 0.
double learning_rate_at(const LearningRateConfig& config, int64_t decay_steps, int64_t t);

/// The values of one tensor on the host, as f64; zeros when the context only plans.
std::vector<double> host_values(Context& ctx, const Tensor& tensor);

/// State: two moments, and the average if ema_decay > 0, of what this rank trains: see FlatShards. Values are whole on
/// every rank after an update; masters, where there are any, only in this rank's pieces. Like the store it can plan
/// before it has memory.
class Optimizer {
 public:
  /// `ranks` must outlive this; updates, averages and checkpoints are collective.
  Optimizer(const TrainingConfig& config, ParameterStore& parameters,
            const ProcessGrid& ranks = ProcessGrid::one_rank(), int64_t bucket_bytes = FlatShards::kBucketBytes);

  /// Allocates: moments zero, the average equal to the parameters. May be called once, after the store's.
  void materialise();
  void reset_average();  ///< to the parameters as they are now
  int64_t moment_bytes() const { return 2 * state_bytes(); }
  int64_t average_bytes() const { return averages() ? state_bytes() : 0; }
  const FlatShards& shards() const { return shards_; }

  /// What an update depends on besides the gradients; it lies on the device, so that an update can be replayed.
  static constexpr int64_t kControlSize = 4;
  struct Control {
    Tensor values;          ///< [kControlSize], the masters' type: see AdamW
    Tensor sum_of_squares;  ///< f64 [1], written: of the gradients before clipping
  };
  /// The values that the host sets; `step` counts from 1.
  std::array<double, kControlSize> control_values(int64_t step, double learning_rate) const;
  /// Sums the gradients over the ranks, clips them, updates the parameters, then the average; queued. Changes nothing
  /// but the average, towards the parameters, if the gradients are not finite.
  void update(Context& ctx, const Control& control);
  /// The same of gradients that are summed.
  void apply(Context& ctx, const Control& control);

  bool averages() const { return config_.ema_decay > 0; }
  /// Runs `task` while the parameters hold their average, if there is one.
  void with_average(Context& ctx, const std::function<void()>& task);

  /// [shards().state_size()]
  Tensor first_moment() const { return first_moment_; }
  Tensor second_moment() const { return second_moment_; }
  Tensor average() const { return average_; }  ///< empty without one

 private:
  int64_t state_bytes() const { return shards_.state_size() * size_of(parameters_.master_dtype()); }
  void sum_squares(Context& ctx, const Tensor& out) const;
  /// Values of all ranks' pieces, after this rank's were written.
  void gather_values(Context& ctx) const { shards_.gather(ctx, parameters_.flat_values()); }

  TrainingConfig config_;
  ParameterStore& parameters_;
  FlatShards shards_;
  Buffer moments_, average_storage_;
  Tensor first_moment_, second_moment_, average_;
};

}  // namespace boreas
