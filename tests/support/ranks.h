// Tests that run on several ranks: every rank runs all tests of the executable, in the same order.
#pragma once

#include <gtest/gtest.h>

#include "comm/communicator.h"

namespace boreas::test {

/// All ranks of this launch; one without mpirun.
inline Communicator*& world_pointer() {
  static Communicator* world = nullptr;
  return world;
}
inline Communicator& world() { return *world_pointer(); }

}  // namespace boreas::test

/// The main of such an executable: succeeds if all tests pass on all ranks.
#define BOREAS_RANKS_MAIN                                                                                   \
  int main(int argc, char** argv) {                                                                         \
    testing::InitGoogleTest(&argc, argv);                                                                   \
    const auto world = ::boreas::make_world_communicator();                                                 \
    ::boreas::test::world_pointer() = world.get();                                                          \
    const int failed = RUN_ALL_TESTS();                                                                     \
    int failed_anywhere = 0;                                                                                \
    for (const auto& text : world->all_gather_text(std::to_string(failed))) failed_anywhere += text != "0"; \
    return failed_anywhere;                                                                                 \
  }
