#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <set>

#include "kernels/core/error.h"
#include "models/mesh/attributes.h"
#include "models/mesh/build.h"
#include "models/mesh/edges.h"
#include "models/mesh/point_tree.h"
#include "tests/support/error_of.h"

namespace boreas {
namespace {

using std::numbers::pi;

using test::error_of;

double chord(const NodeSet& a, int64_t i, const NodeSet& b, int64_t j) {
  const Vec3 x = to_xyz(a.latitudes[i], a.longitudes[i]), y = to_xyz(b.latitudes[j], b.longitudes[j]);
  return std::sqrt(std::pow(x[0] - y[0], 2) + std::pow(x[1] - y[1], 2) + std::pow(x[2] - y[2], 2));
}

void expect_sorted(const EdgeSet& edges) {
  for (int64_t m = 1; m < edges.size(); ++m)
    ASSERT_TRUE(edges.dst_of[m - 1] < edges.dst_of[m] ||
                (edges.dst_of[m - 1] == edges.dst_of[m] && edges.src_of[m - 1] < edges.src_of[m]))
        << m;
}

TEST(ReferenceDistance, OfMeshesAndGrids) {
  EXPECT_NEAR(reference_distance(icosahedral_mesh("hidden", 4).nodes), 0.08178, 5e-6);
  EXPECT_NEAR(reference_distance(icosahedral_mesh("hidden", 5).nodes), 0.04123, 5e-6);
  EXPECT_NEAR(reference_distance(icosahedral_mesh("hidden", 6).nodes), 0.02066, 5e-6);
  EXPECT_NEAR(reference_distance(octahedral_nodes("hidden", 32)), 0.05450, 5e-6);
  EXPECT_NEAR(reference_distance(octahedral_nodes("hidden", 48)), 0.03783, 5e-6);
  EXPECT_NEAR(reference_distance(octahedral_nodes("hidden", 96)), 0.01951, 6e-6);  // found in float32
}

TEST(ReferenceDistance, IgnoresCoincidentNodes) {
  // The many nodes at a pole have each other at no distance; the rows at the equator decide.
  EXPECT_NEAR(reference_distance(regular_nodes("r", 19, 24, true)), 2 * std::sin(10 * pi / 180 / 2), 1e-12);
  const std::vector<double> zeros(3, 0.0);
  error_of(ErrorCode::invalid_argument, [&] { reference_distance(nodes_at("point", zeros, zeros)); });
}

TEST(CutoffEdges, CountsOfKnownGrids) {
  struct Case {
    NodeSet src, dst;
    int64_t num_edges, min_degree, max_degree;
  };
  const std::vector<Case> cases{
      {octahedral_nodes("data", 96), icosahedral_mesh("hidden", 5).nodes, 62980, 4, 20},
      {octahedral_nodes("data", 96), icosahedral_mesh("hidden", 6).nodes, 64208, 0, 7},
      {octahedral_nodes("data", 96), octahedral_nodes("hidden", 48), 51608, 3, 17},
      {octahedral_nodes("data", 96), octahedral_nodes("hidden", 32), 56536, 8, 27},
      {octahedral_nodes("data", 320), icosahedral_mesh("hidden", 6).nodes, 662072, 11, 44},
      {octahedral_nodes("data", 320), octahedral_nodes("hidden", 96), 588752, 9, 35},
  };
  for (const Case& c : cases) {
    const EdgeSet edges = cutoff_edges(c.src, c.dst, 0.6 * reference_distance(c.dst), 64);
    const EdgeSummary summary = summarise(edges, c.src.size(), c.dst.size());
    EXPECT_EQ(edges.size(), c.num_edges);
    EXPECT_EQ(summary.min_degree, c.min_degree);
    EXPECT_EQ(summary.max_degree, c.max_degree);
    expect_sorted(edges);
  }
}

TEST(CutoffEdges, AreAllPairsWithinTheRadius) {
  const NodeSet src = octahedral_nodes("data", 8), dst = icosahedral_mesh("hidden", 2).nodes;
  const double radius = 0.21;
  std::set<std::pair<int, int>> expected, actual;
  for (int d = 0; d < dst.size(); ++d)
    for (int s = 0; s < src.size(); ++s)
      if (chord(src, s, dst, d) <= radius) expected.insert({d, s});
  const EdgeSet edges = cutoff_edges(src, dst, radius, 64);
  for (int64_t m = 0; m < edges.size(); ++m) actual.insert({edges.dst_of[m], edges.src_of[m]});
  EXPECT_EQ(actual, expected);
}

TEST(CutoffEdges, KeepTheNearestWhenThereAreTooMany) {
  const NodeSet src = octahedral_nodes("data", 96), dst = icosahedral_mesh("hidden", 4).nodes;
  const double radius = 0.6 * reference_distance(dst);
  const EdgeSet all = cutoff_edges(src, dst, radius, 1000), kept = cutoff_edges(src, dst, radius, 64);
  EXPECT_EQ(summarise(all, src.size(), dst.size()).max_degree, 72);
  EXPECT_EQ(summarise(kept, src.size(), dst.size()).max_degree, 64);
  expect_sorted(kept);
  std::map<int, std::vector<double>> all_of, kept_of;
  for (int64_t m = 0; m < all.size(); ++m)
    all_of[all.dst_of[m]].push_back(chord(src, all.src_of[m], dst, all.dst_of[m]));
  for (int64_t m = 0; m < kept.size(); ++m)
    kept_of[kept.dst_of[m]].push_back(chord(src, kept.src_of[m], dst, kept.dst_of[m]));
  for (auto& [node, chords] : all_of) {
    std::sort(chords.begin(), chords.end());
    chords.resize(std::min<size_t>(chords.size(), 64));
    std::sort(kept_of[node].begin(), kept_of[node].end());
    ASSERT_EQ(kept_of[node].size(), chords.size());
    for (size_t i = 0; i < chords.size(); ++i) ASSERT_NEAR(kept_of[node][i], chords[i], 1e-9);
  }
}

TEST(CutoffEdges, RejectBadDistances) {
  const NodeSet nodes = icosahedral_mesh("hidden", 1).nodes;
  EXPECT_NE(error_of(ErrorCode::config, [&] { cutoff_edges(nodes, nodes, 0, 64); }).find("cut-off distance is 0"),
            std::string::npos);
  error_of(ErrorCode::config, [&] { cutoff_edges(nodes, nodes, 0.1, 0); });
}

TEST(NearestEdges, AreTheNearestAndTiesGoToTheLowestIndex) {
  const NodeSet src = icosahedral_mesh("hidden", 2).nodes, dst = octahedral_nodes("data", 8);
  const EdgeSet edges = nearest_edges(src, dst, 3);
  ASSERT_EQ(edges.size(), 3 * dst.size());
  expect_sorted(edges);
  int64_t num_ties = 0;
  for (int d = 0; d < dst.size(); ++d) {
    // Brute force: distances rounded to 1e-9, so that equal ones compare equal, then the index.
    std::vector<std::pair<int64_t, int>> ranked;
    for (int s = 0; s < src.size(); ++s) ranked.push_back({std::llround(chord(src, s, dst, d) * 1e9), s});
    std::sort(ranked.begin(), ranked.end());
    num_ties += ranked[2].first == ranked[3].first;
    std::set<int> expected{ranked[0].second, ranked[1].second, ranked[2].second};
    const std::set<int> actual(edges.src_of.begin() + 3 * d, edges.src_of.begin() + 3 * d + 3);
    ASSERT_EQ(actual, expected) << d;
  }
  EXPECT_GT(num_ties, 0);  // or the rule would not be tested
}

TEST(NearestEdges, OfManyCoincidentSources) {
  const NodeSet src = regular_nodes("data", 19, 24, true);
  const std::vector<double> latitude{89}, longitude{30};
  const EdgeSet edges = nearest_edges(src, nodes_at("point", latitude, longitude), 5);
  EXPECT_EQ(edges.src_of, (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

TEST(NearestEdges, AmongOneNodeSetLeaveOutTheNodeItself) {
  const NodeSet nodes = icosahedral_mesh("hidden", 2).nodes;
  const EdgeSet edges = nearest_edges(nodes, nodes, 5);
  ASSERT_EQ(edges.size(), 5 * nodes.size());
  for (int64_t m = 0; m < edges.size(); ++m) ASSERT_NE(edges.src_of[m], edges.dst_of[m]);
  const EdgeSet near = cutoff_edges(nodes, nodes, 0.5, 64);
  for (int64_t m = 0; m < near.size(); ++m) ASSERT_NE(near.src_of[m], near.dst_of[m]);
}

TEST(NearestEdges, RejectMoreThanThereAre) {
  const NodeSet few = icosahedral_mesh("hidden", 0).nodes, other = icosahedral_mesh("data", 0).nodes;
  EXPECT_EQ(nearest_edges(few, other, 12).size(), 144);
  const std::string message = error_of(ErrorCode::config, [&] { nearest_edges(few, other, 13); });
  EXPECT_NE(message.find("13 nearest neighbours wanted; hidden has 12 nodes"), std::string::npos) << message;
  error_of(ErrorCode::config, [&] { nearest_edges(few, few, 12); });
  error_of(ErrorCode::config, [&] { nearest_edges(few, other, 0); });
}

TEST(MultiScaleEdges, CountsAndSymmetry) {
  const std::map<int, int64_t> counts{{1, 240}, {4, 20400}, {5, 81840}, {6, 327600}};
  for (const auto& [level, count] : counts) {
    const EdgeSet edges = multi_scale_edges(icosahedral_mesh("hidden", level));
    EXPECT_EQ(edges.size(), count);
    expect_sorted(edges);
    std::set<std::pair<int, int>> pairs;
    for (int64_t m = 0; m < edges.size(); ++m) pairs.insert({edges.src_of[m], edges.dst_of[m]});
    for (const auto& [src, dst] : pairs) ASSERT_TRUE(pairs.contains({dst, src}));
  }
}

TEST(MultiScaleEdges, CoarseVerticesKeepTheirLongEdges) {
  const IcosahedralMesh mesh = icosahedral_mesh("hidden", 5);
  const EdgeSummary summary = summarise(multi_scale_edges(mesh), mesh.nodes.size(), mesh.nodes.size());
  EXPECT_EQ(summary.max_degree, 6 * 4 + 6);  // a vertex of level 1 that is not one of the twelve: 6 at each of 5 levels
  EXPECT_EQ(summary.min_degree, 6);
}

TEST(MultiScaleEdges, NeedALevel) {
  error_of(ErrorCode::config, [] { multi_scale_edges(icosahedral_mesh("hidden", 0)); });
}

// --- attributes
// --------------------------------------------------------------------------------------------------------

/// One edge from the first point to the second, degrees.
struct OneEdge {
  NodeSet src, dst;
  EdgeSet edges;
  OneEdge(double src_lat, double src_lon, double dst_lat, double dst_lon) {
    src = nodes_at("a", std::vector{src_lat}, std::vector{src_lon});
    dst = nodes_at("b", std::vector{dst_lat}, std::vector{dst_lon});
    edges = nearest_edges(src, dst, 1);
  }
  std::vector<double> direction() const { return edge_directions(edges, src, dst); }
  double length() const { return edge_lengths(edges, src, dst)[0]; }
};

TEST(EdgeLengths, AreGreatCircleAngles) {
  EXPECT_NEAR(OneEdge(0, 10, 0, 350).length(), 20 * pi / 180, 1e-15);
  EXPECT_NEAR(OneEdge(90, 77, -90, 0).length(), pi, 1e-15);
  EXPECT_NEAR(OneEdge(-30, 20, 45, 20).length(), 75 * pi / 180, 1e-15);
  EXPECT_DOUBLE_EQ(OneEdge(12, 34, 12, 34).length(), 0);
  const NodeSet src = octahedral_nodes("data", 8), dst = icosahedral_mesh("hidden", 2).nodes;
  const EdgeSet edges = nearest_edges(src, dst, 4);
  const std::vector<double> lengths = edge_lengths(edges, src, dst);
  for (int64_t m = 0; m < edges.size(); ++m)  // another formula: the angle that belongs to the chord
    ASSERT_NEAR(lengths[m], 2 * std::asin(chord(src, edges.src_of[m], dst, edges.dst_of[m]) / 2), 1e-14);
}

TEST(EdgeDirections, PointAwayFromThePoleAlongItsMeridian) {
  // After the rotation the destination is the pole; what lay north of it now lies on the side away from its longitude.
  const double lon = 40 * pi / 180;
  const auto north = OneEdge(50, 40, 45, 40).direction();
  EXPECT_NEAR(north[0], -std::cos(lon), 1e-12);
  EXPECT_NEAR(north[1], -std::sin(lon), 1e-12);
  const auto south = OneEdge(40, 40, 45, 40).direction();
  EXPECT_NEAR(south[0], std::cos(lon), 1e-12);
  EXPECT_NEAR(south[1], std::sin(lon), 1e-12);
}

TEST(EdgeDirections, AgreeWithTheBearing) {
  // Independent formula: with b the bearing from destination to source (clockwise from north), the rotation puts north
  // at longitude lon_d + 180 degrees, and east follows clockwise seen from above: the direction has longitude lon_d +
  // pi - b.
  const NodeSet src = octahedral_nodes("data", 8), dst = icosahedral_mesh("hidden", 2).nodes;
  const EdgeSet edges = nearest_edges(src, dst, 5);
  const std::vector<double> directions = edge_directions(edges, src, dst);
  for (int64_t m = 0; m < edges.size(); ++m) {
    const double lat_s = src.latitudes[edges.src_of[m]], lat_d = dst.latitudes[edges.dst_of[m]];
    const double lon_d = dst.longitudes[edges.dst_of[m]], lon = src.longitudes[edges.src_of[m]] - lon_d;
    if (std::abs(std::abs(lat_d) - pi / 2) < 1e-9) continue;
    const double bearing =
        std::atan2(std::sin(lon) * std::cos(lat_s),
                   std::cos(lat_d) * std::sin(lat_s) - std::sin(lat_d) * std::cos(lat_s) * std::cos(lon));
    ASSERT_NEAR(directions[2 * m], std::cos(lon_d + pi - bearing), 1e-11) << m;
    ASSERT_NEAR(directions[2 * m + 1], std::sin(lon_d + pi - bearing), 1e-11) << m;
  }
}

TEST(EdgeDirections, AtThePoles) {
  const auto north = OneEdge(80, 30, 90, 0).direction();
  EXPECT_NEAR(north[0], std::cos(pi / 6), 1e-12);
  EXPECT_NEAR(north[1], std::sin(pi / 6), 1e-12);
  const auto south = OneEdge(-80, 30, -90, 0).direction();
  EXPECT_NEAR(south[0], std::cos(pi / 6), 1e-12);
  EXPECT_NEAR(south[1], -std::sin(pi / 6), 1e-12);
}

TEST(EdgeDirections, OfCoincidentEndsAreZero) {
  EXPECT_EQ(OneEdge(12, 34, 12, 34).direction(), (std::vector<double>{0, 0}));
  EXPECT_EQ(OneEdge(90, 34, 90, 0).direction(), (std::vector<double>{0, 0}));
}

TEST(Normalise, DividesByOneStatistic) {
  const auto normalised = [](std::vector<double> values, EdgeNormalisation normalisation) {
    normalise(values, normalisation, "values");
    return values;
  };
  const std::vector<double> values{1, 2, 3, 6};  // mean 3, squared deviations 14, unbiased variance 14/3
  EXPECT_NEAR(normalised(values, EdgeNormalisation::unit_std)[3], 6 / std::sqrt(14.0 / 3), 1e-15);
  EXPECT_DOUBLE_EQ(normalised(values, EdgeNormalisation::unit_max)[1], 2.0 / 6);
  EXPECT_DOUBLE_EQ(normalised(values, EdgeNormalisation::unit_range)[1], 1.0 / 5);
  EXPECT_DOUBLE_EQ(normalised(values, EdgeNormalisation::l1)[1], 2.0 / 12);
  EXPECT_DOUBLE_EQ(normalised(values, EdgeNormalisation::l2)[1], 2 / std::sqrt(50.0));
  EXPECT_EQ(normalised(values, EdgeNormalisation::none), values);
  EXPECT_EQ(normalised({2, 2}, EdgeNormalisation::unit_std), (std::vector<double>{2, 2}));
  EXPECT_EQ(normalised({2}, EdgeNormalisation::unit_std), (std::vector<double>{2}));
  const std::string message = error_of(ErrorCode::config, [&] { normalised({0, 0}, EdgeNormalisation::unit_max); });
  EXPECT_NE(message.find("unit_max, which is zero for its 2 values"), std::string::npos) << message;
}

}  // namespace
}  // namespace boreas
