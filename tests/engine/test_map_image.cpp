#include "engine/map_image.h"

#include <gtest/gtest.h>
#include <png.h>

#include "kernels/core/error.h"

namespace boreas {
namespace {

struct Picture {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;
  std::array<int, 3> at(int x, int y) const {
    const uint8_t* p = rgb.data() + 3 * (size_t(y) * width + x);
    return {p[0], p[1], p[2]};
  }
};

Picture decode(const std::vector<uint8_t>& png) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  EXPECT_TRUE(png_image_begin_read_from_memory(&image, png.data(), png.size())) << image.message;
  image.format = PNG_FORMAT_RGB;
  Picture picture{int(image.width), int(image.height), std::vector<uint8_t>(PNG_IMAGE_SIZE(image))};
  EXPECT_TRUE(png_image_finish_read(&image, nullptr, picture.rgb.data(), 0, nullptr)) << image.message;
  return picture;
}

// Two rows of four cells: the north is positive, one cell of the south is missing.
struct Cells {
  std::vector<double> latitudes = {45, 45, 45, 45, -45, -45, -45, -45};
  std::vector<double> longitudes = {-135, -45, 45, 135, 225, 315, 45, 135};  // any branch
  std::vector<float> values = {1, 1, 1, 1, -1, -1, NAN, -1};
};

constexpr int kMapTop = 2 * 6 + 5;  // title line at the scale of a 360 pixel map

TEST(MapImage, PixelsTakeTheColourOfTheNearestCell) {
  const Cells cells;
  const MapRenderer renderer(cells.latitudes, cells.longitudes, 360);
  const Picture picture = decode(renderer.render(cells.values, {"t", "K", -1, 1, Palette::diverging}));
  ASSERT_EQ(picture.width, 360);
  const auto north = picture.at(40, kMapTop + 40), south = picture.at(40, kMapTop + 140);
  EXPECT_GT(north[0], north[2]) << "the maximum of a diverging palette is red";
  EXPECT_GT(south[2], south[0]) << "the minimum is blue";
  EXPECT_EQ(picture.at(230, kMapTop + 140), (std::array<int, 3>{190, 190, 190})) << "missing values are grey";
}

TEST(MapImage, OnlyCellsThatAreSeenAreNeeded) {
  Cells cells;
  cells.latitudes.insert(cells.latitudes.begin() + 1, 80);
  cells.longitudes.insert(cells.longitudes.begin() + 1, 10);
  cells.latitudes.insert(cells.latitudes.begin() + 1, 45.000001);  // between the centres of pixels
  cells.longitudes.insert(cells.longitudes.begin() + 1, -135.000001);
  const MapRenderer renderer(cells.latitudes, cells.longitudes, 24);
  ASSERT_LT(renderer.cells().size(), 11U);
  EXPECT_TRUE(std::is_sorted(renderer.cells().begin(), renderer.cells().end()));
  EXPECT_EQ(renderer.cells().back(), 9);
  std::vector<float> seen(renderer.cells().size(), 0);
  EXPECT_FALSE(renderer.render(seen, {"", "", -1, 1, Palette::diverging}).empty());
}

TEST(MapImage, TitleIsDrawn) {
  const Cells cells;
  const MapRenderer renderer(cells.latitudes, cells.longitudes, 360);
  const auto ink = [&](const std::string& title) {
    const Picture picture = decode(renderer.render(cells.values, {title, "", -1, 1, Palette::sequential}));
    int count = 0;
    for (int y = 0; y < 12; ++y)
      for (int x = 0; x < picture.width; ++x) count += picture.at(x, y)[0] < 128;
    return count;
  };
  EXPECT_EQ(ink(""), 0);
  EXPECT_EQ(ink("i"), 9) << "the glyph of I has nine pixels";
}

TEST(MapImage, WrongNumberOfValuesIsAnError) {
  const Cells cells;
  const MapRenderer renderer(cells.latitudes, cells.longitudes, 360);
  try {
    renderer.render(std::vector<float>(3), {"u", "", 0, 1, Palette::diverging});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::shape);
    EXPECT_NE(std::string(error.what()).find("3 values but 8 cells are seen"), std::string::npos) << error.what();
  }
}

TEST(MapImage, ColourLimitsAreRound) {
  const std::vector<float> values = {-3.2f, 1, 2, 7.7f, NAN};
  const std::span<const float> field(values);
  EXPECT_EQ(color_limits({&field, 1}, true), (std::pair{-5.0, 5.0})) << "99 % of the magnitudes are at most 3.2";
  const auto [low, high] = color_limits({&field, 1}, false);
  EXPECT_LE(low, -3.2);
  EXPECT_GE(high, 2);
}

}  // namespace
}  // namespace boreas
