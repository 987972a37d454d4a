// How an op lays several arrays over its scratch memory.
#pragma once

#include <cstdint>

namespace boreas {

/// Hands out aligned pieces of scratch memory, or only counts them where there is none: `scratch_bytes()` and `launch`
/// take the same pieces, so they cannot disagree.
class ScratchPieces {
 public:
  explicit ScratchPieces(void* base = nullptr) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t size) {
    T* const piece = base_ ? reinterpret_cast<T*>(base_ + bytes_) : nullptr;
    bytes_ += (size * int64_t(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* base_;
  int64_t bytes_ = 0;
};

}  // namespace boreas
