#include "models/mesh/attributes.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/error.h"
#include "models/mesh/point_tree.h"

namespace boreas {
namespace {

/// (x, y) of `s` after the rotation that takes `t` to the north pole.
std::array<double, 2> seen_from(const Vec3& t, const Vec3& s) {
  constexpr double kPole = 1e-8;
  const double horizontal = std::hypot(t[0], t[1]);  // |t x z|, the sine of the rotation angle; t[2] is its cosine
  if (horizontal < kPole) return {s[0], t[2] > 0 ? s[1] : -s[1]};
  const Vec3 axis{t[1] / horizontal, -t[0] / horizontal, 0};
  const Vec3 turned = cross(axis, s);
  const double along = dot(axis, s) * (1 - t[2]);
  return {s[0] * t[2] + turned[0] * horizontal + axis[0] * along,
          s[1] * t[2] + turned[1] * horizontal + axis[1] * along};
}

}  // namespace

std::vector<double> edge_lengths(const EdgeSet& edges, const NodeSet& src, const NodeSet& dst) {
  std::vector<double> lengths(edges.size());
#pragma omp parallel for schedule(static)
  for (int64_t m = 0; m < edges.size(); ++m) {
    const int32_t s = edges.src_of[m], d = edges.dst_of[m];
    const double sin_lat = std::sin((src.latitudes[s] - dst.latitudes[d]) / 2);
    const double sin_lon = std::sin((src.longitudes[s] - dst.longitudes[d]) / 2);
    const double a =
        std::min(1.0, sin_lat * sin_lat + std::cos(src.latitudes[s]) * std::cos(dst.latitudes[d]) * sin_lon * sin_lon);
    lengths[m] = 2 * std::atan2(std::sqrt(a), std::sqrt(1 - a));
  }
  return lengths;
}

std::vector<double> edge_directions(const EdgeSet& edges, const NodeSet& src, const NodeSet& dst) {
  const std::vector<Vec3> src_xyz = to_xyz(src.latitudes, src.longitudes);
  const std::vector<Vec3> dst_xyz = to_xyz(dst.latitudes, dst.longitudes);
  std::vector<double> directions(2 * edges.size());
#pragma omp parallel for schedule(static)
  for (int64_t m = 0; m < edges.size(); ++m) {
    const auto [x, y] = seen_from(dst_xyz[edges.dst_of[m]], src_xyz[edges.src_of[m]]);
    const double length = std::hypot(x, y);
    const bool coincident = length < 1e-8;  // what is left is rounding noise, not a direction
    directions[2 * m] = coincident ? 0 : x / length;
    directions[2 * m + 1] = coincident ? 0 : y / length;
  }
  return directions;
}

void normalise(std::vector<double>& values, EdgeNormalisation normalisation, const std::string& what) {
  if (values.empty() || normalisation == EdgeNormalisation::none || normalisation == EdgeNormalisation::omit) return;
  const auto n = double(values.size());
  const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
  double divisor = 1, subtract = 0;
  switch (normalisation) {
    case EdgeNormalisation::unit_std: {
      double mean = 0, squares = 0;
      for (const double value : values) mean += value / n;
      for (const double value : values) squares += (value - mean) * (value - mean);
      divisor = values.size() > 1 ? std::sqrt(squares / (n - 1)) : 0;
      if (divisor == 0) divisor = 1;
      break;
    }
    case EdgeNormalisation::unit_max:
      divisor = *largest;
      break;
    case EdgeNormalisation::unit_range:
      subtract = *smallest;
      divisor = *largest - *smallest;
      break;
    case EdgeNormalisation::l1:
      divisor = 0;
      for (const double value : values) divisor += value;
      break;
    case EdgeNormalisation::l2:
      divisor = 0;
      for (const double value : values) divisor += value * value;
      divisor = std::sqrt(divisor);
      break;
    case EdgeNormalisation::none:
    case EdgeNormalisation::omit:
      break;
  }
  BOREAS_CHECK(divisor != 0, config,
               "{} cannot be normalised by {}, which is zero for its {} values; use none or unit_std", what,
               to_string(normalisation), values.size());
  for (double& value : values) value = (value - subtract) / divisor;
}

void set_edge_attributes(EdgeSet& edges, const NodeSet& src, const NodeSet& dst, EdgeNormalisation edge_length,
                         EdgeNormalisation edge_dirs) {
  struct Column {
    std::string name;
    int width;
    std::vector<double> values;
  };
  std::vector<Column> columns;
  if (edge_length != EdgeNormalisation::omit) columns.push_back({"edge_length", 1, edge_lengths(edges, src, dst)});
  if (edge_dirs != EdgeNormalisation::omit) columns.push_back({"edge_dirs", 2, edge_directions(edges, src, dst)});
  edges.attribute_names.clear();
  edges.attribute_widths.clear();
  for (Column& column : columns) {
    normalise(column.values, column.width == 1 ? edge_length : edge_dirs,
              fmt::format("{} of edges {} -> {}", column.name, edges.src, edges.dst));
    edges.attribute_names.push_back(column.name);
    edges.attribute_widths.push_back(column.width);
  }
  const int width = edges.attribute_width();
  edges.attributes.resize(edges.size() * width);
  int first = 0;
  for (const Column& column : columns) {
    for (int64_t m = 0; m < edges.size(); ++m)
      std::copy_n(&column.values[m * column.width], column.width, &edges.attributes[m * width + first]);
    first += column.width;
  }
}

}  // namespace boreas
