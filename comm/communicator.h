// Ranks talking to each other.
#pragma once

#include <memory>

#include "kernels/core/context.h"

namespace boreas {

/// Collectives over a group of ranks. Every rank calls them in the same order with equal shapes; in plan mode they do
/// nothing. Errors: comm, naming the collective.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void all_reduce(Context& ctx, const Tensor& x) = 0;           ///< x = sum of x over the ranks, in rank order
  virtual void broadcast(Context& ctx, const Tensor& x, int root) = 0;  ///< x = x of the root
};

/// The group of one rank.
std::unique_ptr<Communicator> make_single_rank_communicator();

}  // namespace boreas
