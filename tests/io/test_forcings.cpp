#include "io/forcings.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "io/time.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

double at(std::string_view name, std::string_view date, double latitude, double longitude) {
  double value = NAN;
  compute_forcing(name, parse_date(date), {&latitude, 1}, {&longitude, 1}, std::span(&value, 1));
  return value;
}

// Values of the reference implementation.
TEST(Forcings, MatchTheReference) {
  struct Case {
    const char* date;
    double latitude, longitude;
    std::map<std::string, double> expected;
  };
  const Case cases[] = {{"2020-01-01T00:00",
                         0,
                         180,
                         {{"cos_julian_day", 1},
                          {"sin_julian_day", 0},
                          {"local_time", 12},
                          {"cos_local_time", -1},
                          {"sin_local_time", 0},
                          {"insolation", 0.920030668}}},
                        {"2021-03-15T06:00",
                         45,
                         10,
                         {{"cos_julian_day", 0.305743076},
                          {"sin_julian_day", 0.952114054},
                          {"local_time", 6.66666666667},
                          {"cos_local_time", -0.173648178},
                          {"sin_local_time", 0.984807753},
                          {"insolation", 0.064413536}}},
                        {"2021-03-15T06:30",
                         45,
                         10,
                         {{"cos_julian_day", 0.305401835},
                          {"sin_julian_day", 0.952223566},
                          {"local_time", 7.16666666667},
                          {"cos_local_time", -0.300705800},
                          {"sin_local_time", 0.953716951},
                          {"insolation", 0.064533469}}},
                        {"2020-06-21T12:00",
                         -30,
                         350,
                         {{"cos_julian_day", -0.984869922},
                          {"sin_julian_day", 0.173295227},
                          {"local_time", 11.33333333333},
                          {"cos_local_time", -0.984807753},
                          {"sin_local_time", 0.173648178},
                          {"insolation", 0.582381272}}},
                        {"2020-12-31T18:00",
                         60.5,
                         200.25,
                         {{"cos_julian_day", 0.999963010},
                          {"sin_julian_day", 0.008601106},
                          {"local_time", 7.35},
                          {"cos_local_time", -0.346117057},
                          {"sin_local_time", 0.938191336},
                          {"insolation", 0}}}};
  for (const Case& c : cases)
    for (const auto& [name, expected] : c.expected)
      EXPECT_NEAR(at(name, c.date, c.latitude, c.longitude), expected, 1e-9) << name << " " << c.date;
}

TEST(Forcings, FollowTheirFormulae) {
  const double pi = std::acos(-1.0), p = 35.0, l = -110.0, rad = pi / 180;
  const char* date = "2020-07-04T09:15:00";
  EXPECT_DOUBLE_EQ(at("latitude", date, p, l), p);
  EXPECT_DOUBLE_EQ(at("longitude", date, p, l), l);
  EXPECT_NEAR(at("cos_latitude", date, p, l), std::cos(p * rad), 1e-15);
  EXPECT_NEAR(at("sin_latitude", date, p, l), std::sin(p * rad), 1e-15);
  EXPECT_NEAR(at("cos_longitude", date, p, l), std::cos(l * rad), 1e-15);
  EXPECT_NEAR(at("sin_longitude", date, p, l), std::sin(l * rad), 1e-15);
  EXPECT_NEAR(at("ecef_x", date, p, l), std::cos(p * rad) * std::cos(l * rad), 1e-15);
  EXPECT_NEAR(at("ecef_y", date, p, l), std::cos(p * rad) * std::sin(l * rad), 1e-15);
  EXPECT_NEAR(at("ecef_z", date, p, l), std::sin(p * rad), 1e-15);
  EXPECT_DOUBLE_EQ(at("julian_day", date, p, l), 185 + (9 * 3600 + 900) / 86400.0);
  EXPECT_NEAR(at("local_time", date, p, l), 9.25 - 110.0 / 15, 1e-12);
  EXPECT_NEAR(at("local_time", "2020-07-04T02:00", p, l), 2 - 110.0 / 15 + 24, 1e-12);
  EXPECT_DOUBLE_EQ(at("cos_solar_zenith_angle", date, p, l), at("insolation", date, p, l));
}

// The hour around the date, by many small parts, with the hour angle frozen within an hour as the formula has it.
TEST(Forcings, IncidentRadiationIsTheHourlyMean) {
  const double pi = std::acos(-1.0);
  for (const char* date : {"2021-03-20T12:00", "2020-06-21T10:00"}) {
    double sum = 0;
    const int parts = 3600;
    for (int i = 0; i < parts; ++i) {
      const std::string moment = format_date(parse_date(date) - 1800 + i);
      const double angle = 2 * pi * at("julian_day", moment, 0, 0) / 365.25;
      sum += at("insolation", moment, 20, 5) * (4892416 + 165120 * std::cos(angle)) / parts;
    }
    EXPECT_NEAR(at("toa_incident_solar_radiation", date, 20, 5) / sum, 1, 1e-4) << date;
  }
}

TEST(Forcings, SuffixesShiftTheDate) {
  EXPECT_EQ(at("cos_julian_day+6h", "2020-03-01", 0, 0), at("cos_julian_day", "2020-03-01T06", 0, 0));
  EXPECT_EQ(at("insolation-1d", "2020-03-01T12", 10, 0), at("insolation", "2020-02-29T12", 10, 0));
  EXPECT_TRUE(is_computed_forcing("insolation+24h"));
  for (const char* name : {"insolation+", "insolation+h", "insolation+6x", "+6h", "insolation+6", "u_500", ""})
    EXPECT_FALSE(is_computed_forcing(name)) << name;
}

TEST(Forcings, KnowWhichAreConstant) {
  for (const char* name : {"cos_latitude", "sin_longitude", "ecef_z", "latitude"})
    EXPECT_TRUE(is_constant_forcing(name));
  for (const char* name : {"insolation", "julian_day", "cos_local_time", "t2m"})
    EXPECT_FALSE(is_constant_forcing(name));
  for (const std::string& name : computed_forcing_names()) {
    EXPECT_TRUE(is_computed_forcing(name));
    EXPECT_FALSE(forcing_units(name).empty());
    EXPECT_EQ(is_constant_forcing(name), at(name, "2020-01-01", 5, 50) == at(name, "2020-04-10T07:10:00", 5, 50))
        << name;
  }
}

TEST(Forcings, RejectUnknownNamesAndUnequalLengths) {
  double value = 0;
  const double place[2] = {1, 2};
  BOREAS_EXPECT_ERROR(at("insolatoin", "2020", 0, 0), invalid_argument, "insolation");
  BOREAS_EXPECT_ERROR(compute_forcing("latitude", 0, {place, 2}, {place, 1}, std::span(&value, 1)), shape, "latitude");
}

TEST(Forcings, SinglePrecisionIsTheRoundedValue) {
  const double latitude = 12.5, longitude = 99;
  float value = 0;
  compute_forcing("insolation", parse_date("2020-02-03T06"), {&latitude, 1}, {&longitude, 1}, std::span(&value, 1));
  EXPECT_EQ(value, float(at("insolation", "2020-02-03T06", latitude, longitude)));
}

}  // namespace
}  // namespace boreas
