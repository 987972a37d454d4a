// Edge attributes: length and direction, normalised over the edge set.
#pragma once

#include <vector>

#include "kernels/core/fields.h"
#include "kernels/graph/graph_data.h"

namespace boreas {

/// What an edge attribute is divided by; statistics over all entries of the edge set, the columns of an attribute
/// together. `omit` leaves the attribute out.
enum class EdgeNormalisation {
  omit,
  none,
  unit_std,    ///< unbiased standard deviation, nothing subtracted; 1 where that is zero
  unit_max,    ///< largest value
  unit_range,  ///< largest minus smallest, after subtracting the smallest
  l1,          ///< sum
  l2           ///< root of the sum of squares
};
template <>
struct EnumNames<EdgeNormalisation> {
  static constexpr std::array values{
      std::pair{EdgeNormalisation::omit, std::string_view("omit")},
      std::pair{EdgeNormalisation::none, std::string_view("none")},
      std::pair{EdgeNormalisation::unit_std, std::string_view("unit_std")},
      std::pair{EdgeNormalisation::unit_max, std::string_view("unit_max")},
      std::pair{EdgeNormalisation::unit_range, std::string_view("unit_range")},
      std::pair{EdgeNormalisation::l1, std::string_view("l1")},
      std::pair{EdgeNormalisation::l2, std::string_view("l2")},
  };
};

/// Angle between the ends of each edge, radians [M]: 2 atan2(sqrt(a), sqrt(1-a)),
/// a = sin^2((lat_s - lat_d)/2) + cos(lat_s) cos(lat_d) sin^2((lon_s - lon_d)/2).
std::vector<double> edge_lengths(const EdgeSet& edges, const NodeSet& src, const NodeSet& dst);

/// Direction in which each edge arrives [M, 2]: the sphere is rotated, about a horizontal axis, until the destination t
/// is the north pole; then (x, y) of the source, scaled to length 1. The axis is t x z. A destination within 1e-8 of
/// the north pole stays; near the south pole the source becomes (x, -y). Coincident ends give (0, 0).
std::vector<double> edge_directions(const EdgeSet& edges, const NodeSet& src, const NodeSet& dst);

/// In place. Throws config if the divisor is zero (except unit_std); `what` names the values in that message.
void normalise(std::vector<double>& values, EdgeNormalisation normalisation, const std::string& what);

/// Fills the attributes of `edges` with `edge_length` (1 column), then `edge_dirs` (2 columns), each unless omitted.
void set_edge_attributes(EdgeSet& edges, const NodeSet& src, const NodeSet& dst, EdgeNormalisation edge_length,
                         EdgeNormalisation edge_dirs);

}  // namespace boreas
