// VariableTable: which variable of a dataset plays which role, and where it stands in the model's inputs and outputs.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/fields.h"

namespace boreas {

/// prognostic: input and output; forcing: input only; diagnostic: output only.
enum class Role : uint8_t { prognostic, forcing, diagnostic };
template <>
struct EnumNames<Role> {
  static constexpr std::array values{std::pair{Role::prognostic, std::string_view("prognostic")},
                                     std::pair{Role::forcing, std::string_view("forcing")},
                                     std::pair{Role::diagnostic, std::string_view("diagnostic")}};
};

/// The variables that are not prognostic, by name.
struct VariableRoles {
  std::vector<std::string> forcing, diagnostic;
  void fields(auto&& visit) {
    visit("forcing", forcing, "", "variables that are inputs only; their true values are given at every step");
    visit("diagnostic", diagnostic, "", "variables that are outputs only");
  }
};

/// Statistics over the training dates, one value per dataset variable; an empty vector means "not known".
struct VariableStatistics {
  std::vector<double> mean, stdev, minimum, maximum;
  std::vector<double> tendency_stdev;  ///< of the change over one model step
};

/// "u_500" -> {"u", 500}; "10u", "tp" and "swvl1" have no level.
struct VariableName {
  std::string base;
  std::optional<double> level;
};
VariableName parse_variable_name(std::string_view name);

/// Index spaces of the variables, all in dataset order whatever the order of the config lists:
///
///   input()    dataset column of each model input   (prognostic and forcing)      V_i columns
///   output()   dataset column of each model output  (prognostic and diagnostic)   V_o columns
///   input_prognostic()[k], output_prognostic()[k]   columns of the same variable in the model's input and output
///
/// Source: spec of the Anemoi data indices (models/data_indices); targets that are not outputs are not supported.
class VariableTable {
 public:
  VariableTable() = default;
  /// `levels` (from metadata) overrides the level in a name. Throws config: a name given twice, a role for a variable
  /// that the dataset lacks, a variable that is both forcing and diagnostic, no output.
  VariableTable(std::vector<std::string> names, const VariableRoles& roles,
                const std::map<std::string, double>& levels = {});

  int64_t size() const { return int64_t(names_.size()); }
  const std::vector<std::string>& names() const { return names_; }
  const std::string& name(int64_t variable) const { return names_[size_t(variable)]; }
  Role role(int64_t variable) const { return roles_[size_t(variable)]; }
  const std::string& base(int64_t variable) const { return parsed_[size_t(variable)].base; }
  std::optional<double> level(int64_t variable) const { return parsed_[size_t(variable)].level; }

  std::optional<int64_t> find(std::string_view name) const;
  /// Dataset column of the variable. Throws config listing near names; `where` says who asked ("normaliser.std").
  int64_t index(std::string_view name, std::string_view where) const;
  /// Column in the model's output. Throws config if the variable is none.
  int64_t output_index(std::string_view name, std::string_view where) const;

  int64_t num_inputs() const { return int64_t(input_.size()); }
  int64_t num_outputs() const { return int64_t(output_.size()); }
  std::span<const int32_t> input() const { return input_; }
  std::span<const int32_t> output() const { return output_; }
  std::vector<std::string> input_names() const;
  std::vector<std::string> output_names() const;

  // Columns within the model's input and output.
  std::span<const int32_t> input_prognostic() const { return input_prognostic_; }
  std::span<const int32_t> input_forcing() const { return input_forcing_; }
  std::span<const int32_t> output_prognostic() const { return output_prognostic_; }
  std::span<const int32_t> output_diagnostic() const { return output_diagnostic_; }

 private:
  std::vector<std::string> names_;
  std::vector<Role> roles_;
  std::vector<VariableName> parsed_;
  std::map<std::string, int64_t, std::less<>> index_of_;
  std::vector<int32_t> input_, output_, input_prognostic_, input_forcing_, output_prognostic_, output_diagnostic_;
};

}  // namespace boreas
