#include "io/atomic_replace.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "kernels/core/error.h"

namespace fs = std::filesystem;

namespace boreas {
namespace {

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

// Flushes a file or folder, or with `all` everything on its file system: one call for the many files of a store.
void flush(const fs::path& path, bool all = false) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool flushed = file >= 0 && (all ? ::syncfs(file) : ::fsync(file)) == 0;
  const int reason = errno;
  if (file >= 0) ::close(file);
  // A file system that cannot flush a folder says EINVAL.
  BOREAS_CHECK(flushed || (file >= 0 && reason == EINVAL), io, "{}: cannot be flushed to the disk: {}", path.string(),
               std::strerror(reason));
}

}  // namespace

std::string partial_path(const std::string& path) {
  fs::path name(path);
  if (!name.has_filename()) name = name.parent_path();  // "x.zarr/"
  std::error_code error;
  BOREAS_CHECK(fs::is_directory(folder_of(name), error), io, "{}: cannot be written: there is no folder '{}'", path,
               folder_of(name).string());
  return (folder_of(name) / ("." + name.filename().string() + ".partial")).string();
}

void replace_path(const std::string& partial, const std::string& path) {
  flush(partial, fs::is_directory(partial));
  fs::path name(path);
  if (!name.has_filename()) name = name.parent_path();
  std::error_code error;
  int status = 0;
  if (fs::is_directory(name,
                       error)) {  // rename() does not replace a folder with files in it: swap, then remove the old
    status = ::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, name.c_str(), RENAME_EXCHANGE);
    if (status != 0 && (errno == EINVAL || errno == ENOSYS)) {
      const std::string old = partial + ".old";
      status = ::rename(name.c_str(), old.c_str());
      if (status == 0) status = ::rename(partial.c_str(), name.c_str());
      if (status == 0) remove_quietly(old);
    } else if (status == 0) {
      remove_quietly(partial);
    }
  } else {
    status = ::rename(partial.c_str(), name.c_str());
  }
  BOREAS_CHECK(status == 0, io, "{}: cannot take the place of '{}': {}", partial, path, std::strerror(errno));
  flush(folder_of(name));
}

void remove_quietly(const std::string& path) noexcept {
  std::error_code error;
  if (!path.empty()) fs::remove_all(path, error);
}

}  // namespace boreas
