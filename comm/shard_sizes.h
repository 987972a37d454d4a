// What edge sharding gives each rank and makes it send, worked out on one machine for any number of ranks.
#pragma once

#include <vector>

#include "kernels/core/partition.h"

namespace boreas {

/// Of one rank: what it owns, and the rows of sources that it receives from others and sends to them.
struct ShardSize {
  int64_t num_src = 0, num_dst = 0, num_edges = 0;
  int64_t rows_received = 0, rows_sent = 0;
  int64_t num_neighbours = 0;  ///< ranks that it receives from
};

/// Edges sorted by destination: `dst_ptr` [num_dst + 1], `src_of` [M]. In O(edges + sources) time.
/// Throws shape if the partitions do not fit the edges or each other.
std::vector<ShardSize> shard_sizes(std::span<const int64_t> dst_ptr, std::span<const int32_t> src_of,
                                   const Partition& src_owners, const Partition& dst_owners);

/// The same for a sequence in which each row needs the rows at most `window` positions away; all if it is negative.
std::vector<ShardSize> window_shard_sizes(const Partition& owners, int64_t window);

/// Rows of sources that each rank asks of one of them, ascending; none of itself.
std::vector<std::vector<int64_t>> rows_asked(std::span<const int64_t> dst_ptr, std::span<const int32_t> src_of,
                                             const Partition& src_owners, const Partition& dst_owners, int64_t of_rank);
std::vector<std::vector<int64_t>> window_rows_asked(const Partition& owners, int64_t window, int64_t of_rank);

}  // namespace boreas
