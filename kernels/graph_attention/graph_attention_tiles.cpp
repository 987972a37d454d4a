#include "kernels/graph_attention/graph_attention_tiles.h"

namespace boreas::cuda::graph_attention::tiles {

namespace {

constexpr int64_t kSliceChannels = 256, kMostAttributes = 15, kMostRows = int64_t{1} << 30;
// A step of eight edges is full or nearly so in either version from here on, and the other has fewer instructions then.
constexpr int64_t kMostMeanDegree = 12;

template <class Op>
bool supports_inputs(const Op& op) {
  const int64_t head_size = head_size_of(op), num_edges = op.graph->num_edges();
  return op.q.dtype() == DType::bf16 && (head_size == 32 || head_size == 64 || head_size == 128) &&
         op.q.cols() % kSliceChannels == 0 && op.edge_attributes.cols() <= kMostAttributes &&
         num_edges <= kMostMeanDegree * op.graph->num_dst() && num_edges <= kMostRows && op.q.rows() <= kMostRows &&
         rows_are_aligned(op.q) && rows_are_aligned(op.k) && rows_are_aligned(op.v) &&
         rows_are_aligned(op.edge_attributes);
}

}  // namespace

bool supports(const GraphAttentionForward& op) {
  return supports_inputs(op) && rows_are_aligned(op.r) && rows_are_aligned(op.o) &&
         may_run_hopper_kernels(op.q.device());
}
bool supports(const GraphAttentionBackward& op) {
  return supports_inputs(op) && rows_are_aligned(op.d_o) && rows_are_aligned(op.d_q) && rows_are_aligned(op.d_k) &&
         rows_are_aligned(op.d_v) && may_run_hopper_kernels(op.q.device());
}

}  // namespace boreas::cuda::graph_attention::tiles
