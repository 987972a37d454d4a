// The cases of elementwise ops that both the GPU and the emulation run: check(op, parity) for each.
#pragma once

#include <cmath>
#include <numeric>

#include "kernels/elementwise/elementwise.h"
#include "tests/support/parity.h"

namespace boreas::test::elementwise {

inline constexpr DType kStored[] = {DType::f32, DType::bf16};

inline std::vector<std::pair<int64_t, int64_t>> sizes(bool quick) {
  std::vector<std::pair<int64_t, int64_t>> out = {{1, 1}, {7, 5}, {37, 16}, {40, 89}, {0, 8}, {1, 1031}};
  if (!quick)
    for (const auto& size : {std::pair{300, 202}, std::pair{129, 1024}, std::pair{1, 70001}, std::pair{5000, 3}})
      out.push_back(size);
  return out;
}

inline std::vector<int32_t> every(int32_t step, int32_t count, int32_t first = 0) {
  std::vector<int32_t> columns(count);
  for (int32_t k = 0; k < count; ++k) columns[k] = first + k * step;
  return columns;
}

void add_cases(bool quick, auto&& check) {
  for (const auto& [n, c] : sizes(quick))
    for (const DType a : kStored)
      for (const DType b : kStored)
        for (const DType y : kStored) {
          SCOPED_TRACE(testing::Message()
                       << n << " x " << c << " " << to_string(a) << " + " << to_string(b) << " to " << to_string(y));
          Workspace w;
          const Tensor left = w.random(a, {n, c});
          check(Add{.a = left, .b = w.random(b, {n, c}), .y = w.output(y, {n, c})}, Parity{});
          if (a == y) check(Add{.a = left, .b = w.random(b, {n, c}), .y = left}, Parity{});
        }
  Workspace w;
  for (const auto& [n, c] : {std::pair{1, 1}, std::pair{3, 300}, std::pair{0, 8}})
    check(Add{.a = w.random(DType::f64, {n, c}), .b = w.random(DType::f64, {n, c}), .y = w.output(DType::f64, {n, c})},
          Parity{});
}

void copy_cases(bool quick, auto&& check) {
  for (const auto& [n, c] : sizes(quick)) {
    Workspace w;
    for (const DType from : kStored)
      for (const DType to : kStored) {
        SCOPED_TRACE(testing::Message() << n << " x " << c << " " << to_string(from) << " to " << to_string(to));
        check(Copy{.x = w.random(from, {n, c}), .y = w.output(to, {n, c})}, Parity{.f32 = 0});
      }
    for (const DType dtype : {DType::f64, DType::i32, DType::i64, DType::u8}) {
      SCOPED_TRACE(testing::Message() << n << " x " << c << " " << to_string(dtype));
      check(Copy{.x = w.filled(dtype, {n, c}, 7), .y = w.filled(dtype, {n, c}, 0)}, Parity{.f32 = 0});
    }
  }
}

void fill_cases(bool quick, auto&& check) {
  for (const auto& [n, c] : sizes(quick))
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i32, DType::i64, DType::u8})
      for (const double value : {0.0, 3.0}) {
        SCOPED_TRACE(testing::Message() << n << " x " << c << " " << to_string(dtype));
        Workspace w;
        check(Fill{.y = w.output(dtype, {n, c}), .value = value}, Parity{.f32 = 0, .bf16 = 0});
      }
}

void blend_cases(bool quick, auto&& check) {
  for (const auto& [n, c] : sizes(quick))
    for (const DType dtype : kStored) {
      SCOPED_TRACE(testing::Message() << n << " x " << c << " " << to_string(dtype));
      Workspace w;
      check(Blend{.x = w.random(dtype, {n, c}), .weight = 0.125, .y = w.random(dtype, {n, c})}, Parity{});
    }
}

inline std::vector<int64_t> row_counts(bool quick) {
  return quick ? std::vector<int64_t>{0, 1, 37} : std::vector<int64_t>{0, 1, 33, 5000, 40000};
}

void column_cases(bool quick, auto&& check) {
  for (const int64_t n : row_counts(quick)) {
    // A run of columns, scattered ones, one, none, and more than one launch takes.
    const std::vector<int32_t> lists[] = {every(1, 85, 3), every(2, 40, 1), {7}, {}, every(1, 1000)};
    for (const auto& from : lists)
      for (const bool run_to : {true, false}) {
        if (n > 5000 && from.size() > 100) continue;
        std::vector<int32_t> to = every(1, int32_t(from.size()), 2);
        if (!run_to) std::reverse(to.begin(), to.end());
        SCOPED_TRACE(testing::Message() << n << " rows, " << from.size() << " columns" << (run_to ? ", a run" : ""));
        Workspace w;
        const int64_t width = std::max<int64_t>(90, int64_t(from.size()) + 5);
        const Tensor x = w.random(DType::f32, {n, width}), y = w.random(DType::f32, {n, width});
        check(CopyColumns{.x = x, .x_columns = from, .y = y, .y_columns = to}, Parity{.f32 = 0});
        check(AddColumns{.x = x, .x_columns = from, .y = y, .y_columns = to}, Parity{});
      }
  }
}

void prognostic_cases(bool quick, auto&& check) {
  for (const int64_t n : row_counts(quick))
    for (const auto& [width, known] : {std::pair{3, 2}, std::pair{89, 80}, std::pair{1000, 950}})
      for (const bool in_place : {false, true}) {
        if (n > 5000 && width > 100) continue;
        SCOPED_TRACE(testing::Message() << n << " x " << width << (in_place ? ", in place" : ""));
        Workspace w;
        const std::vector<int32_t> inputs = every(2, known, 1), outputs = every(1, known, width - known);
        const Tensor delta = w.random(DType::f32, {n, width});
        check(AddPrognostic{.x = w.random(DType::f32, {n, 2 * known + 3}),
                            .delta = delta,
                            .input_columns = inputs,
                            .output_columns = outputs,
                            .y = in_place ? delta : w.output(DType::f32, {n, width})},
              Parity{});
      }
}

void field_cases(bool quick, auto&& check) {
  const std::vector<int64_t> cell_counts =
      quick ? std::vector<int64_t>{1, 65, 130} : std::vector<int64_t>{1, 63, 64, 65, 1000, 4321};
  for (const int64_t cells : cell_counts)
    for (const int32_t count : {1, 5, 89, 128, 129, 300})
      for (const DType dtype : kStored) {
        SCOPED_TRACE(testing::Message() << cells << " cells, " << count << " columns, " << to_string(dtype));
        Workspace w;
        const int32_t num_fields = count + 2;
        std::vector<double> mul, add, fill;
        for (int32_t v = 0; v < num_fields; ++v) {
          mul.push_back(0.5 + double(v % 7));
          add.push_back(double(v % 5) - 2);
          fill.push_back(v % 3 == 0 ? NAN : double(v));
        }
        std::vector<int32_t> columns = every(1, count, 1);
        if (num_fields % 7 != 0)
          for (int32_t& column : columns) column = column * 7 % num_fields;
        const Tensor fields = w.random(DType::f32, {num_fields, cells});
        for (int64_t i = 0; i < fields.size(); i += 11) fields.as<float>()[i] = NAN;
        const Parity parity{.same_type = {"fields"}};
        check(NormaliseFields{.fields = fields,
                              .mul = mul,
                              .add = add,
                              .fill = fill,
                              .columns = columns,
                              .y = w.output(dtype, {cells, count})},
              parity);
        check(DenormaliseFields{.x = w.random(dtype, {cells, count}),
                                .mul = mul,
                                .add = add,
                                .columns = columns,
                                .fields = w.random(DType::f32, {num_fields, cells})},
              parity);
      }
}

}  // namespace boreas::test::elementwise
