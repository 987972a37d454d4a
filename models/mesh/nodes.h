// Node sets: Gaussian, regular and icosahedral grids, and given points. Rows run north to south.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "kernels/graph/graph_data.h"

namespace boreas {

/// The 2N Gaussian latitudes, north to south, radians: the zeros of the Legendre polynomial of degree 2N.
/// Newton's method in the colatitude, error below 1e-14. Throws config unless 1 <= N <= 2560.
std::vector<double> gaussian_latitudes(int64_t number);

/// Reduced Gaussian grid with `row_lengths[i]` points on row i, the first at longitude 0, eastwards.
NodeSet reduced_gaussian_nodes(std::string name, std::span<const int64_t> row_lengths);

/// Octahedral reduced Gaussian grid O<number>: 16 + 4i points on row i = 1..N from either pole, 4N(N+9) in all.
NodeSet octahedral_nodes(std::string name, int64_t number);

/// Classical reduced Gaussian grid N<number>. Its row lengths are tabulated by ecCodes: throws unsupported in a build
/// without it, config for a number it has no table of.
NodeSet classical_gaussian_nodes(std::string name, int64_t number);

/// Regular grid, longitudes from 0. With poles, rows lie at 90, 90 - d, .., -90, d = 180 / (num_latitudes - 1), and
/// each pole is num_longitudes coincident nodes; without, at 90 - d/2, .., -90 + d/2, d = 180 / num_latitudes.
NodeSet regular_nodes(std::string name, int64_t num_latitudes, int64_t num_longitudes, bool poles);

/// Given points, degrees. Throws invalid_argument naming the first latitude outside -90..90 or value that is not
/// finite.
NodeSet nodes_at(std::string name, std::span<const double> latitudes_deg, std::span<const double> longitudes_deg);

inline constexpr int kMaxIcosahedralLevel = 8;

/// Icosahedron refined `level` times, each edge halved and the new vertices moved onto the sphere: 10 4^level + 2
/// nodes. The vertices of a level are vertices of all finer ones, so that the edges of every level connect nodes of the
/// last. Nodes are ordered by descending latitude, then ascending longitude in (-180, 180]; latitudes closer than 1e-13
/// count as equal. The vertices of level 0 are (0, +-1, +-golden ratio) and its cyclic permutations.
struct IcosahedralMesh {
  NodeSet nodes;
  std::vector<std::vector<std::array<int32_t, 2>>> edges_of_level;  ///< undirected; level l has 30 4^l
};
/// Throws config unless 0 <= level <= 8.
IcosahedralMesh icosahedral_mesh(std::string name, int level);

}  // namespace boreas
