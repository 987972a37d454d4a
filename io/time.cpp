#include "io/time.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>

#include "kernels/core/error.h"

namespace boreas {
namespace {

constexpr int64_t kMinute = 60, kHour = 3600, kDay = 86400;

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// Reads a text from the left.
struct Scanner {
  std::string_view text;

  bool take(char c) {
    if (text.empty() || text.front() != c) return false;
    text.remove_prefix(1);
    return true;
  }
  size_t count_digits() const {
    size_t n = 0;
    while (n < text.size() && text[n] >= '0' && text[n] <= '9') ++n;
    return n;
  }
  std::optional<int64_t> digits(size_t n) {
    if (count_digits() < n) return {};
    int64_t value = 0;
    for (size_t i = 0; i < n; ++i) value = value * 10 + (text[i] - '0');
    text.remove_prefix(n);
    return value;
  }
  std::optional<double> number() {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
    if (error != std::errc() || end == text.data()) return {};
    text.remove_prefix(size_t(end - text.data()));
    return value;
  }
};

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// The parsed fields and how many of year, month, day, hour, minute, second the text gave.
struct ParsedDate {
  CivilTime civil;
  int num_fields = 0;
};

std::optional<ParsedDate> parse_fields(std::string_view text) {
  Scanner in{trim(text)};
  ParsedDate parsed;
  const auto take_field = [&](auto& field, size_t width) {
    const auto value = in.digits(width);
    if (!value) return false;
    field = std::remove_reference_t<decltype(field)>(*value);
    ++parsed.num_fields;
    return true;
  };
  const size_t leading = in.count_digits();
  if (leading != 4 && leading != 6 && leading != 8) return {};
  CivilTime& civil = parsed.civil;
  take_field(civil.year, 4);
  if (leading > 4) {
    take_field(civil.month, 2);
    if (leading == 8) take_field(civil.day, 2);
  } else if (in.take('-')) {
    if (!take_field(civil.month, 2)) return {};
    if (in.take('-') && !take_field(civil.day, 2)) return {};
  }
  if (in.text.empty()) return parsed;
  if (parsed.num_fields != 3 || !(in.take('T') || in.take('t') || in.take(' '))) return {};
  if (!take_field(civil.hour, 2)) return {};
  const bool colons = in.take(':');
  if (colons || in.count_digits()) {
    if (!take_field(civil.minute, 2)) return {};
    if (colons ? in.take(':') : in.count_digits() != 0) {
      if (!take_field(civil.second, 2)) return {};
      if (in.take('.')) {
        while (in.take('0')) {
        }
      }
    }
  }
  if (in.text == "Z" || in.text == "z" || in.text == "+00:00") in.text = {};
  if (!in.text.empty()) return {};
  return parsed;
}

ParsedDate parse_or_throw(std::string_view text) {
  const auto parsed = parse_fields(text);
  BOREAS_CHECK(parsed, invalid_argument,
               "'{}' is no date: expected ISO 8601 in UTC such as 2020, 2020-01-31 or 2020-01-31T06:00:00", text);
  return *parsed;
}

struct Unit {
  std::string_view name;
  int64_t seconds;
  int months;
};
constexpr Unit kUnits[] = {{"s", 1, 0},    {"m", kMinute, 0}, {"min", kMinute, 0}, {"h", kHour, 0}, {"H", kHour, 0},
                           {"d", kDay, 0}, {"D", kDay, 0},    {"w", 7 * kDay, 0},  {"M", 0, 1},     {"y", 0, 12},
                           {"Y", 0, 12},   {"S", 1, 0},       {"W", 7 * kDay, 0}};

std::optional<TimeStep> step_of(double value, const Unit& unit) {
  const double scaled = value * (unit.months ? unit.months : unit.seconds);
  const double whole = std::round(scaled);
  if (!(scaled > 0) || scaled > 1e15 || std::abs(scaled - whole) > 1e-6) return {};
  if (unit.months) {
    if (whole > 1e6) return {};
    return TimeStep{0, int(whole)};
  }
  return TimeStep{int64_t(whole), 0};
}

const Unit* find_unit(std::string_view name) {
  for (const Unit& unit : kUnits)
    if (unit.name == name) return &unit;
  return nullptr;
}

// PT6H, P1DT12H, P1M, P1Y.
std::optional<TimeStep> parse_iso_duration(Scanner in) {
  TimeStep sum;
  bool in_time = false;
  while (!in.text.empty()) {
    if (in.take('T')) {
      in_time = true;
      continue;
    }
    const auto value = in.number();
    if (!value || in.text.empty()) return {};
    const char letter = in.text.front();
    in.text.remove_prefix(1);
    const std::string name(1, in_time && letter == 'M' ? 'm' : letter);
    const Unit* unit = find_unit(name);
    const bool of_date = letter == 'D' || letter == 'W' || letter == 'Y', of_time = letter == 'H' || letter == 'S';
    if (!unit || (in_time ? of_date : of_time)) return {};
    if (*value == 0) continue;
    const auto part = step_of(*value, *unit);
    if (!part) return {};
    sum.seconds += part->seconds;
    sum.months += part->months;
  }
  return sum;
}

// 6:00:00, 6:30, "1 day, 6:00:00".
std::optional<TimeStep> parse_clock(Scanner in) {
  int64_t days = 0;
  if (const size_t day = in.text.find(" day"); day != std::string_view::npos) {
    const auto value = in.digits(in.count_digits());
    const size_t comma = in.text.find(',');
    if (!value || comma == std::string_view::npos) return {};
    days = *value;
    in.text = trim(in.text.substr(comma + 1));
  }
  int64_t fields[3] = {0, 0, 0};
  for (int i = 0; i < 3; ++i) {
    const size_t width = in.count_digits();
    if (width == 0 || width > 9) return {};
    fields[i] = *in.digits(width);
    if (in.text.empty()) return TimeStep{days * kDay + fields[0] * kHour + fields[1] * kMinute + fields[2], 0};
    if (!in.take(':')) return {};
  }
  return {};
}

}  // namespace

CivilTime civil_time(int64_t date) {
  using namespace std::chrono;
  const int64_t day = floor_div(date, kDay);
  const int64_t second = date - day * kDay;
  const year_month_day ymd{sys_days{days{day}}};
  return {int(ymd.year()),     int(unsigned(ymd.month())),    int(unsigned(ymd.day())),
          int(second / kHour), int(second % kHour / kMinute), int(second % kMinute)};
}

int64_t date_of(const CivilTime& civil) {
  using namespace std::chrono;
  const year_month_day ymd{year{int(civil.year)}, month{unsigned(civil.month)}, day{unsigned(civil.day)}};
  BOREAS_CHECK(civil.year >= -9999 && civil.year <= 9999 && ymd.ok() && civil.hour >= 0 && civil.hour < 24 &&
                   civil.minute >= 0 && civil.minute < 60 && civil.second >= 0 && civil.second < 60,
               invalid_argument, "there is no date {:04d}-{:02d}-{:02d}T{:02d}:{:02d}:{:02d}", civil.year, civil.month,
               civil.day, civil.hour, civil.minute, civil.second);
  return sys_days{ymd}.time_since_epoch().count() * kDay + civil.hour * kHour + civil.minute * kMinute + civil.second;
}

int64_t parse_date(std::string_view text) { return date_of(parse_or_throw(text).civil); }

Range parse_date_span(std::string_view text) {
  const ParsedDate parsed = parse_or_throw(text);
  const int64_t begin = date_of(parsed.civil);
  constexpr TimeStep widths[] = {{0, 12}, {0, 1}, {kDay, 0}, {kHour, 0}, {kMinute, 0}, {1, 0}};
  return {begin, advance(begin, widths[parsed.num_fields - 1])};
}

std::string format_date(int64_t date) {
  const CivilTime c = civil_time(date);
  return fmt::format("{:04d}-{:02d}-{:02d}T{:02d}:{:02d}:{:02d}", c.year, c.month, c.day, c.hour, c.minute, c.second);
}

TimeStep parse_step(std::string_view text) {
  const auto parse = [](std::string_view trimmed) -> std::optional<TimeStep> {
    Scanner in{trimmed};
    if (in.take('P')) return parse_iso_duration(in);
    if (trimmed.find(':') != std::string_view::npos) return parse_clock(in);
    const auto value = in.number();
    if (!value) return {};
    const Unit* unit = find_unit(in.text.empty() ? "h" : trim(in.text));
    if (!unit) return {};
    return step_of(*value, *unit);
  };
  const auto step = parse(trim(text));
  BOREAS_CHECK(step && *step && !(step->seconds && step->months), invalid_argument,
               "'{}' is no time step: expected a positive whole number of seconds or of calendar months, such as 6h, "
               "1d, 730.5h, "
               "30min, 1M, PT6H",
               text);
  return *step;
}

std::string format_step(TimeStep step) {
  if (step.months)
    return step.months % 12 == 0 ? fmt::format("{}y", step.months / 12) : fmt::format("{}M", step.months);
  if (step.seconds % kDay == 0) return fmt::format("{}d", step.seconds / kDay);
  if (step.seconds % kHour == 0) return fmt::format("{}h", step.seconds / kHour);
  if (step.seconds > kHour && step.seconds * 100 % kHour == 0) return fmt::format("{}h", double(step.seconds) / kHour);
  if (step.seconds % kMinute == 0) return fmt::format("{}m", step.seconds / kMinute);
  return fmt::format("{}s", step.seconds);
}

std::string frequency_attribute(TimeStep step) {
  if (step.months) return fmt::format("P{}M", step.months);
  const std::pair<int64_t, char> units[] = {{kDay, 'd'}, {kHour, 'h'}, {kMinute, 'm'}, {1, 's'}};
  for (const auto& [seconds, letter] : units)
    if (step.seconds % seconds == 0) return fmt::format("{}{}", step.seconds / seconds, letter);
  return {};
}

int64_t advance(int64_t date, TimeStep step, int64_t n) {
  if (!step.months) return date + n * step.seconds;
  using namespace std::chrono;
  CivilTime civil = civil_time(date);
  const int64_t months = civil.year * 12 + civil.month - 1 + n * step.months;
  civil.year = floor_div(months, 12);
  civil.month = int(months - civil.year * 12 + 1);
  const year_month_day_last last{year{int(civil.year)}, month_day_last{month{unsigned(civil.month)}}};
  civil.day = std::min(civil.day, int(unsigned(last.day())));
  return date_of(civil);
}

std::optional<int64_t> multiple_of(TimeStep step, TimeStep part) {
  if (bool(step.months) != bool(part.months) || !part) return {};
  const int64_t whole = step.months ? step.months : step.seconds;
  const int64_t divisor = part.months ? part.months : part.seconds;
  if (whole < divisor || whole % divisor != 0) return {};
  return whole / divisor;
}

std::optional<int64_t> steps_between(int64_t origin, int64_t date, TimeStep step) {
  if (!step) return {};
  int64_t n = 0;
  if (step.months) {
    const CivilTime a = civil_time(origin), b = civil_time(date);
    n = floor_div((b.year - a.year) * 12 + b.month - a.month, step.months);
  } else {
    n = floor_div(date - origin, step.seconds);
  }
  if (advance(origin, step, n) != date) return {};
  return n;
}

std::optional<TimeStep> regular_step(std::span<const int64_t> dates) {
  if (dates.size() < 2 || dates[1] <= dates[0]) return {};
  const CivilTime first = civil_time(dates[0]), second = civil_time(dates[1]);
  const int64_t months = (second.year - first.year) * 12 + second.month - first.month;
  const TimeStep candidates[] = {{dates[1] - dates[0], 0}, {0, int(months)}};
  for (const TimeStep step : candidates) {
    if (!step) continue;
    bool regular = true;
    for (size_t i = 1; i < dates.size() && regular; ++i) regular = dates[i] == advance(dates[0], step, int64_t(i));
    if (regular) return step;
  }
  return {};
}

Range select_dates(std::span<const int64_t> dates, std::string_view start, std::string_view end,
                   std::string_view what) {
  const int64_t n = int64_t(dates.size());
  const auto share = [&](std::string_view text) -> std::optional<int64_t> {
    Scanner in{trim(text)};
    const auto percent = in.number();
    if (!percent || !in.take('%')) return {};
    BOREAS_CHECK(in.text.empty() && *percent >= 0 && *percent <= 100, invalid_argument,
                 "{}: '{}' is no share of the dates: expected 0% to 100%", what, text);
    return int64_t(*percent * double(n) / 100 + 0x1p-30);
  };
  const auto first_from = [&](int64_t date) {
    return std::lower_bound(dates.begin(), dates.end(), date) - dates.begin();
  };
  const auto span = [&](std::string_view text) {
    try {
      return parse_date_span(text);
    } catch (const Error& error) {
      BOREAS_FAIL(invalid_argument, "{}: {}", what, error.what());
    }
  };
  Range kept{0, n};
  if (!start.empty()) {
    const auto index = share(start);
    kept.begin = index ? *index : first_from(span(start).begin);
  }
  if (!end.empty()) {
    const auto index = share(end);
    kept.end = index ? *index : first_from(span(end).end);
  }
  BOREAS_CHECK(kept.begin < kept.end, invalid_argument, "no date of {} lies between start '{}' and end '{}': it has {}",
               what, start.empty() ? "(first)" : start, end.empty() ? "(last)" : end,
               n ? fmt::format("{} dates from {} to {}", n, format_date(dates.front()), format_date(dates.back()))
                 : std::string("no dates"));
  return kept;
}

}  // namespace boreas
