// Settings of `boreas forecast` and `boreas evaluate`.
#pragma once

#include <string>
#include <vector>

#include "kernels/core/fields.h"

namespace boreas {

enum class ForecastFormat { netcdf, zarr, grib };
template <>
struct EnumNames<ForecastFormat> {
  static constexpr std::array values{std::pair{ForecastFormat::netcdf, std::string_view("netcdf")},
                                     std::pair{ForecastFormat::zarr, std::string_view("zarr")},
                                     std::pair{ForecastFormat::grib, std::string_view("grib")}};
};

enum class ForecastPacking { none, int16 };
template <>
struct EnumNames<ForecastPacking> {
  static constexpr std::array values{std::pair{ForecastPacking::none, std::string_view("none")},
                                     std::pair{ForecastPacking::int16, std::string_view("int16")}};
};

/// Which forecasts to make, and where to write them.
struct ForecastConfig {
  std::vector<std::string> state;
  std::string start, end, interval;
  std::vector<std::string> dates;
  std::vector<int64_t> members;
  int64_t lead_steps = 1, every_steps = 1;
  std::vector<ForecastFormat> formats = {ForecastFormat::netcdf};
  std::vector<std::string> variables;
  std::vector<double> area;
  ForecastPacking packing = ForecastPacking::none;
  std::string compressor = "lz4";
  int64_t compression_level = 5, chunk_cells = 65536;
  int64_t num_buffers = 3, num_threads = 2;
  std::string output = "forecast";
  bool fold = true;

  void fields(auto&& visit) {
    visit("state", state, "paths",
          "files to start from instead of the dataset: NetCDF, GRIB, Zarr, each with any of the fields");
    visit("start", start, "ISO date", "first start date; empty: the last date with a full input window");
    visit("end", end, "ISO date", "last start date; empty: the same as start");
    visit("interval", interval, "step", "from one start date to the next, such as 1d; empty: all dates of the dataset");
    visit("dates", dates, "ISO dates", "start dates one by one, ascending; instead of start, end and interval");
    visit("members", members, "",
          "members of the dataset or state to start from, counted from 0, ascending; empty: all");
    visit("lead_steps", lead_steps, "model steps", "length of each forecast");
    visit("every_steps", every_steps, "model steps", "write every so many of them");
    visit("formats", formats, "", "files to write: netcdf, zarr, grib");
    visit("variables", variables, "", "output variables to write; empty: all");
    visit("area", area, "degrees", "write only the cells inside: [north, west, south, east]; empty: all");
    visit(
        "packing", packing, "",
        "int16: 16 bit of the dataset's range, widened by half of it on either side, with the error in the comment of "
        "each variable; what lies outside is cut, and counted");
    visit("compressor", compressor, "", "of Zarr, by blosc: lz4, lz4hc, zstd, zlib, blosclz, or none");
    visit("compression_level", compression_level, "", "0 to 9");
    visit("chunk_cells", chunk_cells, "cells",
          "in a chunk of Zarr, of a grid of rows and columns as many whole rows; ranks write whole chunks");
    visit("num_buffers", num_buffers, "states", "that wait to be written or are, while the model computes on");
    visit("num_threads", num_threads, "", "threads of each rank that encode and write");
    visit("output", output, "path", "name of the forecast without its ending, relative to the output folder");
    visit("fold", fold, "",
          "keep what weights and graph alone decide from step to step; false computes it in each again, in less "
          "memory: the "
          "values are the same");
  }
};

/// What climatology averages together: all dates of a calendar month, or of a month and hour of the day.
enum class ClimatologyBins { automatic, month, month_hour };
template <>
struct EnumNames<ClimatologyBins> {
  static constexpr std::array values{std::pair{ClimatologyBins::automatic, std::string_view("auto")},
                                     std::pair{ClimatologyBins::month, std::string_view("month")},
                                     std::pair{ClimatologyBins::month_hour, std::string_view("month_hour")}};
};

/// On which dates forecasts are verified, and against what.
struct EvaluationConfig {
  std::string truth;
  std::string start, end;
  std::string climatology_start, climatology_end;
  ClimatologyBins climatology = ClimatologyBins::automatic;
  int64_t lead_steps = 1;
  int64_t num_map_dates = 1;

  void fields(auto&& visit) {
    visit(
        "truth", truth, "path",
        "dataset of one member that forecasts are verified against, as those of an ensemble must; empty: data.dataset");
    visit("start", start, "ISO date", "first date that forecasts are verified on, the same at every lead time");
    visit("end", end, "ISO date", "last date that forecasts are verified on; empty: the end of the dataset");
    visit("climatology_start", climatology_start, "ISO date",
          "first date of the period that the baselines are computed from; empty: the start of the dataset");
    visit("climatology_end", climatology_end, "ISO date",
          "last date of that period; empty: the last date before `start`");
    visit("climatology", climatology, "", "what climatology averages together; auto: month_hour for steps below a day");
    visit("lead_steps", lead_steps, "model steps", "longest lead time");
    visit("num_map_dates", num_map_dates, "", "how many verification dates to draw maps for");
  }
};

}  // namespace boreas
