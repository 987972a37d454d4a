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

void forward_emulated(const GraphAttentionCase& c, bool vectors) {
  dispatch_storage(c.forward.q.dtype(), [&]<class T>() {
    const auto run_with = [&]<class L>() { launch_forward<L>(nullptr, c.forward); };
    if (vectors)
      dispatch_vectors<T>(head_size_of(c.forward), run_with);
    else
      run_with.template operator()<GeneralLayout<T>>();
  });
}

// Exactly as much as the launchers are given.
Tensor scratch_for(Workspace& w, const GraphAttentionBackward& op, bool vectors) {
  ScratchPieces pieces;
  BackwardScratch(pieces, op, vectors ? kMostVectorAttributes : op.edge_attributes.cols());
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
      const Tensor scratch = scratch_for(w, inputs.backward, vectors);
      run_emulated(first, vectors, scratch);
      expect_like_double(w, graph, inputs, first, [](const Tensor& t) { return t; });
      for (const Range dst : {Range{0, sizes.num_dst / 2}, Range{sizes.num_dst / 3, sizes.num_dst}}) {
        if (dst.size() == 0) continue;
        GraphAttentionCase some = first;
        some.forward = forward_of_some(w, graph, inputs, dst);
        forward_emulated(some, vectors);
        expect_like_whole(dst, some.forward.o, some.forward.stats, first.forward.o, first.forward.stats);
      }
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

TEST(GraphAttentionEmulated, TheOutputMayBeTheResidual) {
  const GraphAttentionSizes sizes{DType::bf16, 30, 20, 5, 16, 32, 11, false, true, 3, 16};
  Workspace w(4);
  const Graph graph = random_graph(sizes);
  GraphAttentionCase c = GraphAttentionCase::make(w, graph, sizes);
  run_emulated(c, true, scratch_for(w, c.backward, true));
  const Tensor apart = c.forward.o;
  c.forward.o = c.forward.r;
  run_emulated(c, true, scratch_for(w, c.backward, true));
  EXPECT_TRUE(identical(c.forward.o, apart));
}

TEST(GraphAttentionEmulated, SharpSoftmaxOfEqualValuesHasNoGradientOfScores) {
  for (const DType dtype : kTypes) {
    SCOPED_TRACE(to_string(dtype));
    const GraphAttentionSizes sizes{dtype, 20, 30, 6, 16, 32, 11, false, true, 3, 16};
    Workspace w(5);
    const Graph graph = random_graph(sizes);
    const GraphAttentionCase c = sharp_graph_attention(w, graph, sizes);
    run_emulated(c, true, scratch_for(w, c.backward, true));
    expect_no_gradient_of_scores(c, [](const Tensor& t) { return t; });
  }
}

}  // namespace
}  // namespace boreas
