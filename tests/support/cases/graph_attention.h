// Graph attention: the cases that the kernels for the GPU are held to, on a GPU and in the emulation.
#pragma once

#include <array>
#include <cmath>
#include <cstring>
#include <ostream>
#include <vector>

#include "kernels/graph_attention/graph_attention.h"
#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test {

struct GraphAttentionSizes {
  DType dtype;
  int64_t num_src, num_dst, mean_degree, num_heads, head_size, num_attributes;
  bool strided = false;  ///< rows of wider matrices, not aligned to 16 bytes
  bool optional = true;  ///< with r, b_edge and all gradients
  int64_t first_column = 0;
  int64_t padded_attributes = 0;  ///< columns of the array whose first ones are the attributes; 0: no more than those
};

/// A copy whose rows lie as far apart.
inline Tensor copy_like(Workspace& w, const Tensor& tensor) {
  if (tensor.contiguous()) return w.copy_of(tensor);
  const Tensor wide = w.filled(tensor.dtype(), {tensor.rows(), tensor.row_stride()}, NAN);
  const int64_t shift = tensor.row_stride() % 8 == 0 ? 0 : 2;  // aligned rows stay so
  const Tensor copy = wide.columns({shift, tensor.cols() + shift});
  for (int64_t i = 0; i < tensor.rows(); ++i)
    std::memcpy(copy.slice({i, i + 1}).data(), tensor.slice({i, i + 1}).data(),
                tensor.cols() * size_of(tensor.dtype()));
  return copy;
}

/// A forward and a backward, with all that they read and write. Copies share nothing but the graph.
struct GraphAttentionCase {
  GraphAttentionForward forward;
  GraphAttentionBackward backward;

  static GraphAttentionCase make(Workspace& w, const Graph& graph, const GraphAttentionSizes& sizes) {
    const DType dtype = sizes.dtype, sum = accumulator_of(dtype);
    const int64_t channels = sizes.num_heads * sizes.head_size, num_edges = graph.num_edges();
    const auto rows = [&](int64_t n) {
      return sizes.strided ? w.random_strided(dtype, n, channels) : w.random(dtype, {n, channels});
    };
    GraphAttentionCase out;
    Tensor attributes = w.random(dtype, {num_edges, std::max(sizes.num_attributes, sizes.padded_attributes)});
    if (sizes.padded_attributes > 0) {
      fill(attributes.columns({sizes.num_attributes, sizes.padded_attributes}), NAN);
      attributes = attributes.columns({0, sizes.num_attributes});
    }
    out.forward = {.graph = &graph,
                   .q = rows(graph.num_dst()),
                   .k = rows(graph.num_src()),
                   .v = rows(graph.num_src()),
                   .edge_attributes = attributes,
                   .w_edge = w.random(dtype, {channels, sizes.num_attributes}, 0.5),
                   .num_heads = sizes.num_heads,
                   .o = rows(graph.num_dst()),
                   .stats = w.output(sum, {graph.num_dst(), sizes.num_heads})};
    out.backward = {.graph = &graph,
                    .num_heads = sizes.num_heads,
                    .d_o = rows(graph.num_dst()),
                    .d_q = rows(graph.num_dst()),
                    .d_k = rows(graph.num_src()),
                    .d_v = rows(graph.num_src()),
                    .first_edge_column = sizes.first_column};
    if (sizes.optional) {
      out.forward.b_edge = w.random(dtype, {channels}, 0.5);
      out.forward.r = rows(graph.num_dst());
      out.backward.d_w_edge = w.random(sum, {channels, sizes.num_attributes});
      out.backward.d_b_edge = w.random(sum, {channels});
      if (sizes.num_attributes > sizes.first_column)
        out.backward.d_edge_attributes = w.random(sum, {num_edges, sizes.num_attributes - sizes.first_column});
    }
    out.share_inputs();
    return out;
  }

  /// Every tensor replaced by map(tensor).
  GraphAttentionCase mapped(const Graph& graph, auto&& map) const {
    GraphAttentionCase out = *this;
    out.forward.graph = out.backward.graph = &graph;
    for (Tensor* tensor : {&out.forward.q, &out.forward.k, &out.forward.v, &out.forward.edge_attributes,
                           &out.forward.w_edge, &out.forward.b_edge, &out.forward.r, &out.forward.o, &out.forward.stats,
                           &out.backward.d_o, &out.backward.d_q, &out.backward.d_k, &out.backward.d_v,
                           &out.backward.d_w_edge, &out.backward.d_b_edge, &out.backward.d_edge_attributes})
      if (*tensor) *tensor = map(*tensor);
    out.share_inputs();
    return out;
  }

  void run(Context& ctx) const {
    boreas::run(ctx, forward);
    boreas::run(ctx, backward);
  }

  struct Result {
    const char* name;
    Tensor tensor;
    bool stored;  ///< in the storage type
  };
  std::array<Result, 8> results() const {
    return {{{"o", forward.o, true},
             {"stats", forward.stats, false},
             {"d_q", backward.d_q, true},
             {"d_k", backward.d_k, true},
             {"d_v", backward.d_v, true},
             {"d_w_edge", backward.d_w_edge, false},
             {"d_b_edge", backward.d_b_edge, false},
             {"d_edge_attributes", backward.d_edge_attributes, false}}};
  }

 private:
  void share_inputs() {
    backward.q = forward.q, backward.k = forward.k, backward.v = forward.v, backward.scale = forward.scale;
    backward.edge_attributes = forward.edge_attributes, backward.w_edge = forward.w_edge;
    backward.b_edge = forward.b_edge, backward.stats = forward.stats;
  }
};

/// Forward of some destinations, with the rows of k and v that their edges do not need set to NaN: on ranks these may
/// not have arrived. On the host, in its own memory; o and stats are the rows of these destinations.
inline GraphAttentionForward forward_of_some(Workspace& w, const Graph& graph, const GraphAttentionCase& inputs,
                                             Range destinations) {
  GraphAttentionForward op = inputs.forward;
  op.graph = &graph;
  op.destinations = destinations;
  op.k = copy_like(w, op.k), op.v = copy_like(w, op.v), op.o = copy_like(w, op.o), op.stats = w.copy_of(op.stats);
  for (Tensor* rows : {&op.q, &op.r, &op.o, &op.stats})
    if (*rows) *rows = rows->slice(destinations);
  std::vector<bool> is_needed(size_t(graph.num_src()));
  const int64_t* const dst_ptr = graph.dst_ptr.as<int64_t>();
  for (int64_t m = dst_ptr[destinations.begin]; m < dst_ptr[destinations.end]; ++m)
    is_needed[size_t(graph.src_of.as<int32_t>()[m])] = true;
  for (int64_t j = 0; j < graph.num_src(); ++j)
    for (const Tensor* rows : {&op.k, &op.v})
      if (!is_needed[size_t(j)]) fill(rows->slice({j, j + 1}), NAN);
  return op;
}

/// Holds its results against those of the whole.
inline void expect_like_whole(Range destinations, const Tensor& o, const Tensor& stats, const Tensor& whole_o,
                              const Tensor& whole_stats) {
  EXPECT_LE(relative_error(o, whole_o.slice(destinations), 0.1), 4e-3);
  EXPECT_LE(relative_error(stats, whole_stats.slice(destinations), 0.1), 2e-3);
}

/// The results of `actual`, brought to the host by `fetch`, against the same case in f64 on the CPU.
inline void expect_like_double(Workspace& w, const Graph& graph, const GraphAttentionCase& inputs,
                               const GraphAttentionCase& actual, auto&& fetch) {
  const GraphAttentionCase oracle = inputs.mapped(graph, [&](const Tensor& t) { return w.copy_of(t, DType::f64); });
  oracle.run(w.ctx);
  const bool bf16 = inputs.forward.q.dtype() == DType::bf16;
  const auto expected = oracle.results();
  const auto results = actual.results();
  for (size_t x = 0; x < results.size(); ++x) {
    if (!results[x].tensor || expected[x].tensor.size() == 0) continue;
    SCOPED_TRACE(results[x].name);
    // Sums that cancel, as those of scores at degree 1 do, are compared with the size of what is summed.
    const double floor = 0.1 * std::sqrt(double(expected[x].tensor.size()));
    const double tolerance = !bf16 ? 5e-6 : results[x].stored ? 4e-3 : 2e-3;
    EXPECT_LE(relative_error(fetch(results[x].tensor), expected[x].tensor, floor), tolerance);
  }
}

/// Every layout, with rows that are aligned and not; numbers of attributes, degrees, options; quick enough for the
/// emulation.
inline std::vector<GraphAttentionSizes> small_graph_attention_cases(DType dtype) {
  std::vector<GraphAttentionSizes> out;
  for (const int64_t head_size : {8, 16, 24, 32, 40, 64, 128, 256}) {
    out.push_back({dtype, 9, 7, 3, 3, head_size, 11, false, true, 3, 16});
    out.push_back({dtype, 7, 6, 2, 2, head_size, 11, true, true, 3});
  }
  for (const int64_t num_attributes : {0, 1, 7, 8, 15, 16, 17, 40})
    out.push_back(
        {dtype, 7, 6, 3, 5, 32, num_attributes, false, true, num_attributes / 2, (num_attributes + 7) / 8 * 8});
  out.push_back({dtype, 30, 2, 60, 9, 32, 11, false, true, 3, 16});  // more edges than lanes
  out.push_back({dtype, 30, 2, 50, 2, 64, 11, true, true, 3});
  out.push_back({dtype, 2, 40, 2, 16, 32, 11, false, true, 3, 16});   // many edges out of few sources
  out.push_back({dtype, 60, 9, 3, 16, 64, 11, false, false, 0, 16});  // most sources without edges; no options
  out.push_back({dtype, 7, 6, 3, 3, 32, 11, false, true, 11, 16});    // no gradient of attributes
  out.push_back({dtype, 7, 6, 3, 3, 20, 11, false, true, 3});         // head size not a multiple of 8
  out.push_back({dtype, 1, 1, 1, 1, 8, 1, false, true, 0, 8});
  return out;
}

/// The same, and sizes that fill a GPU.
inline std::vector<GraphAttentionSizes> graph_attention_cases(DType dtype) {
  std::vector<GraphAttentionSizes> out = small_graph_attention_cases(dtype);
  for (const int64_t head_size : {16, 32, 64, 192})
    for (const bool strided : {false, true})
      out.push_back({dtype, 9000, 7000, 4, 4, head_size, 11, strided, true, 3, strided ? 0 : 16});
  out.push_back({dtype, 300, 5, 400, 16, 32, 11, false, true, 3, 16});
  out.push_back({dtype, 3, 4000, 3, 16, 32, 11, false, true, 3, 16});
  out.push_back({dtype, 20000, 3000, 5, 16, 64, 11, false, true, 3, 16});
  return out;
}

inline std::ostream& operator<<(std::ostream& out, const GraphAttentionSizes& sizes) {
  return out << to_string(sizes.dtype) << ", " << sizes.num_heads << " heads of " << sizes.head_size << ", "
             << sizes.num_attributes << " attributes, degree " << sizes.mean_degree << ", " << sizes.num_dst
             << " destinations" << (sizes.strided ? ", strided" : "") << (sizes.optional ? "" : ", no options");
}

/// Very sharp softmax over neighbours whose values v_j + e_ij are equal, so that d_q and d_k cancel.
inline GraphAttentionCase sharp_graph_attention(Workspace& w, const Graph& graph, const GraphAttentionSizes& sizes) {
  GraphAttentionCase out = GraphAttentionCase::make(w, graph, sizes);
  const Tensor &v = out.forward.v, &attributes = out.forward.edge_attributes;
  const int64_t element = size_of(sizes.dtype);
  for (int64_t j = 1; j < v.rows(); ++j) std::memcpy(v.slice({j, j + 1}).data(), v.data(), v.cols() * element);
  for (int64_t m = 1; m < attributes.rows(); ++m)
    std::memcpy(attributes.slice({m, m + 1}).data(), attributes.data(), attributes.cols() * element);
  out.forward.scale = out.backward.scale = 50 / std::sqrt(double(sizes.head_size));
  return out;
}

/// Expects that they do: at most 1e-3 of max|d_o| max|k| scale, or max|q|.
inline void expect_no_gradient_of_scores(const GraphAttentionCase& c, auto&& fetch) {
  const auto largest = [&](const Tensor& tensor) {
    double most = 0;
    for (const double x : values_of(fetch(tensor))) most = std::max(most, std::abs(x));
    return most;
  };
  const double unit = largest(c.backward.d_o) * c.forward.scale;
  EXPECT_LE(largest(c.backward.d_q), 1e-3 * unit * largest(c.forward.k));
  EXPECT_LE(largest(c.backward.d_k), 1e-3 * unit * largest(c.forward.q));
  EXPECT_GT(largest(c.backward.d_v), 0.1);
}

inline Graph random_graph(const GraphAttentionSizes& sizes) {
  const RandomEdges edges = random_edges(sizes.num_src, sizes.num_dst, sizes.mean_degree);
  return Graph::from_sorted(edges.num_src, edges.num_dst, edges.dst_ptr, edges.src_of);
}

}  // namespace boreas::test
