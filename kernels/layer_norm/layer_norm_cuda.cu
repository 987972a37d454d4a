#include "kernels/layer_norm/layer_norm_kernels.cuh"

namespace boreas {

void cuda::launch(Backend, Context& ctx, const LayerNormForward& op, Tensor) {
  layer_norm::launch_forward(op, stream_of(ctx));
}

void cuda::launch(Backend, Context& ctx, const LayerNormBackward& op, Tensor scratch) {
  layer_norm::launch_backward(op, scratch.data(), stream_of(ctx));
}

}  // namespace boreas
