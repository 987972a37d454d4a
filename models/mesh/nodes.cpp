#include "models/mesh/nodes.h"

#ifdef BOREAS_WITH_ECCODES
#include <eccodes.h>
#endif

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <numeric>

#include <fmt/ranges.h>

#include "kernels/core/error.h"
#include "models/mesh/point_tree.h"

namespace boreas {
namespace {

using std::numbers::pi;

constexpr double kDegree = pi / 180;

/// P_n(cos t) and its derivative by t. The recurrence runs on the differences P_k - P_{k-1} and on 1 - cos t, which
/// keep their digits near the pole, where cos t itself has lost them.
std::pair<double, double> legendre(int64_t n, double t) {
  const double below_one = 2 * std::sin(t / 2) * std::sin(t / 2);  // 1 - cos t
  double p = 1, difference = 0;
  for (int64_t k = 0; k < n; ++k) {
    difference = (double(k) * difference - double(2 * k + 1) * below_one * p) / double(k + 1);
    p += difference;
  }
  return {p, double(n) * (difference - below_one * p) / std::sin(t)};  // sin(t) dP/dt = n (cos(t) P_n - P_{n-1})
}

// --- the icosahedron and its refinement
// --------------------------------------------------------------------------------

using Face = std::array<int32_t, 3>;

Vec3 normalised(const Vec3& v) {
  const double length = std::sqrt(dot(v, v));
  return {v[0] / length, v[1] / length, v[2] / length};
}

std::vector<Vec3> icosahedron_vertices() {
  std::vector<Vec3> vertices;
  for (const double a : {-1.0, 1.0})
    for (const double b : {-std::numbers::phi, std::numbers::phi})
      for (const Vec3& v : {Vec3{0, a, b}, Vec3{a, b, 0}, Vec3{b, 0, a}}) vertices.push_back(normalised(v));
  return vertices;
}

std::vector<Face> icosahedron_faces(const std::vector<Vec3>& vertices) {
  const auto adjacent = [&](int32_t a, int32_t b) {
    return dot(vertices[a], vertices[b]) > 0.4;
  };  // 1/sqrt(5) or below 0
  std::vector<Face> faces;
  for (int32_t a = 0; a < 12; ++a)
    for (int32_t b = a + 1; b < 12; ++b)
      for (int32_t c = b + 1; c < 12; ++c)
        if (adjacent(a, b) && adjacent(b, c) && adjacent(a, c)) faces.push_back({a, b, c});
  return faces;
}

using Edge = std::array<int32_t, 2>;  // first < second

Edge make_edge(int32_t a, int32_t b) { return a < b ? Edge{a, b} : Edge{b, a}; }

std::vector<Edge> edges_of(const std::vector<Face>& faces) {
  std::vector<Edge> edges;
  edges.reserve(3 * faces.size());
  for (const auto& [a, b, c] : faces)
    for (const Edge& edge : {make_edge(a, b), make_edge(b, c), make_edge(c, a)}) edges.push_back(edge);
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  return edges;
}

/// Appends the midpoint of every edge and splits each face into four.
void refine(std::vector<Vec3>& vertices, std::vector<Face>& faces, const std::vector<Edge>& edges) {
  const auto first_new = int32_t(vertices.size());
  for (const auto& [a, b] : edges) {
    const Vec3 &u = vertices[a], &v = vertices[b];
    vertices.push_back(normalised({u[0] + v[0], u[1] + v[1], u[2] + v[2]}));
  }
  const auto midpoint = [&](int32_t a, int32_t b) {
    return first_new + int32_t(std::lower_bound(edges.begin(), edges.end(), make_edge(a, b)) - edges.begin());
  };
  std::vector<Face> finer;
  finer.reserve(4 * faces.size());
  for (const auto& [a, b, c] : faces) {
    const int32_t ab = midpoint(a, b), bc = midpoint(b, c), ca = midpoint(c, a);
    for (const Face& face : {Face{a, ab, ca}, Face{b, bc, ab}, Face{c, ca, bc}, Face{ab, bc, ca}})
      finer.push_back(face);
  }
  faces = std::move(finer);
}

/// Positions in order of descending latitude, then ascending longitude. Rounding must not break a row apart: latitudes
/// closer than `tolerance` to the one before belong to the same row.
std::vector<int32_t> north_to_south(const std::vector<double>& latitudes, const std::vector<double>& longitudes,
                                    double tolerance) {
  std::vector<int32_t> order(latitudes.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return latitudes[a] > latitudes[b]; });
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && latitudes[order[end - 1]] - latitudes[order[end]] < tolerance) ++end;
    std::sort(order.begin() + begin, order.begin() + end,
              [&](int32_t a, int32_t b) { return longitudes[a] < longitudes[b]; });
    begin = end;
  }
  return order;
}

#ifdef BOREAS_WITH_ECCODES
constexpr std::array kClassicalNumbers{32, 48, 64, 80, 96, 128, 160, 200, 256, 320, 400, 512, 640, 1024, 1280, 2000};

std::vector<int64_t> classical_row_lengths(int64_t number) {
  BOREAS_CHECK(
      std::find(kClassicalNumbers.begin(), kClassicalNumbers.end(), number) != kClassicalNumbers.end(), config,
      "there is no classical reduced Gaussian grid N{}: ecCodes has tables for N = {}. An octahedral grid exists "
      "for every number",
      number, fmt::join(kClassicalNumbers, ", "));
  const std::string sample = fmt::format("reduced_gg_pl_{}_grib2", number);
  const std::unique_ptr<codes_handle, int (*)(codes_handle*)> handle(
      codes_grib_handle_new_from_samples(nullptr, sample.c_str()), codes_handle_delete);
  BOREAS_CHECK(handle, unsupported,
               "ecCodes has no sample {} with the row lengths of grid N{}: check the installation of ecCodes "
               "(ECCODES_SAMPLES_PATH)",
               sample, number);
  std::vector<long> lengths(2 * number);
  size_t count = lengths.size();
  const int status = codes_get_long_array(handle.get(), "pl", lengths.data(), &count);
  BOREAS_CHECK(status == CODES_SUCCESS && count == lengths.size(), unsupported,
               "ecCodes sample {} does not hold the {} row lengths of grid N{}: {}", sample, lengths.size(), number,
               codes_get_error_message(status));
  return {lengths.begin(), lengths.end()};
}
#else
std::vector<int64_t> classical_row_lengths(int64_t number) {
  BOREAS_FAIL(
      unsupported,
      "grid N{}: the row lengths of classical reduced Gaussian grids come from ecCodes, which this build does not "
      "have. Install libeccodes-dev and build again, or use an octahedral grid",
      number);
}
#endif

}  // namespace

std::vector<double> gaussian_latitudes(int64_t number) {
  BOREAS_CHECK(number >= 1 && number <= 2560, config, "a Gaussian grid has a number between 1 and 2560, not {}",
               number);
  const int64_t degree = 2 * number;
  std::vector<double> latitudes(degree);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < number; ++i) {
    double t = pi * (i + 0.75) / (degree + 0.5);  // the leading term of the asymptotic expansion of the zeros
    for (int iteration = 0; iteration < 10; ++iteration) {
      const auto [p, dp] = legendre(degree, t);
      const double step = p / dp;
      t -= step;
      if (std::abs(step) < 1e-15) break;
    }
    latitudes[i] = pi / 2 - t;
    latitudes[degree - 1 - i] = -latitudes[i];
  }
  return latitudes;
}

NodeSet reduced_gaussian_nodes(std::string name, std::span<const int64_t> row_lengths) {
  BOREAS_CHECK(!row_lengths.empty() && row_lengths.size() % 2 == 0, invalid_argument,
               "a reduced Gaussian grid has an even number of rows, not {}", row_lengths.size());
  const std::vector<double> latitudes = gaussian_latitudes(int64_t(row_lengths.size()) / 2);
  NodeSet nodes{.name = std::move(name), .latitudes = {}, .longitudes = {}, .attributes = {}};
  for (size_t row = 0; row < row_lengths.size(); ++row) {
    BOREAS_CHECK(row_lengths[row] >= 1, invalid_argument, "row {} of a reduced Gaussian grid has {} points", row,
                 row_lengths[row]);
    for (int64_t i = 0; i < row_lengths[row]; ++i) {
      nodes.latitudes.push_back(latitudes[row]);
      nodes.longitudes.push_back(2 * pi * double(i) / double(row_lengths[row]));
    }
  }
  return nodes;
}

NodeSet octahedral_nodes(std::string name, int64_t number) {
  BOREAS_CHECK(number >= 1 && number <= 2560, config, "a Gaussian grid has a number between 1 and 2560, not {}",
               number);
  std::vector<int64_t> row_lengths(2 * number);
  for (int64_t i = 0; i < number; ++i) row_lengths[i] = row_lengths[2 * number - 1 - i] = 20 + 4 * i;
  return reduced_gaussian_nodes(std::move(name), row_lengths);
}

NodeSet classical_gaussian_nodes(std::string name, int64_t number) {
  return reduced_gaussian_nodes(std::move(name), classical_row_lengths(number));
}

NodeSet regular_nodes(std::string name, int64_t num_latitudes, int64_t num_longitudes, bool poles) {
  BOREAS_CHECK(num_latitudes >= 2 && num_longitudes >= 1, config,
               "a regular grid needs at least 2 latitudes and 1 longitude, not {} x {}", num_latitudes, num_longitudes);
  NodeSet nodes{.name = std::move(name), .latitudes = {}, .longitudes = {}, .attributes = {}};
  for (int64_t i = 0; i < num_latitudes; ++i)
    for (int64_t j = 0; j < num_longitudes; ++j) {
      nodes.latitudes.push_back(poles ? pi / 2 - pi * double(i) / double(num_latitudes - 1)
                                      : pi / 2 - pi * (double(i) + 0.5) / double(num_latitudes));
      nodes.longitudes.push_back(2 * pi * double(j) / double(num_longitudes));
    }
  return nodes;
}

NodeSet nodes_at(std::string name, std::span<const double> latitudes_deg, std::span<const double> longitudes_deg) {
  BOREAS_CHECK(latitudes_deg.size() == longitudes_deg.size() && !latitudes_deg.empty(), invalid_argument,
               "node set {}: {} latitudes and {} longitudes; there must be as many, and at least one", name,
               latitudes_deg.size(), longitudes_deg.size());
  NodeSet nodes{.name = std::move(name), .latitudes = {}, .longitudes = {}, .attributes = {}};
  for (size_t i = 0; i < latitudes_deg.size(); ++i) {
    // Float32 files may hold a pole as 90.00001.
    BOREAS_CHECK(
        std::abs(latitudes_deg[i]) <= 90.001 && std::isfinite(longitudes_deg[i]), invalid_argument,
        "node set {}: point {} has latitude {} and longitude {} degrees; expected -90..90 and a finite longitude",
        nodes.name, i, latitudes_deg[i], longitudes_deg[i]);
    nodes.latitudes.push_back(std::clamp(latitudes_deg[i], -90.0, 90.0) * kDegree);
    nodes.longitudes.push_back(longitudes_deg[i] * kDegree);
  }
  return nodes;
}

IcosahedralMesh icosahedral_mesh(std::string name, int level) {
  BOREAS_CHECK(level >= 0 && level <= kMaxIcosahedralLevel, config,
               "the icosahedral mesh has a level between 0 and {}, not {}; level r has 10 4^r + 2 nodes",
               kMaxIcosahedralLevel, level);
  std::vector<Vec3> vertices = icosahedron_vertices();
  std::vector<Face> faces = icosahedron_faces(vertices);
  IcosahedralMesh mesh;
  for (int l = 0; l < level; ++l) {
    mesh.edges_of_level.push_back(edges_of(faces));
    refine(vertices, faces, mesh.edges_of_level.back());
  }
  mesh.edges_of_level.push_back(edges_of(faces));

  std::vector<double> latitudes, longitudes;
  for (const Vec3& v : vertices) {
    // Rounding noise in a coordinate that is zero would make -180 of 180 degrees, or any longitude at a pole.
    const auto [x, y, z] = Vec3{std::abs(v[0]) < 1e-13 ? 0 : v[0], std::abs(v[1]) < 1e-13 ? 0 : v[1], v[2]};
    latitudes.push_back(std::atan2(z, std::hypot(x, y)));
    longitudes.push_back(std::atan2(y, x));
  }
  const std::vector<int32_t> order = north_to_south(latitudes, longitudes, 1e-13);
  mesh.nodes.name = std::move(name);
  std::vector<int32_t> position(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    position[order[i]] = int32_t(i);
    mesh.nodes.latitudes.push_back(latitudes[order[i]]);
    mesh.nodes.longitudes.push_back(longitudes[order[i]]);
  }
  for (auto& edges : mesh.edges_of_level)
    for (auto& [a, b] : edges) {
      a = position[a];
      b = position[b];
    }
  return mesh;
}

}  // namespace boreas
