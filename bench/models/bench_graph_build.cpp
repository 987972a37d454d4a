// Time to build a whole graph, and its most expensive part, the area weights.
#include <benchmark/benchmark.h>

#include <numbers>

#include "bench/grids.h"
#include "models/mesh/area_weights.h"
#include "models/mesh/build.h"
#include "models/mesh/nodes.h"

namespace boreas {
namespace {

std::vector<double> degrees(std::vector<double> radians) {
  for (double& value : radians) value *= 180 / std::numbers::pi;
  return radians;
}

void build(benchmark::State& state, const NodeSet& data) {
  GraphConfig config;
  config.hidden.level = int(state.range(1));
  const std::vector<double> latitudes = degrees(data.latitudes), longitudes = degrees(data.longitudes);
  for (auto _ : state) {
    const GraphData graph = build_graph(config, latitudes, longitudes);
    state.counters["data_nodes"] = double(graph.node_set(kDataNodes).size());
    state.counters["encoder_edges"] = double(graph.edge_set(kDataNodes, kHiddenNodes).size());
    state.counters["processor_edges"] = double(graph.edge_set(kHiddenNodes, kHiddenNodes).size());
    state.counters["decoder_edges"] = double(graph.edge_set(kHiddenNodes, kDataNodes).size());
  }
}

void BM_BuildOctahedral(benchmark::State& state) { build(state, octahedral_nodes(kDataNodes, state.range(0))); }
BENCHMARK(BM_BuildOctahedral)
    ->Args({32, 4})
    ->Args({96, 5})
    ->Args({320, 6})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

void BM_BuildRegularWithPoles(benchmark::State& state) {
  build(state, regular_nodes(kDataNodes, state.range(0), 2 * (state.range(0) - 1), true));
}
BENCHMARK(BM_BuildRegularWithPoles)->Args({73, 4})->Args({721, 6})->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_BuildN320(benchmark::State& state) { build(state, bench::n320_nodes(kDataNodes)); }
BENCHMARK(BM_BuildN320)->Args({320, 6})->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_AreasOctahedral(benchmark::State& state) {
  const NodeSet data = octahedral_nodes(kDataNodes, state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(spherical_voronoi_areas(data));
  state.SetItemsProcessed(state.iterations() * data.size());
}
BENCHMARK(BM_AreasOctahedral)->Arg(96)->Arg(320)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace boreas

BENCHMARK_MAIN();
