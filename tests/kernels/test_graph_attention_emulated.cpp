// The CUDA kernels of graph attention for any degree, run on the CPU.
#include <gtest/gtest.h>

#include "kernels/graph_attention/graph_attention_launch.cuh"
#include "tests/support/graph_attention_case.h"

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
  BackwardScratch(pieces, op);
  return w.filled(DType::u8, {pieces.bytes()}, 255);
}

constexpr DType kTypes[] = {DType::f32, DType::bf16};

TEST(GraphAttentionEmulated, MatchesTheCpuInDouble) {
  for (const DType dtype : kTypes) {
    const GraphAttentionSizes all[] = {
        {dtype, 9, 11, 3, 4, 32, 11, false, true, 3, 16}, {dtype, 9, 7, 3, 16, 64, 11, false, true, 3, 16},
        {dtype, 7, 9, 2, 3, 8, 5, false, true, 1, 8},     {dtype, 7, 6, 2, 5, 16, 16, false, true, 9},
        {dtype, 5, 6, 2, 3, 24, 1, false, true, 0, 8},    {dtype, 5, 4, 3, 2, 128, 11, false, true, 3, 16},
        {dtype, 5, 4, 3, 2, 256, 8, false, true, 0},      {dtype, 9, 2, 60, 4, 32, 11, false, true, 3, 16},
        {dtype, 9, 11, 3, 4, 32, 0, false, true, 0},      {dtype, 9, 11, 3, 4, 32, 11, false, false, 0, 16},
        {dtype, 9, 6, 2, 3, 32, 11, true, true, 3},       {dtype, 5, 4, 2, 1, 20, 19, true, true, 17},
        {dtype, 9, 2, 40, 2, 16, 3, true, true, 0},
    };
    for (const GraphAttentionSizes& sizes : all) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << sizes.num_heads << " heads of " << sizes.head_size
                                      << ", " << sizes.num_attributes << " attributes, degree " << sizes.mean_degree);
      Workspace w(3);
      const Graph graph = random_graph(sizes);
      const GraphAttentionCase inputs = GraphAttentionCase::make(w, graph, sizes);
      const bool vectors = supports_vectors(inputs.forward) && supports_vectors(inputs.backward);
      EXPECT_EQ(vectors, !sizes.strided);
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
