#include "kernels/graph_attention/graph_attention_launch.cuh"

namespace boreas::cuda {

bool graph_attention::may_run_hopper_kernels(Device device) {
  if (!device.is_cuda() || device.index < 0 || num_cuda_devices() == 0) return true;
  static const bool is_built_for_hopper = [] {
    cudaFuncAttributes compiled;
    const cudaError_t status = cudaFuncGetAttributes(&compiled, add_weight_gradients_kernel);  // any kernel will do
    if (status != cudaSuccess) (void)cudaGetLastError();  // or the next launch would be blamed for it
    return status == cudaSuccess && compiled.ptxVersion >= 90;
  }();
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index);
  return major == 9 && is_built_for_hopper;
}

void graph_attention::launch_vectors(Context& ctx, const GraphAttentionForward& op, Tensor) {
  dispatch_storage(op.q.dtype(), [&]<class T>() {
    dispatch_vectors<T>(head_size_of(op), [&]<class L>() { launch_forward<L>(stream_of(ctx), op); });
  });
}

void graph_attention::launch_general(Context& ctx, const GraphAttentionForward& op, Tensor) {
  dispatch_storage(op.q.dtype(), [&]<class T>() { launch_forward<GeneralLayout<T>>(stream_of(ctx), op); });
}

void launch(Backend, Context& ctx, const GraphAttentionForward& op, Tensor scratch) {
  version_for(op).launch(ctx, op, scratch);
}

}  // namespace boreas::cuda
