#include "kernels/graph_attention/graph_attention_tiles.h"

namespace boreas::cuda::graph_attention::tiles {

namespace {

constexpr int64_t kSliceChannels = 256, kMostAttributes = 15, kMostRows = int64_t{1} << 30;
// A step of eight edges is full or nearly so in either version from here on, and the other has fewer instructions then.
constexpr int64_t kMostMeanDegree = 12;

bool may_run_on([[maybe_unused]] Device device) {
#ifdef BOREAS_WITH_CUDA
  return runs_on(device);
#else
  return true;
#endif
}

}  // namespace

bool supports(const GraphAttentionForward& op) {
  const int64_t head_size = head_size_of(op), num_edges = op.graph->num_edges();
  return op.q.dtype() == DType::bf16 && (head_size == 32 || head_size == 64) && op.q.cols() % kSliceChannels == 0 &&
         op.edge_attributes.cols() <= kMostAttributes && num_edges <= kMostMeanDegree * op.q.rows() &&
         num_edges <= kMostRows && op.q.rows() <= kMostRows && rows_are_aligned(op.q) && rows_are_aligned(op.k) &&
         rows_are_aligned(op.v) && rows_are_aligned(op.edge_attributes) && rows_are_aligned(op.r) &&
         rows_are_aligned(op.o) && may_run_on(op.q.device());
}

}  // namespace boreas::cuda::graph_attention::tiles
