// From forward ops to the launches of the kernel on tensor cores for graphs of any degree.
#pragma once

#include "kernels/graph_attention/graph_attention_launch.cuh"
#include "kernels/graph_attention/graph_attention_tiles_kernels.cuh"

namespace boreas::cuda::graph_attention::tiles {

template <class T>
SliceRows<T> slice_rows_of(const Tensor& tensor) {
  if (tensor.empty()) return {};
  return {tensor.as<std::remove_const_t<T>>(), uint32_t(tensor.row_stride() * int64_t(sizeof(T)))};
}

/// Warps of a block, as many as shared memory and registers hold; destinations of a tile; stages of eight edges.
inline constexpr int kWarps = 10, kTile = 4, kStages = 2;

/// Calls f<head size>() for the head size.
template <class F>
void dispatch_head_size(int64_t head_size, F&& f) {
  if (head_size == 32) f.template operator()<32>();
  if (head_size == 64) f.template operator()<64>();
}

template <int D, int kWarps, int kTile, int kStages>
void launch_forward(cudaStream_t stream, const GraphAttentionForward& op, int64_t most_blocks = kMultiprocessors) {
  const int64_t num_dst = op.q.rows(), num_slices = op.q.cols() / kSliceChannels;
  if (num_dst == 0) return;
  const SliceForward p{.in = {.num_dst = int(num_dst),
                              .num_attributes = int(op.edge_attributes.cols()),
                              .scale = float(scale_of(op)),
                              .dst_ptr = op.graph->dst_ptr.as<int64_t>(),
                              .src_of = op.graph->src_of.as<int32_t>(),
                              .q = slice_rows_of<const bfloat16>(op.q),
                              .k = slice_rows_of<const bfloat16>(op.k),
                              .v = slice_rows_of<const bfloat16>(op.v),
                              .attributes = slice_rows_of<const bfloat16>(op.edge_attributes),
                              .w_edge = slice_rows_of<const bfloat16>(op.w_edge),
                              .b_edge = op.b_edge ? op.b_edge.as<bfloat16>() : nullptr},
                       .num_slices = int(num_slices),
                       .r = slice_rows_of<const bfloat16>(op.r),
                       .o = slice_rows_of<bfloat16>(op.o),
                       .stats = slice_rows_of<float>(op.stats)};
  const int64_t of_a_slice = std::max<int64_t>(most_blocks / num_slices, 1), of_a_block = kWarps * kTile;
  launch_kernel(forward_kernel<D, kWarps, kTile, kStages>,
                unsigned(num_slices * std::min((num_dst + of_a_block - 1) / of_a_block, of_a_slice)), kWarps * 32,
                kProjectionBytes + kWarps * kWarpBytes<kTile, kStages>, stream, p);
}

}  // namespace boreas::cuda::graph_attention::tiles
