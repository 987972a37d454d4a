// From ops to the launches of the kernels on tensor cores for graphs of any degree.
#pragma once

#include "kernels/graph_attention/graph_attention_launch.cuh"
#include "kernels/graph_attention/graph_attention_tiles_kernels.cuh"

namespace boreas::cuda::graph_attention::tiles {

/// The rows of a tensor, from a column on.
template <class T>
SliceRows<T> slice_of(const Tensor& tensor, int64_t column = 0) {
  if (tensor.empty()) return {};
  return {tensor.as<std::remove_const_t<T>>() + column, uint32_t(tensor.row_stride() * int64_t(sizeof(T)))};
}

template <class Op>
SliceProblem slice_problem(const Op& op, int64_t first_head) {
  const int64_t channel = first_head * head_size_of(op);
  return {.num_dst = int(op.q.rows()),
          .num_heads = int(op.num_heads),
          .num_attributes = int(op.edge_attributes.cols()),
          .scale = float(scale_of(op)),
          .dst_ptr = op.graph->dst_ptr.template as<int64_t>() + op.dst().begin,
          .src_of = op.graph->src_of.template as<int32_t>(),
          .q = slice_of<const bfloat16>(op.q, channel),
          .k = slice_of<const bfloat16>(op.k, channel),
          .v = slice_of<const bfloat16>(op.v, channel),
          .attributes = slice_of<const bfloat16>(op.edge_attributes),
          .w_edge = {op.w_edge.template as<bfloat16>() + channel * op.w_edge.row_stride(),
                     uint32_t(op.w_edge.row_stride() * 2)},
          .b_edge = op.b_edge ? op.b_edge.template as<bfloat16>() + channel : nullptr};
}

/// Warps of a block, as many as shared memory holds; destinations of a tile.
inline constexpr int kForwardWarps = 12, kForwardTile = 8, kBackwardWarps = 12, kBackwardTile = 4;

/// Calls f<head size>() for the head size.
template <class F>
void dispatch_head_size(int64_t head_size, F&& f) {
  if (head_size == 32) f.template operator()<32>();
  if (head_size == 64) f.template operator()<64>();
  if (head_size == 128) f.template operator()<128>();
}

inline unsigned grid_of(int64_t num_dst, int64_t dst_of_a_block, int64_t most_blocks) {
  return unsigned(std::min((num_dst + dst_of_a_block - 1) / dst_of_a_block, most_blocks));
}

template <int D, int kWarps, int kTile>
void launch_forward(cudaStream_t stream, const GraphAttentionForward& op, int64_t most_blocks = kMultiprocessors) {
  if (op.q.rows() == 0) return;
  const int num_slices = int(op.q.cols() / kSliceChannels);
  const SliceForward p{.in = slice_problem(op, 0),
                       .num_slices = num_slices,
                       .r = slice_of<const bfloat16>(op.r),
                       .o = slice_of<bfloat16>(op.o),
                       .stats = slice_of<float>(op.stats)};
  const int64_t of_a_slice = std::max<int64_t>(most_blocks / num_slices, 1);
  launch_kernel(forward_kernel<D, kWarps, kTile>, num_slices * grid_of(op.q.rows(), kWarps * kTile, of_a_slice),
                kWarps * 32, kProjectionBytes + kWarps * kWarpBytes<kTile, 1>, stream, p);
}

template <int D, int kWarps, int kTile>
void launch_destinations(cudaStream_t stream, const GraphAttentionBackward& op, const BackwardScratch& scratch,
                         int64_t most_blocks = kMultiprocessors) {
  if (op.q.rows() == 0) return;
  const bool wanted = op.d_w_edge || op.d_b_edge;
  for (int64_t head = 0; head < op.num_heads; head += kSliceChannels / D) {
    const SliceBackward p{.in = slice_problem(op, head),
                          .stats = slice_of<const float>(op.stats, head),
                          .d_o = slice_of<const bfloat16>(op.d_o, head * D),
                          .d_q = slice_of<bfloat16>(op.d_q, head * D),
                          .edge_weights = reinterpret_cast<float2*>(scratch.edge_weights) + head,
                          .mean = wanted ? static_cast<bfloat16*>(scratch.mean) + head * kSlots : nullptr,
                          .d_mean = wanted ? static_cast<bfloat16*>(scratch.d_mean) + head * kSlots : nullptr,
                          .d_attributes = slice_of<float>(op.d_edge_attributes),
                          .first_column = int(op.first_edge_column),
                          .num_columns = op.d_edge_attributes ? int(op.d_edge_attributes.cols()) : 0};
    launch_kernel(backward_destinations_kernel<D, kWarps, kTile>, grid_of(op.q.rows(), kWarps * kTile, most_blocks),
                  kWarps * 32, kProjectionBytes + kWarps * kWarpBytes<kTile, 2>, stream, p);
  }
}

template <int D>
void launch_forward(cudaStream_t stream, const GraphAttentionForward& op) {
  launch_forward<D, kForwardWarps, kForwardTile>(stream, op);
}

template <int D>
void launch_destinations(cudaStream_t stream, const GraphAttentionBackward& op, const BackwardScratch& scratch) {
  launch_destinations<D, kBackwardWarps, kBackwardTile>(stream, op, scratch);
}

}  // namespace boreas::cuda::graph_attention::tiles
