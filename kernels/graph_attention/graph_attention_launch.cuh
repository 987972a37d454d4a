// From ops to the parameters of the kernels for graphs of any degree, and their launch.
#pragma once

#include "kernels/graph_attention/graph_attention_cuda.h"
#include "kernels/graph_attention/graph_attention_kernels.cuh"

namespace boreas::cuda::graph_attention {

/// Calls f<T>() for the storage type.
template <class F>
void dispatch_storage(DType dtype, F&& f) {
  if (dtype == DType::bf16)
    f.template operator()<bfloat16>();
  else
    f.template operator()<float>();
}

/// Calls f<Layout>() with the narrowest layout of aligned rows that holds a head.
template <class T, class F>
void dispatch_vectors(int64_t head_size, F&& f) {
  constexpr int kWidth = kVectorSize<T>, kSlots = int(kMostVectorAttributes);
  const int64_t vectors = head_size / kWidth;
  if (vectors <= 1) return f.template operator()<Layout<T, kWidth, 1, 1, kSlots>>();
  if (vectors <= 2) return f.template operator()<Layout<T, kWidth, 2, 1, kSlots>>();
  if (vectors <= 4) return f.template operator()<Layout<T, kWidth, 4, 1, kSlots>>();
  if (vectors <= 8) return f.template operator()<Layout<T, kWidth, 8, 1, kSlots>>();
  if (vectors <= 16) return f.template operator()<Layout<T, kWidth, 16, 1, kSlots>>();
  if (vectors <= 32) return f.template operator()<Layout<T, kWidth, 32, 1, kSlots>>();
  if constexpr (kWidth == 4) f.template operator()<Layout<T, kWidth, 32, 2, kSlots>>();
}

template <class T>
using GeneralLayout = Layout<T, 1, 32, int(kMostHeadSize) / 32, int(kMostAttributes)>;

template <class T>
Rows<T> rows_of(const Tensor& tensor) {
  if (tensor.empty()) return {};
  return {tensor.as<std::remove_const_t<T>>(), tensor.row_stride()};
}

template <class T, class Op>
Problem<T> problem_of(const Op& op) {
  return {.num_dst = int(op.q.rows()),
          .num_src = int(op.k.rows()),
          .num_heads = int(op.num_heads),
          .head_size = int(head_size_of(op)),
          .num_attributes = int(op.edge_attributes.cols()),
          .scale = float(scale_of(op)),
          .dst_ptr = op.graph->dst_ptr.template as<int64_t>(),
          .src_of = op.graph->src_of.template as<int32_t>(),
          .q = rows_of<const T>(op.q),
          .k = rows_of<const T>(op.k),
          .v = rows_of<const T>(op.v),
          .attributes = rows_of<const T>(op.edge_attributes),
          .w_edge = rows_of<const T>(op.w_edge),
          .b_edge = op.b_edge ? op.b_edge.template as<T>() : nullptr};
}

/// As many blocks as are resident at once, or as there is work for.
inline unsigned resident_grid(int64_t num_warps, int64_t blocks_per_multiprocessor) {
  return unsigned(std::min((num_warps + kWarps - 1) / kWarps, kMultiprocessors * blocks_per_multiprocessor));
}

template <class L>
int64_t num_slices_of(int64_t num_heads) {
  return (num_heads + L::kHeads - 1) / L::kHeads;
}

template <class L>
void launch_forward(cudaStream_t stream, const GraphAttentionForward& op) {
  using T = typename L::T;
  constexpr int kAhead = L::kAligned ? 4 : 1, kBlocks = L::kAligned ? 5 : 3;
  if (op.q.rows() == 0) return;
  const Forward<T> p{
      .in = problem_of<T>(op), .r = rows_of<const T>(op.r), .o = rows_of<T>(op.o), .stats = rows_of<float>(op.stats)};
  const int64_t num_slices = num_slices_of<L>(op.num_heads);
  launch_kernel(forward_kernel<L, kAhead, kBlocks>, resident_grid(op.q.rows() * num_slices, kBlocks), kThreads,
                EdgeProjection<L>::shared_bytes(op.num_heads, p.in.num_attributes), stream, p);
}

template <class L, class Weight>
void launch_sources(cudaStream_t stream, const GraphAttentionBackward& op, const void* weights) {
  using T = typename L::T;
  constexpr int kAhead = L::kAligned ? 4 : 1, kBlocks = L::kAligned ? 6 : 3;
  const int64_t num_src = op.k.rows();
  if (num_src == 0) return;
  // About 16 edges a warp.
  const int64_t run = std::clamp<int64_t>(16 * num_src / std::max<int64_t>(op.graph->num_edges(), 1), 1, 16);
  const BackwardSources<T, Weight> p{.num_src = int(num_src),
                                     .num_heads = int(op.num_heads),
                                     .head_size = int(head_size_of(op)),
                                     .run = int(run),
                                     .src_ptr = op.graph->src_ptr.as<int64_t>(),
                                     .edge_of = op.graph->edge_of.as<int32_t>(),
                                     .dst_of = op.graph->dst_of.as<int32_t>(),
                                     .q = rows_of<const T>(op.q),
                                     .d_o = rows_of<const T>(op.d_o),
                                     .edge_weights = static_cast<const Weight*>(weights),
                                     .d_k = rows_of<T>(op.d_k),
                                     .d_v = rows_of<T>(op.d_v)};
  const int64_t num_warps = (num_src + run - 1) / run * num_slices_of<L>(op.num_heads);
  launch_kernel(backward_sources_kernel<L, Weight, kAhead, kBlocks>, unsigned((num_warps + kWarps - 1) / kWarps),
                kThreads, 0, stream, p);
}

template <class T>
void launch_weight_gradients(cudaStream_t stream, const GraphAttentionBackward& op, const BackwardScratch& scratch) {
  const int64_t num_dst = op.q.rows(), num_channels = op.q.cols(), num_attributes = op.edge_attributes.cols();
  if ((!op.d_w_edge && !op.d_b_edge) || num_dst == 0) return;
  const WeightGradients<T> p{.num_dst = int(num_dst),
                             .num_heads = int(op.num_heads),
                             .head_size = int(head_size_of(op)),
                             .num_attributes = int(num_attributes),
                             .dst_ptr = op.graph->dst_ptr.as<int64_t>(),
                             .q = rows_of<const T>(op.q),
                             .d_o = rows_of<const T>(op.d_o),
                             .mean = static_cast<const T*>(scratch.mean),
                             .d_mean = static_cast<const T*>(scratch.d_mean),
                             .partials = scratch.partials};
  const int64_t parts = weight_gradient_parts(num_dst), channels = kThreads * kGradientChannels;
  const dim3 grid(unsigned(parts), unsigned((num_channels + channels - 1) / channels),
                  unsigned(std::max<int64_t>(1, (num_attributes + kGradientSlots - 1) / kGradientSlots)));
  launch_kernel(weight_gradients_kernel<T>, grid, kThreads, 0, stream, p);
  const int64_t num_values = num_channels * (num_attributes + 1);
  launch_kernel(add_weight_gradients_kernel, unsigned((num_values + kSumValues - 1) / kSumValues),
                kSumValues * kSumRows, 0, stream, scratch.partials, int(parts), int(num_channels), int(num_attributes),
                rows_of<float>(op.d_w_edge), op.d_b_edge ? op.d_b_edge.as<float>() : nullptr);
}

template <class L>
void launch_backward(cudaStream_t stream, const GraphAttentionBackward& op, Tensor scratch_memory) {
  using T = typename L::T;
  constexpr int kAhead = L::kAligned ? 2 : 1, kBlocks = L::kAligned ? 4 : 3;
  ScratchPieces pieces(scratch_memory.data());
  const BackwardScratch scratch(pieces, op);
  if (op.q.rows() > 0) {
    const bool wanted = op.d_w_edge || op.d_b_edge;
    const BackwardDestinations<T> p{.in = problem_of<T>(op),
                                    .stats = rows_of<const float>(op.stats),
                                    .d_o = rows_of<const T>(op.d_o),
                                    .d_q = rows_of<T>(op.d_q),
                                    .edge_weights = reinterpret_cast<float2*>(scratch.edge_weights),
                                    .mean = wanted ? static_cast<T*>(scratch.mean) : nullptr,
                                    .d_mean = wanted ? static_cast<T*>(scratch.d_mean) : nullptr,
                                    .d_attributes = rows_of<float>(op.d_edge_attributes),
                                    .first_column = int(op.first_edge_column),
                                    .num_columns = op.d_edge_attributes ? int(op.d_edge_attributes.cols()) : 0};
    const int64_t shared_bytes =
        EdgeProjection<L>::shared_bytes(op.num_heads, p.in.num_attributes) + kWarps * DestinationWorkspace<L>::kBytes;
    launch_kernel(backward_destinations_kernel<L, kAhead, kBlocks>, resident_grid(op.q.rows(), kBlocks), kThreads,
                  shared_bytes, stream, p);
  }
  launch_weight_gradients<T>(stream, op, scratch);
  launch_sources<L, float2>(stream, op, scratch.edge_weights);
}

}  // namespace boreas::cuda::graph_attention
