// Preprocess: physical values to the model's normalised ones and back; what stands in for missing values.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/tensor.h"
#include "models/variables.h"

namespace boreas {

/// How a variable x is normalised, x * mul + add:
///
///   mean_std (x - mean) / stdev     std x / stdev     min_max (x - minimum) / (maximum - minimum)     max x / maximum
enum class Normalisation : uint8_t { mean_std, std, min_max, max, none };
template <>
struct EnumNames<Normalisation> {
  static constexpr std::array values{std::pair{Normalisation::mean_std, std::string_view("mean-std")},
                                     std::pair{Normalisation::std, std::string_view("std")},
                                     std::pair{Normalisation::min_max, std::string_view("min-max")},
                                     std::pair{Normalisation::max, std::string_view("max")},
                                     std::pair{Normalisation::none, std::string_view("none")}};
};

struct NormaliserConfig {
  Normalisation fallback = Normalisation::mean_std;
  std::vector<std::string> mean_std, std, min_max, max, none;
  std::map<std::string, std::string> remap;
  void fields(auto&& visit) {
    visit("default", fallback, "", "method of the variables that no list names");
    visit("mean-std", mean_std, "", "variables normalised as (x - mean) / stdev");
    visit("std", std, "", "variables normalised as x / stdev, which keeps zero at zero");
    visit("min-max", min_max, "", "variables normalised as (x - minimum) / (maximum - minimum)");
    visit("max", max, "", "variables normalised as x / maximum");
    visit("none", none, "", "variables used as they are");
    visit("remap", remap, "", "variable: the variable whose statistics it uses");
  }
};

struct ImputerConfig {
  std::map<std::string, double> constant;
  std::vector<std::string> mean, minimum, maximum;
  std::map<std::string, std::string> copy;
  void fields(auto&& visit) {
    visit("constant", constant, "variable's unit", "variable: the value that replaces NaN");
    visit("mean", mean, "", "variables whose NaN become their mean");
    visit("minimum", minimum, "", "variables whose NaN become their minimum");
    visit("maximum", maximum, "", "variables whose NaN become their maximum");
    visit("copy", copy, "", "variable: the variable whose value replaces NaN, cell by cell");
  }
};

struct PreprocessConfig {
  NormaliserConfig normaliser;
  ImputerConfig imputer;
  void fields(auto&& visit) {
    visit("normaliser", normaliser, "", "how variables are scaled");
    visit("imputer", imputer, "", "what replaces missing values (NaN)");
  }
};

/// What the fields of a date are for. An imputed variable is filled where it is an input; as an output to be learnt it
/// keeps its NaN, and a loss with ignore_nans takes nothing from those cells.
enum class FieldUse : uint8_t {
  input,  ///< a date that the model starts from: every imputed variable is filled
  target  ///< a date that the model predicts: only forcings are filled
};

/// Where imputed variables were missing; see Preprocess::nan_mask.
struct NanMask {
  std::vector<int32_t> output_columns;  ///< columns of the model's output, ascending
  std::vector<uint8_t> missing;         ///< [output_columns.size(), cells], 1 where NaN
};

/// Per-variable tables for the ops NormaliseFields, in dataset order, and DenormaliseFields, in output order. Host
/// fields are f32 [V, cells] with the variables in dataset order, as datasets are read. Imputation is in physical
/// values and precedes normalisation; statistics are those of the dataset, `remap` applies to the normaliser only.
class Preprocess {
 public:
  Preprocess() = default;
  /// Throws config: an unknown variable (with near names), a variable under two methods, a statistic that is absent or
  /// gives no finite scale (stdev 0).
  Preprocess(const PreprocessConfig& config, const VariableTable& variables, const VariableStatistics& statistics);

  std::span<const double> mul() const { return mul_; }
  std::span<const double> add() const { return add_; }
  /// The same for the model's outputs only, in their order: what DenormaliseFields takes.
  std::span<const double> output_mul() const { return output_mul_; }
  std::span<const double> output_add() const { return output_add_; }
  /// Normalised value that replaces NaN; NaN where the variable is not imputed by a value.
  std::span<const double> fill(FieldUse use) const { return use == FieldUse::input ? fill_input_ : fill_target_; }

  bool imputes(int64_t variable) const { return imputed_[size_t(variable)] != 0; }
  bool imputes_any() const;
  double normalise(int64_t variable, double x) const { return x * mul_[size_t(variable)] + add_[size_t(variable)]; }
  double denormalise(int64_t variable, double x) const { return (x - add_[size_t(variable)]) / mul_[size_t(variable)]; }

  /// Throws corrupt_data if a variable that is not imputed is NaN or infinite anywhere: names it, `where` (the date),
  /// the number of cells and the remedies.
  void check_finite(const Tensor& fields, std::string_view where) const;
  /// The same of one variable's field [1, cells].
  void check_finite(const Tensor& field, int64_t variable, std::string_view where) const;
  /// Replaces NaN of the copy-imputed variables, in place, by the value of their source variable.
  void impute_copies(const Tensor& fields, FieldUse use) const;
  /// The mask of imputed prognostic variables. Take it from the fields that the forecast starts from.
  NanMask nan_mask(const Tensor& fields) const;
  /// Writes NaN where the mask says so, into physical outputs f32 [V_o, cells] on the host (made by DenormaliseFields
  /// with output_mul and output_add).
  void restore_nan(const Tensor& outputs, const NanMask& mask) const;

 private:
  struct CopyRule {
    int64_t variable, source;
  };
  VariableTable variables_;
  std::vector<double> mul_, add_, output_mul_, output_add_, fill_input_, fill_target_;
  std::vector<uint8_t> imputed_;
  std::vector<CopyRule> copies_;
};

}  // namespace boreas
