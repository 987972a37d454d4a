// Fields in NetCDF and GRIB files and Zarr stores, found by variable, level, date and member.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace boreas {

/// Date of fields without time, such as orography.
inline constexpr int64_t kNoDate = INT64_MIN;

/// Where one field lies: which file, and within it, as the reader of that kind of file counts.
struct FieldLocation {
  int32_t file = 0;
  int32_t variable = 0;
  int64_t time = 0, level = 0, member = 0;  // indices; of GRIB time is the offset of the message
};

struct InputVariable {
  std::string name;  // with its level: "u_500"
  std::string base;  // without: "u"
  std::string units, long_name;
  size_t grid = 0;
  std::map<int64_t, std::vector<FieldLocation>> fields;  // by date; one location for each member
};

struct InputGrid {
  std::vector<double> latitudes, longitudes;  // degrees, in the order of the values
  std::vector<int64_t> field_shape;           // {rows, columns} or {cells}
  std::string resolution;                     // "2.5", "o96"; "" if it has no name
  std::string description;                    // for messages
};

/// All fields of some files. `read` gives the values of one, NaN where they are missing.
struct InputCatalog {
  std::vector<InputVariable> variables;
  std::vector<InputGrid> grids;
  std::function<void(const FieldLocation&, std::span<double> values)> read;
};

/// The files must all be NetCDF, all GRIB, or all Zarr: stores as xarray writes them, or Anemoi datasets. Throws io (no
/// such file), unsupported (this build cannot read the kind), corrupt_data.
InputCatalog open_input_files(const std::vector<std::string>& paths);

InputCatalog open_netcdf_files(const std::vector<std::string>& paths);
InputCatalog open_grib_files(const std::vector<std::string>& paths);
InputCatalog open_zarr_stores(const std::vector<std::string>& paths);

}  // namespace boreas
