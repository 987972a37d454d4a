#include "io/dataset_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <thread>

#include "io/forcings.h"
#include "io/zarr.h"
#include "kernels/core/error.h"
#include "kernels/core/near_names.h"

namespace boreas {
namespace {

using nlohmann::json;

// One dataset on disk.
struct Source {
  std::string path;
  std::shared_ptr<Store> store;
  ZarrArray data;  // [dates, variables, members, cells]
  std::vector<std::string> variables;
  bool allow_nans;  // absent chunks are legitimate: all NaN
};
using SourcePtr = std::shared_ptr<const Source>;

// Where the values of a variable lie during some dates: at date d of the plan, at date first + (d - begin) * stride of
// the source.
struct Piece {
  int64_t begin, end;
  SourcePtr source;
  int64_t variable, first, stride;

  int64_t date_in_source(int64_t date) const { return first + (date - begin) * stride; }
};

struct Summary {
  double mean, stdev, minimum, maximum;
};

struct Variable {
  std::string name, units;
  bool constant = false, computed = false;
  std::string forcing;  // the forcing that is computed while reading; empty: stored in the pieces
  std::vector<Piece> pieces;
  std::optional<Summary> statistics;
  SourcePtr statistics_source;  // which also holds the tendency statistics
  int64_t statistics_variable = 0;
};

// Where the cells lie, as the dataset on the disk says. No copy of all is kept.
class Grid {
 public:
  struct Cells {
    Range range;
    std::vector<double> latitudes, longitudes;
  };

  Grid(ZarrArray latitudes, ZarrArray longitudes, std::shared_ptr<ThreadPool> pool)
      : latitudes_(std::move(latitudes)), longitudes_(std::move(longitudes)), pool_(std::move(pool)) {}

  int64_t num_cells() const { return latitudes_.num_elements(); }
  std::vector<double> latitudes(Range cells) const { return read(latitudes_, cells); }
  std::vector<double> longitudes(Range cells) const { return read(longitudes_, cells); }

  // Those that were asked for last are kept, because reads of the same cells follow each other.
  std::shared_ptr<const Cells> kept(Range cells) const {
    const std::lock_guard lock(mutex_);
    if (!kept_ || kept_->range != cells)
      kept_ = std::make_shared<const Cells>(Cells{cells, latitudes(cells), longitudes(cells)});
    return kept_;
  }

  // All cells, a part at a time.
  static std::vector<Range> parts(int64_t num_cells) {
    constexpr int64_t kMost = int64_t{1} << 20;
    std::vector<Range> parts;
    for (int64_t begin = 0; begin < num_cells; begin += kMost)
      parts.push_back({begin, std::min(num_cells, begin + kMost)});
    return parts;
  }

 private:
  std::vector<double> read(const ZarrArray& array, Range cells) const {
    return array.read_values<double>({{cells.begin}, {cells.end}}, *pool_);
  }

  ZarrArray latitudes_, longitudes_;
  std::shared_ptr<ThreadPool> pool_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Cells> kept_;
};

constexpr const char* kStatisticsArrays[] = {"mean", "stdev", "minimum", "maximum"};

int64_t find(const std::vector<std::string>& names, const std::string& name) {
  const auto at = std::find(names.begin(), names.end(), name);
  return at == names.end() ? -1 : at - names.begin();
}

}  // namespace

struct DatasetReader::Plan {
  std::string name;
  std::vector<Variable> variables;
  std::vector<int64_t> dates;
  std::vector<bool> missing;
  TimeStep step;
  int64_t num_members = 0;
  std::shared_ptr<const Grid> grid;
  std::vector<int64_t> field_shape;
  std::shared_ptr<ThreadPool> pool;

  // Derived by finish().
  std::vector<std::string> names;
  std::optional<Statistics> statistics;

  std::vector<std::string> variable_names() const {
    std::vector<std::string> result;
    for (const Variable& variable : variables) result.push_back(variable.name);
    return result;
  }
  void finish();
};

namespace {

using Plan = DatasetReader::Plan;

// --- one dataset on disk
// -----------------------------------------------------------------------------------------------

json attributes_of(const Store& store, const std::string& path) {
  const std::string text = read_attributes(store, "");
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    BOREAS_FAIL(corrupt_data, "{}: the attributes of the dataset are no JSON: {}", path, error.what());
  }
}

std::vector<std::string> texts_of(const json& value) {
  std::vector<std::string> texts;
  if (value.is_array())
    for (const json& entry : value)
      if (entry.is_string()) texts.push_back(entry.get<std::string>());
  return texts;
}

std::vector<std::string> read_variable_names(const json& attributes, const std::string& path) {
  std::vector<std::string> names;
  if (attributes.contains("variables")) {
    names = texts_of(attributes["variables"]);
    BOREAS_CHECK(names.size() == attributes["variables"].size(), corrupt_data,
                 "{}: attribute 'variables' is not a list of names", path);
  } else if (attributes.contains("name_to_index") && attributes["name_to_index"].is_object()) {  // old datasets
    const json& index_of = attributes["name_to_index"];
    names.resize(index_of.size());
    for (const auto& [name, index] : index_of.items()) {
      BOREAS_CHECK(
          index.is_number_unsigned() && index.get<size_t>() < names.size() && names[index.get<size_t>()].empty(),
          corrupt_data, "{}: attribute 'name_to_index' does not number the variables from 0: {}", path,
          index_of.dump());
      names[index.get<size_t>()] = name;
    }
  } else {
    BOREAS_FAIL(corrupt_data, "{}: is not an Anemoi dataset: it has no attribute 'variables'", path);
  }
  BOREAS_CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size(), corrupt_data,
               "{}: attribute 'variables' names a variable twice: {}", path, fmt::join(names, ", "));
  return names;
}

std::optional<TimeStep> read_frequency(const json& attributes) {
  const json value = attributes.value("frequency", json());
  try {
    if (value.is_string()) return parse_step(value.get<std::string>());
    if (value.is_number()) return parse_step(value.dump());
  } catch (const Error&) {  // the dates decide
  }
  return {};
}

// Dates that are no dates (not-a-time, millennia away) would overflow what follows.
void check_dates(const std::vector<int64_t>& dates, const std::string& path) {
  const int64_t first = date_of({.year = -9999}), last = date_of({.year = 9999});
  for (size_t i = 0; i < dates.size(); ++i)
    BOREAS_CHECK(dates[i] >= first && dates[i] <= last, corrupt_data,
                 "{}: dates[{}] is {} seconds after 1970, which is no date", path, i, dates[i]);
}

TimeStep step_of_dates(const std::vector<int64_t>& dates, std::optional<TimeStep> frequency, const std::string& path) {
  if (dates.size() < 2) return frequency.value_or(TimeStep{});
  if (const auto step = regular_step(dates)) return *step;
  const TimeStep step = frequency.value_or(TimeStep{dates[1] - dates[0], 0});
  for (size_t i = 1; i < dates.size(); ++i)
    BOREAS_CHECK(
        dates[i] > dates[i - 1] && dates[i] == advance(dates[0], step, int64_t(i)), corrupt_data,
        "{}: the dates are not regular: dates[{}] is {} and dates[{}] is {}, which are not one step of {} apart", path,
        i - 1, format_date(dates[i - 1]), i, format_date(dates[i]), format_step(step));
  return step;
}

ZarrArray open_coordinate(const std::shared_ptr<Store>& store, const std::string& name, const std::string& old_name,
                          const std::string& path) {
  for (const std::string& candidate : {name, old_name}) {
    if (!ZarrArray::exists(*store, candidate)) continue;
    ZarrArray array = ZarrArray::open(store, candidate);
    BOREAS_CHECK(array.shape().size() == 1, corrupt_data, "{}: array '{}' has {} dimensions; expected one, of cells",
                 path, candidate, array.shape().size());
    return array;
  }
  BOREAS_FAIL(corrupt_data, "{}: is not an Anemoi dataset: it has no array '{}'", path, name);
}

// The four arrays under a prefix, if all are there: [mean, stdev, minimum, maximum][variable].
std::optional<std::array<std::vector<double>, 4>> read_statistics(const std::shared_ptr<Store>& store,
                                                                  const std::string& prefix, size_t num_variables,
                                                                  const std::string& path, ThreadPool& pool) {
  std::array<std::vector<double>, 4> values;
  for (int i = 0; i < 4; ++i) {
    const std::string name = prefix + kStatisticsArrays[i];
    if (!ZarrArray::exists(*store, name)) return {};
    values[i] = ZarrArray::open(store, name).read_all<double>(pool);
    BOREAS_CHECK(values[i].size() == num_variables, corrupt_data,
                 "{}: array '{}' has {} values but there are {} variables", path, name, values[i].size(),
                 num_variables);
  }
  return values;
}

// Warns of datasets whose making or copying was interrupted.
void warn_if_incomplete(const std::shared_ptr<Store>& store, const std::string& path, ThreadPool& pool) {
  for (const char* name : {"_build/flags", "_copy"}) {
    if (!ZarrArray::exists(*store, name)) continue;
    const auto flags = ZarrArray::open(store, name).read_all<uint8_t>(pool);
    const auto num_unset = std::count(flags.begin(), flags.end(), uint8_t(0));
    if (num_unset > 0)
      spdlog::warn("{}: the dataset is incomplete: {} of {} entries of '{}' are not done", path, num_unset,
                   flags.size(), name);
  }
}

// Variables that are equal at up to five dates spread over the dataset, for datasets that do not say which are
// constant.
std::vector<bool> compare_dates(const Source& source, const std::vector<bool>& missing, ThreadPool& pool) {
  const auto& shape = source.data.shape();
  std::vector<int64_t> present;
  for (int64_t i = 0; i < shape[0]; ++i)
    if (!missing[i]) present.push_back(i);
  std::vector<bool> constant(size_t(shape[1]), present.size() > 1);
  std::set<int64_t> sample;
  for (int64_t i = 0; i < 5 && !present.empty(); ++i) sample.insert(present[(present.size() - 1) * i / 4]);
  if (sample.size() < 2) return constant;
  const int64_t row = shape[2] * shape[3] * source.data.dtype().size;
  std::vector<std::byte> first(size_t(shape[1] * row)), other(first.size());
  for (const int64_t date : sample) {
    auto& into = date == *sample.begin() ? first : other;
    source.data.read({{date, 0, 0, 0}, {date + 1, shape[1], shape[2], shape[3]}}, into.data(), pool);
    if (&into == &other)
      for (int64_t v = 0; v < shape[1]; ++v)
        if (std::memcmp(&first[v * row], &other[v * row], size_t(row)) != 0) constant[v] = false;
  }
  return constant;
}

std::vector<bool> find_constant(const Source& source, const json& attributes, const std::vector<bool>& missing,
                                ThreadPool& pool) {
  const size_t n = source.variables.size();
  std::vector<bool> constant(n, false);
  if (attributes.contains("constant_fields")) {
    for (const std::string& name : texts_of(attributes["constant_fields"]))
      if (const int64_t v = find(source.variables, name); v >= 0) constant[v] = true;
    return constant;
  }
  for (const std::string& name : list_arrays(*source.store)) {
    const std::string suffix = "_mean", prefix = "statistics_tendencies_";
    if (!name.starts_with(prefix) || !name.ends_with(suffix)) continue;
    const auto tendencies = read_statistics(source.store, name.substr(0, name.size() - 4), n, source.path, pool);
    if (!tendencies) continue;
    for (size_t v = 0; v < n; ++v) constant[v] = (*tendencies)[0][v] == 0 && (*tendencies)[1][v] == 0;
    return constant;
  }
  return compare_dates(source, missing, pool);
}

Plan open_source(const std::string& path, const std::shared_ptr<ThreadPool>& pool) {
  auto store = open_store(path);
  const json attributes = attributes_of(*store, path);
  std::string layout;
  for (const char* key : {"format", "layout"})
    if (const json value = attributes.value(key, json()); value.is_string()) layout = value;
  BOREAS_CHECK(layout != "trajectories" && layout != "tabular", unsupported,
               "{}: datasets with the layout '{}' are not supported, only gridded ones", path, layout);
  std::vector<std::string> names = read_variable_names(attributes, path);
  BOREAS_CHECK(ZarrArray::exists(*store, "data"), corrupt_data, "{}: is not an Anemoi dataset: it has no array 'data'",
               path);
  bool allow_nans = false;  // true, or (in old datasets) the names of the variables that may hold NaN
  for (const char* key : {"allow_nans", "variables_with_nans"})
    if (const json value = attributes.value(key, json()); value.is_boolean() ? value.get<bool>() : !value.empty())
      allow_nans = true;
  const auto source =
      std::make_shared<const Source>(Source{path, store, ZarrArray::open(store, "data"), std::move(names), allow_nans});

  const auto& shape = source->data.shape();
  const ZarrDType& dtype = source->data.dtype();
  BOREAS_CHECK(shape.size() == 4, corrupt_data,
               "{}: array 'data' has shape [{}]; expected 4 dimensions: dates, variables, members, cells", path,
               fmt::join(shape, ", "));
  BOREAS_CHECK(dtype.kind == 'f' && (dtype.size == 4 || dtype.size == 8), corrupt_data,
               "{}: array 'data' holds {}; expected <f4 or <f8", path, dtype.to_string());
  BOREAS_CHECK(shape[1] == int64_t(source->variables.size()), corrupt_data,
               "{}: array 'data' has {} variables but attribute 'variables' names {}", path, shape[1],
               source->variables.size());

  Plan plan;
  plan.name = path;
  plan.pool = pool;
  BOREAS_CHECK(ZarrArray::exists(*store, "dates"), corrupt_data,
               "{}: is not an Anemoi dataset: it has no array 'dates'", path);
  plan.dates = ZarrArray::open(store, "dates").read_seconds(*pool);
  BOREAS_CHECK(int64_t(plan.dates.size()) == shape[0], corrupt_data,
               "{}: array 'data' has {} dates but array 'dates' has {}", path, shape[0], plan.dates.size());
  check_dates(plan.dates, path);
  plan.step = step_of_dates(plan.dates, read_frequency(attributes), path);
  plan.missing.assign(plan.dates.size(), false);
  for (const std::string& text : texts_of(attributes.value("missing_dates", json()))) {
    int64_t date = 0;
    try {
      date = parse_date(text);
    } catch (const Error& error) {
      BOREAS_FAIL(corrupt_data, "{}: attribute 'missing_dates': {}", path, error.what());
    }
    const auto at = std::lower_bound(plan.dates.begin(), plan.dates.end(), date);
    if (at != plan.dates.end() && *at == date) plan.missing[size_t(at - plan.dates.begin())] = true;
  }
  plan.num_members = shape[2];
  const ZarrArray latitudes = open_coordinate(store, "latitudes", "latitude", path);
  const ZarrArray longitudes = open_coordinate(store, "longitudes", "longitude", path);
  BOREAS_CHECK(latitudes.num_elements() == shape[3] && longitudes.num_elements() == shape[3], corrupt_data,
               "{}: array 'data' has {} cells but there are {} latitudes and {} longitudes", path, shape[3],
               latitudes.num_elements(), longitudes.num_elements());
  plan.grid = std::make_shared<const Grid>(latitudes, longitudes, pool);
  plan.field_shape = {shape[3]};
  if (const json value = attributes.value("field_shape", json()); value.is_array() && !value.empty()) {
    int64_t cells = 1;
    std::vector<int64_t> sizes;
    for (const json& size : value) {
      BOREAS_CHECK(size.is_number_integer(), corrupt_data, "{}: attribute 'field_shape' is {}", path, value.dump());
      sizes.push_back(size.get<int64_t>());
      if (__builtin_mul_overflow(cells, sizes.back(), &cells)) cells = -1;
    }
    BOREAS_CHECK(cells == shape[3], corrupt_data, "{}: array 'data' has {} cells but attribute 'field_shape' is {}",
                 path, shape[3], value.dump());
    plan.field_shape = sizes;
  }
  warn_if_incomplete(store, path, *pool);

  const auto statistics = read_statistics(store, "", source->variables.size(), path, *pool);
  const std::vector<bool> constant = find_constant(*source, attributes, plan.missing, *pool);
  const json metadata = attributes.value("variables_metadata", json::object());
  for (size_t v = 0; v < source->variables.size(); ++v) {
    Variable variable;
    variable.name = source->variables[v];
    const json about = metadata.is_object() ? metadata.value(variable.name, json::object()) : json::object();
    const auto flag = [&](const char* key) {
      return about.is_object() && about.contains(key) && about[key].is_boolean() && about[key].get<bool>();
    };
    if (about.is_object() && about.contains("units") && about["units"].is_string()) variable.units = about["units"];
    variable.constant = constant[v] || flag("constant_in_time");
    variable.computed = flag("computed_forcing") || is_computed_forcing(variable.name);
    variable.pieces = {{0, shape[0], source, int64_t(v), 0, 1}};
    if (statistics)
      variable.statistics = Summary{(*statistics)[0][v], (*statistics)[1][v], (*statistics)[2][v], (*statistics)[3][v]};
    variable.statistics_source = source;
    variable.statistics_variable = int64_t(v);
    plan.variables.push_back(std::move(variable));
  }
  return plan;
}

// --- composition
// -------------------------------------------------------------------------------------------------------

void check_same_grid(const Plan& a, const Plan& b, const char* what) {
  const int64_t num_cells = a.grid->num_cells();
  BOREAS_CHECK(num_cells == b.grid->num_cells() && a.num_members == b.num_members, config,
               "{} of {} ({} cells, {} members) and {} ({} cells, {} members): the grids differ", what, a.name,
               num_cells, a.num_members, b.name, b.grid->num_cells(), b.num_members);
  for (const Range part : Grid::parts(num_cells)) {
    const std::vector<double> a_latitudes = a.grid->latitudes(part), a_longitudes = a.grid->longitudes(part);
    const std::vector<double> b_latitudes = b.grid->latitudes(part), b_longitudes = b.grid->longitudes(part);
    for (size_t i = 0; i < a_latitudes.size(); ++i)
      BOREAS_CHECK(std::abs(a_latitudes[i] - b_latitudes[i]) < 1e-5 &&
                       std::abs(std::remainder(a_longitudes[i] - b_longitudes[i], 360.0)) < 1e-5,
                   config, "{} of {} and {}: the grids differ, first at cell {}: ({}, {}) and ({}, {})", what, a.name,
                   b.name, part.begin + int64_t(i), a_latitudes[i], a_longitudes[i], b_latitudes[i], b_longitudes[i]);
  }
}

std::string joined_name(const char* what, const std::vector<Plan>& plans) {
  std::vector<std::string> names;
  for (const Plan& plan : plans) names.push_back(plan.name);
  return fmt::format("{}({})", what, fmt::join(names, ", "));
}

std::string describe_dates(const Plan& plan) {
  if (plan.dates.empty()) return "no dates";
  return fmt::format("{} dates from {} to {} every {}", plan.dates.size(), format_date(plan.dates.front()),
                     format_date(plan.dates.back()), plan.step ? format_step(plan.step) : "?");
}

Plan join(std::vector<Plan> plans) {
  Plan result = plans[0];
  result.name = joined_name("join", plans);
  for (size_t i = 1; i < plans.size(); ++i) {
    Plan& plan = plans[i];
    BOREAS_CHECK(plan.dates == result.dates, config, "join of {} ({}) and {} ({}): the dates must be the same",
                 plans[0].name, describe_dates(plans[0]), plan.name, describe_dates(plan));
    check_same_grid(plans[0], plan, "join");
    const auto names = result.variable_names();
    for (size_t d = 0; d < plan.missing.size(); ++d)
      if (plan.missing[d]) result.missing[d] = true;
    for (Variable& variable : plan.variables) {
      const int64_t at = find(names, variable.name);
      if (at >= 0)
        result.variables[at] = std::move(variable);
      else
        result.variables.push_back(std::move(variable));
    }
  }
  return result;
}

Plan concat(std::vector<Plan> plans) {
  Plan result = plans[0];
  result.name = joined_name("concat", plans);
  for (size_t i = 1; i < plans.size(); ++i) {
    const Plan& plan = plans[i];
    check_same_grid(plans[0], plan, "concat");
    BOREAS_CHECK(plan.variable_names() == result.variable_names(), config,
                 "concat of {} and {}: the variables must be the same, in the same order: [{}] and [{}]; use select",
                 plans[0].name, plan.name, fmt::join(result.variable_names(), ", "),
                 fmt::join(plan.variable_names(), ", "));
    const int64_t offset = int64_t(result.dates.size());
    result.dates.insert(result.dates.end(), plan.dates.begin(), plan.dates.end());
    result.missing.insert(result.missing.end(), plan.missing.begin(), plan.missing.end());
    const auto step = regular_step(result.dates);
    BOREAS_CHECK(
        step, config,
        "concat of {}, {} ({}): the dates must follow each other in order, without gap or overlap, at one step",
        joined_name("", {plans.begin(), plans.begin() + int64_t(i)}), plan.name, describe_dates(plan));
    result.step = *step;
    for (size_t v = 0; v < plan.variables.size(); ++v) {
      Variable& variable = result.variables[v];
      BOREAS_CHECK(variable.forcing == plan.variables[v].forcing, config,
                   "concat of {} and {}: variable '{}' is stored in one and computed while reading in the other",
                   plans[0].name, plan.name, variable.name);
      variable.constant = variable.constant && plan.variables[v].constant;
      for (Piece piece : plan.variables[v].pieces) {
        piece.begin += offset;
        piece.end += offset;
        variable.pieces.push_back(piece);
      }
    }
  }
  return result;
}

// --- what is kept
// --------------------------------------------------------------------------------------------------------

// Keeps the dates begin, begin + stride, ... below end.
void keep_dates(Plan& plan, int64_t begin, int64_t end, int64_t stride) {
  std::vector<int64_t> dates;
  std::vector<bool> missing;
  for (int64_t d = begin; d < end; d += stride) {
    dates.push_back(plan.dates[d]);
    missing.push_back(plan.missing[d]);
  }
  for (Variable& variable : plan.variables) {
    std::vector<Piece> pieces;
    for (Piece piece : variable.pieces) {
      // New dates n with old date begin + n * stride inside the piece.
      const int64_t from = std::max<int64_t>(0, (piece.begin - begin + stride - 1) / stride);
      const int64_t to = std::min<int64_t>(int64_t(dates.size()), (piece.end - begin + stride - 1) / stride);
      if (from >= to) continue;
      piece.first = piece.date_in_source(begin + from * stride);
      piece.begin = from;
      piece.end = to;
      piece.stride *= stride;
      pieces.push_back(piece);
    }
    variable.pieces = std::move(pieces);
  }
  plan.dates = std::move(dates);
  plan.missing = std::move(missing);
}

int64_t require_variable(const Plan& plan, const std::string& name, const char* key) {
  const auto names = plan.variable_names();
  const int64_t at = find(names, name);
  BOREAS_CHECK(at >= 0, config, "{}: {} asks for variable '{}', which the dataset does not have{}; it has: {}",
               plan.name, key, name, near_names(name, names), fmt::join(names, ", "));
  return at;
}

Variable computed_variable(const std::string& name) {
  Variable variable;
  variable.name = variable.forcing = name;
  variable.units = forcing_units(name);
  variable.constant = is_constant_forcing(name);
  variable.computed = true;
  return variable;
}

void keep_variables(Plan& plan, const std::vector<std::string>& names, const char* key) {
  std::vector<Variable> kept;
  const auto known = plan.variable_names();
  for (const std::string& name : names) {
    BOREAS_CHECK(std::count(names.begin(), names.end(), name) == 1, config, "{}: {} names variable '{}' twice",
                 plan.name, key, name);
    if (find(known, name) < 0 && is_computed_forcing(name))
      kept.push_back(computed_variable(name));
    else
      kept.push_back(plan.variables[size_t(require_variable(plan, name, key))]);
  }
  plan.variables = std::move(kept);
}

void take_statistics(Plan& plan, const std::string& path) {
  const Plan other = open_source(path, plan.pool);
  for (Variable& variable : plan.variables) {
    if (!variable.forcing.empty()) continue;
    const auto names = other.variable_names();
    const int64_t at = find(names, variable.name);
    BOREAS_CHECK(at >= 0, config, "{}: the dataset given as statistics, {}, has no variable '{}'{}", plan.name, path,
                 variable.name, near_names(variable.name, names));
    variable.statistics = other.variables[at].statistics;
    variable.statistics_source = other.variables[at].statistics_source;
    variable.statistics_variable = other.variables[at].statistics_variable;
  }
}

Plan make_plan(const DatasetConfig& config, const std::shared_ptr<ThreadPool>& pool) {
  const int given = !config.path.empty() + !config.join.empty() + !config.concat.empty();
  BOREAS_CHECK(given == 1, config, "a dataset needs exactly one of path, join and concat, but {} are given", given);
  const auto make_all = [&](const std::vector<DatasetConfig>& configs) {
    std::vector<Plan> plans;
    for (const DatasetConfig& member : configs) plans.push_back(make_plan(member, pool));
    return plans;
  };
  Plan plan = !config.path.empty()   ? open_source(config.path, pool)
              : !config.join.empty() ? join(make_all(config.join))
                                     : concat(make_all(config.concat));
  if (!config.start.empty() || !config.end.empty()) {
    const Range kept = select_dates(plan.dates, config.start, config.end, plan.name);
    keep_dates(plan, kept.begin, kept.end, 1);
  }
  if (!config.frequency.empty()) {
    const TimeStep wanted = parse_step(config.frequency);
    const auto stride = multiple_of(wanted, plan.step);
    BOREAS_CHECK(stride, config, "{}: frequency {} is not a multiple of the dataset's step {}", plan.name,
                 config.frequency, plan.step ? format_step(plan.step) : "(none)");
    keep_dates(plan, 0, int64_t(plan.dates.size()), *stride);
    plan.step = wanted;
  }
  if (!config.select.empty()) keep_variables(plan, config.select, "select");
  if (!config.drop.empty()) {
    for (const std::string& name : config.drop) require_variable(plan, name, "drop");
    std::erase_if(plan.variables, [&](const Variable& v) { return find(config.drop, v.name) >= 0; });
    BOREAS_CHECK(!plan.variables.empty(), config, "{}: drop leaves no variable", plan.name);
  }
  if (!config.reorder.empty()) {
    auto names = config.reorder;
    if (names == std::vector<std::string>{"sort"}) {
      names = plan.variable_names();
      std::sort(names.begin(), names.end());
    }
    for (const std::string& name : plan.variable_names())
      BOREAS_CHECK(find(names, name) >= 0, config, "{}: reorder must list all variables, but '{}' is not in it",
                   plan.name, name);
    for (const std::string& name : names) require_variable(plan, name, "reorder");
    keep_variables(plan, names, "reorder");
  }
  if (!config.rename.empty()) {
    std::vector<std::pair<int64_t, std::string>> renamed;  // all are looked up first, so that two names can be swapped
    for (const auto& [from, to] : config.rename) renamed.emplace_back(require_variable(plan, from, "rename"), to);
    for (const auto& [at, to] : renamed) plan.variables[at].name = to;
    auto names = plan.variable_names();
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    BOREAS_CHECK(twice == names.end(), config, "{}: rename gives two variables the name '{}'", plan.name, *twice);
  }
  if (!config.statistics.empty()) take_statistics(plan, config.statistics);
  return plan;
}

// --- statistics
// ----------------------------------------------------------------------------------------------------------

// Statistics of a forcing that no dataset holds: over at most 64 dates and 4096 cells, spread evenly.
Summary sample_forcing(const std::string& name, const Plan& plan) {
  const auto spread = [](size_t n, size_t maximum) {
    std::vector<size_t> indices;
    const size_t count = std::min(n, maximum);
    for (size_t i = 0; i < count; ++i) indices.push_back(i * n / count);
    return indices;
  };
  std::vector<double> latitudes, longitudes;
  const std::vector<size_t> cells = spread(size_t(plan.grid->num_cells()), 4096);
  for (const Range part : Grid::parts(plan.grid->num_cells())) {
    const std::vector<double> part_latitudes = plan.grid->latitudes(part),
                              part_longitudes = plan.grid->longitudes(part);
    for (const size_t cell : cells) {
      if (int64_t(cell) < part.begin || int64_t(cell) >= part.end) continue;
      latitudes.push_back(part_latitudes[cell - size_t(part.begin)]);
      longitudes.push_back(part_longitudes[cell - size_t(part.begin)]);
    }
  }
  std::vector<double> values(latitudes.size());
  double count = 0, mean = 0, sum_of_squares = 0, minimum = INFINITY, maximum = -INFINITY;
  for (const size_t date : spread(plan.dates.size(), 64)) {
    compute_forcing(name, plan.dates[date], latitudes, longitudes, std::span<double>(values));
    for (const double value : values) {
      count += 1;
      const double difference = value - mean;
      mean += difference / count;
      sum_of_squares += difference * (value - mean);
      minimum = std::min(minimum, value);
      maximum = std::max(maximum, value);
    }
  }
  return {mean, std::sqrt(sum_of_squares / count), minimum, maximum};
}

}  // namespace

void DatasetReader::Plan::finish() {
  names = variable_names();
  for (Variable& variable : variables)
    if (!variable.forcing.empty()) variable.statistics = sample_forcing(variable.forcing, *this);
  const bool complete =
      std::all_of(variables.begin(), variables.end(), [](const Variable& v) { return v.statistics.has_value(); });
  if (!complete) return;
  statistics.emplace();
  for (const Variable& variable : variables) {
    statistics->mean.push_back(variable.statistics->mean);
    statistics->stdev.push_back(variable.statistics->stdev);
    statistics->minimum.push_back(variable.statistics->minimum);
    statistics->maximum.push_back(variable.statistics->maximum);
  }
}

DatasetReader DatasetReader::open(const DatasetConfig& config, std::shared_ptr<ThreadPool> pool) {
  if (!pool) pool = std::make_shared<ThreadPool>(std::max(0, int(std::thread::hardware_concurrency()) - 1));
  auto plan = std::make_shared<Plan>(make_plan(config, pool));
  plan->finish();
  return DatasetReader(std::move(plan));
}

const std::string& DatasetReader::name() const { return plan_->name; }
const std::vector<std::string>& DatasetReader::variables() const { return plan_->names; }
const std::string& DatasetReader::units(int64_t variable) const { return plan_->variables.at(size_t(variable)).units; }
bool DatasetReader::constant(int64_t variable) const { return plan_->variables.at(size_t(variable)).constant; }
bool DatasetReader::computed(int64_t variable) const { return plan_->variables.at(size_t(variable)).computed; }
const std::vector<int64_t>& DatasetReader::dates() const { return plan_->dates; }
TimeStep DatasetReader::step() const { return plan_->step; }
bool DatasetReader::missing(int64_t date_index) const { return plan_->missing.at(size_t(date_index)); }
int64_t DatasetReader::num_members() const { return plan_->num_members; }
int64_t DatasetReader::num_cells() const { return plan_->grid->num_cells(); }
std::vector<double> DatasetReader::latitudes(Range cells) const { return plan_->grid->latitudes(cells); }
std::vector<double> DatasetReader::longitudes(Range cells) const { return plan_->grid->longitudes(cells); }
const std::vector<int64_t>& DatasetReader::field_shape() const { return plan_->field_shape; }

int64_t DatasetReader::index_of(const std::string& variable) const {
  const int64_t at = find(plan_->names, variable);
  BOREAS_CHECK(at >= 0, invalid_argument, "{}: there is no variable '{}'{}; it has: {}", plan_->name, variable,
               near_names(variable, plan_->names), fmt::join(plan_->names, ", "));
  return at;
}

std::optional<int64_t> DatasetReader::index_of_date(int64_t date) const {
  const auto at = std::lower_bound(plan_->dates.begin(), plan_->dates.end(), date);
  if (at == plan_->dates.end() || *at != date) return {};
  return at - plan_->dates.begin();
}

int64_t DatasetReader::require_date(int64_t date) const {
  const auto index = index_of_date(date);
  BOREAS_CHECK(index, invalid_argument, "{}: has no date {}; it has {}", plan_->name, format_date(date),
               describe_dates(*plan_));
  return *index;
}

const Statistics& DatasetReader::statistics() const {
  if (!plan_->statistics)
    for (const Variable& variable : plan_->variables)
      BOREAS_CHECK(variable.statistics, config,
                   "{}: holds no statistics of variable '{}' (arrays mean, stdev, minimum, maximum); name a dataset "
                   "that does as "
                   "'statistics'",
                   plan_->name, variable.name);
  return *plan_->statistics;
}

std::optional<Statistics> DatasetReader::tendency_statistics(TimeStep lag) const {
  const std::string prefix = "statistics_tendencies_" + frequency_attribute(lag) + "_";
  std::map<const Source*, std::array<std::vector<double>, 4>> found;
  Statistics result;
  for (const Variable& variable : plan_->variables) {
    if (!variable.statistics_source) return {};
    const Source& source = *variable.statistics_source;
    if (!found.contains(&source)) {
      const auto values = read_statistics(source.store, prefix, source.variables.size(), source.path, *plan_->pool);
      if (!values) return {};
      found[&source] = *values;
    }
    const auto& values = found[&source];
    const size_t v = size_t(variable.statistics_variable);
    result.mean.push_back(values[0][v]);
    result.stdev.push_back(values[1][v]);
    result.minimum.push_back(values[2][v]);
    result.maximum.push_back(values[3][v]);
  }
  return result;
}

std::vector<int64_t> DatasetReader::anchors(int64_t num_input_steps, int64_t num_output_steps) const {
  BOREAS_CHECK(num_input_steps >= 1 && num_output_steps >= 0, invalid_argument,
               "a window of {} input and {} output steps: at least one input step is needed", num_input_steps,
               num_output_steps);
  std::vector<int64_t> anchors;
  int64_t present = 0;  // dates in a row, up to and with d, that are not missing
  for (int64_t d = 0; d < num_dates(); ++d) {
    present = plan_->missing[d] ? 0 : present + 1;
    if (present >= num_input_steps + num_output_steps) anchors.push_back(d - num_output_steps);
  }
  return anchors;
}

// --- reading
// -------------------------------------------------------------------------------------------------------------

namespace {

// A row of the output and where it comes from.
struct Row {
  int64_t source_variable;
  int64_t output;
};

// Names a chunk of the box that is not stored.
std::string absent_chunk(const ZarrArray& array, const IndexBox& box) {
  const auto& chunks = array.stored_chunks();
  std::vector<int64_t> index(box.begin.size());
  for (size_t d = 0; d < index.size(); ++d) index[d] = box.begin[d] / chunks[d];
  while (array.has_chunk(index)) {
    size_t d = index.size();
    while (d-- > 0) {
      if ((++index[d]) * chunks[d] < box.end[d]) break;
      index[d] = box.begin[d] / chunks[d];
      if (d == 0) return "?";
    }
  }
  return fmt::format("{}", fmt::join(index, "."));
}

// Reads rows of one source, sorted by source variable, at one of its dates. Neighbouring variables are read together;
// a gap smaller than a usual blosc block would be decoded anyway, so it is read too and thrown away.
void read_rows(const Source& source, int64_t source_date, const std::string& date, const std::vector<Row>& rows,
               Range members, Range cells, float* out, ThreadPool& pool, ReadStats& stats) {
  constexpr int64_t kBlockBytes = 512 << 10;
  const ZarrArray& data = source.data;
  const int64_t size = members.size() * cells.size();
  const int64_t gap = kBlockBytes / std::max<int64_t>(1, data.chunks()[2] * data.chunks()[3] * data.dtype().size);
  std::vector<float> scratch;
  std::vector<double> doubles;
  for (size_t begin = 0, end; begin < rows.size(); begin = end) {
    bool direct = data.dtype().size == 4;
    for (end = begin + 1; end < rows.size(); ++end) {
      const int64_t distance = rows[end].source_variable - rows[end - 1].source_variable;
      if (distance > 1 + gap) break;
      direct = direct && distance == 1 && rows[end].output == rows[end - 1].output + 1;
    }
    const int64_t first = rows[begin].source_variable, last = rows[end - 1].source_variable;
    const IndexBox box{{source_date, first, members.begin, cells.begin},
                       {source_date + 1, last + 1, members.end, cells.end}};
    ReadStats here;
    void* into = out + rows[begin].output * size;
    if (!direct) {
      const size_t count = size_t((last - first + 1) * size);
      if (data.dtype().size == 4) {
        scratch.resize(count);
        into = scratch.data();
      } else {
        doubles.resize(count);
        into = doubles.data();
      }
    }
    data.read(box, into, pool, &here);
    BOREAS_CHECK(here.chunks_missing == 0 || source.allow_nans, corrupt_data,
                 "{}: date {} (index {}) is not listed as missing, but chunk {} of array 'data' is absent", source.path,
                 date, source_date, absent_chunk(data, box));
    if (!direct)
      for (size_t i = begin; i < end; ++i) {
        const int64_t from = (rows[i].source_variable - first) * size;
        float* to = out + rows[i].output * size;
        if (data.dtype().size == 4)
          std::copy_n(scratch.begin() + from, size, to);
        else
          std::transform(doubles.begin() + from, doubles.begin() + from + size, to, [](double x) { return float(x); });
      }
    stats += here;
  }
}

}  // namespace

void DatasetReader::read(int64_t date_index, Range cells, float* out, ReadStats* stats) const {
  std::vector<int64_t> all(plan_->variables.size());
  std::iota(all.begin(), all.end(), 0);
  read(date_index, all, cells, out, stats);
}

void DatasetReader::read(int64_t date_index, const std::vector<int64_t>& variables, Range cells, float* out,
                         ReadStats* stats) const {
  read(date_index, variables, {0, num_members()}, cells, out, stats);
}

void DatasetReader::read(int64_t date_index, const std::vector<int64_t>& variables, Range members, Range cells,
                         float* out, ReadStats* stats) const {
  const Plan& plan = *plan_;
  BOREAS_CHECK(date_index >= 0 && date_index < num_dates(), invalid_argument, "{}: has no date index {}; it has {}",
               plan.name, date_index, describe_dates(plan));
  const std::string date = format_date(plan.dates[date_index]);
  BOREAS_CHECK(!plan.missing[date_index], invalid_argument,
               "{}: date {} (index {}) is missing: the dataset has no data for it", plan.name, date, date_index);
  BOREAS_CHECK(cells.begin >= 0 && cells.begin <= cells.end && cells.end <= num_cells(), invalid_argument,
               "{}: has no cells {}..{}; it has {}", plan.name, cells.begin, cells.end, num_cells());
  BOREAS_CHECK(members.begin >= 0 && members.begin <= members.end && members.end <= plan.num_members, invalid_argument,
               "{}: has no members {}..{}; it has {}", plan.name, members.begin, members.end, plan.num_members);
  ReadStats total;
  const int64_t size = members.size() * cells.size();
  std::map<std::pair<const Source*, int64_t>, std::vector<Row>> stored;  // by source and its date
  for (size_t i = 0; i < variables.size(); ++i) {
    BOREAS_CHECK(variables[i] >= 0 && variables[i] < num_variables(), invalid_argument,
                 "{}: has no variable number {}; it has {}", plan.name, variables[i], num_variables());
    const Variable& variable = plan.variables[size_t(variables[i])];
    if (variable.forcing.empty()) {
      const auto piece = std::find_if(variable.pieces.begin(), variable.pieces.end(),
                                      [&](const Piece& p) { return date_index >= p.begin && date_index < p.end; });
      BOREAS_ASSERT(piece != variable.pieces.end());
      stored[{piece->source.get(), piece->date_in_source(date_index)}].push_back({piece->variable, int64_t(i)});
      continue;
    }
    float* row = out + int64_t(i) * size;
    if (size == 0) continue;
    const auto places = plan.grid->kept(cells);
    compute_forcing(variable.forcing, plan.dates[date_index], places->latitudes, places->longitudes,
                    std::span(row, size_t(cells.size())));
    for (int64_t member = 1; member < members.size(); ++member)
      std::copy_n(row, cells.size(), row + member * cells.size());
  }
  for (auto& [place, rows] : stored) {
    std::stable_sort(rows.begin(), rows.end(),
                     [](const Row& a, const Row& b) { return a.source_variable < b.source_variable; });
    read_rows(*place.first, place.second, date, rows, members, cells, out, *plan.pool, total);
  }
  if (stats) *stats += total;
}

}  // namespace boreas
