#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <numbers>

#include "kernels/core/error.h"
#include "models/mesh/attributes.h"
#include "models/mesh/build.h"
#include "models/mesh/nodes.h"
#include "tests/support/error_of.h"

namespace boreas {
namespace {

using std::numbers::pi;

using test::error_of;

std::vector<double> degrees(std::vector<double> radians) {
  for (double& value : radians) value *= 180 / pi;
  return radians;
}

GraphData build_on(const NodeSet& points, const GraphConfig& config) {
  return build_graph(config, degrees(points.latitudes), degrees(points.longitudes));
}

GraphConfig small_config(int level = 2) {
  GraphConfig config;
  config.hidden.level = level;
  return config;
}

TEST(BuildGraph, HasAllSetsAndIsValid) {
  const GraphData graph = build_on(octahedral_nodes("data", 8), small_config());
  graph.validate();
  ASSERT_EQ(graph.nodes.size(), 2u);
  ASSERT_EQ(graph.edges.size(), 3u);
  EXPECT_EQ(graph.node_set("data").size(), 544);
  EXPECT_EQ(graph.node_set("hidden").size(), 162);
  EXPECT_EQ(graph.edge_set("data", "hidden").size(), 676);
  EXPECT_EQ(graph.edge_set("hidden", "hidden").size(), 1200);
  EXPECT_EQ(graph.edge_set("hidden", "data").size(), 3 * 544);
  for (const EdgeSet& edges : graph.edges) {
    EXPECT_EQ(edges.attribute_names, (std::vector<std::string>{"edge_length", "edge_dirs"}));
    EXPECT_EQ(edges.attribute_widths, (std::vector<int>{1, 2}));
  }
  double total = 0;
  for (const double area : graph.node_set("data").attributes.at("area_weight")) total += area;
  EXPECT_NEAR(total, 4 * pi, 1e-11);
}

TEST(BuildGraph, RegularGridWithPoles) {  // 144 coincident data nodes at either pole
  const GraphData graph = build_on(regular_nodes("data", 73, 144, true), small_config(4));
  graph.validate();
  const EdgeSet& encoder = graph.edge_set("data", "hidden");
  EXPECT_LE(summarise(encoder, 10512, 2562).max_degree, 64);
  EXPECT_EQ(graph.edge_set("hidden", "data").size(), 3 * 10512);
}

TEST(BuildGraph, LargestSizesOfTheReference) {
  NodeSet data;
  try {
    data = classical_gaussian_nodes("data", 320);
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  GraphConfig config = small_config(6);
  config.area_weight = AreaWeight::uniform;
  const GraphData graph = build_on(data, config);
  EXPECT_EQ(graph.node_set("data").size(), 542080);
  EXPECT_EQ(graph.node_set("hidden").size(), 40962);
  EXPECT_EQ(graph.edge_set("data", "hidden").size(), 852824);
  EXPECT_EQ(graph.edge_set("hidden", "hidden").size(), 327600);
  EXPECT_EQ(graph.edge_set("hidden", "data").size(), 1626240);
}

TEST(BuildGraph, OtherHiddenNodesAndEdges) {
  GraphConfig config;
  config.hidden.kind = NodesKind::reduced_gaussian_octahedral;
  config.hidden.number = 4;
  config.processor.kind = EdgesKind::none;
  config.area_weight = AreaWeight::cosine_latitude;
  config.edge_attributes.edge_dirs = EdgeNormalisation::omit;
  const NodeSet data = octahedral_nodes("data", 8);
  GraphData graph = build_on(data, config);
  graph.validate();
  EXPECT_EQ(graph.node_set("hidden").size(), 208);
  EXPECT_EQ(graph.find_edges("hidden", "hidden"), nullptr);
  EXPECT_EQ(graph.edge_set("data", "hidden").attribute_width(), 1);
  EXPECT_NEAR(graph.node_set("data").attributes.at("area_weight")[3], std::cos(data.latitudes[3]), 1e-15);

  config.processor.kind = EdgesKind::knn;
  config.processor.num_nearest_neighbours = 6;
  config.hidden.kind = NodesKind::regular;
  config.hidden.num_latitudes = 9;
  config.hidden.num_longitudes = 18;
  config.encoder.cutoff_distance_km = 1500;
  config.area_weight = AreaWeight::uniform;
  graph = build_on(data, config);
  EXPECT_EQ(graph.edge_set("hidden", "hidden").size(), 6 * 9 * 18);
  EXPECT_EQ(graph.node_set("data").attributes.at("area_weight"), std::vector<double>(544, 1.0));
}

TEST(BuildGraph, IsTheSameEveryTimeAndItsHashTells) {
  const NodeSet data = octahedral_nodes("data", 8);
  GraphData graph = build_on(data, small_config());
  const std::string hash = graph.hash();
  EXPECT_EQ(hash.size(), 16u);
  EXPECT_EQ(build_on(data, small_config()).hash(), hash);
  EXPECT_NE(build_on(data, small_config(1)).hash(), hash);
  GraphData changed = graph;
  changed.edges[1].attributes[7] = std::nextafter(changed.edges[1].attributes[7], 9.0);
  EXPECT_NE(changed.hash(), hash);
  changed = graph;
  std::swap(changed.edges[0].src_of[3], changed.edges[0].src_of[4]);
  EXPECT_NE(changed.hash(), hash);
  changed = graph;
  changed.nodes[0].name = "date";
  EXPECT_NE(changed.hash(), hash);
  EXPECT_EQ(GraphData{}.hash(), GraphData{}.hash());
}

TEST(BuildGraph, HashIsPinned) {  // graphs are cached and checkpoints refer to them by it: it may not drift
  GraphData graph;
  graph.nodes.push_back({"data", {0.5, -0.5}, {0, 1}, {{"area_weight", {1, 2}}}});
  graph.edges.push_back({"data", "data", {1, 0}, {0, 1}, {"edge_length"}, {1}, {0.25, 0.75}});
  EXPECT_EQ(graph.hash(), "f66f4aafcbde6982");
}

TEST(BuildGraph, SummaryShowsSizesAndWarns) {
  const GraphData graph = build_on(octahedral_nodes("data", 96), small_config(6));
  const std::string text = summary(graph);
  EXPECT_NE(text.find("64208   to a destination: 0 to 7, mean 1.6"), std::string::npos) << text;
  EXPECT_NE(text.find("of the 40962 hidden nodes get no edge from data"), std::string::npos) << text;
  EXPECT_EQ(text.find("hidden nodes get no edge from hidden"), std::string::npos) << text;
}

TEST(BuildGraph, ErrorsNameTheKey) {
  const NodeSet data = octahedral_nodes("data", 8);
  const auto message_of = [&](auto change) {
    GraphConfig config = small_config();
    change(config);
    return error_of(ErrorCode::config, [&] { build_on(data, config); });
  };
  const auto expect_says = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect_says(message_of([](GraphConfig& c) { c.hidden.level = 9; }), "graph.hidden.level is 9");
  expect_says(message_of([](GraphConfig& c) { c.hidden.level = 0; }), "level 0 only");
  expect_says(message_of([](GraphConfig& c) { c.encoder.cutoff_factor = 0; }), "graph.encoder: cutoff_factor is 0");
  expect_says(message_of([](GraphConfig& c) { c.encoder.cutoff_distance_km = 1e-3; }),
              "graph.encoder: no node of data");
  expect_says(message_of([](GraphConfig& c) { c.decoder.num_nearest_neighbours = 500; }),
              "500 nearest neighbours wanted");
  expect_says(message_of([](GraphConfig& c) { c.decoder.kind = EdgesKind::none; }), "graph.decoder.kind is none");
  expect_says(message_of([](GraphConfig& c) { c.encoder.kind = EdgesKind::multi_scale; }),
              "graph.encoder.kind is multi_scale");
  expect_says(message_of([](GraphConfig& c) {
                c.hidden.kind = NodesKind::reduced_gaussian_octahedral;
                c.hidden.number = 4;
              }),
              "graph.processor.kind is multi_scale");
  const std::vector<double> latitudes{10, 11, 12}, longitudes{0, 1, 0};
  expect_says(error_of(ErrorCode::invalid_argument, [&] { build_graph(small_config(), latitudes, longitudes); }),
              "graph.area_weight");
}

TEST(GraphData, LookupListsTheNames) {
  const GraphData graph = build_on(octahedral_nodes("data", 4), small_config());
  EXPECT_NE(error_of(ErrorCode::config, [&] { graph.node_set("mesh"); }).find("data, hidden"), std::string::npos);
  EXPECT_NE(
      error_of(ErrorCode::config, [&] { graph.edge_set("data", "data"); }).find("data -> hidden, hidden -> hidden"),
      std::string::npos);
}

TEST(GraphData, ValidateNamesTheFirstInconsistency) {
  const GraphData good = build_on(octahedral_nodes("data", 4), small_config());
  const auto message_of = [&](auto change) {
    GraphData graph = good;
    change(graph);
    return error_of(ErrorCode::corrupt_data, [&] { graph.validate(); });
  };
  const auto expect_says = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect_says(message_of([](GraphData& g) { g.nodes[0].longitudes.pop_back(); }), "208 latitudes but 207 longitudes");
  expect_says(message_of([](GraphData& g) { g.nodes[0].latitudes[5] = std::nan(""); }), "value 5 is nan");
  expect_says(message_of([](GraphData& g) { g.nodes[0].attributes["area_weight"].pop_back(); }),
              "207 values for 208 nodes");
  expect_says(message_of([](GraphData& g) { g.nodes[1].name = "data"; }), "two node sets are named data");
  expect_says(message_of([](GraphData& g) { g.edges[0].dst = "mesh"; }), "node set mesh");
  expect_says(message_of([](GraphData& g) { g.edges[0].src_of[2] = 208; }),
              "starts at node 208, but data has 208 nodes");
  expect_says(message_of([](GraphData& g) { g.edges[0].dst_of[2] = -1; }), "ends at node -1");
  expect_says(message_of([](GraphData& g) { std::reverse(g.edges[0].dst_of.begin(), g.edges[0].dst_of.end()); }),
              "not sorted by destination");
  expect_says(message_of([](GraphData& g) { g.edges[0].dst_of.pop_back(); }), "destinations");
  expect_says(message_of([](GraphData& g) { g.edges[0].attribute_widths.pop_back(); }), "2 attribute names but 1");
  expect_says(message_of([](GraphData& g) { g.edges[0].attributes.pop_back(); }), "attribute values");
  expect_says(message_of([](GraphData& g) { g.edges[0].attributes[1] = INFINITY; }), "value 1 is inf");
}

// --- a graph of the reference implementation
// ---------------------------------------------------------------------------

std::vector<double> read(hid_t file, const std::string& name) {
  const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  EXPECT_GE(dataset, 0) << name;
  const hid_t space = H5Dget_space(dataset);
  std::vector<double> values(H5Sget_simple_extent_npoints(space));
  EXPECT_GE(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0) << name;
  H5Sclose(space);
  H5Dclose(dataset);
  return values;
}

/// An octahedral O8 grid on a level 2 mesh, with a cut-off of 0.6, 3 nearest and levels 1 to 2.
TEST(BuildGraph, MatchesAGraphOfTheReference) {
  const std::string path = BOREAS_SOURCE_DIR "/tests/golden/full_gt.h5";
  if (!std::ifstream(path)) GTEST_SKIP() << path << " is not there";
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const GraphData graph = build_on(octahedral_nodes("data", 8), small_config());

  for (const char* name : {"data", "hidden"}) {
    const NodeSet& nodes = graph.node_set(name);
    const std::vector<double> expected = read(file, std::string("graph/") + name + "/latlon");
    ASSERT_EQ(expected.size(), 2u * nodes.size());
    for (int64_t i = 0; i < nodes.size(); ++i) {
      ASSERT_NEAR(nodes.latitudes[i], expected[2 * i], 1e-9) << name << " " << i;
      const bool pole = std::abs(std::abs(nodes.latitudes[i]) - pi / 2) < 1e-9;
      const double turn = std::remainder(nodes.longitudes[i] - expected[2 * i + 1], 2 * pi);
      ASSERT_TRUE(pole || std::abs(turn) < 1e-9) << name << " " << i;
    }
  }

  for (const auto& [name, src, dst] :
       {std::array{"encoder", "data", "hidden"}, std::array{"processor", "hidden", "hidden"},
        std::array{"decoder", "hidden", "data"}}) {
    const EdgeSet& edges = graph.edge_set(src, dst);
    const std::vector<double> expected_src = read(file, fmt::format("graph/{}/src", name));
    const std::vector<double> expected_dst = read(file, fmt::format("graph/{}/dst", name));
    ASSERT_EQ(int64_t(expected_src.size()), edges.size()) << name;
    EdgeSet expected = edges;
    std::copy(expected_src.begin(), expected_src.end(), expected.src_of.begin());
    std::copy(expected_dst.begin(), expected_dst.end(), expected.dst_of.begin());

    // The edges: of equally distant nodes the reference takes any, which happens among the 3 nearest of the decoder.
    EXPECT_EQ(edges.dst_of, expected.dst_of) << name;
    int64_t num_different = 0;
    for (int64_t m = 0; m < edges.size(); ++m) num_different += edges.src_of[m] != expected.src_of[m];
    EXPECT_LE(num_different, std::string(name) == "decoder" ? 10 : 0) << name;
    std::vector<double> lengths = edge_lengths(edges, graph.node_set(src), graph.node_set(dst));
    std::vector<double> expected_lengths = edge_lengths(expected, graph.node_set(src), graph.node_set(dst));
    std::sort(lengths.begin(), lengths.end());
    std::sort(expected_lengths.begin(), expected_lengths.end());
    for (size_t m = 0; m < lengths.size(); ++m) ASSERT_NEAR(lengths[m], expected_lengths[m], 1e-12) << name << " " << m;

    // The attributes, on the edges of the reference: one other edge would change the divisor of all.
    set_edge_attributes(expected, graph.node_set(src), graph.node_set(dst), EdgeNormalisation::unit_std,
                        EdgeNormalisation::unit_std);
    const std::vector<double> attributes = read(file, fmt::format("graph/{}/edge_attr", name));
    ASSERT_EQ(attributes.size(), expected.attributes.size());
    for (size_t i = 0; i < attributes.size(); ++i)
      ASSERT_NEAR(expected.attributes[i], attributes[i], 1e-9) << name << " " << i;
  }
  H5Fclose(file);
}

}  // namespace
}  // namespace boreas
