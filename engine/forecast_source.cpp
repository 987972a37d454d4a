#include "engine/forecast_source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "io/forcings.h"
#include "io/input_files.h"
#include "kernels/core/near_names.h"

namespace boreas {

namespace {

// Degrees between places that are the same: of datasets, and of files, which may hold them in f32 or rounded.
constexpr double kSamePlace = 1e-5, kSamePlaceInFiles = 1e-3;

bool same_place(double latitude, double longitude, double other_latitude, double other_longitude, double tolerance) {
  return std::abs(latitude - other_latitude) < tolerance &&
         std::abs(std::remainder(longitude - other_longitude, 360.0)) < tolerance;
}

}  // namespace

void check_same_grid(const StepModel& model, const DatasetReader& reader) {
  const ModelSetup& setup = model.setup();
  BOREAS_CHECK(reader.num_cells() == setup.num_cells(), config,
               "dataset {} has {} cells but the model was trained on {}: use a dataset of the same grid", reader.name(),
               reader.num_cells(), setup.num_cells());
  const Range cells = model.cells();
  const std::span<const double> latitudes = setup.latitudes_of(cells), longitudes = setup.longitudes_of(cells);
  const std::vector<double> found_latitudes = reader.latitudes(cells), found_longitudes = reader.longitudes(cells);
  for (size_t c = 0; c < latitudes.size(); ++c)
    BOREAS_CHECK(same_place(found_latitudes[c], found_longitudes[c], latitudes[c], longitudes[c], kSamePlace), config,
                 "dataset {} has another grid than the model was trained on: cell {} lies at latitude {}, longitude {} "
                 "and for the model at {}, {}",
                 reader.name(), cells.begin + int64_t(c), found_latitudes[c], found_longitudes[c], latitudes[c],
                 longitudes[c]);
  BOREAS_CHECK(reader.step() == setup.step, config, "dataset {} has a step of {} but the model makes steps of {}",
               reader.name(), format_step(reader.step()), format_step(setup.step));
}

namespace {

class DatasetSource : public ForecastSource {
 public:
  DatasetSource(const StepModel& model, const DatasetReader& reader) : model_(model), reader_(reader) {
    check_same_grid(model, reader);
    const std::vector<std::string>& known = reader.variables();
    for (const std::string& name : model.variables().names()) {
      const bool stored = std::find(known.begin(), known.end(), name) != known.end();
      column_of_.push_back(!stored && is_computed_forcing(name) ? -1 : reader.index_of(name));
    }
  }

  const std::string& name() const override { return reader_.name(); }
  const std::vector<int64_t>& dates() const override { return reader_.dates(); }
  bool has_state(int64_t date) const override {
    const auto index = reader_.index_of_date(date);
    return index && !reader_.missing(*index);
  }
  int64_t num_members() const override { return reader_.num_members(); }
  bool holds(int64_t variable) const override { return column_of_[size_t(variable)] >= 0; }

  void read(int64_t v, int64_t date, int64_t member, std::span<float> values) const override {
    const auto index = reader_.index_of_date(date);
    BOREAS_CHECK(index && !reader_.missing(*index), invalid_argument,
                 "the forecast needs {} on {}, which {} {}; it holds {} to {}, step {}", model_.variables().name(v),
                 format_date(date), reader_.name(), index ? "marks as missing" : "does not hold",
                 format_date(reader_.dates().front()), format_date(reader_.dates().back()),
                 format_step(reader_.step()));
    reader_.read(*index, {column_of_[size_t(v)]}, {member, member + 1}, model_.cells(), values.data());
  }

 private:
  const StepModel& model_;
  DatasetReader reader_;
  std::vector<int64_t> column_of_;  // by variable of the model: in the reader; -1: computed from its formula
};

// --- units
// ------------------------------------------------------------------------------------------------------------------

// The factors of "m s-1", "m s**-1" and "m/s" with their powers; nothing for units that are no such product.
std::optional<std::map<std::string, int>> factors_of(const std::string& units) {
  std::map<std::string, int> factors;
  static const std::set<std::string> kNone = {"", "1", "-", "~", "dimensionless", "(0 - 1)", "0-1", "fraction"};
  if (kNone.contains(units)) return factors;
  const char *at = units.data(), *const end = at + units.size();
  int sign = 1;
  while (at < end) {
    if (*at == ' ' || *at == '.' || *at == '*') {
      ++at;
      continue;
    }
    if (*at == '/') {
      sign = -1;
      ++at;
      continue;
    }
    const char* const name = at;
    while (at < end && std::isalpha(static_cast<unsigned char>(*at))) ++at;
    if (at == name) return {};
    const std::string factor(name, at);
    while (at < end && (*at == '*' || *at == '^') && at + 1 < end && at[1] != ' ') ++at;
    int power = 1;
    if (at < end && *at == '+') ++at;
    const auto [after, error] = std::from_chars(at, end, power);
    if (error == std::errc()) at = after;
    factors[factor] += sign * power;
    sign = 1;
  }
  std::erase_if(factors, [](const auto& factor) { return factor.second == 0; });
  return factors;
}

bool same_units(const std::string& a, const std::string& b) {
  const auto x = factors_of(a), y = factors_of(b);
  return a == b || (x && y && *x == *y);
}

// --- cells
// ------------------------------------------------------------------------------------------------------------------

// Where a grid of a file has these cells of the model, if not in the same order. Throws config if it lacks one.
std::vector<int64_t> places_of_cells(const ModelSetup& setup, Range cells, const InputGrid& grid,
                                     const std::string& where) {
  const int64_t num_cells = setup.num_cells();
  const std::span<const double> latitudes = setup.latitudes_of(cells), longitudes = setup.longitudes_of(cells);
  BOREAS_CHECK(int64_t(grid.latitudes.size()) == num_cells, config,
               "{} has another grid than the model was trained on: {}, which are {} cells and not {}", where,
               grid.description, grid.latitudes.size(), num_cells);
  const auto is_at = [&](int64_t i, int64_t place) {  // the cell number i of these
    return same_place(latitudes[size_t(i)], longitudes[size_t(i)], grid.latitudes[size_t(place)],
                      grid.longitudes[size_t(place)], kSamePlaceInFiles);
  };
  int64_t same = 0;
  while (same < cells.size() && is_at(same, cells.begin + same)) ++same;
  if (same == cells.size()) return {};

  // Sorted by squares as wide as the tolerance: a cell lies in that of its place, or in one beside it.
  constexpr int64_t kAround = int64_t(360 / kSamePlaceInFiles);
  const auto square = [](double degrees) { return int64_t(std::floor(degrees / kSamePlaceInFiles)); };
  const auto key = [](int64_t row, int64_t column) { return row * kAround + ((column % kAround) + kAround) % kAround; };
  std::vector<std::pair<int64_t, int64_t>> sorted;
  for (int64_t place = 0; place < num_cells; ++place)
    sorted.emplace_back(key(square(grid.latitudes[size_t(place)]), square(grid.longitudes[size_t(place)])), place);
  std::sort(sorted.begin(), sorted.end());
  const auto find = [&](int64_t cell) -> int64_t {
    const int64_t row = square(latitudes[size_t(cell)]), column = square(longitudes[size_t(cell)]);
    for (int64_t i = -1; i <= 1; ++i)
      for (int64_t j = -1; j <= 1; ++j) {
        const int64_t wanted = key(row + i, column + j);
        for (auto at = std::lower_bound(sorted.begin(), sorted.end(), std::pair{wanted, int64_t{0}});
             at != sorted.end() && at->first == wanted; ++at)
          if (is_at(cell, at->second)) return at->second;
      }
    return -1;
  };
  std::vector<int64_t> places;
  for (int64_t i = 0; i < cells.size(); ++i) {
    places.push_back(find(i));
    BOREAS_CHECK(places.back() >= 0, config,
                 "{} has another grid than the model was trained on: it has no cell at latitude {}, longitude {}",
                 where, latitudes[size_t(i)], longitudes[size_t(i)]);
  }
  return places;
}

// --- files
// ------------------------------------------------------------------------------------------------------------------

class FileSource : public ForecastSource {
 public:
  FileSource(const StepModel& model, const std::vector<std::string>& paths)
      : model_(model), name_(fmt::format("{}", fmt::join(paths, ", "))), values_(size_t(model.setup().num_cells())) {
    for (const std::string& path : paths) files_.push_back({path, open_input_files({path}), {}});
    fields_.resize(size_t(model.variables().size()));
    for (int64_t v = 0; v < model.variables().size(); ++v)
      if (model.variables().role(v) != Role::diagnostic && !is_computed_forcing(model.variables().name(v))) find(v);
    std::set<int64_t> dates;
    for (int64_t v = 0; v < model.variables().size(); ++v)
      if (model.variables().role(v) == Role::prognostic)
        for (const Candidate& found : fields_[size_t(v)])
          for (const auto& [date, locations] : found.variable->fields)
            if (date != kNoDate) dates.insert(date);
    dates_.assign(dates.begin(), dates.end());
    BOREAS_CHECK(!dates_.empty(), invalid_argument,
                 "{}: the fields have no date; a state needs a time axis, or a scalar coordinate time", name_);
  }

  const std::string& name() const override { return name_; }
  const std::vector<int64_t>& dates() const override { return dates_; }
  bool has_state(int64_t date) const override { return std::binary_search(dates_.begin(), dates_.end(), date); }
  int64_t num_members() const override { return num_members_; }
  bool holds(int64_t variable) const override { return !fields_[size_t(variable)].empty(); }

  void read(int64_t v, int64_t date, int64_t member, std::span<float> values) const override {
    const auto& [candidate, locations] = field(v, date);
    const File& file = files_[candidate->file];
    const auto& location = (*locations)[locations->size() == 1 ? 0 : size_t(member)];
    file.catalog.read(location, values_);
    const std::vector<int64_t>& places = file.places.at(candidate->variable->grid);
    const Range cells = model_.cells();
    for (int64_t c = cells.begin; c < cells.end; ++c)
      values[size_t(c - cells.begin)] = float(values_[size_t(places.empty() ? c : places[size_t(c - cells.begin)])]);
  }

 private:
  struct File {
    std::string path;
    InputCatalog catalog;
    std::map<size_t, std::vector<int64_t>> places;  // by grid, of this rank's cells; empty: as they are
  };
  // A variable of the model in a file.
  struct Candidate {
    size_t file;
    const InputVariable* variable;
  };
  struct Field {
    const Candidate* candidate;
    const std::vector<FieldLocation>* locations;
  };

  void find(int64_t v) {
    const ModelSetup& setup = model_.setup();
    const std::string& name = model_.variables().name(v);
    std::set<std::string> known;
    for (size_t f = 0; f < files_.size(); ++f)
      for (const InputVariable& variable : files_[f].catalog.variables) {
        known.insert(variable.name);
        if (variable.name != name) continue;
        File& file = files_[f];
        const std::string& units = setup.units[size_t(v)];
        BOREAS_CHECK(units.empty() || variable.units.empty() || same_units(units, variable.units), config,
                     "{}: '{}' is in '{}', and the model was trained on '{}'; convert it, or correct its units",
                     file.path, name, variable.units, units);
        if (!file.places.contains(variable.grid))
          file.places[variable.grid] = places_of_cells(setup, model_.cells(), file.catalog.grids[variable.grid],
                                                       fmt::format("{}: '{}'", file.path, name));
        for (const auto& [date, locations] : variable.fields) {
          const auto members = int64_t(locations.size());
          BOREAS_CHECK(members == 1 || num_members_ == 1 || members == num_members_, config,
                       "{}: '{}' has {} members, where others have {}", file.path, name, members, num_members_);
          num_members_ = std::max(num_members_, members);
        }
        fields_[size_t(v)].push_back({f, &variable});
      }
    const std::vector<std::string> names(known.begin(), known.end());
    BOREAS_CHECK(!fields_[size_t(v)].empty(), invalid_argument,
                 "the forecast starts from {}, which {} does not hold{}; it holds: {}", name, name_,
                 near_names(name, names), fmt::join(names, ", "));
  }

  Field field(int64_t v, int64_t date) const {
    Field found{};
    std::set<int64_t> dates;
    for (const Candidate& candidate : fields_[size_t(v)]) {
      const auto& fields = candidate.variable->fields;
      auto at = fields.find(date);
      if (at == fields.end() && model_.setup().constant[size_t(v)] && !found.candidate) at = fields.begin();
      if (at == fields.end()) {
        for (const auto& [other, locations] : fields) dates.insert(other);
        continue;
      }
      BOREAS_CHECK(!found.candidate || model_.setup().constant[size_t(v)], config, "{} on {} is in both {} and {}",
                   model_.variables().name(v), format_date(date), files_[found.candidate->file].path,
                   files_[candidate.file].path);
      if (!found.candidate) found = {&candidate, &at->second};
    }
    if (found.candidate) return found;
    std::vector<std::string> held;
    for (const int64_t other : dates) held.push_back(other == kNoDate ? "a field without date" : format_date(other));
    if (held.size() > 6) held = {held[0], held[1], "...", held.back()};
    BOREAS_FAIL(invalid_argument,
                "the forecast needs {} on {}, which {} does not hold; it holds {}; the model makes steps of {} and "
                "starts from {} state{}",
                model_.variables().name(v), format_date(date), name_, fmt::join(held, ", "),
                format_step(model_.setup().step), model_.network().shape().num_input_steps,
                model_.network().shape().num_input_steps == 1 ? "" : "s");
  }

  const StepModel& model_;
  std::string name_;
  std::vector<File> files_;
  std::vector<std::vector<Candidate>> fields_;  // by variable of the model
  std::vector<int64_t> dates_;
  int64_t num_members_ = 1;
  mutable std::vector<double> values_;  // a whole field
};

}  // namespace

std::unique_ptr<ForecastSource> dataset_source(const StepModel& model, const DatasetReader& reader) {
  return std::make_unique<DatasetSource>(model, reader);
}

std::unique_ptr<ForecastSource> file_source(const StepModel& model, const std::vector<std::string>& paths) {
  return std::make_unique<FileSource>(model, paths);
}

}  // namespace boreas
