#include "engine/text_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/core/error.h"

namespace boreas {

void write_file(const std::string& path, std::span<const uint8_t> bytes) {
  const std::filesystem::path target(path);
  const std::filesystem::path aside = target.parent_path() / ("." + target.filename().string() + ".partial");
  std::ofstream out(aside, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
  out.close();
  std::error_code failure;
  if (out) std::filesystem::rename(aside, target, failure);
  if (out && !failure) return;
  const std::string cause = failure ? failure.message() : std::strerror(errno);
  std::filesystem::remove(aside, failure);
  BOREAS_FAIL(io, "{} could not be written: {}", path, cause);
}

void write_text_file(const std::string& path, std::string_view text) {
  write_file(path, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

std::string read_text_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  BOREAS_CHECK(in, io, "{} could not be opened: {}", path, std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace boreas
