// Partition: offsets that split n rows into contiguous parts.
#pragma once

#include <span>
#include <vector>

#include "kernels/core/tensor.h"

namespace boreas {

class Partition {
 public:
  /// The first n % parts parts have one row more than the others.
  static Partition balanced(int64_t n, int64_t parts);
  /// Parts of nearly equal total weight, none reordered; `weight_of[i]` >= 0.
  static Partition by_weight(std::span<const int64_t> weight_of, int64_t parts);

  int64_t num_parts() const { return int64_t(offsets_.size()) - 1; }
  int64_t size() const { return offsets_.back(); }
  Range operator[](int64_t part) const { return {offsets_[part], offsets_[part + 1]}; }
  bool operator==(const Partition&) const = default;

 private:
  explicit Partition(std::vector<int64_t> offsets) : offsets_(std::move(offsets)) {}
  std::vector<int64_t> offsets_;
};

/// What `rows`, counted along these runs, one after the other, are in them.
std::vector<Range> cut(std::span<const Range> runs, Range rows);
/// Adds a run at the end, to the last one if it goes on there.
void append_run(std::vector<Range>& runs, Range run);

}  // namespace boreas
