// Attention of a sequence over itself, restricted to a window.
#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "kernels/core/fields.h"
#include "kernels/core/op.h"

namespace boreas {

/// Which CUDA kernels compute. `automatic` takes the first of hopper, tensor_cores, generic that supports the case;
/// cudnn is for comparison and taken only by name. The CPU has one version and ignores this.
enum class WindowAttentionKernel : uint8_t {
  automatic,
  hopper,        ///< wgmma and TMA: compute capability 9.0
  tensor_cores,  ///< mma.sync: bf16, head sizes up to 128
  generic,       ///< f32 or bf16, head sizes up to 256
  cudnn,         ///< the library, in builds that have it: bf16, head sizes up to 128
};
template <>
struct EnumNames<WindowAttentionKernel> {
  static constexpr std::array values{
      std::pair{WindowAttentionKernel::automatic, std::string_view("automatic")},
      std::pair{WindowAttentionKernel::hopper, std::string_view("hopper")},
      std::pair{WindowAttentionKernel::tensor_cores, std::string_view("tensor_cores")},
      std::pair{WindowAttentionKernel::generic, std::string_view("generic")},
      std::pair{WindowAttentionKernel::cudnn, std::string_view("cudnn")},
  };
};

/// Windowed self-attention, forward. For every row i and head:
///
///   o_i = sum_j alpha_ij v_j,   alpha_ij = softmax_j(scale * q_i . k_j)   over |i - j| <= window, both ends included
///
/// The window is cut off, not wrapped, at the ends of the sequence; a negative window means all j. Computed on tiles
/// with a running softmax: memory grows with S, never with S * S or S * window. Queries may be a stretch of the
/// sequence: row r of q, o and stats is i = first_query + r.
///
/// Shapes   q, o: [R, H*D], first_query + R <= S   k, v: [S, H*D]; channel index = head * D + c   stats: [R, H]
/// Types    CPU: f64 | f32; GPU: f32 | bf16; equal; stats in the accumulator type
/// Saves    stats: log sum_j exp(scale * q_i . k_j)
/// Alias    none.        Repeatable: yes, for any number of threads.
/// Errors   shape: a size disagrees, queries outside of the sequence;  invalid_argument: dtypes differ, num_heads < 1,
///          scale < 0 or not finite
///          unsupported: the device or the kernel that is demanded does not compute this type or head size
/// Source   Vaswani et al. 2017, section 3.2; running softmax: Milakov, Gimelshein 2018; tiles: Dao et al. 2022
struct WindowAttentionForward {
  static constexpr const char* name = "window_attention_forward";
  Tensor q = {}, k = {}, v = {};
  int64_t num_heads = 1;
  int64_t window = -1;      ///< < 0: global
  double scale = 0;         ///< 0: 1 / sqrt(D)
  int64_t first_query = 0;  ///< where in the sequence row 0 of q stands
  WindowAttentionKernel kernel = WindowAttentionKernel::automatic;
  Tensor o = {}, stats = {};

  void check() const;
  int64_t flops() const;
  int64_t scratch_bytes() const;
  void tensors(auto&& f) const {
    f("q", q, Access::read), f("k", k, Access::read), f("v", v, Access::read);
    f("o", o, Access::write), f("stats", stats, Access::write);
  }
};

/// Windowed self-attention, backward. With g = d_o, P recomputed tile by tile from stats:
///
///   D_i = g_i . o_i   dS_ij = P_ij (g_i . v_j - D_i)
///   d_q_i = scale * sum_j dS_ij k_j   d_k_j = scale * sum_i dS_ij q_i   d_v_j = sum_i P_ij g_i
///
/// Keys may be a stretch of the sequence too: row r of d_k and d_v is j = first_key + r. Each is a sum over the queries
/// that are given, so some keys' gradients may be made before the others'.
///
/// Shapes   as forward; d_o: [R, H*D]   d_q: [R, H*D], or empty: not wanted   d_k, d_v: [K, H*D], first_key + K <= S
/// Types    as forward
/// Writes   d_q, d_k, d_v =
/// Alias    none.        Repeatable: yes, for any number of threads (d_q by query tiles, d_k and d_v by key tiles).
/// Errors   as forward; unsupported: cudnn for a part of the gradients
struct WindowAttentionBackward {
  static constexpr const char* name = "window_attention_backward";
  Tensor q = {}, k = {}, v = {}, o = {}, stats = {};
  int64_t num_heads = 1;
  int64_t window = -1;      ///< < 0: global
  double scale = 0;         ///< 0: 1 / sqrt(D)
  int64_t first_query = 0;  ///< where in the sequence row 0 of q stands
  int64_t first_key = 0;    ///< where in the sequence row 0 of d_k and d_v stands
  WindowAttentionKernel kernel = WindowAttentionKernel::automatic;
  Tensor d_o = {}, d_q = {}, d_k = {}, d_v = {};

  void check() const;
  int64_t flops() const;
  int64_t scratch_bytes() const;
  void tensors(auto&& f) const {
    f("q", q, Access::read), f("k", k, Access::read), f("v", v, Access::read);
    f("o", o, Access::read), f("stats", stats, Access::read), f("d_o", d_o, Access::read);
    f("d_q", d_q, Access::write), f("d_k", d_k, Access::write), f("d_v", d_v, Access::write);
  }
};

namespace cpu {
int64_t scratch_bytes(const WindowAttentionForward&);
int64_t scratch_bytes(const WindowAttentionBackward&);
void launch(Backend, Context&, const WindowAttentionForward&, Tensor scratch);
void launch(Backend, Context&, const WindowAttentionBackward&, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context&, const WindowAttentionForward&, Tensor scratch);
void launch(Backend, Context&, const WindowAttentionBackward&, Tensor scratch);
}  // namespace cuda
}  // namespace boreas
