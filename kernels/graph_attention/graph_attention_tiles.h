// The version of graph attention on tensor cores, for graphs of few edges a destination: what it takes. Its scratch
// memory is that of the version for aligned rows. How it works: graph_attention_tiles_kernels.cuh.
#pragma once

#include "kernels/graph_attention/graph_attention_cuda.h"

namespace boreas::cuda::graph_attention::tiles {

/// bf16, heads of 32, 64 or 128 channels, a multiple of 256 channels in all, at most 15 attributes, at most 12 edges
/// a destination on average, rows of 16-byte alignment, and a Hopper GPU (or none, where a plan is made).
bool supports(const GraphAttentionForward& op);
bool supports(const GraphAttentionBackward& op);

// In builds with CUDA.
void launch(Context& ctx, const GraphAttentionForward& op, Tensor scratch);
void launch(Context& ctx, const GraphAttentionBackward& op, Tensor scratch);

}  // namespace boreas::cuda::graph_attention::tiles
