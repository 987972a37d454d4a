#include "io/zarr.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/core/error.h"

namespace boreas {
namespace {

using Json = nlohmann::json;

const std::string kFixtures = std::string(BOREAS_SOURCE_DIR) + "/tests/golden/zarr/";

ThreadPool& pool() {
  static ThreadPool threads(3);
  return threads;
}

// Runs `f`, which must throw an Error of this code whose text holds all of these parts.
template <class F>
void expect_error(ErrorCode code, const std::vector<std::string>& parts, F f) {
  try {
    f();
    ADD_FAILURE() << "no error, expected one about " << (parts.empty() ? "" : parts[0]);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nlacks: " << part;
    }
  }
}

void put_json(Store& store, const std::string& key, const Json& json) { store.put(key, json.dump()); }

IndexBox random_box(const std::vector<int64_t>& shape, std::mt19937& random) {
  IndexBox box;
  for (const int64_t size : shape) {
    const int64_t a = int64_t(random() % uint64_t(size)), b = int64_t(random() % uint64_t(size));
    box.begin.push_back(std::min(a, b));
    box.end.push_back(std::max(a, b) + 1);
  }
  return box;
}

// Offset of each element of a box in the whole array, C order.
std::vector<int64_t> indices_of(const IndexBox& box, const std::vector<int64_t>& shape) {
  std::vector<int64_t> indices{0};
  for (size_t d = 0; d < shape.size(); ++d) {
    std::vector<int64_t> finer;
    for (const int64_t i : indices) {
      for (int64_t k = box.begin[d]; k < box.end[d]; ++k) finer.push_back(i * shape[d] + k);
    }
    indices = std::move(finer);
  }
  return indices;
}

// --- what other programs wrote -----------------------------------------------------------------------------

// The formula of tests/golden/make_zarr_fixtures.py.
double fixture_value(int64_t i, const ZarrDType& dtype) {
  const int64_t b = (7 * i * i + 3 * i) % 101;
  if (dtype.kind == 'f') return double(b) / 2 - 10;
  if (dtype.kind == 'i') return double(b - 50);
  if (dtype.kind == 'b') return double(b % 2);
  return double(b);
}

int64_t fixture_ticks(int64_t i, const std::string& unit) {
  const int64_t seconds = (7 * i * i + 3 * i) % 101 * 43200;
  if (unit == "ms") return seconds * 1000;
  if (unit == "us") return seconds * 1000000;
  if (unit == "ns") return seconds * 1000000000;
  return seconds / (unit == "m" ? 60 : unit == "h" ? 3600 : unit == "25s" ? 25 : 1);
}

double fixture_fill(const std::string& name) {
  if (name == "partial_nan") return std::numeric_limits<double>::quiet_NaN();
  if (name == "partial_infinity") return -HUGE_VAL;
  if (name == "partial_bool") return 1;
  if (name == "partial_half") return 0.0999755859375;  // 0.1 in float16
  return -7;
}

// One item of any type as a double; times are compared as integers elsewhere.
double item_as_double(const std::byte* item, const ZarrDType& dtype) {
  const auto get = [&]<class T>(T value) {
    std::memcpy(&value, item, sizeof value);
    return double(value);
  };
  switch (dtype.kind) {
    case 'f':
      return dtype.size == 4 ? get(float()) : get(double());
    case 'i':
      return dtype.size == 1   ? get(int8_t())
             : dtype.size == 2 ? get(int16_t())
             : dtype.size == 4 ? get(int32_t())
                               : get(int64_t());
    default:
      return dtype.size == 1   ? get(uint8_t())
             : dtype.size == 2 ? get(uint16_t())
             : dtype.size == 4 ? get(uint32_t())
                               : get(uint64_t());
  }
}

void expect_fixture_values(const ZarrArray& array, const IndexBox& box) {
  const ZarrDType& dtype = array.dtype();
  Bytes out(size_t(box.size() * dtype.size));
  array.read(box, out.data(), pool());
  const std::vector<int64_t> indices = indices_of(box, array.shape());
  ASSERT_EQ(int64_t(indices.size()), box.size());
  const bool is_partial = array.name().starts_with("partial_");
  const int64_t num_written = is_partial ? array.num_elements() / 2 : array.num_elements();
  for (size_t k = 0; k < indices.size(); ++k) {
    const std::byte* item = out.data() + k * size_t(dtype.size);
    if (dtype.kind == 'M' || dtype.kind == 'm') {
      int64_t ticks;
      std::memcpy(&ticks, item, sizeof ticks);
      ASSERT_EQ(ticks, fixture_ticks(indices[k], dtype.unit)) << array.name() << " element " << indices[k];
      continue;
    }
    if (dtype.kind == 'f' && dtype.size == 2) continue;  // compared through read_all
    const double expected = indices[k] < num_written ? fixture_value(indices[k], dtype) : fixture_fill(array.name());
    const double actual = item_as_double(item, dtype);
    ASSERT_TRUE(actual == expected || (std::isnan(actual) && std::isnan(expected)))
        << array.name() << " element " << indices[k] << ": " << actual << ", expected " << expected;
  }
}

class Fixture : public testing::TestWithParam<const char*> {};

TEST_P(Fixture, ReadsIdentically) {
  std::shared_ptr<Store> store;
  try {
    store = open_store(kFixtures + GetParam());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    GTEST_SKIP() << error.what();
  }
  std::mt19937 random(1);
  int num_arrays = 0;
  for (const std::string& name : list_arrays(*store)) {
    if (name == "filtered") continue;
    SCOPED_TRACE(name);
    const ZarrArray array = ZarrArray::open(store, name);
    expect_fixture_values(array, array.whole());
    for (int k = 0; k < 8; ++k) expect_fixture_values(array, random_box(array.shape(), random));
    const ZarrDType& dtype = array.dtype();
    if (dtype.kind == 'M' || dtype.kind == 'm') {
      const std::vector<int64_t> seconds = array.read_seconds(pool());
      for (size_t i = 0; i < seconds.size(); ++i) {
        ASSERT_EQ(seconds[i], int64_t((7 * i * i + 3 * i) % 101 * 43200)) << "element " << i;
      }
    } else {
      const std::vector<double> all = array.read_all<double>(pool());
      const size_t num_written = name.starts_with("partial_") ? all.size() / 2 : all.size();
      for (size_t i = 0; i < all.size(); ++i) {
        const double expected = i < num_written ? fixture_value(int64_t(i), dtype) : fixture_fill(name);
        ASSERT_TRUE(all[i] == expected || (std::isnan(all[i]) && std::isnan(expected)))
            << "element " << i << ": " << all[i];
      }
    }
    ++num_arrays;
  }
  EXPECT_GE(num_arrays, std::string(GetParam()).starts_with("v") ? 50 : 2);
}

INSTANTIATE_TEST_SUITE_P(Zarr, Fixture,
                         testing::Values("v2_by_zarr_python_2.zip", "v2_by_zarr_python_3.zip",
                                         "v3_by_zarr_python_3.zip", "plain.zarr", "deflated.zip"),
                         [](const auto& info) {
                           const std::string name = info.param;
                           return name.substr(0, name.find('.'));
                         });

TEST(Zarr, ReadsAttributesOfPythonWithNaN) {
  std::shared_ptr<Store> store;
  try {
    store = open_store(kFixtures + "v2_by_zarr_python_2.zip");
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  const Json attributes = Json::parse(read_attributes(*store, ""));
  EXPECT_EQ(attributes["title"], "fixtures");
  EXPECT_TRUE(attributes["nan"].is_null());
  EXPECT_TRUE(attributes["infinities"][1].is_null());
  EXPECT_EQ(attributes["text"], "NaN");
  expect_error(ErrorCode::unsupported, {"filtered", "delta"}, [&] { ZarrArray::open(store, "filtered"); });

  const auto v3 = open_store(kFixtures + "v3_by_zarr_python_3.zip");
  EXPECT_EQ(Json::parse(read_attributes(*v3, ""))["title"], "fixtures");
  EXPECT_EQ(ZarrArray::open(v3, "names").dimension_names(), (std::vector<std::string>{"time", "cell"}));
  EXPECT_EQ(ZarrArray::open(v3, "sharded").stored_chunks(), (std::vector<int64_t>{4, 2, 20}));
  EXPECT_EQ(ZarrArray::open(v3, "sharded").chunks(), (std::vector<int64_t>{2, 2, 10}));
  EXPECT_EQ(ZarrArray::open(v3, "sharded_nested").chunks(), (std::vector<int64_t>{2, 2, 10}));
}

// --- what boreas writes ------------------------------------------------------------------------------------

std::vector<float> test_data(int64_t n) {
  std::vector<float> data(static_cast<size_t>(n));
  for (size_t i = 0; i < data.size(); ++i) data[i] = std::sin(0.01f * float(i)) + float(i % 7);
  return data;
}

Codec blosc(const std::string& cname, Codec::Shuffle shuffle, int64_t block_size = 0) {
  return {.kind = Codec::Kind::blosc, .cname = cname, .level = 5, .shuffle = shuffle, .block_size = block_size};
}

ZarrArray write_array(std::shared_ptr<Store> store, const std::string& name, const ZarrSpec& spec) {
  ZarrArray array = ZarrArray::create(std::move(store), name, spec);
  const std::vector<float> data = test_data(array.num_elements());
  array.write(array.whole(), data.data(), pool());
  return array;
}

void expect_box(const ZarrArray& array, const IndexBox& box, ReadStats* stats = nullptr) {
  const std::vector<float> data = test_data(array.num_elements());
  std::vector<float> out(size_t(box.size()));
  array.read(box, out.data(), pool(), stats);
  const std::vector<int64_t> indices = indices_of(box, array.shape());
  for (size_t k = 0; k < indices.size(); ++k) ASSERT_EQ(out[k], data[size_t(indices[k])]) << "element " << indices[k];
}

TEST(Zarr, WritesAndReadsEveryCodecAndChunkGrid) {
  std::vector<Codec> codecs = {{.kind = Codec::Kind::none},
                               {.kind = Codec::Kind::zstd, .level = 3},
                               {.kind = Codec::Kind::zlib, .level = 6},
                               {.kind = Codec::Kind::gzip, .level = 1}};
  for (const char* cname : {"blosclz", "lz4", "lz4hc", "zlib", "zstd"}) {
    for (const auto shuffle : {Codec::Shuffle::none, Codec::Shuffle::byte, Codec::Shuffle::bit}) {
      codecs.push_back(blosc(cname, shuffle));
    }
  }
  codecs.push_back(blosc("lz4", Codec::Shuffle::byte, 512));
  std::mt19937 random(2);
  for (const Codec& codec : codecs) {
    for (const std::vector<int64_t>& chunks : {std::vector<int64_t>{5, 4, 60}, {2, 3, 17}, {1, 1, 60}, {9, 9, 99}}) {
      SCOPED_TRACE(codec.to_string() + " chunks " + std::to_string(chunks[2]));
      const auto store = make_memory_store();
      const ZarrArray array = write_array(store, "a", {.shape = {5, 4, 60}, .chunks = chunks, .compressor = codec});
      expect_box(array, array.whole());
      for (int k = 0; k < 5; ++k) expect_box(ZarrArray::open(store, "a"), random_box(array.shape(), random));
    }
  }
}

// The bytes of an item, in the machine's order.
std::array<std::byte, 8> fixture_item(int64_t i, const ZarrDType& dtype) {
  std::array<std::byte, 8> item{};
  const auto put = [&](auto value) { std::memcpy(item.data(), &value, sizeof value); };
  if (dtype.kind == 'M' || dtype.kind == 'm') {
    put(fixture_ticks(i, dtype.unit));
  } else if (dtype.kind == 'f') {
    dtype.size == 4 ? put(float(fixture_value(i, dtype))) : put(fixture_value(i, dtype));
  } else {
    put(int64_t(fixture_value(i, dtype)));  // little-endian: the first bytes are the narrower integer
  }
  return item;
}

// With BOREAS_ZARR_SAMPLE set to a folder the arrays stay there, for tools/check_zarr_interop.py.
TEST(Zarr, WritesAndReadsEveryDataType) {
  const char* sample = std::getenv("BOREAS_ZARR_SAMPLE");
  const std::string path =
      sample ? std::string(sample) : fmt::format("{}/boreas_zarr_types_{}", testing::TempDir(), ::getpid());
  std::filesystem::remove_all(path);
  const auto store = create_directory_store(path);
  create_group(*store, "");
  const auto write = [&](const std::string& name, ZarrSpec spec) {
    for (size_t d = 0; d < spec.shape.size(); ++d) spec.dimension_names.push_back(fmt::format("{}_{}", name, d));
    ZarrArray array = ZarrArray::create(store, name, spec);
    const ZarrDType& dtype = array.dtype();
    Bytes bytes(size_t(array.num_elements() * dtype.size));
    for (int64_t i = 0; i < array.num_elements(); ++i) {
      std::memcpy(bytes.data() + i * dtype.size, fixture_item(i, dtype).data(), size_t(dtype.size));
    }
    array.write(array.whole(), bytes.data(), pool());
    expect_fixture_values(ZarrArray::open(store, name), array.whole());
  };
  for (const std::string dtype : {"<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1", "<M8[s]",
                                  "<M8[ms]", "<M8[us]", "<M8[ns]", "<M8[h]", "<M8[25s]", "<m8[s]", "<m8[h]"}) {
    std::string name = "dtype_" + dtype.substr(1);
    std::replace(name.begin(), name.end(), '[', '_');
    std::erase(name, ']');
    write(name, {.shape = {4, 70}, .chunks = {3, 40}, .dtype = dtype, .fill_value = 0});
  }
  const std::vector<Codec> codecs = {{.kind = Codec::Kind::none},
                                     {.kind = Codec::Kind::zstd, .level = 3},
                                     {.kind = Codec::Kind::zlib, .level = 6},
                                     {.kind = Codec::Kind::gzip, .level = 1},
                                     blosc("blosclz", Codec::Shuffle::byte),
                                     blosc("lz4", Codec::Shuffle::none),
                                     blosc("lz4hc", Codec::Shuffle::byte),
                                     blosc("zlib", Codec::Shuffle::byte),
                                     blosc("zstd", Codec::Shuffle::bit, 256)};
  for (size_t k = 0; k < codecs.size(); ++k) {
    write("codec_" + std::to_string(k), {.shape = {4, 70}, .chunks = {3, 40}, .compressor = codecs[k]});
  }
  write("rank_0", {.shape = {}, .chunks = {}, .dtype = "<f8"});
  write("rank_4", {.shape = {3, 5, 1, 50}, .chunks = {1, 5, 1, 13}, .fill_value = NAN});
  if (!sample) std::filesystem::remove_all(path);
}

TEST(Zarr, WritesBoxesIntoTheirPlaces) {
  const auto store = make_memory_store();
  ZarrArray array = ZarrArray::create(
      store, "a", {.shape = {10, 21}, .chunks = {4, 6}, .fill_value = std::numeric_limits<double>::quiet_NaN()});
  std::vector<float> expected(210, NAN);
  std::mt19937 random(3);
  for (int k = 0; k < 20; ++k) {
    const IndexBox box = random_box(array.shape(), random);
    std::vector<float> values(size_t(box.size()));
    for (float& value : values) value = float(random() % 1000);
    array.write(box, values.data(), pool());
    const std::vector<int64_t> indices = indices_of(box, array.shape());
    for (size_t i = 0; i < indices.size(); ++i) expected[size_t(indices[i])] = values[i];
    const std::vector<float> actual = array.read_all<float>(pool());
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_TRUE(actual[i] == expected[i] || (std::isnan(actual[i]) && std::isnan(expected[i]))) << i;
    }
  }
}

TEST(Zarr, MissingChunksAreFilled) {
  const auto store = make_memory_store();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const std::optional<double> fill :
       {std::optional<double>(), std::optional(nan), std::optional(2.5), std::optional(-HUGE_VAL)}) {
    ZarrArray array = ZarrArray::create(store, "a", {.shape = {4, 10}, .chunks = {2, 5}, .fill_value = fill});
    const std::vector<float> ones(10, 1.0f);
    array.write({{0, 0}, {2, 5}}, ones.data(), pool());
    EXPECT_TRUE(array.has_chunk({0, 0}));
    EXPECT_FALSE(array.has_chunk({1, 1}));
    std::vector<float> out(40, -1);
    ReadStats stats;
    array.read(array.whole(), out.data(), pool(), &stats);
    EXPECT_EQ(stats.chunks_read, 1);
    EXPECT_EQ(stats.chunks_missing, 3);
    EXPECT_EQ(out[4], 1);
    const float expected = float(fill.value_or(0));
    EXPECT_TRUE(out[5] == expected || (std::isnan(out[5]) && std::isnan(expected))) << out[5];
    EXPECT_TRUE(out[39] == expected || (std::isnan(out[39]) && std::isnan(expected))) << out[39];
  }
}

TEST(Zarr, EmptyArraysAndBoxes) {
  const auto store = make_memory_store();
  const ZarrArray empty = ZarrArray::create(store, "a", {.shape = {0, 5}, .chunks = {2, 2}});
  EXPECT_TRUE(empty.read_all<float>(pool()).empty());
  const ZarrArray array = write_array(store, "b", {.shape = {4, 5}, .chunks = {2, 2}});
  array.read({{2, 3}, {2, 5}}, nullptr, pool());
  expect_error(ErrorCode::invalid_argument, {"[0, 0] to [4, 6]", "[4, 5]"}, [&] {
    array.read({{0, 0}, {4, 6}}, nullptr, pool());
  });
  expect_error(ErrorCode::invalid_argument, {}, [&] { array.read({{0}, {4}}, nullptr, pool()); });
  expect_error(ErrorCode::invalid_argument, {}, [&] { array.read({{-1, 0}, {4, 5}}, nullptr, pool()); });
}

// --- reading only what is needed ---------------------------------------------------------------------------

TEST(Zarr, ARangeOfCellsDecodesItsShareOfALargeChunk) {
  const auto store = make_memory_store();
  const int64_t num_cells = 1 << 18;
  std::mt19937 random(4);
  std::vector<float> data(size_t(2 * num_cells));
  for (float& value : data) value = float(random() % 4096);
  ZarrArray array = ZarrArray::create(store, "data",
                                      {.shape = {1, 2, 1, num_cells},
                                       .chunks = {1, 2, 1, num_cells},
                                       .compressor = blosc("zstd", Codec::Shuffle::byte, 16 << 10)});
  array.write(array.whole(), data.data(), pool());
  const int64_t stored = *store->size("data/0.0.0.0"), decoded = 8 * num_cells;
  ASSERT_GT(stored, decoded / 4);

  ReadStats whole;
  std::vector<float> out(data.size());
  array.read(array.whole(), out.data(), pool(), &whole);
  EXPECT_EQ(whole.bytes_decoded, decoded);
  EXPECT_EQ(whole.blocks_decoded, decoded / (16 << 10));
  EXPECT_GE(whole.bytes_read, stored);
  EXPECT_LE(whole.bytes_read, stored + 4096);
  EXPECT_EQ(whole.chunks_read, 1);
  EXPECT_EQ(out, data);

  for (int part = 0; part < 16; ++part) {
    const int64_t begin = part * num_cells / 16, end = (part + 1) * num_cells / 16;
    ReadStats stats;
    std::vector<float> slice(size_t(2 * (end - begin)));
    array.read({{0, 0, 0, begin}, {1, 2, 1, end}}, slice.data(), pool(), &stats);
    for (int64_t v = 0; v < 2; ++v) {
      for (int64_t c = begin; c < end; ++c) {
        ASSERT_EQ(slice[size_t(v * (end - begin) + c - begin)], data[size_t(v * num_cells + c)]);
      }
    }
    EXPECT_EQ(stats.bytes_decoded, decoded / 16);
    EXPECT_LE(stats.bytes_read, stored / 16 + stored / 100 + 4096);
  }
  // Ranges that cut blocks take those blocks as well, and no others.
  ReadStats stats;
  float one = 0;
  array.read({{0, 1, 0, 5000}, {1, 2, 1, 5001}}, &one, pool(), &stats);
  EXPECT_EQ(one, data[size_t(num_cells + 5000)]);
  EXPECT_EQ(stats.blocks_decoded, 1);
}

TEST(Zarr, UncompressedChunksAreReadInParts) {
  const auto store = make_memory_store();
  for (const Codec& codec : {Codec{.kind = Codec::Kind::none}, Codec{.kind = Codec::Kind::blosc, .level = 0}}) {
    const ZarrArray array =
        write_array(store, "a", {.shape = {4, 1 << 16}, .chunks = {4, 1 << 16}, .compressor = codec});
    ReadStats stats;
    expect_box(array, {{1, 100}, {3, 4000}}, &stats);
    EXPECT_LE(stats.bytes_read, (4 << 16) + 4096) << codec.to_string();
  }
}

TEST(Zarr, BlocksThatEndInsideOfItemsAreJoined) {
  // A frame whose blocks of 245 bytes cut doubles, read with the last dimension strided (F order) and not.
  for (const char* order : {"C", "F"}) {
    const auto store = make_memory_store();
    put_json(*store, "a/.zarray",
             {{"zarr_format", 2},
              {"shape", {20, 30}},
              {"chunks", {20, 30}},
              {"dtype", "<f8"},
              {"order", order},
              {"fill_value", 0},
              {"filters", nullptr},
              {"compressor", {{"id", "blosc"}}}});
    std::vector<double> stored(600);
    for (size_t i = 0; i < stored.size(); ++i) stored[i] = double(i % 37);
    const Bytes frame = encode(blosc("zstd", Codec::Shuffle::none, 245), std::as_bytes(std::span(stored)), 7);
    ASSERT_NE(int(frame[8]) % 8, 0) << "the block size is a multiple of the item size";
    store->put("a/0.0", frame);
    const ZarrArray array = ZarrArray::open(store, "a");
    for (const IndexBox& box : {array.whole(), IndexBox{{3, 7}, {15, 22}}}) {
      std::vector<double> out(size_t(box.size()));
      array.read(box, out.data(), pool());
      size_t k = 0;
      for (int64_t i = box.begin[0]; i < box.end[0]; ++i) {
        for (int64_t j = box.begin[1]; j < box.end[1]; ++j) {
          ASSERT_EQ(out[k++], stored[size_t(*order == 'C' ? i * 30 + j : j * 20 + i)]) << order << i << " " << j;
        }
      }
    }
  }
}

TEST(Zarr, ShardsAreReadByTheirIndex) {
  std::shared_ptr<Store> store;
  try {
    store = open_store(kFixtures + "v3_by_zarr_python_3.zip");
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  const ZarrArray array = ZarrArray::open(store, "sharded_raw");
  std::vector<float> out(20);
  ReadStats stats;
  array.read({{0, 0, 10}, {1, 2, 20}}, out.data(), pool(), &stats);
  EXPECT_EQ(stats.chunks_read, 1);                           // of the four in the shard
  EXPECT_EQ(stats.bytes_read, 16 * 4 + 4 + 2 * 2 * 10 * 4);  // index and one chunk
}

// --- damage ------------------------------------------------------------------------------------------------

// Puts `bytes` in place of a chunk; reading must give exactly one Error of a kind that a damaged chunk may give, or,
// where `may_pass`, succeed.
void expect_damage(const ZarrArray& array, Store& store, const std::string& key, const Bytes& bytes, bool may_pass,
                   const std::string& what) {
  store.put(key, bytes);
  Bytes out(size_t(array.num_elements() * array.dtype().size));
  try {
    array.read(array.whole(), out.data(), pool());
    EXPECT_TRUE(may_pass) << what << ": no error";
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == ErrorCode::corrupt_data || error.code() == ErrorCode::unsupported)
        << what << ": " << to_string(error.code()) << " " << error.what();
    const std::string text = error.what();
    for (const std::string& part : {array.name(), store.name(), key}) {
      EXPECT_NE(text.find(part), std::string::npos) << what << ": " << text << "\nlacks " << part;
    }
  }
}

struct Damage {
  const char* name;
  Codec codec;
  friend void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }
};

class Damaged : public testing::TestWithParam<Damage> {};

TEST_P(Damaged, EveryTruncationAndExtensionIsAnError) {
  const auto store = make_memory_store("the-store");
  const ZarrArray array =
      write_array(store, "the-array", {.shape = {3, 500}, .chunks = {3, 500}, .compressor = GetParam().codec});
  const std::string key = "the-array/0.0";
  const Bytes good = *store->get(key);
  for (size_t n = 0; n < good.size(); n += 1 + n / 50) {
    expect_damage(array, *store, key, Bytes(good.begin(), good.begin() + ptrdiff_t(n)), false,
                  "cut to " + std::to_string(n));
  }
  for (const size_t extra : {1, 4, 1000}) {
    Bytes longer = good;
    longer.insert(longer.end(), extra, std::byte{0});
    expect_damage(array, *store, key, longer, false, "longer by " + std::to_string(extra));
  }
}

TEST_P(Damaged, NoBitFlipDoesHarm) {
  const auto store = make_memory_store("the-store");
  const ZarrArray array =
      write_array(store, "the-array", {.shape = {3, 500}, .chunks = {3, 500}, .compressor = GetParam().codec});
  const std::string key = "the-array/0.0";
  const Bytes good = *store->get(key);
  for (size_t byte = 0; byte < good.size(); byte += byte < 128 ? 1 : 13) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes bad = good;
      bad[byte] ^= std::byte(1 << bit);
      expect_damage(array, *store, key, bad, true, "byte " + std::to_string(byte) + " bit " + std::to_string(bit));
    }
  }
  // Header words set to hostile values.
  if (GetParam().codec.kind == Codec::Kind::blosc) {
    for (size_t word = 4; word + 4 <= std::min<size_t>(good.size(), 64); word += 4) {
      for (const uint32_t value : {0u, 1u, 15u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
        Bytes bad = good;
        std::memcpy(bad.data() + word, &value, 4);
        expect_damage(array, *store, key, bad, true, "word " + std::to_string(word));
      }
    }
  }
  store->put(key, good);
  expect_box(array, array.whole());
}

INSTANTIATE_TEST_SUITE_P(Zarr, Damaged,
                         testing::Values(Damage{"blosc_lz4", {.block_size = 1024}},
                                         Damage{"blosc_lz4_split", blosc("lz4", Codec::Shuffle::byte, 2048)},
                                         Damage{"blosc_lz4_noshuffle", blosc("lz4", Codec::Shuffle::none)},
                                         Damage{"blosc_blosclz", blosc("blosclz", Codec::Shuffle::byte, 2048)},
                                         Damage{"blosc_zlib", blosc("zlib", Codec::Shuffle::bit, 2048)},
                                         Damage{"blosc_zstd", blosc("zstd", Codec::Shuffle::bit, 2048)},
                                         Damage{"blosc_stored", {.level = 0}},
                                         Damage{"zstd", {.kind = Codec::Kind::zstd, .level = 3}},
                                         Damage{"zlib", {.kind = Codec::Kind::zlib, .level = 6}},
                                         Damage{"gzip", {.kind = Codec::Kind::gzip, .level = 6}},
                                         Damage{"none", {.kind = Codec::Kind::none}}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Zarr, DamagedShardsAreErrors) {
  std::shared_ptr<Store> archive;
  try {
    archive = open_store(kFixtures + "v3_by_zarr_python_3.zip");
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  for (const std::string name : {"sharded", "sharded_start", "sharded_plain_index"}) {
    const auto store = make_memory_store("the-store");
    store->put(name + "/zarr.json", *archive->get(name + "/zarr.json"));
    const ZarrArray array = ZarrArray::open(store, name);
    const std::string key = name + "/c/0/0/0";
    const Bytes good = *archive->get(name + "/c/0/0/0");
    for (size_t n = 0; n < good.size(); n += 7) {
      expect_damage(array, *store, key, Bytes(good.begin(), good.begin() + ptrdiff_t(n)), false, name + " cut");
    }
    const bool has_checksum = name != "sharded_plain_index";
    const size_t index_bytes = has_checksum ? 68 : 64;
    const size_t index_begin = name == "sharded_start" ? 0 : good.size() - index_bytes;
    for (size_t byte = index_begin; byte < index_begin + index_bytes; ++byte) {
      Bytes bad = good;
      bad[byte] ^= std::byte{0x40};
      expect_damage(array, *store, key, bad, !has_checksum, name + " index byte " + std::to_string(byte));
    }
    if (!has_checksum) {
      // Half-missing, outside, overlapping the index, overflowing.
      for (const auto& [offset, length] :
           {std::pair(UINT64_MAX, uint64_t(10)), std::pair(uint64_t(0), UINT64_MAX),
            std::pair(uint64_t(1) << 40, uint64_t(10)), std::pair(uint64_t(index_begin - 4), uint64_t(10)),
            std::pair(uint64_t(16), UINT64_MAX - 8)}) {
        Bytes bad = good;
        std::memcpy(bad.data() + index_begin, &offset, 8);
        std::memcpy(bad.data() + index_begin + 8, &length, 8);
        expect_damage(array, *store, key, bad, false, fmt::format("{} at {}", length, offset));
      }
    }
    store->put(key, good);
    std::vector<float> out(80);
    array.read({{0, 0, 0}, {4, 2, 10}}, out.data(), pool());
    EXPECT_EQ(out[3], fixture_value(3, array.dtype()));
  }
}

TEST(Zarr, ChecksumsOfChunksAreVerified) {
  std::shared_ptr<Store> archive;
  try {
    archive = open_store(kFixtures + "v3_by_zarr_python_3.zip");
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  for (const std::string name : {"codec_crc", "codec_zstd_crc", "codec_crc_gzip", "codec_blosc_crc"}) {
    const auto store = make_memory_store("the-store");
    store->put(name + "/zarr.json", *archive->get(name + "/zarr.json"));
    const ZarrArray array = ZarrArray::open(store, name);
    const std::string key = name + "/c/0/0";
    const Bytes good = *archive->get(key);
    for (size_t byte = 0; byte < good.size(); byte += 5) {
      Bytes bad = good;
      bad[byte] ^= std::byte{4};
      // Bytes 4 to 9 of a gzip stream (time, system) are not covered by any checksum.
      expect_damage(array, *store, key, bad, name == "codec_crc_gzip" && byte < 10, name);
    }
  }
}

// --- hostile metadata --------------------------------------------------------------------------------------

Json good_v2() {
  return {{"zarr_format", 2},   {"shape", {10, 20}},
          {"chunks", {5, 20}},  {"dtype", "<f4"},
          {"order", "C"},       {"fill_value", "NaN"},
          {"filters", nullptr}, {"compressor", {{"id", "blosc"}, {"cname", "lz4"}}}};
}

Json good_v3() {
  return {{"zarr_format", 3},
          {"node_type", "array"},
          {"shape", {10, 20}},
          {"data_type", "float32"},
          {"chunk_grid", {{"name", "regular"}, {"configuration", {{"chunk_shape", {5, 20}}}}}},
          {"chunk_key_encoding", {{"name", "default"}}},
          {"fill_value", 0},
          {"codecs", {{{"name", "bytes"}, {"configuration", {{"endian", "little"}}}}}}};
}

TEST(Zarr, BadMetadataOfFormat2IsRefused) {
  const auto store = make_memory_store("the-store");
  put_json(*store, "a/.zarray", good_v2());
  EXPECT_EQ(ZarrArray::open(store, "a").shape(), (std::vector<int64_t>{10, 20}));

  const int64_t huge = int64_t(1) << 40;
  struct Case {
    const char* member;
    Json value;
    ErrorCode code;
    std::string part;
  };
  const Case cases[] = {
      {"shape", {huge, huge}, ErrorCode::corrupt_data, "64 bits"},
      {"shape", {huge * 4194303, 1}, ErrorCode::corrupt_data, "64 bits"},  // overflows with the item size only
      {"shape", {-1, 20}, ErrorCode::corrupt_data, "at least 0"},
      {"shape", {1.5, 20}, ErrorCode::corrupt_data, "integer"},
      {"shape", {UINT64_MAX, 1}, ErrorCode::corrupt_data, "integer of 64 bits"},
      {"shape", "10", ErrorCode::corrupt_data, "list"},
      {"shape", {10}, ErrorCode::corrupt_data, "dimensions"},
      {"shape", Json(std::vector<int>(33, 1)), ErrorCode::corrupt_data, "33 dimensions"},
      {"chunks", {0, 20}, ErrorCode::corrupt_data, "at least 1"},
      {"chunks", {-5, 20}, ErrorCode::corrupt_data, "at least 1"},
      {"chunks", {huge, 20}, ErrorCode::corrupt_data, "limit"},
      {"chunks", {huge, huge}, ErrorCode::corrupt_data, "64 bits"},
      {"dtype", "<f16", ErrorCode::unsupported, "<f16"},
      {"dtype", "|S8", ErrorCode::unsupported, "|S8"},
      {"dtype", "|O", ErrorCode::unsupported, "|O"},
      {"dtype", "<M8[Y]", ErrorCode::unsupported, "<M8[Y]"},
      {"dtype", Json::array({Json::array({"x", "<f4"})}), ErrorCode::unsupported, "structured"},
      {"order", "A", ErrorCode::corrupt_data, "order"},
      {"fill_value", "abc", ErrorCode::corrupt_data, "fill_value"},
      {"fill_value", {1}, ErrorCode::corrupt_data, "fill_value"},
      {"filters", {{{"id", "delta"}}}, ErrorCode::unsupported, "delta"},
      {"compressor", {{"id", "bz2"}}, ErrorCode::unsupported, "bz2"},
      {"compressor", "zstd", ErrorCode::corrupt_data, "compressor"},
      {"compressor", {{"id", "blosc"}, {"shuffle", 7}}, ErrorCode::corrupt_data, "shuffle"},
      {"dimension_separator", "../", ErrorCode::corrupt_data, "separator"},
      {"zarr_format", 3, ErrorCode::corrupt_data, "zarr_format"},
  };
  for (const Case& c : cases) {
    Json json = good_v2();
    json[c.member] = c.value;
    put_json(*store, "a/.zarray", json);
    SCOPED_TRACE(json.dump());
    expect_error(c.code, {"array 'a' of store the-store", c.part}, [&] { ZarrArray::open(store, "a"); });
  }
  for (const char* required : {"zarr_format", "shape", "chunks", "dtype"}) {
    Json json = good_v2();
    json.erase(required);
    put_json(*store, "a/.zarray", json);
    expect_error(ErrorCode::corrupt_data, {required, "missing"}, [&] { ZarrArray::open(store, "a"); });
  }
  store->put("a/.zarray", std::string_view("{\"zarr_format\": 2,"));
  expect_error(ErrorCode::corrupt_data, {"a/.zarray", "JSON"}, [&] { ZarrArray::open(store, "a"); });
  store->put("a/.zarray", std::string(100000, '['));
  expect_error(ErrorCode::corrupt_data, {"a/.zarray", "nested"}, [&] { ZarrArray::open(store, "a"); });
  store->put("a/.zarray", std::string_view("[]"));
  expect_error(ErrorCode::corrupt_data, {"a/.zarray", "object"}, [&] { ZarrArray::open(store, "a"); });
  expect_error(ErrorCode::io, {"there is no array 'b'", "the-store", "arrays: none"}, [&] {
    store->erase("a");
    ZarrArray::open(store, "b");
  });
  expect_error(ErrorCode::invalid_argument, {"../../etc"}, [&] { ZarrArray::open(store, "../../etc"); });
}

TEST(Zarr, BadMetadataOfFormat3IsRefused) {
  const auto store = make_memory_store("the-store");
  put_json(*store, "a/zarr.json", good_v3());
  EXPECT_EQ(ZarrArray::open(store, "a").format(), 3);
  const auto codecs = [](std::initializer_list<Json> list) { return Json(list); };
  const Json bytes = {{"name", "bytes"}, {"configuration", {{"endian", "little"}}}};
  const auto sharding = [&](const Json& chunk_shape, const Json& index_codecs) {
    return Json{{"name", "sharding_indexed"},
                {"configuration",
                 {{"chunk_shape", chunk_shape}, {"codecs", Json::array({bytes})}, {"index_codecs", index_codecs}}}};
  };
  struct Case {
    const char* member;
    Json value;
    ErrorCode code;
    std::string part;
  };
  const Case cases[] = {
      {"data_type", "complex64", ErrorCode::unsupported, "complex64"},
      {"data_type", {{"name", "numpy.datetime64"}, {"configuration", {{"unit", "Y"}}}}, ErrorCode::unsupported, "Y"},
      {"chunk_grid", {{"name", "rectangular"}}, ErrorCode::unsupported, "rectangular"},
      {"chunk_key_encoding", {{"name", "base32"}}, ErrorCode::unsupported, "base32"},
      {"chunk_key_encoding",
       {{"name", "default"}, {"configuration", {{"separator", "../"}}}},
       ErrorCode::corrupt_data,
       "separator"},
      {"codecs", Json::array(), ErrorCode::corrupt_data, "codecs"},
      {"codecs", codecs({bytes, "zfp"}), ErrorCode::unsupported, "zfp"},
      {"codecs", codecs({"zstd", bytes}), ErrorCode::corrupt_data, "wrong place"},
      {"codecs", codecs({bytes, bytes}), ErrorCode::corrupt_data, "wrong place"},
      {"codecs", codecs({bytes, "zstd", "gzip"}), ErrorCode::unsupported, "one compressor"},
      {"codecs", codecs({"bytes"}), ErrorCode::corrupt_data, "endian"},
      {"codecs", codecs({{{"name", "transpose"}, {"configuration", {{"order", {0, 0}}}}}, bytes}),
       ErrorCode::corrupt_data, "permutation"},
      {"codecs", codecs({{{"name", "transpose"}, {"configuration", {{"order", {1, 0}}}}}}), ErrorCode::corrupt_data,
       "neither"},
      {"codecs", codecs({sharding({3, 20}, Json::array({bytes}))}), ErrorCode::corrupt_data, "divided"},
      {"codecs", codecs({sharding({0, 20}, Json::array({bytes}))}), ErrorCode::corrupt_data, "at least 1"},
      {"codecs", codecs({sharding({5, 20}, Json::array({bytes, "gzip"}))}), ErrorCode::unsupported, "shard indices"},
      {"storage_transformers", {{{"name", "x"}}}, ErrorCode::unsupported, "storage transformers"},
      {"extension", {{"name", "x"}}, ErrorCode::unsupported, "extension"},
      {"fill_value", "0x7fc0", ErrorCode::corrupt_data, "fill_value"},
      {"fill_value", "0x7fc0000g", ErrorCode::corrupt_data, "fill_value"},
  };
  for (const Case& c : cases) {
    Json json = good_v3();
    json[c.member] = c.value;
    put_json(*store, "a/zarr.json", json);
    SCOPED_TRACE(json.dump());
    expect_error(c.code, {"array 'a' of store the-store", c.part}, [&] { ZarrArray::open(store, "a"); });
  }
  Json json = good_v3();
  json["extension"] = {{"must_understand", false}};
  json["fill_value"] = "0x7fc00000";
  put_json(*store, "a/zarr.json", json);
  EXPECT_TRUE(std::isnan(ZarrArray::open(store, "a").read_all<float>(pool())[0]));

  // A shard of more chunks than anyone could index.
  json["shape"] = json["chunk_grid"]["configuration"]["chunk_shape"] = {1 << 16, 1 << 15};
  json["data_type"] = "uint8";
  json["fill_value"] = 0;
  json["codecs"] = Json::array({sharding({1, 1}, Json::array({bytes}))});
  put_json(*store, "a/zarr.json", json);
  expect_error(ErrorCode::corrupt_data, {"limit"}, [&] { ZarrArray::open(store, "a"); });
}

TEST(Zarr, HugeClaimsDoNotAllocate) {
  const auto store = make_memory_store("the-store");
  Json json = good_v2();
  json["shape"] = {int64_t(1) << 40};
  json["chunks"] = {int64_t(1) << 31};  // 8 GiB of f4
  for (const char* id : {"zstd", "zlib", "gzip", "blosc"}) {
    json["compressor"] = {{"id", id}};
    put_json(*store, "a/.zarray", json);
    store->put("a/0", std::string(40, 'x'));
    const ZarrArray array = ZarrArray::open(store, "a");
    float out = 0;
    expect_error(ErrorCode::corrupt_data, {"a/0", "the-store"}, [&] { array.read({{7}, {8}}, &out, pool()); });
    expect_error(ErrorCode::unsupported, {"too many"}, [&] { array.read_all<float>(pool()); });
  }
}

TEST(Zarr, CompressionBombsAreErrors) {
  // The chunk decodes to more than its shape says.
  const auto store = make_memory_store("the-store");
  const std::vector<float> zeros(100000);
  const auto bytes = std::as_bytes(std::span(zeros));
  for (const auto kind : {Codec::Kind::zstd, Codec::Kind::zlib, Codec::Kind::gzip, Codec::Kind::blosc}) {
    const Codec codec{.kind = kind, .level = 3};
    ZarrArray array = ZarrArray::create(store, "a", {.shape = {1000}, .chunks = {1000}, .compressor = codec});
    store->put("a/0", encode(codec, bytes, 4));
    std::vector<float> out(1000);
    expect_error(ErrorCode::corrupt_data, {"a/0"}, [&] { array.read(array.whole(), out.data(), pool()); });
    store->put("a/0", encode(codec, bytes.first(3996), 4));
    expect_error(ErrorCode::corrupt_data, {"a/0"}, [&] { array.read(array.whole(), out.data(), pool()); });
  }
}

// --- creating, attributes, conversions ---------------------------------------------------------------------

TEST(Zarr, CreateRefusesWhatCannotBe) {
  const auto store = make_memory_store("the-store");
  const auto refuse = [&](ErrorCode code, const std::string& part, const ZarrSpec& spec) {
    expect_error(code, {part}, [&] { ZarrArray::create(store, "a", spec); });
    EXPECT_FALSE(store->exists("a/.zarray"));
  };
  refuse(ErrorCode::invalid_argument, "dimensions", {.shape = {4}, .chunks = {2, 2}});
  refuse(ErrorCode::invalid_argument, "at least", {.shape = {4}, .chunks = {0}});
  ZarrSpec names{.shape = {4}, .chunks = {2}};
  names.dimension_names = {"a", "b"};
  refuse(ErrorCode::invalid_argument, "names", names);
  refuse(ErrorCode::unsupported, ">f4", {.shape = {4}, .chunks = {2}, .dtype = ">f4"});
  refuse(ErrorCode::unsupported, "|S4", {.shape = {4}, .chunks = {2}, .dtype = "|S4"});
  refuse(ErrorCode::invalid_argument, "fill value", {.shape = {4}, .chunks = {2}, .dtype = "<i4", .fill_value = NAN});
  refuse(ErrorCode::unsupported, "blosc has no codec 'lzma'",
         {.shape = {4}, .chunks = {2}, .compressor = {.cname = "lzma"}});
  refuse(ErrorCode::invalid_argument, "level", {.shape = {4}, .chunks = {2}, .compressor = {.level = 10}});
  refuse(ErrorCode::invalid_argument, "smaller chunks", {.shape = {1 << 30}, .chunks = {1 << 30}});
  expect_error(ErrorCode::invalid_argument, {"a/../b"},
               [&] { ZarrArray::create(store, "a/../b", {.shape = {4}, .chunks = {2}}); });
}

TEST(Zarr, MetadataLooksAsPythonWritesIt) {
  const auto store = make_memory_store();
  create_group(*store, "");
  ZarrSpec spec{.shape = {3}, .chunks = {2}, .dtype = "<M8[s]", .fill_value = NAN};
  spec.dimension_names = {"time"};
  ZarrArray::create(store, "dates", spec);
  EXPECT_EQ(Json::parse(read_attributes(*store, "dates")), (Json{{"_ARRAY_DIMENSIONS", {"time"}}}));
  const Bytes text = *store->get("dates/.zarray");
  const Json json =
      Json::parse(reinterpret_cast<const char*>(text.data()), reinterpret_cast<const char*>(text.data() + text.size()));
  EXPECT_EQ(
      json,
      (Json{{"zarr_format", 2},
            {"shape", {3}},
            {"chunks", {2}},
            {"dtype", "<M8[s]"},
            {"order", "C"},
            {"fill_value", "NaT"},
            {"filters", nullptr},
            {"compressor", {{"id", "blosc"}, {"cname", "lz4"}, {"clevel", 5}, {"shuffle", 1}, {"blocksize", 0}}}}));
  EXPECT_EQ(ZarrArray::open(store, "dates").read_seconds(pool())[0], kNotATime);
  EXPECT_EQ(list_arrays(*store), std::vector<std::string>{"dates"});
  EXPECT_EQ(ZarrArray::open(store, "dates").dimension_names(), std::vector<std::string>{"time"});
  EXPECT_EQ(ZarrArray::open(store, "dates").compressor(), "blosc(lz4, level 5, byte shuffle)");

  write_attributes(*store, "", R"({"b": [1, NaN], "a": "text with NaN"})");
  EXPECT_EQ(read_attributes(*store, ""), R"({"a":"text with NaN","b":[1,null]})");
  EXPECT_EQ(read_attributes(*store, "nothing/here"), "{}");
  expect_error(ErrorCode::corrupt_data, {"JSON"}, [&] { write_attributes(*store, "", "{"); });
}

TEST(Zarr, ReadAllConverts) {
  const auto store = make_memory_store();
  const auto make = [&]<class T>(const std::string& dtype, const std::vector<T>& values) {
    ZarrArray array = ZarrArray::create(store, "a", {.shape = {int64_t(values.size())}, .chunks = {2}, .dtype = dtype});
    array.write(array.whole(), values.data(), pool());
    return array;
  };
  const ZarrArray floats = make("<f4", std::vector<float>{0.5f, -2, 3});
  EXPECT_EQ(floats.read_all<double>(pool()), (std::vector<double>{0.5, -2, 3}));
  expect_error(ErrorCode::unsupported, {"<f4", "integers"}, [&] { floats.read_all<int64_t>(pool()); });
  const ZarrArray shorts = make("<i2", std::vector<int16_t>{-5, 300});
  EXPECT_EQ(shorts.read_all<float>(pool()), (std::vector<float>{-5, 300}));
  EXPECT_EQ(shorts.read_all<int64_t>(pool()), (std::vector<int64_t>{-5, 300}));
  expect_error(ErrorCode::corrupt_data, {"element 0 is -5"}, [&] { shorts.read_all<uint8_t>(pool()); });
  const ZarrArray bools = make("|b1", std::vector<uint8_t>{1, 0, 1});
  EXPECT_EQ(bools.read_all<int32_t>(pool()), (std::vector<int32_t>{1, 0, 1}));
  const ZarrArray times = make("<m8[ms]", std::vector<int64_t>{2000, -1000});
  EXPECT_EQ(times.read_seconds(pool()), (std::vector<int64_t>{2, -1}));
  EXPECT_EQ(times.read_all<int64_t>(pool()), (std::vector<int64_t>{2000, -1000}));
  expect_error(ErrorCode::unsupported, {"<m8[ms]"}, [&] { times.read_all<double>(pool()); });
  const ZarrArray odd = make("<m8[ms]", std::vector<int64_t>{2000, 1500});
  expect_error(ErrorCode::corrupt_data, {"element 1", "1500 x ms"}, [&] { odd.read_seconds(pool()); });
  expect_error(ErrorCode::unsupported, {"<f4"}, [&] { floats.read_seconds(pool()); });
}

TEST(Zarr, FailingStoresAreErrorsNotMissingChunks) {
  // A directory in which one chunk cannot be opened as a file.
  const std::string path = fmt::format("{}/boreas_zarr_failing_{}", testing::TempDir(), ::getpid());
  std::filesystem::remove_all(path);
  const auto store = create_directory_store(path);
  const ZarrArray array = write_array(store, "a", {.shape = {4, 4}, .chunks = {2, 4}});
  expect_box(array, array.whole());
  std::filesystem::remove(path + "/a/1.0");
  std::filesystem::create_symlink("1.0", path + "/a/1.0");  // a link to itself
  std::vector<float> out(16);
  expect_error(ErrorCode::io, {path + "/a/1.0"}, [&] { array.read(array.whole(), out.data(), pool()); });
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace boreas
