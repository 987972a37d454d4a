// What edge sharding costs in bytes, for real graphs and any number of ranks: a table, and JSON with --out FILE.
//
//   bench_sharding [--ranks 2,4,8] [--graphs n320-ico6,n320-o96,o1280-o320] [--order bands|patches] [--out FILE]
//
// With patches ranks have compact parts instead: see in_patches.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numbers>
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
      const GraphPartition partition = order == "patches" ? GraphPartition::patches : GraphPartition::bands;
      std::printf("%s", communication_table(parts, num_ranks, partition).c_str());
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
