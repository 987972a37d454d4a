// HeadExchange: from own rows of all heads to all rows of own heads, and back.
#pragma once

#include "comm/communicator.h"

namespace boreas {

/// Rank r owns rows rows[r] of an array [N, heads * D], and for attention over all rows the heads heads[r]. The two
/// directions are each other's inverse and adjoint. Each is one all-to-all: a rank sends all but 1/P of what it has.
///
/// Throws config if there are more ranks than heads.
class HeadExchange {
 public:
  HeadExchange(Communicator& ranks, Partition rows, int64_t num_heads);

  int64_t num_rows() const { return rows_.size(); }  ///< of all ranks
  Range own_rows() const { return rows_[ranks_->rank()]; }
  Range own_heads() const { return heads_[ranks_->rank()]; }

  /// by_rows: [own rows, num_heads * D]   by_heads: [num_rows, own heads * D], contiguous
  void to_heads(Context& ctx, const Tensor& by_rows, const Tensor& by_heads) const;
  void to_rows(Context& ctx, const Tensor& by_heads, const Tensor& by_rows) const;

 private:
  void check(const Tensor& by_rows, const Tensor& by_heads) const;
  /// Columns of by_rows that hold the heads of a rank.
  Range columns_of(int rank, const Tensor& by_rows) const;

  Communicator* ranks_;
  Partition rows_, heads_;
};

}  // namespace boreas
