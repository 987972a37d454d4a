#include "io/cf_time.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "io/time.h"
#include "kernels/core/error.h"

namespace boreas {
namespace {

std::optional<double> unit_seconds(std::string_view unit) {
  std::string name(unit);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  if (name.size() > 1 && name.back() == 's' && name != "ms") name.pop_back();
  if (name == "second" || name == "sec" || name == "s") return 1;
  if (name == "minute" || name == "min") return 60;
  if (name == "hour" || name == "hr" || name == "h") return 3600;
  if (name == "day" || name == "d") return 86400;
  if (name == "week") return 7 * 86400;
  if (name == "millisecond" || name == "msec" || name == "ms") return 1e-3;
  return {};
}

// The numbers in "1980-01-14 14:00:00.0": year, month, day, hour, minute, second, and what follows them.
struct Reference {
  int64_t year = 0;
  int month = 1, day = 1;
  double seconds = 0;  // since midnight, the time zone taken off
};

std::optional<Reference> parse_reference(std::string_view text) {
  const auto skip = [&](std::string_view characters) {
    while (!text.empty() && characters.find(text.front()) != std::string_view::npos) text.remove_prefix(1);
  };
  const auto number = [&]() -> std::optional<double> {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
    if (error != std::errc() || !(value >= 0 && value < 1e6)) return {};
    text.remove_prefix(size_t(end - text.data()));
    return value;
  };
  const auto take = [&](char c) {
    if (text.empty() || text.front() != c) return false;
    text.remove_prefix(1);
    return true;
  };
  Reference result;
  const auto year = number();
  if (!year || !take('-')) return {};
  const auto month = number();
  if (!month || !take('-')) return {};
  const auto day = number();
  if (!day) return {};
  result.year = int64_t(*year);
  result.month = int(*month);
  result.day = int(*day);
  skip("Tt ");
  double scale = 3600;
  for (int field = 0; field < 3 && !text.empty() && text.front() >= '0' && text.front() <= '9'; ++field, scale /= 60) {
    const auto value = number();
    if (!value) return {};
    result.seconds += *value * scale;
    if (!take(':')) break;
  }
  skip(" ");
  if (text.empty() || text == "Z" || text == "UTC" || text == "GMT") return result;
  const double sign = text.front() == '-' ? 1 : -1;
  if (!take('+') && !take('-')) return {};
  const auto hours = number();
  if (!hours) return {};
  const bool compact = *hours > 24;  // +0100
  double offset = compact ? std::floor(*hours / 100) * 3600 + std::fmod(*hours, 100) * 60 : *hours * 3600;
  if (take(':')) {
    const auto minutes = number();
    if (!minutes) return {};
    offset += *minutes * 60;
  }
  if (!text.empty()) return {};
  result.seconds += sign * offset;
  return result;
}

// Seconds since 1970 of the midnight that starts a day of the Julian calendar (Richards 2013, Explanatory Supplement
// to the Astronomical Almanac, 15.11).
int64_t julian_calendar_day(int64_t year, int month, int day) {
  const int64_t a = (14 - month) / 12, y = year + 4800 - a, m = month + 12 * a - 3;
  const int64_t julian_day_number = day + (153 * m + 2) / 5 + 365 * y + (y >= 0 ? y / 4 : (y - 3) / 4) - 32083;
  return (julian_day_number - 2440588) * 86400;
}

}  // namespace

std::vector<int64_t> decode_cf_times(std::span<const double> values, std::string_view units, std::string_view calendar,
                                     const std::string& where) {
  BOREAS_CHECK(calendar.empty() || calendar == "standard" || calendar == "gregorian" ||
                   calendar == "proleptic_gregorian" || calendar == "GREGORIAN" || calendar == "STANDARD",
               unsupported, "{}: calendar '{}' is not supported, only standard, gregorian and proleptic_gregorian",
               where, calendar);
  const size_t since = units.find(" since ");
  BOREAS_CHECK(since != std::string_view::npos, corrupt_data,
               "{}: the units '{}' are not of the form 'hours since 1970-01-01'", where, units);
  const std::string_view unit = units.substr(0, since);
  BOREAS_CHECK(!unit.starts_with("month") && !unit.starts_with("year"), unsupported,
               "{}: units of {} have no fixed length; expected seconds, minutes, hours or days", where, unit);
  const auto scale = unit_seconds(unit);
  const auto reference = parse_reference(units.substr(since + 7));
  BOREAS_CHECK(scale && reference, corrupt_data, "{}: the units '{}' are not of the form 'hours since 1970-01-01'",
               where, units);
  const bool julian =
      calendar != "proleptic_gregorian" &&
      (reference->year < 1582 ||
       (reference->year == 1582 && (reference->month < 10 || (reference->month == 10 && reference->day < 15))));
  BOREAS_CHECK(reference->year <= 9999 && reference->month >= 1 && reference->month <= 12 && reference->day >= 1 &&
                   reference->day <= 31,
               corrupt_data, "{}: the units '{}' count from no date", where, units);
  const int64_t origin = julian ? julian_calendar_day(reference->year, reference->month, reference->day)
                                : date_of({.year = reference->year, .month = reference->month, .day = reference->day});
  std::vector<int64_t> dates;
  for (const double value : values) {
    // The whole days of the origin are added as integers, so that no precision is lost to a far origin.
    const double seconds = value * *scale + reference->seconds;
    BOREAS_CHECK(std::abs(seconds) < 1e13, corrupt_data, "{}: the value {} in '{}' is no date", where, value, units);
    dates.push_back(origin + int64_t(std::llround(seconds)));
  }
  return dates;
}

}  // namespace boreas
