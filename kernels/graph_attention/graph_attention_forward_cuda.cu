#include "kernels/graph_attention/graph_attention_launch.cuh"

namespace boreas::cuda {

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
