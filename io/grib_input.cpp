// Fields in GRIB files, by ecCodes: one pass lists the messages, reads then go to their offsets.
#ifdef BOREAS_WITH_ECCODES

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>

#include "io/grib.h"
#include "io/input_files.h"
#include "io/time.h"
#include "kernels/core/error.h"

namespace boreas {
namespace {

// GRIB files do not say which value means "missing"; the decoder is told to use this one.
constexpr double kMissing = -1.7e38;
constexpr long kMostCells = 1L << 27;  // beyond them a message is damaged

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

struct DeleteHandle {
  void operator()(codes_handle* handle) const { codes_handle_delete(handle); }
};
using Message = std::unique_ptr<codes_handle, DeleteHandle>;

struct GribFile {
  std::string path;
  File file;
};

File open_file(const std::string& path) {
  File file(std::fopen(path.c_str(), "rb"));
  BOREAS_CHECK(file, io, "{}: cannot be opened", path);
  return file;
}

// The next message, or nothing at the end of the file.
Message next_message(const GribFile& from) {
  int error = 0;
  Message message(codes_handle_new_from_file(nullptr, from.file.get(), PRODUCT_GRIB, &error));
  BOREAS_CHECK(error == CODES_SUCCESS || error == CODES_END_OF_FILE, corrupt_data,
               "{}: a GRIB message before byte {} cannot be read: {}", from.path, std::ftell(from.file.get()),
               codes_get_error_message(error));
  return message;
}

std::string text(codes_handle* message, const char* key) {
  char value[256] = {};
  size_t length = sizeof value;
  return codes_get_string(message, key, value, &length) == CODES_SUCCESS ? value : "";
}

long integer(codes_handle* message, const char* key, long otherwise) {
  long value = 0;
  return codes_get_long(message, key, &value) == CODES_SUCCESS ? value : otherwise;
}

int64_t valid_date(codes_handle* message, const std::string& path) {
  const long day = integer(message, "validityDate", 0), time = integer(message, "validityTime", -1);
  BOREAS_CHECK(day > 0 && time >= 0, corrupt_data, "{}: a GRIB message has no valid date", path);
  return date_of({.year = day / 10000,
                  .month = int(day / 100 % 100),
                  .day = int(day % 100),
                  .hour = int(time / 100),
                  .minute = int(time % 100)});
}

// "_500" for u_500; nothing for fields of one level, such as 2t.
std::string level_suffix(codes_handle* message) {
  const std::string kind = text(message, "typeOfLevel");
  const long level = integer(message, "level", 0);
  if (kind == "isobaricInhPa" || kind == "hybrid" || kind == "isobaricLayer") return fmt::format("_{}", level);
  if (kind == "isobaricInPa") return fmt::format("_{:g}", double(level) / 100);
  if (kind == "depthBelowLandLayer" || kind == "soilLayer" || kind == "potentialVorticity" || kind == "theta")
    return fmt::format("_{}", level);
  return {};
}

// ecCodes trusts rows and columns to make the points.
void check_size(codes_handle* message, const std::string& path, long num_values) {
  const std::string kind = text(message, "gridType");
  const long columns = integer(message, "Ni", 0), rows = integer(message, "Nj", 0);
  if (kind.starts_with("regular"))
    BOREAS_CHECK(columns > 0 && rows > 0 && rows <= num_values && columns * rows == num_values, corrupt_data,
                 "{}: a GRIB message has {} points on {} rows of {}", path, num_values, rows, columns);
  if (!kind.starts_with("reduced")) return;
  size_t num_rows = 0;
  BOREAS_CHECK(codes_get_size(message, "pl", &num_rows) == CODES_SUCCESS && num_rows == size_t(rows), corrupt_data,
               "{}: a GRIB message of {} rows says how long {} are", path, rows, num_rows);
  std::vector<long> sizes(num_rows);
  codes_get_long_array(message, "pl", sizes.data(), &num_rows);
  const long total = std::accumulate(sizes.begin(), sizes.end(), 0L);
  BOREAS_CHECK(total == num_values, corrupt_data, "{}: a GRIB message has {} points on rows of {}", path, num_values,
               total);
}

InputGrid read_grid(codes_handle* message, const std::string& path) {
  InputGrid grid;
  long num_values = integer(message, "numberOfDataPoints", 0);
  BOREAS_CHECK(num_values <= kMostCells && integer(message, "numberOfValues", 0) <= kMostCells, unsupported,
               "{}: a GRIB message of {} points", path, num_values);
  check_size(message, path, num_values);
  std::vector<double> values(static_cast<size_t>(std::max(num_values, 0L)));
  grid.latitudes.resize(values.size());
  grid.longitudes.resize(values.size());
  const int error = codes_grib_get_data(message, grid.latitudes.data(), grid.longitudes.data(), values.data());
  const std::string kind = text(message, "gridType");
  BOREAS_CHECK(error == CODES_SUCCESS && !values.empty(), unsupported,
               "{}: the points of a grid of type '{}' cannot be found: {}", path, kind, codes_get_error_message(error));
  grid.field_shape = {num_values};
  grid.description = fmt::format("{}, {} points", kind, num_values);
  const long columns = integer(message, "Ni", 0), rows = integer(message, "Nj", 0);
  if (kind.starts_with("regular") && columns > 0 && columns * rows == num_values)
    grid.field_shape = integer(message, "jPointsAreConsecutive", 0) ? std::vector<int64_t>{columns, rows}
                                                                    : std::vector<int64_t>{rows, columns};
  if (kind == "reduced_gg")
    grid.resolution = fmt::format("{}{}", integer(message, "isOctahedral", 0) ? "o" : "n", integer(message, "N", 0));
  if (kind == "regular_ll") {
    double step = 0;
    codes_get_double(message, "iDirectionIncrementInDegrees", &step);
    grid.resolution = fmt::format("{:g}", step);
  }
  return grid;
}

}  // namespace

InputCatalog open_grib_files(const std::vector<std::string>& paths) {
  const auto open = std::make_shared<std::vector<GribFile>>();
  InputCatalog catalog;
  std::map<std::string, size_t> grid_of;                                        // by the checksum of its definition
  std::map<std::pair<std::string, size_t>, size_t> variable_of;                 // by name and grid
  std::map<std::pair<size_t, int64_t>, std::map<long, FieldLocation>> members;  // by variable and date
  const auto list = [&](const std::string& path) {
    const int32_t file_index = int32_t(open->size());
    open->push_back({path, open_file(path)});
    while (const Message message = next_message(open->back())) {
      const std::string grid_key = text(message.get(), "md5GridSection");
      if (!grid_of.contains(grid_key)) {
        catalog.grids.push_back(read_grid(message.get(), path));
        grid_of[grid_key] = catalog.grids.size() - 1;
      }
      const size_t grid = grid_of[grid_key];
      const std::string base = text(message.get(), "shortName");
      const std::string name = base + level_suffix(message.get());
      BOREAS_CHECK(base != "unknown", unsupported, "{}: ecCodes does not know the parameter {} of a message", path,
                   integer(message.get(), "paramId", 0));
      if (!variable_of.contains({name, grid})) {
        variable_of[{name, grid}] = catalog.variables.size();
        InputVariable variable;
        variable.name = name;
        variable.base = base;
        variable.units = text(message.get(), "units");
        variable.long_name = text(message.get(), "name");
        variable.grid = grid;
        catalog.variables.push_back(std::move(variable));
      }
      const int64_t date = valid_date(message.get(), path);
      const FieldLocation at{file_index, 0, integer(message.get(), "offset", 0), 0, 0};
      const bool added =
          members[{variable_of[{name, grid}], date}].emplace(integer(message.get(), "number", 0), at).second;
      BOREAS_CHECK(added, config,
                   "{}: '{}' ({}) occurs a second time at {}; keep one of them, or give files with one kind of level",
                   path, name, text(message.get(), "typeOfLevel"), format_date(date));
    }
  };
  for (const std::string& path : paths) with_eccodes(path, [&] { list(path); });
  for (const auto& [where, locations] : members)
    for (const auto& [number, location] : locations)
      catalog.variables[where.first].fields[where.second].push_back(location);

  catalog.read = [open](const FieldLocation& at, std::span<double> values) {
    const GribFile& from = (*open)[size_t(at.file)];
    with_eccodes(from.path, [&] {
      BOREAS_CHECK(std::fseek(from.file.get(), long(at.time), SEEK_SET) == 0, io, "{}: cannot be read at byte {}",
                   from.path, at.time);
      const Message message = next_message(from);
      BOREAS_CHECK(message, corrupt_data, "{}: the message at byte {} is gone", from.path, at.time);
      codes_set_double(message.get(), "missingValue", kMissing);
      size_t count = values.size();
      const int error = codes_get_double_array(message.get(), "values", values.data(), &count);
      BOREAS_CHECK(error == CODES_SUCCESS && count == values.size(), corrupt_data,
                   "{}: the message at byte {} cannot be decoded to {} values: {}", from.path, at.time, values.size(),
                   codes_get_error_message(error));
    });
    for (double& value : values)
      if (value == kMissing) value = NAN;
  };
  return catalog;
}

}  // namespace boreas

#endif
