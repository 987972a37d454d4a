#include "kernels/bounding/bounding_kernels.cuh"

namespace boreas {

void cuda::launch(Backend, Context& ctx, const BoundingForward& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const BoundingBackward& op, Tensor scratch) { enqueue(ctx, op, scratch); }

}  // namespace boreas
