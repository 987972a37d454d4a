#include "comm/communicator.h"

#include <gtest/gtest.h>

#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

TEST(Communicator, OneRankKeepsWhatItHas) {
  test::Workspace w;
  const auto communicator = make_single_rank_communicator();
  EXPECT_EQ(communicator->rank(), 0);
  EXPECT_EQ(communicator->size(), 1);
  const Tensor x = w.random(DType::f32, {3, 4}), before = w.copy_of(x);
  communicator->all_reduce(w.ctx, x);
  communicator->broadcast(w.ctx, x, 0);
  EXPECT_TRUE(test::identical(x, before));
  BOREAS_EXPECT_ERROR(communicator->broadcast(w.ctx, x, 1), comm, "broadcast from rank 1 in a group of 1");
}

}  // namespace
}  // namespace boreas
