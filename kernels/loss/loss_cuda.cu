#include "kernels/loss/loss_kernels.cuh"

namespace boreas {

void cuda::launch(Backend, Context& ctx, const WeightedLoss& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const CrpsLoss& op, Tensor scratch) { enqueue(ctx, op, scratch); }

}  // namespace boreas
