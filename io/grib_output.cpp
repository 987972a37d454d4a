#include "io/grib_output.h"

#include <fmt/format.h>

#include "kernels/core/error.h"
#ifdef BOREAS_WITH_ECCODES
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "io/grib.h"
#endif

namespace boreas {

#ifdef BOREAS_WITH_ECCODES

namespace {

constexpr double kMissing = -1.7e38, kSamePlace = 2e-3;  // degrees; GRIB rounds coordinates
constexpr long kBits = 16;

struct DeleteHandle {
  void operator()(codes_handle* handle) const { codes_handle_delete(handle); }
};
using Message = std::unique_ptr<codes_handle, DeleteHandle>;

// Sets keys, and says which one could not be.
struct Setter {
  const std::string& path;
  codes_handle* message;

  void check(int error, const char* key, const std::string& value) const {
    BOREAS_CHECK(error == CODES_SUCCESS, unsupported, "{}: GRIB cannot hold {} = {}: {}", path, key, value,
                 codes_get_error_message(error));
  }
  void operator()(const char* key, long value) const {
    check(codes_set_long(message, key, value), key, fmt::format("{}", value));
  }
  void operator()(const char* key, double value) const {
    check(codes_set_double(message, key, value), key, fmt::format("{}", value));
  }
  void operator()(const char* key, const std::string& value) const {
    size_t length = value.size();
    check(codes_set_string(message, key, value.c_str(), &length), key, value);
  }
};

// Cells in rows of one latitude, as they lie.
std::vector<long> cells_of_rows(const ForecastLayout& layout) {
  std::vector<long> rows;
  for (size_t c = 0; c < layout.latitudes.size(); ++c) {
    if (c == 0 || layout.latitudes[c] != layout.latitudes[c - 1]) rows.push_back(0);
    ++rows.back();
  }
  return rows;
}

bool evenly_spaced(const ForecastLayout& layout, size_t columns) {
  const double step = layout.latitudes[columns] - layout.latitudes[0];
  for (size_t row = 1; row * columns < layout.latitudes.size(); ++row)
    if (std::abs(layout.latitudes[row * columns] - layout.latitudes[0] - double(row) * step) > kSamePlace) return false;
  return true;
}

// Rows of evenly spaced cells around the globe, as many in the north as in the south. ecCodes ends the process over
// some grids that have none.
bool may_be_gaussian(const ForecastLayout& layout, const std::vector<long>& rows) {
  size_t first = 0;
  for (size_t row = 0; row < rows.size(); first += size_t(rows[row]), ++row) {
    if (rows[row] < 4 || rows[row] != rows[rows.size() - 1 - row]) return false;
    for (long i = 0; i < rows[row]; ++i)
      if (std::abs(std::remainder(layout.longitudes[first + size_t(i)] - 360.0 * double(i) / double(rows[row]),
                                  360.0)) > kSamePlace)
        return false;
  }
  return rows.size() % 2 == 0 && layout.latitudes.front() > layout.latitudes.back();
}

// A message of this grid without values; which grid it is follows from the places of the cells.
Message message_on(const std::string& path, const ForecastLayout& layout) {
  const std::vector<long> rows = cells_of_rows(layout);
  const bool is_regular = rows.size() > 1 && rows[0] > 1 &&
                          std::all_of(rows.begin(), rows.end(), [&](long size) { return size == rows[0]; }) &&
                          evenly_spaced(layout, size_t(rows[0]));
  Message message(
      codes_grib_handle_new_from_samples(nullptr, is_regular ? "regular_ll_sfc_grib2" : "reduced_gg_sfc_grib2"));
  if (!message) message.reset(codes_grib_handle_new_from_samples(nullptr, "GRIB2"));
  BOREAS_CHECK(message, unsupported, "{}: ecCodes has no sample of a GRIB 2 message; is eccodes-data installed?", path);
  const Setter set{path, message.get()};
  const auto degrees = [&](const char* key, double value) { set(key, value); };
  const double first = layout.latitudes.front(), last = layout.latitudes.back();
  if (is_regular) {
    set("gridType", std::string("regular_ll"));
    set("Ni", rows[0]);
    set("Nj", long(rows.size()));
    degrees("latitudeOfFirstGridPointInDegrees", first);
    degrees("latitudeOfLastGridPointInDegrees", last);
    degrees("longitudeOfFirstGridPointInDegrees", layout.longitudes.front());
    degrees("longitudeOfLastGridPointInDegrees", layout.longitudes.back());
    degrees("iDirectionIncrementInDegrees", layout.longitudes[1] - layout.longitudes[0]);
    degrees("jDirectionIncrementInDegrees", std::abs(layout.latitudes[size_t(rows[0])] - first));
    set("jScansPositively", long(last > first));
  } else {
    BOREAS_CHECK(may_be_gaussian(layout, rows), unsupported,
                 "{}: the grid is neither regular in latitude and longitude nor Gaussian; write NetCDF or Zarr", path);
    set("gridType", std::string("reduced_gg"));
    set("Nj", long(rows.size()));
    set("N", long(rows.size() / 2));
    set.check(codes_set_long_array(message.get(), "pl", rows.data(), rows.size()), "pl", "its rows");
    degrees("latitudeOfFirstGridPointInDegrees", first);
    degrees("latitudeOfLastGridPointInDegrees", last);
    degrees("longitudeOfFirstGridPointInDegrees", 0.0);
    const long longest = *std::max_element(rows.begin(), rows.end());
    degrees("longitudeOfLastGridPointInDegrees", 360.0 - 360.0 / double(longest));
  }
  return message;
}

// "t_850" is t at 850 hPa.
void set_parameter(const Setter& set, const ForecastLayout& layout, const std::string& name) {
  const size_t bar = name.rfind('_');
  // Of an instant, or else over the time since the step before.
  const bool ensemble = !layout.members.empty();
  const auto set_name = [&](const std::string& short_name) {
    set("productDefinitionTemplateNumber", ensemble ? 1L : 0L);
    size_t length = short_name.size();
    if (codes_set_string(set.message, "shortName", short_name.c_str(), &length) == CODES_SUCCESS) return;
    set("productDefinitionTemplateNumber", ensemble ? 11L : 8L);
    set("shortName", short_name);
  };
  const bool on_level = bar != std::string::npos && bar + 1 < name.size() && bar + 6 > name.size() &&
                        name.find_first_not_of("0123456789", bar + 1) == std::string::npos;
  set_name(on_level ? name.substr(0, bar) : name);
  if (!on_level) return;
  set("typeOfLevel", std::string("isobaricInhPa"));
  set("level", std::stol(name.substr(bar + 1)));
}

Message make_message(const std::string& path, const ForecastLayout& layout, int64_t variable, int64_t forecast,
                     int64_t step, std::vector<double> values) {
  Message message = message_on(path, layout);
  const Setter set{path, message.get()};
  set_parameter(set, layout, layout.variables[size_t(variable)].name);
  const int64_t date = layout.start_dates[size_t(forecast / layout.num_members())];
  const CivilTime civil = civil_time(date);
  set("dataDate", long(civil.year * 10000 + civil.month * 100 + civil.day));
  set("dataTime", long(civil.hour * 100 + civil.minute));
  set("significanceOfReferenceTime", 1L);                            // start of forecast
  set("typeOfGeneratingProcess", layout.members.empty() ? 2L : 4L);  // forecast, or ensemble forecast
  const int64_t lead = lead_seconds(date, layout.step, layout.steps[size_t(step)]);
  BOREAS_CHECK(lead % 60 == 0 && civil.second == 0, unsupported, "{}: GRIB dates and lead times are whole minutes",
               path);
  const int64_t before = lead_seconds(date, layout.step, layout.steps[size_t(step)] - 1);
  const bool hours = lead % 3600 == 0 && before % 3600 == 0;
  const int64_t unit = hours ? 3600 : 60;
  set("indicatorOfUnitOfTimeRange", hours ? 1L : 0L);
  long pdt = 0;
  set.check(codes_get_long(message.get(), "productDefinitionTemplateNumber", &pdt), "productDefinitionTemplateNumber",
            "");
  if (pdt >= 8) {
    set("stepUnits", hours ? 1L : 0L);
    set("stepRange", fmt::format("{}-{}", before / unit, lead / unit));
  } else {
    set("forecastTime", long(lead / unit));
  }
  if (!layout.members.empty()) {
    set("perturbationNumber", long(layout.members[size_t(forecast % layout.num_members())]));
    set("numberOfForecastsInEnsemble", long(layout.num_members()));
  }
  bool missing = false;
  for (double& value : values)
    if (std::isnan(value)) value = kMissing, missing = true;
  set("packingType", std::string("grid_simple"));
  set("bitsPerValue", kBits);
  set("missingValue", kMissing);
  set("bitmapPresent", long(missing));
  set.check(codes_set_double_array(message.get(), "values", values.data(), values.size()), "values",
            layout.variables[size_t(variable)].name);
  return message;
}

std::vector<std::byte> bytes_of(const Message& message) {
  const void* bytes = nullptr;
  size_t size = 0;
  BOREAS_CHECK(codes_get_message(message.get(), &bytes, &size) == CODES_SUCCESS, internal, "a GRIB message is lost");
  return {static_cast<const std::byte*>(bytes), static_cast<const std::byte*>(bytes) + size};
}

// Fields of which some are missing and no two values are equal: the longest messages.
std::vector<double> trial_values(const ForecastLayout& layout) {
  std::vector<double> values(size_t(layout.num_cells()), 0);
  for (size_t c = 0; c < values.size(); ++c) values[c] = double(c);
  values[0] = NAN;
  return values;
}

void try_variables(const std::string& path, const ForecastLayout& layout) {
  const std::vector<double> values = trial_values(layout);
  std::vector<double> latitudes(values.size()), longitudes(values.size()), decoded(values.size());
  for (size_t v = 0; v < layout.variables.size(); ++v) {
    BOREAS_CHECK(!layout.variables[v].packed_range, unsupported,
                 "{}: GRIB packs each field to 16 bit by itself; leave out the packing", path);
    const Message message = make_message(path, layout, int64_t(v), layout.num_members() - 1, 0, values);
    if (v > 0) continue;
    long size = 0;
    codes_get_long(message.get(), "numberOfDataPoints", &size);
    BOREAS_CHECK(
        size == layout.num_cells() &&
            codes_grib_get_data(message.get(), latitudes.data(), longitudes.data(), decoded.data()) == CODES_SUCCESS,
        unsupported, "{}: GRIB makes {} points of the {} cells; write NetCDF or Zarr", path, size, layout.num_cells());
    for (size_t c = 0; c < values.size(); ++c)
      BOREAS_CHECK(
          std::abs(latitudes[c] - layout.latitudes[c]) < kSamePlace &&
              std::abs(std::remainder(longitudes[c] - layout.longitudes[c], 360.0)) < kSamePlace,
          unsupported,
          "{}: the grid is neither regular in latitude and longitude nor Gaussian: cell {} lies at {}, {}, and in "
          "GRIB at {}, {}; write NetCDF or Zarr",
          path, c, layout.latitudes[c], layout.longitudes[c], latitudes[c], longitudes[c]);
  }
}

}  // namespace

void create_grib(const std::string& path, const std::string& partial, const ForecastLayout& layout) {
  with_eccodes(path, [&] { try_variables(path, layout); });
  std::FILE* const file = std::fopen(partial.c_str(), "wb");
  BOREAS_CHECK(file && std::fclose(file) == 0, io, "{}: {} cannot be made", path, partial);
}

int64_t grib_slot_bytes(const std::string& path, const ForecastLayout& layout) {
  return with_eccodes(
      path, [&] { return int64_t(bytes_of(make_message(path, layout, 0, 0, 0, trial_values(layout))).size()) + 64; });
}

std::vector<std::byte> encode_grib(const std::string& path, const ForecastLayout& layout, int64_t variable,
                                   int64_t forecast, int64_t step, const float* values) {
  return with_eccodes(path, [&] {
    return bytes_of(make_message(path, layout, variable, forecast, step, {values, values + layout.num_cells()}));
  });
}

#else

void create_grib(const std::string& path, const std::string&, const ForecastLayout&) {
  BOREAS_FAIL(unsupported,
              "{}: this build cannot write GRIB files; install libeccodes-dev and configure again, or write to .zarr",
              path);
}
int64_t grib_slot_bytes(const std::string&, const ForecastLayout&) { return 0; }
std::vector<std::byte> encode_grib(const std::string&, const ForecastLayout&, int64_t, int64_t, int64_t, const float*) {
  return {};
}

#endif

}  // namespace boreas
