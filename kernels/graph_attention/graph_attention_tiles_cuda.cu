#include "kernels/graph_attention/graph_attention_tiles.h"

#include "kernels/graph_attention/graph_attention_tiles_launch.cuh"

namespace boreas::cuda::graph_attention::tiles {

bool runs_on(Device device) {
  if (!device.is_cuda() || device.index < 0 || num_cuda_devices() == 0) return true;  // a plan, for Hopper
  static const bool is_built_for_hopper = [] {
    cudaFuncAttributes compiled;
    const cudaError_t status = cudaFuncGetAttributes(&compiled, forward_kernel<32, kWarps, kTile, kStages>);
    if (status != cudaSuccess) (void)cudaGetLastError();  // or the next launch would be blamed for it
    return status == cudaSuccess && compiled.ptxVersion >= 90;
  }();
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index);
  return major == 9 && is_built_for_hopper;
}

void launch(Context& ctx, const GraphAttentionForward& op, Tensor) {
  dispatch_head_size(head_size_of(op), [&]<int D>() { launch_forward<D, kWarps, kTile, kStages>(stream_of(ctx), op); });
}

}  // namespace boreas::cuda::graph_attention::tiles
