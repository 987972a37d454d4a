// The cases of bounding that both the GPU and the emulation run: check(op, parity) for each.
#pragma once

#include <numeric>

#include "kernels/bounding/bounding.h"
#include "tests/support/parity.h"

namespace boreas::test::bounding {

void cases(bool quick, auto&& check) {
  const std::vector<int64_t> row_counts = quick ? std::vector<int64_t>{0, 1, 40} : std::vector<int64_t>{0, 1, 1000};
  for (const auto& [kind, name] : EnumNames<BoundingKind>::values)
    for (const int64_t rows : row_counts)
      for (const int32_t count : {1, 3, 600}) {  // 600: more than one launch takes
        SCOPED_TRACE(testing::Message() << name << ", " << rows << " rows, " << count << " columns");
        Workspace w;
        std::vector<int32_t> columns(count);
        std::iota(columns.rbegin(), columns.rend(), 2);
        std::vector<double> offsets(count);
        for (int32_t k = 0; k < count; ++k) offsets[k] = 0.125 * double(k % 9 - 4);
        const BoundingRule rule{
            .kind = kind, .columns = columns, .minimum = -0.5, .maximum = 0.75, .offsets = offsets, .total_column = 1};
        check(BoundingForward{.rule = rule, .y = w.random(DType::f32, {rows, count + 4})}, Parity{});
        check(BoundingBackward{.rule = rule,
                               .y_before = w.random(DType::f32, {rows, rule.num_saved_columns()}),
                               .d_y = w.random(DType::f32, {rows, count + 4})},
              Parity{});
      }
}

}  // namespace boreas::test::bounding
