// Settings of `boreas forecast` and `boreas evaluate`.
#pragma once

#include <string>
#include <vector>

#include "kernels/core/fields.h"

namespace boreas {

enum class ForecastFormat { netcdf, zarr };
template <>
struct EnumNames<ForecastFormat> {
  static constexpr std::array values{std::pair{ForecastFormat::netcdf, std::string_view("netcdf")},
                                     std::pair{ForecastFormat::zarr, std::string_view("zarr")}};
};

/// Which forecasts to make, and where to write them.
struct ForecastConfig {
  std::string start, end;
  int64_t lead_steps = 1;
  std::vector<ForecastFormat> formats = {ForecastFormat::netcdf};
  std::vector<std::string> variables;
  std::string output = "forecast";

  void fields(auto&& visit) {
    visit("start", start, "ISO date", "first start date; empty: the last date with a full input window");
    visit("end", end, "ISO date", "last start date; empty: the same as start");
    visit("lead_steps", lead_steps, "model steps", "length of each forecast");
    visit("formats", formats, "", "files to write: netcdf, zarr");
    visit("variables", variables, "", "output variables to write; empty: all");
    visit("output", output, "path", "name of the forecast without its ending, relative to the output folder");
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
  std::string start, end;
  std::string climatology_start, climatology_end;
  ClimatologyBins climatology = ClimatologyBins::automatic;
  int64_t lead_steps = 1;
  int64_t num_map_dates = 1;

  void fields(auto&& visit) {
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
