#include "kernels/graph_attention/degree3_launch.cuh"

namespace boreas::cuda::degree3 {

void launch(Context& ctx, const GraphAttentionForward& op, Tensor) {
  launch_forward(stream_of(ctx), op, num_blocks(op.q.rows()));
}

void launch(Context& ctx, const GraphAttentionBackward& op, Tensor scratch_memory) {
  ScratchPieces pieces(scratch_memory.data());
  const BackwardScratch scratch(pieces, op);
  if (op.has(GraphAttentionBackward::Pass::destinations))
    launch_destination_pass(stream_of(ctx), op, scratch, num_blocks(op.q.rows()));
  if (op.has(GraphAttentionBackward::Pass::sources))
    launch_source_pass(ctx, op, {.data = scratch.edge_weights, .dtype = DType::bf16});
}

}  // namespace boreas::cuda::degree3
