// Replay: work that repeats step after step is recorded once and launched as a whole.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "kernels/core/context.h"

namespace boreas {

/// Runs tasks that queue the same work each time they are called with the same key. On a GPU the first call of a key
/// does the task, which warms up what it needs (code, libraries); the second records it; from then on the recording is
/// launched. On the CPU, while planning, tracing and counting traffic, a task is just done.
///
/// A recording holds addresses: whatever changes from one call to the next must lie at addresses that stay. What the
/// arena lends is part of the key, as it depends on how much of it is in use.
class Replay {
 public:
  explicit Replay(bool enabled) : enabled_(enabled) {}

  void run(Context& ctx, std::vector<int64_t> key, const std::function<void()>& task);
  int64_t num_recordings() const;

 private:
  bool enabled_;
  std::map<std::vector<int64_t>, std::optional<Recording>> recordings_;  // empty: done once
};

/// An address as a part of a key.
inline int64_t key_of(const void* address) { return int64_t(reinterpret_cast<uintptr_t>(address)); }

}  // namespace boreas
