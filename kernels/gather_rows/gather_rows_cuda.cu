#include "kernels/gather_rows/gather_rows_kernels.cuh"

namespace boreas {

void cuda::launch(Backend, Context& ctx, const GatherRows& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const ScatterAddRows& op, Tensor scratch) { enqueue(ctx, op, scratch); }

}  // namespace boreas
