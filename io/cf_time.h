// Times as the CF conventions store them: numbers of a unit since a date.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace boreas {

/// Dates of values in units such as "hours since 1980-01-14 14:00:00", rounded to whole seconds. Calendars: "" and
/// "standard" or "gregorian" (Julian before 15 October 1582, as CF has it) and "proleptic_gregorian". Throws
/// unsupported for other calendars and for months and years, corrupt_data for anything else; `where` starts the
/// message.
std::vector<int64_t> decode_cf_times(std::span<const double> values, std::string_view units, std::string_view calendar,
                                     const std::string& where);

}  // namespace boreas
