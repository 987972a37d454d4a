#include "kernels/graph_attention/graph_attention_launch.cuh"

namespace boreas::cuda {

void graph_attention::launch_vectors(Context& ctx, const GraphAttentionBackward& op, Tensor scratch) {
  dispatch_storage(op.q.dtype(), [&]<class T>() {
    dispatch_vectors<T>(head_size_of(op), [&]<class L>() { launch_backward<L>(stream_of(ctx), op, scratch); });
  });
}

void graph_attention::launch_general(Context& ctx, const GraphAttentionBackward& op, Tensor scratch) {
  dispatch_storage(op.q.dtype(), [&]<class T>() { launch_backward<GeneralLayout<T>>(stream_of(ctx), op, scratch); });
}

void launch_source_pass(Context& ctx, const GraphAttentionBackward& op, const EdgeWeights& weights) {
  using namespace graph_attention;
  const cudaStream_t stream = stream_of(ctx);
  dispatch_storage(op.q.dtype(), [&]<class T>() {
    const auto launch_with = [&]<class L>() {
      if constexpr (std::is_same_v<T, bfloat16>) {
        if (weights.dtype == DType::bf16) return launch_sources<L, uint32_t>(stream, op, weights.data);
      }
      launch_sources<L, float2>(stream, op, weights.data);
    };
    if (supports_vectors(op))
      dispatch_vectors<T>(head_size_of(op), launch_with);
    else
      launch_with.template operator()<GeneralLayout<T>>();
  });
}

void launch(Backend, Context& ctx, const GraphAttentionBackward& op, Tensor scratch) {
  version_for(op).launch(ctx, op, op.pass == GraphAttentionBackward::Pass::both ? scratch : op.workspace);
}

}  // namespace boreas::cuda
