// PointTree: neighbours of a point among many on the unit sphere, with ties resolved by index.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace boreas {

using Vec3 = std::array<double, 3>;

inline double dot(const Vec3& a, const Vec3& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

inline Vec3 cross(const Vec3& a, const Vec3& b) {
  return {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
}

/// Point of the unit sphere; angles in radians.
inline Vec3 to_xyz(double latitude, double longitude) {
  return {std::cos(latitude) * std::cos(longitude), std::cos(latitude) * std::sin(longitude), std::sin(latitude)};
}
std::vector<Vec3> to_xyz(std::span<const double> latitudes, std::span<const double> longitudes);

struct Neighbour {
  int32_t index;
  double squared_chord;
};

/// A k-d tree over points in space. Distances are chords (straight lines through the unit sphere).
///
/// Grids are symmetric, so equal distances are the rule, and rounding must not decide between them: two distances count
/// as equal if they differ by less than one part in 1e9 or 1e-12. Results then are the same on every machine.
class PointTree {
 public:
  explicit PointTree(std::vector<Vec3> points);
  PointTree(PointTree&&) noexcept;
  ~PointTree();

  const std::vector<Vec3>& points() const;
  int64_t size() const { return int64_t(points().size()); }

  /// All points at most `chord` away from `query`, in no particular order.
  void within(const Vec3& query, double chord, std::vector<Neighbour>& found) const;

  /// The `count` nearest points, or all if there are fewer; of those at equal distance the ones of lowest index.
  void nearest(const Vec3& query, int64_t count, std::vector<Neighbour>& found) const;

 private:
  struct Index;
  std::unique_ptr<Index> index_;
};

/// Leaves the `count` nearest; of those at equal distance the ones of lowest index.
void keep_nearest(std::vector<Neighbour>& neighbours, int64_t count);

}  // namespace boreas
