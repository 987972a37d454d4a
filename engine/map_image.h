// Maps of fields on any grid, as PNG.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace boreas {

/// Which colours: `diverging` runs blue - white - red around the middle of the range, `sequential` dark to light.
enum class Palette { diverging, sequential };

/// Draws fields of one set of cells on an equirectangular map (longitudes -180 to 180): each pixel takes the value of
/// the nearest cell on the sphere, looked up once. Missing values are grey; a graticule is drawn every 30 degrees.
class MapRenderer {
 public:
  /// Latitudes and longitudes of the cells in degrees.
  MapRenderer(std::span<const double> latitudes, std::span<const double> longitudes, int width = 720);

  struct Style {
    std::string title;                ///< first line of the picture
    std::string unit;                 ///< written at the colour bar
    double minimum = 0, maximum = 1;  ///< ends of the colour bar; values beyond take the end's colour
    Palette palette = Palette::diverging;
  };
  /// The cells that are seen, ascending: at most one for each pixel.
  const std::vector<int64_t>& cells() const { return cells_; }
  /// The picture as the bytes of a PNG file: title, map, colour bar with ticks; `values`: of the cells that are seen.
  /// Throws unsupported in a build without libpng, shape if there are more or less.
  std::vector<uint8_t> render(std::span<const float> values, const Style& style) const;

 private:
  int width_, height_;
  std::vector<int64_t> cells_;
  std::vector<int32_t> cell_of_;  // [height * width], in cells_
};

/// Round limits for a colour bar over all these fields: symmetric around zero if `symmetric`.
std::pair<double, double> color_limits(std::span<const std::span<const float>> fields, bool symmetric);

}  // namespace boreas
