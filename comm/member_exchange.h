// MemberExchange: from all cells of some members of an ensemble to all members of some cells, and back.
#pragma once

#include "comm/communicator.h"

namespace boreas {

/// Ranks divide the members of some items, and hold all cells of theirs; what needs all members of a cell is done by
/// one of them for each cell. Both are divided evenly, in order. No rank holds all members of all cells.
///
///   own    [items * own members * N, W]       of this rank's members, all cells
///   whole  [items * M * own cells, W]         of all members, this rank's cells; items outermost, then members
///
/// The two functions are each other's inverse, and adjoint. Errors: shape: other rows;  what exchange throws.
class MemberExchange {
 public:
  /// `ranks` must outlive this.
  MemberExchange(Communicator& ranks, int64_t num_items, int64_t num_members, int64_t num_cells);

  Range members() const { return members_[ranks_.rank()]; }
  Range cells() const { return cells_[ranks_.rank()]; }
  int64_t own_rows() const { return num_items_ * members().size() * cells_.size(); }
  int64_t whole_rows() const { return num_items_ * members_.size() * cells().size(); }

  void to_cells(Context& ctx, const Tensor& own, const Tensor& whole) const { move(ctx, own, whole, true); }
  void to_members(Context& ctx, const Tensor& whole, const Tensor& own) const { move(ctx, own, whole, false); }

 private:
  void move(Context& ctx, const Tensor& own, const Tensor& whole, bool to_cells) const;

  Communicator& ranks_;
  int64_t num_items_;
  Partition members_, cells_;
};

}  // namespace boreas
