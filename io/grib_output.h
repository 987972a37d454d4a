// Fields as GRIB 2 messages, by ecCodes.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "io/forecast_writer.h"

namespace boreas {

/// Makes an empty file, after a trial of every variable: all errors that a layout can cause come here. `path` is for
/// messages. Throws unsupported, see create_forecast.
void create_grib(const std::string& path, const std::string& partial, const ForecastLayout& layout);

/// No message of the layout is larger, in bytes.
int64_t grib_slot_bytes(const std::string& path, const ForecastLayout& layout);

/// One field [num_cells], of a variable, a forecast and a step by their places in the layout, in 16 bit of its own
/// range; NaN is missing. One thread at a time encodes.
std::vector<std::byte> encode_grib(const std::string& path, const ForecastLayout& layout, int64_t variable,
                                   int64_t forecast, int64_t step, const float* values);

}  // namespace boreas
