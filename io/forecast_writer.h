// Forecasts as CF NetCDF-4, Zarr or GRIB 2, written by any number of writers, each its own part.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/codec.h"
#include "io/thread_pool.h"
#include "io/time.h"

namespace boreas {

/// What a forecast file holds.
struct ForecastLayout {
  struct Variable {
    std::string name;
    std::string units;      // "" if unknown
    std::string long_name;  // "" if unknown
    /// Least and greatest value of a variable that is packed to 16 bit; without it values are f32.
    std::optional<std::pair<double, double>> packed_range = {};
  };
  std::vector<Variable> variables;
  std::vector<int64_t> start_dates;               // dates of the initial states
  std::vector<int64_t> members;                   // of an ensemble, ascending; empty: none, and no such dimension
  TimeStep step;                                  // of the model
  std::vector<int64_t> steps;                     // which model steps are held, ascending; 0 is the initial state
  std::vector<double> latitudes, longitudes;      // degrees, per cell
  std::vector<int64_t> field_shape;               // {rows, columns} of a 2-D grid, else {num_cells} or {}
  std::map<std::string, std::string> attributes;  // of the file: title, source, history, ...
  int64_t chunk_cells = 65536;                    // of Zarr; of a 2-D grid as many whole rows, at least one
  Codec compressor = {};                          // of Zarr

  int64_t num_cells() const { return int64_t(latitudes.size()); }
  int64_t num_members() const { return members.empty() ? 1 : int64_t(members.size()); }
  /// A forecast is of a start date and a member: that of place s and m is the forecast s * num_members() + m.
  int64_t num_forecasts() const { return int64_t(start_dates.size()) * num_members(); }
  int64_t cells_per_chunk() const;
};

/// What one writer writes: these cells of these variables.
struct ForecastPart {
  Range variables, cells;
  bool operator==(const ForecastPart&) const = default;
};

/// The part of one of `num_writers` writers, as equal as can be; some may be empty. Of NetCDF and Zarr all variables of
/// some cells, which are whole chunks; of GRIB all cells of some variables.
ForecastPart forecast_part(const std::string& path, const ForecastLayout& layout, int64_t writer, int64_t num_writers);

/// Greatest difference between a value inside of the range and what is read back.
double packing_error(const std::pair<double, double>& range);

/// Makes the file, with all coordinates and no values, aside as `.<name>.partial`, replacing an unfinished one. Once,
/// before any writer. The suffix of the path chooses the format: .nc is NetCDF-4, .zarr is Zarr format 2, .grib is
/// GRIB 2.
///
/// Dimensions: forecast_reference_time, realization if there are members, step, then latitude and longitude for a
/// regular grid, y and x for another 2-D grid, or cell. Coordinates: forecast_reference_time and time (valid time, by
/// start and step) in seconds since 1970-01-01, realization as the number of the member, step as a count, lead_time in
/// hours (by start and step, since calendar months differ), latitude and longitude in degrees.
///
/// GRIB: a message of 16-bit values for each start date, member, step and variable, in this order, with zeros between
/// them, which readers skip; members are `number`, of product definition template 1, or 11 of what is accumulated; the
/// grid must be regular in latitude and longitude, or (reduced) Gaussian, and names those of ecCodes, "t_850" for a
/// pressure level. Errors: unsupported (built without NetCDF or ecCodes, unknown suffix, a grid, a name or a number of
/// members that GRIB does not know), io, shape.
void create_forecast(const std::string& path, const ForecastLayout& layout);

/// Where in an unfinished file the values lie: text to hand to every writer. Throws io if there is none.
std::string forecast_places(const std::string& path, const ForecastLayout& layout);

/// Gives the file its name, replacing what was there: once, after all writers are done.
void publish_forecast(const std::string& path);

/// Writes a part of an unfinished file, field set by field set, in any order and from any number of threads. Nothing
/// that two writers with different parts write is the same chunk or byte, so they need not know of each other; the file
/// does not depend on how many there were. Values of NetCDF lie uncompressed at places fixed beforehand, and so does
/// each message of GRIB.
class ForecastWriter {
 public:
  /// `part`: one of forecast_part's.
  ForecastWriter(const std::string& path, const ForecastLayout& layout, const std::string& places, ForecastPart part);
  ~ForecastWriter();
  ForecastWriter(ForecastWriter&&) noexcept;

  /// Makes all values of this part NaN. Needed by NetCDF; elsewhere what is not written is not there.
  void clear(ThreadPool& pool) const;
  /// fields[variable][cell] of the part, of a forecast (see num_forecasts) and a step, by their places in the layout.
  void write(int64_t forecast, int64_t step, const float* fields, ThreadPool& pool) const;
  /// How many values so far lay outside of the range that their variable is packed in; they became its nearest end.
  int64_t num_clipped() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace boreas
