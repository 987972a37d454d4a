#include "kernels/graph_attention/degree3.h"
#include "kernels/graph_attention/graph_attention_tiles.h"

#include <bit>

#ifdef BOREAS_WITH_CUDA
#define BOREAS_LAUNCHER(function) function
#else
#define BOREAS_LAUNCHER(function) nullptr
#endif

namespace boreas::cuda {

namespace graph_attention {

namespace {

template <class Op>
bool supports_shape(const Op& op, int64_t most_attributes) {
  return (op.q.dtype() == DType::f32 || op.q.dtype() == DType::bf16) && head_size_of(op) <= kMostHeadSize &&
         op.edge_attributes.cols() <= most_attributes;
}

// Shared memory of a block: W_edge, for whole slices of heads, and what its warps need for themselves. A little more
// than the kernels take.
template <class Op>
int64_t shared_bytes_of(const Op& op) {
  constexpr int64_t kWarpsOfBlock = 8, kEdgesAhead = 8;
  const int64_t vectors = head_size_of(op) * size_of(op.q.dtype()) / 16;
  const int64_t lanes = std::min<int64_t>(int64_t(std::bit_ceil(uint64_t(vectors))), 32), heads = 32 / lanes;
  const int64_t row_bytes = 512 * ((vectors + lanes - 1) / lanes), num_slices = (op.num_heads + heads - 1) / heads;
  return num_slices * op.edge_attributes.cols() * row_bytes +
         kWarpsOfBlock * (heads * (32 * 8 + 2 * kMostVectorAttributes * 4) + kEdgesAhead * (2 * row_bytes + 64));
}

template <class Op>
bool supports_vectors_of(const Op& op) {
  constexpr int64_t kMostSharedBytes = 220 << 10;
  return supports_shape(op, kMostVectorAttributes) && head_size_of(op) % 8 == 0 &&
         shared_bytes_of(op) <= kMostSharedBytes && rows_are_aligned(op.q) && rows_are_aligned(op.k) &&
         rows_are_aligned(op.v) && rows_are_aligned(op.edge_attributes) && rows_are_aligned(op.b_edge);
}

int64_t no_scratch(const GraphAttentionForward&) { return 0; }

int64_t vectors_scratch(const GraphAttentionBackward& op) {
  ScratchPieces pieces;
  BackwardScratch(pieces, op, kMostVectorAttributes);
  return pieces.bytes();
}
int64_t general_scratch(const GraphAttentionBackward& op) {
  ScratchPieces pieces;
  BackwardScratch(pieces, op, op.edge_attributes.cols());
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
    {"degree3", degree3::supports, degree3::scratch_bytes, BOREAS_LAUNCHER(degree3::launch)},
    {"tiles", tiles::supports, no_scratch, BOREAS_LAUNCHER(tiles::launch)},
    {"vectors", supports_vectors, no_scratch, BOREAS_LAUNCHER(launch_vectors)},
    {"general", supports_general, no_scratch, BOREAS_LAUNCHER(launch_general)},
};
constexpr GraphAttentionVersion<GraphAttentionBackward> kBackwardVersions[] = {
    {"degree3", degree3::supports, degree3::scratch_bytes, BOREAS_LAUNCHER(degree3::launch)},
    {"tiles", tiles::supports, vectors_scratch, BOREAS_LAUNCHER(tiles::launch)},
    {"vectors", supports_vectors, vectors_scratch, BOREAS_LAUNCHER(launch_vectors)},
    {"general", supports_general, general_scratch, BOREAS_LAUNCHER(launch_general)},
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
