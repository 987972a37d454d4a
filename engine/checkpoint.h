// Checkpoints: what goes into an HDF5 file so that a training goes on as if it had never stopped, and back.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "engine/optimizer.h"
#include "engine/step_model.h"

namespace boreas {

/// Where a training stands.
struct TrainingState {
  int64_t step = 0;  ///< updates done
  int64_t epoch = 0;
  int64_t step_in_epoch = 0;  ///< updates done in this epoch
  int64_t rollout = 1;        ///< of this epoch
  int64_t num_samples = 0;    ///< of an epoch at that rollout: the position means nothing for another number
  double best_loss = std::numeric_limits<double>::infinity();
  int64_t best_step = 0;
  int64_t validations_since_best = 0;
  int64_t num_threads = 0;                      ///< sums may be ordered differently for another number
  int64_t metrics_bytes = 0, timing_bytes = 0;  ///< lengths of the metrics files that belong to this state
};

/// Layout:
///
///   /parameters/<name>, /constants/<name>           weights by their names in the reference implementation
///   /optimizer/first_moment/<name>, second_moment   as the parameters
///   /ema/<name>                                     running average, if there is one
///   /training                                       attributes: the members of TrainingState
///   /config /variables /statistics /graph           see write_setup
///
/// Arrays are whole in the file, however many ranks wrote it: rank 0 writes what the others send it, and every rank
/// reads what it needs. Saving is collective over all ranks.
///
/// The file is written aside, flushed and renamed: at every moment the old or the new one is whole. What was queued on
/// a GPU must be done.
void save_checkpoint(const std::string& path, const StepModel& model, const Optimizer& optimizer,
                     const TrainingState& state);

/// Goes on from a checkpoint: parameters, moments, average, state. Throws config listing every difference if it was
/// made by another model: variables, steps, statistics, graph, keys, names and shapes of parameters.
TrainingState load_checkpoint(const std::string& path, StepModel& model, Optimizer& optimizer);

enum class Weights : uint8_t {
  best_known,  ///< the running average if the checkpoint has one, else the trained weights
  trained
};
/// Weights only: for forecasts.
void load_weights(const std::string& path, StepModel& model, Weights which = Weights::best_known);

/// The setup of the run that wrote a checkpoint, with a share of its graph.
ModelSetup load_setup(const std::string& path, const GraphShare& share = {});

std::string checkpoint_folder(const std::string& output);
std::string step_checkpoint(const std::string& output, int64_t step);
std::string best_checkpoint(const std::string& output);
/// The checkpoint with the highest step, or nothing.
std::optional<std::string> latest_checkpoint(const std::string& output);
/// A path as given if it is a file; of an output folder, best.h5 if there is one, else the latest. Throws io.
std::string resolve_checkpoint(const std::string& path);
/// Removes all but the last `keep` step checkpoints, and what an interrupted save left behind.
void prune_checkpoints(const std::string& output, int64_t keep);

}  // namespace boreas
