#include "kernels/core/near_names.h"

#include <algorithm>
#include <cctype>
#include <numeric>
#include <utility>
#include <vector>

namespace boreas {
namespace {

char lower(char c) { return char(std::tolower(static_cast<unsigned char>(c))); }

// Edit distance with insertions, deletions, substitutions and swaps of neighbours; case does not count.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before, above(b.size() + 1), row(b.size() + 1);  // rows i - 1, i and i + 1 of the table
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    before = std::exchange(above, row);
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const bool same = lower(a[i]) == lower(b[j]);
      row[j + 1] = std::min({above[j] + (same ? 0 : 1), row[j] + 1, above[j + 1] + 1});
      if (i > 0 && j > 0 && lower(a[i]) == lower(b[j - 1]) && lower(a[i - 1]) == lower(b[j]))
        row[j + 1] = std::min(row[j + 1], before[j - 1] + 1);
    }
  }
  return row.back();
}

}  // namespace

std::string near_names(std::string_view name, std::span<const std::string> known) {
  std::vector<std::pair<size_t, const std::string*>> close;
  const size_t limit = std::max<size_t>(1, name.size() / 3);
  for (const std::string& candidate : known)
    if (const size_t d = distance(name, candidate); d <= limit) close.emplace_back(d, &candidate);
  std::stable_sort(close.begin(), close.end(), [](auto& a, auto& b) { return a.first < b.first; });
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(3, close.size()); ++i)
    text += (i ? ", " : "; near names: ") + *close[i].second;
  return text;
}

}  // namespace boreas
