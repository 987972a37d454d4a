#include "models/mesh/build.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/core/error.h"
#include "models/mesh/area_weights.h"
#include "models/mesh/edges.h"
#include "models/mesh/nodes.h"

namespace boreas {
namespace {

IcosahedralMesh make_mesh(const NodesConfig& config) {
  BOREAS_CHECK(config.level >= 0 && config.level <= kMaxIcosahedralLevel, config,
               "graph.hidden.level is {}; an icosahedral mesh has a level between 0 and {} (10 4^level + 2 nodes)",
               config.level, kMaxIcosahedralLevel);
  return icosahedral_mesh(kHiddenNodes, config.level);
}

NodeSet make_nodes(const NodesConfig& config) {
  switch (config.kind) {
    case NodesKind::reduced_gaussian_octahedral:
      return octahedral_nodes(kHiddenNodes, config.number);
    case NodesKind::reduced_gaussian_classical:
      return classical_gaussian_nodes(kHiddenNodes, config.number);
    case NodesKind::regular:
      return regular_nodes(kHiddenNodes, config.num_latitudes, config.num_longitudes, config.poles);
    case NodesKind::icosahedral:
      break;
  }
  BOREAS_FAIL(internal, "node kind {} is not made here", to_string(config.kind));
}

EdgeSet make_edges(const EdgesConfig& config, const std::string& key, const NodeSet& src, const NodeSet& dst,
                   const IcosahedralMesh* mesh) {
  switch (config.kind) {
    case EdgesKind::cutoff: {
      BOREAS_CHECK(config.cutoff_distance_km > 0 || config.cutoff_factor > 0, config,
                   "{}: cutoff_factor is {} and cutoff_distance_km is {}; one of them must be positive", key,
                   config.cutoff_factor, config.cutoff_distance_km);
      const double radius = config.cutoff_distance_km > 0 ? config.cutoff_distance_km / kEarthRadiusKm
                                                          : config.cutoff_factor * reference_distance(dst);
      return cutoff_edges(src, dst, radius, config.max_num_neighbours);
    }
    case EdgesKind::knn:
      return nearest_edges(src, dst, config.num_nearest_neighbours);
    case EdgesKind::multi_scale:
      BOREAS_CHECK(
          mesh && src.name == dst.name, config,
          "{}.kind is multi_scale; these are the edges of an icosahedral mesh among its own nodes, so they serve "
          "the processor with graph.hidden.kind icosahedral only. Use cutoff or knn",
          key);
      return multi_scale_edges(*mesh);
    case EdgesKind::none:
      break;
  }
  BOREAS_FAIL(config, "{}.kind is none; only the processor can do without edges. Use cutoff or knn", key);
}

std::vector<double> area_weights(AreaWeight kind, const NodeSet& nodes) {
  std::vector<double> weights(nodes.size(), 1);
  switch (kind) {
    case AreaWeight::spherical_voronoi:
      return spherical_voronoi_areas(nodes);
    case AreaWeight::cosine_latitude:
      for (int64_t i = 0; i < nodes.size(); ++i) weights[i] = std::cos(nodes.latitudes[i]);
      break;
    case AreaWeight::uniform:
      break;
  }
  return weights;
}

}  // namespace

GraphData build_graph(const GraphConfig& config, std::span<const double> latitudes_deg,
                      std::span<const double> longitudes_deg) {
  NodeSet data = nodes_at(kDataNodes, latitudes_deg, longitudes_deg);
  std::optional<IcosahedralMesh> mesh;
  if (config.hidden.kind == NodesKind::icosahedral) mesh = make_mesh(config.hidden);
  NodeSet hidden = mesh ? mesh->nodes : make_nodes(config.hidden);
  data.attributes["area_weight"] = area_weights(config.area_weight, data);

  GraphData graph;
  const auto connect = [&](const EdgesConfig& edges_config, const std::string& key, const NodeSet& src,
                           const NodeSet& dst) {
    EdgeSet edges = make_edges(edges_config, key, src, dst, mesh ? &*mesh : nullptr);
    BOREAS_CHECK(
        edges.size() > 0, config,
        "{}: no node of {} lies within the cut-off distance of any node of {}. Increase {}.cutoff_factor ({}) or "
        "cutoff_distance_km ({})",
        key, src.name, dst.name, key, edges_config.cutoff_factor, edges_config.cutoff_distance_km);
    set_edge_attributes(edges, src, dst, config.edge_attributes.edge_length, config.edge_attributes.edge_dirs);
    graph.edges.push_back(std::move(edges));
  };
  connect(config.encoder, "graph.encoder", data, hidden);
  if (config.processor.kind != EdgesKind::none) connect(config.processor, "graph.processor", hidden, hidden);
  connect(config.decoder, "graph.decoder", hidden, data);
  graph.nodes.push_back(std::move(data));
  graph.nodes.push_back(std::move(hidden));
  return graph;
}

EdgeSummary summarise(const EdgeSet& edges, int64_t num_src, int64_t num_dst) {
  std::vector<int64_t> in(num_dst, 0), out(num_src, 0);
  for (const int32_t dst : edges.dst_of) ++in[dst];
  for (const int32_t src : edges.src_of) ++out[src];
  EdgeSummary summary;
  if (num_dst > 0) {
    summary.min_degree = *std::min_element(in.begin(), in.end());
    summary.max_degree = *std::max_element(in.begin(), in.end());
    summary.mean_degree = double(edges.size()) / double(num_dst);
  }
  summary.dst_without_edges = std::count(in.begin(), in.end(), 0);
  summary.src_without_edges = std::count(out.begin(), out.end(), 0);
  return summary;
}

std::string summary(const GraphData& graph) {
  std::string text, warnings;
  for (const NodeSet& set : graph.nodes) text += fmt::format("nodes  {:<18} {:>11}\n", set.name, set.size());
  for (const EdgeSet& edges : graph.edges) {
    const EdgeSummary s = summarise(edges, graph.node_set(edges.src).size(), graph.node_set(edges.dst).size());
    text += fmt::format("edges  {:<18} {:>11}   to a destination: {} to {}, mean {:.1f}\n",
                        edges.src + " -> " + edges.dst, edges.size(), s.min_degree, s.max_degree, s.mean_degree);
    if (s.dst_without_edges > 0)
      warnings += fmt::format("warning: {} of the {} {} nodes get no edge from {}\n", s.dst_without_edges,
                              graph.node_set(edges.dst).size(), edges.dst, edges.src);
    if (s.src_without_edges > 0)
      warnings += fmt::format("warning: {} of the {} {} nodes have no edge to {}\n", s.src_without_edges,
                              graph.node_set(edges.src).size(), edges.src, edges.dst);
  }
  return text + warnings;
}

}  // namespace boreas
