// Graph attention with three edges into every destination, on the GPU. Where the version for that cannot run (before
// Hopper), these are tests of the one for any degree.
#include <gtest/gtest.h>

#include "kernels/graph_attention/degree3.h"
#include "tests/support/cases/graph_attention_degree3.h"
#include "tests/support/gpu.h"

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace boreas::test {
namespace {

// A case on the host and on the GPU.
struct Both {
  Workspace work;
  GpuWorkspace gpu;
  Graph graph, device_graph;
  GraphAttentionCase host, device;

  explicit Both(const Degree3Sizes& sizes, bool sharp = false)
      : work(7),
        gpu(int64_t{256} << 20),
        graph(degree3_graph(sizes)),
        device_graph(graph.to(Device::cuda(0), gpu.ctx.compute())),
        host(sharp ? sharp_degree3_case(work, graph, sizes) : degree3_case(work, graph, sizes)),
        device(upload()) {}

  /// Row strides stay.
  GraphAttentionCase upload() {
    return host.mapped(device_graph, [&](const Tensor& tensor) {
      if (tensor.contiguous()) return gpu.upload(tensor);
      const Tensor wide = gpu.upload(work.filled(tensor.dtype(), {tensor.rows(), tensor.row_stride()}, NAN));
      const Tensor copy = wide.columns({0, tensor.cols()});
      gpu.copy(copy, tensor);
      return copy;
    });
  }
  auto fetch() {
    return [this](const Tensor& tensor) { return gpu.download(work, tensor); };
  }
};

std::vector<Degree3Sizes> all_cases() {
  std::vector<Degree3Sizes> cases = degree3_cases(quick_tests() ? 40 : 2500);
  cases.push_back({"more tiles than blocks have stages", quick_tests() ? 2200 : 20011, 700, 4, 32, 11, 3, 8});
  return cases;
}

TEST(GraphAttentionDegree3Cuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Degree3Sizes& sizes : all_cases()) {
    SCOPED_TRACE(sizes.name);
    Both both(sizes);
    both.device.run(both.gpu.ctx);
    expect_like_double(both.work, both.graph, both.host, both.device, both.fetch());
  }
}

TEST(GraphAttentionDegree3Cuda, IsTheFirstChoiceWhereItRuns) {
  BOREAS_SKIP_WITHOUT_GPU();
#ifdef BOREAS_WITH_CUDA
  Both both(degree3_cases(40)[0]);
  const bool runs = cuda::graph_attention::may_run_hopper_kernels(Device::cuda(0));
  EXPECT_EQ(cuda::version_for(both.device.forward).name == std::string("degree3"), runs);
  EXPECT_EQ(cuda::version_for(both.device.backward).name == std::string("degree3"), runs);
#endif
}

TEST(GraphAttentionDegree3Cuda, IsBitwiseRepeatable) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Degree3Sizes& sizes : all_cases()) {
    SCOPED_TRACE(sizes.name);
    Both both(sizes);
    const GraphAttentionCase second = both.upload();
    both.device.run(both.gpu.ctx);
    second.run(both.gpu.ctx);
    expect_identical(both.device, second, both.fetch());
  }
}

TEST(GraphAttentionDegree3Cuda, TheResultMayReplaceTheResidual) {
  BOREAS_SKIP_WITHOUT_GPU();
  Both both(degree3_cases(500)[0]);
  GraphAttentionForward over = both.upload().forward;
  over.o = over.r;
  run(both.gpu.ctx, both.device.forward);
  run(both.gpu.ctx, over);
  EXPECT_TRUE(identical(both.fetch()(over.o), both.fetch()(both.device.forward.o)));
}

TEST(GraphAttentionDegree3Cuda, ASharpSoftmaxOfEqualValuesHasNoGradient) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const int c : {0, 2, 4}) {
    const Degree3Sizes sizes = degree3_cases(500)[size_t(c)];
    SCOPED_TRACE(sizes.name);
    Both both(sizes, true);
    both.device.run(both.gpu.ctx);
    expect_vanishing_gradients(both.device, both.fetch());
  }
}

TEST(GraphAttentionDegree3Cuda, PlansTheScratchThatItUses) {
  BOREAS_SKIP_WITHOUT_GPU();
  Both both(degree3_cases(500)[0]);
  Arena counting;
  Context plan(Device::cuda(0), counting, Mode::plan);
  both.device.run(plan);
  both.device.run(both.gpu.ctx);
  EXPECT_EQ(counting.peak_bytes(), both.gpu.ctx.arena().peak_bytes());
}

TEST(GraphAttentionDegree3Cuda, ACapturedGraphReplaysToTheSameBits) {
  BOREAS_SKIP_WITHOUT_GPU();
#ifdef BOREAS_WITH_CUDA
  Both both(degree3_cases(2500)[0]);
  const GraphAttentionCase captured = both.upload();
  both.device.run(both.gpu.ctx);
  const auto stream = static_cast<cudaStream_t>(both.gpu.ctx.compute().native());
  const auto check = [](cudaError_t status) { ASSERT_EQ(status, cudaSuccess) << cudaGetErrorString(status); };
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  captured.run(both.gpu.ctx);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  for (int replay = 0; replay < 3; ++replay) {
    for (const auto& [tensor, start] :
         {std::pair(captured.backward.d_w_edge, both.host.backward.d_w_edge),
          std::pair(captured.backward.d_b_edge, both.host.backward.d_b_edge),
          std::pair(captured.backward.d_edge_attributes, both.host.backward.d_edge_attributes)})
      both.gpu.copy(tensor, start);
    check(cudaGraphLaunch(executable, stream));
    both.gpu.ctx.compute().synchronize();
    SCOPED_TRACE(testing::Message() << "replay " << replay);
    expect_identical(captured, both.device, both.fetch());
  }
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
#endif
}

}  // namespace
}  // namespace boreas::test
