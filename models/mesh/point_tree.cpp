#include "models/mesh/point_tree.h"

#include <algorithm>
#include <nanoflann.hpp>

#include "kernels/core/error.h"

namespace boreas {
namespace {

constexpr double kRelativeTie = 1e-9, kAbsoluteTie = 1e-12;  // of chords

double squared_with_slack(double chord) {
  const double reach = chord * (1 + kRelativeTie) + kAbsoluteTie;
  return reach * reach;
}

/// What nanoflann asks of a set of points.
struct Points {
  std::vector<Vec3> xyz;
  size_t kdtree_get_point_count() const { return xyz.size(); }
  double kdtree_get_pt(size_t i, size_t dim) const { return xyz[i][dim]; }
  template <class Box>
  bool kdtree_get_bbox(Box&) const {
    return false;
  }
};

/// Collects all points closer than the given squared distance.
struct Collector {
  using DistanceType = double;
  double reach;
  std::vector<Neighbour>& found;

  size_t size() const { return found.size(); }
  bool full() const { return true; }
  double worstDist() const { return reach; }
  bool addPoint(double squared_chord, uint32_t index) {
    if (squared_chord <= reach) found.push_back({int32_t(index), squared_chord});
    return true;
  }
};

}  // namespace

std::vector<Vec3> to_xyz(std::span<const double> latitudes, std::span<const double> longitudes) {
  std::vector<Vec3> points(latitudes.size());
  for (size_t i = 0; i < points.size(); ++i) points[i] = to_xyz(latitudes[i], longitudes[i]);
  return points;
}

struct PointTree::Index {
  using Tree = nanoflann::KDTreeSingleIndexAdaptor<nanoflann::L2_Simple_Adaptor<double, Points>, Points, 3, uint32_t>;
  Points points;
  Tree tree;
  explicit Index(std::vector<Vec3> xyz) : points{std::move(xyz)}, tree(3, points, {10}) {}
};

PointTree::PointTree(std::vector<Vec3> points) {
  BOREAS_CHECK(!points.empty(), invalid_argument, "a search tree needs at least one point");
  index_ = std::make_unique<Index>(std::move(points));
}
PointTree::PointTree(PointTree&&) noexcept = default;
PointTree::~PointTree() = default;

const std::vector<Vec3>& PointTree::points() const { return index_->points.xyz; }

void PointTree::within(const Vec3& query, double chord, std::vector<Neighbour>& found) const {
  found.clear();
  Collector collector{squared_with_slack(chord), found};
  index_->tree.findNeighbors(collector, query.data(), {});
}

void PointTree::nearest(const Vec3& query, int64_t count, std::vector<Neighbour>& found) const {
  count = std::min(count, size());
  std::vector<uint32_t> indices(count);
  std::vector<double> squared(count);
  index_->tree.knnSearch(query.data(), size_t(count), indices.data(), squared.data());
  within(query, std::sqrt(squared.back()), found);  // the same again, with all that are as far as the last
  keep_nearest(found, count);
}

void keep_nearest(std::vector<Neighbour>& neighbours, int64_t count) {
  if (int64_t(neighbours.size()) <= count) return;
  std::nth_element(neighbours.begin(), neighbours.begin() + (count - 1), neighbours.end(),
                   [](const Neighbour& a, const Neighbour& b) { return a.squared_chord < b.squared_chord; });
  const double last = std::sqrt(neighbours[count - 1].squared_chord);
  const double farther = squared_with_slack(last);
  const double nearer = std::pow(std::max(0.0, last * (1 - kRelativeTie) - kAbsoluteTie), 2);
  const auto rank = [&](const Neighbour& n) {
    return n.squared_chord < nearer ? 0 : n.squared_chord <= farther ? 1 : 2;
  };
  std::sort(neighbours.begin(), neighbours.end(), [&](const Neighbour& a, const Neighbour& b) {
    const int rank_a = rank(a), rank_b = rank(b);
    return rank_a != rank_b ? rank_a < rank_b : a.index < b.index;
  });
  neighbours.resize(count);
}

}  // namespace boreas
