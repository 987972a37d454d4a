#include "kernels/graph_attention/graph_attention_cuda.h"

#ifdef BOREAS_WITH_CUDA
#define BOREAS_LAUNCHER(function) function
#else
#define BOREAS_LAUNCHER(function) nullptr
#endif

namespace boreas::cuda {

namespace graph_attention {

namespace {

// A block keeps W_edge in shared memory, besides what its warps need for themselves.
constexpr int64_t kMostWeightBytes = 128 << 10;

template <class Op>
bool supports_shape(const Op& op, int64_t most_attributes) {
  return (op.q.dtype() == DType::f32 || op.q.dtype() == DType::bf16) && head_size_of(op) <= kMostHeadSize &&
         op.edge_attributes.cols() <= most_attributes;
}

template <class Op>
bool supports_vectors_of(const Op& op) {
  const int64_t element = size_of(op.q.dtype()), head_size = head_size_of(op);
  // Lanes of a head are a power of two, so less than twice as many channels as there are.
  return supports_shape(op, kMostVectorAttributes) && head_size % 8 == 0 &&
         2 * op.q.cols() * op.edge_attributes.cols() * element <= kMostWeightBytes && rows_are_aligned(op.q) &&
         rows_are_aligned(op.k) && rows_are_aligned(op.v) && rows_are_aligned(op.edge_attributes) &&
         rows_are_aligned(op.b_edge);
}

int64_t no_scratch(const GraphAttentionForward&) { return 0; }

int64_t backward_scratch(const GraphAttentionBackward& op) {
  ScratchPieces pieces;
  BackwardScratch(pieces, op);
  return pieces.bytes();
}

}  // namespace

bool supports_vectors(const GraphAttentionForward& op) {
  return supports_vectors_of(op) && rows_are_aligned(op.r) && rows_are_aligned(op.o);
}
bool supports_vectors(const GraphAttentionBackward& op) {
  return supports_vectors_of(op) && rows_are_aligned(op.d_o) && rows_are_aligned(op.d_q) && rows_are_aligned(op.d_k) &&
         rows_are_aligned(op.d_v);
}
bool supports_general(const GraphAttentionForward& op) { return supports_shape(op, kMostAttributes); }
bool supports_general(const GraphAttentionBackward& op) { return supports_shape(op, kMostAttributes); }

}  // namespace graph_attention

namespace {

using namespace graph_attention;

constexpr GraphAttentionVersion<GraphAttentionForward> kForwardVersions[] = {
    {"vectors", supports_vectors, no_scratch, BOREAS_LAUNCHER(launch_vectors)},
    {"general", supports_general, no_scratch, BOREAS_LAUNCHER(launch_general)},
};
constexpr GraphAttentionVersion<GraphAttentionBackward> kBackwardVersions[] = {
    {"vectors", supports_vectors, backward_scratch, BOREAS_LAUNCHER(launch_vectors)},
    {"general", supports_general, backward_scratch, BOREAS_LAUNCHER(launch_general)},
};

template <class Op>
const GraphAttentionVersion<Op>& first_that_supports(std::span<const GraphAttentionVersion<Op>> versions,
                                                     const Op& op) {
  for (const auto& version : versions)
    if (version.supports(op)) return version;
  BOREAS_FAIL(unsupported,
              "{} on CUDA takes f32 or bf16, heads of up to {} channels and up to {} edge attributes; q is {} in {} "
              "heads, edge_attributes is {}",
              Op::name, kMostHeadSize, kMostAttributes, to_string(op.q), op.num_heads, to_string(op.edge_attributes));
}

}  // namespace

std::span<const GraphAttentionVersion<GraphAttentionForward>> graph_attention_forward_versions() {
  return kForwardVersions;
}
std::span<const GraphAttentionVersion<GraphAttentionBackward>> graph_attention_backward_versions() {
  return kBackwardVersions;
}

const GraphAttentionVersion<GraphAttentionForward>& version_for(const GraphAttentionForward& op) {
  return first_that_supports(graph_attention_forward_versions(), op);
}
const GraphAttentionVersion<GraphAttentionBackward>& version_for(const GraphAttentionBackward& op) {
  return first_that_supports(graph_attention_backward_versions(), op);
}

}  // namespace boreas::cuda
