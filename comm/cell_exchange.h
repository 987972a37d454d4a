// CellExchange: fields moved between the cells as a host program divides them and as the ranks of a model do.
#pragma once

#include <span>
#include <vector>

#include "comm/communicator.h"

namespace boreas {

/// A rank of the model has the cells [own.begin, own.end), of ascending ranks ascending; the host has some cells here,
/// in an order of its own. Each cell is at exactly one rank of the host.
///
///   to_model   model[f][g - own.begin] = host[f][i] of the rank and i with cells[i] = g
///   to_host    the way back
class CellExchange {
 public:
  /// `cells`: their global numbers. `ranks` must outlive it. Collective. Throws invalid_argument, on all ranks, naming
  /// a cell that does not exist, is missing, or is given twice.
  CellExchange(Communicator& ranks, Range own, int64_t num_cells, std::span<const int64_t> cells);

  int64_t num_host_cells() const { return int64_t(host_ids_.size()); }

  /// So many fields each: host[f] of num_host_cells values, model[f] of own.size(). Collective, with as many fields on
  /// every rank.
  void to_model(std::span<const float* const> host, std::span<float* const> model) const;
  void to_host(std::span<const float* const> model, std::span<float* const> host) const;

 private:
  static void move(Communicator& ranks, std::span<const float* const> from, const std::vector<int64_t>& from_ids,
                   const std::vector<Range>& from_of_rank, std::span<float* const> to,
                   const std::vector<int64_t>& to_ids, const std::vector<Range>& to_of_rank);

  Communicator* ranks_;
  std::vector<int64_t> host_ids_, model_ids_;  // positions of the cells, ordered by the other side's rank
  std::vector<Range> host_of_rank_, model_of_rank_;
};

}  // namespace boreas
