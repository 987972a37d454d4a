// The CUDA kernels of graph attention on tensor cores for graphs of any degree, run on the CPU.
#include <gtest/gtest.h>

#include "kernels/graph_attention/graph_attention_tiles.h"
#include "kernels/graph_attention/graph_attention_tiles_launch.cuh"
#include "tests/support/cases/graph_attention.h"

namespace boreas {
namespace {

using namespace boreas::test;
using namespace boreas::cuda::graph_attention;

constexpr DType kType = DType::bf16;

std::vector<GraphAttentionSizes> cases() {
  std::vector<GraphAttentionSizes> out;
  out.push_back({kType, 9, 23, 3, 8, 32, 11, false, true, 3, 16});
  out.push_back({kType, 9, 11, 9, 4, 64, 11, false, true, 3, 16});
  out.push_back({kType, 9, 11, 9, 2, 128, 11, false, true, 3, 16});
  out.push_back({kType, 9, 7, 12, 12, 64, 11, false, true, 3, 16});  // three slices
  for (const int64_t num_attributes : {0, 1, 7, 8, 15})
    out.push_back(
        {kType, 7, 6, 5, 16, 32, num_attributes, false, true, num_attributes / 2, (num_attributes + 7) / 8 * 8});
  out.push_back({kType, 30, 2, 60, 16, 32, 11, false, true, 3, 16});   // many steps
  out.push_back({kType, 60, 40, 1, 16, 32, 11, false, false, 0, 16});  // destinations without edges; no options
  out.push_back({kType, 7, 6, 3, 16, 32, 11, false, true, 11, 16});    // no gradient of attributes
  out.push_back({kType, 1, 1, 1, 16, 32, 1, false, true, 0, 8});
  return out;
}

// One block, so that tiles go around its rings of stages.
void run_emulated(const GraphAttentionCase& c, Tensor scratch_memory) {
  ScratchPieces pieces(scratch_memory.data());
  const BackwardScratch scratch(pieces, c.backward, kMostVectorAttributes);
  tiles::dispatch_head_size(head_size_of(c.forward), [&]<int D>() {
    tiles::launch_forward<D, 2, 8>(nullptr, c.forward, 1);
    tiles::launch_destinations<D, 2, 4>(nullptr, c.backward, scratch, 1);
  });
  launch_weight_gradients<bfloat16>(nullptr, c.backward, scratch, kMostVectorAttributes, true);
  dispatch_vectors<bfloat16>(head_size_of(c.backward),
                             [&]<class L>() { launch_sources<L, float2>(nullptr, c.backward, scratch.edge_weights); });
}

Tensor scratch_for(Workspace& w, const GraphAttentionBackward& op) {
  ScratchPieces pieces;
  BackwardScratch(pieces, op, kMostVectorAttributes);
  return w.filled(DType::u8, {pieces.bytes()}, 255);
}

TEST(GraphAttentionTilesEmulated, MatchesTheCpuInDouble) {
  for (const GraphAttentionSizes& sizes : cases()) {
    SCOPED_TRACE(testing::Message() << sizes);
    Workspace w(3);
    const Graph graph = random_graph(sizes);
    const GraphAttentionCase inputs = GraphAttentionCase::make(w, graph, sizes);
    const bool few_edges = graph.num_edges() <= 12 * graph.num_dst();
    EXPECT_EQ(tiles::supports(inputs.forward), few_edges);
    EXPECT_EQ(tiles::supports(inputs.backward), few_edges);
    const auto copy = [&] { return inputs.mapped(graph, [&](const Tensor& t) { return copy_like(w, t); }); };
    const GraphAttentionCase first = copy(), second = copy();
    const Tensor scratch = scratch_for(w, inputs.backward);
    run_emulated(first, scratch);
    expect_like_double(w, graph, inputs, first, [](const Tensor& t) { return t; });
    for (const Range dst : {Range{0, sizes.num_dst / 2}, Range{sizes.num_dst / 3, sizes.num_dst}}) {
      if (dst.size() == 0) continue;
      GraphAttentionCase some = first;
      some.forward = forward_of_some(w, graph, inputs, dst);
      tiles::dispatch_head_size(head_size_of(some.forward),
                                [&]<int D>() { tiles::launch_forward<D, 2, 8>(nullptr, some.forward, 1); });
      expect_like_whole(dst, some.forward.o, some.forward.stats, first.forward.o, first.forward.stats);
    }
    emulation::order() = emulation::Order::descending;
    run_emulated(second, scratch);
    emulation::order() = emulation::Order::ascending;
    for (size_t x = 0; x < first.results().size(); ++x)
      if (first.results()[x].tensor) {
        EXPECT_TRUE(identical(first.results()[x].tensor, second.results()[x].tensor)) << first.results()[x].name;
      }
  }
}

TEST(GraphAttentionTilesEmulated, TheOutputMayBeTheResidual) {
  const GraphAttentionSizes sizes{kType, 30, 20, 5, 16, 32, 11, false, true, 3, 16};
  Workspace w(4);
  const Graph graph = random_graph(sizes);
  GraphAttentionCase c = GraphAttentionCase::make(w, graph, sizes);
  run_emulated(c, scratch_for(w, c.backward));
  const Tensor apart = c.forward.o;
  c.forward.o = c.forward.r;
  run_emulated(c, scratch_for(w, c.backward));
  EXPECT_TRUE(identical(c.forward.o, apart));
}

TEST(GraphAttentionTilesEmulated, SharpSoftmaxOfEqualValuesHasNoGradientOfScores) {
  for (const int64_t degree : {5, 17}) {
    const GraphAttentionSizes sizes{kType, 20, 30, degree, 16, 32, 11, false, true, 3, 16};
    Workspace w(5);
    const Graph graph = random_graph(sizes);
    const GraphAttentionCase c = sharp_graph_attention(w, graph, sizes);
    run_emulated(c, scratch_for(w, c.backward));
    expect_no_gradient_of_scores(c, [](const Tensor& t) { return t; });
  }
}

}  // namespace
}  // namespace boreas
