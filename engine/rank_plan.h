// What any number of ranks would need and send, and how long they would take, worked out on one machine.
#pragma once

#include <string>
#include <vector>

#include "engine/memory_plan.h"
#include "models/communication.h"

namespace boreas {

/// Of ranks in groups that share the cells of a sample, each group on other samples, or other members; the numbers of
/// ranks in `parallel`, resolved.
struct RankPlan {
  int64_t num_ranks = 1, model_ranks = 1, ensemble_ranks = 1;
  GraphPartition partition = GraphPartition::bands;
  int64_t rank = 0;     ///< of a group with most members, the one that needs most memory of those looked at
  MemoryReport memory;  ///< of that rank: what it would plan itself
  std::vector<CommunicationPart> parts;
  double gradient_bytes = 0;  ///< that a rank sends in one update: sums to their owners, values back

  /// Predicted seconds of one update on H200, bf16, at the longest rollout; 0 for runs on the CPU. `compute`: of the
  /// slowest rank looked at; the others: exchanges of the busiest, none of them hidden behind computation.
  struct Seconds {
    double compute = 0, halo = 0, allgather = 0, heads = 0, gradients = 0;
  } seconds;

  std::string table() const;
};

/// `setup` with the whole graph. Ranks that may need most are looked at one by one: those with the most edges, nodes or
/// halo in any part, and the first. Throws config for more ranks than nodes, for model_ranks or ensemble_ranks that do
/// not divide the ranks, and more ensemble_ranks than members.
RankPlan plan_ranks(const ModelSetup& setup, Device device, int64_t num_ranks);

/// Sizes of a sample, of a rank's part of it, and of a date's files, for this run's variables on the usual grids.
std::string resolution_table(const ModelSetup& setup, int64_t model_ranks);

}  // namespace boreas
