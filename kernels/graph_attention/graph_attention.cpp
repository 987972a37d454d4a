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
  check_rows(Op::name, "q", op.q, op.dst().size(), "destinations");
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
void check_graph(const Op& op) {
  BOREAS_CHECK(op.graph && op.graph->dst_ptr, invalid_argument, "{}: there is no graph", Op::name);
}

void check_range(const char* op, const char* name, Range range, int64_t size) {
  BOREAS_CHECK(range.begin >= 0 && range.begin <= range.end && range.end <= size, shape,
               "{}: {} {} to {} are not among the {} of the graph", op, name, range.begin, range.end, size);
}

/// The part of `value` that belongs to some of n nodes.
int64_t share(int64_t value, Range nodes, int64_t n) {
  return n > 0 ? int64_t(double(value) * double(nodes.size()) / double(n)) : 0;
}

template <class Op>
int64_t forward_flops(const Op& op) {
  const int64_t num_edges = share(op.graph->num_edges(), op.dst(), op.graph->num_dst());
  const int64_t num_attributes = op.edge_attributes.cols();
  return 4 * num_edges * (op.q.cols() + op.num_heads * num_attributes) + 4 * op.q.size() * num_attributes;
}

/// Of the source pass: each edge adds to d_k and to d_v.
int64_t source_flops(const GraphAttentionBackward& op) { return 4 * op.graph->num_edges() * op.q.cols(); }

}  // namespace

void GraphAttentionForward::check() const {
  check_graph(*this);
  check_range(name, "destinations", destinations, graph->num_dst());
  check_inputs(*this, "o", o);
  if (!r) return;
  check_dtype(name, "r", r, q.dtype());
  check_shape(name, "r", r, q.rows(), q.cols(), "q", q);
}

int64_t GraphAttentionForward::flops() const { return forward_flops(*this); }

int64_t GraphAttentionForward::bytes() const {
  const int64_t by_node =
      k.bytes() + v.bytes() + edge_attributes.bytes() + graph->dst_ptr.bytes() + graph->src_of.bytes();
  return q.bytes() + r.bytes() + o.bytes() + stats.bytes() + w_edge.bytes() + b_edge.bytes() +
         share(by_node, dst(), graph->num_dst());
}

void GraphAttentionBackward::check() const {
  check_graph(*this);
  check_range(name, "sources", sources, graph->num_src());
  check_inputs(*this, "d_o", d_o);
  if (pass != Pass::both)
    BOREAS_CHECK(workspace.dtype() == DType::u8 && workspace.bytes() >= workspace_bytes(), invalid_argument,
                 "{}: a pass needs the workspace of the op, of {} bytes; it is {}", name, workspace_bytes(),
                 to_string(workspace));
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
  const int64_t all =
      forward_flops(*this) * 5 / 2 + 2 * d_w_edge.size() * q.rows() + 4 * d_edge_attributes.size() * num_heads;
  if (pass == Pass::both) return all;
  if (pass == Pass::destinations) return all - source_flops(*this);
  return share(source_flops(*this), src(), graph->num_src());
}

int64_t GraphAttentionBackward::bytes() const {
  int64_t destination_bytes = 0;
  for (const Tensor* tensor :
       {&q, &k, &v, &edge_attributes, &w_edge, &b_edge, &stats, &d_o, &d_q, &graph->dst_ptr, &graph->src_of})
    destination_bytes += tensor->bytes();
  for (const Tensor* tensor : {&d_w_edge, &d_b_edge, &d_edge_attributes}) destination_bytes += 2 * tensor->bytes();
  int64_t source_bytes = 0;
  for (const Tensor* tensor : {&d_k, &d_v, &graph->src_ptr, &graph->edge_of, &graph->dst_of})
    source_bytes += tensor->bytes();
  return (has(Pass::destinations) ? destination_bytes : 0) +
         (has(Pass::sources) ? share(source_bytes, src(), graph->num_src()) : 0);
}

}  // namespace boreas
