// The kernels of graph attention for any degree, one by one, with what may be chosen about them: where edges come from
// (read directly, or streamed through shared memory), edges a step, stages, vectors a lane, resident blocks, sources of
// a warp. The choices of kernels/graph_attention/graph_attention_launch.cuh and graph_attention_tiles_launch.cuh are
// held against these numbers.
#include "kernels/core/error.h"  // before all that includes fmt, which it makes right for nvcc

#include "bench/graph_attention.h"
#include "kernels/graph_attention/graph_attention_tiles_launch.cuh"

namespace boreas::bench {
namespace {

using namespace cuda::graph_attention;

using Problem = GraphAttentionProblem;
using T = bfloat16;
template <int head_size, int vectors>
using LayoutOf = Layout<T, 8, head_size / 8 / vectors, vectors, int(kMostVectorAttributes)>;

// Which problem the next kernels are run on; kernels vary fastest, because only one problem is kept.
struct Where {
  std::string graph;
  bool hilbert;
  int64_t head_size;
};

// body(stream, problem, scratch) launches the kernel; bytes(problem) is the least that it moves.
void add(const Where& where, const char* kernel, const std::string& choice, auto bytes, auto body) {
  const std::string name = fmt::format("graph_attention_tuning/gpu/{}/{}/d:{}/{}/{}", where.graph,
                                       where.hilbert ? "hilbert" : "natural", where.head_size, kernel, choice);
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 Problem& p = graph_attention_problem(where.graph, where.hilbert, where.head_size);
                                 const Scope scope(*p.ctx);
                                 ScratchPieces count;
                                 BackwardScratch(count, p.backward, kMostVectorAttributes);
                                 const Tensor memory = p.ctx->alloc(Keep::scratch, DType::u8, {count.bytes()});
                                 ScratchPieces pieces(memory.data());
                                 const BackwardScratch scratch(pieces, p.backward, kMostVectorAttributes);
                                 measure_cold(state, *p.ctx, bytes(p),
                                              [&] { body(cuda::stream_of(*p.ctx), p, scratch); });
                               })
      ->UseManualTime()
      ->Iterations(15)
      ->Unit(benchmark::kMicrosecond);
}

template <int head_size, int vectors, class Edges, int kThreads, int kBlocks>
void add_edges(const Where& where, const std::string& choice) {
  using L = LayoutOf<head_size, vectors>;
  const std::string name = fmt::format("vectors:{}/{}/blocks:{}x{}", vectors, choice, kBlocks, kThreads);
  add(
      where, "forward", name, [](const Problem& p) { return p.forward_bytes(); },
      [](cudaStream_t stream, const Problem& p, const BackwardScratch&) {
        launch_forward<L, Edges, kThreads, kBlocks>(stream, p.forward);
      });
  add(
      where, "destinations", name,
      [](const Problem& p) { return double(p.forward.q.bytes()) * 3 + double(p.forward.k.bytes()) * 2; },
      [](cudaStream_t stream, const Problem& p, const BackwardScratch& scratch) {
        launch_destinations<L, Edges, kThreads, kBlocks>(stream, p.backward, scratch, kMostVectorAttributes);
      });
}

template <int head_size, int kWarps, int kTile>
void add_tiles(const Where& where) {
  const std::string name = fmt::format("tiles:{}/warps:{}", kTile, kWarps);
  add(
      where, "forward", name, [](const Problem& p) { return p.forward_bytes(); },
      [](cudaStream_t stream, const Problem& p, const BackwardScratch&) {
        tiles::launch_forward<head_size, kWarps, kTile>(stream, p.forward);
      });
  if constexpr (kTile <= 4 && kWarps <= 12)
    add(
        where, "destinations", name,
        [](const Problem& p) { return double(p.forward.q.bytes()) * 3 + double(p.forward.k.bytes()) * 2; },
        [](cudaStream_t stream, const Problem& p, const BackwardScratch& scratch) {
          tiles::launch_destinations<head_size, kWarps, kTile>(stream, p.backward, scratch);
        });
}

template <int head_size, int kAhead, int kBlocks>
void add_sources(const Where& where) {
  using L = LayoutOf<head_size, 1>;
  for (const int64_t run : {1, 2, 3, 4, 6, 8, 16})
    add(
        where, "sources", fmt::format("ahead:{}/blocks:{}/run:{}", kAhead, kBlocks, run),
        [](const Problem& p) { return double(p.forward.q.bytes()) * 2 + double(p.forward.k.bytes()) * 2; },
        [run](cudaStream_t stream, const Problem& p, const BackwardScratch& scratch) {
          launch_sources<L, float2, kAhead, kBlocks>(stream, p.backward, scratch.edge_weights, run);
        });
}

template <int head_size>
void add_head_size(const std::string& graph, bool hilbert) {
  const Where where{graph, hilbert, head_size};
  using One = LayoutOf<head_size, 1>;
  using Two = LayoutOf<head_size, 2>;
  add_edges<head_size, 1, DirectEdges<One, 2>, 256, 2>(where, "direct:2");
  add_edges<head_size, 1, DirectEdges<One, 4>, 256, 2>(where, "direct:4");
  add_edges<head_size, 1, StreamedEdges<One, 1, 6>, 256, 2>(where, "streamed:1x6");
  add_edges<head_size, 1, StreamedEdges<One, 2, 2>, 256, 2>(where, "streamed:2x2");
  add_edges<head_size, 1, StreamedEdges<One, 2, 3>, 256, 2>(where, "streamed:2x3");
  add_edges<head_size, 1, StreamedEdges<One, 2, 3>, 128, 3>(where, "streamed:2x3");
  add_edges<head_size, 2, StreamedEdges<Two, 1, 4>, 128, 3>(where, "streamed:1x4");
  add_tiles<head_size, 12, 8>(where);
  add_tiles<head_size, 14, 4>(where);
  add_tiles<head_size, 12, 4>(where);
  add_sources<head_size, 2, 8>(where);
  add_sources<head_size, 3, 7>(where);
  add_sources<head_size, 4, 5>(where);
  for (const bool tensor_cores : {false, true})
    add(
        where, "weights", tensor_cores ? "tensor_cores" : "plain",
        [](const Problem& p) { return double(p.forward.q.bytes()) * 2; },
        [tensor_cores](cudaStream_t stream, const Problem& p, const BackwardScratch& scratch) {
          launch_weight_gradients<T>(stream, p.backward, scratch, kMostVectorAttributes, tensor_cores);
        });
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  if (boreas::num_cuda_devices() > 0) {
    for (const char* graph : {"era_to_h", "h_to_h"})
      for (const bool hilbert : {false, true}) {
        boreas::bench::add_head_size<32>(graph, hilbert);
        boreas::bench::add_head_size<64>(graph, hilbert);
      }
  }
  return boreas::bench::main(argc, argv);
}
