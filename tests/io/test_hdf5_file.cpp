#include "io/hdf5_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>
#include <thread>

#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;

template <class T>
std::vector<T> count_up(int64_t n) {
  std::vector<T> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values[i] = T(float(i % 120));
  return values;
}

size_t num_entries(const test::TemporaryFolder& folder) {
  return size_t(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()));
}

TEST(Hdf5File, ReadsBackEveryTypeAndRank) {
  test::TemporaryFolder folder;
  const std::string path = folder / "a.h5";
  const std::vector<Shape> shapes = {{7}, {3, 4}, {2, 3, 4}, {2, 2, 3, 2}, {0, 5}};
  {
    Hdf5File file = Hdf5File::create(path);
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i32, DType::i64, DType::u8})
      dispatch_dtype(dtype, [&]<class T>() {
        for (size_t i = 0; i < shapes.size(); ++i) {
          auto values = count_up<T>(shapes[i].size() + 1);
          file.write(fmt::format("group/{}/shape{}", to_string(dtype), i), Tensor(values.data(), dtype, shapes[i]));
        }
      });
    file.commit();
  }
  const Hdf5File file = Hdf5File::open(path);
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i32, DType::i64, DType::u8})
    dispatch_dtype(dtype, [&]<class T>() {
      for (size_t i = 0; i < shapes.size(); ++i) {
        const auto [buffer, tensor] = file.read(fmt::format("/group/{}/shape{}", to_string(dtype), i));
        EXPECT_EQ(tensor.dtype(), dtype);
        EXPECT_EQ(tensor.shape(), shapes[i]);
        const auto expected = count_up<T>(shapes[i].size() + 1);
        if (tensor.size() > 0) {
          EXPECT_EQ(std::memcmp(tensor.data(), expected.data(), size_t(tensor.bytes())), 0);
        }
      }
    });
  EXPECT_EQ(file.list(""), std::vector<std::string>{"group"});
  EXPECT_EQ(file.list("group"), (std::vector<std::string>{"bf16", "f32", "f64", "i32", "i64", "u8"}));
  EXPECT_EQ(file.read_vector<double>("group/f64/shape1"), count_up<double>(12));
  EXPECT_TRUE(file.is_group("group/f32"));
  EXPECT_FALSE(file.is_group("group/f32/shape0"));
  EXPECT_TRUE(file.exists("group/f32/shape0"));
  EXPECT_FALSE(file.exists("group/f32/shape9"));
  EXPECT_FALSE(file.exists("nowhere/at/all"));
}

TEST(Hdf5File, WritesAndReadsColumnSlices) {
  test::TemporaryFolder folder;
  auto wide = count_up<float>(60);
  const Tensor matrix(wide.data(), DType::f32, {6, 10});
  {
    Hdf5File file = Hdf5File::create(folder / "a.h5");
    file.write("middle", matrix.columns({3, 7}));
    file.commit();
  }
  const Hdf5File file = Hdf5File::open(folder / "a.h5");
  std::vector<float> back(60, -1.0f);
  file.read_into("middle", Tensor(back.data(), DType::f32, {6, 10}).columns({1, 5}));
  for (int64_t row = 0; row < 6; ++row)
    for (int64_t column = 0; column < 10; ++column)
      EXPECT_EQ(back[row * 10 + column], column >= 1 && column < 5 ? wide[row * 10 + column + 2] : -1.0f);
}

TEST(Hdf5File, MovesRowsOfReservedArrays) {
  test::TemporaryFolder folder;
  auto values = count_up<double>(50);
  {
    Hdf5File file = Hdf5File::create(folder / "a.h5");
    file.reserve("rows", DType::f64, {10, 5});
    const Tensor whole(values.data(), DType::f64, {10, 5});
    file.write_rows("rows", 7, whole.slice({7, 10}));
    file.write_rows("rows", 0, whole.slice({0, 7}));
    BOREAS_EXPECT_ERROR(file.write_rows("rows", 8, whole.slice({0, 7})), shape, "has no rows 8..15");
    BOREAS_EXPECT_ERROR(file.write_rows("rows", 0, whole.columns({0, 2})), shape, "'rows' is f64 [10, 5]");
    file.commit();
  }
  const Hdf5File file = Hdf5File::open(folder / "a.h5");
  EXPECT_EQ(file.read_vector<double>("rows"), values);
  std::vector<double> two(10);
  file.read_rows("rows", 4, Tensor(two.data(), DType::f64, {2, 5}));
  EXPECT_EQ(two, std::vector<double>(values.begin() + 20, values.begin() + 30));
}

TEST(Hdf5File, KeepsTextAndAttributes) {
  test::TemporaryFolder folder;
  const std::string large(200000, 'x');
  {
    Hdf5File file = Hdf5File::create(folder / "a.h5");
    file.write_text("config", "a: 1\nb: \xc3\xa9\n");
    file.write_text("empty", "");
    file.write_attribute("", "version", int64_t(3));
    file.write_attribute("", "version", int64_t(4));  // replaces
    file.make_group("training");
    file.write_attribute("training", "loss", 0.25);
    file.write_attribute("training", "large", large);
    file.commit();
  }
  const Hdf5File file = Hdf5File::open(folder / "a.h5");
  EXPECT_EQ(file.read_text("config"), "a: 1\nb: \xc3\xa9\n");
  EXPECT_EQ(file.read_text("empty"), "");
  EXPECT_EQ(file.read_integer_attribute("", "version"), 4);
  EXPECT_EQ(file.read_real_attribute("training", "loss"), 0.25);
  EXPECT_EQ(file.read_real_attribute("", "version"), 4.0);
  EXPECT_EQ(file.read_text_attribute("training", "large"), large);
  EXPECT_TRUE(file.has_attribute("training", "loss"));
  EXPECT_FALSE(file.has_attribute("training", "los"));
  BOREAS_EXPECT_ERROR(file.read_integer_attribute("training", "loss"), corrupt_data, "is not an integer");
  BOREAS_EXPECT_ERROR(file.read_text_attribute("training", "loss"), corrupt_data, "is not a text");
  BOREAS_EXPECT_ERROR(file.read_text_attribute("training", "gone"), invalid_argument, "has no attribute 'gone'");
}

TEST(Hdf5File, ErrorsNameFileAndObject) {
  test::TemporaryFolder folder;
  const std::string path = folder / "weights.h5";
  auto values = count_up<float>(6);
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("encoder/weight", Tensor(values.data(), DType::f32, {2, 3}));
    BOREAS_EXPECT_ERROR(file.write("encoder/weight", Tensor(values.data(), DType::f32, {2, 3})), invalid_argument,
                        "already written");
    file.write_text("note", "text");
    file.commit();
  }
  const Hdf5File file = Hdf5File::open(path);
  std::vector<double> doubles(6);
  BOREAS_EXPECT_ERROR(file.read("encoder/weigth"), invalid_argument, "near names: weight");
  BOREAS_EXPECT_ERROR(file.read("decoder/weight"), invalid_argument, path);
  BOREAS_EXPECT_ERROR(file.read("encoder"), corrupt_data, "'encoder' is not an array");
  BOREAS_EXPECT_ERROR(file.read("note"), unsupported, "another type");
  BOREAS_EXPECT_ERROR(file.read_into("encoder/weight", Tensor(values.data(), DType::f32, {3, 2})), shape,
                      "'encoder/weight' is f32 [2, 3] where f32 [3, 2] is expected");
  BOREAS_EXPECT_ERROR(file.read_into("encoder/weight", Tensor(doubles.data(), DType::f64, {2, 3})), shape, "f64");
  BOREAS_EXPECT_ERROR(file.read_vector<double>("encoder/weight"), shape, "is f32 where f64 is expected");
  BOREAS_EXPECT_ERROR(Hdf5File::open(folder / "absent.h5"), io, "absent.h5: there is no such file");
  BOREAS_EXPECT_ERROR(Hdf5File::create(folder / "no/such/folder.h5"), io, "there is no folder");
  std::ofstream(folder / "text.h5") << "this is not HDF5";
  BOREAS_EXPECT_ERROR(Hdf5File::open(folder / "text.h5"), corrupt_data, "text.h5: is not an HDF5 file");
}

TEST(Hdf5File, TruncatedFilesAreRefused) {
  test::TemporaryFolder folder;
  const std::string path = folder / "a.h5";
  auto values = count_up<float>(100000);
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("array", Tensor(values.data(), DType::f32, {100000}));
    file.commit();
  }
  fs::resize_file(path, 200000);
  BOREAS_EXPECT_ERROR(Hdf5File::open(path).read("array"), corrupt_data, "a.h5");
}

// HDF5 itself would follow damaged structures, and crash over some.
TEST(Hdf5File, AnyChangeOfTheStructureIsRefused) {
  test::TemporaryFolder folder;
  const std::string path = folder / "a.h5";
  const auto values = count_up<float>(1000);
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("group/array", std::span(values));
    file.write("group/other", std::span(values));
    file.write_text("text", std::string(100, 'x'));
    file.write_attribute("", "version", int64_t(3));
    file.commit();
  }
  std::ostringstream copy;
  copy << std::ifstream(path, std::ios::binary).rdbuf();
  const std::string whole = copy.str();
  std::string bytes_of_values(4000, ' ');
  std::memcpy(bytes_of_values.data(), values.data(), 4000);
  const size_t first = whole.find(bytes_of_values), second = whole.find(bytes_of_values, first + 1);
  ASSERT_NE(second, std::string::npos);
  int num_refused = 0;
  for (size_t at = 0; at<whole.size(); at += at + 200> whole.size() ? 1 : 13) {
    std::string damaged = whole;
    damaged[at] = char(damaged[at] ^ 4);
    std::ofstream(path, std::ios::binary) << damaged;
    const bool is_value = (at >= first && at < first + 4000) || (at >= second && at < second + 4000);
    if (is_value)
      EXPECT_NO_THROW(Hdf5File::open(path)) << at;
    else
      BOREAS_EXPECT_ERROR(Hdf5File::open(path), corrupt_data, "damaged");
    num_refused += !is_value;
  }
  EXPECT_GT(num_refused, 300);
  std::ofstream(path, std::ios::binary) << whole << 'x';
  BOREAS_EXPECT_ERROR(Hdf5File::open(path), corrupt_data, "no seal");
  std::ofstream(path, std::ios::binary) << whole.substr(0, whole.size() - 1);
  BOREAS_EXPECT_ERROR(Hdf5File::open(path), corrupt_data, "no seal");
}

TEST(Hdf5File, NothingIsVisibleBeforeCommit) {
  test::TemporaryFolder folder;
  const std::string path = folder / "a.h5";
  auto values = count_up<float>(4);
  const auto write = [&](bool commit) {
    Hdf5File file = Hdf5File::create(path);
    file.write("array", Tensor(values.data(), DType::f32, {4}));
    EXPECT_EQ(fs::exists(folder / ".a.h5.partial"), true);
    if (commit) file.commit();
  };
  write(false);
  EXPECT_EQ(num_entries(folder), 0u);
  write(true);
  EXPECT_EQ(num_entries(folder), 1u);
  values[0] = 99;
  write(false);  // the old file stays
  EXPECT_EQ(Hdf5File::open(path).read_vector<float>("array")[0], 0.0f);
  write(true);
  EXPECT_EQ(Hdf5File::open(path).read_vector<float>("array")[0], 99.0f);
  EXPECT_EQ(num_entries(folder), 1u);
}

// A limit on the size of files stands for a full disk: the same calls fail, with another reason.
TEST(Hdf5File, FullDiskIsOneErrorAndLeavesNothing) {
  test::TemporaryFolder folder;
  const std::string path = folder / "a.h5";
  auto values = count_up<float>(1000);
  {
    Hdf5File file = Hdf5File::create(path);
    file.write("array", Tensor(values.data(), DType::f32, {1000}));
    file.commit();
  }
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{100000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  const auto save = [&](int64_t n) {
    auto many = count_up<float>(n);
    Hdf5File file = Hdf5File::create(path);
    file.write("array", Tensor(many.data(), DType::f32, {n}));
    file.write_text("text", std::string(1000, 'x'));
    file.commit();
  };
  BOREAS_EXPECT_ERROR(save(1000000), io, "File too large");
  BOREAS_EXPECT_ERROR(save(24900), io, "removed");  // the array fits, what follows does not
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(num_entries(folder), 1u);
  EXPECT_EQ(Hdf5File::open(path).read_vector<float>("array"), count_up<float>(1000));
  save(5000);  // the library is still usable
  EXPECT_EQ(Hdf5File::open(path).read_vector<float>("array").size(), 5000u);
}

TEST(Hdf5File, ServesSeveralThreads) {
  test::TemporaryFolder folder;
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int round = 0; round < 10; ++round) {
        const std::string path = folder / ("file" + std::to_string(t) + ".h5");
        std::vector<int64_t> values(1000, t * 100 + round);
        Hdf5File file = Hdf5File::create(path);
        file.write("group/array", std::span<const int64_t>(values));
        file.commit();
        if (Hdf5File::open(path).read_vector<int64_t>("group/array") != values) ++failures;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
}

}  // namespace
}  // namespace boreas
