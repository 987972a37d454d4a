// Bytes that ranks send in one training step, by part of the model and by strategy.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "comm/planned_communicator.h"
#include "comm/shard_sizes.h"
#include "kernels/core/dtype.h"
#include "kernels/graph/graph_data.h"
#include "models/config.h"

namespace boreas {

/// One part of a model, split over ranks. Bytes are what the busiest rank sends in one forward and backward of one
/// rollout step and sample, without what recomputation sends again:
///
///   halo       rows that others need x width of a row, and back their gradients
///   allgather  own rows to every other rank, and back as many rows of partial sums
///   heads      queries, keys, values to all rows of own heads, the output back; the same for the gradients
struct CommunicationPart {
  std::string name;  ///< encoder, processor, decoder
  std::vector<ShardSize> shards;
  int64_t halo_bytes = 0, allgather_bytes = 0, heads_bytes = 0;
  /// Largest over mean, of edges (destinations for a window) and of received rows.
  double work_imbalance = 1, halo_imbalance = 1;
};

/// Ranks have bands of the graph's order: for patches, of in_patches. Throws config for more ranks than nodes of one
/// set.
std::vector<CommunicationPart> plan_communication(const ModelConfig& config, const ModelShape& shape,
                                                  const GraphData& graph, int64_t num_ranks, DType storage);

/// What other ranks will ask of one of them when its model is made, exchange by exchange, in the order of their making:
/// for a PlannedCommunicator. Nothing with head sharding.
std::deque<PlannedCommunicator::Lists> planned_answers(const ModelConfig& config, const ModelShape& shape,
                                                       const GraphData& graph, int64_t num_ranks, int64_t rank);

/// A table for people.
std::string communication_table(const std::vector<CommunicationPart>& parts, int64_t num_ranks,
                                GraphPartition partition = GraphPartition::bands);

}  // namespace boreas
