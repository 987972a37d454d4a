#include "kernels/graph_attention/degree3.h"

namespace boreas::cuda::degree3 {

using namespace graph_attention;

namespace {

constexpr int64_t kMostAttributes = kSlots - 1, kMostSources = int64_t{1} << 30;

template <class Op>
bool supports_shape(const Op& op) {
  const int64_t head_size = head_size_of(op);
  return op.graph->fixed_degree() == 3 && op.dst().size() == op.graph->num_dst() && op.q.dtype() == DType::bf16 &&
         (head_size == 32 || head_size == 64 || head_size == 128) && op.edge_attributes.cols() <= kMostAttributes &&
         op.k.rows() <= kMostSources;
}

}  // namespace

bool supports(const GraphAttentionForward& op) {
  return supports_shape(op) && rows_are_aligned(op.q) && rows_are_aligned(op.k) && rows_are_aligned(op.v) &&
         rows_are_aligned(op.edge_attributes) && rows_are_aligned(op.r) && rows_are_aligned(op.o) &&
         may_run_hopper_kernels(op.q.device());
}

bool supports(const GraphAttentionBackward& op) {
  return supports_shape(op) && op.d_edge_attributes.cols() <= kGradientSlots && rows_are_aligned(op.q) &&
         rows_are_aligned(op.k) && rows_are_aligned(op.v) && rows_are_aligned(op.edge_attributes) &&
         rows_are_aligned(op.d_o) && rows_are_aligned(op.d_q) && may_run_hopper_kernels(op.q.device());
}

int64_t scratch_bytes(const GraphAttentionForward&) { return 0; }

int64_t scratch_bytes(const GraphAttentionBackward& op) {
  ScratchPieces pieces;
  BackwardScratch(pieces, op);
  return pieces.bytes();
}

}  // namespace boreas::cuda::degree3
