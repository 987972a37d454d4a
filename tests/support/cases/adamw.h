// The cases of the update that both the GPU and the emulation run: check(op, parity) for each.
#pragma once

#include <cmath>

#include "kernels/adamw/adamw.h"
#include "tests/support/parity.h"

namespace boreas::test::adamw {

inline AdamW make_update(Workspace& w, int64_t rows, int64_t cols) {
  AdamW op{.value = w.random(DType::f32, {rows, cols}),
           .grad = w.random(DType::f32, {rows, cols}),
           .first_moment = w.random(DType::f32, {rows, cols}),
           .second_moment = w.random(DType::f32, {rows, cols}),
           .learning_rate = 0.01,
           .step = 3,
           .clip_value = 0.5,
           .grad_scale = 0.75};
  for (int64_t i = 0; i < op.value.size(); ++i)
    op.second_moment.as<float>()[i] = std::abs(op.second_moment.as<float>()[i]);
  return op;
}

void update_cases(bool quick, auto&& check) {
  std::vector<std::pair<int64_t, int64_t>> sizes = {{1, 1}, {1, 1003}, {30, 89}, {8, 512}, {0, 5}};
  if (!quick)
    for (const auto& size : {std::pair{1, 100003}, std::pair{1, 65536}}) sizes.push_back(size);
  for (const auto& [rows, cols] : sizes)
    for (const int stored : {0, 1, 2})
      for (const bool control : {false, true}) {
        SCOPED_TRACE(testing::Message() << rows << " x " << cols << ", stored " << stored);
        Workspace w;
        AdamW op = make_update(w, rows, cols);
        if (stored) op.stored = w.output(stored == 1 ? DType::f32 : DType::bf16, {rows, cols});
        if (control) op.control = w.of(DType::f32, {4}, {0.02, 1 - 0.9, 1 - 0.95, 0.5});
        check(op, Parity{});
      }
}

void scale_cases(auto&& check) {
  for (const double sum : {16.0, 0.0, double(INFINITY), double(NAN)})
    for (const double max_norm : {0.0, 2.0, 8.0})
      for (const double base : {1.0, 0.25}) {
        SCOPED_TRACE(testing::Message() << sum << " at most " << max_norm << " times " << base);
        Workspace w;
        check(ClipScale{.sum_of_squares = w.of(DType::f64, {1}, {sum}),
                        .max_norm = max_norm,
                        .base_scale = base,
                        .control = w.of(DType::f32, {4}, {1, 2, 3, 4})},
              Parity{});
      }
}

}  // namespace boreas::test::adamw
