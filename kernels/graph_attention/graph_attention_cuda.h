// Inside the CUDA backend of graph attention: its versions, the order in which they are preferred, and what they share.
// Everything but the launchers also exists in builds without CUDA, so that a plan needs no GPU.
#pragma once

#include <algorithm>
#include <cmath>
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

/// All versions, the preferred first; the last one, "general", supports all that CUDA computes.
std::span<const GraphAttentionVersion<GraphAttentionForward>> graph_attention_forward_versions();
std::span<const GraphAttentionVersion<GraphAttentionBackward>> graph_attention_backward_versions();

/// The first version that supports the op; throws unsupported if there is none.
const GraphAttentionVersion<GraphAttentionForward>& version_for(const GraphAttentionForward& op);
const GraphAttentionVersion<GraphAttentionBackward>& version_for(const GraphAttentionBackward& op);

/// What the destination pass of backward leaves for the source pass: alpha and scale * dS, side by side, [M, H] pairs
/// of two f32 or two bf16.
struct EdgeWeights {
  void* data = nullptr;
  DType dtype = DType::f32;
};

/// The source pass of backward: d_k and d_v from q, d_o and the weights of the edges, which any version of the
/// destination pass may have written. Weights in bf16 go with tensors in bf16 only.
void launch_source_pass(Context& ctx, const GraphAttentionBackward& op, const EdgeWeights& weights);

namespace graph_attention {

/// Multiprocessors of the H100 and H200. A plan must not depend on the machine that it is made on; on another device
/// only speed suffers.
inline constexpr int64_t kMultiprocessors = 132;

inline constexpr int64_t kMostHeadSize = 256, kMostAttributes = 64;
inline constexpr int64_t kMostVectorAttributes = 16;  // of the version for aligned rows

template <class Op>
int64_t head_size_of(const Op& op) {
  return op.q.cols() / op.num_heads;
}

template <class Op>
double scale_of(const Op& op) {
  return op.scale > 0 ? op.scale : 1 / std::sqrt(double(head_size_of(op)));
}

/// Whether all rows begin at multiples of 16 bytes.
inline bool rows_are_aligned(const Tensor& tensor) {
  const int64_t element = size_of(tensor.dtype());
  return tensor.empty() || (reinterpret_cast<uintptr_t>(tensor.data()) % 16 == 0 &&
                            (tensor.rows() <= 1 || tensor.row_stride() * element % 16 == 0));
}

/// Whether kernels for Hopper may be chosen: a Hopper GPU, and machine code for it in this build; or no GPU, where a
/// plan is made.
#ifdef BOREAS_WITH_CUDA
bool may_run_hopper_kernels(Device device);
#else
inline bool may_run_hopper_kernels(Device) { return true; }
#endif

/// Parts of the destinations that the gradients of w_edge and b_edge are summed over first. A function of shapes only:
/// at 512 channels, as many blocks as are resident at once.
inline int64_t weight_gradient_parts(int64_t num_dst) {
  return std::clamp<int64_t>(num_dst / 64, 1, kMultiprocessors * 5 / 4);
}

/// Scratch memory of backward in the versions for graphs of any degree. `mean_width`: values kept for the attributes of
/// a destination and head.
struct BackwardScratch {
  float* edge_weights;  // [M, H] pairs
  void *mean, *d_mean;  // [N_dst, H, mean_width] in the storage type, where a gradient of w_edge or b_edge is wanted
  float* partials;      // [parts, H * D, A + 1]
  BackwardScratch(ScratchPieces& pieces, const GraphAttentionBackward& op, int64_t mean_width) {
    const bool wanted = op.d_w_edge || op.d_b_edge;
    const int64_t num_dst = op.q.rows();
    const int64_t mean_bytes = wanted ? num_dst * op.num_heads * mean_width * size_of(op.q.dtype()) : 0;
    edge_weights = pieces.take<float>(2 * op.graph->num_edges() * op.num_heads);
    mean = pieces.take<char>(mean_bytes);
    d_mean = pieces.take<char>(mean_bytes);
    partials =
        pieces.take<float>(wanted ? weight_gradient_parts(num_dst) * op.q.cols() * (op.edge_attributes.cols() + 1) : 0);
  }
};

// The versions for graphs of any degree.
bool supports_vectors(const GraphAttentionForward& op);
bool supports_vectors(const GraphAttentionBackward& op);
bool supports_general(const GraphAttentionForward& op);
bool supports_general(const GraphAttentionBackward& op);
void launch_vectors(Context& ctx, const GraphAttentionForward& op, Tensor scratch);
void launch_vectors(Context& ctx, const GraphAttentionBackward& op, Tensor scratch);
void launch_general(Context& ctx, const GraphAttentionForward& op, Tensor scratch);
void launch_general(Context& ctx, const GraphAttentionBackward& op, Tensor scratch);

}  // namespace graph_attention
}  // namespace boreas::cuda
