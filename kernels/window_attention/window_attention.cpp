#include "kernels/window_attention/window_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"
#include "kernels/window_attention/window_attention_cuda.h"

namespace boreas {

namespace {

// What both directions share: the inputs of forward, o, and arrays like q.
template <class Op>
void check_inputs(const Op& op, std::initializer_list<std::pair<const char*, Tensor>> more) {
  check_floating(Op::name, "q", op.q);
  const DType dtype = op.q.dtype();
  BOREAS_CHECK(op.num_heads >= 1 && op.q.cols() > 0 && op.q.cols() % op.num_heads == 0, invalid_argument,
               "{}: {} heads must divide the {} channels of q", Op::name, op.num_heads, op.q.cols());
  BOREAS_CHECK(op.scale >= 0 && std::isfinite(op.scale), invalid_argument,
               "{}: scale is {}; it must be positive, or 0 for 1 / sqrt(head size)", Op::name, op.scale);
  const auto check_like_q = [&](const char* name, const Tensor& tensor) {
    check_dtype(Op::name, name, tensor, dtype);
    check_shape(Op::name, name, tensor, op.q.rows(), op.q.cols(), "q", op.q);
  };
  check_like_q("k", op.k);
  check_like_q("v", op.v);
  check_like_q("o", op.o);
  for (const auto& [name, tensor] : more) check_like_q(name, tensor);
  check_dtype(Op::name, "stats", op.stats, accumulator_of(dtype));
  check_shape(Op::name, "stats", op.stats, op.q.rows(), op.num_heads, "q", op.q);
}

// Pairs (i, j) of the sequence with |i - j| <= window.
int64_t num_pairs(int64_t length, int64_t window) {
  if (window < 0 || window >= length) return length * length;
  return length * (2 * window + 1) - window * (window + 1);
}

}  // namespace

void WindowAttentionForward::check() const { check_inputs(*this, {}); }

int64_t WindowAttentionForward::flops() const { return 4 * num_pairs(q.rows(), window) * q.cols(); }

int64_t WindowAttentionForward::scratch_bytes() const { return q.device().is_cuda() ? 0 : cpu::scratch_bytes(*this); }

void WindowAttentionBackward::check() const {
  check_inputs(*this, {{"d_o", d_o}, {"d_q", d_q}, {"d_k", d_k}, {"d_v", d_v}});
}

int64_t WindowAttentionBackward::flops() const { return 10 * num_pairs(q.rows(), window) * q.cols(); }

int64_t WindowAttentionBackward::scratch_bytes() const {
  if (!q.device().is_cuda()) return cpu::scratch_bytes(*this);
  ScratchPieces pieces;
  cuda::RowTerms(pieces, *this);
  if (kernel == WindowAttentionKernel::cudnn) pieces.take<char>(cuda::cudnn_workspace_bytes(*this));
  return pieces.bytes();
}

}  // namespace boreas
