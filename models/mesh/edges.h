// Edges between node sets: cut-off, k nearest, multi-scale. All results are sorted by destination, then source.
#pragma once

#include "kernels/graph/graph_data.h"
#include "models/mesh/nodes.h"

namespace boreas {

inline constexpr double kEarthRadiusKm = 6371;

/// The largest distance (chord of the unit sphere) from a node to its nearest other node; nodes that coincide with
/// another do not count. Throws invalid_argument for fewer than two places.
double reference_distance(const NodeSet& nodes);

/// For each destination all sources at most `radius` (chord) away, of these the `max_num_neighbours` nearest. A node
/// has no edge to itself if source and destination set have the same name. Equal distances: see PointTree.
EdgeSet cutoff_edges(const NodeSet& src, const NodeSet& dst, double radius, int64_t max_num_neighbours);

/// For each destination its `num_neighbours` nearest sources, itself excluded. Throws config if there are fewer
/// sources.
EdgeSet nearest_edges(const NodeSet& src, const NodeSet& dst, int64_t num_neighbours);

/// The edges of mesh levels 1 to the last, in both directions: 20 (4^(level+1) - 4). Throws config for a mesh of level
/// 0.
EdgeSet multi_scale_edges(const IcosahedralMesh& mesh);

}  // namespace boreas
