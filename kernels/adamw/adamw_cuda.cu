#include "kernels/adamw/adamw_kernels.cuh"

namespace boreas {

void cuda::launch(Backend, Context& ctx, const AdamW& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const ClipScale& op, Tensor scratch) { enqueue(ctx, op, scratch); }

}  // namespace boreas
