// FlatShards: which rank trains which part of the parameters that all ranks have.
#pragma once

#include <vector>

#include "comm/communicator.h"
#include "models/parameters.h"

namespace boreas {

/// Every rank of the world has the replicated parameters and makes gradients of all of them; each trains an equal part,
/// and only of that keeps the state of an optimizer. The flat vectors of the store are cut into buckets, and each
/// bucket into one part for each rank, so that one bucket after another can be summed and handed round:
///
///   flat vectors   | bucket 0: rank 0, 1, .. | bucket 1: rank 0, 1, .. | .. | sharded parameters of this rank |
///   state          | this rank's part of bucket 0, of bucket 1, .. | sharded parameters of this rank |
///
/// Sharded parameters are trained by each rank that has them, alike in all replicas.
class FlatShards {
 public:
  static constexpr int64_t kBucketBytes = int64_t{64} << 20;  ///< of gradients
  /// `ranks` must outlive this.
  FlatShards(const ParameterStore& parameters, const ProcessGrid& ranks, int64_t bucket_bytes = kBucketBytes);

  /// A stretch of the flat vectors that this rank trains, and where its state lies.
  struct Piece {
    Range flat, state;
  };
  const std::vector<Piece>& pieces() const { return pieces_; }  ///< ascending; adjacent ones are one
  int64_t state_size() const { return pieces_.empty() ? 0 : pieces_.back().state.end; }
  const ProcessGrid& ranks() const { return ranks_; }

  /// Who trains the replicated parameters in a range of the flat vectors, ascending.
  struct Owned {
    int rank;
    Range flat;
  };
  std::vector<Owned> owners_of(Range flat) const;

  /// Sums `flat` over the ranks, in rank order: replicated parameters over the world, where each rank gets the sum of
  /// its pieces only; sharded ones over the replicas.
  void sum(Context& ctx, const Tensor& flat) const;
  /// The same while `flat` is still being made, from its end to its beginning: a bucket that is ready travels while the
  /// next are made.
  class Sum {
   public:
    /// The scope lends room for a bucket, until finish.
    Sum(Context& ctx, const FlatShards& shards, const Tensor& flat);
    /// The replicated part from here on stays as it is. Collective.
    void ready(Context& ctx, int64_t from);
    void finish(Context& ctx);

   private:
    void finish_bucket(Context& ctx);

    const FlatShards& shards_;
    Tensor flat_, room_;
    size_t num_left_;           // buckets that have not started
    const Range* moving_ = {};  // the one on its way
    Event done_;
  };
  /// The replicated part of `flat`, whole on every rank, from those who train it.
  void gather(Context& ctx, const Tensor& flat) const;

 private:
  /// A bucket as rows of one unit, which are what is divided.
  Tensor rows_of(const Tensor& flat, Range bucket) const;
  Partition parts_of(Range bucket) const;

  const ProcessGrid& ranks_;
  int64_t unit_;                // elements
  Range sharded_;               // in the flat vectors
  std::vector<Range> buckets_;  // likewise, multiples of units
  std::vector<Piece> pieces_;
};

}  // namespace boreas
