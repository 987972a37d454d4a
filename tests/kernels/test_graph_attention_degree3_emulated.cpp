// The CUDA kernels of graph attention with three edges into every destination, run on the CPU.
#include <gtest/gtest.h>

#include "kernels/graph_attention/degree3_launch.cuh"
#include "kernels/graph_attention/graph_attention_launch.cuh"
#include "tests/support/cases/graph_attention_degree3.h"

namespace boreas {
namespace {

using namespace boreas::test;

// One block, so that tiles go around its ring of stages.
void run_emulated(Workspace& w, const GraphAttentionCase& c, int64_t most_blocks = 1) {
  namespace degree3 = cuda::degree3;
  const int64_t num_blocks = degree3::num_blocks(c.forward.q.rows(), most_blocks);
  degree3::launch_forward(nullptr, c.forward, num_blocks);
  const Tensor memory = w.filled(DType::u8, {degree3::scratch_bytes(c.backward)}, 255);
  ScratchPieces pieces(memory.data());
  const degree3::BackwardScratch scratch(pieces, c.backward);
  degree3::launch_destination_pass(nullptr, c.backward, scratch, num_blocks);
  namespace general = cuda::graph_attention;
  general::dispatch_vectors<bfloat16>(general::head_size_of(c.backward), [&]<class L>() {
    general::launch_sources<L, uint32_t>(nullptr, c.backward, scratch.edge_weights);
  });
}

TEST(GraphAttentionDegree3Emulated, MatchesTheCpuInDouble) {
  for (const Degree3Sizes& sizes : degree3_cases(28)) {
    SCOPED_TRACE(sizes.name);
    Workspace w(5);
    const Graph graph = degree3_graph(sizes);
    const GraphAttentionCase inputs = degree3_case(w, graph, sizes);
    ASSERT_TRUE(cuda::degree3::supports(inputs.forward) && cuda::degree3::supports(inputs.backward));
    const auto copy = [&] { return inputs.mapped(graph, [&](const Tensor& t) { return copy_like(w, t); }); };
    const GraphAttentionCase first = copy(), second = copy();
    run_emulated(w, first);
    expect_like_double(w, graph, inputs, first, [](const Tensor& t) { return t; });
    emulation::order() = emulation::Order::descending;
    run_emulated(w, second);
    emulation::order() = emulation::Order::ascending;
    expect_identical(first, second, [](const Tensor& t) { return t; });
  }
}

TEST(GraphAttentionDegree3Emulated, TheResultMayReplaceTheResidual) {
  Workspace w(5);
  const Degree3Sizes sizes = degree3_cases(20)[0];
  const Graph graph = degree3_graph(sizes);
  const GraphAttentionCase inputs = degree3_case(w, graph, sizes);
  GraphAttentionForward apart = inputs.forward, over = inputs.forward;
  over.r = over.o = copy_like(w, inputs.forward.r);
  cuda::degree3::launch_forward(nullptr, apart, 2);
  cuda::degree3::launch_forward(nullptr, over, 2);
  EXPECT_TRUE(identical(over.o, apart.o));
}

TEST(GraphAttentionDegree3Emulated, ASharpSoftmaxOfEqualValuesHasNoGradient) {
  Workspace w(5);
  const Degree3Sizes sizes = degree3_cases(20)[0];
  const Graph graph = degree3_graph(sizes);
  const GraphAttentionCase c = sharp_degree3_case(w, graph, sizes);
  run_emulated(w, c, 3);
  expect_vanishing_gradients(c, [](const Tensor& t) { return t; });
}

}  // namespace
}  // namespace boreas
