#include "io/cf_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "io/cf_time.h"
#include "io/time.h"
#include "kernels/core/error.h"

namespace boreas {

namespace {
constexpr size_t kMostCells = size_t{1} << 29, kMostFields = size_t{1} << 24;  // beyond them a file is damaged
}

std::vector<double> CfFile::read_all(int variable) const {
  std::vector<size_t> begin, count;
  size_t n = 1;
  for (const int d : variables_[size_t(variable)].dimensions) {
    begin.push_back(0);
    count.push_back(size_t(dimensions_[size_t(d)].size));
    BOREAS_CHECK(count.back() <= kMostCells && n * count.back() <= kMostCells, unsupported,
                 "{}: variable '{}', which is read as a coordinate, has more than {} values", path_,
                 variables_[size_t(variable)].name, kMostCells);
    n *= count.back();
  }
  std::vector<double> values(n);
  if (n > 0) read(variable, begin, count, values.data());
  return values;
}

void CfFile::find_coordinates() {
  for (Dimension& dimension : dimensions_)
    for (size_t v = 0; v < variables_.size(); ++v)
      if (variables_[v].name == dimension.name && variables_[v].dimensions.size() == 1) dimension.coordinate = int(v);
}

void CfPacking::unpack(std::span<double> values) const {
  const bool packed = scale != 1 || offset != 0;
  for (double& value : values) {
    if (std::find(missing.begin(), missing.end(), value) != missing.end())
      value = NAN;
    else if (packed)
      value = value * scale + offset;
  }
}

namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return text;
}

bool is_latitude(const CfFile& file, int variable) {
  const std::string units = lower(file.text(variable, "units")), name = lower(file.variables()[size_t(variable)].name);
  return file.text(variable, "standard_name") == "latitude" || units == "degrees_north" || units == "degree_north" ||
         units == "degrees_n" || units == "degree_n" ||
         (units.find("degree") != std::string::npos && (name == "lat" || name == "latitude"));
}

bool is_longitude(const CfFile& file, int variable) {
  const std::string units = lower(file.text(variable, "units")), name = lower(file.variables()[size_t(variable)].name);
  return file.text(variable, "standard_name") == "longitude" || units == "degrees_east" || units == "degree_east" ||
         units == "degrees_e" || units == "degree_e" ||
         (units.find("degree") != std::string::npos && (name == "lon" || name == "longitude"));
}

bool is_time(const CfFile& file, int variable) {
  return variable >= 0 && file.text(variable, "units").find(" since ") != std::string::npos;
}

bool is_member(const CfFile& file, int dimension) {
  const CfFile::Dimension& d = file.dimensions()[size_t(dimension)];
  const std::string name = lower(d.name);
  return (d.coordinate >= 0 && file.text(d.coordinate, "standard_name") == "realization") || name == "number" ||
         name == "member" || name == "ensemble" || name == "realization" || name == "ens";
}

// The last one or two dimensions of the variable that span its grid, with the variables that hold the coordinates.
struct GridOf {
  std::vector<int> dimensions;
  int latitude = -1, longitude = -1;
  bool operator==(const GridOf&) const = default;
};

std::optional<GridOf> find_grid(const CfFile& file, const CfFile::Variable& variable) {
  const auto& dims = variable.dimensions;
  GridOf grid;
  // Coordinate variables of its own dimensions: a regular grid.
  for (const int d : dims) {
    const int coordinate = file.dimensions()[size_t(d)].coordinate;
    if (coordinate < 0) continue;
    if (is_latitude(file, coordinate))
      grid.latitude = coordinate;
    else if (is_longitude(file, coordinate))
      grid.longitude = coordinate;
    else
      continue;
    grid.dimensions.push_back(d);
  }
  if (grid.dimensions.size() == 2 && grid.latitude >= 0 && grid.longitude >= 0) return grid;
  // Latitudes and longitudes over the same one or two dimensions, which the variable has: points, or a 2-D grid.
  for (size_t a = 0; a < file.variables().size(); ++a) {
    const auto& over = file.variables()[a].dimensions;
    if (over.empty() || over.size() > 2 || !is_latitude(file, int(a))) continue;
    if (std::search(dims.begin(), dims.end(), over.begin(), over.end()) == dims.end()) continue;
    for (size_t o = 0; o < file.variables().size(); ++o)
      if (file.variables()[o].dimensions == over && is_longitude(file, int(o))) return GridOf{over, int(a), int(o)};
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

InputGrid read_grid(const CfFile& file, const GridOf& of) {
  InputGrid grid;
  const std::vector<double> lat = file.read_all(of.latitude), lon = file.read_all(of.longitude);
  for (const int d : of.dimensions) grid.field_shape.push_back(file.dimensions()[size_t(d)].size);
  const bool regular =
      file.variables()[size_t(of.latitude)].dimensions != file.variables()[size_t(of.longitude)].dimensions;
  if (regular) {
    BOREAS_CHECK(lat.empty() || lon.size() <= kMostCells / lat.size(), unsupported,
                 "{}: a grid of {} latitudes and {} longitudes", file.path(), lat.size(), lon.size());
    const bool lat_first = file.dimensions()[size_t(of.dimensions[0])].coordinate == of.latitude;
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
    grid.description = fmt::format("{} points of '{}'", lat.size(), file.variables()[size_t(of.latitude)].name);
  }
  for (size_t i = 0; i < grid.latitudes.size(); ++i)
    BOREAS_CHECK(std::abs(grid.latitudes[i]) <= 90.0001 && std::isfinite(grid.longitudes[i]), corrupt_data,
                 "{}: cell {} lies at latitude {}, longitude {}", file.path(), i, grid.latitudes[i],
                 grid.longitudes[i]);
  return grid;
}

// What the dimensions of a field are, besides those of its grid, and which variable has its dates, by up to two of
// them.
struct Axes {
  int time = -1;
  std::vector<int> time_dimensions;
  int level = -1, member = -1;
};

Axes find_axes(const CfFile& file, const CfFile::Variable& variable, int index, const GridOf& grid) {
  Axes axes;
  const auto has = [](const std::vector<int>& dimensions, int d) {
    return std::find(dimensions.begin(), dimensions.end(), d) != dimensions.end();
  };
  // The valid dates, by as many dimensions as possible: of forecasts by start date and step.
  const std::string coordinates = " " + file.text(index, "coordinates") + " ";
  for (size_t a = 0; a < file.variables().size(); ++a) {
    const CfFile::Variable& time = file.variables()[a];
    if (time.dimensions.size() > 2 || !is_time(file, int(a)) || file.text(int(a), "standard_name") != "time") continue;
    if (!std::all_of(time.dimensions.begin(), time.dimensions.end(),
                     [&](int d) { return has(variable.dimensions, d) && !has(grid.dimensions, d); }))
      continue;
    if (time.dimensions.empty() && coordinates.find(" " + time.name + " ") == std::string::npos) continue;
    if (axes.time >= 0 && time.dimensions.size() <= axes.time_dimensions.size()) continue;
    axes.time = int(a);
    axes.time_dimensions = time.dimensions;
  }
  if (axes.time_dimensions.empty())
    for (const int d : variable.dimensions)
      if (const int coordinate = file.dimensions()[size_t(d)].coordinate; is_time(file, coordinate)) {
        axes.time = coordinate;
        axes.time_dimensions = {d};
      }
  for (const int d : variable.dimensions) {
    if (has(grid.dimensions, d) || has(axes.time_dimensions, d)) continue;
    if (is_member(file, d)) {
      axes.member = d;
      continue;
    }
    BOREAS_CHECK(axes.level < 0, unsupported,
                 "{}: variable '{}' has two dimensions besides time, members and grid, one is '{}'", file.path(),
                 variable.name, file.dimensions()[size_t(d)].name);
    axes.level = d;
  }
  return axes;
}

std::vector<int64_t> read_times(const CfFile& file, int variable) {
  const std::string where = fmt::format("{}: time axis '{}'", file.path(), file.variables()[size_t(variable)].name);
  return decode_cf_times(file.read_all(variable), file.text(variable, "units"), file.text(variable, "calendar"), where);
}

// "500" for u_500; pressures in hPa.
std::vector<std::string> level_names(const CfFile& file, int dimension) {
  const CfFile::Dimension& d = file.dimensions()[size_t(dimension)];
  std::vector<std::string> names;
  if (d.size == 1) return {""};
  BOREAS_CHECK(size_t(d.size) <= kMostFields, unsupported, "{}: dimension '{}' has {} levels", file.path(), d.name,
               d.size);
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
void add_fields(const CfFile& file, int32_t file_index, int32_t v, size_t grid_index, const GridOf& grid,
                InputCatalog& catalog) {
  const CfFile::Variable& variable = file.variables()[size_t(v)];
  const Axes axes = find_axes(file, variable, v, grid);
  const std::vector<int64_t> dates = axes.time < 0 ? std::vector<int64_t>{kNoDate} : read_times(file, axes.time);
  const std::vector<std::string> levels = axes.level < 0 ? std::vector<std::string>{""} : level_names(file, axes.level);
  const int64_t num_members = axes.member < 0 ? 1 : file.dimensions()[size_t(axes.member)].size;
  const double num_fields = double(dates.size()) * double(levels.size()) * double(num_members);
  BOREAS_CHECK(num_fields <= double(kMostFields), unsupported, "{}: variable '{}' has {} fields", file.path(),
               variable.name, num_fields);
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
      BOREAS_CHECK(added || dates[t] == kNoDate, config, "{}: variable '{}' occurs a second time at {}{}", file.path(),
                   name, format_date(dates[t]),
                   axes.time_dimensions.size() == 2 ? ", in forecasts from two dates; take those of one" : "");
    }
  }
}

}  // namespace

InputCatalog catalog_of(std::vector<std::unique_ptr<CfFile>> opened) {
  const auto files = std::make_shared<const std::vector<std::unique_ptr<CfFile>>>(std::move(opened));
  InputCatalog catalog;
  for (size_t f = 0; f < files->size(); ++f) {
    const CfFile& file = *(*files)[f];
    std::vector<std::pair<GridOf, size_t>> grids;  // of this file, and their place in the catalog
    for (size_t v = 0; v < file.variables().size(); ++v) {
      const CfFile::Variable& variable = file.variables()[v];
      if (!variable.numeric || is_latitude(file, int(v)) || is_longitude(file, int(v))) continue;
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
      add_fields(file, int32_t(f), int32_t(v), known->second, *grid, catalog);
    }
  }
  catalog.read = [files](const FieldLocation& at, std::span<double> values) {
    const CfFile& file = *(*files)[size_t(at.file)];
    const CfFile::Variable& variable = file.variables()[size_t(at.variable)];
    const auto grid = find_grid(file, variable);
    const Axes axes = find_axes(file, variable, at.variable, *grid);
    const int64_t inner =
        axes.time_dimensions.size() == 2 ? file.dimensions()[size_t(axes.time_dimensions[1])].size : 1;
    std::vector<size_t> begin, count;
    for (const int d : variable.dimensions) {
      const bool of_grid = std::find(grid->dimensions.begin(), grid->dimensions.end(), d) != grid->dimensions.end();
      const auto place = std::find(axes.time_dimensions.begin(), axes.time_dimensions.end(), d);
      begin.push_back(of_grid                                 ? 0
                      : d == axes.member                      ? size_t(at.member)
                      : d == axes.level                       ? size_t(at.level)
                      : place == axes.time_dimensions.begin() ? size_t(at.time / inner)
                                                              : size_t(at.time % inner));
      count.push_back(of_grid ? size_t(file.dimensions()[size_t(d)].size) : 1);
    }
    file.read(at.variable, begin, count, values.data());
  };
  return catalog;
}

}  // namespace boreas
