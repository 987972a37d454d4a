// Launches the Hopper kernels of one shape.
#pragma once

#include <algorithm>

#include "kernels/cuda/kernel.cuh"
#include "kernels/window_attention/window_attention_cuda.h"
#include "kernels/window_attention/window_attention_sm90_backward.cuh"
#include "kernels/window_attention/window_attention_sm90_forward.cuh"

namespace boreas::cuda::sm90 {

/// Rows in tiles of `rows`.
template <class Op>
Band band_of(const Op& op, int rows, int64_t num_rows, int64_t num_columns, int64_t shift) {
  return {.num_rows = int(num_rows),
          .num_columns = int(num_columns),
          .shift = int(shift),
          .num_heads = int(op.num_heads),
          .window = int(window_of(op)),
          .num_tiles = int((num_rows + rows - 1) / rows * op.num_heads)};
}

/// As many blocks as run at once take all tiles in turn.
template <class C, class... P>
void launch_persistent(Context& ctx, void (*kernel)(P...), int num_tiles, const std::type_identity_t<P>&... arguments) {
  const int num_blocks = std::min(num_multiprocessors(ctx.device()), num_tiles);
  launch_kernel(kernel, dim3(num_blocks), dim3(C::kThreads), C::kSharedBytes, stream_of(ctx), arguments...);
}

template <class C>
void launch_forward(Context& ctx, const WindowAttentionForward& op) {
  using Layout = typename C::Layout;
  const ForwardParams params{.band = band_of(op, C::kRows, op.q.rows(), op.k.rows(), op.first_query),
                             .log2_scale = float(scale_of(op) * kLog2E),
                             .stats = op.stats.as<float>(),
                             .stats_stride = op.stats.row_stride()};
  const auto map = [&](const Tensor& tensor, int rows) {
    return tensor_map<Layout::kPanel>(tensor, op.num_heads, rows);
  };
  launch_persistent<C>(ctx, forward_kernel<C>, params.band.num_tiles, map(op.q, 64), map(op.k, C::kKeys),
                       map(op.v, C::kKeys), map(op.o, 64), params);
}

/// By queries: d_q; by keys: d_k and d_v of those that are wanted.
template <class C>
void launch_backward(Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  if (C::kByKeys ? op.d_k.rows() == 0 : op.d_q.empty()) return;
  using Layout = typename C::Layout;
  ScratchPieces pieces(scratch.data());
  const RowTerms terms(pieces, op);
  const BackwardParams params{
      .band = C::kByKeys ? band_of(op, C::kRows, op.d_k.rows(), op.q.rows(), op.first_key - op.first_query)
                         : band_of(op, C::kRows, op.q.rows(), op.k.rows(), op.first_query),
      .log2_scale = float(scale_of(op) * kLog2E),
      .scale = float(scale_of(op)),
      .log2_sum = terms.log2_sum,
      .mean = terms.mean,
      .padded_length = terms.padded_length};
  const auto map = [&](const Tensor& tensor, int rows) {
    return tensor_map<Layout::kPanel>(tensor, op.num_heads, rows);
  };
  const auto launch = [&](const Tensor& a1, const Tensor& a2, const Tensor& b1, const Tensor& b2, const Tensor& out1,
                          const Tensor& out2) {
    launch_persistent<C>(ctx, backward_kernel<C>, params.band.num_tiles, map(a1, 64), map(a2, 64), map(b1, C::kStep),
                         map(b2, C::kStep), map(out1, 64), map(out2, 64), params);
  };
  const Range wanted{op.first_key, op.first_key + op.d_k.rows()};
  if constexpr (C::kByKeys)
    launch(op.k.slice(wanted), op.v.slice(wanted), op.q, op.d_o, op.d_k, op.d_v);
  else
    launch(op.q, op.d_o, op.k, op.v, op.d_q, op.d_q);
}

/// The tile shapes of each head size.
template <int kHeadSize>
struct Shapes;
template <>
struct Shapes<32> {
  using Forward = ForwardShape<32, 3, 128, 4, true>;
  using ByQueries = BackwardShape<false, 32, 3, 64, 4>;
  using ByKeys = BackwardShape<true, 32, 3, 64, 4>;
};
template <>
struct Shapes<64> {
  using Forward = ForwardShape<64, 3, 128, 3, true>;
  using ByQueries = BackwardShape<false, 64, 2, 128, 2>;
  using ByKeys = BackwardShape<true, 64, 2, 64, 3, true>;
};
template <>
struct Shapes<128> {
  using Forward = ForwardShape<128, 2, 128, 2>;
  using ByQueries = BackwardShape<false, 128, 2, 64, 2>;
  using ByKeys = BackwardShape<true, 128, 2, 32, 4>;
};

template <class F>
void with_shapes(int64_t head_size, F&& f) {
  switch (head_size) {
    case 32:
      return f.template operator()<Shapes<32>>();
    case 64:
      return f.template operator()<Shapes<64>>();
    default:
      return f.template operator()<Shapes<128>>();
  }
}

inline void launch_hopper(Context& ctx, const WindowAttentionForward& op) {
  with_shapes(head_size_of(op), [&]<class S>() { launch_forward<typename S::Forward>(ctx, op); });
}

/// Row terms must be in the scratch memory.
inline void launch_hopper(Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  with_shapes(head_size_of(op), [&]<class S>() {
    launch_backward<typename S::ByQueries>(ctx, op, scratch);
    launch_backward<typename S::ByKeys>(ctx, op, scratch);
  });
}

}  // namespace boreas::cuda::sm90
