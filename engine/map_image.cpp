#include "engine/map_image.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nanoflann.hpp>

#include "engine/pixel_font.h"
#include "kernels/core/error.h"

#ifdef BOREAS_WITH_PNG
#include <png.h>
#endif

namespace boreas {

namespace {

constexpr double kRadians = 3.14159265358979323846 / 180;

struct Color {
  uint8_t r, g, b;
};
constexpr Color kInk{40, 40, 40}, kPaper{255, 255, 255}, kMissing{190, 190, 190};

// Anchors of ColorBrewer's RdBu (reversed) and of matplotlib's viridis, equally spaced.
constexpr std::array<Color, 11> kDiverging = {{{5, 48, 97},
                                               {33, 102, 172},
                                               {67, 147, 195},
                                               {146, 197, 222},
                                               {209, 229, 240},
                                               {247, 247, 247},
                                               {253, 219, 199},
                                               {244, 165, 130},
                                               {214, 96, 77},
                                               {178, 24, 43},
                                               {103, 0, 31}}};
constexpr std::array<Color, 5> kSequential = {
    {{68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}}};

Color color_at(double fraction, Palette palette) {
  const Color* anchors = palette == Palette::diverging ? kDiverging.data() : kSequential.data();
  const int last = int(palette == Palette::diverging ? kDiverging.size() : kSequential.size()) - 1;
  const double position = std::clamp(fraction, 0.0, 1.0) * last;
  const int i = std::min(int(position), last - 1);
  const auto mix = [&](uint8_t a, uint8_t b) { return uint8_t(std::lround(a + (position - i) * (b - a))); };
  return {mix(anchors[i].r, anchors[i + 1].r), mix(anchors[i].g, anchors[i + 1].g),
          mix(anchors[i].b, anchors[i + 1].b)};
}

class Canvas {
 public:
  Canvas(int width, int height) : width_(width), height_(height), pixels_(size_t(width) * height, kPaper) {}
  void set(int x, int y, Color color) {
    if (x >= 0 && y >= 0 && x < width_ && y < height_) pixels_[size_t(y) * width_ + x] = color;
  }
  void blend(int x, int y, Color color, double share) {
    Color& p = pixels_[size_t(y) * width_ + x];
    const auto mix = [&](uint8_t a, uint8_t b) { return uint8_t(std::lround(a + share * (b - a))); };
    p = {mix(p.r, color.r), mix(p.g, color.g), mix(p.b, color.b)};
  }
  static int text_width(const std::string& text, int scale) { return int(text.size()) * 4 * scale - scale; }
  void text(int x, int y, const std::string& text, int scale) {
    for (const char c : text) {
      const Glyph glyph = glyph_of(c);
      for (int row = 0; row < 5; ++row)
        for (int column = 0; column < 3; ++column)
          if (glyph.rows[row] >> (2 - column) & 1)
            for (int i = 0; i < scale * scale; ++i)
              set(x + column * scale + i % scale, y + row * scale + i / scale, kInk);
      x += 4 * scale;
    }
  }
  std::vector<uint8_t> png() const;

 private:
  int width_, height_;
  std::vector<Color> pixels_;
};

std::vector<uint8_t> Canvas::png() const {
#ifdef BOREAS_WITH_PNG
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = width_;
  image.height = height_;
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  std::vector<uint8_t> bytes;
  for (int pass = 0; pass < 2; ++pass) {  // the first pass asks for the size
    bytes.resize(size);
    BOREAS_CHECK(png_image_write_to_memory(&image, pass ? bytes.data() : nullptr, &size, 0, pixels_.data(), 0, nullptr),
                 internal, "libpng could not encode a picture of {} x {}: {}", width_, height_, image.message);
  }
  bytes.resize(size);
  return bytes;
#else
  BOREAS_FAIL(unsupported, "maps need libpng: install libpng-dev and configure again");
#endif
}

struct UnitVectors {
  std::vector<std::array<double, 3>> xyz;
  size_t kdtree_get_point_count() const { return xyz.size(); }
  double kdtree_get_pt(size_t i, size_t dimension) const { return xyz[i][dimension]; }
  template <class Box>
  bool kdtree_get_bbox(Box&) const {
    return false;
  }
};

std::array<double, 3> unit_vector(double latitude, double longitude) {
  const double phi = latitude * kRadians, lambda = longitude * kRadians;
  return {std::cos(phi) * std::cos(lambda), std::cos(phi) * std::sin(lambda), std::sin(phi)};
}

// 1, 2 or 5 times a power of ten, at least x.
double round_up(double x) {
  if (!(x > 0)) return 1;
  const double power = std::pow(10, std::floor(std::log10(x)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= x * (1 - 1e-12)) return factor * power;
  return 10 * power;
}

}  // namespace

MapRenderer::MapRenderer(std::span<const double> latitudes, std::span<const double> longitudes, int width)
    : width_(width), height_(width / 2), cell_of_(size_t(width_) * height_) {
  BOREAS_CHECK(!latitudes.empty() && latitudes.size() == longitudes.size(), shape,
               "a map needs as many latitudes as longitudes, not {} and {}", latitudes.size(), longitudes.size());
  UnitVectors cells;
  for (size_t i = 0; i < latitudes.size(); ++i) cells.xyz.push_back(unit_vector(latitudes[i], longitudes[i]));
  using Metric = nanoflann::L2_Simple_Adaptor<double, UnitVectors>;
  nanoflann::KDTreeSingleIndexAdaptor<Metric, UnitVectors, 3, uint32_t> tree(
      3, cells, nanoflann::KDTreeSingleIndexAdaptorParams(16));
  tree.buildIndex();
#pragma omp parallel for schedule(static)
  for (int y = 0; y < height_; ++y)
    for (int x = 0; x < width_; ++x) {
      const auto point = unit_vector(90 - (y + 0.5) * 180 / height_, -180 + (x + 0.5) * 360 / width_);
      uint32_t nearest = 0;
      double distance = 0;
      tree.knnSearch(point.data(), 1, &nearest, &distance);
      cell_of_[size_t(y) * width_ + x] = int32_t(nearest);
    }
  cells_.assign(cell_of_.begin(), cell_of_.end());
  std::sort(cells_.begin(), cells_.end());
  cells_.erase(std::unique(cells_.begin(), cells_.end()), cells_.end());
  for (int32_t& cell : cell_of_) cell = int32_t(std::lower_bound(cells_.begin(), cells_.end(), cell) - cells_.begin());
}

std::vector<uint8_t> MapRenderer::render(std::span<const float> values, const Style& style) const {
  BOREAS_CHECK(values.size() == cells_.size(), shape, "map '{}': the field has {} values but {} cells are seen",
               style.title, values.size(), cells_.size());
  const int scale = std::max(1, width_ / 360), text_height = 5 * scale, margin = 6 * scale;
  const int map_top = 2 * margin + text_height, bar_top = map_top + height_ + margin, bar_height = 6 * scale;
  Canvas canvas(width_, bar_top + bar_height + margin + text_height + margin);
  canvas.text(margin, margin, style.title, scale);
  const double span = style.maximum - style.minimum;
  const auto fraction = [&](double value) { return span > 0 ? (value - style.minimum) / span : 0.5; };
  for (int y = 0; y < height_; ++y)
    for (int x = 0; x < width_; ++x) {
      const float value = values[cell_of_[size_t(y) * width_ + x]];
      canvas.set(x, map_top + y, std::isfinite(value) ? color_at(fraction(value), style.palette) : kMissing);
      if (y % (height_ / 6) == 0 || x % (width_ / 12) == 0) canvas.blend(x, map_top + y, kInk, 0.2);
    }
  for (int x = margin; x < width_ - margin; ++x)
    for (int y = 0; y < bar_height; ++y)
      canvas.set(x, bar_top + y, color_at(double(x - margin) / (width_ - 2 * margin - 1), style.palette));
  constexpr int kNumTicks = 5;
  for (int i = 0; i < kNumTicks; ++i) {
    const double share = double(i) / (kNumTicks - 1);
    std::string label = fmt::format("{:.4g}", style.minimum + share * span);
    if (i == kNumTicks - 1 && !style.unit.empty()) label += " " + style.unit;
    const int width = Canvas::text_width(label, scale);
    const int center = margin + int(share * (width_ - 2 * margin - 1));
    canvas.text(std::clamp(center - width / 2, margin, width_ - margin - width), bar_top + bar_height + margin, label,
                scale);
    for (int y = 0; y < bar_height; ++y) canvas.set(center, bar_top + y, kInk);
  }
  return canvas.png();
}

std::pair<double, double> color_limits(std::span<const std::span<const float>> fields, bool symmetric) {
  // The 99th percentile of the magnitudes, so that a few extremes do not bleach the rest.
  std::vector<float> finite;
  for (const auto field : fields)
    std::copy_if(field.begin(), field.end(), std::back_inserter(finite), [](float v) { return std::isfinite(v); });
  if (finite.empty()) return {0, 1};
  if (symmetric) {
    for (float& value : finite) value = std::abs(value);
    const auto place = finite.begin() + ptrdiff_t(0.99 * double(finite.size() - 1));
    std::nth_element(finite.begin(), place, finite.end());
    const double limit = round_up(*place);
    return {-limit, limit};
  }
  std::sort(finite.begin(), finite.end());
  const double low = finite[size_t(0.005 * double(finite.size() - 1))],
               high = finite[size_t(0.995 * double(finite.size() - 1))];
  const double step = round_up((high - low) / 10);
  return {std::floor(low / step) * step, std::ceil(high / step) * step};
}

}  // namespace boreas
