#include "kernels/window_attention/window_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"
#include "kernels/window_attention/window_attention_cuda.h"

namespace boreas {

namespace {

using NamedTensors = std::initializer_list<std::pair<const char*, Tensor>>;

// What both directions share: the inputs of forward, o, and arrays by query.
template <class Op>
void check_inputs(const Op& op, NamedTensors by_query) {
  check_floating(Op::name, "q", op.q);
  const DType dtype = op.q.dtype();
  BOREAS_CHECK(op.num_heads >= 1 && op.q.cols() > 0 && op.q.cols() % op.num_heads == 0, invalid_argument,
               "{}: {} heads must divide the {} channels of q", Op::name, op.num_heads, op.q.cols());
  BOREAS_CHECK(op.scale >= 0 && std::isfinite(op.scale), invalid_argument,
               "{}: scale is {}; it must be positive, or 0 for 1 / sqrt(head size)", Op::name, op.scale);
  const auto check_rows = [&](const char* name, const Tensor& tensor, const Tensor& like, const char* like_name) {
    check_dtype(Op::name, name, tensor, dtype);
    check_shape(Op::name, name, tensor, like.rows(), op.q.cols(), like_name, like);
  };
  check_rows("k", op.k, op.k, "q");
  BOREAS_CHECK(op.first_query >= 0 && op.first_query + op.q.rows() <= op.k.rows(), shape,
               "{}: {} queries from position {} do not lie in a sequence of {}", Op::name, op.q.rows(), op.first_query,
               op.k.rows());
  BOREAS_CHECK(op.q.rows() > 0 || op.k.rows() == 0, shape, "{}: no queries for a sequence of {}", Op::name,
               op.k.rows());
  check_rows("v", op.v, op.k, "k");
  check_rows("o", op.o, op.q, "q");
  for (const auto& [name, tensor] : by_query) check_rows(name, tensor, op.q, "q");
  check_dtype(Op::name, "stats", op.stats, accumulator_of(dtype));
  check_shape(Op::name, "stats", op.stats, op.q.rows(), op.num_heads, "q", op.q);
}

// Pairs of a query i and a position j of `keys` with |i - j| <= window.
template <class Op>
int64_t num_pairs(const Op& op, Range keys) {
  const int64_t first = op.first_query, end = first + op.q.rows(), window = op.window;
  if (window < 0) return op.q.rows() * keys.size();
  // Those with j < limit: of query i as many as limit - (i - window), at least none, at most 2 window + 1.
  const auto triangle = [](int64_t n) { return n > 0 ? n * (n + 1) / 2 : 0; };
  const auto up_to = [&](int64_t limit) {
    const auto clipped = [&](int64_t most) { return triangle(most) - triangle(most - (end - first)); };
    return clipped(limit - first + window) - clipped(limit - first - window - 1);
  };
  return up_to(keys.end) - up_to(keys.begin);
}

}  // namespace

void WindowAttentionForward::check() const { check_inputs(*this, {}); }

int64_t WindowAttentionForward::flops() const { return 4 * num_pairs(*this, {0, k.rows()}) * q.cols(); }

int64_t WindowAttentionForward::scratch_bytes() const { return q.device().is_cuda() ? 0 : cpu::scratch_bytes(*this); }

void WindowAttentionBackward::check() const {
  check_inputs(*this, {{"d_o", d_o}, {"d_q", d_q ? d_q : q}});
  for (const auto& [gradient, tensor] : {std::pair("d_k", d_k), std::pair("d_v", d_v)}) {
    check_dtype(name, gradient, tensor, q.dtype());
    check_shape(name, gradient, tensor, d_k.rows(), k.cols(), "k", k);
  }
  BOREAS_CHECK(first_key >= 0 && first_key + d_k.rows() <= k.rows(), shape,
               "{}: gradients of {} keys from position {} do not lie in a sequence of {}", name, d_k.rows(), first_key,
               k.rows());
}

int64_t WindowAttentionBackward::flops() const {
  const int64_t by_queries = d_q ? num_pairs(*this, {0, k.rows()}) : 0;
  return (6 * by_queries + 4 * num_pairs(*this, {first_key, first_key + d_k.rows()})) * q.cols();
}

int64_t WindowAttentionBackward::scratch_bytes() const {
  if (!q.device().is_cuda()) return cpu::scratch_bytes(*this);
  ScratchPieces pieces;
  cuda::RowTerms(pieces, *this);
  if (kernel == WindowAttentionKernel::cudnn) pieces.take<char>(cuda::cudnn_workspace_bytes(*this));
  return pieces.bytes();
}

}  // namespace boreas
