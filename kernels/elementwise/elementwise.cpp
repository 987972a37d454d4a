#include "kernels/elementwise/elementwise.h"

#include <algorithm>
#include <vector>

#include "kernels/core/check.h"

namespace boreas {

namespace {

void check_columns(const char* op, const char* list, std::span<const int32_t> columns, const char* name,
                   int64_t num_columns) {
  for (size_t k = 0; k < columns.size(); ++k)
    BOREAS_CHECK(columns[k] >= 0 && columns[k] < num_columns, invalid_argument,
                 "{}: {}[{}] is {} but {} has {} of them", op, list, k, columns[k], name, num_columns);
}

void check_unique(const char* op, const char* list, std::span<const int32_t> columns) {
  std::vector<int32_t> sorted(columns.begin(), columns.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  BOREAS_CHECK(twice == sorted.end(), invalid_argument, "{}: {} holds {} more than once", op, list, *twice);
}

void check_same_length(const char* op, const char* a_name, size_t a, const char* b_name, size_t b) {
  BOREAS_CHECK(a == b, shape, "{}: {} has {} entries and {} has {}; they must agree", op, a_name, a, b_name, b);
}

template <class Op>
void check_column_pairs(const Op& op) {
  check_floating(op.name, "x", op.x);
  if constexpr (std::is_same_v<Op, CopyColumns>)
    check_stored_as(op.name, "y", op.y, op.x.dtype());
  else
    check_dtype(op.name, "y", op.y, op.x.dtype());
  BOREAS_CHECK(op.x.rows() == op.y.rows(), shape, "{}: x is {} and y is {}; their rows must agree", op.name,
               to_string(op.x), to_string(op.y));
  check_same_length(op.name, "x_columns", op.x_columns.size(), "y_columns", op.y_columns.size());
  check_columns(op.name, "x_columns", op.x_columns, "x", op.x.cols());
  check_columns(op.name, "y_columns", op.y_columns, "y", op.y.cols());
  check_unique(op.name, "y_columns", op.y_columns);
}

void check_fields(const char* op, const Tensor& fields, std::span<const int32_t> columns, const char* rows_name,
                  const Tensor& rows) {
  check_dtype(op, "fields", fields, DType::f32);
  check_floating(op, rows_name, rows);
  check_columns(op, "columns", columns, "fields", fields.rows());
  check_shape(op, rows_name, rows, fields.cols(), int64_t(columns.size()), "the columns of fields", fields);
}

}  // namespace

void Add::check() const {
  check_floating(name, "y", y);
  check_stored_as(name, "a", a, accumulator_of(y.dtype()));
  check_stored_as(name, "b", b, accumulator_of(y.dtype()));
  check_shape(name, "a", a, y.rows(), y.cols(), "y", y);
  check_shape(name, "b", b, y.rows(), y.cols(), "y", y);
}

void Copy::check() const {
  BOREAS_CHECK(x && y, invalid_argument, "{}: x and y are required", name);
  BOREAS_CHECK(x.dtype() == y.dtype() || (is_floating(x.dtype()) && is_floating(y.dtype())), invalid_argument,
               "{}: {} cannot be converted to {}", name, to_string(x.dtype()), to_string(y.dtype()));
  check_shape(name, "x", x, y.rows(), y.cols(), "y", y);
}

void Fill::check() const { BOREAS_CHECK(y, invalid_argument, "{}: y is required", name); }

void Blend::check() const {
  check_floating(name, "y", y);
  check_dtype(name, "x", x, y.dtype());
  check_shape(name, "x", x, y.rows(), y.cols(), "y", y);
  BOREAS_CHECK(weight >= 0 && weight <= 1, invalid_argument, "{}: weight is {} but must lie in [0, 1]", name, weight);
}

void AddPrognostic::check() const {
  check_floating(name, "y", y);
  check_dtype(name, "x", x, y.dtype());
  check_dtype(name, "delta", delta, y.dtype());
  check_shape(name, "delta", delta, y.rows(), y.cols(), "y", y);
  BOREAS_CHECK(x.rows() == y.rows(), shape, "{}: x is {} and y is {}; their rows must agree", name, to_string(x),
               to_string(y));
  check_same_length(name, "input_columns", input_columns.size(), "output_columns", output_columns.size());
  check_columns(name, "input_columns", input_columns, "x", x.cols());
  check_columns(name, "output_columns", output_columns, "y", y.cols());
  check_unique(name, "output_columns", output_columns);
}

void CopyColumns::check() const { check_column_pairs(*this); }
void AddColumns::check() const { check_column_pairs(*this); }

void NormaliseFields::check() const {
  check_fields(name, fields, columns, "y", y);
  for (const auto& [label, list] : {std::pair{"mul", mul}, std::pair{"add", add}, std::pair{"fill", fill}})
    check_same_length(name, label, list.size(), "fields", size_t(fields.rows()));
}

void DenormaliseFields::check() const {
  check_fields(name, fields, columns, "x", x);
  check_same_length(name, "mul", mul.size(), "fields", size_t(fields.rows()));
  check_same_length(name, "add", add.size(), "fields", size_t(fields.rows()));
  check_unique(name, "columns", columns);
  for (const int32_t v : columns)
    BOREAS_CHECK(mul[v] != 0, invalid_argument, "{}: mul[{}] is 0, so the field cannot be restored", name, v);
}

}  // namespace boreas
