// Graph attention. On the CPU, graphs like those of a small global model: a 2.5 degree grid (10512 nodes) and an
// icosahedral mesh; on the GPU, where one is visible, those between N320 and an icosahedron refined six times, with
// each version that supports them. Counters on the CPU: FLOP/s and bytes/s by the op's own formulas (bytes with every
// row of k and v counted once an edge), and time as a fraction of that of one product [N_dst, C] x [C, C] in the same
// precision.

#include <benchmark/benchmark.h>
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/core/rng.h"
#include "kernels/graph_attention/graph_attention.h"
#ifdef BOREAS_WITH_CUDA
#include "bench/graph_attention.h"
#endif

namespace boreas {
namespace {

// Every destination takes `degree` sources, on average, from its neighbourhood.
Graph make_graph(int64_t num_src, int64_t num_dst, int64_t degree, bool fixed_degree) {
  const Philox random(1, 0);
  std::vector<int64_t> dst_ptr{0};
  std::vector<int32_t> src_of;
  uint64_t counter = 0;
  for (int64_t i = 0; i < num_dst; ++i) {
    const int64_t count = fixed_degree ? degree : int64_t(random.below(counter++, 2 * degree));
    for (int64_t m = 0; m < count; ++m) {
      const int64_t offset = int64_t(random.below(counter++, 16 * degree)) - 8 * degree;
      src_of.push_back(int32_t(std::clamp<int64_t>(i * num_src / num_dst + offset, 0, num_src - 1)));
    }
    dst_ptr.push_back(int64_t(src_of.size()));
  }
  return Graph::from_sorted(num_src, num_dst, dst_ptr, src_of);
}

struct Tensors {
  std::vector<Buffer> buffers;
  Tensor make(int64_t rows, int64_t cols) {
    buffers.push_back(Buffer::on(Device::cpu(), rows * cols * int64_t(sizeof(float)), "bench"));
    const Tensor tensor = buffers.back().tensor(DType::f32, {rows, cols});
    const Philox random(2, buffers.size());
    for (int64_t i = 0; i < tensor.size(); ++i) tensor.as<float>()[i] = float(random.normal(i));
    return tensor;
  }
};

double seconds_of_product(int64_t rows, int64_t channels) {
  Tensors tensors;
  const Tensor x = tensors.make(rows, channels), w = tensors.make(channels, channels), y = tensors.make(rows, channels);
  double best = 1e9;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, int(rows), int(channels), int(channels), 1, x.as<float>(),
                int(channels), w.as<float>(), int(channels), 0, y.as<float>(), int(channels));
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

// Arguments: sources, destinations, mean degree, whether it is fixed, channels, heads.
void graph_attention(benchmark::State& state, bool backward) {
  const int64_t num_src = state.range(0), num_dst = state.range(1), channels = state.range(4), heads = state.range(5);
  const int64_t num_attributes = 11;
  const Graph graph = make_graph(num_src, num_dst, state.range(2), state.range(3) != 0);
  Tensors tensors;
  const Tensor q = tensors.make(num_dst, 2 * channels).columns({0, channels}), kv = tensors.make(num_src, 2 * channels);
  const Tensor k = kv.columns({0, channels}), v = kv.columns({channels, 2 * channels});
  const Tensor attributes = tensors.make(graph.num_edges(), num_attributes);
  const Tensor w_edge = tensors.make(channels, num_attributes), b_edge = tensors.make(1, channels).reshape({channels});
  const Tensor o = tensors.make(num_dst, channels), stats = tensors.make(num_dst, heads);
  const GraphAttentionForward forward_op{.graph = &graph,
                                         .q = q,
                                         .k = k,
                                         .v = v,
                                         .edge_attributes = attributes,
                                         .w_edge = w_edge,
                                         .b_edge = b_edge,
                                         .num_heads = heads,
                                         .o = o,
                                         .stats = stats};
  const GraphAttentionBackward backward_op{.graph = &graph,
                                           .q = q,
                                           .k = k,
                                           .v = v,
                                           .edge_attributes = attributes,
                                           .w_edge = w_edge,
                                           .b_edge = b_edge,
                                           .num_heads = heads,
                                           .stats = stats,
                                           .d_o = tensors.make(num_dst, channels),
                                           .d_q = tensors.make(num_dst, channels),
                                           .d_k = tensors.make(num_src, channels),
                                           .d_v = tensors.make(num_src, channels),
                                           .d_w_edge = tensors.make(channels, num_attributes),
                                           .d_b_edge = tensors.make(1, channels).reshape({channels}),
                                           .d_edge_attributes = tensors.make(graph.num_edges(), 8),
                                           .first_edge_column = 3};
  Arena arena(Buffer::on(Device::cpu(), backward_op.scratch_bytes() + forward_op.scratch_bytes() + 4096, "bench"));
  Context ctx(Device::cpu(), arena);
  run(ctx, forward_op);
  const double product = seconds_of_product(num_dst, channels);
  const auto begin = std::chrono::steady_clock::now();
  for (auto _ : state)
    if (backward)
      run(ctx, backward_op);
    else
      run(ctx, forward_op);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const double flops = double(backward ? backward_op.flops() : forward_op.flops());
  const double rows =
      double((backward ? 5 : 2) * graph.num_edges() + (backward ? 4 : 2) * num_dst + (backward ? 2 : 0) * num_src);
  using benchmark::Counter;
  state.counters["edges"] = double(graph.num_edges());
  state.counters["FLOP/s"] = Counter(flops, Counter::kIsIterationInvariantRate);
  state.counters["bytes/s"] = Counter(rows * double(channels) * 4, Counter::kIsIterationInvariantRate);
  state.counters["products"] = seconds / double(state.iterations()) / product;
}

void sizes(benchmark::internal::Benchmark* b) {
  for (const int64_t channels : {64, 128}) {
    b->Args({10512, 642, 39, 0, channels, channels / 16});   // encoder to level 3
    b->Args({10512, 2562, 10, 0, channels, channels / 16});  // encoder to level 4
    b->Args({2562, 10512, 3, 1, channels, channels / 16});   // decoder
    b->Args({2562, 2562, 7, 0, channels, channels / 16});    // processor
  }
  b->Args({2562, 10512, 3, 1, 128, 4});
  b->Args({40320, 10242, 5, 0, 512, 16});
  b->Unit(benchmark::kMicrosecond)->UseRealTime();
}
BENCHMARK_CAPTURE(graph_attention, forward, false)->Apply(sizes);
BENCHMARK_CAPTURE(graph_attention, backward, true)->Apply(sizes);

void add_gpu_cases() {
#ifdef BOREAS_WITH_CUDA
  if (num_cuda_devices() == 0) return;
  for (const char* graph : {"era_to_h", "h_to_h", "h_to_era"})
    for (const bool hilbert : {false, true})
      for (const int64_t head_size : {32, 64})
        for (const char* version : {"vectors", "tiles", "degree3"}) {
          const bool is_degree3 = std::string(version) == "degree3", is_tiles = std::string(version) == "tiles";
          if ((is_degree3 && std::string(graph) != "h_to_era") || (is_tiles && std::string(graph) != "h_to_h"))
            continue;
          const auto add = [=](const char* pass, auto body) {
            const std::string name = fmt::format("graph_attention/gpu/{}/{}/{}/d:{}/{}", pass, graph,
                                                 hilbert ? "hilbert" : "natural", head_size, version);
            benchmark::RegisterBenchmark(name.c_str(),
                                         [=](benchmark::State& state) {
                                           body(state, bench::graph_attention_problem(graph, hilbert, head_size));
                                         })
                ->UseManualTime()
                ->Iterations(20)
                ->Unit(benchmark::kMicrosecond);
          };
          using Problem = bench::GraphAttentionProblem;
          add("forward", [=](benchmark::State& state, Problem& p) {
            bench::measure_cold(state, *p.ctx, p.forward_bytes(), [&] { p.run_version(version, p.forward); });
          });
          add("forward_backward", [=](benchmark::State& state, Problem& p) {
            bench::measure_cold(state, *p.ctx, p.forward_bytes() + p.backward_bytes(), [&] {
              p.run_version(version, p.forward);
              p.run_version(version, p.backward);
            });
          });
        }

  // Parts of the work of a rank, replayed: nine tenths of the destinations are interior, a tenth of the sources
  // others'.
  using Problem = bench::GraphAttentionProblem;
  for (const int64_t level : {4, 5, 6})
    for (const int64_t head_size : {32, 64}) {
      const auto add = [=](const char* part, auto body) {
        benchmark::RegisterBenchmark(
            fmt::format("graph_attention/gpu/parts/icosahedron:{}/d:{}/{}", level, head_size, part).c_str(),
            [=](benchmark::State& state) {
              Problem p(bench::processor_graph(level), head_size);
              const int64_t n = p.forward.graph->num_dst();
              bench::measure_recorded(state, *p.ctx, [&] { body(p, n, n * 9 / 10, n / 10); });
            })
            ->UseManualTime()
            ->Iterations(10)
            ->Unit(benchmark::kMicrosecond);
      };
      add("forward", [](Problem& p, int64_t, int64_t, int64_t) { run(*p.ctx, p.forward); });
      add("forward_in_parts", [](Problem& p, int64_t n, int64_t interior, int64_t) {
        p.forward_of({0, interior}), p.forward_of({interior, n});
      });
      add("forward_interior", [](Problem& p, int64_t, int64_t interior, int64_t) { p.forward_of({0, interior}); });
      add("backward", [](Problem& p, int64_t, int64_t, int64_t) { run(*p.ctx, p.backward); });
      add("backward_in_parts", [](Problem& p, int64_t n, int64_t, int64_t others) {
        p.backward_in_passes({{0, others}, {others, n}});
      });
      add("backward_own_sources", [](Problem& p, int64_t n, int64_t, int64_t others) {
        p.backward_in_passes({{others, n}}, false);
      });
    }
#endif
}

}  // namespace
}  // namespace boreas

int main(int argc, char** argv) {
  boreas::add_gpu_cases();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
