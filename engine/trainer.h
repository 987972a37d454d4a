// Training: from a configuration to checkpoints and metrics.
#pragma once

#include <optional>
#include <string>

#include "comm/communicator.h"
#include "engine/config.h"

namespace boreas {

struct TrainOptions {
  bool resume = false;          ///< go on from the latest checkpoint of the output folder, if there is one
  std::string initial_weights;  ///< checkpoint whose weights a new run starts from; empty: random
};

enum class TrainingEnd : uint8_t { finished, patience, interrupted };

struct TrainingSummary {
  TrainingEnd end = TrainingEnd::finished;
  int64_t step = 0;
  double last_loss = 0;
  std::optional<double> best_loss;  ///< of validation
  std::string checkpoint;           ///< the last one
  int64_t arena_peak_bytes = 0, arena_planned_bytes = 0;
};

/// Trains to the end of the configuration, until patience runs out, or until SIGINT or SIGTERM: the update in progress
/// is finished and a checkpoint saved in every case.
///
/// All ranks call this alike and get the same summary but for memory; a signal to one of them stops all. Files are
/// written by rank 0, and do not depend on the number of ranks but by rounding: any number may go on from them.
///
/// Into the output folder go config.yaml (resolved), graph.h5, checkpoints/, metrics.jsonl (what was computed: bitwise
/// the same for a run that was interrupted and resumed, at the same number of threads) and timing.jsonl (how fast).
///
/// Throws io if the folder holds a training and `resume` is false, config if the checkpoint does not fit (see
/// load_checkpoint) or the dates give no batch, corrupt_data for NaN in the data, out_of_memory (see fit_to_budget),
/// invalid_argument if the loss is no longer finite.
TrainingSummary train(const RunConfig& config, const TrainOptions& options = {},
                      const ProcessGrid& ranks = ProcessGrid::one_rank());

}  // namespace boreas
