// One op on the GPU against the same op on the CPU in double, for any op: results, repeats, replays and padding.
#pragma once

#include "tests/support/gpu.h"
#include "tests/support/parity.h"

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace boreas::test {

/// Work recorded on the context's stream, to be launched any number of times.
class Recording {
#ifdef BOREAS_WITH_CUDA
 public:
  Recording(Context& ctx, const auto& work) : stream_(static_cast<cudaStream_t>(ctx.compute().native())) {
    expect(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    work();
    expect(cudaStreamEndCapture(stream_, &graph_));
    expect(cudaGraphInstantiate(&executable_, graph_, 0));
  }
  ~Recording() {
    cudaGraphExecDestroy(executable_);
    cudaGraphDestroy(graph_);
  }
  void replay() const { expect(cudaGraphLaunch(executable_, stream_)); }

 private:
  static void expect(cudaError_t status) { EXPECT_EQ(status, cudaSuccess) << cudaGetErrorString(status); }
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
#else
 public:
  Recording(Context&, const auto&) {}
  void replay() const {}
#endif
};

/// Runs `host` (whose tensors lie on the host, in the types of the GPU) on the GPU in every layout, and expects: what
/// it writes is close to the CPU's result in double; a second run and a replayed recording give the same bits; nothing
/// is written between rows; the scratch memory is that of the plan.
template <class Op>
void expect_gpu_parity(const Op& host, const Parity& parity = {}) {
  Workspace w;
  const std::vector<Tensor> expected = exact_results(w, host, parity);
  GpuWorkspace gpu;
  const auto place = [&](const Tensor& tensor) { return gpu.upload(tensor); };
  const auto fetch = [&](const Tensor& tensor) { return gpu.download(w, tensor); };
  for (const Layout layout : kLayouts) {
    SCOPED_TRACE(testing::Message() << Op::name << ", layout " << int(layout));
    const InLayout<Op> first(w, host, layout, parity, place), second(w, host, layout, parity, place),
        recorded(w, host, layout, parity, place);
    Arena counting;
    Context plan(Device::cuda(0), counting, Mode::plan);
    run(plan, first.op);
    run(gpu.ctx, first.op);
    EXPECT_EQ(counting.peak_bytes(), gpu.ctx.arena().peak_bytes());
    run(gpu.ctx, second.op);
    const Recording recording(gpu.ctx, [&] { run(gpu.ctx, recorded.op); });
    recording.replay();
    gpu.ctx.compute().synchronize();
    const std::vector<Tensor> results = first.results(fetch);
    expect_results(results, expected, parity);
    expect_same_bits(results, second.results(fetch), "a second run");
    expect_same_bits(results, recorded.results(fetch), "a replay");
  }
}

}  // namespace boreas::test
