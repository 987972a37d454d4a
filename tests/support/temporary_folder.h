// A folder for the files of one test, removed at its end.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace boreas::test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (root() / "boreas-test-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder " + pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  // In memory where there is room: tests would spend most of their time on flushing files to a disk.
  static std::filesystem::path root() {
    std::error_code error;
    const auto memory = std::filesystem::space("/dev/shm", error);
    if (!error && memory.available >= (256u << 20)) return "/dev/shm";
    return std::filesystem::temp_directory_path();
  }
  std::filesystem::path path_;
};

}  // namespace boreas::test
