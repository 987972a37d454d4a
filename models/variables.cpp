#include "models/variables.h"

#include <algorithm>
#include <charconv>

#include "kernels/core/error.h"
#include "kernels/core/near_names.h"

namespace boreas {

VariableName parse_variable_name(std::string_view name) {
  const size_t underscore = name.rfind('_');
  if (underscore != std::string_view::npos && underscore > 0) {
    int64_t level = 0;
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + underscore + 1, end, level);
    if (error == std::errc() && stop == end && level >= 0)
      return {std::string(name.substr(0, underscore)), double(level)};
  }
  return {std::string(name), std::nullopt};
}

VariableTable::VariableTable(std::vector<std::string> names, const VariableRoles& roles,
                             const std::map<std::string, double>& levels)
    : names_(std::move(names)), roles_(names_.size(), Role::prognostic) {
  for (size_t i = 0; i < names_.size(); ++i) {
    BOREAS_CHECK(index_of_.emplace(names_[i], int64_t(i)).second, config,
                 "variable '{}' is listed twice in the dataset", names_[i]);
    parsed_.push_back(parse_variable_name(names_[i]));
    if (const auto level = levels.find(names_[i]); level != levels.end()) parsed_.back().level = level->second;
  }
  for (const std::string& name : roles.forcing) roles_[size_t(index(name, "forcing"))] = Role::forcing;
  for (const std::string& name : roles.diagnostic) {
    Role& role = roles_[size_t(index(name, "diagnostic"))];
    BOREAS_CHECK(role != Role::forcing, config,
                 "variable '{}' is listed as forcing and as diagnostic; remove it from one list", name);
    role = Role::diagnostic;
  }
  for (size_t i = 0; i < names_.size(); ++i) {
    const bool is_input = roles_[i] != Role::diagnostic, is_output = roles_[i] != Role::forcing;
    const auto input_column = int32_t(input_.size()), output_column = int32_t(output_.size());
    if (is_input) {
      input_.push_back(int32_t(i));
      (is_output ? input_prognostic_ : input_forcing_).push_back(input_column);
    }
    if (is_output) {
      output_.push_back(int32_t(i));
      (is_input ? output_prognostic_ : output_diagnostic_).push_back(output_column);
    }
  }
  BOREAS_CHECK(!output_.empty(), config, "none of the {} variables is an output: all are listed as forcing",
               names_.size());
}

std::optional<int64_t> VariableTable::find(std::string_view name) const {
  const auto found = index_of_.find(name);
  return found == index_of_.end() ? std::nullopt : std::optional(found->second);
}

int64_t VariableTable::index(std::string_view name, std::string_view where) const {
  const auto found = find(name);
  BOREAS_CHECK(found, config, "{}: the dataset has no variable '{}'{}", where, name, near_names(name, names_));
  return *found;
}

int64_t VariableTable::output_index(std::string_view name, std::string_view where) const {
  const int64_t variable = index(name, where);
  const auto found = std::lower_bound(output_.begin(), output_.end(), variable);
  BOREAS_CHECK(found != output_.end() && *found == variable, config,
               "{}: variable '{}' is a forcing; expected an output of the model", where, name);
  return found - output_.begin();
}

std::vector<std::string> VariableTable::input_names() const {
  std::vector<std::string> names;
  for (const int32_t variable : input_) names.push_back(name(variable));
  return names;
}

std::vector<std::string> VariableTable::output_names() const {
  std::vector<std::string> names;
  for (const int32_t variable : output_) names.push_back(name(variable));
  return names;
}

}  // namespace boreas
