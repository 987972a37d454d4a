// The CUDA kernels of graph attention for any degree, run on the CPU.
#include <gtest/gtest.h>

#include "kernels/graph_attention/graph_attention_launch.cuh"
#include "tests/support/cases/graph_attention.h"

namespace boreas {
namespace {

using namespace boreas::test;
using namespace boreas::cuda::graph_attention;

// All of a backward in the layout that the launchers would choose, or the general one.
void run_emulated(const GraphAttentionCase& c, bool vectors, Tensor scratch) {
  dispatch_storage(c.forward.q.dtype(), [&]<class T>() {
    const auto run_with = [&]<class L>() {
      launch_forward<L>(nullptr, c.forward);
      launch_backward<L>(nullptr, c.backward, scratch);
    };
    if (vectors)
      dispatch_vectors<T>(head_size_of(c.forward), run_with);
    else
      run_with.template operator()<GeneralLayout<T>>();
  });
}

Tensor scratch_for(Workspace& w, const GraphAttentionBackward& op) {
  ScratchPieces pieces;
  BackwardScratch(pieces, op, std::max(kMostVectorAttributes, op.edge_attributes.cols()));
  return w.filled(DType::u8, {pieces.bytes()}, 255);
}

constexpr DType kTypes[] = {DType::f32, DType::bf16};

TEST(GraphAttentionEmulated, MatchesTheCpuInDouble) {
  for (const DType dtype : kTypes) {
    for (const GraphAttentionSizes& sizes : small_graph_attention_cases(dtype)) {
      SCOPED_TRACE(testing::Message() << sizes);
      Workspace w(3);
      const Graph graph = random_graph(sizes);
      const GraphAttentionCase inputs = GraphAttentionCase::make(w, graph, sizes);
      const bool vectors = supports_vectors(inputs.forward) && supports_vectors(inputs.backward);
      EXPECT_EQ(vectors, !sizes.strided && sizes.head_size % 8 == 0 && sizes.num_attributes <= 16);
      const auto copy = [&] { return inputs.mapped(graph, [&](const Tensor& t) { return copy_like(w, t); }); };
      const GraphAttentionCase first = copy(), second = copy();
      const Tensor scratch = scratch_for(w, inputs.backward);
      run_emulated(first, vectors, scratch);
      expect_like_double(w, graph, inputs, first, [](const Tensor& t) { return t; });
      emulation::order() = emulation::Order::descending;
      run_emulated(second, vectors, scratch);
      emulation::order() = emulation::Order::ascending;
      for (size_t x = 0; x < first.results().size(); ++x)
        if (first.results()[x].tensor) {
          EXPECT_TRUE(identical(first.results()[x].tensor, second.results()[x].tensor)) << first.results()[x].name;
        }
    }
  }
}

}  // namespace
}  // namespace boreas
