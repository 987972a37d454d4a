#include "comm/communicator.h"

namespace boreas {

namespace {

/// With one rank a sum is its only term and the root is oneself.
class SingleRank final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(Context&, const Tensor&) override {}
  void broadcast(Context&, const Tensor&, int root) override {
    BOREAS_CHECK(root == 0, comm, "broadcast from rank {} in a group of one", root);
  }
};

}  // namespace

std::unique_ptr<Communicator> make_single_rank_communicator() { return std::make_unique<SingleRank>(); }

}  // namespace boreas
