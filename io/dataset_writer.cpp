#include "io/dataset_writer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "io/atomic_replace.h"
#include "io/dataset_reader.h"
#include "io/forcings.h"
#include "io/input_files.h"
#include "io/moments.h"
#include "io/zarr.h"
#include "kernels/core/error.h"
#include "kernels/core/near_names.h"

namespace boreas {
namespace {

using nlohmann::json;

std::shared_ptr<ThreadPool> make_pool() {
  return std::make_shared<ThreadPool>(std::max(0, int(std::thread::hardware_concurrency()) - 1));
}

Codec codec_of(const DatasetStorage& storage) {
  Codec codec;
  if (storage.compressor == "none") {
    codec.kind = Codec::Kind::none;
    return codec;
  }
  codec.cname = storage.compressor;
  codec.level = int(storage.level);
  check_codec(codec);
  return codec;
}

int64_t cells_per_chunk(int64_t num_cells, const DatasetStorage& storage) {
  BOREAS_CHECK(storage.grid_chunks >= 1 && storage.grid_chunks <= std::max<int64_t>(num_cells, 1), config,
               "storage.grid_chunks is {}: expected 1 to {}, the number of cells", storage.grid_chunks, num_cells);
  return std::max<int64_t>(1, (num_cells + storage.grid_chunks - 1) / storage.grid_chunks);
}

ZarrArray create_data(const std::shared_ptr<Store>& store, const std::vector<int64_t>& shape, const std::string& dtype,
                      const DatasetStorage& storage) {
  ZarrSpec spec;
  spec.shape = shape;
  spec.chunks = {1, std::max<int64_t>(1, shape[1]), 1, cells_per_chunk(shape[3], storage)};
  const int64_t bytes = spec.chunks[1] * spec.chunks[3] * (dtype == "<f8" ? 8 : 4);
  BOREAS_CHECK(bytes <= INT32_MAX - 16, config,
               "a chunk of {} variables and {} cells has {} bytes, more than blosc's 2147483631: set "
               "storage.grid_chunks to at least {}",
               spec.chunks[1], spec.chunks[3], bytes, bytes / (INT32_MAX - 16) * storage.grid_chunks + 1);
  spec.dtype = dtype;
  spec.fill_value = NAN;
  spec.compressor = codec_of(storage);
  spec.dimension_names = {"time", "variable", "ensemble", "cell"};
  return ZarrArray::create(store, "data", spec);
}

// A whole 1-D array in one chunk.
template <class T>
void write_vector(const std::shared_ptr<Store>& store, const std::string& name, const std::string& dtype,
                  const std::string& dimension, const std::vector<T>& values, ThreadPool& pool) {
  ZarrSpec spec;
  const int64_t n = int64_t(values.size());
  spec.shape = {n};
  spec.chunks = {std::max<int64_t>(1, n)};
  spec.dtype = dtype;
  spec.dimension_names = {dimension};
  ZarrArray array = ZarrArray::create(store, name, spec);
  if (n > 0) array.write({{0}, {n}}, values.data(), pool);
}

void check_output(const std::string& path, bool overwrite) {
  std::error_code error;
  BOREAS_CHECK(overwrite || !std::filesystem::exists(path, error), config,
               "{}: exists already; choose another name or allow overwriting", path);
}

// Writes the arrays of one set of statistics, named with this prefix.
void write_statistics(const std::shared_ptr<Store>& store, const std::string& prefix,
                      const std::vector<Moments>& moments, ThreadPool& pool) {
  std::vector<double> mean, stdev, minimum, maximum;
  for (const Moments& m : moments) {
    mean.push_back(m.count ? m.mean : NAN);
    stdev.push_back(m.stdev());
    minimum.push_back(m.count ? m.minimum : NAN);
    maximum.push_back(m.count ? m.maximum : NAN);
  }
  write_vector(store, prefix + "mean", "<f8", "variable", mean, pool);
  write_vector(store, prefix + "stdev", "<f8", "variable", stdev, pool);
  write_vector(store, prefix + "minimum", "<f8", "variable", minimum, pool);
  write_vector(store, prefix + "maximum", "<f8", "variable", maximum, pool);
}

}  // namespace

Range default_statistics_dates(const std::vector<int64_t>& dates) {
  const int64_t n = int64_t(dates.size());
  if (n == 0) return {0, 0};
  const int64_t first_year = civil_time(dates.front()).year, last_year = civil_time(dates.back()).year;
  const int64_t years = last_year - first_year + 1;
  if (n < 10 || years < 10) return {0, std::max<int64_t>(1, n * 8 / 10)};
  const int64_t held_out = years >= 20 ? 3 : 1;
  const int64_t end = date_of({.year = last_year - held_out + 1});
  return {0, std::lower_bound(dates.begin(), dates.end(), end) - dates.begin()};
}

// --- DatasetWriter
// -----------------------------------------------------------------------------------------------------

struct DatasetWriter::Impl {
  std::string path, partial;
  DatasetSpec spec;
  std::shared_ptr<ThreadPool> pool;
  TimeStep step;
  std::shared_ptr<Store> store;
  std::optional<ZarrArray> data;

  int64_t num_written = 0;  // dates, missing ones included
  std::vector<std::string> missing;
  std::vector<Moments> statistics;               // by variable
  std::vector<int64_t> lags;                     // in steps
  std::vector<std::vector<Moments>> tendencies;  // by lag and variable
  std::deque<std::vector<float>> history;        // the latest fields, newest first; empty for a missing date
  std::vector<float> first;                      // fields of the first date
  std::vector<char> constant;                    // by variable: equal to the first so far
  int64_t num_present = 0;

  int64_t num_variables() const { return int64_t(spec.variables.size()); }
  int64_t num_cells() const { return int64_t(spec.latitudes.size()); }
  int64_t field_size() const { return spec.num_members * num_cells(); }
  bool in_statistics(int64_t date) const {
    return date >= spec.statistics_dates.begin && date < spec.statistics_dates.end;
  }

  void begin();
  void remember(std::vector<float> fields);
  void append(const float* fields);
  json attributes() const;
};

void DatasetWriter::Impl::begin() {
  const int64_t num_dates = int64_t(spec.dates.size());
  BOREAS_CHECK(num_dates >= 1 && num_variables() >= 1 && num_cells() >= 1 && spec.num_members >= 1, config,
               "{}: a dataset needs dates, variables, members and cells, but has {}, {}, {} and {}", path, num_dates,
               num_variables(), spec.num_members, num_cells());
  BOREAS_CHECK(spec.longitudes.size() == spec.latitudes.size(), config, "{}: {} latitudes but {} longitudes", path,
               num_cells(), spec.longitudes.size());
  if (spec.field_shape.empty()) spec.field_shape = {num_cells()};
  int64_t cells = 1;
  for (const int64_t size : spec.field_shape) cells *= size;
  BOREAS_CHECK(cells == num_cells(), config, "{}: field_shape [{}] does not hold {} cells", path,
               fmt::join(spec.field_shape, ", "), num_cells());
  std::set<std::string> names;
  for (const auto& variable : spec.variables)
    BOREAS_CHECK(names.insert(variable.name).second, config, "{}: variable '{}' occurs twice", path, variable.name);
  if (num_dates > 1) {
    const auto regular = regular_step(spec.dates);
    BOREAS_CHECK(regular, config, "{}: the dates are not evenly spaced", path);
    step = *regular;
  }
  for (const TimeStep lag : spec.tendencies) {
    const auto steps = multiple_of(lag, step);
    BOREAS_CHECK(steps, config, "{}: tendencies over {} are no multiple of the step {}", path, format_step(lag),
                 step ? format_step(step) : "(none)");
    lags.push_back(*steps);
  }
  if (spec.statistics_dates.size() <= 0) spec.statistics_dates = default_statistics_dates(spec.dates);
  BOREAS_CHECK(spec.statistics_dates.begin >= 0 && spec.statistics_dates.end <= num_dates, config,
               "{}: statistics over dates {}..{} of {}", path, spec.statistics_dates.begin, spec.statistics_dates.end,
               num_dates);
  statistics.resize(size_t(num_variables()));
  tendencies.resize(lags.size(), statistics);
  constant.assign(size_t(num_variables()), true);

  partial = partial_path(path);
  remove_quietly(partial);
  store = create_directory_store(partial);
  create_group(*store, "");
  write_attributes(*store, "", "{}");
  data = create_data(store, {num_dates, num_variables(), spec.num_members, num_cells()}, "<f4", spec.storage);
  write_vector(store, "dates", "<M8[s]", "time", spec.dates, *pool);
  write_vector(store, "latitudes", "<f8", "cell", spec.latitudes, *pool);
  write_vector(store, "longitudes", "<f8", "cell", spec.longitudes, *pool);
}

void DatasetWriter::Impl::remember(std::vector<float> fields) {
  const int64_t longest = lags.empty() ? 0 : *std::max_element(lags.begin(), lags.end());
  history.push_front(std::move(fields));
  while (int64_t(history.size()) > longest) history.pop_back();
}

void DatasetWriter::Impl::append(const float* fields) {
  const int64_t date = num_written, size = field_size();
  if (num_present == 0) first.assign(fields, fields + num_variables() * size);
  std::atomic<int64_t> first_nan{INT64_MAX};
  pool->parallel_for(num_variables(), [&](int64_t v) {
    const float* field = fields + v * size;
    const auto moments = Moments::of(size, [&](int64_t i) { return double(field[i]); });
    if (moments.count < size && !spec.allow_nans) {
      int64_t seen = first_nan;
      while (v < seen && !first_nan.compare_exchange_weak(seen, v)) {
      }
    }
    if (constant[v]) constant[v] = std::memcmp(field, first.data() + v * size, size_t(size) * sizeof(float)) == 0;
    if (!in_statistics(date)) return;
    statistics[v].merge(moments);
    for (size_t l = 0; l < lags.size(); ++l) {
      if (!in_statistics(date - lags[l]) || int64_t(history.size()) < lags[l]) continue;
      const auto& earlier = history[size_t(lags[l] - 1)];
      if (earlier.empty()) continue;
      const float* before = earlier.data() + v * size;
      tendencies[l][v].merge(Moments::of(size, [&](int64_t i) { return double(field[i]) - double(before[i]); }));
    }
  });
  BOREAS_CHECK(
      first_nan == INT64_MAX, invalid_argument,
      "{}: variable '{}' holds NaN at {}; fill it at the source, drop the variable, or set allow_nans and an imputer",
      path, spec.variables[size_t(first_nan.load())].name, format_date(spec.dates[date]));
  data->write({{date, 0, 0, 0}, {date + 1, num_variables(), spec.num_members, num_cells()}}, fields, *pool);
  if (!lags.empty()) remember(std::vector<float>(fields, fields + num_variables() * size));
  ++num_written;
  ++num_present;
}

json DatasetWriter::Impl::attributes() const {
  json names = json::array(), constants = json::array(), about = json::object();
  for (size_t v = 0; v < spec.variables.size(); ++v) {
    const auto& variable = spec.variables[v];
    names.push_back(variable.name);
    json entry = json::object();
    if (!variable.units.empty()) entry["units"] = variable.units;
    if (!variable.long_name.empty()) entry["long_name"] = variable.long_name;
    if (variable.computed) entry["computed_forcing"] = true;
    const bool is_constant = variable.computed && is_computed_forcing(variable.name)
                                 ? is_constant_forcing(variable.name)
                                 : constant[v] && num_present > 1;
    if (is_constant) {
      constants.push_back(variable.name);
      entry["constant_in_time"] = true;
    }
    about[variable.name] = entry;
  }
  const auto& dates = spec.dates;
  json result = {{"variables", names},
                 {"variables_metadata", about},
                 {"constant_fields", constants},
                 {"missing_dates", missing},
                 {"start_date", format_date(dates.front())},
                 {"end_date", format_date(dates.back())},
                 {"statistics_start_date", format_date(dates[size_t(spec.statistics_dates.begin)])},
                 {"statistics_end_date", format_date(dates[size_t(spec.statistics_dates.end - 1)])},
                 {"field_shape", spec.field_shape},
                 {"resolution", spec.resolution.empty() ? json() : json(spec.resolution)},
                 {"allow_nans", spec.allow_nans},
                 {"ensemble_dimension", 2},
                 {"flatten_grid", true},
                 {"dimensions", {"dates", "variables", "ensembles", "values"}},
                 {"dtype", "float32"},
                 {"layout", "gridded"},
                 {"description", spec.description},
                 {"version", "0.30"},
                 {"data_request", json::object()}};
  if (step) result["frequency"] = frequency_attribute(step);
  return result;
}

DatasetWriter::DatasetWriter(const std::string& path, DatasetSpec spec, std::shared_ptr<ThreadPool> pool)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->spec = std::move(spec);
  impl_->pool = pool ? std::move(pool) : make_pool();
  try {
    impl_->begin();
  } catch (...) {
    remove_quietly(impl_->partial);
    throw;
  }
}
DatasetWriter::DatasetWriter(DatasetWriter&&) noexcept = default;
DatasetWriter::~DatasetWriter() {
  if (impl_) remove_quietly(impl_->partial);
}

void DatasetWriter::append(const float* fields) {
  BOREAS_CHECK(impl_->num_written < int64_t(impl_->spec.dates.size()), invalid_argument,
               "{}: all {} dates are written already", impl_->path, impl_->spec.dates.size());
  impl_->append(fields);
}

void DatasetWriter::append_missing() {
  BOREAS_CHECK(impl_->num_written < int64_t(impl_->spec.dates.size()), invalid_argument,
               "{}: all {} dates are written already", impl_->path, impl_->spec.dates.size());
  impl_->missing.push_back(format_date(impl_->spec.dates[size_t(impl_->num_written++)]));
  if (!impl_->lags.empty()) impl_->remember({});
}

void DatasetWriter::close() {
  Impl& impl = *impl_;
  BOREAS_CHECK(impl.num_written == int64_t(impl.spec.dates.size()), invalid_argument, "{}: {} of {} dates were written",
               impl.path, impl.num_written, impl.spec.dates.size());
  write_statistics(impl.store, "", impl.statistics, *impl.pool);
  for (size_t l = 0; l < impl.lags.size(); ++l)
    write_statistics(impl.store, "statistics_tendencies_" + frequency_attribute(impl.spec.tendencies[l]) + "_",
                     impl.tendencies[l], *impl.pool);
  write_attributes(*impl.store, "", impl.attributes().dump(-1, ' ', false, json::error_handler_t::replace));
  replace_path(impl.partial, impl.path);
  impl.partial.clear();
}

// --- from files
// ----------------------------------------------------------------------------------------------------------

namespace {

// The variables to take from the inputs, in order, by index.
std::vector<size_t> choose_variables(const InputCatalog& catalog, const DatasetCreateConfig& config) {
  std::vector<std::string> known;
  for (const InputVariable& variable : catalog.variables) {
    known.push_back(variable.name);
    if (variable.base != variable.name) known.push_back(variable.base);
  }
  std::vector<size_t> chosen;
  const auto take = [&](size_t i) {
    if (std::find(chosen.begin(), chosen.end(), i) == chosen.end()) chosen.push_back(i);
  };
  for (const std::string& name : config.variables) {
    std::vector<size_t> matches;
    for (size_t i = 0; i < catalog.variables.size(); ++i)
      if (catalog.variables[i].name == name) matches.push_back(i);
    for (size_t i = 0; i < catalog.variables.size() && (matches.empty() || catalog.variables[matches[0]].name != name);
         ++i)
      if (catalog.variables[i].base == name) matches.push_back(i);
    BOREAS_CHECK(!matches.empty(), config, "the inputs hold no variable '{}'{}; they hold: {}", name,
                 near_names(name, known), fmt::join(std::set<std::string>(known.begin(), known.end()), ", "));
    for (const size_t i : matches) take(i);
  }
  if (config.variables.empty())
    for (size_t i = 0; i < catalog.variables.size(); ++i)
      if (catalog.variables[i].grid == catalog.variables[0].grid) take(i);
  BOREAS_CHECK(!chosen.empty(), config, "the inputs hold no fields on a grid of latitudes and longitudes: {}",
               fmt::join(config.inputs, ", "));
  for (const size_t i : chosen)
    BOREAS_CHECK(catalog.variables[i].grid == catalog.variables[chosen[0]].grid, config,
                 "variables '{}' and '{}' lie on different grids ({} and {}); name variables of one grid",
                 catalog.variables[chosen[0]].name, catalog.variables[i].name,
                 catalog.grids[catalog.variables[chosen[0]].grid].description,
                 catalog.grids[catalog.variables[i].grid].description);
  return chosen;
}

// Fills the gaps of sorted dates whose differences are multiples of one step.
std::vector<int64_t> complete_dates(const std::vector<int64_t>& found) {
  if (found.size() < 2) return found;
  std::vector<TimeStep> candidates;
  int64_t shortest = INT64_MAX, fewest_months = INT64_MAX;
  for (size_t i = 1; i < found.size(); ++i) {
    const CivilTime a = civil_time(found[i - 1]), b = civil_time(found[i]);
    shortest = std::min(shortest, found[i] - found[i - 1]);
    fewest_months = std::min(fewest_months, (b.year - a.year) * 12 + b.month - a.month);
  }
  candidates.push_back({shortest, 0});
  if (fewest_months > 0) candidates.push_back({0, int(fewest_months)});
  for (const TimeStep step : candidates) {
    std::vector<int64_t> dates;
    size_t next = 0;
    for (int64_t i = 0; next < found.size(); ++i) {
      const int64_t date = advance(found[0], step, i);
      if (date > found[next]) break;
      if (date == found[next]) ++next;
      dates.push_back(date);
    }
    if (next == found.size()) return dates;
  }
  for (size_t i = 1; i < found.size(); ++i)
    BOREAS_CHECK(
        (found[i] - found[i - 1]) % shortest == 0, config,
        "the dates of the inputs are not regular: {} and {} are {} apart, which is no multiple of the shortest step {}",
        format_date(found[i - 1]), format_date(found[i]), format_step({found[i] - found[i - 1], 0}),
        format_step({shortest, 0}));
  BOREAS_FAIL(config, "the dates of the inputs are not regular");
}

}  // namespace

void create_dataset(const DatasetCreateConfig& config, const DatasetProgress& progress) {
  BOREAS_CHECK(!config.inputs.empty(), config, "no inputs are given: expected NetCDF or GRIB files");
  BOREAS_CHECK(config.output.ends_with(".zarr"), config, "output '{}' does not end in .zarr", config.output);
  check_output(config.output, config.overwrite);
  const InputCatalog catalog = open_input_files(config.inputs);
  const std::vector<size_t> chosen = choose_variables(catalog, config);
  const InputGrid& grid = catalog.grids[catalog.variables[chosen[0]].grid];

  DatasetSpec spec;
  spec.latitudes = grid.latitudes;
  spec.longitudes = grid.longitudes;
  spec.field_shape = grid.field_shape;
  spec.resolution = grid.resolution;
  spec.description = config.description;
  spec.storage = config.storage;
  spec.allow_nans = config.allow_nans;

  std::set<int64_t> found;
  for (const size_t i : chosen)
    for (const auto& [date, fields] : catalog.variables[i].fields)
      if (date != kNoDate) found.insert(date);
  BOREAS_CHECK(!found.empty(), config, "none of the variables has a time axis: {}", fmt::join(config.inputs, ", "));
  const std::vector<int64_t> all = complete_dates({found.begin(), found.end()});
  const Range kept = select_dates(all, config.start, config.end, "the inputs");
  spec.dates.assign(all.begin() + kept.begin, all.begin() + kept.end);
  if (!config.statistics_start.empty() || !config.statistics_end.empty())
    spec.statistics_dates = select_dates(spec.dates, config.statistics_start, config.statistics_end, "the dataset");
  for (const std::string& lag : config.tendencies) spec.tendencies.push_back(parse_step(lag));

  spec.num_members = 0;
  for (const size_t i : chosen)
    for (const auto& [date, fields] : catalog.variables[i].fields)
      spec.num_members = std::max(spec.num_members, int64_t(fields.size()));
  for (const auto& [from, to] : config.rename)
    BOREAS_CHECK(
        std::any_of(chosen.begin(), chosen.end(),
                    [&](size_t i) { return catalog.variables[i].name == from || catalog.variables[i].base == from; }),
        config, "rename: the inputs hold no variable '{}' among those taken", from);
  for (const size_t i : chosen) {
    const InputVariable& variable = catalog.variables[i];
    std::string name = variable.name;
    if (const auto at = config.rename.find(name); at != config.rename.end())
      name = at->second;
    else if (const auto base = config.rename.find(variable.base); base != config.rename.end())
      name = base->second + name.substr(variable.base.size());
    spec.variables.push_back({name, variable.units, variable.long_name, false});
  }
  for (const std::string& name : config.forcings) {
    BOREAS_CHECK(is_computed_forcing(name), config, "there is no computed forcing '{}'{}", name,
                 near_names(name, computed_forcing_names()));
    spec.variables.push_back({name, forcing_units(name), "", true});
  }

  const int64_t num_cells = int64_t(spec.latitudes.size()), num_members = spec.num_members;
  const std::vector<int64_t> dates = spec.dates;
  DatasetWriter writer(config.output, std::move(spec));
  std::vector<float> fields(size_t(int64_t(chosen.size() + config.forcings.size()) * num_members * num_cells));
  std::vector<double> values(size_t(num_cells), 0.0);
  for (size_t d = 0; d < dates.size(); ++d) {
    if (!found.contains(dates[d])) {
      writer.append_missing();
      if (progress) progress(int64_t(d) + 1, int64_t(dates.size()));
      continue;
    }
    float* out = fields.data();
    for (const size_t i : chosen) {
      const InputVariable& variable = catalog.variables[i];
      auto at = variable.fields.find(dates[d]);
      if (at == variable.fields.end()) at = variable.fields.find(kNoDate);
      BOREAS_CHECK(at != variable.fields.end(), corrupt_data,
                   "the inputs hold no field of variable '{}' at {}, where others have one", variable.name,
                   format_date(dates[d]));
      BOREAS_CHECK(int64_t(at->second.size()) == num_members || at->second.size() == 1, corrupt_data,
                   "variable '{}' has {} members at {}, where others have {}", variable.name, at->second.size(),
                   format_date(dates[d]), num_members);
      for (int64_t member = 0; member < num_members; ++member) {
        if (member < int64_t(at->second.size())) catalog.read(at->second[size_t(member)], values);
        out = std::transform(values.begin(), values.end(), out, [](double x) { return float(x); });
      }
    }
    for (const std::string& name : config.forcings) {
      compute_forcing(name, dates[d], grid.latitudes, grid.longitudes, std::span<double>(values));
      for (int64_t member = 0; member < num_members; ++member)
        out = std::transform(values.begin(), values.end(), out, [](double x) { return float(x); });
    }
    writer.append(fields.data());
    if (progress) progress(int64_t(d) + 1, int64_t(dates.size()));
  }
  writer.close();
}

// --- from another dataset
// --------------------------------------------------------------------------------------------------

void rechunk_dataset(const std::string& input, const std::string& output, const DatasetStorage& storage, bool overwrite,
                     const DatasetProgress& progress) {
  const DatasetReader reader = DatasetReader::open({.path = input});  // validates it
  check_output(output, overwrite);
  const auto pool = make_pool();
  const auto from = open_store(input);
  const std::string partial = partial_path(output);
  remove_quietly(partial);
  try {
    const auto to = create_directory_store(partial);
    create_group(*to, "");
    const ZarrArray data = ZarrArray::open(from, "data");
    const auto& shape = data.shape();
    ZarrArray copy = create_data(to, shape, data.dtype().size == 8 ? "<f8" : "<f4", storage);
    std::vector<std::byte> bytes(size_t(shape[1] * shape[2] * shape[3] * data.dtype().size));
    for (int64_t d = 0; d < shape[0]; ++d) {
      const IndexBox box{{d, 0, 0, 0}, {d + 1, shape[1], shape[2], shape[3]}};
      if (!reader.missing(d)) {
        ReadStats stats;
        data.read(box, bytes.data(), *pool, &stats);
        if (stats.chunks_missing > 0) {  // the reader knows whether they may be absent, and throws if not
          std::vector<float> fields(size_t(shape[1] * shape[2] * shape[3]));
          reader.read(d, {0, shape[3]}, fields.data());
        }
        if (stats.chunks_read > 0) copy.write(box, bytes.data(), *pool);
      }
      if (progress) progress(d + 1, shape[0]);
    }
    for (const std::string& name : list_arrays(*from)) {
      if (name == "data") continue;
      const ZarrArray array = ZarrArray::open(from, name);
      ZarrDType dtype = array.dtype();
      dtype.big_endian = false;
      ZarrSpec spec;
      spec.shape = spec.chunks = array.shape();
      for (int64_t& size : spec.chunks) size = std::max<int64_t>(size, 1);
      spec.dtype = dtype.to_string();
      spec.dimension_names = array.dimension_names();
      std::vector<std::byte> values(size_t(array.num_elements() * dtype.size));
      array.read(array.whole(), values.data(), *pool);
      ZarrArray written = ZarrArray::create(to, name, spec);
      written.write(written.whole(), values.data(), *pool);
    }
    write_attributes(*to, "", read_attributes(*from, ""));
    replace_path(partial, output);
  } catch (...) {
    remove_quietly(partial);
    throw;
  }
}

// --- at a glance
// -----------------------------------------------------------------------------------------------------------

namespace {

int64_t bytes_on_disk(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(path)) return int64_t(fs::file_size(path));
  int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) bytes += int64_t(entry.file_size());
  return bytes;
}

std::string format_bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 5) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

}  // namespace

std::string inspect_dataset(const std::string& path) {
  const DatasetReader reader = DatasetReader::open({.path = path});
  const auto store = open_store(path);
  const ZarrArray data = ZarrArray::open(store, "data");
  const json attributes = json::parse(read_attributes(*store, ""));
  const auto text = [&](const char* key) {
    const json value = attributes.value(key, json());
    return value.is_string() ? value.get<std::string>() : std::string();
  };
  std::string out;
  const auto line = [&](const char* label, const std::string& value) {
    out += fmt::format("{:<12}{}\n", label, value);
  };

  line("dataset", fmt::format("{} (Zarr format {})", path, data.format()));
  if (const std::string description = text("description"); !description.empty()) line("description", description);
  int64_t num_missing = 0;
  std::string missing;
  for (int64_t d = 0; d < reader.num_dates(); ++d)
    if (reader.missing(d) && ++num_missing <= 5)
      missing += (num_missing > 1 ? ", " : "") + format_date(reader.dates()[d]);
  if (num_missing > 5) missing += ", ...";
  line("dates",
       reader.num_dates() == 0
           ? std::string("none")
           : fmt::format("{} from {} to {}, step {}", reader.num_dates(), format_date(reader.dates().front()),
                         format_date(reader.dates().back()), reader.step() ? format_step(reader.step()) : "unknown"));
  line("missing", num_missing ? fmt::format("{}: {}", num_missing, missing) : std::string("none"));
  const std::vector<double> latitudes = reader.latitudes(), longitudes = reader.longitudes();
  const auto [south, north] = std::minmax_element(latitudes.begin(), latitudes.end());
  const auto [west, east] = std::minmax_element(longitudes.begin(), longitudes.end());
  const std::string resolution = text("resolution");
  line("grid",
       fmt::format("{} cells{}{}, latitudes {:g} to {:g}, longitudes {:g} to {:g}", reader.num_cells(),
                   reader.field_shape().size() > 1 ? fmt::format(" ({})", fmt::join(reader.field_shape(), " x ")) : "",
                   resolution.empty() ? "" : ", resolution " + resolution, *south, *north, *west, *east));
  line("members", std::to_string(reader.num_members()));
  const auto& chunks = data.chunks();
  int64_t chunk_bytes = data.dtype().size, raw = data.dtype().size;
  for (size_t d = 0; d < chunks.size(); ++d) {
    chunk_bytes *= chunks[d];
    raw *= data.shape()[d];
  }
  line("chunks", fmt::format("{} (dates x variables x members x cells), {} each, {}", fmt::join(chunks, " x "),
                             format_bytes(double(chunk_bytes)), data.compressor()));
  const int64_t stored = bytes_on_disk(path);
  line("size", fmt::format("{} stored, {} raw, ratio {:.2f}", format_bytes(double(stored)), format_bytes(double(raw)),
                           double(raw) / double(std::max<int64_t>(stored, 1))));
  bool has_statistics = true;
  try {
    reader.statistics();
  } catch (const Error&) {
    has_statistics = false;
  }
  if (!has_statistics)
    line("statistics", "none");
  else if (!text("statistics_start_date").empty())
    line("statistics", fmt::format("from {} to {}", text("statistics_start_date"), text("statistics_end_date")));

  size_t width = 8, units_width = 5;
  for (int64_t v = 0; v < reader.num_variables(); ++v) {
    width = std::max(width, reader.variables()[v].size());
    units_width = std::max(units_width, reader.units(v).size());
  }
  out += fmt::format("\n{:>4}  {:<{}}  {:<{}}  {:>12} {:>12} {:>12} {:>12}\n", "", "variable", width, "units",
                     units_width, "minimum", "mean", "maximum", "stdev");
  for (int64_t v = 0; v < reader.num_variables(); ++v) {
    out += fmt::format("{:>4}  {:<{}}  {:<{}}", v, reader.variables()[v], width, reader.units(v), units_width);
    if (has_statistics) {
      const Statistics& s = reader.statistics();
      out +=
          fmt::format("  {:>12.6g} {:>12.6g} {:>12.6g} {:>12.6g}", s.minimum[v], s.mean[v], s.maximum[v], s.stdev[v]);
    }
    if (reader.computed(v)) out += "  computed";
    if (reader.constant(v)) out += "  constant";
    out += "\n";
  }
  return out;
}

}  // namespace boreas
