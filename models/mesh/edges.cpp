#include "models/mesh/edges.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/error.h"
#include "models/mesh/point_tree.h"

namespace boreas {
namespace {

/// Edges to each destination from the sources that `find(point, found)` gives.
template <class Find>
EdgeSet edges_to(const NodeSet& src, const NodeSet& dst, Find find) {
  const std::vector<Vec3> points = to_xyz(dst.latitudes, dst.longitudes);
  const auto num_dst = int64_t(points.size());
  constexpr int64_t kBlock = 512;  // destinations; blocks are joined in order, so threads leave no trace
  const int64_t num_blocks = (num_dst + kBlock - 1) / kBlock;
  std::vector<EdgeSet> blocks(num_blocks);
#pragma omp parallel for schedule(static, 1)
  for (int64_t b = 0; b < num_blocks; ++b) {
    std::vector<Neighbour> found;
    for (int64_t i = b * kBlock; i < std::min(num_dst, (b + 1) * kBlock); ++i) {
      find(points[i], int32_t(i), found);
      std::sort(found.begin(), found.end(), [](const Neighbour& x, const Neighbour& y) { return x.index < y.index; });
      for (const Neighbour& neighbour : found) {
        blocks[b].src_of.push_back(neighbour.index);
        blocks[b].dst_of.push_back(int32_t(i));
      }
    }
  }
  EdgeSet edges;
  edges.src = src.name;
  edges.dst = dst.name;
  for (EdgeSet& block : blocks) {
    edges.src_of.insert(edges.src_of.end(), block.src_of.begin(), block.src_of.end());
    edges.dst_of.insert(edges.dst_of.end(), block.dst_of.begin(), block.dst_of.end());
    block = {};
  }
  return edges;
}

void drop(std::vector<Neighbour>& found, int32_t index) {
  std::erase_if(found, [index](const Neighbour& neighbour) { return neighbour.index == index; });
}

}  // namespace

double reference_distance(const NodeSet& nodes) {
  const PointTree tree(to_xyz(nodes.latitudes, nodes.longitudes));
  const int64_t n = tree.size();
  double largest = 0;
#pragma omp parallel
  {
    std::vector<Neighbour> found;
#pragma omp for schedule(static) reduction(max : largest)
    for (int64_t i = 0; i < n; ++i) {
      tree.nearest(tree.points()[i], 2, found);
      for (const Neighbour& neighbour : found) largest = std::max(largest, neighbour.squared_chord);
    }
  }
  largest = std::sqrt(largest);
  BOREAS_CHECK(
      largest > 1e-9, invalid_argument,
      "node set {} has {} nodes at one place, so the distance to the nearest other node does not exist; give the "
      "cut-off in km (cutoff_distance_km) or use k nearest edges",
      nodes.name, n);
  return largest;
}

EdgeSet cutoff_edges(const NodeSet& src, const NodeSet& dst, double radius, int64_t max_num_neighbours) {
  BOREAS_CHECK(radius > 0 && std::isfinite(radius), config,
               "edges {} -> {}: the cut-off distance is {}; it must be positive", src.name, dst.name, radius);
  BOREAS_CHECK(max_num_neighbours >= 1, config, "edges {} -> {}: max_num_neighbours is {}; it must be at least 1",
               src.name, dst.name, max_num_neighbours);
  const PointTree tree(to_xyz(src.latitudes, src.longitudes));
  const bool same = src.name == dst.name;
  return edges_to(src, dst, [&](const Vec3& point, int32_t i, std::vector<Neighbour>& found) {
    tree.within(point, radius, found);
    if (same) drop(found, i);
    keep_nearest(found, max_num_neighbours);
  });
}

EdgeSet nearest_edges(const NodeSet& src, const NodeSet& dst, int64_t num_neighbours) {
  const bool same = src.name == dst.name;
  const int64_t available = src.size() - (same ? 1 : 0);
  BOREAS_CHECK(num_neighbours >= 1 && num_neighbours <= available, config,
               "edges {} -> {}: {} nearest neighbours wanted; {} has {} nodes to choose from", src.name, dst.name,
               num_neighbours, src.name, available);
  const PointTree tree(to_xyz(src.latitudes, src.longitudes));
  return edges_to(src, dst, [&](const Vec3& point, int32_t i, std::vector<Neighbour>& found) {
    tree.nearest(point, num_neighbours + (same ? 1 : 0), found);
    if (same) drop(found, i);
    keep_nearest(found, num_neighbours);
  });
}

EdgeSet multi_scale_edges(const IcosahedralMesh& mesh) {
  BOREAS_CHECK(mesh.edges_of_level.size() >= 2, config,
               "multi-scale edges are those of mesh levels 1 and up, but {} has level 0 only; use level 1 or more",
               mesh.nodes.name);
  std::vector<std::array<int32_t, 2>> sorted;  // destination, source
  for (size_t level = 1; level < mesh.edges_of_level.size(); ++level)
    for (const auto& [a, b] : mesh.edges_of_level[level]) {
      sorted.push_back({a, b});
      sorted.push_back({b, a});
    }
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  EdgeSet edges;
  edges.src = edges.dst = mesh.nodes.name;
  for (const auto& [dst, src] : sorted) {
    edges.dst_of.push_back(dst);
    edges.src_of.push_back(src);
  }
  return edges;
}

}  // namespace boreas
