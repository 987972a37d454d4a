// NcclGroup: ranks that send each other tensors on their GPUs.
#pragma once

#include "comm/communicator.h"

namespace boreas {

/// Why the ranks of this build cannot compute on GPUs, in words; empty if they can.
std::string why_no_nccl();

/// A group of ranks, each with a GPU of its own. Messages are queued on a stream, and may be recorded with what else is
/// (see Recording); only the first ones between two ranks may not, because they connect these.
///
/// Errors: comm, with what NCCL says;  unsupported in a build without NCCL.
class NcclGroup {
 public:
  /// What rank 0 of a new group makes and tells the others.
  static std::string make_id();

  /// Collective.
  NcclGroup(const std::string& id, int rank, int size, Device device);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;

  void transfer(const Stream& on, std::span<const Communicator::Rows> send,
                std::span<const Communicator::Rows> receive);

  /// What went wrong after it was queued; empty if nothing did. May be called by any thread.
  std::string failure() const;

 private:
  void* native_ = nullptr;  // ncclComm_t
};

/// Lets several ranks compute on one GPU, for tests on a machine that has no more: BOREAS_SHARE_GPU=1. NCCL then takes
/// them for ranks of different hosts. To be called before the first group is made.
bool ranks_share_gpus();
void let_ranks_share_gpus(int rank);

}  // namespace boreas
