#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <set>

#include "kernels/core/error.h"
#include "models/mesh/area_weights.h"
#include "models/mesh/nodes.h"
#include "models/mesh/point_tree.h"
#include "tests/support/error_of.h"

namespace boreas {
namespace {

using std::numbers::pi;

using test::error_of;

double sum(const std::vector<double>& values) {
  double total = 0;
  for (const double value : values) total += value;
  return total;
}

TEST(GaussianLatitudes, AreTheZerosOfSmallLegendrePolynomials) {
  const auto two = gaussian_latitudes(1);  // P_2 = (3 x^2 - 1) / 2
  EXPECT_NEAR(std::sin(two[0]), std::sqrt(1.0 / 3), 1e-15);
  EXPECT_NEAR(two[1], -two[0], 1e-15);
  const auto four = gaussian_latitudes(2);  // P_4 = (35 x^4 - 30 x^2 + 3) / 8
  EXPECT_NEAR(std::sin(four[0]), std::sqrt(3.0 / 7 + 2.0 / 7 * std::sqrt(6.0 / 5)), 1e-15);
  EXPECT_NEAR(std::sin(four[1]), std::sqrt(3.0 / 7 - 2.0 / 7 * std::sqrt(6.0 / 5)), 1e-15);
}

TEST(GaussianLatitudes, MatchQuadruplePrecision) {  // degrees
  EXPECT_NEAR(gaussian_latitudes(80)[0] * 180 / pi, 89.141519426461258, 5e-14);
  EXPECT_NEAR(gaussian_latitudes(320)[0] * 180 / pi, 89.784876907218305, 5e-14);
  EXPECT_NEAR(gaussian_latitudes(1280)[0] * 180 / pi, 89.946187715662774, 5e-14);
}

TEST(GaussianLatitudes, IntegratePolynomialsExactly) {
  // The weights 2 (1 - x^2) / (n P_{n-1}(x))^2 with the zeros of P_n integrate x^2 over -1..1 to 2/3 and 1 to 2.
  const int64_t degree = 2 * 640;
  double integral = 0, square = 0;
  for (const double latitude : gaussian_latitudes(640)) {
    const double x = std::sin(latitude);
    double p = 1, previous = 0;
    for (int64_t k = 1; k < degree; ++k) {
      const double next = ((2 * k - 1) * x * p - (k - 1) * previous) / k;
      previous = p;
      p = next;
    }
    const double weight = 2 * std::cos(latitude) * std::cos(latitude) / (degree * p * degree * p);
    integral += weight;
    square += weight * x * x;
  }
  EXPECT_NEAR(integral, 2, 1e-11);
  EXPECT_NEAR(square, 2.0 / 3, 1e-11);
}

TEST(GaussianLatitudes, LargestNumberDescends) {
  const auto latitudes = gaussian_latitudes(2560);
  ASSERT_EQ(latitudes.size(), 5120u);
  for (size_t i = 1; i < latitudes.size(); ++i) ASSERT_LT(latitudes[i], latitudes[i - 1]) << i;
  EXPECT_NEAR(latitudes[2559], pi / 5121 / 2, 1e-6);
}

TEST(GaussianLatitudes, RejectNumbersOutOfRange) {
  EXPECT_NE(error_of(ErrorCode::config, [] { gaussian_latitudes(0); }).find("not 0"), std::string::npos);
  EXPECT_NE(error_of(ErrorCode::config, [] { octahedral_nodes("o", 2561); }).find("2561"), std::string::npos);
}

TEST(OctahedralNodes, CountsFollowTheFormula) {
  EXPECT_EQ(octahedral_nodes("o", 32).size(), 5248);
  EXPECT_EQ(octahedral_nodes("o", 48).size(), 10944);
  EXPECT_EQ(octahedral_nodes("o", 96).size(), 40320);
  EXPECT_EQ(octahedral_nodes("o", 320).size(), 421120);
}

TEST(OctahedralNodes, RowsRunNorthToSouthAndEastwards) {
  const NodeSet nodes = octahedral_nodes("o", 8);
  ASSERT_EQ(nodes.size(), 544);
  for (int i = 0; i < 20; ++i) {
    EXPECT_DOUBLE_EQ(nodes.latitudes[i], nodes.latitudes[0]);
    EXPECT_DOUBLE_EQ(nodes.longitudes[i], 2 * pi * i / 20);
  }
  EXPECT_LT(nodes.latitudes[20], nodes.latitudes[0]);
  EXPECT_DOUBLE_EQ(nodes.longitudes[20], 0);
  EXPECT_DOUBLE_EQ(nodes.longitudes[21], 2 * pi / 24);
  for (int64_t i = 1; i < nodes.size(); ++i) EXPECT_LE(nodes.latitudes[i], nodes.latitudes[i - 1]);
}

TEST(ClassicalNodes, MatchTheTablesOfEcCodes) {
  NodeSet nodes;
  try {
    nodes = classical_gaussian_nodes("n", 320);
  } catch (const Error& error) {
    ASSERT_EQ(error.code(), ErrorCode::unsupported);
    GTEST_SKIP() << error.what();
  }
  EXPECT_EQ(nodes.size(), 542080);
  EXPECT_EQ(std::count(nodes.latitudes.begin(), nodes.latitudes.end(), nodes.latitudes[0]), 18);
  EXPECT_EQ(classical_gaussian_nodes("n", 48).size(), 13280);
  const std::string message = error_of(ErrorCode::config, [] { classical_gaussian_nodes("n", 33); });
  EXPECT_NE(message.find("N33"), std::string::npos);
  EXPECT_NE(message.find("320, 400"), std::string::npos) << message;
}

TEST(RegularNodes, WithAndWithoutPoles) {
  const NodeSet with = regular_nodes("r", 73, 144, true);
  ASSERT_EQ(with.size(), 73 * 144);
  EXPECT_DOUBLE_EQ(with.latitudes.front(), pi / 2);
  EXPECT_DOUBLE_EQ(with.latitudes.back(), -pi / 2);
  EXPECT_NEAR(with.latitudes[144], 87.5 * pi / 180, 1e-15);
  EXPECT_NEAR(with.longitudes[1], 2.5 * pi / 180, 1e-15);
  const NodeSet without = regular_nodes("r", 4, 8, false);
  EXPECT_NEAR(without.latitudes[0], 67.5 * pi / 180, 1e-15);
  EXPECT_NEAR(without.latitudes[31], -67.5 * pi / 180, 1e-15);
  error_of(ErrorCode::config, [] { regular_nodes("r", 1, 8, true); });
}

TEST(NodesAt, ConvertsDegreesAndNamesBadPoints) {
  const std::vector<double> latitudes{90.0000001, -45}, longitudes{0, 350};
  const NodeSet nodes = nodes_at("points", latitudes, longitudes);
  EXPECT_DOUBLE_EQ(nodes.latitudes[0], pi / 2);
  EXPECT_DOUBLE_EQ(nodes.latitudes[1], -pi / 4);
  EXPECT_DOUBLE_EQ(nodes.longitudes[1], 350 * pi / 180);
  const std::vector<double> bad{0, 91}, nan{0, std::nan("")};
  const std::string message = error_of(ErrorCode::invalid_argument, [&] { nodes_at("points", bad, longitudes); });
  EXPECT_NE(message.find("point 1"), std::string::npos) << message;
  EXPECT_NE(message.find("91"), std::string::npos) << message;
  error_of(ErrorCode::invalid_argument, [&] { nodes_at("points", nan, longitudes); });
  error_of(ErrorCode::invalid_argument, [&] { nodes_at("points", latitudes, nan); });
  error_of(ErrorCode::invalid_argument, [&] { nodes_at("points", latitudes, {}); });
}

TEST(IcosahedralMesh, CountsOfEveryLevel) {
  for (int level = 0; level <= 6; ++level) {
    const IcosahedralMesh mesh = icosahedral_mesh("hidden", level);
    EXPECT_EQ(mesh.nodes.size(), 10 * (int64_t(1) << (2 * level)) + 2);
    ASSERT_EQ(int(mesh.edges_of_level.size()), level + 1);
    for (int l = 0; l <= level; ++l) EXPECT_EQ(int64_t(mesh.edges_of_level[l].size()), 30 * (int64_t(1) << (2 * l)));
  }
}

TEST(IcosahedralMesh, EdgesOfALevelHaveThatLevelsLength) {
  const IcosahedralMesh mesh = icosahedral_mesh("hidden", 4);
  const auto points = to_xyz(mesh.nodes.latitudes, mesh.nodes.longitudes);
  for (int level = 0; level <= 4; ++level)
    for (const auto& [a, b] : mesh.edges_of_level[level]) {
      const double angle = std::acos(dot(points[a], points[b])) * (1 << level);
      EXPECT_GT(angle, 0.85 * std::acos(1 / std::sqrt(5.0)));
      EXPECT_LT(angle, 1.25 * std::acos(1 / std::sqrt(5.0)));
    }
}

TEST(IcosahedralMesh, NodesDescendInLatitudeThenAscendInLongitude) {
  const NodeSet nodes = icosahedral_mesh("hidden", 3).nodes;
  EXPECT_DOUBLE_EQ(nodes.latitudes[0], pi / 2);  // the middle of an edge of the icosahedron
  EXPECT_DOUBLE_EQ(nodes.longitudes[0], 0);
  for (int64_t i = 1; i < nodes.size(); ++i) {
    ASSERT_LE(nodes.latitudes[i], nodes.latitudes[i - 1] + 1e-13);
    const bool same_row = nodes.latitudes[i] > nodes.latitudes[i - 1] - 1e-13;
    ASSERT_TRUE(!same_row || nodes.longitudes[i] > nodes.longitudes[i - 1]) << i;
    ASSERT_GT(nodes.longitudes[i], -pi);
    ASSERT_LE(nodes.longitudes[i], pi);
  }
}

TEST(IcosahedralMesh, RejectsLevelsOutOfRange) {
  EXPECT_NE(error_of(ErrorCode::config, [] { icosahedral_mesh("hidden", 9); }).find("not 9"), std::string::npos);
  error_of(ErrorCode::config, [] { icosahedral_mesh("hidden", -1); });
}

TEST(SphericalVoronoi, PlatonicSolidsHaveEqualCells) {
  for (const double area : spherical_voronoi_areas(icosahedral_mesh("hidden", 0).nodes))
    EXPECT_NEAR(area, pi / 3, 1e-12);
  const std::vector<double> latitudes{90, 0, 0, 0, 0, -90}, longitudes{0, 0, 90, 180, 270, 0};
  for (const double area : spherical_voronoi_areas(nodes_at("octahedron", latitudes, longitudes)))
    EXPECT_NEAR(area, 4 * pi / 6, 1e-12);
}

TEST(SphericalVoronoi, AreasAddUpToTheSphere) {
  const auto total = [](const NodeSet& nodes) { return sum(spherical_voronoi_areas(nodes)); };
  EXPECT_NEAR(total(octahedral_nodes("o", 96)), 4 * pi, 1e-11);
  EXPECT_NEAR(total(icosahedral_mesh("hidden", 5).nodes), 4 * pi, 1e-11);
  EXPECT_NEAR(total(regular_nodes("r", 73, 144, true)), 4 * pi, 1e-11);
  EXPECT_NEAR(total(regular_nodes("r", 181, 360, true)), 4 * pi, 1e-11);
  EXPECT_NEAR(total(regular_nodes("r", 36, 72, false)), 4 * pi, 1e-11);
}

TEST(SphericalVoronoi, RegularGridMatchesAFormula) {
  // The corner between rows p and q lies on the meridian half way between two columns, equally far from both rows:
  // tan(latitude) = cos(d/2) (cos q - cos p) / (sin p - sin q) with d the spacing of the columns. The cell of a node is
  // bounded by great circles; with its corners at +-d/2 and latitudes a > b its area is the difference of two triangles
  // with the pole: each has angles d (at the pole) and twice the angle beta at its base, tan(beta) = 1 / (sin(lat)
  // tan(d/2)).
  const int rows = 19, columns = 24;
  const double d = 2 * pi / columns, step = pi / (rows - 1);
  const std::vector<double> areas = spherical_voronoi_areas(regular_nodes("r", rows, columns, true));
  const auto cap =
      [&](int row) {  // area of the triangle with the pole below the corner between rows `row` and `row + 1`
        const double p = pi / 2 - step * row, q = p - step;
        const double corner = std::atan2(std::cos(d / 2) * (std::cos(q) - std::cos(p)), std::sin(p) - std::sin(q));
        const double beta = std::atan2(1, std::sin(corner) * std::tan(d / 2));
        return d + 2 * beta - pi;
      };
  for (int row = 1; row < rows - 1; ++row)
    for (int column = 0; column < columns; ++column)
      ASSERT_NEAR(areas[row * columns + column], cap(row) - cap(row - 1), 1e-13) << row;
  for (int column = 0; column < columns; ++column) ASSERT_NEAR(areas[column], cap(0), 1e-13);  // the pole is shared
}

TEST(SphericalVoronoi, AgreesWithCountingTheNearestOfManyPoints) {
  // Independent of any geometry: the share of evenly spread samples whose nearest node is i.
  const NodeSet nodes = octahedral_nodes("o", 4);
  const auto points = to_xyz(nodes.latitudes, nodes.longitudes);
  const std::vector<double> areas = spherical_voronoi_areas(nodes);
  const int num_samples = 200000;
  std::vector<double> share(nodes.size(), 0);
  for (int k = 0; k < num_samples; ++k) {  // a golden spiral
    const double z = 1 - (2 * k + 1.0) / num_samples;
    const double longitude = 2 * pi * k / std::numbers::phi;
    const Vec3 sample{std::sqrt(1 - z * z) * std::cos(longitude), std::sqrt(1 - z * z) * std::sin(longitude), z};
    size_t nearest = 0;
    for (size_t i = 1; i < points.size(); ++i)
      if (dot(points[i], sample) > dot(points[nearest], sample)) nearest = i;
    share[nearest] += 4 * pi / num_samples;
  }
  for (int64_t i = 0; i < nodes.size(); ++i) EXPECT_NEAR(areas[i], share[i], 0.02 * share[i]) << i;
}

TEST(SphericalVoronoi, CoincidentNodesShareTheirCell) {
  const std::vector<double> latitudes{90, 90, 0, 0, 0, 0, -90}, longitudes{0, 123, 0, 90, 180, 270, 0};
  const std::vector<double> areas = spherical_voronoi_areas(nodes_at("octahedron", latitudes, longitudes));
  EXPECT_NEAR(areas[0], 2 * pi / 6, 1e-12);
  EXPECT_NEAR(areas[1], 2 * pi / 6, 1e-12);
  EXPECT_NEAR(areas[2], 4 * pi / 6, 1e-12);
}

TEST(SphericalVoronoi, NamesANodeOfARegionalGrid) {
  const std::vector<double> latitudes{50, 50, 51, 51}, longitudes{10, 11, 10, 11};
  const std::string message = error_of(ErrorCode::invalid_argument,
                                       [&] { spherical_voronoi_areas(nodes_at("region", latitudes, longitudes)); });
  EXPECT_NE(message.find("node 0 (latitude 50.0000, longitude 10.0000"), std::string::npos) << message;
  EXPECT_NE(message.find("cosine_latitude"), std::string::npos) << message;
}

}  // namespace
}  // namespace boreas
