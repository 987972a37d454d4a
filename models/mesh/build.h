// build_graph: from a configuration and the points of a dataset to node sets, edge sets and their attributes.
#pragma once

#include <span>
#include <string>

#include "kernels/core/fields.h"
#include "kernels/graph/graph_data.h"
#include "models/mesh/attributes.h"

namespace boreas {

/// The node sets of every graph.
inline constexpr const char* kDataNodes = "data";
inline constexpr const char* kHiddenNodes = "hidden";

enum class NodesKind { icosahedral, reduced_gaussian_octahedral, reduced_gaussian_classical, regular };
template <>
struct EnumNames<NodesKind> {
  static constexpr std::array values{
      std::pair{NodesKind::icosahedral, std::string_view("icosahedral")},
      std::pair{NodesKind::reduced_gaussian_octahedral, std::string_view("reduced_gaussian_octahedral")},
      std::pair{NodesKind::reduced_gaussian_classical, std::string_view("reduced_gaussian_classical")},
      std::pair{NodesKind::regular, std::string_view("regular")},
  };
};

struct NodesConfig {
  NodesKind kind = NodesKind::icosahedral;
  int level = 5;
  int64_t number = 32;
  int64_t num_latitudes = 32;
  int64_t num_longitudes = 64;
  bool poles = false;

  void fields(auto&& visit) {
    visit("kind", kind, "", "icosahedral, reduced_gaussian_octahedral, reduced_gaussian_classical or regular");
    visit("level", level, "", "icosahedral: times refined, 0 to 8; 10 4^level + 2 nodes");
    visit("number", number, "", "reduced Gaussian: latitudes between pole and equator");
    visit("num_latitudes", num_latitudes, "", "regular: rows");
    visit("num_longitudes", num_longitudes, "", "regular: nodes on each row");
    visit("poles", poles, "", "regular: the first and last row lie on the poles");
  }
};

enum class EdgesKind { none, cutoff, knn, multi_scale };
template <>
struct EnumNames<EdgesKind> {
  static constexpr std::array values{
      std::pair{EdgesKind::none, std::string_view("none")},
      std::pair{EdgesKind::cutoff, std::string_view("cutoff")},
      std::pair{EdgesKind::knn, std::string_view("knn")},
      std::pair{EdgesKind::multi_scale, std::string_view("multi_scale")},
  };
};

struct EdgesConfig {
  EdgesKind kind = EdgesKind::cutoff;
  double cutoff_factor = 0.6;
  double cutoff_distance_km = 0;
  int64_t max_num_neighbours = 64;
  int64_t num_nearest_neighbours = 3;

  void fields(auto&& visit) {
    visit("kind", kind, "", "cutoff, knn, multi_scale (processor on icosahedral nodes) or none (processor)");
    visit("cutoff_factor", cutoff_factor, "1",
          "cutoff: radius as a multiple of the largest distance from a destination to its nearest other destination");
    visit("cutoff_distance_km", cutoff_distance_km, "km", "cutoff: the radius itself, if above 0");
    visit("max_num_neighbours", max_num_neighbours, "", "cutoff: keeps this many nearest sources of a destination");
    visit("num_nearest_neighbours", num_nearest_neighbours, "", "knn: sources of each destination");
  }
};

struct EdgeAttributesConfig {
  EdgeNormalisation edge_length = EdgeNormalisation::unit_std;
  EdgeNormalisation edge_dirs = EdgeNormalisation::unit_std;

  void fields(auto&& visit) {
    visit("edge_length", edge_length, "",
          "divisor of the angle between the ends: unit_std, unit_max, unit_range, l1, l2, "
          "none, or omit to leave the attribute out");
    visit("edge_dirs", edge_dirs, "", "divisor of the direction seen from the destination: as for edge_length");
  }
};

enum class AreaWeight { spherical_voronoi, cosine_latitude, uniform };
template <>
struct EnumNames<AreaWeight> {
  static constexpr std::array values{
      std::pair{AreaWeight::spherical_voronoi, std::string_view("spherical_voronoi")},
      std::pair{AreaWeight::cosine_latitude, std::string_view("cosine_latitude")},
      std::pair{AreaWeight::uniform, std::string_view("uniform")},
  };
};

struct GraphConfig {
  NodesConfig hidden;
  EdgesConfig encoder{.kind = EdgesKind::cutoff};
  EdgesConfig processor{.kind = EdgesKind::multi_scale};
  EdgesConfig decoder{.kind = EdgesKind::knn};
  EdgeAttributesConfig edge_attributes;
  AreaWeight area_weight = AreaWeight::spherical_voronoi;

  void fields(auto&& visit) {
    visit("hidden", hidden, "", "nodes of the hidden mesh");
    visit("encoder", encoder, "", "edges from data to hidden nodes");
    visit("processor", processor, "", "edges among hidden nodes; kind none for a processor without a graph");
    visit("decoder", decoder, "", "edges from hidden to data nodes");
    visit("edge_attributes", edge_attributes, "", "attributes of all edges and how they are normalised");
    visit("area_weight", area_weight, "",
          "area of a data node in the loss: spherical_voronoi, cosine_latitude or uniform");
  }
};

/// Node sets `data` (the given points, degrees, in their order, with the attribute `area_weight`) and `hidden`; edge
/// sets data -> hidden, hidden -> hidden (unless the processor's kind is none) and hidden -> data. Throws config or
/// invalid_argument naming the key: levels outside 0..8, multi_scale on other than icosahedral nodes, a mapper without
/// edges, points that are not on the globe.
GraphData build_graph(const GraphConfig& config, std::span<const double> latitudes_deg,
                      std::span<const double> longitudes_deg);

/// Edges at the nodes of one edge set.
struct EdgeSummary {
  int64_t min_degree = 0, max_degree = 0;  ///< edges that end in a destination
  double mean_degree = 0;
  int64_t dst_without_edges = 0, src_without_edges = 0;
};
EdgeSummary summarise(const EdgeSet& edges, int64_t num_src, int64_t num_dst);

/// A few lines for people: sizes, degrees, and warnings about nodes that no edge reaches.
std::string summary(const GraphData& graph);

}  // namespace boreas
