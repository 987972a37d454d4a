// Anemoi datasets as zarr-python writes them: format 2 with blosc, format 3 with shards and zstd, both in zip archives.
#include <gtest/gtest.h>

#include <cmath>

#include "io/dataset_reader.h"
#include "io/dataset_writer.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

class AnemoiFixture : public testing::TestWithParam<std::string> {
 protected:
  std::string path = std::string(BOREAS_SOURCE_DIR) + "/tests/golden/datasets/" + GetParam();
};

TEST_P(AnemoiFixture, IsReadIdentically) {
  const auto reader = DatasetReader::open({.path = path});
  EXPECT_EQ(reader.variables(), (std::vector<std::string>{"t_500", "z", "cos_latitude"}));
  EXPECT_EQ(reader.units(0), "K");
  EXPECT_EQ(reader.num_dates(), 6);
  EXPECT_EQ(format_date(reader.dates()[0]), "2019-12-30T00:00:00");
  EXPECT_EQ(reader.step(), (TimeStep{12 * 3600, 0}));
  EXPECT_TRUE(reader.missing(4));
  EXPECT_TRUE(reader.constant(1) && reader.constant(2) && reader.computed(2));
  EXPECT_FALSE(reader.constant(0));
  EXPECT_EQ(reader.anchors(2, 1), (std::vector<int64_t>{1, 2}));
  EXPECT_NEAR(reader.latitudes()[299], 89.5 - 149.5, 1e-12);
  EXPECT_EQ(reader.longitudes()[10], 10.0);
  EXPECT_EQ(reader.statistics().minimum[0], 0);
  EXPECT_EQ(reader.statistics().maximum[0], 501 + 299 / 8.0);
  EXPECT_NEAR(reader.statistics().mean[1], 149.5, 1e-9);
  EXPECT_NEAR(reader.statistics().stdev[1], std::sqrt((300.0 * 300 - 1) / 12), 1e-9);
  for (const int64_t d : {0, 1, 2, 3, 5})
    for (const Range cells : {Range{0, 300}, Range{70, 160}, Range{299, 300}}) {
      std::vector<float> fields(size_t(3 * 2 * cells.size()));
      reader.read(d, cells, fields.data());
      for (int64_t e = 0; e < 2; ++e)
        for (int64_t c = 0; c < cells.size(); ++c) {
          const int64_t cell = cells.begin + c;
          ASSERT_EQ(fields[e * cells.size() + c], float(100 * d + e) + float(cell) / 8);
          ASSERT_EQ(fields[(2 + e) * cells.size() + c], float(cell));
          ASSERT_NEAR(fields[(4 + e) * cells.size() + c], std::cos(reader.latitudes()[cell] * std::acos(-1.0) / 180),
                      1e-6);
        }
    }
  std::vector<float> fields(3 * 2 * 300);
  BOREAS_EXPECT_ERROR(reader.read(4, {0, 300}, fields.data()), invalid_argument,
                      "date 2020-01-01T00:00:00 (index 4) is missing");
}

TEST_P(AnemoiFixture, IsRechunkedToFormat2) {
  test::TemporaryFolder folder;
  rechunk_dataset(path, folder / "out.zarr", {.grid_chunks = 7});
  const auto before = DatasetReader::open({.path = path}), after = DatasetReader::open({.path = folder / "out.zarr"});
  EXPECT_EQ(before.variables(), after.variables());
  EXPECT_EQ(before.dates(), after.dates());
  EXPECT_EQ(before.statistics().stdev, after.statistics().stdev);
  std::vector<float> a(1800), b(1800);
  for (const int64_t d : {0, 5}) {
    before.read(d, {0, 300}, a.data());
    after.read(d, {0, 300}, b.data());
    EXPECT_EQ(a, b);
  }
  EXPECT_NE(inspect_dataset(folder / "out.zarr").find("1 x 3 x 1 x 43"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Formats, AnemoiFixture, testing::Values("v2.zip", "v3.zip"),
                         [](const auto& info) { return info.param.substr(0, 2); });

}  // namespace
}  // namespace boreas
