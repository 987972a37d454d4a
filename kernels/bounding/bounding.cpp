#include "kernels/bounding/bounding.h"

#include <algorithm>
#include <vector>

#include "kernels/core/check.h"

namespace boreas {

namespace {

void check_rule(const char* op, const BoundingRule& rule, const Tensor& y) {
  const std::string_view kind = to_string(rule.kind);
  for (size_t k = 0; k < rule.columns.size(); ++k)
    BOREAS_CHECK(rule.columns[k] >= 0 && rule.columns[k] < y.cols(), invalid_argument,
                 "{}: columns[{}] is {} but there are {} of them", op, k, rule.columns[k], y.cols());
  std::vector<int32_t> sorted(rule.columns.begin(), rule.columns.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  BOREAS_CHECK(twice == sorted.end(), invalid_argument, "{}: columns holds {} more than once", op, *twice);
  if (rule.kind == BoundingKind::normalized_relu || rule.kind == BoundingKind::normalized_leaky_relu)
    BOREAS_CHECK(rule.offsets.size() == rule.columns.size(), invalid_argument,
                 "{}: {} needs one offset a column: {} for {} columns", op, kind, rule.offsets.size(),
                 rule.columns.size());
  BOREAS_CHECK(rule.minimum <= rule.maximum, invalid_argument, "{}: the minimum {} is above the maximum {}", op,
               rule.minimum, rule.maximum);
  if (!rule.is_fraction()) return;
  BOREAS_CHECK(rule.total_column >= 0 && rule.total_column < y.cols(), invalid_argument,
               "{}: {} needs a total column in [0, {}), not {}", op, kind, y.cols(), rule.total_column);
  BOREAS_CHECK(!std::binary_search(sorted.begin(), sorted.end(), rule.total_column), invalid_argument,
               "{}: column {} is both bounded and the total of {}", op, rule.total_column, kind);
}

}  // namespace

void BoundingForward::check() const {
  check_floating(name, "y", y);
  check_rule(name, rule, y);
}

void BoundingBackward::check() const {
  check_floating(name, "d_y", d_y);
  check_rule(name, rule, d_y);
  check_dtype(name, "y_before", y_before, d_y.dtype());
  check_shape(name, "y_before", y_before, d_y.rows(), rule.num_saved_columns(), "d_y", d_y);
}

}  // namespace boreas
