#include "io/forecast_writer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "io/atomic_replace.h"
#include "io/hdf5_file.h"
#include "io/zarr.h"
#include "kernels/core/error.h"
#ifdef BOREAS_WITH_NETCDF
#include "io/netcdf.h"
#endif

namespace boreas {
namespace {

using nlohmann::json;
using Attributes = std::map<std::string, std::string>;

struct Dimension {
  std::string name;
  int64_t size;
};

// A coordinate: all of its values, at once. Integers are exact in f64 here: seconds and counts.
struct Coordinate {
  std::string name;
  char kind;  // 'd' f64, 'l' i64
  std::vector<std::string> dimensions;
  std::vector<double> values;
  Attributes attributes;
};

// What both formats hold.
struct Contents {
  std::vector<Dimension> dimensions;
  std::vector<Coordinate> coordinates;
  std::vector<std::string> field_dimensions;
  std::vector<std::pair<std::string, Attributes>> fields;
  Attributes attributes;

  int64_t size_of(const std::string& dimension) const {
    for (const Dimension& d : dimensions)
      if (d.name == dimension) return d.size;
    BOREAS_FAIL(internal, "no dimension {}", dimension);
  }
  std::vector<int64_t> shape_of(const std::vector<std::string>& names) const {
    std::vector<int64_t> shape;
    for (const std::string& name : names) shape.push_back(size_of(name));
    return shape;
  }
};

// The file being written: one field goes to (variable, start, step).
struct Sink {
  std::function<void(int64_t variable, int64_t start, int64_t step, const float* values)> write;
  std::function<void()> close;
};

// The distinct latitudes and longitudes of a regular grid, and which of them the rows have; nothing if it is not one.
struct RegularGrid {
  bool rows_are_latitudes;
  std::vector<double> rows, columns;
};

std::optional<RegularGrid> regular_grid(const ForecastLayout& layout) {
  if (layout.field_shape.size() != 2) return {};
  const int64_t num_rows = layout.field_shape[0], num_columns = layout.field_shape[1];
  for (const bool rows_are_latitudes : {true, false}) {
    const auto& of_row = rows_are_latitudes ? layout.latitudes : layout.longitudes;
    const auto& of_column = rows_are_latitudes ? layout.longitudes : layout.latitudes;
    RegularGrid grid{rows_are_latitudes, {}, {of_column.begin(), of_column.begin() + num_columns}};
    bool regular = true;
    for (int64_t i = 0; i < num_rows && regular; ++i) {
      grid.rows.push_back(of_row[i * num_columns]);
      for (int64_t j = 0; j < num_columns && regular; ++j)
        regular = of_row[i * num_columns + j] == grid.rows.back() && of_column[i * num_columns + j] == grid.columns[j];
    }
    if (regular) return grid;
  }
  return {};
}

const Attributes kLatitude = {{"standard_name", "latitude"}, {"long_name", "latitude"}, {"units", "degrees_north"}};
const Attributes kLongitude = {{"standard_name", "longitude"}, {"long_name", "longitude"}, {"units", "degrees_east"}};

Contents describe(const ForecastLayout& layout) {
  Contents contents;
  const int64_t num_starts = int64_t(layout.start_dates.size());
  contents.dimensions = {{"forecast_reference_time", num_starts}, {"step", layout.num_steps}};

  std::vector<double> starts(layout.start_dates.begin(), layout.start_dates.end()), steps, times, leads;
  for (int64_t k = 0; k < layout.num_steps; ++k) steps.push_back(double(layout.first_step + k));
  for (const int64_t start : layout.start_dates)
    for (int64_t k = 0; k < layout.num_steps; ++k) {
      const int64_t lead = lead_seconds(start, layout.step, layout.first_step + k);
      times.push_back(double(start + lead));
      leads.push_back(double(lead) / 3600);
    }
  const std::string since = "seconds since 1970-01-01 00:00:00";
  contents.coordinates = {
      {"forecast_reference_time",
       'l',
       {"forecast_reference_time"},
       starts,
       {{"standard_name", "forecast_reference_time"},
        {"long_name", "date of the initial state"},
        {"units", since},
        {"calendar", "proleptic_gregorian"}}},
      {"step", 'l', {"step"}, steps, {{"long_name", "number of steps since the initial state"}, {"units", "1"}}},
      {"time",
       'l',
       {"forecast_reference_time", "step"},
       times,
       {{"standard_name", "time"}, {"long_name", "valid date"}, {"units", since}, {"calendar", "proleptic_gregorian"}}},
      {"lead_time",
       'd',
       {"forecast_reference_time", "step"},
       leads,
       {{"standard_name", "forecast_period"}, {"long_name", "time since the initial state"}, {"units", "hours"}}}};

  std::string auxiliary = "time lead_time";
  std::vector<std::string> grid_dimensions;
  if (const auto grid = regular_grid(layout)) {
    grid_dimensions = {"latitude", "longitude"};
    if (!grid->rows_are_latitudes) std::swap(grid_dimensions[0], grid_dimensions[1]);
    contents.dimensions.push_back({grid_dimensions[0], int64_t(grid->rows.size())});
    contents.dimensions.push_back({grid_dimensions[1], int64_t(grid->columns.size())});
    contents.coordinates.push_back(
        {grid_dimensions[0], 'd', {grid_dimensions[0]}, grid->rows, grid->rows_are_latitudes ? kLatitude : kLongitude});
    contents.coordinates.push_back({grid_dimensions[1],
                                    'd',
                                    {grid_dimensions[1]},
                                    grid->columns,
                                    grid->rows_are_latitudes ? kLongitude : kLatitude});
  } else {
    if (layout.field_shape.size() == 2) {
      grid_dimensions = {"y", "x"};
      contents.dimensions.push_back({"y", layout.field_shape[0]});
      contents.dimensions.push_back({"x", layout.field_shape[1]});
    } else {
      grid_dimensions = {"cell"};
      contents.dimensions.push_back({"cell", int64_t(layout.latitudes.size())});
    }
    contents.coordinates.push_back({"latitude", 'd', grid_dimensions, layout.latitudes, kLatitude});
    contents.coordinates.push_back({"longitude", 'd', grid_dimensions, layout.longitudes, kLongitude});
    auxiliary += " latitude longitude";
  }
  contents.field_dimensions = {"forecast_reference_time", "step"};
  contents.field_dimensions.insert(contents.field_dimensions.end(), grid_dimensions.begin(), grid_dimensions.end());
  for (const auto& variable : layout.variables) {
    Attributes attributes = {{"coordinates", auxiliary}};
    if (!variable.units.empty()) attributes["units"] = variable.units;
    attributes["long_name"] = variable.long_name.empty() ? variable.name : variable.long_name;
    contents.fields.emplace_back(variable.name, attributes);
  }
  contents.attributes = layout.attributes;
  contents.attributes["Conventions"] = "CF-1.8";
  return contents;
}

// --- Zarr
// ----------------------------------------------------------------------------------------------------------------

// All metadata in one key, as readers of remote stores want it.
void consolidate(Store& store, const std::vector<std::string>& arrays) {
  json metadata = json::object();
  const auto add = [&](const std::string& key) {
    if (const auto bytes = store.get(key)) {
      const char* text = reinterpret_cast<const char*>(bytes->data());
      metadata[key] = json::parse(text, text + bytes->size());
    }
  };
  add(".zgroup");
  add(".zattrs");
  for (const std::string& array : arrays) {
    add(array + "/.zarray");
    add(array + "/.zattrs");
  }
  store.put(".zmetadata", json({{"zarr_consolidated_format", 1}, {"metadata", metadata}}).dump(4));
}

Sink open_zarr(const std::string& partial, const Contents& contents) {
  const auto pool = std::make_shared<ThreadPool>(std::max(0, int(std::thread::hardware_concurrency()) - 1));
  const auto store = create_directory_store(partial);
  create_group(*store, "");
  write_attributes(*store, "", json(contents.attributes).dump());
  std::vector<std::string> names;
  const auto create = [&](const std::string& name, ZarrSpec spec, const std::vector<std::string>& dimensions,
                          const Attributes& attributes) {
    spec.dimension_names = dimensions;
    ZarrArray array = ZarrArray::create(store, name, spec);
    json all = attributes;
    all["_ARRAY_DIMENSIONS"] = dimensions;
    write_attributes(*store, name, all.dump());
    names.push_back(name);
    return array;
  };
  for (const Coordinate& coordinate : contents.coordinates) {
    ZarrSpec spec;
    spec.shape = spec.chunks = contents.shape_of(coordinate.dimensions);
    spec.dtype = coordinate.kind == 'd' ? "<f8" : "<i8";
    ZarrArray array = create(coordinate.name, spec, coordinate.dimensions, coordinate.attributes);
    if (coordinate.kind == 'd') {
      array.write(array.whole(), coordinate.values.data(), *pool);
    } else {
      const std::vector<int64_t> values(coordinate.values.begin(), coordinate.values.end());
      array.write(array.whole(), values.data(), *pool);
    }
  }
  auto fields = std::make_shared<std::vector<ZarrArray>>();
  for (const auto& [name, attributes] : contents.fields) {
    ZarrSpec spec;
    spec.shape = spec.chunks = contents.shape_of(contents.field_dimensions);
    spec.chunks[0] = spec.chunks[1] = 1;
    spec.fill_value = NAN;
    fields->push_back(create(name, spec, contents.field_dimensions, attributes));
  }
  return {[fields, pool](int64_t variable, int64_t start, int64_t step, const float* values) {
            ZarrArray& array = (*fields)[size_t(variable)];
            IndexBox box = array.whole();
            box.begin[0] = start;
            box.end[0] = start + 1;
            box.begin[1] = step;
            box.end[1] = step + 1;
            array.write(box, values, *pool);
          },
          [store, names] { consolidate(*store, names); }};
}

// --- NetCDF
// --------------------------------------------------------------------------------------------------------------

#ifdef BOREAS_WITH_NETCDF

Sink open_netcdf(const std::string& path, const std::string& partial, const Contents& contents) {
  using Lock = std::lock_guard<std::recursive_mutex>;
  const Lock lock(hdf5_mutex());
  // The file closes with the last copy of this handle, unless a call has failed: NetCDF 4.9 crashes when it closes a
  // file that could not be written, so such a file, whose owner removes it, stays open until the process ends.
  struct Open {
    int id = -1;
    bool failed = false;
    ~Open() {
      const Lock lock(hdf5_mutex());
      if (id >= 0 && !failed) nc_abort(id);
    }
  };
  const auto file = std::make_shared<Open>();
  const auto check = [path, file](int status, const std::string& what = "") {
    file->failed = file->failed || status != NC_NOERR;
    check_netcdf(status, ErrorCode::io, what.empty() ? path : path + ": " + what);
  };
  check(nc_create(partial.c_str(), NC_NETCDF4 | NC_CLOBBER, &file->id));
  const int id = file->id;
  std::map<std::string, int> dimension_of;
  for (const Dimension& dimension : contents.dimensions)
    check(nc_def_dim(id, dimension.name.c_str(), size_t(dimension.size), &dimension_of[dimension.name]),
          dimension.name);
  const auto define = [&](const std::string& name, nc_type type, const std::vector<std::string>& dimensions,
                          const Attributes& attributes) {
    std::vector<int> ids;
    for (const std::string& dimension : dimensions) ids.push_back(dimension_of.at(dimension));
    int variable = -1;
    check(nc_def_var(id, name.c_str(), type, int(ids.size()), ids.data(), &variable), name);
    for (const auto& [key, value] : attributes)
      check(nc_put_att_text(id, variable, key.c_str(), value.size(), value.data()), name);
    return variable;
  };
  for (const auto& [key, value] : contents.attributes)
    check(nc_put_att_text(id, NC_GLOBAL, key.c_str(), value.size(), value.data()), key);
  std::vector<int> coordinates;
  for (const Coordinate& c : contents.coordinates)
    coordinates.push_back(define(c.name, c.kind == 'd' ? NC_DOUBLE : NC_INT64, c.dimensions, c.attributes));
  std::vector<int> fields;
  std::vector<size_t> count;
  for (const int64_t size : contents.shape_of(contents.field_dimensions)) count.push_back(size_t(size));
  count[0] = count[1] = 1;
  for (const auto& [name, attributes] : contents.fields) {
    fields.push_back(define(name, NC_FLOAT, contents.field_dimensions, attributes));
    const float missing = NAN;
    check(nc_def_var_fill(id, fields.back(), NC_FILL, &missing), name);
    check(nc_def_var_chunking(id, fields.back(), NC_CHUNKED, count.data()), name);
    check(nc_def_var_deflate(id, fields.back(), 1, 1, 1), name);
  }
  check(nc_enddef(id));
  for (size_t i = 0; i < coordinates.size(); ++i) {
    const Coordinate& c = contents.coordinates[i];
    check(nc_put_var_double(id, coordinates[i], c.values.data()), c.name);
  }
  return {[file, fields, count, check](int64_t variable, int64_t start, int64_t step, const float* values) {
            const Lock guard(hdf5_mutex());
            std::vector<size_t> begin(count.size(), 0);
            begin[0] = size_t(start);
            begin[1] = size_t(step);
            check(nc_put_vara_float(file->id, fields[size_t(variable)], begin.data(), count.data(), values));
          },
          [file, check] {
            const Lock guard(hdf5_mutex());
            check(nc_sync(file->id));  // says that the disk is full, where closing would crash
            check(nc_close(std::exchange(file->id, -1)));
          }};
}

#else

Sink open_netcdf(const std::string& path, const std::string&, const Contents&) {
  BOREAS_FAIL(unsupported,
              "{}: this build cannot write NetCDF files; install libnetcdf-dev and configure again, or write to .zarr",
              path);
}

#endif

}  // namespace

struct ForecastWriter::Impl {
  std::string path, partial;
  ForecastLayout layout;
  Sink sink;
};

ForecastWriter::ForecastWriter(const std::string& path, ForecastLayout layout) : impl_(std::make_unique<Impl>()) {
  const int64_t num_cells = int64_t(layout.latitudes.size());
  BOREAS_CHECK(int64_t(layout.longitudes.size()) == num_cells && num_cells > 0, shape,
               "{}: {} latitudes and {} longitudes", path, num_cells, layout.longitudes.size());
  int64_t cells = 1;
  for (const int64_t size : layout.field_shape) cells *= size;
  BOREAS_CHECK(layout.field_shape.empty() || cells == num_cells, shape, "{}: field_shape [{}] does not hold {} cells",
               path, fmt::join(layout.field_shape, ", "), num_cells);
  BOREAS_CHECK(!layout.variables.empty() && !layout.start_dates.empty() && layout.num_steps > 0 && layout.step,
               invalid_argument, "{}: a forecast needs variables, start dates and steps, but has {}, {} and {}", path,
               layout.variables.size(), layout.start_dates.size(), layout.num_steps);
  const bool zarr = path.ends_with(".zarr");
  BOREAS_CHECK(zarr || path.ends_with(".nc"), unsupported, "{}: the suffix of a forecast says its format: .nc or .zarr",
               path);
  impl_->path = path;
  impl_->partial = partial_path(path);
  impl_->layout = std::move(layout);
  remove_quietly(impl_->partial);
  try {
    const Contents contents = describe(impl_->layout);
    impl_->sink = zarr ? open_zarr(impl_->partial, contents) : open_netcdf(path, impl_->partial, contents);
  } catch (...) {
    remove_quietly(impl_->partial);
    throw;
  }
}

ForecastWriter::ForecastWriter(ForecastWriter&&) noexcept = default;

ForecastWriter::~ForecastWriter() {
  if (!impl_) return;
  impl_->sink = {};  // closes the file
  remove_quietly(impl_->partial);
}

void ForecastWriter::write(int64_t start, int64_t step, const float* fields) {
  const ForecastLayout& layout = impl_->layout;
  for (size_t v = 0; v < layout.variables.size(); ++v)
    write_field(start, step, int64_t(v), fields + v * layout.latitudes.size());
}

void ForecastWriter::write_field(int64_t start, int64_t step, int64_t variable, const float* field) {
  const ForecastLayout& layout = impl_->layout;
  BOREAS_CHECK(impl_->sink.write, invalid_argument, "{}: is closed", impl_->path);
  BOREAS_CHECK(start >= 0 && start < int64_t(layout.start_dates.size()) && step >= layout.first_step &&
                   step < layout.first_step + layout.num_steps,
               invalid_argument, "{}: has {} start dates and steps {}..{}, but start {} and step {} are written",
               impl_->path, layout.start_dates.size(), layout.first_step, layout.first_step + layout.num_steps - 1,
               start, step);
  BOREAS_CHECK(variable >= 0 && variable < int64_t(layout.variables.size()), invalid_argument,
               "{}: has {} variables, but variable {} is written", impl_->path, layout.variables.size(), variable);
  impl_->sink.write(variable, start, step - layout.first_step, field);
}

void ForecastWriter::close() {
  BOREAS_CHECK(impl_->sink.close, invalid_argument, "{}: is closed", impl_->path);
  impl_->sink.close();
  impl_->sink = {};
  replace_path(impl_->partial, impl_->path);
  impl_->partial.clear();
}

}  // namespace boreas
