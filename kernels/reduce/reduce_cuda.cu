#include "kernels/reduce/reduce_kernels.cuh"

namespace boreas {

void cuda::launch(Backend, Context& ctx, const SumOfSquares& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const CountNonFinite& op, Tensor scratch) { enqueue(ctx, op, scratch); }

}  // namespace boreas
