#include "models/mesh/area_weights.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/core/error.h"
#include "models/mesh/point_tree.h"

namespace boreas {
namespace {

constexpr double kHorizon = 600;      // half the side of the first square: tan(89.9 degrees)
constexpr double kCoincident = 1e-9;  // chord

struct Point2 {
  double u, v;
};

/// The convex polygon around one node, in its gnomonic plane.
class Cell {
 public:
  explicit Cell(const Vec3& centre) {
    // Any two directions that make a right-handed frame with the centre.
    const Vec3 other = std::abs(centre[2]) < 0.9 ? Vec3{0, 0, 1} : Vec3{1, 0, 0};
    u_ = cross(other, centre);
    const double length = std::sqrt(dot(u_, u_));
    for (double& x : u_) x /= length;
    v_ = cross(centre, u_);
  }

  void reset() {
    corners_ = {{-kHorizon, -kHorizon}, {kHorizon, -kHorizon}, {kHorizon, kHorizon}, {-kHorizon, kHorizon}};
    measure();
  }

  /// Keeps what is nearer to the centre than to the neighbour: c . x >= q . x for x = c + u e_u + v e_v.
  void clip(const Vec3& neighbour, double squared_chord) {
    const double a = dot(neighbour, u_), b = dot(neighbour, v_), c = squared_chord / 2;  // c = 1 - centre . neighbour
    const auto margin = [&](const Point2& p) { return c - a * p.u - b * p.v; };
    if (std::all_of(corners_.begin(), corners_.end(), [&](const Point2& p) { return margin(p) >= 0; })) return;
    clipped_.clear();
    for (size_t i = 0; i < corners_.size(); ++i) {
      const Point2 &from = corners_[i], &to = corners_[i + 1 < corners_.size() ? i + 1 : 0];
      const double margin_from = margin(from), margin_to = margin(to);
      if (margin_from >= 0) clipped_.push_back(from);
      if ((margin_from >= 0) != (margin_to >= 0)) {
        const double t = margin_from / (margin_from - margin_to);
        clipped_.push_back({from.u + t * (to.u - from.u), from.v + t * (to.v - from.v)});
      }
    }
    corners_.swap(clipped_);
    measure();
  }

  /// Squared chord beyond which no node can clip the polygon: that of twice the angle to the farthest corner.
  double squared_reach() const { return squared_reach_; }

  bool bounded() const {
    return std::none_of(corners_.begin(), corners_.end(),
                        [](const Point2& p) { return std::max(std::abs(p.u), std::abs(p.v)) > 0.999 * kHorizon; });
  }

  /// Sum of the spherical triangles (centre, a, b) over the sides: tan(area/2) = c.(a x b) / (1 + c.a + a.b + b.c) for
  /// unit vectors (van Oosterom and Strackee 1983); here a = (u, v, 1) in the frame of the cell, not normalised.
  double area() const {
    double sum = 0;
    for (size_t i = 0; i < corners_.size(); ++i) {
      const Point2 &a = corners_[i], &b = corners_[i + 1 < corners_.size() ? i + 1 : 0];
      const double length_a = std::sqrt(1 + a.u * a.u + a.v * a.v), length_b = std::sqrt(1 + b.u * b.u + b.v * b.v);
      const double triple = a.u * b.v - a.v * b.u;
      sum += 2 * std::atan2(triple, length_a * length_b + length_b + (1 + a.u * b.u + a.v * b.v) + length_a);
    }
    return sum;
  }

 private:
  void measure() {
    double farthest = 0;  // squared tangent of the angle
    for (const auto& [u, v] : corners_) farthest = std::max(farthest, u * u + v * v);
    squared_reach_ = 4 * farthest / (1 + farthest);
  }

  Vec3 u_, v_;
  std::vector<Point2> corners_, clipped_;
  double squared_reach_ = 4;
};

}  // namespace

std::vector<double> spherical_voronoi_areas(const NodeSet& nodes) {
  const PointTree tree(to_xyz(nodes.latitudes, nodes.longitudes));
  const std::vector<Vec3>& points = tree.points();
  const int64_t n = tree.size();
  // A circle of this radius holds 8 nodes of an even distribution.
  const double first_radius = std::min(2.0, 2 * std::sqrt(8.0 / double(n)));
  std::vector<double> areas(n, 0);
  int64_t unbounded = n;
#pragma omp parallel for schedule(static, 64) reduction(min : unbounded)
  for (int64_t i = 0; i < n; ++i) {
    Cell cell(points[i]);
    std::vector<Neighbour> found;
    std::vector<int32_t> coincident;
    double radius = first_radius;
    while (true) {
      tree.within(points[i], radius, found);
      std::sort(found.begin(), found.end(), [](const Neighbour& a, const Neighbour& b) {
        return a.squared_chord != b.squared_chord ? a.squared_chord < b.squared_chord : a.index < b.index;
      });
      coincident.clear();
      for (const auto& [index, squared_chord] : found)
        if (squared_chord < kCoincident * kCoincident) coincident.push_back(index);
      // The first of the coincident nodes does the work for all.
      if (*std::min_element(coincident.begin(), coincident.end()) != i) break;
      cell.reset();
      for (size_t k = coincident.size(); k < found.size() && found[k].squared_chord <= cell.squared_reach(); ++k)
        cell.clip(points[found[k].index], found[k].squared_chord);
      if (radius * radius >= cell.squared_reach()) {
        if (!cell.bounded()) unbounded = std::min(unbounded, i);
        for (const int32_t j : coincident) areas[j] = cell.area() / double(coincident.size());
        break;
      }
      radius = std::min(1.000001 * std::sqrt(cell.squared_reach()), 2 * radius);  // rounding must not fall short
    }
  }
  BOREAS_CHECK(unbounded == n, invalid_argument,
               "node set {}: the Voronoi cell of node {} (latitude {:.4f}, longitude {:.4f} degrees) is larger than a "
               "hemisphere, so the nodes do not cover the globe; choose another area weight (graph.area_weight: "
               "cosine_latitude)",
               nodes.name, unbounded, nodes.latitudes[unbounded] * 180 / std::numbers::pi,
               nodes.longitudes[unbounded] * 180 / std::numbers::pi);
  return areas;
}

}  // namespace boreas
