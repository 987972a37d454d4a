#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/graph_attention/graph_attention_cuda.h"
#include "tests/support/cases/graph_attention.h"
#include "tests/support/gpu.h"

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace boreas::test {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::bf16};

// A copy on the GPU with the same row stride and the same alignment.
Tensor upload(GpuWorkspace& gpu, Workspace& w, const Tensor& tensor) {
  if (tensor.contiguous()) return gpu.upload(tensor);
  const Tensor wide = w.filled(tensor.dtype(), {tensor.rows(), tensor.row_stride()}, NAN);
  const int64_t shift = tensor.row_stride() % 8 == 0 ? 0 : 1;
  const Range columns{shift, tensor.cols() + shift};
  for (int64_t i = 0; i < tensor.rows(); ++i)
    std::memcpy(wide.columns(columns).slice({i, i + 1}).data(), tensor.slice({i, i + 1}).data(),
                tensor.cols() * size_of(tensor.dtype()));
  return gpu.upload(wide).columns(columns);
}

GraphAttentionCase upload(GpuWorkspace& gpu, Workspace& w, const Graph& graph, const GraphAttentionCase& host) {
  return host.mapped(graph, [&](const Tensor& tensor) { return upload(gpu, w, tensor); });
}

TEST(GraphAttentionCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes)
    for (const GraphAttentionSizes& sizes :
         quick_tests() ? small_graph_attention_cases(dtype) : graph_attention_cases(dtype)) {
      SCOPED_TRACE(testing::Message() << sizes);
      Workspace w(7);
      GpuWorkspace gpu;
      const Graph graph = random_graph(sizes), device_graph = graph.to(Device::cuda(0), gpu.ctx.compute());
      const GraphAttentionCase host = GraphAttentionCase::make(w, graph, sizes);
      const GraphAttentionCase device = upload(gpu, w, device_graph, host);
      device.run(gpu.ctx);
      expect_like_double(w, graph, host, device, [&](const Tensor& t) { return gpu.download(w, t); });
    }
}

// Every version that supports a case gives the same results, up to rounding.
TEST(GraphAttentionCuda, AllVersionsAgree) {
  BOREAS_SKIP_WITHOUT_GPU();
#ifdef BOREAS_WITH_CUDA
  for (const DType dtype : kTypes)
    for (const int64_t head_size : {32, 64}) {
      const GraphAttentionSizes sizes{dtype, 300, 500, 5, 16, head_size, 11, false, true, 3, 16};
      Workspace w(8);
      GpuWorkspace gpu;
      const Graph graph = random_graph(sizes), device_graph = graph.to(Device::cuda(0), gpu.ctx.compute());
      const GraphAttentionCase host = GraphAttentionCase::make(w, graph, sizes);
      const auto launch = [&](const auto& version, const auto& op) {
        const Scope scope(gpu.ctx);
        version.launch(gpu.ctx, op, gpu.ctx.alloc(Keep::scratch, DType::u8, {version.scratch_bytes(op)}));
      };
      int num_checked = 0;
      for (const auto& forward : cuda::graph_attention_forward_versions())
        for (const auto& backward : cuda::graph_attention_backward_versions()) {
          const GraphAttentionCase device = upload(gpu, w, device_graph, host);
          if (!forward.supports(device.forward) || !backward.supports(device.backward)) continue;
          SCOPED_TRACE(testing::Message() << to_string(dtype) << ", heads of " << head_size << ", " << forward.name
                                          << " forward, " << backward.name << " backward");
          launch(forward, device.forward);
          launch(backward, device.backward);
          expect_like_double(w, graph, host, device, [&](const Tensor& t) { return gpu.download(w, t); });
          ++num_checked;
        }
      EXPECT_GE(num_checked, 4);
    }
#endif
}

TEST(GraphAttentionCuda, PartsOfDestinationsAndSourcesGiveTheWhole) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes)
    for (const auto& [mean_degree, head_size] :
         {std::pair{5, 32}, std::pair{5, 64}, std::pair{20, 32}, std::pair{5, 20}}) {
      const GraphAttentionSizes sizes{dtype, 300, 500, mean_degree, 16, head_size, 11, false, true, 3, 16};
      SCOPED_TRACE(testing::Message() << sizes);
      Workspace w(9);
      GpuWorkspace gpu;
      const Graph graph = random_graph(sizes), device_graph = graph.to(Device::cuda(0), gpu.ctx.compute());
      const GraphAttentionCase host = GraphAttentionCase::make(w, graph, sizes);
      const GraphAttentionCase whole = upload(gpu, w, device_graph, host), parts = upload(gpu, w, device_graph, host);
      for (const Range dst : {Range{200, 500}, Range{0, 200}}) {
        GraphAttentionForward op = parts.forward;
        op.destinations = dst;
        for (Tensor* rows : {&op.q, &op.r, &op.o, &op.stats}) *rows = rows->slice(dst);
        run(gpu.ctx, op);
      }
      GraphAttentionBackward op = parts.backward;
      op.workspace = gpu.ctx.alloc(Keep::scratch, DType::u8, {op.workspace_bytes()});
      op.pass = GraphAttentionBackward::Pass::destinations;
      run(gpu.ctx, op);
      op.pass = GraphAttentionBackward::Pass::sources;
      for (const Range src : {Range{0, 17}, Range{290, 300}, Range{17, 290}}) {
        op.sources = src;
        run(gpu.ctx, op);
      }
      expect_like_double(w, graph, host, parts, [&](const Tensor& t) { return gpu.download(w, t); });
      whole.run(gpu.ctx);
      for (const Range dst : {Range{200, 500}, Range{0, 200}}) {
        GraphAttentionCase missing = host;  // the rows that are not needed
        const GraphAttentionForward on_host = forward_of_some(w, graph, host, dst);
        missing.forward.k = on_host.k, missing.forward.v = on_host.v;
        GraphAttentionForward some = upload(gpu, w, device_graph, missing).forward;
        some.destinations = dst;
        for (Tensor* rows : {&some.q, &some.r, &some.o, &some.stats}) *rows = rows->slice(dst);
        run(gpu.ctx, some);
        expect_like_whole(dst, gpu.download(w, some.o), gpu.download(w, some.stats), gpu.download(w, whole.forward.o),
                          gpu.download(w, whole.forward.stats));
      }
      for (size_t x = 0; x < whole.results().size(); ++x)
        EXPECT_TRUE(identical(gpu.download(w, whole.results()[x].tensor), gpu.download(w, parts.results()[x].tensor)))
            << whole.results()[x].name;
    }
}

TEST(GraphAttentionCuda, IsBitwiseRepeatable) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes)
    for (const bool strided : {false, true}) {
      const int64_t scale = quick_tests() ? 1 : 10;
      const GraphAttentionSizes sizes{dtype, 300 * scale, 200 * scale,     9, 16, 32, 11, strided,
                                      true,  3,           strided ? 0 : 16};
      Workspace w;
      GpuWorkspace gpu;
      const Graph graph = random_graph(sizes), device_graph = graph.to(Device::cuda(0), gpu.ctx.compute());
      const GraphAttentionCase host = GraphAttentionCase::make(w, graph, sizes);
      const GraphAttentionCase first = upload(gpu, w, device_graph, host), second = upload(gpu, w, device_graph, host);
      first.run(gpu.ctx);
      second.run(gpu.ctx);
      for (size_t x = 0; x < first.results().size(); ++x)
        EXPECT_TRUE(identical(gpu.download(w, first.results()[x].tensor), gpu.download(w, second.results()[x].tensor)))
            << first.results()[x].name;
    }
}

TEST(GraphAttentionCuda, TheOutputMayBeTheResidual) {
  BOREAS_SKIP_WITHOUT_GPU();
  const GraphAttentionSizes sizes{DType::bf16, 300, 500, 5, 16, 32, 11, false, true, 3, 16};
  Workspace w;
  GpuWorkspace gpu;
  const Graph graph = random_graph(sizes), device_graph = graph.to(Device::cuda(0), gpu.ctx.compute());
  const GraphAttentionCase host = GraphAttentionCase::make(w, graph, sizes);
  const GraphAttentionCase apart = upload(gpu, w, device_graph, host);
  GraphAttentionCase over = upload(gpu, w, device_graph, host);
  over.forward.o = over.forward.r;
  run(gpu.ctx, apart.forward);
  run(gpu.ctx, over.forward);
  EXPECT_TRUE(identical(gpu.download(w, over.forward.o), gpu.download(w, apart.forward.o)));
}

TEST(GraphAttentionCuda, SharpSoftmaxOfEqualValuesHasNoGradientOfScores) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes)
    for (const int64_t head_size : {32, 64}) {
      const GraphAttentionSizes sizes{dtype, 200, 300, 6, 16, head_size, 11, false, true, 3, 16};
      Workspace w;
      GpuWorkspace gpu;
      const Graph graph = random_graph(sizes), device_graph = graph.to(Device::cuda(0), gpu.ctx.compute());
      const GraphAttentionCase device = upload(gpu, w, device_graph, sharp_graph_attention(w, graph, sizes));
      device.run(gpu.ctx);
      SCOPED_TRACE(to_string(dtype));
      expect_no_gradient_of_scores(device, [&](const Tensor& t) { return gpu.download(w, t); });
    }
}

TEST(GraphAttentionCuda, PlansTheScratchThatItUses) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes)
    for (const bool optional : {false, true}) {
      const GraphAttentionSizes sizes{dtype, 300, 500, 5, 16, 32, 11, false, optional, 0, 16};
      Workspace w;
      GpuWorkspace gpu;
      const Graph graph = random_graph(sizes), device_graph = graph.to(Device::cuda(0), gpu.ctx.compute());
      const GraphAttentionCase device = upload(gpu, w, device_graph, GraphAttentionCase::make(w, graph, sizes));
      Arena counting;
      Context plan(Device::cuda(0), counting, Mode::plan);
      device.run(plan);
      device.run(gpu.ctx);
      EXPECT_EQ(counting.peak_bytes(), gpu.ctx.arena().peak_bytes());
      EXPECT_GT(counting.peak_bytes(), 2 * graph.num_edges() * 16 * 4);
    }
}

TEST(GraphAttentionCuda, GraphsWithoutEdgesOrNodes) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const int64_t num_dst : {0, 70}) {
    const GraphAttentionSizes sizes{DType::bf16, 50, num_dst, 0, 4, 32, 11, false, true, 3, 16};
    Workspace w;
    GpuWorkspace gpu;
    const Graph graph = Graph::from_sorted(50, num_dst, std::vector<int64_t>(num_dst + 1, 0), {});
    const Graph device_graph = graph.to(Device::cuda(0), gpu.ctx.compute());
    const GraphAttentionCase host = GraphAttentionCase::make(w, graph, sizes);
    const GraphAttentionCase device = upload(gpu, w, device_graph, host);
    device.run(gpu.ctx);
    EXPECT_TRUE(identical(gpu.download(w, device.forward.o), host.forward.r));
    for (const Tensor& zero : {device.backward.d_q, device.backward.d_k, device.backward.d_v})
      for (const double x : values_of(gpu.download(w, zero))) EXPECT_EQ(x, 0);
    EXPECT_TRUE(identical(gpu.download(w, device.backward.d_w_edge), host.backward.d_w_edge));
  }
}

TEST(GraphAttentionCuda, SaysWhatItCannot) {
  BOREAS_SKIP_WITHOUT_GPU();
  const GraphAttentionSizes sizes{DType::f64, 5, 7, 2, 2, 16, 3, false, true, 1};
  Workspace w;
  GpuWorkspace gpu;
  const Graph graph = random_graph(sizes), device_graph = graph.to(Device::cuda(0), gpu.ctx.compute());
  const GraphAttentionCase device = upload(gpu, w, device_graph, GraphAttentionCase::make(w, graph, sizes));
  BOREAS_EXPECT_ERROR(run(gpu.ctx, device.forward), unsupported, "takes f32 or bf16");
}

}  // namespace
}  // namespace boreas::test
