// Graph attention on the graphs of a global model, on the GPU: what its benches time, and how.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <memory>
#include <numbers>
#include <numeric>
#include <string>
#include <vector>

#include "bench/grids.h"
#include "bench/kernels/bench_support.h"
#include "kernels/graph_attention/graph_attention_cuda.h"
#include "models/mesh/build.h"

namespace boreas::bench {

/// Place of every node along a Hilbert curve over the six faces of a cube.
inline std::vector<int32_t> hilbert_order(const NodeSet& nodes) {
  constexpr int kBits = 13;
  std::vector<int64_t> key(nodes.size());
  for (int64_t i = 0; i < nodes.size(); ++i) {
    const double cos = std::cos(nodes.latitudes[i]);
    const double p[3] = {cos * std::cos(nodes.longitudes[i]), cos * std::sin(nodes.longitudes[i]),
                         std::sin(nodes.latitudes[i])};
    int axis = 0;
    for (int a = 1; a < 3; ++a)
      if (std::abs(p[a]) > std::abs(p[axis])) axis = a;
    const auto cell = [&](double x) {
      const double along = (std::atan(x / std::abs(p[axis])) * 4 / std::numbers::pi + 1) / 2;
      return std::clamp<int64_t>(int64_t(along * (1 << kBits)), 0, (1 << kBits) - 1);
    };
    int64_t x = cell(p[(axis + 1) % 3]), y = cell(p[(axis + 2) % 3]), distance = 2 * axis + (p[axis] < 0);
    for (int64_t side = int64_t{1} << (kBits - 1); side > 0; side /= 2) {
      const int64_t right = (x & side) != 0, upper = (y & side) != 0;
      distance = 4 * distance + ((3 * right) ^ upper);
      if (upper == 0) {
        if (right == 1) x = ~x & ((int64_t{1} << kBits) - 1), y = ~y & ((int64_t{1} << kBits) - 1);
        std::swap(x, y);
      }
    }
    key[i] = distance;
  }
  std::vector<int32_t> order(nodes.size()), place(nodes.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](int32_t i) { return key[i]; });
  for (size_t at = 0; at < order.size(); ++at) place[order[at]] = int32_t(at);
  return place;
}

/// Encoder, processor and decoder between N320 and an icosahedron refined six times, with nodes in their own order or
/// along Hilbert curves.
inline const Graph& global_graph(const std::string& name, bool hilbert) {
  static std::map<std::string, Graph> graphs;
  if (graphs.empty()) {
    const auto degrees = [](std::vector<double> radians) {
      for (double& value : radians) value *= 180 / std::numbers::pi;
      return radians;
    };
    const NodeSet grid = n320_nodes(kDataNodes);
    GraphConfig config;
    config.hidden.level = 6;
    const GraphData data = build_graph(config, degrees(grid.latitudes), degrees(grid.longitudes));
    const struct {
      const char *name, *src, *dst;
    } sets[] = {{"era_to_h", kDataNodes, kHiddenNodes},
                {"h_to_h", kHiddenNodes, kHiddenNodes},
                {"h_to_era", kHiddenNodes, kDataNodes}};
    for (const auto& set : sets) {
      const NodeSet &src = data.node_set(set.src), &dst = data.node_set(set.dst);
      const EdgeSet& edges = data.edge_set(set.src, set.dst);
      for (const bool along_curve : {false, true}) {
        std::vector<int32_t> src_of = edges.src_of, dst_of = edges.dst_of;
        if (along_curve) {
          const std::vector<int32_t> src_place = hilbert_order(src), dst_place = hilbert_order(dst);
          for (int32_t& j : src_of) j = src_place[j];
          for (int32_t& i : dst_of) i = dst_place[i];
        }
        const SortedEdges sorted = sort_by_destination(src.size(), dst.size(), src_of, dst_of);
        const Graph graph = Graph::from_sorted(src.size(), dst.size(), sorted.dst_ptr, sorted.src_of);
        graphs.emplace(fmt::format("{}{}", set.name, along_curve), graph.to(Device::cuda(0), Stream(Device::cuda(0))));
      }
    }
  }
  return graphs.at(fmt::format("{}{}", name, hilbert));
}

/// A forward and a backward with 16 heads, 11 edge attributes in padded rows and 8 of them trainable, in bf16; without
/// r, as others compute it.
struct GraphAttentionProblem {
  Bench data{Device::cuda(0)};
  GraphAttentionForward forward;
  GraphAttentionBackward backward;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Context> ctx;

  GraphAttentionProblem(const Graph& graph, int64_t head_size) {
    constexpr int64_t kHeads = 16, kAttributes = 11, kPadded = 16, kTrainable = 8;
    constexpr DType kType = DType::bf16;
    const int64_t channels = kHeads * head_size, num_dst = graph.num_dst(), num_src = graph.num_src();
    forward = {.graph = &graph,
               .q = data.random(kType, {num_dst, channels}),
               .k = data.random(kType, {num_src, channels}),
               .v = data.random(kType, {num_src, channels}),
               .edge_attributes = data.random(kType, {graph.num_edges(), kPadded}).columns({0, kAttributes}),
               .w_edge = data.random(kType, {channels, kAttributes}),
               .b_edge = data.random(kType, {channels}),
               .num_heads = kHeads,
               .o = data.zeros(kType, {num_dst, channels}),
               .stats = data.zeros(DType::f32, {num_dst, kHeads})};
    backward = {.graph = &graph,
                .q = forward.q,
                .k = forward.k,
                .v = forward.v,
                .edge_attributes = forward.edge_attributes,
                .w_edge = forward.w_edge,
                .b_edge = forward.b_edge,
                .num_heads = kHeads,
                .stats = forward.stats,
                .d_o = data.random(kType, {num_dst, channels}),
                .d_q = data.zeros(kType, {num_dst, channels}),
                .d_k = data.zeros(kType, {num_src, channels}),
                .d_v = data.zeros(kType, {num_src, channels}),
                .d_w_edge = data.zeros(DType::f32, {channels, kAttributes}),
                .d_b_edge = data.zeros(DType::f32, {channels}),
                .d_edge_attributes = data.zeros(DType::f32, {graph.num_edges(), kTrainable}),
                .first_edge_column = kAttributes - kTrainable};
    int64_t scratch_bytes = 0;
    for (const auto& version : cuda::graph_attention_forward_versions())
      if (version.supports(forward)) scratch_bytes = std::max(scratch_bytes, version.scratch_bytes(forward));
    for (const auto& version : cuda::graph_attention_backward_versions())
      if (version.supports(backward)) scratch_bytes = std::max(scratch_bytes, version.scratch_bytes(backward));
    arena = std::make_unique<Arena>(Buffer::on(Device::cuda(0), scratch_bytes + 4096, "bench arena"));
    ctx = std::make_unique<Context>(Device::cuda(0), *arena);
  }

  /// Runs one version of an op; the first that supports it if `name` is empty.
  template <class Op>
  void run_version(const std::string& name, const Op& op) {
    if (name.empty()) return run(*ctx, op);
    const Scope scope(*ctx);
    for (const auto& version : versions_of(op))
      if (version.name == name)
        return version.launch(*ctx, op, ctx->alloc(Keep::scratch, DType::u8, {version.scratch_bytes(op)}));
  }
  /// As a rank runs them that computes interior destinations while rows of others travel, and the gradients of others'
  /// rows before those of its own: parts of forward by destinations, of the source pass by sources.
  void forward_of(Range destinations) {
    GraphAttentionForward op = forward;
    op.destinations = destinations;
    for (Tensor* rows : {&op.q, &op.o, &op.stats}) *rows = rows->slice(destinations);
    run(*ctx, op);
  }
  void backward_in_passes(std::initializer_list<Range> sources, bool destinations = true) {
    const Scope scope(*ctx);
    GraphAttentionBackward op = backward;
    op.workspace = ctx->alloc(Keep::scratch, DType::u8, {op.workspace_bytes()});
    op.pass = GraphAttentionBackward::Pass::destinations;
    if (destinations) run(*ctx, op);
    op.pass = GraphAttentionBackward::Pass::sources;
    for (const Range& range : sources) {
      op.sources = range;
      run(*ctx, op);
    }
  }

  static auto versions_of(const GraphAttentionForward&) { return cuda::graph_attention_forward_versions(); }
  static auto versions_of(const GraphAttentionBackward&) { return cuda::graph_attention_backward_versions(); }

  // The fewest bytes that have to move: every input read once, every output written once.
  double forward_bytes() const {
    const double rows = double(forward.q.bytes()) * 2 + double(forward.k.bytes()) * 2;
    return rows + edge_bytes(1) + double(forward.stats.bytes());
  }
  double backward_bytes() const {
    const double rows = double(forward.q.bytes()) * 5 + double(forward.k.bytes()) * 4;
    return rows + edge_bytes(2) + double(forward.stats.bytes());
  }

 private:
  double edge_bytes(int passes) const { return double(forward.graph->num_edges()) * (22 * passes + 8); }
};

/// Edges between the nodes of an icosahedron refined `level` times, of all levels: about a rank's part of a finer one.
inline const Graph& processor_graph(int64_t level) {
  static std::map<int64_t, Graph> graphs;
  if (const auto found = graphs.find(level); found != graphs.end()) return found->second;
  GraphConfig config;
  config.hidden.level = level;
  std::vector<double> latitudes, longitudes;  // any: the edges of the processor do not depend on them
  for (int64_t i = 0; i < 2000; ++i) {
    latitudes.push_back(std::asin(1 - (2 * double(i) + 1) / 2000) * 180 / std::numbers::pi);
    longitudes.push_back(std::fmod(double(i) * 137.50776, 360));
  }
  const GraphData data = build_graph(config, latitudes, longitudes);
  const EdgeSet& edges = data.edge_set(kHiddenNodes, kHiddenNodes);
  const int64_t size = data.node_set(kHiddenNodes).size();
  const SortedEdges sorted = sort_by_destination(size, size, edges.src_of, edges.dst_of);
  const Device device = Device::cuda(0);
  return graphs.emplace(level, Graph::from_sorted(size, size, sorted.dst_ptr, sorted.src_of).to(device, Stream(device)))
      .first->second;
}

/// The last problem that was asked for; only that one is kept.
inline GraphAttentionProblem& graph_attention_problem(const std::string& graph, bool hilbert, int64_t head_size) {
  static std::string last_name;
  static std::unique_ptr<GraphAttentionProblem> last;
  const std::string name = fmt::format("{}{}{}", graph, hilbert, head_size);
  if (name != last_name) {
    last.reset();
    last = std::make_unique<GraphAttentionProblem>(global_graph(graph, hilbert), head_size);
    last_name = name;
  }
  return *last;
}

/// Times f() as it is replayed, many times in one recording, with what it finds in the second-level cache.
inline void measure_recorded(benchmark::State& state, Context& ctx, auto&& f) {
  constexpr int kTimes = 50;
  const auto stream = static_cast<cudaStream_t>(ctx.compute().native());
  f();
  cudaStreamSynchronize(stream);
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t replay = nullptr;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  for (int i = 0; i < kTimes; ++i) f();
  cudaStreamEndCapture(stream, &recorded);
  cudaGraphInstantiate(&replay, recorded, 0);
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (auto _ : state) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(replay, stream);
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    state.SetIterationTime(milliseconds * 1e-3 / kTimes);
  }
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess)
    state.SkipWithError(cudaGetErrorString(status));
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(recorded);
}

/// Times f() with events, after the second-level cache was filled with something else. Counters: GB/s of `bytes`, and
/// how many times as long as a copy of as many bytes it takes.
inline void measure_cold(benchmark::State& state, Context& ctx, double bytes, auto&& f) {
  constexpr int64_t kCacheBytes = int64_t{256} << 20;
  const Buffer cache = Buffer::on(Device::cuda(0), kCacheBytes, "bench");
  const auto stream = static_cast<cudaStream_t>(ctx.compute().native());
  cudaEvent_t begin = nullptr, end = nullptr;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  f();
  for (auto _ : state) {
    cudaMemsetAsync(cache.data(), 1, kCacheBytes, stream);
    cudaEventRecord(begin, stream);
    f();
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    state.SetIterationTime(milliseconds * 1e-3);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["times_floor"] =
      Counter(bytes / gpu_copy_bandwidth(), Counter::kIsIterationInvariantRate | Counter::kInvert);
}

}  // namespace boreas::bench
