#include "engine/json_lines.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kernels/core/error.h"

namespace boreas {

JsonLines::JsonLines(const std::string& path, int64_t length) : path_(path) {
  file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  BOREAS_CHECK(file_ >= 0, io, "{}: cannot open for appending: {}", path, std::strerror(errno));
  struct stat status {};
  if (fstat(file_, &status) == 0 && status.st_size > length && ftruncate(file_, length) == 0) status.st_size = length;
  length_ = status.st_size;
}

JsonLines::~JsonLines() { close(file_); }

void JsonLines::write(const std::string& line) {
  const std::string text = line + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(file_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    BOREAS_CHECK(n >= 0, io, "{}: cannot write: {}", path_, std::strerror(errno));
    done += size_t(n);
  }
  length_ += int64_t(text.size());
}

void JsonLines::flush_to_disk() {
  BOREAS_CHECK(fdatasync(file_) == 0, io, "{}: cannot flush to the disk: {}", path_, std::strerror(errno));
}

}  // namespace boreas
