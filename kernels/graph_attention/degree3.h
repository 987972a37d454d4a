// The version of graph attention for graphs with three edges into every destination, such as decoders have: what it
// takes, and its scratch memory. How it works: degree3_kernels.cuh.
#pragma once

#include "kernels/graph_attention/graph_attention_cuda.h"

namespace boreas::cuda::degree3 {

inline constexpr int kMostChannels = 512;  ///< of a launch
inline constexpr int kTile = 16, kSlots = 16, kGradientSlots = 8;

/// Of a launch: the most that fit and divide the number of heads.
inline int64_t slice_heads(int64_t num_heads, int64_t head_size) {
  int64_t heads = std::min(num_heads, kMostChannels / head_size);
  while (num_heads % heads != 0) --heads;
  return heads;
}

/// As many as multiprocessors: blocks stay. A function of the shapes only, because the gradients of the weights are a
/// sum over the blocks.
inline int64_t num_blocks(int64_t num_dst, int64_t most = graph_attention::kMultiprocessors) {
  return std::min((num_dst + kTile - 1) / kTile, most);
}

struct BackwardScratch {
  uint32_t* edge_weights;  ///< [M, H], bf16 pairs
  float* partials;         ///< [blocks, kSlots, channels of a launch]

  BackwardScratch(ScratchPieces& pieces, const GraphAttentionBackward& op) {
    const int64_t head_size = graph_attention::head_size_of(op);
    edge_weights = pieces.take<uint32_t>(op.graph->num_edges() * op.num_heads);
    partials = pieces.take<float>(num_blocks(op.q.rows()) * kSlots * slice_heads(op.num_heads, head_size) * head_size);
  }
};

/// bf16, heads of 32, 64 or 128 channels, at most 15 attributes, gradients of at most 8 of them, rows of 16-byte
/// alignment (those of the attributes too), and a Hopper GPU (or none, where a plan is made).
bool supports(const GraphAttentionForward& op);
bool supports(const GraphAttentionBackward& op);

int64_t scratch_bytes(const GraphAttentionForward& op);
int64_t scratch_bytes(const GraphAttentionBackward& op);

// In builds with CUDA.
void launch(Context& ctx, const GraphAttentionForward& op, Tensor scratch);
void launch(Context& ctx, const GraphAttentionBackward& op, Tensor scratch);

}  // namespace boreas::cuda::degree3
