// Inside the CUDA backend of graph attention: its versions, the order in which they are preferred, and what they share.
// Everything but the launchers also exists in builds without CUDA, so that a plan needs no GPU.
#pragma once

#include <span>

#include "kernels/core/scratch.h"
#include "kernels/graph_attention/graph_attention.h"

namespace boreas::cuda {

/// One way to run an op. The first that supports the case is used; tests and benches may call another.
template <class Op>
struct GraphAttentionVersion {
  const char* name;
  bool (*supports)(const Op&);
  int64_t (*scratch_bytes)(const Op&);
  void (*launch)(Context&, const Op&, Tensor scratch);  ///< null in builds without CUDA
};

/// All versions, the preferred first; the last one ("general") supports all that CUDA computes.
std::span<const GraphAttentionVersion<GraphAttentionForward>> graph_attention_forward_versions();
std::span<const GraphAttentionVersion<GraphAttentionBackward>> graph_attention_backward_versions();

/// The first version that supports the op; throws unsupported, naming type, head size and attributes, if there is none.
const GraphAttentionVersion<GraphAttentionForward>& version_for(const GraphAttentionForward& op);
const GraphAttentionVersion<GraphAttentionBackward>& version_for(const GraphAttentionBackward& op);

/// What the destination pass of backward leaves for the source pass: alpha and scale * dS, side by side, [M, H] pairs,
/// of two f32 or two bf16.
struct EdgeWeights {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t bytes(int64_t num_edges, int64_t num_heads) const { return 2 * num_edges * num_heads * size_of(dtype); }
};

/// The source pass of backward: d_k and d_v from the weights of the edges, q and d_o; any version of the destination
/// pass may have written the weights.
void launch_source_pass(Context& ctx, const GraphAttentionBackward& op, const EdgeWeights& weights);

}  // namespace boreas::cuda
