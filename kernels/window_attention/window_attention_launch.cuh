// From ops to the parameters of kernels, and their launch.
#pragma once

#include <utility>

#include "kernels/cuda/kernel.cuh"
#include "kernels/window_attention/window_attention_cuda.h"
#include "kernels/window_attention/window_attention_kernels.cuh"

namespace boreas::cuda::window_attention {

/// By queries.
template <class Op>
Sizes sizes_of(const Op& op) {
  return {.num_rows = int(op.q.rows()),
          .num_columns = int(op.k.rows()),
          .shift = int(op.first_query),
          .window = int(window_of(op)),
          .num_heads = int(op.num_heads),
          .head_size = int(head_size_of(op)),
          .scale = float(scale_of(op))};
}

/// The same by keys, of those whose gradients are wanted.
template <class T>
Backward<T> by_keys(Backward<T> p, const WindowAttentionBackward& op) {
  p.n.num_columns = p.n.num_rows;
  p.n.num_rows = int(op.d_k.rows());
  p.n.shift = int(op.first_key - op.first_query);
  for (Rows<const T>* rows : {&p.k, &p.v}) rows->data += op.first_key * rows->stride;
  return p;
}

template <class T>
Rows<T> rows_of(const Tensor& tensor) {
  if (tensor.empty()) return {};
  return {tensor.as<std::remove_const_t<T>>(), tensor.row_stride()};
}

template <class T>
Forward<T> parameters_of(const WindowAttentionForward& op) {
  return {.n = sizes_of(op),
          .q = rows_of<const T>(op.q),
          .k = rows_of<const T>(op.k),
          .v = rows_of<const T>(op.v),
          .o = rows_of<T>(op.o),
          .stats = rows_of<float>(op.stats)};
}

template <class T>
Backward<T> parameters_of(const WindowAttentionBackward& op, Tensor scratch) {
  ScratchPieces pieces(scratch.data());
  const RowTerms terms(pieces, op);
  return {.n = sizes_of(op),
          .q = rows_of<const T>(op.q),
          .k = rows_of<const T>(op.k),
          .v = rows_of<const T>(op.v),
          .o = rows_of<const T>(op.o),
          .d_o = rows_of<const T>(op.d_o),
          .stats = rows_of<const float>(op.stats),
          .d_q = rows_of<T>(op.d_q),
          .d_k = rows_of<T>(op.d_k),
          .d_v = rows_of<T>(op.d_v),
          .log2_sum = terms.log2_sum,
          .mean = terms.mean,
          .padded_length = terms.padded_length};
}

/// Launches a kernel whose blocks of kThreads own `rows` rows of a head each.
template <class P>
void launch_blocks(Context& ctx, void (*kernel)(P), int rows, int shared_bytes, const P& parameters) {
  const int blocks = (parameters.n.num_rows + rows - 1) / rows * parameters.n.num_heads;
  if (blocks == 0) return;
  launch_kernel(kernel, blocks, kThreads, shared_bytes, stream_of(ctx), parameters);
}

template <class T>
void fill_row_terms(Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  const Backward<T> p = parameters_of<T>(op, scratch);
  const bool vectors = p.n.head_size % kVectorSize<T> == 0 && rows_aligned({op.o, op.d_o});
  const int pieces = p.n.head_size / (vectors ? kVectorSize<T> : 1);
  int lanes = 1;
  while (lanes < 32 && lanes < pieces) lanes *= 2;
  const int64_t blocks = (p.padded_length * p.n.num_heads * lanes + kThreads - 1) / kThreads;
  launch_kernel(vectors ? row_terms<T, true> : row_terms<T, false>, unsigned(blocks), kThreads, 0, stream_of(ctx), p,
                lanes);
}

}  // namespace boreas::cuda::window_attention
