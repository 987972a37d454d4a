#include "kernels/window_attention/window_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/check.h"
#include "kernels/window_attention/window_attention_cuda.h"

namespace boreas {

namespace {

using NamedTensors = std::initializer_list<std::pair<const char*, Tensor>>;

// What both directions share: the inputs of forward, o, and arrays by query and by key.
template <class Op>
void check_inputs(const Op& op, NamedTensors by_query, NamedTensors by_key) {
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
  for (const auto& [name, tensor] : by_key) check_rows(name, tensor, op.k, "k");
  check_dtype(Op::name, "stats", op.stats, accumulator_of(dtype));
  check_shape(Op::name, "stats", op.stats, op.q.rows(), op.num_heads, "q", op.q);
}

// Pairs of a query i and a position j with |i - j| <= window.
template <class Op>
int64_t num_pairs(const Op& op) {
  const int64_t rows = op.q.rows(), length = op.k.rows(), window = op.window;
  if (window < 0) return rows * length;
  const auto triangle = [](int64_t n) { return n > 0 ? n * (n + 1) / 2 : 0; };
  // What the ends of the sequence cut off: window - i before it, for each i, and the like behind it.
  const int64_t after = length - op.first_query - rows;
  const int64_t before_cut = triangle(window - op.first_query) - triangle(window - op.first_query - rows);
  const int64_t after_cut = triangle(window - after) - triangle(window - after - rows);
  return rows * (2 * window + 1) - before_cut - after_cut;
}

}  // namespace

void WindowAttentionForward::check() const { check_inputs(*this, {}, {}); }

int64_t WindowAttentionForward::flops() const { return 4 * num_pairs(*this) * q.cols(); }

int64_t WindowAttentionForward::scratch_bytes() const { return q.device().is_cuda() ? 0 : cpu::scratch_bytes(*this); }

void WindowAttentionBackward::check() const {
  check_inputs(*this, {{"d_o", d_o}, {"d_q", d_q}}, {{"d_k", d_k}, {"d_v", d_v}});
}

int64_t WindowAttentionBackward::flops() const { return 10 * num_pairs(*this) * q.cols(); }

int64_t WindowAttentionBackward::scratch_bytes() const {
  if (!q.device().is_cuda()) return cpu::scratch_bytes(*this);
  ScratchPieces pieces;
  cuda::RowTerms(pieces, *this);
  if (kernel == WindowAttentionKernel::cudnn) pieces.take<char>(cuda::cudnn_workspace_bytes(*this));
  return pieces.bytes();
}

}  // namespace boreas
