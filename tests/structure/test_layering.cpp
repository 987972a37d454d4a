// The layering of docs/structure.md, held against every #include of the sources.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
const fs::path kRoot = BOREAS_SOURCE_DIR;

// A place is a folder, or for the kernels one of three: what a file there may include from boreas.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"kernels/core", {"kernels/core"}},
    {"kernels/cuda", {"kernels/core", "kernels/cuda"}},
    {"kernels/graph", {"kernels/core", "kernels/graph"}},
    // Products that cannot fuse an activation launch it themselves.
    {"kernels/op", {"kernels/core", "kernels/graph", "kernels/cuda", "kernels/activation/activation.h", "own"}},
    {"comm", {"comm", "kernels/core", "kernels/graph", "kernels/op"}},
    {"io", {"io", "kernels/core", "kernels/graph/graph_data.h"}},
    {"models", {"models", "comm", "kernels/core", "kernels/graph", "kernels/op"}},
    {"engine", {"engine", "models", "io", "comm", "kernels/core", "kernels/graph", "kernels/op"}},
};

std::string place_of(const std::string& path) {
  if (path.rfind("kernels/", 0) != 0) return path.substr(0, path.find('/'));
  for (const char* place : {"kernels/core", "kernels/cuda", "kernels/graph"})
    if (path.rfind(std::string(place) + "/", 0) == 0) return place;
  return "kernels/op";
}

std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

bool is_source(const fs::path& path) {
  static const std::set<std::string> kEndings = {".h", ".cpp", ".cu", ".cuh"};
  return kEndings.contains(path.extension().string());
}

struct Include {
  std::string file, target;
  bool quoted;
};

std::vector<Include> includes_below(const std::string& folder) {
  static const std::regex kPattern(R"(^\s*#\s*include\s*([<"])([^>"]+)[>"])");
  std::vector<Include> found;
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
    if (!entry.is_regular_file() || !is_source(entry.path())) continue;
    std::ifstream in(entry.path());
    std::smatch match;
    for (std::string line; std::getline(in, line);)
      if (std::regex_search(line, match, kPattern))
        found.push_back({fs::relative(entry.path(), kRoot).generic_string(), match[2], match[1] == "\""});
  }
  return found;
}

TEST(Layering, EveryIncludeIsAllowed) {
  size_t num_checked = 0;
  for (const char* folder : {"kernels", "comm", "io", "models", "engine"})
    for (const auto& [file, target, quoted] : includes_below(folder)) {
      if (!quoted) continue;
      ++num_checked;
      ASSERT_NE(target.find('/'), std::string::npos)
          << file << " includes \"" << target << "\": write the path from the root";
      const auto& allowed = kMayInclude.at(place_of(file));
      const bool own = allowed.contains("own") && folder_of(file) == folder_of(target);
      const std::string place = place_of(target);
      const bool ok = own || allowed.contains(target) || (place != "kernels/op" && allowed.contains(place)) ||
                      (place == "kernels/op" && allowed.contains("kernels/op"));
      EXPECT_TRUE(ok) << file << " includes " << target << ", which its layer may not see";
      EXPECT_TRUE(fs::exists(kRoot / target)) << file << " includes " << target << ", which does not exist";
    }
  EXPECT_GT(num_checked, 50u) << "the scan found too few includes to mean anything";
}

TEST(Layering, OnlyDeviceFilesSeeCuda) {
  const std::regex device_file(
      R"((_cuda\.cu|_sm\d+\.cu|\.cuh|kernels/core/(device|buffer|host_stream)\.cpp|comm/nccl_group\.cpp)$)");
  for (const char* folder : {"kernels", "comm", "io", "models", "engine"})
    for (const auto& [file, target, quoted] : includes_below(folder))
      if (target.find("cuda_") == 0 || target.find("cublas") == 0 || target == "nccl.h" || target == "cuda.h") {
        EXPECT_TRUE(std::regex_search(file, device_file)) << file << " includes " << target;
      }
}

}  // namespace
