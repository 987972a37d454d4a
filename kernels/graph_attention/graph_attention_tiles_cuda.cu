#include "kernels/graph_attention/graph_attention_tiles.h"

#include "kernels/graph_attention/graph_attention_tiles_launch.cuh"

namespace boreas::cuda::graph_attention::tiles {

void launch(Context& ctx, const GraphAttentionForward& op, Tensor) {
  dispatch_head_size(head_size_of(op), [&]<int D>() { launch_forward<D>(stream_of(ctx), op); });
}

void launch(Context& ctx, const GraphAttentionBackward& op, Tensor scratch_memory) {
  ScratchPieces pieces(scratch_memory.data());
  const BackwardScratch scratch(pieces, op, kMostVectorAttributes);
  if (op.has(GraphAttentionBackward::Pass::destinations)) {
    dispatch_head_size(head_size_of(op), [&]<int D>() { launch_destinations<D>(stream_of(ctx), op, scratch); });
    launch_weight_gradients<bfloat16>(stream_of(ctx), op, scratch, kMostVectorAttributes, true);
  }
  if (op.has(GraphAttentionBackward::Pass::sources))
    launch_source_pass(ctx, op, {.data = scratch.edge_weights, .dtype = DType::f32});
}

}  // namespace boreas::cuda::graph_attention::tiles
