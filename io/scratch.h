// Scratch memory of a thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace boreas {

/// Uninitialised memory for the length of a scope. Usual sizes are kept by the thread for its next scope: pieces of a
/// megabyte that are allocated and freed go back to the system, which clears all their pages again each time, and that
/// takes as long as decoding into them.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : piece_(take(bytes)) {}
  ~Scratch() {
    if (piece_.bytes <= kMostKept && kept().size() < kNumKept) kept().push_back(std::move(piece_));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::byte* data() const { return piece_.memory.get(); }

 private:
  struct Piece {
    std::unique_ptr<std::byte[]> memory;
    int64_t bytes = 0;
  };
  static constexpr int64_t kMostKept = 4 << 20;
  static constexpr size_t kNumKept = 4;

  static std::vector<Piece>& kept() {
    static thread_local std::vector<Piece> pieces;
    return pieces;
  }
  static Piece take(int64_t bytes) {
    for (auto piece = kept().begin(); piece != kept().end(); ++piece) {
      if (piece->bytes < bytes) continue;
      Piece found = std::move(*piece);
      kept().erase(piece);
      return found;
    }
    if (kept().size() == kNumKept) kept().pop_back();  // all of them too small
    return {std::make_unique_for_overwrite<std::byte[]>(size_t(bytes)), bytes};
  }

  Piece piece_;
};

}  // namespace boreas
