#include "kernels/core/trace.h"

#include <algorithm>
#include <vector>

namespace boreas {

std::string Trace::table() const {
  std::vector<std::pair<std::string, Entry>> rows(entries_.begin(), entries_.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double total = 0;
  for (const auto& [_, entry] : rows) total += entry.seconds;
  std::string text =
      fmt::format("{:<34}{:>9}{:>11}{:>8}{:>10}{:>8}\n", "op", "calls", "ms", "share", "GFLOP/s", "GB/s");
  for (const auto& [name, entry] : rows) {
    const double seconds = std::max(entry.seconds, 1e-12);
    text += fmt::format("{:<34}{:>9}{:>11.2f}{:>7.1f}%{:>10.1f}{:>8.1f}\n", name, entry.count, entry.seconds * 1e3,
                        100 * entry.seconds / std::max(total, 1e-12), entry.cost.flops / seconds * 1e-9,
                        entry.cost.bytes / seconds * 1e-9);
  }
  return text;
}

}  // namespace boreas
