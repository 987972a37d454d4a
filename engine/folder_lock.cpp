#include "engine/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "kernels/core/error.h"

namespace boreas {

FolderLock::FolderLock(const std::string& folder) {
  std::filesystem::create_directories(folder);
  const std::string path = (std::filesystem::path(folder) / ".lock").string();
  file_ = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
  BOREAS_CHECK(file_ >= 0, io, "{} cannot be written: {}", path, std::strerror(errno));
  if (flock(file_, LOCK_EX | LOCK_NB) == 0) return;
  const int why = errno;
  close(file_);
  BOREAS_CHECK(why != EWOULDBLOCK, io, "{}: another training writes into this folder; choose another output folder",
               folder);
  BOREAS_FAIL(io, "{} cannot be locked: {}", path, std::strerror(why));
}

FolderLock::~FolderLock() { close(file_); }

}  // namespace boreas
