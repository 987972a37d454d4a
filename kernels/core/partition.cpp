#include "kernels/core/partition.h"

#include <algorithm>
#include <numeric>

namespace boreas {

Partition Partition::balanced(int64_t n, int64_t parts) {
  BOREAS_CHECK(n >= 0 && parts >= 1, invalid_argument, "{} rows cannot be split into {} parts", n, parts);
  std::vector<int64_t> offsets(parts + 1, 0);
  for (int64_t i = 0; i < parts; ++i) offsets[i + 1] = offsets[i] + n / parts + (i < n % parts ? 1 : 0);
  return Partition(std::move(offsets));
}

Partition Partition::by_weight(std::span<const int64_t> weight_of, int64_t parts) {
  BOREAS_CHECK(parts >= 1, invalid_argument, "rows cannot be split into {} parts", parts);
  std::vector<int64_t> cumulative(weight_of.size() + 1, 0);
  std::partial_sum(weight_of.begin(), weight_of.end(), cumulative.begin() + 1);
  std::vector<int64_t> offsets(parts + 1, 0);
  for (int64_t i = 1; i < parts; ++i) {
    const int64_t goal = int64_t(static_cast<__int128>(cumulative.back()) * i / parts);
    const auto it = std::lower_bound(cumulative.begin(), cumulative.end(), goal);
    offsets[i] = std::max(offsets[i - 1], int64_t(it - cumulative.begin()));
  }
  offsets[parts] = int64_t(weight_of.size());
  return Partition(std::move(offsets));
}

std::vector<Range> cut(std::span<const Range> runs, Range rows) {
  std::vector<Range> found;
  int64_t first = 0;  // of the run
  for (const Range run : runs) {
    const int64_t begin = std::max(rows.begin, first), end = std::min(rows.end, first + run.size());
    if (begin < end) found.push_back({run.begin + begin - first, run.begin + end - first});
    first += run.size();
  }
  return found;
}

void append_run(std::vector<Range>& runs, Range run) {
  if (run.size() == 0) return;
  if (!runs.empty() && runs.back().end == run.begin)
    runs.back().end = run.end;
  else
    runs.push_back(run);
}

}  // namespace boreas
