// From ops to the parameters of the kernels for graphs of any degree, and their launch.
#pragma once

#include "kernels/graph_attention/graph_attention_cuda.h"
#include "kernels/graph_attention/graph_attention_kernels.cuh"

namespace boreas::cuda::graph_attention {

/// Calls f<T>() for the storage type.
template <class F>
void dispatch_storage(DType dtype, F&& f) {
  if (dtype == DType::bf16)
    f.template operator()<bfloat16>();
  else
    f.template operator()<float>();
}

/// Calls f<Layout>() with the narrowest layout of aligned rows that holds a head.
template <class T, class F>
void dispatch_vectors(int64_t head_size, F&& f) {
  constexpr int kWidth = kVectorSize<T>, kSlots = int(kMostVectorAttributes);
  const int64_t vectors = head_size / kWidth;
  if (vectors <= 1) return f.template operator()<Layout<T, kWidth, 1, 1, kSlots>>();
  if (vectors <= 2) return f.template operator()<Layout<T, kWidth, 2, 1, kSlots>>();
  if (vectors <= 4) return f.template operator()<Layout<T, kWidth, 4, 1, kSlots>>();
  if (vectors <= 8) return f.template operator()<Layout<T, kWidth, 8, 1, kSlots>>();
  if (vectors <= 16) return f.template operator()<Layout<T, kWidth, 16, 1, kSlots>>();
  if (vectors <= 32) return f.template operator()<Layout<T, kWidth, 32, 1, kSlots>>();
  if constexpr (kWidth == 4) f.template operator()<Layout<T, kWidth, 32, 2, kSlots>>();
}

template <class T>
using GeneralLayout = Layout<T, 1, 32, int(kMostHeadSize) / 32, int(kMostAttributes)>;

template <class T>
Rows<T> rows_of(const Tensor& tensor) {
  if (tensor.empty()) return {};
  return {tensor.as<std::remove_const_t<T>>(), tensor.row_stride()};
}

template <class T, class Op>
Problem<T> problem_of(const Op& op) {
  return {.num_dst = int(op.q.rows()),
          .num_src = int(op.k.rows()),
          .num_heads = int(op.num_heads),
          .head_size = int(head_size_of(op)),
          .num_attributes = int(op.edge_attributes.cols()),
          .scale = float(scale_of(op)),
          .dst_ptr = op.graph->dst_ptr.template as<int64_t>() + op.dst().begin,
          .src_of = op.graph->src_of.template as<int32_t>(),
          .q = rows_of<const T>(op.q),
          .k = rows_of<const T>(op.k),
          .v = rows_of<const T>(op.v),
          .attributes = rows_of<const T>(op.edge_attributes),
          .w_edge = rows_of<const T>(op.w_edge),
          .b_edge = op.b_edge ? op.b_edge.template as<T>() : nullptr};
}

/// As many blocks as are resident at once, or as there is work for.
inline unsigned resident_grid(int64_t num_warps, int64_t warps_of_a_block, int64_t blocks_per_multiprocessor) {
  return unsigned(
      std::min((num_warps + warps_of_a_block - 1) / warps_of_a_block, kMultiprocessors * blocks_per_multiprocessor));
}

/// How the layouts are run: where edges come from, and how many blocks are to be resident on a multiprocessor.
template <class L, bool aligned = L::kAligned>
struct Tuning {
  static constexpr int kThreads = 256;
  using ForwardEdges = StreamedEdges<L, 2, 3>;
  using BackwardEdges = StreamedEdges<L, 2, 3>;
  // Small heads have more slots a lane, so more registers.
  static constexpr int kForwardBlocks = L::kLanes < 2 ? 1 : 2, kBackwardBlocks = L::kLanes < 4 ? 1 : 2;
  static constexpr int kSourcesAhead = L::kVectors > 1 ? 2 : 4, kSourceBlocks = 5;
};
template <class L>
struct Tuning<L, false> {
  static constexpr int kThreads = 256;
  using ForwardEdges = DirectEdges<L, 1>;
  using BackwardEdges = DirectEdges<L, 1>;
  static constexpr int kForwardBlocks = 1, kBackwardBlocks = 1;
  static constexpr int kSourcesAhead = 1, kSourceBlocks = 3;
};

template <class L, class Edges, int kThreads, int kBlocks>
void launch_forward(cudaStream_t stream, const GraphAttentionForward& op) {
  using T = typename L::T;
  constexpr int kWarps = kThreads / 32;
  if (op.q.rows() == 0) return;
  const Forward<T> p{
      .in = problem_of<T>(op), .r = rows_of<const T>(op.r), .o = rows_of<T>(op.o), .stats = rows_of<float>(op.stats)};
  const int64_t shared_bytes =
      EdgeProjection<L>::shared_bytes(op.num_heads, p.in.num_attributes) + kWarps * Edges::kSharedBytes;
  launch_kernel(forward_kernel<L, Edges, kThreads, kBlocks>, resident_grid(op.q.rows(), kWarps, kBlocks), kThreads,
                shared_bytes, stream, p);
}

template <class L>
void launch_forward(cudaStream_t stream, const GraphAttentionForward& op) {
  if constexpr (L::kWidth == 8 && L::kVectors == 1 && L::kLanes == 4) {
    // Two vectors a lane: fewer lanes share a head. Backward has no registers for that, larger heads do not gain.
    using Wide = Layout<typename L::T, L::kWidth, L::kLanes / 2, 2, L::kSlots>;
    launch_forward<Wide, StreamedEdges<Wide, 1, 4>, 128, 3>(stream, op);
  } else {
    launch_forward<L, typename Tuning<L>::ForwardEdges, Tuning<L>::kThreads, Tuning<L>::kForwardBlocks>(stream, op);
  }
}

/// The destination pass of backward.
template <class L, class Edges, int kThreads, int kBlocks>
void launch_destinations(cudaStream_t stream, const GraphAttentionBackward& op, const BackwardScratch& scratch,
                         int64_t mean_width) {
  using T = typename L::T;
  constexpr int kWarps = kThreads / 32;
  if (op.q.rows() == 0) return;
  const bool wanted = op.d_w_edge || op.d_b_edge;
  const BackwardDestinations<T> p{.in = problem_of<T>(op),
                                  .stats = rows_of<const float>(op.stats),
                                  .d_o = rows_of<const T>(op.d_o),
                                  .d_q = rows_of<T>(op.d_q),
                                  .edge_weights = reinterpret_cast<float2*>(scratch.edge_weights),
                                  .mean = wanted ? static_cast<T*>(scratch.mean) : nullptr,
                                  .d_mean = wanted ? static_cast<T*>(scratch.d_mean) : nullptr,
                                  .mean_width = int(mean_width),
                                  .d_attributes = rows_of<float>(op.d_edge_attributes),
                                  .first_column = int(op.first_edge_column),
                                  .num_columns = op.d_edge_attributes ? int(op.d_edge_attributes.cols()) : 0};
  const int64_t shared_bytes = EdgeProjection<L>::shared_bytes(op.num_heads, p.in.num_attributes) +
                               kWarps * (DestinationWorkspace<L>::kBytes + Edges::kSharedBytes);
  launch_kernel(backward_destinations_kernel<L, Edges, kThreads, kBlocks>, resident_grid(op.q.rows(), kWarps, kBlocks),
                kThreads, shared_bytes, stream, p);
}

/// Sources of a warp in the source pass: such that it has about 28 edges.
inline int64_t sources_of_a_warp(const GraphAttentionBackward& op) {
  return std::clamp<int64_t>(28 * op.k.rows() / std::max<int64_t>(op.graph->num_edges(), 1), 1, 16);
}

template <class L, class Weight, int kAhead, int kBlocks>
void launch_sources(cudaStream_t stream, const GraphAttentionBackward& op, const void* weights, int64_t run) {
  using T = typename L::T;
  const Range src = op.src();
  const int64_t num_src = src.size();
  if (num_src == 0) return;
  const BackwardSources<T, Weight> p{.num_src = int(num_src),
                                     .num_heads = int(op.num_heads),
                                     .head_size = int(head_size_of(op)),
                                     .run = int(run),
                                     .src_ptr = op.graph->src_ptr.as<int64_t>() + src.begin,
                                     .edge_of = op.graph->edge_of.as<int32_t>(),
                                     .dst_of = op.graph->dst_of.as<int32_t>(),
                                     .q = rows_of<const T>(op.q),
                                     .d_o = rows_of<const T>(op.d_o),
                                     .edge_weights = static_cast<const Weight*>(weights),
                                     .d_k = rows_of<T>(op.d_k.slice(src)),
                                     .d_v = rows_of<T>(op.d_v.slice(src))};
  const int64_t num_slices = (op.num_heads + L::kHeads - 1) / L::kHeads;
  const int64_t num_threads = (num_src + run - 1) / run * num_slices * 32;
  launch_kernel(backward_sources_kernel<L, Weight, kAhead, kBlocks>,
                unsigned((num_threads + kSourceThreads - 1) / kSourceThreads), kSourceThreads, 0, stream, p);
}

template <class L, class Weight>
void launch_sources(cudaStream_t stream, const GraphAttentionBackward& op, const void* weights) {
  const int64_t run = sources_of_a_warp(op);
  if constexpr (L::kAligned && L::kVectors == 1) {
    // Few edges a source: more warps are worth more than edges ahead.
    if (op.graph->num_edges() < 24 * op.k.rows()) return launch_sources<L, Weight, 3, 7>(stream, op, weights, run);
  }
  launch_sources<L, Weight, Tuning<L>::kSourcesAhead, Tuning<L>::kSourceBlocks>(stream, op, weights, run);
}

/// d_w_edge and d_b_edge; on tensor cores where they fit.
template <class T>
void launch_weight_gradients(cudaStream_t stream, const GraphAttentionBackward& op, const BackwardScratch& scratch,
                             int64_t mean_width, bool tensor_cores) {
  const int64_t num_dst = op.q.rows(), num_channels = op.q.cols(), num_attributes = op.edge_attributes.cols();
  if ((!op.d_w_edge && !op.d_b_edge) || num_dst == 0) return;
  const WeightGradients<T> p{.num_dst = int(num_dst),
                             .num_heads = int(op.num_heads),
                             .head_size = int(head_size_of(op)),
                             .num_attributes = int(num_attributes),
                             .mean_width = int(mean_width),
                             .dst_ptr = op.graph->dst_ptr.as<int64_t>(),
                             .q = rows_of<const T>(op.q),
                             .d_o = rows_of<const T>(op.d_o),
                             .mean = static_cast<const T*>(scratch.mean),
                             .d_mean = static_cast<const T*>(scratch.d_mean),
                             .partials = scratch.partials};
  const int64_t parts = weight_gradient_parts(num_dst);
  const auto blocks = [](int64_t count, int64_t of_a_block) { return unsigned((count + of_a_block - 1) / of_a_block); };
  bool done = false;
  if constexpr (std::is_same_v<T, bfloat16>) {
    done = tensor_cores && head_size_of(op) % 32 == 0;
    if (done)
      launch_kernel(weight_gradients_tensor_cores_kernel, dim3(unsigned(parts), blocks(num_channels, kGradientThreads)),
                    kGradientThreads, 0, stream, p);
  }
  if (!done) {
    const dim3 grid(unsigned(parts), blocks(num_channels, kGradientThreads * kGradientChannels),
                    std::max(1u, blocks(num_attributes, kGradientSlots)));
    launch_kernel(weight_gradients_kernel<T>, grid, kGradientThreads, 0, stream, p);
  }
  launch_kernel(add_weight_gradients_kernel, blocks(num_channels * (num_attributes + 1), kSumValues),
                kSumValues * kSumRows, 0, stream, scratch.partials, int(parts), int(num_channels), int(num_attributes),
                rows_of<float>(op.d_w_edge), op.d_b_edge ? op.d_b_edge.as<float>() : nullptr);
}

template <class L>
void launch_backward(cudaStream_t stream, const GraphAttentionBackward& op, Tensor scratch_memory) {
  using Pass = GraphAttentionBackward::Pass;
  const int64_t mean_width = L::kAligned ? L::kSlots : op.edge_attributes.cols();
  ScratchPieces pieces(scratch_memory.data());
  const BackwardScratch scratch(pieces, op, mean_width);
  if (op.has(Pass::destinations)) {
    launch_destinations<L, typename Tuning<L>::BackwardEdges, Tuning<L>::kThreads, Tuning<L>::kBackwardBlocks>(
        stream, op, scratch, mean_width);
    launch_weight_gradients<typename L::T>(stream, op, scratch, mean_width, L::kAligned);
  }
  if (op.has(Pass::sources)) launch_sources<L, float2>(stream, op, scratch.edge_weights);
}

}  // namespace boreas::cuda::graph_attention
