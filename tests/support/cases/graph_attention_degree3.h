// Graph attention with three edges into every destination: what its tests on the GPU, and of emulated kernels, compute.
#pragma once

#include "kernels/core/rng.h"
#include "tests/support/cases/graph_attention.h"

namespace boreas::test {

struct Degree3Sizes {
  const char* name;
  int64_t num_dst, num_src, num_heads, head_size, num_attributes, first_column, num_gradients;
  bool strided = false;  ///< rows of wider matrices, still aligned to 16 bytes
  bool optional = true;  ///< with r, b_edge and all gradients
  bool scattered =
      true;  ///< sources at random, so that tiles have many; or destinations beside each other share theirs
};

/// Every head size, more heads than a launch takes, tiles that are split, and destinations that do not fill one.
/// `num_dst` scales all.
inline std::vector<Degree3Sizes> degree3_cases(int64_t num_dst) {
  return {
      {"heads of 32, as in models", num_dst, 9, 16, 32, 11, 3, 8, false, true, false},
      {"heads of 32, scattered", num_dst + 7, 3 * num_dst, 4, 32, 11, 3, 8, true},
      {"heads of 64, two launches", num_dst + 1, 11, 16, 64, 11, 3, 8, true, true, false},
      {"heads of 64, without options", num_dst + 3, 30, 3, 64, 11, 3, 8, false, false},
      {"heads of 128, two launches", num_dst - 4, 20, 6, 128, 15, 8, 7, true},
      {"two sources", num_dst - 7, 2, 2, 32, 4, 0, 4},
      {"one destination, no attributes", 1, 2, 1, 32, 0, 0, 0},
      {"a slice of five heads", num_dst, 20, 15, 64, 1, 0, 1},
  };
}

inline Graph degree3_graph(const Degree3Sizes& sizes) {
  const Philox random(17, 0);
  std::vector<int64_t> dst_ptr(sizes.num_dst + 1);
  std::vector<int32_t> src_of(3 * sizes.num_dst);
  for (int64_t i = 0; i <= sizes.num_dst; ++i) dst_ptr[i] = 3 * i;
  for (int64_t m = 0; m < 3 * sizes.num_dst; ++m) {
    const int64_t i = m / 3, near = i * sizes.num_src / sizes.num_dst + m % 3;
    src_of[m] = sizes.scattered ? int32_t(random.uniform(uint64_t(m)) * double(sizes.num_src))
                                : int32_t(std::min(near, sizes.num_src - 1));
  }
  return Graph::from_sorted(sizes.num_src, sizes.num_dst, dst_ptr, src_of);
}

inline GraphAttentionCase degree3_case(Workspace& w, const Graph& graph, const Degree3Sizes& sizes) {
  const auto dtype = DType::bf16;
  GraphAttentionCase out = GraphAttentionCase::make(w, graph,
                                                    {.dtype = dtype,
                                                     .num_heads = sizes.num_heads,
                                                     .head_size = sizes.head_size,
                                                     .num_attributes = sizes.num_attributes,
                                                     .optional = sizes.optional,
                                                     .first_column = sizes.first_column,
                                                     .padded_attributes = sizes.num_attributes > 0 ? 16 : 0});
  if (Tensor& d = out.backward.d_edge_attributes) d = w.random(DType::f32, {graph.num_edges(), sizes.num_gradients});
  if (!sizes.strided) return out;
  return out.mapped(graph, [&](const Tensor& tensor) {
    if (tensor.dtype() != dtype || tensor.cols() != out.forward.q.cols() || tensor.rows() <= 1) return tensor;
    const Tensor wide = w.filled(dtype, {tensor.rows(), tensor.cols() + 24}, NAN).columns({8, tensor.cols() + 8});
    for (int64_t i = 0; i < tensor.rows(); ++i)
      std::memcpy(wide.slice({i, i + 1}).data(), tensor.slice({i, i + 1}).data(), tensor.cols() * size_of(dtype));
    return wide;
  });
}

inline void expect_identical(const GraphAttentionCase& a, const GraphAttentionCase& b, auto&& fetch) {
  for (size_t x = 0; x < a.results().size(); ++x) {
    if (!a.results()[x].tensor) continue;
    EXPECT_TRUE(identical(fetch(a.results()[x].tensor), fetch(b.results()[x].tensor))) << a.results()[x].name;
  }
}

/// Scores 50 times as large as usual, and v_j + e_m the same for all edges.
inline GraphAttentionCase sharp_degree3_case(Workspace& w, const Graph& graph, const Degree3Sizes& sizes) {
  GraphAttentionCase out = degree3_case(w, graph, sizes);
  out.forward.scale = out.backward.scale = 50 / std::sqrt(double(sizes.head_size));
  for (const Tensor& same : {out.forward.v, out.forward.edge_attributes})
    for (int64_t i = 1; i < same.rows(); ++i)
      std::memcpy(same.slice({i, i + 1}).data(), same.slice({0, 1}).data(), same.cols() * size_of(same.dtype()));
  return out;
}

/// |d_q| and |d_k| at most 1e-3 of max |d_o| max |k| / sqrt(head size), or max |d_o| max |q| / sqrt(head size).
inline void expect_vanishing_gradients(const GraphAttentionCase& c, auto&& fetch) {
  const auto largest = [&](const Tensor& tensor) {
    double most = 0;
    for (const double x : values_of(fetch(tensor))) most = std::isfinite(x) ? std::max(most, std::abs(x)) : INFINITY;
    return most;
  };
  const double unit = largest(c.backward.d_o) / std::sqrt(double(c.forward.q.cols() / c.forward.num_heads));
  EXPECT_LE(largest(c.backward.d_q), 1e-3 * unit * largest(c.forward.k));
  EXPECT_LE(largest(c.backward.d_k), 1e-3 * unit * largest(c.forward.q));
}

}  // namespace boreas::test
