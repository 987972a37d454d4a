// Fields in NetCDF files: which variables lie on a grid of latitudes and longitudes, and on which dates and levels.
#ifdef BOREAS_WITH_NETCDF

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <optional>

#include "io/cf_time.h"
#include "io/hdf5_file.h"
#include "io/input_files.h"
#include "io/netcdf.h"
#include "io/time.h"

namespace boreas {
namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return text;
}

struct Dimension {
  std::string name;
  int64_t size = 0;
  int coordinate = -1;  // variable of the same name
};

struct FileVariable {
  std::string name;
  nc_type type = NC_NAT;
  std::vector<int> dimensions;
};

// What each dimension of a variable is.
enum class Role { time, level, member, cell };

class NetcdfFile {
 public:
  explicit NetcdfFile(const std::string& path) : path_(path) {
    const Lock lock(hdf5_mutex());
    check_netcdf(nc_open(path.c_str(), NC_NOWRITE, &id_), ErrorCode::corrupt_data, path);
    int num_dimensions = 0, num_variables = 0;
    nc_inq(id_, &num_dimensions, &num_variables, nullptr, nullptr);
    for (int d = 0; d < num_dimensions; ++d) {
      char name[NC_MAX_NAME + 1] = {};
      size_t size = 0;
      check_netcdf(nc_inq_dim(id_, d, name, &size), ErrorCode::corrupt_data, path);
      dimensions.push_back({name, int64_t(size), -1});
    }
    for (int v = 0; v < num_variables; ++v) {
      char name[NC_MAX_NAME + 1] = {};
      FileVariable variable;
      int rank = 0;
      check_netcdf(nc_inq_var(id_, v, name, &variable.type, &rank, nullptr, nullptr), ErrorCode::corrupt_data, path);
      variable.name = name;
      variable.dimensions.resize(size_t(rank));
      if (rank > 0) nc_inq_vardimid(id_, v, variable.dimensions.data());
      variables.push_back(std::move(variable));
    }
    for (Dimension& dimension : dimensions)
      for (size_t v = 0; v < variables.size(); ++v)
        if (variables[v].name == dimension.name && variables[v].dimensions.size() == 1) dimension.coordinate = int(v);
  }
  ~NetcdfFile() {
    const Lock lock(hdf5_mutex());
    nc_close(id_);
  }
  NetcdfFile(const NetcdfFile&) = delete;
  NetcdfFile& operator=(const NetcdfFile&) = delete;

  const std::string& path() const { return path_; }
  std::vector<Dimension> dimensions;
  std::vector<FileVariable> variables;

  std::string text(int variable, const char* name) const {
    const Lock lock(hdf5_mutex());
    nc_type type = NC_NAT;
    size_t length = 0;
    if (nc_inq_att(id_, variable, name, &type, &length) != NC_NOERR) return {};
    if (type == NC_CHAR) {
      std::string value(length, '\0');
      nc_get_att_text(id_, variable, name, value.data());
      value.resize(std::min(length, value.find('\0')));
      return value;
    }
    if (type == NC_STRING && length == 1) {
      char* pointer = nullptr;
      if (nc_get_att_string(id_, variable, name, &pointer) != NC_NOERR) return {};
      std::string value = pointer ? pointer : "";
      nc_free_string(1, &pointer);
      return value;
    }
    return {};
  }

  std::vector<double> numbers(int variable, const char* name) const {
    const Lock lock(hdf5_mutex());
    nc_type type = NC_NAT;
    size_t length = 0;
    if (nc_inq_att(id_, variable, name, &type, &length) != NC_NOERR || type == NC_CHAR || type == NC_STRING) return {};
    std::vector<double> values(length);
    if (nc_get_att_double(id_, variable, name, values.data()) != NC_NOERR) return {};
    return values;
  }

  // Reads a box, unpacked, NaN where values are missing.
  void read(int variable, const std::vector<size_t>& begin, const std::vector<size_t>& count, double* out) const {
    const Lock lock(hdf5_mutex());
    check_netcdf(nc_get_vara_double(id_, variable, begin.data(), count.data(), out), ErrorCode::corrupt_data,
                 fmt::format("{}: variable '{}'", path_, variables[size_t(variable)].name));
    size_t n = 1;
    for (const size_t c : count) n *= c;
    std::vector<double> missing = numbers(variable, "_FillValue");
    for (const double value : numbers(variable, "missing_value")) missing.push_back(value);
    if (missing.empty() && variables[size_t(variable)].type == NC_FLOAT) missing.push_back(NC_FILL_FLOAT);
    if (missing.empty() && variables[size_t(variable)].type == NC_DOUBLE) missing.push_back(NC_FILL_DOUBLE);
    const auto scale = numbers(variable, "scale_factor"), offset = numbers(variable, "add_offset");
    const bool packed = !scale.empty() || !offset.empty();
    for (size_t i = 0; i < n; ++i) {
      if (std::find(missing.begin(), missing.end(), out[i]) != missing.end())
        out[i] = NAN;
      else if (packed)
        out[i] = out[i] * (scale.empty() ? 1 : scale[0]) + (offset.empty() ? 0 : offset[0]);
    }
  }

  std::vector<double> read_all(int variable) const {
    std::vector<size_t> begin, count;
    size_t n = 1;
    for (const int d : variables[size_t(variable)].dimensions) {
      begin.push_back(0);
      count.push_back(size_t(dimensions[size_t(d)].size));
      n *= count.back();
    }
    std::vector<double> values(n);
    if (n > 0) read(variable, begin, count, values.data());
    return values;
  }

  bool is_latitude(int variable) const {
    const std::string units = lower(text(variable, "units")), name = lower(variables[size_t(variable)].name);
    return text(variable, "standard_name") == "latitude" || units == "degrees_north" || units == "degree_north" ||
           units == "degrees_n" || units == "degree_n" ||
           (units.find("degree") != std::string::npos && (name == "lat" || name == "latitude"));
  }
  bool is_longitude(int variable) const {
    const std::string units = lower(text(variable, "units")), name = lower(variables[size_t(variable)].name);
    return text(variable, "standard_name") == "longitude" || units == "degrees_east" || units == "degree_east" ||
           units == "degrees_e" || units == "degree_e" ||
           (units.find("degree") != std::string::npos && (name == "lon" || name == "longitude"));
  }
  bool is_time(int variable) const {
    return variable >= 0 && text(variable, "units").find(" since ") != std::string::npos;
  }
  bool is_member(int dimension) const {
    const Dimension& d = dimensions[size_t(dimension)];
    const std::string name = lower(d.name);
    return (d.coordinate >= 0 && text(d.coordinate, "standard_name") == "realization") || name == "number" ||
           name == "member" || name == "ensemble" || name == "realization" || name == "ens";
  }

 private:
  std::string path_;
  int id_ = -1;
};

// The last one or two dimensions of the variable that span its grid, with the variables that hold the coordinates.
struct GridOf {
  std::vector<int> dimensions;
  int latitude = -1, longitude = -1;
  bool operator==(const GridOf&) const = default;
};

std::optional<GridOf> find_grid(const NetcdfFile& file, const FileVariable& variable) {
  const auto& dims = variable.dimensions;
  GridOf grid;
  // Coordinate variables of its own dimensions: a regular grid.
  for (const int d : dims) {
    const int coordinate = file.dimensions[size_t(d)].coordinate;
    if (coordinate < 0) continue;
    if (file.is_latitude(coordinate))
      grid.latitude = coordinate;
    else if (file.is_longitude(coordinate))
      grid.longitude = coordinate;
    else
      continue;
    grid.dimensions.push_back(d);
  }
  if (grid.dimensions.size() == 2 && grid.latitude >= 0 && grid.longitude >= 0) return grid;
  // Latitudes and longitudes over the same one or two dimensions, which the variable has: points, or a 2-D grid.
  for (size_t a = 0; a < file.variables.size(); ++a) {
    const auto& over = file.variables[a].dimensions;
    if (over.empty() || over.size() > 2 || !file.is_latitude(int(a))) continue;
    if (std::search(dims.begin(), dims.end(), over.begin(), over.end()) == dims.end()) continue;
    for (size_t o = 0; o < file.variables.size(); ++o)
      if (file.variables[o].dimensions == over && file.is_longitude(int(o))) return GridOf{over, int(a), int(o)};
  }
  return {};
}

std::string spacing(const std::vector<double>& values) {
  if (values.size() < 2) return {};
  const double step = std::abs(values[1] - values[0]);
  for (size_t i = 1; i < values.size(); ++i)
    if (std::abs(std::abs(values[i] - values[i - 1]) - step) > 1e-4 * step) return {};
  return fmt::format("{:g}", step);
}

InputGrid read_grid(const NetcdfFile& file, const GridOf& of) {
  InputGrid grid;
  const std::vector<double> lat = file.read_all(of.latitude), lon = file.read_all(of.longitude);
  for (const int d : of.dimensions) grid.field_shape.push_back(file.dimensions[size_t(d)].size);
  const bool regular =
      file.variables[size_t(of.latitude)].dimensions != file.variables[size_t(of.longitude)].dimensions;
  if (regular) {
    const bool lat_first = file.dimensions[size_t(of.dimensions[0])].coordinate == of.latitude;
    for (const double outer : lat_first ? lat : lon)
      for (const double inner : lat_first ? lon : lat) {
        grid.latitudes.push_back(lat_first ? outer : inner);
        grid.longitudes.push_back(lat_first ? inner : outer);
      }
    if (spacing(lat) == spacing(lon)) grid.resolution = spacing(lat);
    grid.description = fmt::format("regular, {} latitudes x {} longitudes", lat.size(), lon.size());
  } else {
    grid.latitudes = lat;
    grid.longitudes = lon;
    grid.description = fmt::format("{} points of '{}'", lat.size(), file.variables[size_t(of.latitude)].name);
  }
  for (size_t i = 0; i < grid.latitudes.size(); ++i)
    BOREAS_CHECK(std::abs(grid.latitudes[i]) <= 90.0001 && std::isfinite(grid.longitudes[i]), corrupt_data,
                 "{}: cell {} lies at latitude {}, longitude {}", file.path(), i, grid.latitudes[i],
                 grid.longitudes[i]);
  return grid;
}

std::vector<int64_t> read_times(const NetcdfFile& file, int variable) {
  const std::string where = fmt::format("{}: time axis '{}'", file.path(), file.variables[size_t(variable)].name);
  return decode_cf_times(file.read_all(variable), file.text(variable, "units"), file.text(variable, "calendar"), where);
}

// "500" for u_500; pressures in hPa.
std::vector<std::string> level_names(const NetcdfFile& file, int dimension) {
  const Dimension& d = file.dimensions[size_t(dimension)];
  std::vector<std::string> names;
  if (d.size == 1) return {""};
  if (d.coordinate < 0) {
    for (int64_t i = 0; i < d.size; ++i) names.push_back(fmt::format("_{}", i));
    return names;
  }
  const bool pascal = file.text(d.coordinate, "units") == "Pa";
  for (const double level : file.read_all(d.coordinate))
    names.push_back(fmt::format("_{:g}", pascal ? level / 100 : level));
  return names;
}

// Adds the fields of one variable of a file to the catalog.
void add_variable(const NetcdfFile& file, int32_t file_index, int32_t v, size_t grid_index, const GridOf& grid,
                  InputCatalog& catalog) {
  const FileVariable& variable = file.variables[size_t(v)];
  std::vector<int64_t> dates = {kNoDate};
  std::vector<std::string> levels = {""};
  int64_t num_members = 1;
  bool has_level = false;
  for (const int d : variable.dimensions) {
    if (std::find(grid.dimensions.begin(), grid.dimensions.end(), d) != grid.dimensions.end()) continue;
    const Dimension& dimension = file.dimensions[size_t(d)];
    if (file.is_time(dimension.coordinate)) {
      dates = read_times(file, dimension.coordinate);
    } else if (file.is_member(d)) {
      num_members = dimension.size;
    } else {
      BOREAS_CHECK(!has_level, unsupported,
                   "{}: variable '{}' has two dimensions besides time, members and grid, one is '{}'", file.path(),
                   variable.name, dimension.name);
      levels = level_names(file, d);
      has_level = true;
    }
  }
  for (size_t level = 0; level < levels.size(); ++level) {
    const std::string name = variable.name + levels[level];
    auto at = std::find_if(catalog.variables.begin(), catalog.variables.end(),
                           [&](const InputVariable& known) { return known.name == name && known.grid == grid_index; });
    if (at == catalog.variables.end()) {
      InputVariable added;
      added.name = name;
      added.base = variable.name;
      added.units = file.text(v, "units");
      added.long_name = file.text(v, "long_name");
      added.grid = grid_index;
      catalog.variables.push_back(std::move(added));
      at = catalog.variables.end() - 1;
    }
    BOREAS_CHECK(at->units == file.text(v, "units"), config,
                 "{}: variable '{}' has the units '{}', in other files '{}'", file.path(), name, file.text(v, "units"),
                 at->units);
    for (size_t t = 0; t < dates.size(); ++t) {
      std::vector<FieldLocation> members;
      for (int64_t member = 0; member < num_members; ++member)
        members.push_back({file_index, v, int64_t(t), int64_t(level), member});
      const bool added = at->fields.emplace(dates[t], std::move(members)).second;
      BOREAS_CHECK(added || dates[t] == kNoDate, config, "{}: variable '{}' occurs a second time at {}", file.path(),
                   name, format_date(dates[t]));
    }
  }
}

}  // namespace

InputCatalog open_netcdf_files(const std::vector<std::string>& paths) {
  auto files = std::make_shared<std::vector<std::unique_ptr<NetcdfFile>>>();
  InputCatalog catalog;
  for (const std::string& path : paths) {
    files->push_back(std::make_unique<NetcdfFile>(path));
    const NetcdfFile& file = *files->back();
    std::vector<std::pair<GridOf, size_t>> grids;  // of this file, and their place in the catalog
    for (size_t v = 0; v < file.variables.size(); ++v) {
      const FileVariable& variable = file.variables[v];
      if (variable.type == NC_CHAR || variable.type == NC_STRING || file.is_latitude(int(v)) ||
          file.is_longitude(int(v)))
        continue;
      const auto grid = find_grid(file, variable);
      if (!grid) continue;
      auto known = std::find_if(grids.begin(), grids.end(), [&](const auto& entry) { return entry.first == *grid; });
      if (known == grids.end()) {
        const InputGrid read = read_grid(file, *grid);
        auto at = std::find_if(catalog.grids.begin(), catalog.grids.end(), [&](const InputGrid& other) {
          return other.latitudes == read.latitudes && other.longitudes == read.longitudes;
        });
        if (at == catalog.grids.end()) {
          catalog.grids.push_back(read);
          at = catalog.grids.end() - 1;
        }
        grids.emplace_back(*grid, size_t(at - catalog.grids.begin()));
        known = grids.end() - 1;
      }
      add_variable(file, int32_t(files->size() - 1), int32_t(v), known->second, *grid, catalog);
    }
  }
  catalog.read = [files](const FieldLocation& at, std::span<double> values) {
    const NetcdfFile& file = *(*files)[size_t(at.file)];
    const FileVariable& variable = file.variables[size_t(at.variable)];
    const auto grid = find_grid(file, variable);
    std::vector<size_t> begin, count;
    for (const int d : variable.dimensions) {
      const Dimension& dimension = file.dimensions[size_t(d)];
      const bool of_grid = std::find(grid->dimensions.begin(), grid->dimensions.end(), d) != grid->dimensions.end();
      begin.push_back(of_grid                              ? 0
                      : file.is_time(dimension.coordinate) ? size_t(at.time)
                      : file.is_member(d)                  ? size_t(at.member)
                                                           : size_t(at.level));
      count.push_back(of_grid ? size_t(dimension.size) : 1);
    }
    file.read(at.variable, begin, count, values.data());
  };
  return catalog;
}

}  // namespace boreas

#endif
