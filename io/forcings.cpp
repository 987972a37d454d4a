#include "io/forcings.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "io/time.h"
#include "kernels/core/error.h"
#include "kernels/core/near_names.h"

namespace boreas {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double radians(double degrees) { return degrees * kPi / 180; }

// What the formulae need of a date.
struct Moment {
  double julian_day;  // days since 1 January 00:00
  double hours;       // since 00:00
  int hour;           // whole hours since 00:00
  double year_angle() const { return 2 * kPi * julian_day / 365.25; }
};

Moment moment_of(int64_t date) {
  const CivilTime civil = civil_time(date);
  const int64_t new_year = date_of({.year = civil.year});
  const int64_t second = civil.hour * 3600 + civil.minute * 60 + civil.second;
  return {double(date - new_year) / 86400, double(second) / 3600, civil.hour};
}

double local_time(const Moment& m, double longitude) {
  const double t = std::fmod(longitude / 360 * 24 + m.hours, 24.0);
  return t < 0 ? t + 24 : t;
}

// The sun's place in the sky of a moment: declination and the part of the hour angle that is the same everywhere.
struct Sun {
  double sin_declination, cos_declination, hour_angle_deg;

  explicit Sun(const Moment& m) {
    const double a = m.year_angle();
    const double declination =
        radians(0.396372 - 22.91327 * std::cos(a) + 4.025430 * std::sin(a) - 0.387205 * std::cos(2 * a) +
                0.051967 * std::sin(2 * a) - 0.154527 * std::cos(3 * a) + 0.084798 * std::sin(3 * a));
    const double correction = 0.004297 + 0.107029 * std::cos(a) - 1.837877 * std::sin(a) - 0.837378 * std::cos(2 * a) -
                              2.340475 * std::sin(2 * a);
    sin_declination = std::sin(declination);
    cos_declination = std::cos(declination);
    hour_angle_deg = (m.hour - 12) * 15 + correction;
  }
  double cos_zenith(double latitude, double longitude) const {
    const double p = radians(latitude);
    return std::max(0.0, sin_declination * std::sin(p) +
                             cos_declination * std::cos(p) * std::cos(radians(hour_angle_deg + longitude)));
  }
};

// Energy on a surface that faces the sun, in J m-2 for an hour.
double solar_energy(const Moment& m) { return 4892416.0 + 165120.0 * std::cos(m.year_angle()); }

// One forcing: whether it depends on the date, its units, and how it is evaluated for all cells.
struct Forcing {
  std::string_view name;
  bool constant;
  std::string_view units;
  void (*evaluate)(int64_t date, std::span<const double> lat, std::span<const double> lon, double* out);
};

template <class F>
void for_each_cell(std::span<const double> lat, std::span<const double> lon, double* out, F f) {
  for (size_t i = 0; i < lat.size(); ++i) out[i] = f(lat[i], lon[i]);
}

void insolation(int64_t date, std::span<const double> lat, std::span<const double> lon, double* out) {
  const Sun sun(moment_of(date));
  for_each_cell(lat, lon, out, [&](double p, double l) { return sun.cos_zenith(p, l); });
}

// Mean over the hour around the date: two halves, three nodes each. The nodes are those of the reference, sqrt(5/9)
// and not the sqrt(3/5) of Gauss and Legendre; it also drops fractions of seconds.
void toa_radiation(int64_t date, std::span<const double> lat, std::span<const double> lon, double* out) {
  std::fill(out, out + lat.size(), 0.0);
  const double node = std::sqrt(5.0 / 9.0);
  for (int half = 0; half < 2; ++half)
    for (const auto& [place, weight] : {std::pair{-node, 5.0 / 9}, {0.0, 8.0 / 9}, {node, 5.0 / 9}}) {
      const double seconds = 900.0 + 1800.0 * half + 900.0 * place;
      const int64_t at = date - 1800 + int64_t(std::floor(std::round(seconds * 1e6) / 1e6));
      const Moment m = moment_of(at);
      const Sun sun(m);
      const double scale = weight / 4 * solar_energy(m);
      for (size_t i = 0; i < lat.size(); ++i) out[i] += scale * sun.cos_zenith(lat[i], lon[i]);
    }
}

template <double (*F)(double, double)>
void of_place(int64_t, std::span<const double> lat, std::span<const double> lon, double* out) {
  for_each_cell(lat, lon, out, F);
}
template <double (*F)(const Moment&, double)>
void of_longitude_and_date(int64_t date, std::span<const double> lat, std::span<const double> lon, double* out) {
  const Moment m = moment_of(date);
  for_each_cell(lat, lon, out, [&](double, double l) { return F(m, l); });
}

constexpr auto kForcings = std::to_array<Forcing>({
    {"latitude", true, "degrees_north", of_place<[](double p, double) { return p; }>},
    {"longitude", true, "degrees_east", of_place<[](double, double l) { return l; }>},
    {"cos_latitude", true, "1", of_place<[](double p, double) { return std::cos(radians(p)); }>},
    {"sin_latitude", true, "1", of_place<[](double p, double) { return std::sin(radians(p)); }>},
    {"cos_longitude", true, "1", of_place<[](double, double l) { return std::cos(radians(l)); }>},
    {"sin_longitude", true, "1", of_place<[](double, double l) { return std::sin(radians(l)); }>},
    {"ecef_x", true, "1", of_place<[](double p, double l) { return std::cos(radians(p)) * std::cos(radians(l)); }>},
    {"ecef_y", true, "1", of_place<[](double p, double l) { return std::cos(radians(p)) * std::sin(radians(l)); }>},
    {"ecef_z", true, "1", of_place<[](double p, double) { return std::sin(radians(p)); }>},
    {"julian_day", false, "d", of_longitude_and_date<[](const Moment& m, double) { return m.julian_day; }>},
    {"cos_julian_day", false, "1",
     of_longitude_and_date<[](const Moment& m, double) { return std::cos(m.year_angle()); }>},
    {"sin_julian_day", false, "1",
     of_longitude_and_date<[](const Moment& m, double) { return std::sin(m.year_angle()); }>},
    {"local_time", false, "h", of_longitude_and_date<local_time>},
    {"cos_local_time", false, "1",
     of_longitude_and_date<[](const Moment& m, double l) { return std::cos(2 * kPi * local_time(m, l) / 24); }>},
    {"sin_local_time", false, "1",
     of_longitude_and_date<[](const Moment& m, double l) { return std::sin(2 * kPi * local_time(m, l) / 24); }>},
    {"insolation", false, "1", insolation},
    {"cos_solar_zenith_angle", false, "1", insolation},
    {"toa_incident_solar_radiation", false, "J m**-2", toa_radiation},
});

struct ParsedName {
  const Forcing* forcing = nullptr;
  int64_t shift = 0;  // seconds
};

ParsedName parse_name(std::string_view name) {
  ParsedName parsed;
  if (const size_t sign = name.find_last_of("+-"); sign != std::string_view::npos && sign > 0) {
    const std::string_view suffix = name.substr(sign + 1);
    const bool valid = suffix.size() >= 2 && (suffix.back() == 'h' || suffix.back() == 'd') &&
                       std::all_of(suffix.begin(), suffix.end() - 1, [](char c) { return c >= '0' && c <= '9'; });
    if (!valid || suffix.size() > 8) return {};
    const int64_t count = std::stoll(std::string(suffix.substr(0, suffix.size() - 1)));
    parsed.shift = (name[sign] == '-' ? -1 : 1) * count * (suffix.back() == 'h' ? 3600 : 86400);
    name = name.substr(0, sign);
  }
  for (const Forcing& forcing : kForcings)
    if (forcing.name == name) parsed.forcing = &forcing;
  return parsed;
}

}  // namespace

bool is_computed_forcing(std::string_view name) { return parse_name(name).forcing != nullptr; }

bool is_constant_forcing(std::string_view name) {
  const Forcing* forcing = parse_name(name).forcing;
  return forcing && forcing->constant;
}

std::vector<std::string> computed_forcing_names() {
  std::vector<std::string> names;
  for (const Forcing& forcing : kForcings) names.emplace_back(forcing.name);
  std::sort(names.begin(), names.end());
  return names;
}

std::string forcing_units(std::string_view name) {
  const Forcing* forcing = parse_name(name).forcing;
  return forcing ? std::string(forcing->units) : std::string();
}

void compute_forcing(std::string_view name, int64_t date, std::span<const double> latitudes_deg,
                     std::span<const double> longitudes_deg, std::span<double> out) {
  const ParsedName parsed = parse_name(name);
  BOREAS_CHECK(parsed.forcing, invalid_argument, "there is no computed forcing '{}'{}", name,
               near_names(name, computed_forcing_names()));
  BOREAS_CHECK(latitudes_deg.size() == longitudes_deg.size() && out.size() == latitudes_deg.size(), shape,
               "computed forcing '{}': {} latitudes, {} longitudes and {} values must agree", name,
               latitudes_deg.size(), longitudes_deg.size(), out.size());
  parsed.forcing->evaluate(date + parsed.shift, latitudes_deg, longitudes_deg, out.data());
}

void compute_forcing(std::string_view name, int64_t date, std::span<const double> latitudes_deg,
                     std::span<const double> longitudes_deg, std::span<float> out) {
  std::vector<double> values(out.size());
  compute_forcing(name, date, latitudes_deg, longitudes_deg, std::span<double>(values));
  for (size_t i = 0; i < out.size(); ++i) out[i] = float(values[i]);
}

}  // namespace boreas
