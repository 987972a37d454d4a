// TrainingStep: what happens in one update, in which order; the same code plans its memory and runs.
#pragma once

#include <vector>

#include "comm/communicator.h"
#include "engine/data_pipeline.h"
#include "engine/optimizer.h"
#include "engine/replay.h"
#include "engine/rollout.h"

namespace boreas {

/// What became of one update.
struct UpdateOutcome {
  double loss = 0;           ///< mean over samples, their members and rollout, on all ranks
  double gradient_norm = 0;  ///< before clipping; weights and moments are unchanged if it is not finite
  double seconds = 0;        ///< on the device, from the end of the one before if that was still pending, else from its
                             ///< first request for a batch, to its end
  double data_seconds = 0;   ///< of which it had nothing to do but wait for batches
};

/// Model, loss and optimizer of a training. Its ranks meet, beside the exchanges within the model, for the losses, and
/// in the optimizer, which sums the gradients: see FlatShards. Each group's share of the mean is in its loss already.
///
/// An update is queued and its outcome collected later, so that the host reads, writes and queues while a GPU computes.
/// Nothing in between waits for the device: losses and norms stay there until they are copied to pinned memory, and
/// what differs from update to update (learning rate, step) is copied to fixed addresses, so that each micro-step is
/// one recording (see Replay), by rollout and by whether it is the first, the last or both.
class TrainingStep {
 public:
  /// `ranks` must outlive this. Collective, as are update, validate and plan, which all ranks call alike.
  TrainingStep(const ModelSetup& setup, Device device, const ProcessGrid& ranks = ProcessGrid::one_rank());
  TrainingStep(const TrainingStep&) = delete;

  StepModel& model() { return model_; }
  SampleShare share() const;
  int64_t loss_bytes() const { return loss_.bytes() + squared_error_.bytes(); }  ///< of weights, on the device
  Optimizer& optimizer() { return optimizer_; }
  /// Allocates parameters, gradients and optimizer state; before that only planning is possible.
  void materialise();

  /// Queues one update from `micro_steps` batches, each asked for when its turn comes. `step` counts from 1.
  void update(Context& ctx, const std::function<FieldWindow()>& next_batch, int64_t rollout, int64_t step,
              double learning_rate);
  /// How many updates may be queued and not collected.
  static constexpr int64_t kMostPending = 2;
  int64_t num_pending() const { return num_queued_ - num_collected_; }
  /// Waits for the oldest update that was not collected.
  UpdateOutcome collect();
  int64_t num_recordings() const { return replay_.num_recordings(); }

  struct Scores {
    double loss = 0;                     ///< mean over the rollout
    std::vector<double> squared_errors;  ///< [rollout * T_o * V_o], of normalised variables
  };
  /// The same on all ranks that share the cells; those of ranks that divide the members add up.
  Scores validate(Context& ctx, const FieldWindow& window, int64_t rollout);

  /// Walks through one update at the longest rollout, and one validation, on a planning context. `num_members`: of the
  /// dataset, here and below.
  void plan(Context& ctx, int64_t num_variables, int64_t num_members);
  /// Walks through one update at that rollout on a planning context.
  void plan_update(Context& ctx, int64_t rollout, int64_t num_variables, int64_t num_members);
  /// Floating-point operations of an update at that rollout: all, and without those that backward repeats.
  struct Work {
    int64_t flops = 0, flops_without_recompute = 0;
  };
  Work work(int64_t rollout, int64_t num_variables, int64_t num_members);
  /// Host memory, pinned, from which and to which updates are copied.
  int64_t staging_bytes() const { return kPlaces * pending_bytes(); }

 private:
  /// An update on its way: the host's side of what is copied, and when what happened.
  struct Pending {
    explicit Pending(Device device) : end(device) {}
    Tensor control, losses, sum_of_squares;
    int64_t rollout = 0;
    bool follows = false;             // another update directly
    std::vector<Event> asked, ready;  // by micro-step
    Event end;
  };
  int64_t pending_bytes() const;
  FieldWindow planned_window(int64_t rollout, int64_t num_variables, int64_t num_members) const;
  /// `last` of the micro-steps: sums the gradients over the ranks as they become ready.
  void accumulate(Context& ctx, const FieldWindow& window, int64_t rollout, const Tensor& losses, bool last);
  const TrainingConfig& training() const { return model_.setup().config.training; }

  StepModel model_;
  Loss loss_, squared_error_;
  Rollout rollout_;
  Optimizer optimizer_;
  const ProcessGrid& ranks_;
  Replay replay_;
  Buffer staging_;
  static constexpr int64_t kPlaces = kMostPending + 1;  // the end of the one before is asked for
  std::vector<Pending> pending_;                        // update n takes place n % kPlaces
  int64_t num_queued_ = 0, num_collected_ = 0;
};

/// Number of times of a sample: T_i + T_o rollout.
int64_t window_length(const DataConfig& data, int64_t rollout);

/// High-water mark of the arena when `task` runs.
Arena::Peak plan_peak(Device device, const std::function<void(Context&)>& task);

}  // namespace boreas
