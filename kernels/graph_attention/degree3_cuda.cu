#include "kernels/graph_attention/degree3_launch.cuh"

namespace boreas::cuda::degree3 {

bool runs_on(Device device) {
  if (!device.is_cuda() || device.index < 0 || num_cuda_devices() == 0) return true;  // a plan, for Hopper
  static const bool is_built_for_hopper = [] {
    cudaFuncAttributes compiled;
    const cudaError_t status = cudaFuncGetAttributes(&compiled, attend<32, Forward>);
    if (status != cudaSuccess) (void)cudaGetLastError();  // or the next launch would be blamed for it
    return status == cudaSuccess && compiled.ptxVersion >= 90;
  }();
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index);
  return major == 9 && is_built_for_hopper;
}

void launch(Context& ctx, const GraphAttentionForward& op, Tensor) {
  launch_forward(stream_of(ctx), op, num_blocks(op.q.rows()));
}

void launch(Context& ctx, const GraphAttentionBackward& op, Tensor scratch_memory) {
  ScratchPieces pieces(scratch_memory.data());
  const BackwardScratch scratch(pieces, op);
  launch_destination_pass(stream_of(ctx), op, scratch, num_blocks(op.q.rows()));
  launch_source_pass(ctx, op, {.data = scratch.edge_weights, .dtype = DType::bf16});
}

}  // namespace boreas::cuda::degree3
