// Anemoi datasets for writing: from fields in memory, from NetCDF and GRIB files, from another dataset.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/time.h"
#include "kernels/core/fields.h"

namespace boreas {

class ThreadPool;

/// How the fields of a date lie on the disk.
struct DatasetStorage {
  int64_t grid_chunks = 1;
  std::string compressor = "lz4";
  int64_t level = 5;

  void fields(auto&& visit) {
    visit("grid_chunks", grid_chunks, "", "chunks of each date along the grid; 1, 4 or 16 are usual");
    visit("compressor", compressor, "", "blosc's lz4, lz4hc, zstd, zlib or blosclz, or none");
    visit("level", level, "", "compression level, 1 to 9");
  }
};

/// What a new dataset is.
struct DatasetSpec {
  struct Variable {
    std::string name{};
    std::string units{};      // "" if unknown
    std::string long_name{};  // "" if unknown
    bool computed = false;    // a computed forcing
  };
  std::vector<Variable> variables{};
  std::vector<int64_t> dates{};  // evenly spaced, missing ones included
  int64_t num_members = 1;
  std::vector<double> latitudes{}, longitudes{};  // degrees, per cell
  std::vector<int64_t> field_shape{};             // {rows, columns} of a 2-D grid, else empty
  std::string resolution{};                       // "o96", "2.5", ...; "" if unknown
  std::string description{};
  DatasetStorage storage{};
  Range statistics_dates{0, -1};       // indices; empty: default_statistics_dates()
  std::vector<TimeStep> tendencies{};  // lags of the tendency statistics, multiples of the step
  bool allow_nans = false;
};

/// Writes a dataset date by date. It lies beside its final name, as `.<name>.partial`, until close(), which adds
/// statistics and attributes, flushes, and renames; without close() it is removed. Zarr format 2.
///
/// Statistics: mean, population standard deviation, minimum, maximum by variable over the statistics dates, members and
/// cells, NaN skipped; those of tendencies over x(t) - x(t - lag) with both dates inside. In f64, partial results
/// merged as Chan, Golub and LeVeque 1979. Variables that are equal at all dates are recorded as constant.
///
/// Errors: config (sizes that disagree, an existing dataset), invalid_argument (NaN where allow_nans is off: names
/// variable and date), io.
class DatasetWriter {
 public:
  DatasetWriter(const std::string& path, DatasetSpec spec, std::shared_ptr<ThreadPool> pool = nullptr);
  ~DatasetWriter();
  DatasetWriter(DatasetWriter&&) noexcept;

  void append(const float* fields);  ///< the next date: [variable][member][cell]
  void append_missing();             ///< the next date has no data
  void close();                      ///< after as many dates as the spec has

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The reference's default: the dates up to 80 % of fewer than 10 dates or 10 years; else without the last year, or
/// without the last three of 20 years or more.
Range default_statistics_dates(const std::vector<int64_t>& dates);

/// Called with the number of dates done and in all.
using DatasetProgress = std::function<void(int64_t done, int64_t total)>;

/// A dataset to be made from files.
struct DatasetCreateConfig {
  std::vector<std::string> inputs{};
  std::string output{};
  std::vector<std::string> variables{};
  std::map<std::string, std::string> rename{};
  std::vector<std::string> forcings{};
  std::string start{}, end{};
  std::string statistics_start{}, statistics_end{};
  std::vector<std::string> tendencies{};
  DatasetStorage storage{};
  bool allow_nans = false;
  bool overwrite = false;
  std::string description{};

  void fields(auto&& visit) {
    visit("inputs", inputs, "", "NetCDF or GRIB files, or Zarr stores; together they hold all variables at all dates");
    visit("output", output, "", "dataset to write, a name ending in .zarr");
    visit("variables", variables, "",
          "variables to take, in this order: u (all its levels) or u_500 (one); empty: all");
    visit("rename", rename, "", "new names of variables: {UWND: u}");
    visit("forcings", forcings, "", "computed forcings to add: cos_latitude, insolation, ...");
    visit("start", start, "", "first date: 1979, 1979-01, 1979-01-01T06, or a share such as 80%; empty: the first");
    visit("end", end, "", "last date, inclusive, in the same forms; empty: the last");
    visit("statistics_start", statistics_start, "", "first date of the statistics; empty: the first");
    visit("statistics_end", statistics_end, "",
          "last date of the statistics; both empty: all but the last 20 % or years");
    visit("tendencies", tendencies, "", "lags of the tendency statistics: 6h, 730.5h, 1M");
    visit("storage", storage, "", "how the fields lie on the disk");
    visit("allow_nans", allow_nans, "", "whether fields may hold NaN; if not, one is an error");
    visit("overwrite", overwrite, "", "whether an existing dataset is replaced");
    visit("description", description, "", "what the dataset is, kept in it");
  }
};

/// Makes a dataset from NetCDF or GRIB files, or Zarr stores.
///
/// Levels: variable v on level l is v_l (pressure in hPa). Units, packing (scale_factor, add_offset) and missing values
/// (_FillValue, missing_value, GRIB bitmaps) are respected. Grids: regular, reduced Gaussian, 2-D, or any list of
/// points; cells keep the order of the file. Time axes: CF units in the standard or proleptic Gregorian calendar; dates
/// that a regular axis lacks are listed as missing. Fields without time are repeated at all dates.
///
/// Errors: unsupported (a file kind that this build cannot read: names the package; other calendars), config (unknown
/// variable: near names; different grids; irregular dates), corrupt_data (damaged file, a variable missing at a date).
void create_dataset(const DatasetCreateConfig& config, const DatasetProgress& progress = {});

/// Writes a dataset again with other chunks or compression; variables, dates, attributes and statistics stay.
void rechunk_dataset(const std::string& input, const std::string& output, const DatasetStorage& storage,
                     bool overwrite = false, const DatasetProgress& progress = {});

/// What a dataset holds, at a glance: dates, grid, chunks, size, and a table of the variables.
std::string inspect_dataset(const std::string& path);

}  // namespace boreas
