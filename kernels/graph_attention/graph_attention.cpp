#include "kernels/graph_attention/graph_attention.h"

#include <cmath>

#include "kernels/core/check.h"

namespace boreas {

namespace {

void check_rows(const char* op, const char* name, const Tensor& tensor, int64_t rows, const char* what) {
  BOREAS_CHECK(!tensor.empty() && tensor.rows() == rows, shape,
               "{}: {} is {} but must have {} rows, the {} of the graph", op, name, to_string(tensor), rows, what);
}

// What both directions share: the inputs of forward, and an array like o (o itself, or d_o).
template <class Op>
void check_inputs(const Op& op, const char* out_name, const Tensor& out) {
  BOREAS_CHECK(op.graph && op.graph->dst_ptr, invalid_argument, "{}: there is no graph", Op::name);
  check_floating(Op::name, "q", op.q);
  const DType dtype = op.q.dtype();
  const int64_t num_channels = op.q.cols();
  BOREAS_CHECK(op.num_heads >= 1 && num_channels > 0 && num_channels % op.num_heads == 0, invalid_argument,
               "{}: {} heads must divide the {} channels of q", Op::name, op.num_heads, num_channels);
  BOREAS_CHECK(op.scale >= 0 && std::isfinite(op.scale), invalid_argument,
               "{}: scale is {}; it must be positive, or 0 for 1 / sqrt(head size)", Op::name, op.scale);
  for (const auto& [name, tensor] : {std::pair("k", op.k), std::pair("v", op.v), std::pair(out_name, out),
                                     std::pair("edge_attributes", op.edge_attributes), std::pair("w_edge", op.w_edge)})
    check_dtype(Op::name, name, tensor, dtype);
  check_rows(Op::name, "q", op.q, op.graph->num_dst(), "destinations");
  check_rows(Op::name, "k", op.k, op.graph->num_src(), "sources");
  check_rows(Op::name, "edge_attributes", op.edge_attributes, op.graph->num_edges(), "edges");
  check_shape(Op::name, "k", op.k, op.k.rows(), num_channels, "q", op.q);
  check_shape(Op::name, "v", op.v, op.k.rows(), num_channels, "k", op.k);
  check_shape(Op::name, "w_edge", op.w_edge, num_channels, op.edge_attributes.cols(), "edge_attributes",
              op.edge_attributes);
  check_shape(Op::name, out_name, out, op.q.rows(), num_channels, "q", op.q);
  check_dtype(Op::name, "stats", op.stats, accumulator_of(dtype));
  check_shape(Op::name, "stats", op.stats, op.q.rows(), op.num_heads, "q", op.q);
  if (op.b_edge) {
    check_dtype(Op::name, "b_edge", op.b_edge, dtype);
    check_vector(Op::name, "b_edge", op.b_edge, num_channels, "q", op.q);
  }
}

template <class Op>
int64_t forward_flops(const Op& op) {
  const int64_t num_edges = op.graph->num_edges(), num_attributes = op.edge_attributes.cols();
  return 4 * num_edges * (op.q.cols() + op.num_heads * num_attributes) + 4 * op.q.size() * num_attributes;
}

}  // namespace

void GraphAttentionForward::check() const {
  check_inputs(*this, "o", o);
  if (!r) return;
  check_dtype(name, "r", r, q.dtype());
  check_shape(name, "r", r, q.rows(), q.cols(), "q", q);
}

int64_t GraphAttentionForward::flops() const { return forward_flops(*this); }

void GraphAttentionBackward::check() const {
  check_inputs(*this, "d_o", d_o);
  for (const auto& [gradient_name, gradient, input_name, input] :
       {std::tuple("d_q", d_q, "q", q), std::tuple("d_k", d_k, "k", k), std::tuple("d_v", d_v, "v", v)}) {
    check_dtype(name, gradient_name, gradient, q.dtype());
    check_shape(name, gradient_name, gradient, input.rows(), input.cols(), input_name, input);
  }
  if (d_w_edge) {
    check_dtype(name, "d_w_edge", d_w_edge, accumulator_of(q.dtype()));
    check_shape(name, "d_w_edge", d_w_edge, w_edge.rows(), w_edge.cols(), "w_edge", w_edge);
  }
  if (d_b_edge) {
    check_dtype(name, "d_b_edge", d_b_edge, accumulator_of(q.dtype()));
    check_vector(name, "d_b_edge", d_b_edge, q.cols(), "q", q);
  }
  if (d_edge_attributes) {
    check_dtype(name, "d_edge_attributes", d_edge_attributes, accumulator_of(q.dtype()));
    check_rows(name, "d_edge_attributes", d_edge_attributes, graph->num_edges(), "edges");
    BOREAS_CHECK(first_edge_column >= 0 && first_edge_column + d_edge_attributes.cols() <= edge_attributes.cols(),
                 shape, "{}: d_edge_attributes is {} and starts at column {}, but edge_attributes is {}", name,
                 to_string(d_edge_attributes), first_edge_column, to_string(edge_attributes));
  }
}

// Scores again, p, d_q, d_k, d_v: 2.5 times forward; d_w_edge and d_edge_attributes come on top.
int64_t GraphAttentionBackward::flops() const {
  return forward_flops(*this) * 5 / 2 + 2 * d_w_edge.size() * q.rows() + 4 * d_edge_attributes.size() * num_heads;
}

}  // namespace boreas
