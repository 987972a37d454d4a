// ModelSetup: what defines a model besides its weights.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "engine/config.h"
#include "io/dataset_reader.h"
#include "io/graph_file.h"
#include "kernels/graph/graph_data.h"
#include "models/preprocess.h"
#include "models/variables.h"

namespace boreas {

class Hdf5File;

/// Made from a configuration and the metadata of its dataset, or read back from a checkpoint, which holds all of it: a
/// forecast needs the checkpoint and initial states, not the training data.
struct ModelSetup {
  RunConfig config;
  VariableTable variables;
  std::vector<std::string> units;           ///< by dataset variable; "" if the dataset does not say
  std::vector<uint8_t> constant, computed;  ///< by dataset variable: same at all dates; a computed forcing
  VariableStatistics statistics;
  TimeStep step;                              ///< of the model: that of the dataset
  std::vector<double> latitudes, longitudes;  ///< degrees; of all cells, or of the graph's part
  std::vector<int64_t> field_shape;           ///< of the whole grid
  int64_t num_members = 1;                    ///< of the dataset that it is trained on
  GraphData graph;                            ///< all of it, or this rank's part: see GraphShare
  struct {
    std::string file, group;
  } graph_source;  ///< of a part: where the whole lies

  int64_t num_cells() const;  ///< of the whole grid
  /// Of these cells, which the setup must have, in bands.
  std::span<const double> latitudes_of(Range cells) const;
  std::span<const double> longitudes_of(Range cells) const;
  Preprocess preprocess() const { return Preprocess(config.data.preprocess, variables, statistics); }
  /// Widths and columns of the network, with boundings resolved on these variables.
  ModelShape shape() const;
};

enum class GraphCache : uint8_t {
  read_only,         ///< use the graph kept in the output folder if it fits, else build it
  keep_of_training,  ///< and write it there, unless a training there is on another graph: it cannot go on with this one
  keep               ///< and write it there
};

/// What a rank reads of a graph for a forecast, of those that share a sample: a band; with head sharding all of it. A
/// training sets the partition besides.
GraphShare graph_share(const RunConfig& config, const Communicator& ranks);

/// Needs the dataset's metadata only, not its fields. A graph that is found in a file is read as far as the share says;
/// one that is built, and not kept, is whole. So are the coordinates: the first rank, which writes checkpoints, has
/// all, the others those of their own cells. Throws config for a graph file whose data nodes are not the dataset's
/// cells, and what VariableTable, Preprocess and build_graph throw.
ModelSetup make_setup(const RunConfig& config, const DatasetReader& reader, GraphCache cache = GraphCache::read_only,
                      const GraphShare& share = {});

/// Coordinates of all cells: those of the setup, or read from the checkpoint or the graph that it was read from.
struct Coordinates {
  std::vector<double> latitudes, longitudes;  ///< degrees
};
Coordinates all_coordinates(const ModelSetup& setup);

/// Areas of these data nodes, which the setup must have; of all by default.
std::span<const double> node_areas(const ModelSetup& setup, std::optional<Range> nodes = {});

/// Everything of a setup, in an HDF5 file: /config, /variables, /statistics, /graph. Of a graph that is a part, the
/// whole is copied from its file.
void write_setup(Hdf5File& file, const ModelSetup& setup);
/// Without a share, of the graph the hash only.
ModelSetup read_setup(const Hdf5File& file, std::optional<GraphShare> share = GraphShare{});

/// One line for each way in which two setups cannot share weights: variables and roles, steps, statistics, graph, model
/// keys. `a_name`, `b_name` name them in the lines ("checkpoint", "config").
std::vector<std::string> differences(const ModelSetup& a, const ModelSetup& b, const std::string& a_name,
                                     const std::string& b_name);

}  // namespace boreas
