#include "comm/shard_sizes.h"

#include <algorithm>

namespace boreas {

std::vector<ShardSize> shard_sizes(std::span<const int64_t> dst_ptr, std::span<const int32_t> src_of,
                                   const Partition& src_owners, const Partition& dst_owners) {
  const int64_t ranks = dst_owners.num_parts();
  BOREAS_CHECK(src_owners.num_parts() == ranks && dst_owners.size() + 1 == int64_t(dst_ptr.size()) &&
                   dst_ptr.back() == int64_t(src_of.size()),
               shape, "{} edges into {} destinations cannot be split like {} rows in {} parts", src_of.size(),
               dst_ptr.size() - 1, dst_owners.size(), ranks);
  std::vector<ShardSize> sizes{size_t(ranks)};
  std::vector<int32_t> owner_of(size_t(src_owners.size()));
  for (int64_t rank = 0; rank < ranks; ++rank)
    std::fill(owner_of.begin() + src_owners[rank].begin, owner_of.begin() + src_owners[rank].end, int32_t(rank));
  std::vector<int32_t> row_seen_by(owner_of.size(), -1), owner_seen_by(size_t(ranks), -1);
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const Range dst = dst_owners[rank];
    ShardSize& size = sizes[size_t(rank)];
    size.num_src = src_owners[rank].size();
    size.num_dst = dst.size();
    size.num_edges = dst_ptr[dst.end] - dst_ptr[dst.begin];
    for (int64_t m = dst_ptr[dst.begin]; m < dst_ptr[dst.end]; ++m) {
      const int32_t row = src_of[m], owner = owner_of[size_t(row)];
      if (owner == rank || row_seen_by[size_t(row)] == rank) continue;
      row_seen_by[size_t(row)] = int32_t(rank);
      ++size.rows_received;
      ++sizes[size_t(owner)].rows_sent;
      if (owner_seen_by[size_t(owner)] == rank) continue;
      owner_seen_by[size_t(owner)] = int32_t(rank);
      ++size.num_neighbours;
    }
  }
  return sizes;
}

std::vector<ShardSize> window_shard_sizes(const Partition& owners, int64_t window) {
  std::vector<ShardSize> sizes{size_t(owners.num_parts())};
  for (int64_t rank = 0; rank < owners.num_parts(); ++rank) {
    const Range own = owners[rank];
    ShardSize& size = sizes[size_t(rank)];
    size.num_src = size.num_dst = own.size();
    if (own.size() == 0) continue;
    const int64_t begin = window < 0 ? 0 : std::max<int64_t>(0, own.begin - window);
    const int64_t end = window < 0 ? owners.size() : std::min(owners.size(), own.end + window);
    for (int64_t other = 0; other < owners.num_parts(); ++other) {
      const int64_t rows = std::min(end, owners[other].end) - std::max(begin, owners[other].begin);
      if (other == rank || rows <= 0) continue;
      size.rows_received += rows;
      sizes[size_t(other)].rows_sent += rows;
      ++size.num_neighbours;
    }
  }
  return sizes;
}

std::vector<std::vector<int64_t>> rows_asked(std::span<const int64_t> dst_ptr, std::span<const int32_t> src_of,
                                             const Partition& src_owners, const Partition& dst_owners,
                                             int64_t of_rank) {
  const Range own = src_owners[of_rank];
  std::vector<std::vector<int64_t>> asked{size_t(dst_owners.num_parts())};
  for (int64_t rank = 0; rank < dst_owners.num_parts(); ++rank) {
    if (rank == of_rank) continue;
    std::vector<int64_t>& rows = asked[size_t(rank)];
    const Range dst = dst_owners[rank];
    for (int64_t m = dst_ptr[dst.begin]; m < dst_ptr[dst.end]; ++m)
      if (src_of[m] >= own.begin && src_of[m] < own.end) rows.push_back(src_of[m]);
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  }
  return asked;
}

std::vector<std::vector<int64_t>> window_rows_asked(const Partition& owners, int64_t window, int64_t of_rank) {
  const Range own = owners[of_rank];
  std::vector<std::vector<int64_t>> asked{size_t(owners.num_parts())};
  for (int64_t rank = 0; rank < owners.num_parts(); ++rank) {
    const Range other = owners[rank];
    if (rank == of_rank || other.size() == 0) continue;
    const int64_t begin = window < 0 ? own.begin : std::max(own.begin, other.begin - window);
    const int64_t end = window < 0 ? own.end : std::min(own.end, other.end + window);
    for (int64_t row = begin; row < end; ++row) asked[size_t(rank)].push_back(row);
  }
  return asked;
}

}  // namespace boreas
