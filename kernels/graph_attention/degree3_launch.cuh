// From ops to the launches of the kernels for three edges into every destination.
#pragma once

#include "kernels/graph_attention/degree3.h"
#include "kernels/graph_attention/degree3_kernels.cuh"

namespace boreas::cuda::degree3 {

inline constexpr int64_t kMostSharedBytes = 227 << 10;  // of a block, on Hopper

/// The rows of a tensor, from a column on.
template <class T>
Rows<T> rows_of(const Tensor& tensor, int64_t column = 0) {
  if (tensor.empty()) return {};
  return {tensor.as<std::remove_const_t<T>>() + column, tensor.row_stride()};
}

template <class Op>
Inputs inputs_of(const Op& op, int64_t first_head, int64_t num_heads, int64_t first_gradient) {
  const int64_t head_size = graph_attention::head_size_of(op), channel = first_head * head_size;
  return {.src_of = op.graph->src_of.template as<int32_t>(),
          .num_dst = op.q.rows(),
          .q = rows_of<const bfloat16>(op.q, channel),
          .k = rows_of<const bfloat16>(op.k, channel),
          .v = rows_of<const bfloat16>(op.v, channel),
          .attributes = rows_of<const bfloat16>(op.edge_attributes),
          .w_edge = {op.w_edge.template as<bfloat16>() + channel * op.w_edge.row_stride(), op.w_edge.row_stride()},
          .b_edge = op.b_edge ? op.b_edge.template as<bfloat16>() + channel : nullptr,
          .num_attributes = int(op.edge_attributes.cols()),
          .first_gradient = int(first_gradient),
          .num_heads = int(num_heads),
          .num_stages = 0,
          .scale = float(graph_attention::scale_of(op))};
}

template <int D, class P>
void launch_attend(cudaStream_t stream, int64_t num_blocks, P p) {
  const Layout<P> layout(p.in.num_heads, D, p.second.data != nullptr);
  p.in.num_stages = std::min<int>(kMostStages, (kMostSharedBytes - kBarrierBytes) / layout.stage);
  launch_kernel(attend<D, P>, unsigned(num_blocks), unsigned(p.in.num_heads + p.in.num_stages) * 32,
                kBarrierBytes + int64_t(p.in.num_stages) * layout.stage, stream, p);
}

/// Calls f<head size>(first head, number of heads) for each slice.
template <class Op, class F>
void for_slices(const Op& op, F&& f) {
  const int64_t head_size = graph_attention::head_size_of(op), num_heads = slice_heads(op.num_heads, head_size);
  for (int64_t first = 0; first < op.num_heads; first += num_heads) {
    if (head_size == 32) f.template operator()<32>(first, num_heads);
    if (head_size == 64) f.template operator()<64>(first, num_heads);
    if (head_size == 128) f.template operator()<128>(first, num_heads);
  }
}

inline void launch_forward(cudaStream_t stream, const GraphAttentionForward& op, int64_t num_blocks) {
  for_slices(op, [&]<int D>(int64_t first, int64_t num_heads) {
    launch_attend<D>(stream, num_blocks,
                     Forward{.in = inputs_of(op, first, num_heads, 0),
                             .second = rows_of<const bfloat16>(op.r, first * D),
                             .result = rows_of<bfloat16>(op.o, first * D),
                             .stats = rows_of<float>(op.stats, first)});
  });
}

/// All but d_k and d_v; leaves the weights of the edges. The scratch memory is for at least as many blocks.
inline void launch_destination_pass(cudaStream_t stream, const GraphAttentionBackward& op,
                                    const BackwardScratch& scratch, int64_t num_blocks) {
  for_slices(op, [&]<int D>(int64_t first, int64_t num_heads) {
    const Backward p{.in = inputs_of(op, first, num_heads, op.first_edge_column),
                     .second = rows_of<const bfloat16>(op.d_o, first * D),
                     .result = rows_of<bfloat16>(op.d_q, first * D),
                     .weights = {scratch.edge_weights + first, op.num_heads},
                     .d_attributes = rows_of<float>(op.d_edge_attributes),
                     .num_gradients = int(op.d_edge_attributes.cols()),
                     .partials = scratch.partials};
    launch_attend<D>(stream, num_blocks, p);
    if (!op.d_w_edge && !op.d_b_edge) return;
    const int num_channels = int(num_heads) * D;
    Rows<float> d_w_edge = rows_of<float>(op.d_w_edge);
    if (d_w_edge.data) d_w_edge.data += first * D * d_w_edge.stride;
    launch_kernel(add_weight_gradients, dim3((num_channels + kSumColumns - 1) / kSumColumns, kSlots),
                  dim3(kSumColumns, kSumRows), 0, stream, p.in, p.partials, int(num_blocks), num_channels, d_w_edge,
                  op.d_b_edge ? op.d_b_edge.as<float>() + first * D : nullptr);
  });
}

}  // namespace boreas::cuda::degree3
