// Dates and time steps: int64 seconds since 1970-01-01T00:00:00 UTC in the proleptic Gregorian calendar.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kernels/core/tensor.h"

namespace boreas {

/// The fields of a date. month and day count from 1.
struct CivilTime {
  int64_t year = 1970;
  int month = 1, day = 1, hour = 0, minute = 0, second = 0;
};

CivilTime civil_time(int64_t date);
int64_t date_of(const CivilTime& civil);  ///< throws invalid_argument for a 13th month, a 30th of February, ...

/// ISO 8601: 2020, 2020-01, 202001, 2020-01-31, 20200131, 2020-01-31T06, ...T06:30, ...T06:30:15, a space instead of
/// T, an optional Z, fractions of zero. Missing fields are the earliest.
int64_t parse_date(std::string_view text);
/// All seconds that the text may mean: "2020-02" is [2020-02-01T00:00:00, 2020-03-01T00:00:00), a full date and time
/// one second.
Range parse_date_span(std::string_view text);
std::string format_date(int64_t date);  ///< "2020-01-31T06:00:00"

/// A regular step: either seconds or calendar months, never both; {0, 0} is "none".
struct TimeStep {
  int64_t seconds = 0;
  int months = 0;
  bool operator==(const TimeStep&) const = default;
  explicit operator bool() const { return seconds != 0 || months != 0; }
};

/// "6h", "1d", "30m" or "30min" (minutes), "730.5h", "2629800s", "1w", "1M" (calendar month), "1y", "6:00:00", "PT6H",
/// "P1M"; a bare number means hours. Must be positive and a whole number of seconds.
TimeStep parse_step(std::string_view text);
std::string format_step(TimeStep step);  ///< the shortest of the forms above: "6h", "1d", "730.5h", "1M"

/// The form that Anemoi datasets hold, whole numbers of d, h, m (minutes) or s: "43830m"; "P1M" for months.
std::string frequency_attribute(TimeStep step);

/// date + n steps (n may be negative). Months keep day and time of day; a day that the month lacks becomes its last.
int64_t advance(int64_t date, TimeStep step, int64_t n = 1);
/// n steps as seconds from `date`: the lead time.
inline int64_t lead_seconds(int64_t date, TimeStep step, int64_t n) { return advance(date, step, n) - date; }
/// step = n * part for an integer n >= 1, else nothing: {24h, 6h} is 4.
std::optional<int64_t> multiple_of(TimeStep step, TimeStep part);
/// n with date = advance(origin, step, n), else nothing.
std::optional<int64_t> steps_between(int64_t origin, int64_t date, TimeStep step);

/// The step of evenly spaced dates, in seconds if they are evenly spaced, else in months; nothing if they are neither
/// or fewer than two.
std::optional<TimeStep> regular_step(std::span<const int64_t> dates);

/// Indices [begin, end) of the sorted dates that lie in start..end, both inclusive. A year, month or day means all of
/// it; "80%" means that share of the dates; an empty text does not restrict; what lies outside is rounded inwards.
/// Throws invalid_argument if no date is left. `what` names the dates in the message.
Range select_dates(std::span<const int64_t> dates, std::string_view start, std::string_view end, std::string_view what);

}  // namespace boreas
