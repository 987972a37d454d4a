#include "kernels/elementwise/elementwise_kernels.cuh"

namespace boreas {

void cuda::launch(Backend, Context& ctx, const Add& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const Copy& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const Fill& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const Blend& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const AddPrognostic& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const CopyColumns& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const AddColumns& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const NormaliseFields& op, Tensor scratch) { enqueue(ctx, op, scratch); }
void cuda::launch(Backend, Context& ctx, const DenormaliseFields& op, Tensor scratch) { enqueue(ctx, op, scratch); }

}  // namespace boreas
