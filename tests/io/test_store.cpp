#include "io/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "io/thread_pool.h"
#include "kernels/core/error.h"

namespace boreas {
namespace {

namespace fs = std::filesystem;

template <class F>
void expect_error(ErrorCode code, const std::string& part, F f) {
  try {
    f();
    ADD_FAILURE() << "no error, expected one about " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nlacks: " << part;
  }
}

std::string text_of(const std::optional<Bytes>& bytes) {
  return bytes ? std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()) : "(absent)";
}

// A path that is not there yet, in a folder of this process that goes when it ends.
std::string new_path(const std::string& name) {
  static const struct Folder {
    std::string path = fmt::format("{}/boreas_store_{}", testing::TempDir(), ::getpid());
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
  } folder;
  const std::string path = folder.path + "/" + name;
  fs::remove_all(path);
  return path;
}

// The same behaviour of every store that can be written.
class WritableStore : public testing::TestWithParam<std::string> {
 protected:
  WritableStore() {
    store = GetParam() == "memory" ? make_memory_store() : create_directory_store(new_path("writable"));
  }
  std::shared_ptr<Store> store;
};

TEST_P(WritableStore, KeepsBytesByKey) {
  EXPECT_FALSE(store->get("a/b"));
  EXPECT_FALSE(store->size("a/b"));
  EXPECT_FALSE(store->exists("a"));
  store->put("a/b", std::string_view("first"));
  store->put("a/b", std::string_view("second"));
  store->put("a/c/d", std::string_view("third"));
  store->put("e", std::string_view(""));
  EXPECT_EQ(text_of(store->get("a/b")), "second");
  EXPECT_EQ(text_of(store->get_range("a/b", 2, 3)), "con");
  EXPECT_EQ(text_of(store->get("e")), "");
  EXPECT_EQ(store->size("a/b"), 6);
  EXPECT_FALSE(store->exists("a")) << "a folder is not a value";
  EXPECT_EQ(store->list(""), (std::vector<std::string>{"a/", "e"}));
  EXPECT_EQ(store->list("a"), (std::vector<std::string>{"b", "c/"}));
  EXPECT_TRUE(store->list("nothing").empty());
  store->erase("a/c");
  EXPECT_EQ(store->list("a"), (std::vector<std::string>{"b"}));
  store->erase("a/b");
  store->erase("never/was");
  EXPECT_FALSE(store->exists("a/b"));
}

TEST_P(WritableStore, RefusesKeysThatAreNone) {
  for (const std::string key : {"", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\\b"}) {
    expect_error(ErrorCode::invalid_argument, "is not a key", [&] { store->get(key); });
    expect_error(ErrorCode::invalid_argument, "is not a key", [&] { store->put(key, std::string_view("x")); });
    expect_error(ErrorCode::invalid_argument, "is not a key", [&] { store->erase(key); });
  }
  expect_error(ErrorCode::invalid_argument, "is not a key", [&] { store->get(std::string("a\0b", 3)); });
  expect_error(ErrorCode::invalid_argument, "is not a key", [&] { store->list(".."); });
  store->put("..a/b..", std::string_view("fine"));
  EXPECT_EQ(text_of(store->get("..a/b..")), "fine");
}

TEST_P(WritableStore, ChecksRangesAndSizes) {
  store->put("a", std::string_view("0123456789"));
  expect_error(ErrorCode::corrupt_data, "10 bytes", [&] { store->get_range("a", 8, 3); });
  expect_error(ErrorCode::corrupt_data, "10 bytes", [&] { store->get_range("a", -1, 3); });
  expect_error(ErrorCode::corrupt_data, "10 bytes", [&] { store->get_range("a", INT64_MAX, 3); });
  expect_error(ErrorCode::corrupt_data, "more than the 9", [&] { store->get("a", 9); });
  const Blob part = store->open("a")->slice(2, 6).slice(1, 3);
  EXPECT_EQ(text_of(part.read_all()), "345");
  Bytes four(4);
  expect_error(ErrorCode::corrupt_data, "3 bytes", [&] { part.read(0, four); });
}

TEST_P(WritableStore, AnOpenValueStaysAsItWas) {
  store->put("a", std::string_view("before"));
  const Blob blob = *store->open("a");
  store->put("a", std::string_view("after"));
  EXPECT_EQ(text_of(blob.read_all()), "before");
}

INSTANTIATE_TEST_SUITE_P(Store, WritableStore, testing::Values("memory", "directory"),
                         [](const auto& info) { return info.param; });

TEST(DirectoryStore, OnlyAbsenceIsAbsence) {
  const std::string path = new_path("errors");
  const auto store = create_directory_store(path);
  store->put("file", std::string_view("x"));
  expect_error(ErrorCode::io, path + "/file/b", [&] { store->get("file/b"); });  // ENOTDIR
  fs::create_symlink("loop", path + "/loop");
  expect_error(ErrorCode::io, path + "/loop", [&] { store->get("loop"); });  // ELOOP
  ASSERT_EQ(::mkfifo((path + "/pipe").c_str(), 0600), 0);
  expect_error(ErrorCode::io, "not a regular file", [&] { store->get("pipe"); });
  if (::geteuid() != 0) {
    fs::permissions(path + "/file", fs::perms::none);
    expect_error(ErrorCode::io, "Permission denied", [&] { store->get("file"); });
  }
}

TEST(DirectoryStore, LinksMayNotLeaveIt) {
  const std::string path = new_path("links"), outside = new_path("links_outside");
  const auto store = create_directory_store(path);
  fs::create_directories(outside);
  std::ofstream(outside + "/secret") << "secret";
  store->put("inside", std::string_view("inside"));
  fs::create_symlink(outside + "/secret", path + "/file");
  fs::create_symlink(outside, path + "/folder");
  fs::create_symlink("inside", path + "/good");
  expect_error(ErrorCode::io, "outside of the store", [&] { store->get("file"); });
  expect_error(ErrorCode::io, "outside of the store", [&] { store->get("folder/secret"); });
  expect_error(ErrorCode::io, "outside of the store", [&] { store->list("folder"); });
  expect_error(ErrorCode::io, "outside of the store", [&] { store->put("folder/new", std::string_view("x")); });
  expect_error(ErrorCode::io, "outside of the store", [&] { store->erase("folder/secret"); });
  EXPECT_TRUE(fs::exists(outside + "/secret"));
  EXPECT_EQ(std::distance(fs::directory_iterator(outside), fs::directory_iterator()), 1);
  EXPECT_EQ(text_of(store->get("good")), "inside");
  // A store whose name begins like this one is outside as well.
  fs::create_symlink(outside, path + "/sibling");
  expect_error(ErrorCode::io, "outside of the store", [&] { store->get("sibling/secret"); });
}

TEST(DirectoryStore, MayBeRenamedWhileOpen) {
  const std::string path = new_path("renamed"), moved = new_path("renamed_to");
  const auto store = create_directory_store(path);
  store->put("a", std::string_view("x"));
  fs::rename(path, moved);
  store->put("b/c", std::string_view("y"));
  EXPECT_EQ(text_of(store->get("a")), "x");
  EXPECT_TRUE(fs::exists(moved + "/b/c"));
}

TEST(DirectoryStore, FailedWritesLeaveNothing) {
  const std::string path = new_path("failed");
  const auto store = create_directory_store(path);
  store->put("folder/a", std::string_view("x"));
  // The value cannot take the place of a folder that is not empty.
  expect_error(ErrorCode::io, path + "/folder", [&] { store->put("folder", std::string_view("y")); });
  EXPECT_EQ(store->list(""), (std::vector<std::string>{"folder/"}));
  EXPECT_EQ(std::distance(fs::directory_iterator(path), fs::directory_iterator()), 1);
}

TEST(DirectoryStore, OpeningAndCreating) {
  const std::string path = new_path("opening");
  expect_error(ErrorCode::io, path, [&] { open_store(path); });
  expect_error(ErrorCode::io, path, [&] { create_directory_store(path + "/no/parent"); });
  create_directory_store(path);
  create_directory_store(path)->put("a", std::string_view("x"));
  expect_error(ErrorCode::io, "not empty", [&] { create_directory_store(path); });
  EXPECT_EQ(text_of(open_store(path)->get("a")), "x");
  EXPECT_EQ(open_store(path)->name(), path);
}

// --- zip archives ------------------------------------------------------------------------------------------

const std::string kArchive = std::string(BOREAS_SOURCE_DIR) + "/tests/golden/zarr/v2_by_zarr_python_2.zip";
const std::string kDeflated = std::string(BOREAS_SOURCE_DIR) + "/tests/golden/zarr/deflated.zip";

std::shared_ptr<Store> open_archive(const std::string& path) {
  try {
    return open_store(path);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::unsupported) return nullptr;
    throw;
  }
}

TEST(ZipStore, ReadsStoredAndDeflatedEntries) {
  const auto archive = open_archive(kArchive);
  if (!archive) GTEST_SKIP() << "built without minizip";
  EXPECT_TRUE(archive->exists(".zgroup"));
  EXPECT_FALSE(archive->exists("nothing"));
  EXPECT_FALSE(archive->exists("order_C_slash"));
  EXPECT_EQ(archive->size("codec_none/0.0"), 3 * 40 * 4);
  const Bytes whole = *archive->get("codec_none/0.0");
  EXPECT_EQ(text_of(archive->get_range("codec_none/0.0", 5, 6)), text_of(Bytes(whole.begin() + 5, whole.begin() + 11)));
  const std::vector<std::string> names = archive->list("");
  EXPECT_NE(std::find(names.begin(), names.end(), "codec_none/"), names.end());
  EXPECT_EQ(archive->list("rank_0"), (std::vector<std::string>{".zarray", "0"}));
  expect_error(ErrorCode::unsupported, "only reads zip", [&] { archive->put("a", std::string_view("x")); });
  expect_error(ErrorCode::unsupported, "only reads zip", [&] { archive->erase("a"); });

  const auto deflated = open_archive(kDeflated);
  const auto plain = open_store(std::string(BOREAS_SOURCE_DIR) + "/tests/golden/zarr/plain.zarr");
  for (const std::string key : {".zgroup", "data/.zarray", "data/0.0", "data/1.0", "nested/0/0"}) {
    EXPECT_EQ(text_of(deflated->get(key)), text_of(plain->get(key))) << key;
  }
}

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto bytes = std::as_bytes(std::span(text));
  return Bytes(bytes.begin(), bytes.end());
}

void write_file(const std::string& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
}

TEST(ZipStore, DamagedArchivesAreErrors) {
  if (!open_archive(kDeflated)) GTEST_SKIP() << "built without minizip";
  const std::string path = new_path("damaged.zip");
  const Bytes good = read_file(kDeflated);
  const auto intact = open_store(kDeflated);
  const auto expect_error_or_intact = [&](const Bytes& bytes, bool may_differ, const std::string& what) {
    write_file(path, bytes);
    try {
      const auto store = open_store(path);
      for (const std::string key : {".zgroup", "data/.zarray", "data/0.0", "data/1.0", "nested/0/0"}) {
        const auto read = store->get(key);
        EXPECT_TRUE(may_differ || text_of(read) == text_of(intact->get(key))) << what << " " << key;
      }
      return false;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("damaged.zip"), std::string::npos) << error.what();
      return true;
    }
  };
  int num_errors = 0;
  for (size_t n = 0; n < good.size(); n += n + 32 < good.size() ? 11 : 1) {
    const bool failed =
        expect_error_or_intact(Bytes(good.begin(), good.begin() + ptrdiff_t(n)), false, fmt::format("cut to {}", n));
    EXPECT_TRUE(failed || n + 8 >= good.size()) << "cut to " << n;  // the last bytes count a comment that is not there
  }
  for (size_t byte = 0; byte < good.size(); byte += 3) {
    Bytes bad = good;
    bad[byte] ^= std::byte(1 << (byte % 8));
    num_errors += expect_error_or_intact(bad, true, fmt::format("byte {}", byte));
  }
  EXPECT_GT(num_errors, int(good.size() / 3 / 3));
  fs::remove(path);
}

TEST(ZipStore, HostileNamesAndEncryptionAreRefused) {
  if (!open_archive(kDeflated)) GTEST_SKIP() << "built without minizip";
  const std::string path = new_path("hostile.zip");
  const Bytes good = read_file(kDeflated);
  const std::string text(reinterpret_cast<const char*>(good.data()), good.size());
  // The same length as "data/0.0", in the directory and in the header of the entry.
  std::string hostile = text;
  for (size_t at = hostile.find("data/0.0"); at != std::string::npos; at = hostile.find("data/0.0", at)) {
    hostile.replace(at, 8, "../../00");
  }
  std::ofstream(path, std::ios::binary) << hostile;
  expect_error(ErrorCode::invalid_argument, "../../00", [&] { open_store(path); });

  std::string encrypted = text;
  const size_t entry = encrypted.rfind("data/0.0") - 46;  // its record in the directory
  encrypted[entry + 8] |= 1;
  std::ofstream(path, std::ios::binary) << encrypted;
  expect_error(ErrorCode::unsupported, "encrypted", [&] { open_store(path)->get("data/0.0"); });
  fs::remove(path);
  expect_error(ErrorCode::io, "hostile.zip", [&] { open_store(path); });
}

// --- threads -----------------------------------------------------------------------------------------------

TEST(ThreadPool, VisitsEveryIndexOnce) {
  for (const int num_threads : {0, 1, 4}) {
    ThreadPool pool(num_threads);
    std::vector<std::atomic<int>> visits(1000);
    pool.parallel_for(1000, [&](int64_t i) { ++visits[size_t(i)]; });
    for (const auto& count : visits) EXPECT_EQ(count, 1);
    pool.parallel_for(0, [&](int64_t) { ADD_FAILURE(); });
  }
}

TEST(ThreadPool, NestedLoopsEnd) {
  for (const int num_threads : {0, 1, 3}) {
    ThreadPool pool(num_threads);
    std::atomic<int> sum = 0;
    pool.parallel_for(
        8, [&](int64_t) { pool.parallel_for(8, [&](int64_t) { pool.parallel_for(8, [&](int64_t) { ++sum; }); }); });
    EXPECT_EQ(sum, 512);
  }
}

TEST(ThreadPool, ExceptionsReachTheCaller) {
  for (const int num_threads : {0, 3}) {
    ThreadPool pool(num_threads);
    std::atomic<int> num_run = 0;
    expect_error(ErrorCode::config, "index 7", [&] {
      pool.parallel_for(100000, [&](int64_t i) {
        ++num_run;
        BOREAS_CHECK(i != 7, config, "index {}", i);
      });
    });
    EXPECT_LT(num_run, 100000);
    auto failing = pool.submit([]() -> int { BOREAS_FAIL(io, "task failed"); });
    expect_error(ErrorCode::io, "task failed", [&] { failing.get(); });
    EXPECT_EQ(pool.submit([] { return 42; }).get(), 42);
  }
  expect_error(ErrorCode::invalid_argument, "-1 threads", [] { ThreadPool pool(-1); });
}

TEST(ThreadPool, FinishesWhatWasSubmitted) {
  std::atomic<int> num_run = 0;
  {
    ThreadPool pool(2);
    for (int i = 0; i < 100; ++i) pool.submit([&] { ++num_run; });
  }
  EXPECT_EQ(num_run, 100);
}

}  // namespace
}  // namespace boreas
