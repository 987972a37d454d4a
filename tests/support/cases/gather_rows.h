// The cases of row gathers and scatters that both the GPU and the emulation run: check(op, parity) for each.
#pragma once

#include "kernels/gather_rows/gather_rows.h"
#include "tests/support/parity.h"

namespace boreas::test::gather_rows {

inline std::vector<int32_t> permuted(int64_t count, int64_t num_rows) {
  std::vector<int32_t> ids(count);
  for (int64_t i = 0; i < count; ++i) ids[i] = int32_t((i * 7919 + 3) % num_rows);  // unique: 7919 is prime
  return ids;
}

inline std::vector<int64_t> row_counts(bool quick) {
  return quick ? std::vector<int64_t>{0, 1, 50} : std::vector<int64_t>{0, 1, 700};
}

void gather_cases(bool quick, auto&& check) {
  for (const int64_t c : {1, 3, 8, 89, 512, 1000})
    for (const int64_t count : row_counts(quick))
      for (const DType dtype : {DType::f32, DType::bf16, DType::f64, DType::i32, DType::u8}) {
        SCOPED_TRACE(testing::Message() << count << " x " << c << " " << to_string(dtype));
        Workspace w;
        const int64_t n = quick ? 60 : 1000;
        const Tensor x = is_floating(dtype) ? w.random(dtype, {n, c}) : w.filled(dtype, {n, c}, 5);
        check(GatherRows{.x = x, .ids = w.ids(permuted(count, n)), .y = w.output(dtype, {count, c})},
              Parity{.f32 = 0, .bf16 = 0});
      }
}

void scatter_cases(bool quick, auto&& check) {
  for (const int64_t c : {1, 3, 8, 89, 512, 1000})
    for (const int64_t count : row_counts(quick))
      for (const DType dtype : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(testing::Message() << count << " x " << c << " " << to_string(dtype));
        Workspace w;
        const int64_t n = quick ? 60 : 1000;
        check(
            ScatterAddRows{
                .x = w.random(dtype, {count, c}), .ids = w.ids(permuted(count, n)), .y = w.random(DType::f32, {n, c})},
            Parity{});
      }
}

}  // namespace boreas::test::gather_rows
