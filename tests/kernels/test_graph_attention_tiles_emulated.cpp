// The CUDA kernel of graph attention forward on tensor cores, run on the CPU; backward, of the version for aligned
// rows, takes its statistics.
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
  out.push_back({kType, 9, 7, 12, 12, 64, 11, false, true, 3, 16});  // three slices
  for (const int64_t num_attributes : {0, 1, 7, 8, 15})
    out.push_back(
        {kType, 7, 6, 5, 16, 32, num_attributes, false, true, num_attributes / 2, (num_attributes + 7) / 8 * 8});
  out.push_back({kType, 30, 2, 60, 16, 32, 11, false, true, 3, 16});   // many steps
  out.push_back({kType, 60, 40, 1, 16, 32, 11, false, false, 0, 16});  // destinations without edges; no options
  out.push_back({kType, 1, 1, 1, 8, 32, 1, false, true, 0, 8});
  return out;
}

// One block a slice, so that steps go around the rings of stages.
void run_forward(const GraphAttentionForward& op) {
  tiles::dispatch_head_size(head_size_of(op), [&]<int D>() {
    tiles::launch_forward<D, 2, tiles::kTile, tiles::kStages>(nullptr, op, op.q.cols() / tiles::kSliceChannels);
  });
}

void run_emulated(Workspace& w, const GraphAttentionCase& c) {
  run_forward(c.forward);
  ScratchPieces pieces;
  BackwardScratch(pieces, c.backward, kMostVectorAttributes);
  const Tensor scratch = w.filled(DType::u8, {pieces.bytes()}, 255);
  dispatch_vectors<bfloat16>(head_size_of(c.backward),
                             [&]<class L>() { launch_backward<L>(nullptr, c.backward, scratch); });
}

TEST(GraphAttentionTilesEmulated, MatchesTheCpuInDouble) {
  for (const GraphAttentionSizes& sizes : cases()) {
    SCOPED_TRACE(testing::Message() << sizes);
    Workspace w(3);
    const Graph graph = random_graph(sizes);
    const GraphAttentionCase inputs = GraphAttentionCase::make(w, graph, sizes);
    EXPECT_EQ(tiles::supports(inputs.forward), graph.num_edges() <= 12 * graph.num_dst());
    const auto copy = [&] { return inputs.mapped(graph, [&](const Tensor& t) { return copy_like(w, t); }); };
    const GraphAttentionCase first = copy(), second = copy();
    run_emulated(w, first);
    expect_like_double(w, graph, inputs, first, [](const Tensor& t) { return t; });
    emulation::order() = emulation::Order::descending;
    run_forward(second.forward);
    emulation::order() = emulation::Order::ascending;
    EXPECT_TRUE(identical(first.forward.o, second.forward.o));
    EXPECT_TRUE(identical(first.forward.stats, second.forward.stats));
  }
}

TEST(GraphAttentionTilesEmulated, TheOutputMayBeTheResidual) {
  const GraphAttentionSizes sizes{kType, 30, 20, 5, 16, 32, 11, false, true, 3, 16};
  Workspace w(4);
  const Graph graph = random_graph(sizes);
  GraphAttentionCase c = GraphAttentionCase::make(w, graph, sizes);
  run_forward(c.forward);
  const Tensor apart = c.forward.o;
  c.forward.o = c.forward.r;
  run_forward(c.forward);
  EXPECT_TRUE(identical(c.forward.o, apart));
}

TEST(GraphAttentionTilesEmulated, SharpSoftmaxOfEqualValuesHasNoGradientOfScores) {
  for (const int64_t degree : {5, 17}) {
    const GraphAttentionSizes sizes{kType, 20, 30, degree, 16, 32, 11, false, true, 3, 16};
    Workspace w(5);
    const Graph graph = random_graph(sizes);
    const GraphAttentionCase c = sharp_graph_attention(w, graph, sizes);
    run_emulated(w, c);
    expect_no_gradient_of_scores(c, [](const Tensor& t) { return t; });
  }
}

}  // namespace
}  // namespace boreas
