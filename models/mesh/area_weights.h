// The part of the sphere that each node stands for.
#pragma once

#include <vector>

#include "kernels/graph/graph_data.h"

namespace boreas {

/// Area of the spherical Voronoi cell of each node on the unit sphere; they add up to 4 pi. Nodes that coincide (within
/// 1e-9), such as the many points that a regular grid has at a pole, share their cell equally.
///
/// Each cell is found by itself: in the gnomonic projection about its node, where great circles are straight lines, a
/// square is clipped by the bisector with each neighbour, nearest first, until no farther node can reach the polygon.
/// So cells are independent (and done in parallel), and degenerate positions need no care: nodes on one circle only add
/// edges of length zero.
///
/// Throws invalid_argument naming a node whose cell does not lie within 89.9 degrees of it: the nodes do not surround
/// the sphere, as on a regional grid.
std::vector<double> spherical_voronoi_areas(const NodeSet& nodes);

}  // namespace boreas
