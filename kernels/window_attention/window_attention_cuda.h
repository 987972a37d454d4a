// What the CUDA versions of windowed attention share: their table, and numbers of each row that backward prepares.
#pragma once

#include <cmath>

#include "kernels/core/scratch.h"
#include "kernels/window_attention/window_attention.h"

namespace boreas::cuda {

/// One row of the table of versions: the first that supports the op launches it.
template <class Op>
struct WindowAttentionVersion {
  WindowAttentionKernel kernel;
  bool (*supports)(const Op&);
  void (*launch)(Context&, const Op&, Tensor scratch);
};

/// For mma.sync.
bool window_attention_supported_tensor_cores(const WindowAttentionForward&);
bool window_attention_supported_tensor_cores(const WindowAttentionBackward&);
void window_attention_tensor_cores(Context&, const WindowAttentionForward&, Tensor scratch);
void window_attention_tensor_cores(Context&, const WindowAttentionBackward&, Tensor scratch);

/// For Hopper.
bool window_attention_supported_sm90(const WindowAttentionForward&);
bool window_attention_supported_sm90(const WindowAttentionBackward&);
void window_attention_sm90(Context&, const WindowAttentionForward&, Tensor scratch);
void window_attention_sm90(Context&, const WindowAttentionBackward&, Tensor scratch);

/// The scratch memory of backward in every version, filled before a version is launched. [H, padded length], by query:
/// a tile of up to kPadding rows may start at any of them; rows beyond hold values that make P and dS vanish.
struct RowTerms {
  static constexpr int64_t kPadding = 128;
  int64_t padded_length;
  float* log2_sum;  ///< stats * log2(e); beyond the queries: infinite
  float* mean;      ///< D = g . o; beyond the queries: 0

  RowTerms(ScratchPieces& pieces, const WindowAttentionBackward& op)
      : padded_length((op.q.rows() + kPadding - 1) / kPadding * kPadding + kPadding),
        log2_sum(pieces.take<float>(op.num_heads * padded_length)),
        mean(pieces.take<float>(op.num_heads * padded_length)) {}
};

/// By cuDNN, in builds that have it.
void window_attention_cudnn(Context&, const WindowAttentionForward&, Tensor scratch);
void window_attention_cudnn(Context&, const WindowAttentionBackward&, Tensor scratch);

/// An upper bound, beyond the row terms, of the scratch memory that cuDNN asks for in backward of one head, known
/// without a GPU: dS of all pairs in bf16, which is how it avoids atomics on Hopper; D of all rows in f32; and a little
/// for what else it may keep. (In forward it computes in the room that a context has for libraries.)
inline int64_t cudnn_workspace_bytes(const WindowAttentionBackward& op) {
  const int64_t padded = (op.q.rows() + 127) / 128 * 128;
  return 2 * padded * padded + 4 * padded + (int64_t{1} << 20);
}

template <class Op>
int64_t head_size_of(const Op& op) {
  return op.q.cols() / op.num_heads;
}

template <class Op>
double scale_of(const Op& op) {
  return op.scale > 0 ? op.scale : 1 / std::sqrt(double(head_size_of(op)));
}

/// The half width of the window, where a global one is as wide as the sequence.
template <class Op>
int64_t window_of(const Op& op) {
  return op.window < 0 || op.window > op.k.rows() ? op.k.rows() : op.window;
}

/// Whether rows of all these tensors start at multiples of 16 bytes.
inline bool rows_aligned(std::initializer_list<Tensor> tensors) {
  for (const Tensor& tensor : tensors) {
    const int64_t stride = tensor.rows() <= 1 ? 0 : tensor.row_stride() * size_of(tensor.dtype());
    if (reinterpret_cast<uintptr_t>(tensor.data()) % 16 != 0 || stride % 16 != 0) return false;
  }
  return true;
}

}  // namespace boreas::cuda
