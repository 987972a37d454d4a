#include "io/forecast_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/atomic_replace.h"
#include "io/grib_output.h"
#include "io/hdf5_file.h"
#include "io/zarr.h"
#include "kernels/core/error.h"
#include "kernels/core/partition.h"
#ifdef BOREAS_WITH_NETCDF
#include "io/netcdf.h"
#endif

namespace boreas {
namespace {

using nlohmann::json;
using Attributes = std::map<std::string, json>;  // text or numbers
using Places = std::vector<int64_t>;             // NetCDF: first byte of each variable in the file

constexpr int16_t kMissing = INT16_MIN;       // of packed values
constexpr int kLargest = 32767;               // the others are -32767 .. 32767
constexpr int64_t kPiece = int64_t{1} << 20;  // values that are packed or cleared at a time

enum class Format { zarr, netcdf, grib };

Format format_of(const std::string& path) {
  if (path.ends_with(".zarr")) return Format::zarr;
  if (path.ends_with(".nc")) return Format::netcdf;
  BOREAS_CHECK(path.ends_with(".grib"), unsupported,
               "{}: the suffix of a forecast says its format: .nc, .zarr or .grib", path);
  return Format::grib;
}

// value = offset + scale * packed
struct Packing {
  double scale = 1, offset = 0;
  explicit Packing(const std::pair<double, double>& range)
      : scale((range.second - range.first) / (2 * kLargest)), offset((range.first + range.second) / 2) {}
};

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
  struct Field {
    std::string name;
    bool packed;
    Attributes attributes;
  };
  std::vector<Field> fields;
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

void check_layout(const std::string& path, const ForecastLayout& layout) {
  const int64_t num_cells = layout.num_cells();
  BOREAS_CHECK(int64_t(layout.longitudes.size()) == num_cells && num_cells > 0, shape,
               "{}: {} latitudes and {} longitudes", path, num_cells, layout.longitudes.size());
  int64_t cells = 1;
  for (const int64_t size : layout.field_shape) cells *= size;
  BOREAS_CHECK(layout.field_shape.empty() || cells == num_cells, shape, "{}: field_shape [{}] does not hold {} cells",
               path, fmt::join(layout.field_shape, ", "), num_cells);
  BOREAS_CHECK(!layout.variables.empty() && !layout.start_dates.empty() && !layout.steps.empty() && layout.step,
               invalid_argument, "{}: a forecast needs variables, start dates and steps, but has {}, {} and {}", path,
               layout.variables.size(), layout.start_dates.size(), layout.steps.size());
  BOREAS_CHECK(std::is_sorted(layout.members.begin(), layout.members.end(), std::less_equal<>()) &&
                   (layout.members.empty() || layout.members[0] >= 0),
               invalid_argument, "{}: the members are [{}]; expected numbers that ascend", path,
               fmt::join(layout.members, ", "));
  BOREAS_CHECK(layout.chunk_cells >= 1, invalid_argument, "{}: a chunk has at least one cell, not {}", path,
               layout.chunk_cells);
  for (const auto& variable : layout.variables)
    BOREAS_CHECK(!variable.packed_range || variable.packed_range->first < variable.packed_range->second,
                 invalid_argument, "{}: {} cannot be packed: its range is {} .. {}", path, variable.name,
                 variable.packed_range->first, variable.packed_range->second);
  check_codec(layout.compressor);
}

Contents describe(const ForecastLayout& layout) {
  Contents contents;
  const int64_t num_starts = int64_t(layout.start_dates.size());
  contents.field_dimensions = {"forecast_reference_time", "step"};
  if (!layout.members.empty()) contents.field_dimensions.insert(contents.field_dimensions.begin() + 1, "realization");
  for (const std::string& name : contents.field_dimensions)
    contents.dimensions.push_back({name, name == "step"          ? int64_t(layout.steps.size())
                                         : name == "realization" ? layout.num_members()
                                                                 : num_starts});

  std::vector<double> starts(layout.start_dates.begin(), layout.start_dates.end()), times, leads;
  const std::vector<double> steps(layout.steps.begin(), layout.steps.end());
  for (const int64_t start : layout.start_dates)
    for (const int64_t step : layout.steps) {
      const int64_t lead = lead_seconds(start, layout.step, step);
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

  if (!layout.members.empty())
    contents.coordinates.push_back(
        {"realization",
         'l',
         {"realization"},
         {layout.members.begin(), layout.members.end()},
         {{"standard_name", "realization"}, {"long_name", "number of the ensemble member"}, {"units", "1"}}});
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
  contents.field_dimensions.insert(contents.field_dimensions.end(), grid_dimensions.begin(), grid_dimensions.end());
  for (const auto& variable : layout.variables) {
    Attributes attributes = {{"coordinates", auxiliary}};
    if (!variable.units.empty()) attributes["units"] = variable.units;
    attributes["long_name"] = variable.long_name.empty() ? variable.name : variable.long_name;
    if (variable.packed_range) {
      const Packing packing(*variable.packed_range);
      attributes["scale_factor"] = packing.scale;
      attributes["add_offset"] = packing.offset;
      attributes["comment"] =
          fmt::format("packed to 16 bit, at most {:.3g}{}{} off; values outside of {:g} .. {:g} are cut",
                      packing_error(*variable.packed_range), variable.units.empty() ? "" : " ", variable.units,
                      variable.packed_range->first, variable.packed_range->second);
    }
    contents.fields.push_back({variable.name, variable.packed_range.has_value(), attributes});
  }
  contents.attributes.insert(layout.attributes.begin(), layout.attributes.end());
  contents.attributes["Conventions"] = "CF-1.8";
  return contents;
}

// Of the dimensions of a field.
size_t first_grid_dimension(const ForecastLayout& layout) { return layout.members.empty() ? 2 : 3; }

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

void create_zarr(const std::string& partial, const ForecastLayout& layout) {
  const Contents contents = describe(layout);
  ThreadPool pool(0);
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
      array.write(array.whole(), coordinate.values.data(), pool);
    } else {
      const std::vector<int64_t> values(coordinate.values.begin(), coordinate.values.end());
      array.write(array.whole(), values.data(), pool);
    }
  }
  for (const Contents::Field& field : contents.fields) {
    ZarrSpec spec;
    spec.shape = spec.chunks = contents.shape_of(contents.field_dimensions);
    const size_t first = first_grid_dimension(layout);
    std::fill_n(spec.chunks.begin(), first, 1);
    const int64_t columns = spec.shape.size() == first + 2 ? spec.shape.back() : 1;
    spec.chunks[first] = std::min(spec.shape[first], layout.cells_per_chunk() / columns);
    spec.dtype = field.packed ? "<i2" : "<f4";
    spec.fill_value = field.packed ? double(kMissing) : NAN;
    spec.compressor = layout.compressor;
    create(field.name, spec, contents.field_dimensions, field.attributes);
  }
  consolidate(*store, names);
}

// Chunks that a killed writer left half-written, beside their names.
void remove_leftovers(const std::string& partial, const ForecastLayout& layout) {
  for (const auto& variable : layout.variables)
    for (const auto& entry : std::filesystem::directory_iterator(partial + "/" + variable.name))
      if (entry.path().filename().string().find(".partial-") != std::string::npos)
        std::filesystem::remove(entry.path());
}

// --- NetCDF
// --------------------------------------------------------------------------------------------------------------

#ifdef BOREAS_WITH_NETCDF

// The attributes that say which value is missing: NetCDF leaves them out of variables that it is told not to fill.
void write_fill_values(const std::string& path, const std::string& partial, const Contents& contents) {
  const hid_t file = H5Fopen(partial.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  bool written = file >= 0;
  const hsize_t one = 1;
  const hid_t space = H5Screate_simple(1, &one, nullptr);
  for (const Contents::Field& field : contents.fields) {
    if (!written) break;
    const float not_a_number = NAN;
    const hid_t data = H5Dopen2(file, field.name.c_str(), H5P_DEFAULT);
    const hid_t type = field.packed ? H5T_NATIVE_INT16 : H5T_NATIVE_FLOAT;
    const hid_t attribute = H5Acreate2(data, "_FillValue", type, space, H5P_DEFAULT, H5P_DEFAULT);
    const void* const value = field.packed ? static_cast<const void*>(&kMissing) : &not_a_number;
    written = attribute >= 0 && H5Awrite(attribute, type, value) >= 0;
    if (attribute >= 0) H5Aclose(attribute);
    if (data >= 0) H5Dclose(data);
  }
  H5Sclose(space);
  if (file >= 0) written = H5Fclose(file) >= 0 && written;
  BOREAS_CHECK(written, io, "{}: the attributes _FillValue cannot be written", path);
}

// Values get their places and are not written: storage is contiguous and never filled by the library.
void create_netcdf(const std::string& path, const std::string& partial, const ForecastLayout& layout) {
  const Contents contents = describe(layout);
  const std::lock_guard<std::recursive_mutex> lock(hdf5_mutex());
  // NetCDF 4.9 crashes when it closes a file that could not be written, so such a file, whose owner removes it, stays
  // open until the process ends.
  int id = -1;
  const auto check = [&](int status, const std::string& what = "") {
    check_netcdf(status, ErrorCode::io, what.empty() ? path : path + ": " + what);
  };
  check(nc_create(partial.c_str(), NC_NETCDF4 | NC_CLOBBER, &id));
  std::map<std::string, int> dimension_of;
  for (const Dimension& dimension : contents.dimensions)
    check(nc_def_dim(id, dimension.name.c_str(), size_t(dimension.size), &dimension_of[dimension.name]),
          dimension.name);
  const auto put_attributes = [&](int variable, const Attributes& attributes) {
    for (const auto& [key, value] : attributes) {
      if (value.is_number()) {
        const double number = value.get<double>();
        check(nc_put_att_double(id, variable, key.c_str(), NC_DOUBLE, 1, &number), key);
      } else {
        const std::string& text = value.get_ref<const std::string&>();
        check(nc_put_att_text(id, variable, key.c_str(), text.size(), text.data()), key);
      }
    }
  };
  const auto define = [&](const std::string& name, nc_type type, const std::vector<std::string>& dimensions,
                          const Attributes& attributes) {
    std::vector<int> ids;
    for (const std::string& dimension : dimensions) ids.push_back(dimension_of.at(dimension));
    int variable = -1;
    check(nc_def_var(id, name.c_str(), type, int(ids.size()), ids.data(), &variable), name);
    put_attributes(variable, attributes);
    return variable;
  };
  put_attributes(NC_GLOBAL, contents.attributes);
  std::vector<int> coordinates, fields;
  for (const Coordinate& c : contents.coordinates)
    coordinates.push_back(define(c.name, c.kind == 'd' ? NC_DOUBLE : NC_INT64, c.dimensions, c.attributes));
  for (const Contents::Field& field : contents.fields) {
    const int variable =
        define(field.name, field.packed ? NC_SHORT : NC_FLOAT, contents.field_dimensions, field.attributes);
    check(nc_def_var_fill(id, variable, NC_NOFILL, nullptr), field.name);
    check(nc_def_var_chunking(id, variable, NC_CONTIGUOUS, nullptr), field.name);
    fields.push_back(variable);
  }
  check(nc_enddef(id));
  for (size_t i = 0; i < coordinates.size(); ++i) {
    const Coordinate& c = contents.coordinates[i];
    check(nc_put_var_double(id, coordinates[i], c.values.data()), c.name);
  }
  for (const int variable : fields) {  // the first value makes room for all
    const std::vector<size_t> first(contents.field_dimensions.size(), 0);
    const float value = 0;
    check(nc_put_var1_float(id, variable, first.data(), &value));
  }
  check(nc_sync(id));  // says that the disk is full, where closing would crash
  check(nc_close(id));
  write_fill_values(path, partial, contents);
}

#else

void create_netcdf(const std::string& path, const std::string&, const ForecastLayout&) {
  BOREAS_FAIL(unsupported,
              "{}: this build cannot write NetCDF files; install libnetcdf-dev and configure again, or write to .zarr",
              path);
}

#endif

Places netcdf_places(const std::string& partial, const ForecastLayout& layout) {
  const std::lock_guard<std::recursive_mutex> lock(hdf5_mutex());
  const hid_t file = H5Fopen(partial.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  BOREAS_CHECK(file >= 0, io, "{}: is not there, or not an HDF5 file", partial);
  Places places;
  for (const auto& variable : layout.variables) {
    const hid_t data = H5Dopen2(file, variable.name.c_str(), H5P_DEFAULT);
    const haddr_t offset = data >= 0 ? H5Dget_offset(data) : HADDR_UNDEF;
    if (data >= 0) H5Dclose(data);
    if (offset == HADDR_UNDEF) break;
    places.push_back(int64_t(offset));
  }
  H5Fclose(file);
  BOREAS_CHECK(places.size() == layout.variables.size(), io, "{}: there is no room for {}", partial,
               layout.variables[places.size()].name);
  return places;
}

void write_at(int file, const std::string& path, int64_t offset, std::span<const std::byte> bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::pwrite(file, bytes.data() + done, bytes.size() - done, off_t(offset + int64_t(done)));
    if (n < 0 && errno == EINTR) continue;
    BOREAS_CHECK(n > 0, io, "{}: writing {} bytes at byte {} failed after {}: {}", path, bytes.size(), offset, done,
                 std::strerror(n < 0 ? errno : ENOSPC));
    done += size_t(n);
  }
}

struct OpenFile {
  int descriptor = -1;
  ~OpenFile() {
    if (descriptor >= 0) ::close(descriptor);
  }
};

}  // namespace

int64_t ForecastLayout::cells_per_chunk() const {
  const int64_t columns = field_shape.size() == 2 ? field_shape[1] : 1;
  return std::max<int64_t>(1, chunk_cells / columns) * columns;
}

double packing_error(const std::pair<double, double>& range) { return Packing(range).scale / 2; }

void create_forecast(const std::string& path, const ForecastLayout& layout) {
  check_layout(path, layout);
  const Format format = format_of(path);
  const std::string partial = partial_path(path);
  remove_quietly(partial);
  try {
    if (format == Format::zarr) create_zarr(partial, layout);
    if (format == Format::netcdf) create_netcdf(path, partial, layout);
    if (format == Format::grib) create_grib(path, partial, layout);
  } catch (...) {
    remove_quietly(partial);
    throw;
  }
}

std::string forecast_places(const std::string& path, const ForecastLayout& layout) {
  check_layout(path, layout);
  const std::string partial = partial_path(path);
  BOREAS_CHECK(std::filesystem::exists(partial), io, "{}: there is no {} to write into", path, partial);
  if (format_of(path) == Format::netcdf) return json(netcdf_places(partial, layout)).dump();
  if (format_of(path) == Format::grib) return json(Places{grib_slot_bytes(path, layout)}).dump();
  remove_leftovers(partial, layout);
  return {};
}

ForecastPart forecast_part(const std::string& path, const ForecastLayout& layout, int64_t writer, int64_t num_writers) {
  const int64_t num_variables = int64_t(layout.variables.size()), n = layout.num_cells();
  if (format_of(path) == Format::grib) return {Partition::balanced(num_variables, num_writers)[writer], {0, n}};
  const int64_t chunk = layout.cells_per_chunk();
  const Range chunks = Partition::balanced((n + chunk - 1) / chunk, num_writers)[writer];
  return {{0, num_variables}, {std::min(n, chunks.begin * chunk), std::min(n, chunks.end * chunk)}};
}

void publish_forecast(const std::string& path) { replace_path(partial_path(path), path); }

struct ForecastWriter::Impl {
  Impl(const std::string& path_in, const ForecastLayout& layout_in, const std::string& places_in, ForecastPart part_in);

  void write_variable(int64_t v, int64_t forecast, int64_t step, const float* values, ThreadPool& pool);
  void put(int64_t v, int64_t forecast, int64_t step, Range cells, const void* values, ThreadPool& pool);
  int64_t pack(int64_t v, std::span<const float> values, int16_t* packed) const;

  std::string path;
  ForecastLayout layout;
  Format format;
  ForecastPart part;
  std::vector<ZarrArray> arrays;  // of a Zarr store
  OpenFile file;                  // else
  Places places;                  // GRIB: room of a message
  std::atomic<int64_t> num_clipped = 0;
};

ForecastWriter::Impl::Impl(const std::string& path_in, const ForecastLayout& layout_in, const std::string& places_in,
                           ForecastPart part_in)
    : path(path_in), layout(layout_in), format(format_of(path_in)), part(part_in) {
  check_layout(path, layout);
  const int64_t chunk = layout.cells_per_chunk(), n = layout.num_cells(),
                num_variables = int64_t(layout.variables.size());
  const Range cells = part.cells, variables = part.variables;
  const auto inside = [](Range range, int64_t size) {
    return 0 <= range.begin && range.begin <= range.end && range.end <= size;
  };
  const bool whole_fields = cells.size() == n;
  const bool whole_chunks =
      variables.size() == num_variables &&
      (cells.size() == 0 || (cells.begin % chunk == 0 && (cells.end % chunk == 0 || cells.end == n)));
  BOREAS_CHECK(
      inside(cells, n) && inside(variables, num_variables) && (format == Format::grib ? whole_fields : whole_chunks),
      invalid_argument, "{}: the cells {}..{} of the variables {}..{} are no part that is written by itself", path,
      cells.begin, cells.end, variables.begin, variables.end);
  const std::string partial = partial_path(path);
  if (format == Format::zarr) {
    const auto store = open_store(partial);
    for (const auto& variable : layout.variables) arrays.push_back(ZarrArray::open(store, variable.name));
    return;
  }
  places = json::parse(places_in).get<Places>();
  const size_t expected = format == Format::grib ? 1 : layout.variables.size();
  BOREAS_CHECK(places.size() == expected, invalid_argument, "{}: {} places, expected {}", path, places.size(),
               expected);
  file.descriptor = ::open(partial.c_str(), O_WRONLY | O_CLOEXEC);
  BOREAS_CHECK(file.descriptor >= 0, io, "{}: opening {} failed: {}", path, partial, std::strerror(errno));
}

// Values beyond the range become its nearest end, and are counted.
int64_t ForecastWriter::Impl::pack(int64_t v, std::span<const float> values, int16_t* packed) const {
  const Packing packing(*layout.variables[size_t(v)].packed_range);
  const double rate = 1 / packing.scale;
  int64_t clipped = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double scaled = std::nearbyint((double(values[i]) - packing.offset) * rate);
    const double kept = std::clamp(scaled, double(-kLargest), double(kLargest));
    const bool missing = std::isnan(scaled);
    packed[i] = missing ? kMissing : int16_t(kept);
    clipped += !missing && kept != scaled;
  }
  return clipped;
}

void ForecastWriter::Impl::put(int64_t v, int64_t forecast, int64_t step, Range cells, const void* values,
                               ThreadPool& pool) {
  const int64_t item = layout.variables[size_t(v)].packed_range ? 2 : 4;
  if (arrays.empty()) {
    const int64_t set = forecast * int64_t(layout.steps.size()) + step;
    write_at(file.descriptor, path, places[size_t(v)] + (set * layout.num_cells() + cells.begin) * item,
             {static_cast<const std::byte*>(values), size_t(cells.size() * item)});
    return;
  }
  ZarrArray& array = arrays[size_t(v)];
  IndexBox box = array.whole();
  const auto at = [&](size_t dimension, int64_t begin, int64_t end) {
    box.begin[dimension] = begin;
    box.end[dimension] = end;
  };
  const size_t first = first_grid_dimension(layout);
  const int64_t start = forecast / layout.num_members(), member = forecast % layout.num_members();
  at(0, start, start + 1);
  if (!layout.members.empty()) at(1, member, member + 1);
  at(first - 1, step, step + 1);
  const int64_t columns = box.end.size() == first + 2 ? box.end.back() : 1;
  at(first, cells.begin / columns, cells.end / columns);
  array.write(box, values, pool);
}

void ForecastWriter::Impl::write_variable(int64_t v, int64_t forecast, int64_t step, const float* values,
                                          ThreadPool& pool) {
  if (format == Format::grib) {
    const int64_t message = (forecast * int64_t(layout.steps.size()) + step) * int64_t(layout.variables.size()) + v;
    const std::vector<std::byte> bytes = encode_grib(path, layout, v, forecast, step, values);
    BOREAS_CHECK(int64_t(bytes.size()) <= places[0], internal, "{}: a message of {} bytes, but there is room for {}",
                 path, bytes.size(), places[0]);
    write_at(file.descriptor, path, message * places[0], bytes);
    return;
  }
  const Range cells = part.cells;
  // Pieces are of whole chunks.
  const int64_t unit = layout.cells_per_chunk(), piece = std::max<int64_t>(1, kPiece / unit) * unit;
  pool.parallel_for((cells.size() + piece - 1) / piece, [&](int64_t i) {
    const Range some{cells.begin + i * piece, std::min(cells.end, cells.begin + (i + 1) * piece)};
    const float* const from = values + (some.begin - cells.begin);
    if (!layout.variables[size_t(v)].packed_range) {
      put(v, forecast, step, some, from, pool);
      return;
    }
    std::vector<int16_t> packed(size_t(some.size()));
    num_clipped += pack(v, {from, packed.size()}, packed.data());
    put(v, forecast, step, some, packed.data(), pool);
  });
}

ForecastWriter::ForecastWriter(const std::string& path, const ForecastLayout& layout, const std::string& places,
                               ForecastPart part)
    : impl_(std::make_unique<Impl>(path, layout, places, part)) {}
ForecastWriter::~ForecastWriter() = default;
ForecastWriter::ForecastWriter(ForecastWriter&&) noexcept = default;

void ForecastWriter::clear(ThreadPool& pool) const {
  if (impl_->format != Format::netcdf || impl_->part.cells.size() == 0) return;
  const ForecastLayout& layout = impl_->layout;
  const std::vector<float> nothing(size_t(impl_->part.cells.size()), NAN);
  const int64_t num_variables = int64_t(layout.variables.size()), num_steps = int64_t(layout.steps.size());
  pool.parallel_for(layout.num_forecasts() * num_steps * num_variables, [&](int64_t i) {
    const int64_t set = i / num_variables;
    impl_->write_variable(i % num_variables, set / num_steps, set % num_steps, nothing.data(), pool);
  });
}

void ForecastWriter::write(int64_t forecast, int64_t step, const float* fields, ThreadPool& pool) const {
  const ForecastLayout& layout = impl_->layout;
  BOREAS_CHECK(forecast >= 0 && forecast < layout.num_forecasts() && step >= 0 && step < int64_t(layout.steps.size()),
               invalid_argument, "{}: has {} forecasts and {} steps, but those at place {} and {} are written",
               impl_->path, layout.num_forecasts(), layout.steps.size(), forecast, step);
  const ForecastPart part = impl_->part;
  pool.parallel_for(part.variables.size(), [&](int64_t i) {
    impl_->write_variable(part.variables.begin + i, forecast, step, fields + i * part.cells.size(), pool);
  });
}

int64_t ForecastWriter::num_clipped() const { return impl_->num_clipped; }

}  // namespace boreas
