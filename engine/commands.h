// What the commands of the command line do, as functions.
#pragma once

#include <string>

#include "comm/communicator.h"
#include "engine/config.h"
#include "engine/metrics.h"

namespace boreas {

/// Builds the graph of a configuration, or says that the cached one still fits, and writes it to the output folder.
/// Returns its summary: nodes, edges, degrees.
std::string make_graph(const RunConfig& config);

/// The memory that a training and a forecast will need, by owner, of the rank that needs most.
std::string make_plan(const RunConfig& config, const ProcessGrid& ranks = ProcessGrid::one_rank());

/// What `num_ranks` ranks would need and send each other, and how long they might take, worked out on one; sizes of
/// samples on the usual grids.
std::string make_communication_plan(const RunConfig& config, int64_t num_ranks);

/// Makes the forecasts of config.forecast from a dataset or a state in files, with a checkpoint (a file, or an output
/// folder: its best, else its latest), and writes them in every format asked for, with checksums beside them (see
/// ForecastOutput). Returns the paths written. All `ranks` share the model and call this together; each writes its
/// part. `resume`: goes on after the last forecast that a run which was killed has completed; the files are then those
/// of a run that was not.
std::vector<std::string> make_forecasts(const RunConfig& config, const std::string& checkpoint,
                                        Communicator& ranks = *ProcessGrid::one_rank().world, bool resume = false);

/// Scores the forecasts of config.evaluation, and writes evaluation.json, maps/*.png and report.html into the output
/// folder. Returns the scores. All `ranks` share the model and call this together; rank 0 writes.
std::vector<ForecastScore> make_evaluation(const RunConfig& config, const std::string& checkpoint,
                                           Communicator& ranks = *ProcessGrid::one_rank().world);

/// Makes a checkpoint of step 0 in the output folder from weights under their reference names (HDF5 or safetensors),
/// from which training and forecasts start. Returns a summary.
std::string make_import(const RunConfig& config, const std::string& weights);

/// Writes the weights of a checkpoint (or of an output folder's best) under their reference names.
void make_export(const std::string& checkpoint, const std::string& output);

}  // namespace boreas
