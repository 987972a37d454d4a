// JsonLines: a log of one JSON object a line, whose length is part of a checkpoint.
#pragma once

#include <cstdint>
#include <string>

namespace boreas {

/// Appends lines to a file. A run that is resumed first cuts the file to the length that its checkpoint states, so that
/// the lines of a run that was interrupted are those of one that was not.
class JsonLines {
 public:
  /// Opens for appending after cutting to `length` bytes; 0 starts anew. A file shorter than `length` is kept as it is.
  JsonLines(const std::string& path, int64_t length);
  ~JsonLines();
  JsonLines(const JsonLines&) = delete;

  void write(const std::string& line);
  void flush_to_disk();
  int64_t length() const { return length_; }

 private:
  std::string path_;
  int file_ = -1;
  int64_t length_ = 0;
};

}  // namespace boreas
