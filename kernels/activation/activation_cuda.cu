#include "kernels/activation/activation_kernels.cuh"

namespace boreas {

void cuda::launch(Backend, Context& ctx, const GeluForward& op, Tensor) {
  activation::launch_activation(op, stream_of(ctx));
}
void cuda::launch(Backend, Context& ctx, const GeluBackward& op, Tensor) {
  activation::launch_activation(op, stream_of(ctx));
}
void cuda::launch(Backend, Context& ctx, const GatedForward& op, Tensor) {
  activation::launch_activation(op, stream_of(ctx));
}
void cuda::launch(Backend, Context& ctx, const GatedBackward& op, Tensor) {
  activation::launch_activation(op, stream_of(ctx));
}

}  // namespace boreas
