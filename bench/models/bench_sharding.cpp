// What edge sharding costs in bytes, for real graphs and any number of ranks: a table, and JSON with --out FILE.
//
//   bench_sharding [--ranks 2,4,8] [--graphs n320-ico6,n320-o96,o1280-o320] [--order bands|patches] [--out FILE]
//
// With patches the nodes are first put into an order in which each rank's are compact.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <numeric>
#include <sstream>

#include "bench/grids.h"
#include "kernels/core/error.h"
#include "models/communication.h"
#include "models/mesh/build.h"

namespace boreas {
namespace {

struct Case {
  const char* name;
  NodeSet data;
  GraphConfig graph;
  ModelConfig model;
};

Case make_case(const std::string& name) {
  Case result{.name = "", .data = {}, .graph = {}, .model = {}};
  const auto octahedral_hidden = [&](int64_t number) {
    result.graph.hidden.kind = NodesKind::reduced_gaussian_octahedral;
    result.graph.hidden.number = number;
    result.graph.processor.kind = EdgesKind::none;
    result.model.processor.kind = ProcessorKind::transformer;
  };
  result.graph.area_weight = AreaWeight::cosine_latitude;
  if (name == "n320-ico6") {
    result.name = "N320, icosahedron 6, graph transformer";
    result.data = bench::n320_nodes(kDataNodes);
    result.graph.hidden.level = 6;
  } else if (name == "n320-o96") {
    result.name = "N320, O96, windowed transformer 512";
    result.data = bench::n320_nodes(kDataNodes);
    octahedral_hidden(96);
  } else if (name == "o1280-o320") {
    result.name = "O1280, O320, windowed transformer 512";
    result.data = octahedral_nodes(kDataNodes, 1280);
    octahedral_hidden(320);
  } else {
    BOREAS_FAIL(config, "unknown graph '{}'; expected n320-ico6, n320-o96 or o1280-o320", name);
  }
  return result;
}

using Points = std::vector<std::array<double, 3>>;

Points points_of(const NodeSet& nodes) {
  Points points;
  for (size_t i = 0; i < nodes.latitudes.size(); ++i)
    points.push_back({std::cos(nodes.latitudes[i]) * std::cos(nodes.longitudes[i]),
                      std::cos(nodes.latitudes[i]) * std::sin(nodes.longitudes[i]), std::sin(nodes.latitudes[i])});
  return points;
}

/// Orders in which the parts that ranks have are compact: recursive bisection of all sets along the same axis, in which
/// the first set is longest, each in proportion to the ranks of a half.
struct Patches {
  std::vector<Points> points;
  std::vector<std::vector<int32_t>> orders;  ///< by set: node at each place

  Patches(const std::vector<const NodeSet*>& sets, int64_t num_ranks) {
    for (const NodeSet* const nodes : sets) {
      points.push_back(points_of(*nodes));
      std::vector<int32_t>& order = orders.emplace_back(points.back().size());
      std::iota(order.begin(), order.end(), 0);
      partitions.push_back(Partition::balanced(nodes->size(), num_ranks));
    }
    bisect({0, num_ranks});
  }

 private:
  std::vector<Partition> partitions;

  void bisect(Range ranks) {
    if (ranks.size() < 2) {
      for (size_t s = 0; s < orders.size(); ++s) {  // as the dataset has them
        const Range rows = partitions[s][ranks.begin];
        std::sort(orders[s].begin() + rows.begin, orders[s].begin() + rows.end);
      }
      return;
    }
    const int64_t middle = ranks.begin + ranks.size() / 2;
    std::array<double, 3> low{2, 2, 2}, high{-2, -2, -2};
    for (int64_t i = partitions[0][ranks.begin].begin; i < partitions[0][ranks.end - 1].end; ++i)
      for (size_t axis = 0; axis < 3; ++axis) {
        const double x = points[0][size_t(orders[0][size_t(i)])][axis];
        low[axis] = std::min(low[axis], x);
        high[axis] = std::max(high[axis], x);
      }
    size_t longest = 2;  // from north to south where all are equal
    for (size_t axis = 0; axis < 2; ++axis)
      if (high[axis] - low[axis] > high[longest] - low[longest] + 1e-2) longest = axis;
    for (size_t s = 0; s < orders.size(); ++s) {
      const auto before = [&](int32_t a, int32_t b) {
        const double x = points[s][size_t(a)][longest], y = points[s][size_t(b)][longest];
        return x != y ? x > y : a < b;
      };
      const auto begin = orders[s].begin();
      std::nth_element(begin + partitions[s][ranks.begin].begin, begin + partitions[s][middle].begin,
                       begin + partitions[s][ranks.end - 1].end, before);
    }
    bisect({ranks.begin, middle});
    bisect({middle, ranks.end});
  }
};

/// The same graph with its nodes in another order, as far as communication goes.
GraphData in_patches(const GraphData& graph, int64_t num_ranks) {
  const std::array<std::string, 2> names{kHiddenNodes, kDataNodes};
  const Patches patches({&graph.node_set(names[0]), &graph.node_set(names[1])}, num_ranks);
  const auto places_of = [&](const std::string& name) {
    const std::vector<int32_t>& order = patches.orders[name == names[0] ? 0 : 1];
    std::vector<int32_t> places(order.size());
    for (size_t i = 0; i < order.size(); ++i) places[size_t(order[i])] = int32_t(i);
    return places;
  };
  GraphData result;
  result.nodes = graph.nodes;
  for (const EdgeSet& edges : graph.edges) {
    const std::vector<int32_t> src = places_of(edges.src), dst = places_of(edges.dst);
    std::vector<std::pair<int32_t, int32_t>> moved;  // by destination
    for (size_t m = 0; m < edges.src_of.size(); ++m)
      moved.emplace_back(dst[size_t(edges.dst_of[m])], src[size_t(edges.src_of[m])]);
    std::sort(moved.begin(), moved.end());
    EdgeSet& there = result.edges.emplace_back();
    there.src = edges.src;
    there.dst = edges.dst;
    for (const auto& [to, from] : moved) {
      there.dst_of.push_back(to);
      there.src_of.push_back(from);
    }
  }
  return result;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> items;
  std::stringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) items.push_back(item);
  return items;
}

int main(int argc, char** argv) {
  std::string graphs = "n320-ico6,n320-o96", ranks = "2,4,8,16,64,256,1024", order = "bands", out;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    (option == "--graphs" ? graphs : option == "--ranks" ? ranks : option == "--order" ? order : out) = argv[i + 1];
  }
  std::string rows;
  for (const std::string& name : split(graphs)) {
    Case c = make_case(name);
    std::vector<double> latitudes = c.data.latitudes, longitudes = c.data.longitudes;
    for (double& value : latitudes) value *= 180 / std::numbers::pi;
    for (double& value : longitudes) value *= 180 / std::numbers::pi;
    const auto begin = std::chrono::steady_clock::now();
    BOREAS_CHECK(order != "patches" || c.model.processor.kind != ProcessorKind::transformer, config,
                 "{}: the order of a sequence is a part of the model", name);
    const GraphData graph = build_graph(c.graph, latitudes, longitudes);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("== %s, 1024 channels, 16 layers, bf16 (graph built in %.1f s)\n", c.name, seconds.count());
    ModelShape shape;
    shape.num_inputs = 101;
    shape.num_outputs = 89;
    for (const std::string& count : split(ranks)) {
      const int64_t num_ranks = std::stoll(count);
      const auto parts = plan_communication(c.model, shape, order == "patches" ? in_patches(graph, num_ranks) : graph,
                                            num_ranks, DType::bf16);
      std::printf("%s", communication_table(parts, num_ranks).c_str());
      for (const CommunicationPart& part : parts) {
        int64_t halo = 0, own = 0;
        for (const ShardSize& shard : part.shards) {
          halo = std::max(halo, shard.rows_received);
          own = std::max(own, shard.num_src);
        }
        rows += fmt::format(
            "{}\n  {{\"graph\": \"{}\", \"ranks\": {}, \"part\": \"{}\", \"own_src\": {}, \"halo_rows\": {}, "
            "\"halo_bytes\": {}, \"allgather_bytes\": {}, \"heads_bytes\": {}, \"imbalance\": {:.3f}}}",
            rows.empty() ? "" : ",", name, num_ranks, part.name, own, halo, part.halo_bytes, part.allgather_bytes,
            part.heads_bytes, part.work_imbalance);
      }
    }
  }
  if (out.empty()) return 0;
  std::FILE* const file = std::fopen(out.c_str(), "w");
  BOREAS_CHECK(file, io, "{} cannot be written", out);
  std::fprintf(
      file,
      "{\n \"what\": \"bytes that the busiest rank sends in one forward and backward; computed from the "
      "graphs\",\n \"command\": \"bench_sharding --graphs %s --ranks %s --order %s\",\n \"results\": [%s\n ]\n}\n",
      graphs.c_str(), ranks.c_str(), order.c_str(), rows.c_str());
  std::fclose(file);
  return 0;
}

}  // namespace
}  // namespace boreas

int main(int argc, char** argv) {
  try {
    return boreas::main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_sharding: %s\n", error.what());
    return 1;
  }
}
