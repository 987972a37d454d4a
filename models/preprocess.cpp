#include "models/preprocess.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/core/error.h"

namespace boreas {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double statistic(const std::vector<double>& values, std::string_view what, const VariableTable& variables,
                 int64_t variable, std::string_view needed_by) {
  BOREAS_CHECK(int64_t(values.size()) == variables.size(), config,
               "{} of variable '{}' needs the statistic '{}', but the dataset has {} values of it for {} variables",
               needed_by, variables.name(variable), what, values.size(), variables.size());
  return values[size_t(variable)];
}

void check_fields(const char* who, const Tensor& fields, int64_t num_variables) {
  BOREAS_CHECK(fields.rank() == 2 && fields.rows() == num_variables && fields.dtype() == DType::f32, shape,
               "{}: fields are {}; expected f32 [{} variables, cells]", who, to_string(fields), num_variables);
}

}  // namespace

Preprocess::Preprocess(const PreprocessConfig& config, const VariableTable& variables,
                       const VariableStatistics& statistics)
    : variables_(variables) {
  const auto size = size_t(variables.size());
  const NormaliserConfig& normaliser = config.normaliser;

  std::vector<Normalisation> method(size, normaliser.fallback);
  std::vector<uint8_t> named(size, 0);
  const auto assign = [&](const std::vector<std::string>& names, Normalisation value) {
    for (const std::string& name : names) {
      const auto v = size_t(variables.index(name, fmt::format("normaliser.{}", to_string(value))));
      BOREAS_CHECK(!named[v], config, "normaliser: variable '{}' is listed under '{}' and under '{}'; keep one", name,
                   to_string(method[v]), to_string(value));
      named[v] = 1;
      method[v] = value;
    }
  };
  assign(normaliser.mean_std, Normalisation::mean_std);
  assign(normaliser.std, Normalisation::std);
  assign(normaliser.min_max, Normalisation::min_max);
  assign(normaliser.max, Normalisation::max);
  assign(normaliser.none, Normalisation::none);

  std::vector<int64_t> statistics_of(size);
  for (size_t v = 0; v < size; ++v) statistics_of[v] = int64_t(v);
  for (const auto& [name, source] : normaliser.remap)
    statistics_of[size_t(variables.index(name, "normaliser.remap"))] = variables.index(source, "normaliser.remap");

  mul_.assign(size, 1.0);
  add_.assign(size, 0.0);
  for (size_t v = 0; v < size; ++v) {
    const auto of = [&](const std::vector<double>& values, std::string_view what) {
      return statistic(values, what, variables, statistics_of[v], fmt::format("normaliser.{}", to_string(method[v])));
    };
    double scale = 1;
    switch (method[v]) {
      case Normalisation::mean_std:
        scale = of(statistics.stdev, "stdev");
        add_[v] = -of(statistics.mean, "mean") / scale;
        break;
      case Normalisation::std:
        scale = of(statistics.stdev, "stdev");
        break;
      case Normalisation::min_max:
        scale = of(statistics.maximum, "maximum") - of(statistics.minimum, "minimum");
        add_[v] = -of(statistics.minimum, "minimum") / scale;
        break;
      case Normalisation::max:
        scale = of(statistics.maximum, "maximum");
        break;
      case Normalisation::none:
        break;
    }
    mul_[v] = 1 / scale;
    BOREAS_CHECK(
        std::isfinite(mul_[v]) && std::isfinite(add_[v]) && mul_[v] != 0, config,
        "normaliser.{}: variable '{}' would be divided by {} (statistics of '{}'); list it under normaliser.none or "
        "another method",
        to_string(method[v]), variables.name(int64_t(v)), scale, variables.name(statistics_of[v]));
  }

  for (const int32_t v : variables.output()) {
    output_mul_.push_back(mul_[size_t(v)]);
    output_add_.push_back(add_[size_t(v)]);
  }

  fill_input_.assign(size, kNaN);
  imputed_.assign(size, 0);
  const auto claim = [&](const std::string& name, std::string_view how) {
    const int64_t v = variables.index(name, fmt::format("imputer.{}", how));
    BOREAS_CHECK(!imputed_[size_t(v)], config,
                 "imputer: variable '{}' is listed under '{}' and another method; keep one", name, how);
    imputed_[size_t(v)] = 1;
    return v;
  };
  const auto fill = [&](int64_t v, double value, std::string_view how) {
    BOREAS_CHECK(std::isfinite(value), config,
                 "imputer.{}: the value for variable '{}' is {}; expected a finite number", how, variables.name(v),
                 value);
    fill_input_[size_t(v)] = normalise(v, value);
  };
  for (const auto& [name, value] : config.imputer.constant) fill(claim(name, "constant"), value, "constant");
  const auto fill_by = [&](const std::vector<std::string>& names, const std::vector<double>& values,
                           std::string_view how) {
    for (const std::string& name : names) {
      const int64_t v = claim(name, how);
      fill(v, statistic(values, how, variables, v, "imputer"), how);
    }
  };
  fill_by(config.imputer.mean, statistics.mean, "mean");
  fill_by(config.imputer.minimum, statistics.minimum, "minimum");
  fill_by(config.imputer.maximum, statistics.maximum, "maximum");
  for (const auto& [name, source] : config.imputer.copy) {
    copies_.push_back({claim(name, "copy"), variables.index(source, "imputer.copy")});
    BOREAS_CHECK(copies_.back().variable != copies_.back().source, config, "imputer.copy: '{}' would copy itself",
                 name);
  }
  for (const CopyRule& rule : copies_)
    BOREAS_CHECK(!imputed_[size_t(rule.source)], config,
                 "imputer.copy: '{}' copies '{}', which is imputed itself; copy from a variable without NaN",
                 variables.name(rule.variable), variables.name(rule.source));

  fill_target_ = fill_input_;
  for (const int32_t v : variables.output()) fill_target_[size_t(v)] = kNaN;
}

bool Preprocess::imputes_any() const {
  return std::any_of(imputed_.begin(), imputed_.end(), [](uint8_t imputed) { return imputed != 0; });
}

void Preprocess::check_finite(const Tensor& fields, std::string_view where) const {
  check_fields("check_finite", fields, variables_.size());
  for (int64_t v = 0; v < fields.rows(); ++v) check_finite(fields.slice({v, v + 1}), v, where);
}

void Preprocess::check_finite(const Tensor& field, int64_t variable, std::string_view where) const {
  check_fields("check_finite", field, 1);
  const float* x = field.as<float>();
  int64_t num_nan = 0, num_infinite = 0;
#pragma omp parallel for schedule(static) reduction(+ : num_nan, num_infinite)
  for (int64_t c = 0; c < field.cols(); ++c) {
    num_nan += std::isnan(x[c]);
    num_infinite += std::isinf(x[c]);
  }
  if (imputes(variable)) num_nan = 0;
  BOREAS_CHECK(
      num_nan == 0, corrupt_data,
      "{}: variable '{}' is NaN in {} of {} cells and is not imputed; list the date as missing, drop the variable, "
      "or impute it (preprocess.imputer.mean: [{}])",
      where, variables_.name(variable), num_nan, field.cols(), variables_.name(variable));
  BOREAS_CHECK(num_infinite == 0, corrupt_data, "{}: variable '{}' is infinite in {} of {} cells", where,
               variables_.name(variable), num_infinite, field.cols());
}

void Preprocess::impute_copies(const Tensor& fields, FieldUse use) const {
  check_fields("impute_copies", fields, variables_.size());
  for (const CopyRule& rule : copies_) {
    if (use == FieldUse::target && variables_.role(rule.variable) != Role::forcing) continue;
    float* x = fields.row<float>(rule.variable);
    const float* source = fields.row<float>(rule.source);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < fields.cols(); ++c)
      if (std::isnan(x[c])) x[c] = source[c];
  }
}

NanMask Preprocess::nan_mask(const Tensor& fields) const {
  check_fields("nan_mask", fields, variables_.size());
  NanMask mask;
  for (const int32_t column : variables_.output_prognostic()) {
    const int64_t v = variables_.output()[size_t(column)];
    if (!imputes(v)) continue;
    mask.output_columns.push_back(column);
    const float* x = fields.row<float>(v);
    for (int64_t c = 0; c < fields.cols(); ++c) mask.missing.push_back(std::isnan(x[c]));
  }
  return mask;
}

void Preprocess::restore_nan(const Tensor& outputs, const NanMask& mask) const {
  check_fields("restore_nan", outputs, variables_.num_outputs());
  const auto cells = size_t(outputs.cols());
  BOREAS_CHECK(mask.missing.size() == mask.output_columns.size() * cells, shape,
               "restore_nan: the mask has {} values; expected {} variables of {} cells", mask.missing.size(),
               mask.output_columns.size(), cells);
  for (size_t m = 0; m < mask.output_columns.size(); ++m) {
    float* out = outputs.row<float>(mask.output_columns[m]);
    for (size_t c = 0; c < cells; ++c)
      if (mask.missing[m * cells + c]) out[c] = std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace boreas
