// Attention of the destinations of a graph over their incoming edges.
#pragma once

#include "kernels/core/op.h"
#include "kernels/graph/graph.h"

namespace boreas {

/// Graph attention with edge attributes, forward. For every destination i and head h, over the edges m = (j -> i):
///
///   e_m   = W_h a_m + b_h                                  (edge attributes enter keys and values)
///   s_m   = scale * q_i . (k_j + e_m),    alpha = softmax over the edges that end in i
///   o_i   = r_i + sum_m alpha_m (v_j + e_m)                (r_i alone, or 0 without r, where no edge ends)
///
/// computed without ever forming e, the array of edges x channels, from
///
///   s_m - const_i = scale * (q_i . k_j + (W_h^T q_i) . a_m),   o_i = r_i + sum_m alpha_m v_j + W_h (sum_m alpha_m a_m)
///   + b_h
///
/// where const_i = scale * q_i . b_h does not depend on the edge and cancels in the softmax.
///
/// Shapes   q, r, o: [N_dst, H*D]   k, v: [N_src, H*D]   edge_attributes: [M, A], in the graph's edge order
///          w_edge: [H*D, A]   b_edge: [H*D]   stats: [N_dst, H]; channel index = head * D + c
///          b_edge and r may be empty; of some destinations: q, r, o and stats are their rows alone
/// Types    f64 | f32 on the CPU, f32 | bf16 on CUDA, equal; stats in the accumulator type. On CUDA D <= 256, A <= 64
/// Saves    stats: log sum_m exp(s_m - const_i), 0 where no edge ends
/// Alias    o may be r.        Repeatable: yes.
/// Errors   shape: a size disagrees;  invalid_argument: no graph, dtypes differ, num_heads < 1, scale < 0 or not finite
///          unsupported: type, head size or number of attributes that CUDA has no kernel for
/// Source   Shi et al. 2021 (UniMP), equations 3 and 4
struct GraphAttentionForward {
  static constexpr const char* name = "graph_attention_forward";
  const Graph* graph = nullptr;
  Tensor q = {}, k = {}, v = {}, edge_attributes = {}, w_edge = {}, b_edge = {}, r = {};
  int64_t num_heads = 1;
  double scale = 0;  ///< 0: 1 / sqrt(D)
  Range destinations =
      {};  ///< that attend; none: all. Rows of k and v from which none of their edges comes are not read
  Tensor o = {}, stats = {};

  Range dst() const { return destinations.size() > 0 ? destinations : Range{0, graph->num_dst()}; }
  void check() const;
  int64_t flops() const;
  int64_t bytes() const;  ///< of k, v and the edges the share of the destinations
  int64_t scratch_bytes() const;
  void tensors(auto&& f) const {
    f("q", q, Access::read), f("k", k, Access::read), f("v", v, Access::read);
    f("edge_attributes", edge_attributes, Access::read), f("w_edge", w_edge, Access::read);
    f("b_edge", b_edge, Access::read), f("r", r, Access::read);
    f("o", o, Access::write), f("stats", stats, Access::write);
    if (graph) f("dst_ptr", graph->dst_ptr, Access::read), f("src_of", graph->src_of, Access::read);
  }
};

/// Graph attention with edge attributes, backward. With g = d_o:
///
///   p_m  = g_i . v_j + (W_h^T g_i) . a_m              (the part g_i . b_h is the same for all edges of i and cancels)
///   dS_m = alpha_m (p_m - sum_m' alpha_m' p_m')       (never from g_i . o_i: a rounded o would spoil a sharp softmax)
///   d_q_i = scale * sum_m dS_m k_j + scale * W_h (sum_m dS_m a_m)
///   d_k_j = scale * sum_{m leaves j} dS_m q_i           d_v_j = sum_{m leaves j} alpha_m g_i
///   d_W_h += sum_i g_i (sum_m alpha_m a_m)^T + scale * q_i (sum_m dS_m a_m)^T     d_b_h += sum over i with edges of
///   g_i d_a_m = sum_h alpha_m W_h^T g_i + scale * dS_m W_h^T q_i
///
/// Shapes   as forward; d_q, d_o: [N_dst, H*D]   d_k, d_v: [N_src, H*D]   d_w_edge: [H*D, A]   d_b_edge: [H*D]
///          d_edge_attributes: [M, n], columns first_edge_column .. first_edge_column + n of the attributes
///          d_w_edge, d_b_edge, d_edge_attributes may be empty
/// Types    as forward; stats, d_w_edge, d_b_edge and d_edge_attributes in the accumulator type
/// Writes   d_w_edge, d_b_edge, d_edge_attributes +=; the others =
/// Alias    none.        Repeatable: yes; on the CPU d_w_edge and d_b_edge depend on the number of threads by rounding.
/// Scratch  alpha and scale * dS per edge and head: the source pass then has no dot products
/// Passes   Where gradients of some sources are wanted before those of others, the same op runs several times, with a
///          workspace that the caller lends for all of them: once for `destinations`, which gives all but d_k and d_v,
///          then for ranges of `sources`. Together they give to the bit what `both` gives at once.
/// Errors   as forward;  invalid_argument: a pass without its workspace
struct GraphAttentionBackward {
  static constexpr const char* name = "graph_attention_backward";
  const Graph* graph = nullptr;
  Tensor q = {}, k = {}, v = {}, edge_attributes = {}, w_edge = {}, b_edge = {};
  int64_t num_heads = 1;
  double scale = 0;  ///< 0: 1 / sqrt(D)
  Tensor stats = {}, d_o = {};
  Tensor d_q = {}, d_k = {}, d_v = {}, d_w_edge = {}, d_b_edge = {}, d_edge_attributes = {};
  int64_t first_edge_column = 0;
  enum class Pass : uint8_t { both, destinations, sources };
  Pass pass = Pass::both;
  Range sources = {};     ///< of that pass; none: all
  Tensor workspace = {};  ///< u8 [workspace_bytes()], for an op in passes

  Range dst() const { return {0, graph->num_dst()}; }
  bool has(Pass wanted) const { return pass == Pass::both || pass == wanted; }
  Range src() const { return sources.size() > 0 ? sources : Range{0, graph->num_src()}; }
  void check() const;
  int64_t flops() const;
  int64_t bytes() const;  ///< of a pass: those of both add up to what the op moves at once
  int64_t scratch_bytes() const { return pass == Pass::both ? workspace_bytes() : 0; }
  int64_t workspace_bytes() const;
  void tensors(auto&& f) const {
    f("q", q, Access::read), f("k", k, Access::read), f("v", v, Access::read);
    f("edge_attributes", edge_attributes, Access::read), f("w_edge", w_edge, Access::read);
    f("b_edge", b_edge, Access::read), f("stats", stats, Access::read), f("d_o", d_o, Access::read);
    f("d_q", d_q, Access::write), f("d_k", d_k, Access::write), f("d_v", d_v, Access::write);
    f("d_w_edge", d_w_edge, Access::update), f("d_b_edge", d_b_edge, Access::update);
    f("d_edge_attributes", d_edge_attributes, Access::update);
    if (graph) {
      f("dst_ptr", graph->dst_ptr, Access::read), f("src_of", graph->src_of, Access::read);
      f("src_ptr", graph->src_ptr, Access::read), f("edge_of", graph->edge_of, Access::read);
      f("dst_of", graph->dst_of, Access::read);
    }
    f("workspace", workspace, Access::write);
  }
};

namespace cpu {
void launch(Backend, Context&, const GraphAttentionForward&, Tensor scratch);
void launch(Backend, Context&, const GraphAttentionBackward&, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context&, const GraphAttentionForward&, Tensor scratch);
void launch(Backend, Context&, const GraphAttentionBackward&, Tensor scratch);
}  // namespace cuda
}  // namespace boreas
