// Tests of ranks on GPUs: each rank on one of its own, or with BOREAS_SHARE_GPU=1 all on one.
#pragma once

#include "tests/support/gpu.h"
#include "tests/support/ranks.h"

namespace boreas::test {

inline Device gpu_of_rank() { return Device::cuda(world().local_rank() % std::max(1, num_cuda_devices())); }

}  // namespace boreas::test

/// Skips the test, with the reason, where not every rank can have a GPU; else connects them.
#define BOREAS_CONNECT_GPUS_OR_SKIP()                                                                                  \
  BOREAS_SKIP_WITHOUT_GPU();                                                                                           \
  if (const std::string why_not = ::boreas::test::world().why_not_on(::boreas::test::gpu_of_rank()); !why_not.empty()) \
    GTEST_SKIP() << why_not;                                                                                           \
  ::boreas::test::world().connect(::boreas::test::gpu_of_rank())
