// Forcings that follow from date and place alone. Datasets, training and forecasts share these formulae.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace boreas {

/// Computed forcings, with latitude p and longitude l in degrees and dates in UTC:
///
///   latitude, longitude; cos_ and sin_ of either; ecef_x, ecef_y, ecef_z (the point on the unit sphere)
///   julian_day J = days since 1 January 00:00 of the year, with fraction; cos_/sin_julian_day of 2 pi J / 365.25
///   local_time T = (l / 360 * 24 + hours since 00:00 UTC) mod 24; cos_/sin_local_time of 2 pi T / 24
///   insolation = cos_solar_zenith_angle = max(0, sin d sin p + cos d cos p cos H), declination d and hour angle H from
///     Fourier series in J; the hour angle uses the whole hour, as the reference does
///   toa_incident_solar_radiation: energy in J m-2 of the hour around the date
///
/// A suffix such as +6h, -1d evaluates the forcing at the shifted date. Computed in f64.
/// Source: earthkit-data (sources/forcings.py), earthkit-meteo (solar.py).
bool is_computed_forcing(std::string_view name);

/// Whether it depends on the place only. False for names that are no computed forcing.
bool is_constant_forcing(std::string_view name);

std::vector<std::string> computed_forcing_names();  ///< without suffixes, sorted
std::string forcing_units(std::string_view name);

/// out[i] = forcing at (latitudes[i], longitudes[i]). Throws invalid_argument for an unknown name and shape if the
/// lengths differ.
void compute_forcing(std::string_view name, int64_t date, std::span<const double> latitudes_deg,
                     std::span<const double> longitudes_deg, std::span<double> out);
void compute_forcing(std::string_view name, int64_t date, std::span<const double> latitudes_deg,
                     std::span<const double> longitudes_deg, std::span<float> out);

}  // namespace boreas
