// FolderLock: one training at a time in an output folder.
#pragma once

#include <string>

namespace boreas {

/// Holds `<folder>/.lock` from construction to destruction, or to the end of the process, however it ends. Throws io if
/// another process holds it, or if the folder cannot be written.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;

 private:
  int file_ = -1;
};

}  // namespace boreas
