#include "io/time.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/tolerances.h"

namespace boreas {
namespace {

constexpr int64_t kDay = 86400, kHour = 3600;

std::vector<int64_t> make_dates(std::string_view first, TimeStep step, int64_t n) {
  std::vector<int64_t> dates;
  for (int64_t i = 0; i < n; ++i) dates.push_back(advance(parse_date(first), step, i));
  return dates;
}

TEST(Time, ParsesIsoDatesOfEveryLength) {
  EXPECT_EQ(parse_date("1970"), 0);
  EXPECT_EQ(parse_date("1970-02"), 31 * kDay);
  EXPECT_EQ(parse_date("197002"), 31 * kDay);
  EXPECT_EQ(parse_date("1970-01-02"), kDay);
  EXPECT_EQ(parse_date("19700102"), kDay);
  EXPECT_EQ(parse_date("1970-01-02T03"), kDay + 3 * kHour);
  EXPECT_EQ(parse_date("1970-01-02 03:04"), kDay + 3 * kHour + 240);
  EXPECT_EQ(parse_date("1970-01-02T03:04:05Z"), kDay + 3 * kHour + 245);
  EXPECT_EQ(parse_date("1970-01-02T03:04:05.000"), kDay + 3 * kHour + 245);
  EXPECT_EQ(parse_date("19700102T030405"), kDay + 3 * kHour + 245);
  EXPECT_EQ(parse_date("1969-12-31T23:59:59"), -1);
  EXPECT_EQ(parse_date("2000-02-29"), 951782400);
  EXPECT_EQ(parse_date("1582-10-10"), -12219724800);
}

TEST(Time, RejectsWhatIsNoDate) {
  for (const char* text :
       {"", "x", "19", "2020-13-01", "2020-02-30", "2021-02-29", "2020-01-01T24", "2020-01-01T00:60", "2020-1-1",
        "2020-01-01T", "2020-01-01T00:00:00+02:00", "2020-01T06", "20200101junk", "2020-01-01T00:00:00.5"})
    BOREAS_EXPECT_ERROR(parse_date(text), invalid_argument, "date");
}

TEST(Time, FormatsAndParsesBack) {
  for (const int64_t date :
       {int64_t(0), int64_t(-1), int64_t(951782400 + 3661), int64_t(-62135596800), int64_t(4102444799)})
    EXPECT_EQ(parse_date(format_date(date)), date) << format_date(date);
  EXPECT_EQ(format_date(parse_date("1982-01-16T20:00")), "1982-01-16T20:00:00");
}

TEST(Time, DateSpansCoverYearMonthAndDay) {
  EXPECT_EQ(parse_date_span("2020"), (Range{parse_date("2020-01-01"), parse_date("2021-01-01")}));
  EXPECT_EQ(parse_date_span("2020-02"), (Range{parse_date("2020-02-01"), parse_date("2020-03-01")}));
  EXPECT_EQ(parse_date_span("2020-02-28"), (Range{parse_date("2020-02-28"), parse_date("2020-02-29")}));
  EXPECT_EQ(parse_date_span("2020-02-28T06"), (Range{parse_date("2020-02-28T06"), parse_date("2020-02-28T07")}));
  EXPECT_EQ(parse_date_span("2020-02-28T06:00:00").size(), 1);
}

TEST(Time, ParsesSteps) {
  const std::pair<const char*, TimeStep> cases[] = {{"6h", {6 * kHour, 0}},
                                                    {"6", {6 * kHour, 0}},
                                                    {"6H", {6 * kHour, 0}},
                                                    {"1d", {kDay, 0}},
                                                    {"30m", {1800, 0}},
                                                    {"30min", {1800, 0}},
                                                    {"730.5h", {2629800, 0}},
                                                    {"2629800s", {2629800, 0}},
                                                    {"1M", {0, 1}},
                                                    {"1y", {0, 12}},
                                                    {"2w", {14 * kDay, 0}},
                                                    {"6:00:00", {6 * kHour, 0}},
                                                    {"1:30", {5400, 0}},
                                                    {"PT6H", {6 * kHour, 0}},
                                                    {"P1D", {kDay, 0}},
                                                    {"P1M", {0, 1}},
                                                    {"PT30M", {1800, 0}},
                                                    {"P1DT12H", {36 * kHour, 0}},
                                                    {"P0Y1M", {0, 1}},
                                                    {" 12 h ", {12 * kHour, 0}},
                                                    {"1 day, 6:00:00", {30 * kHour, 0}},
                                                    {"2 days, 0:00:00", {48 * kHour, 0}}};
  for (const auto& [text, step] : cases) EXPECT_EQ(parse_step(text), step) << text;
}

TEST(Time, RejectsWhatIsNoStep) {
  for (const char* text :
       {"", "h", "0h", "-6h", "6x", "0.0001s", "1.5M", "P1M1D", "PT", "P", "1e3h", "nan", "6h6h", "1:2:3:4"})
    BOREAS_EXPECT_ERROR(parse_step(text), invalid_argument, "is no time step");
}

TEST(Time, FormatsStepsShortAndParsesThemBack) {
  const std::pair<TimeStep, const char*> cases[] = {
      {{6 * kHour, 0}, "6h"}, {{kDay, 0}, "1d"}, {{2629800, 0}, "730.5h"}, {{1800, 0}, "30m"},
      {{90, 0}, "90s"},       {{0, 1}, "1M"},    {{0, 24}, "2y"},          {{36 * kHour, 0}, "36h"}};
  for (const auto& [step, text] : cases) {
    EXPECT_EQ(format_step(step), text);
    EXPECT_EQ(parse_step(text), step);
    EXPECT_EQ(parse_step(frequency_attribute(step)), step);
  }
  EXPECT_EQ(frequency_attribute({2629800, 0}), "43830m");
  EXPECT_EQ(frequency_attribute({24 * kHour, 0}), "1d");
  EXPECT_EQ(frequency_attribute({0, 3}), "P3M");
}

TEST(Time, AdvancesByCalendarMonths) {
  const int64_t date = parse_date("2020-01-31T06:00:00");
  EXPECT_EQ(format_date(advance(date, {0, 1})), "2020-02-29T06:00:00");
  EXPECT_EQ(format_date(advance(date, {0, 1}, 2)), "2020-03-31T06:00:00");
  EXPECT_EQ(format_date(advance(date, {0, 1}, -2)), "2019-11-30T06:00:00");
  EXPECT_EQ(format_date(advance(date, {0, 12}, -1)), "2019-01-31T06:00:00");
  EXPECT_EQ(advance(date, {kHour, 0}, -3), date - 3 * kHour);
  EXPECT_EQ(lead_seconds(parse_date("2021-02-01"), {0, 1}, 1), 28 * kDay);
}

TEST(Time, CountsSteps) {
  EXPECT_EQ(steps_between(0, 12 * kHour, {6 * kHour, 0}), 2);
  EXPECT_EQ(steps_between(0, -6 * kHour, {6 * kHour, 0}), -1);
  EXPECT_EQ(steps_between(0, kHour, {6 * kHour, 0}), std::nullopt);
  EXPECT_EQ(steps_between(parse_date("2020-01-15"), parse_date("2021-03-15"), {0, 1}), 14);
  EXPECT_EQ(steps_between(parse_date("2020-01-15"), parse_date("2021-03-16"), {0, 1}), std::nullopt);
  EXPECT_EQ(multiple_of({kDay, 0}, {6 * kHour, 0}), 4);
  EXPECT_EQ(multiple_of({6 * kHour, 0}, {kDay, 0}), std::nullopt);
  EXPECT_EQ(multiple_of({0, 6}, {0, 2}), 3);
  EXPECT_EQ(multiple_of({0, 6}, {kDay, 0}), std::nullopt);
}

TEST(Time, FindsTheRegularStep) {
  for (const TimeStep step :
       {TimeStep{6 * kHour, 0}, TimeStep{2629800, 0}, TimeStep{7, 0}, TimeStep{0, 1}, TimeStep{0, 3}})
    EXPECT_EQ(regular_step(make_dates("1982-01-16T20:00:00", step, 40)), step) << format_step(step);
  EXPECT_EQ(regular_step(make_dates("2020-01-31", {0, 1}, 14)), (TimeStep{0, 1}));
  EXPECT_EQ(regular_step(std::vector<int64_t>{0, 1, 3}), std::nullopt);
  EXPECT_EQ(regular_step(std::vector<int64_t>{0, 0}), std::nullopt);
  EXPECT_EQ(regular_step(std::vector<int64_t>{5}), std::nullopt);
}

TEST(Time, SelectsDatesByStartAndEnd) {
  const auto dates = make_dates("2020-01-01", {6 * kHour, 0}, 400);  // to 2020-04-09T18
  const auto select = [&](std::string_view start, std::string_view end) {
    return select_dates(dates, start, end, "d");
  };
  EXPECT_EQ(select("", ""), (Range{0, 400}));
  EXPECT_EQ(select("2020-01-02", "2020-01-02"), (Range{4, 8}));
  EXPECT_EQ(select("2020-02", "2020-02"), (Range{31 * 4, 60 * 4}));
  EXPECT_EQ(select("2019", "2030"), (Range{0, 400}));
  EXPECT_EQ(select("2020-01-01T01", "2020-01-01T13"), (Range{1, 3}));
  EXPECT_EQ(select("2020-01-01T06", "2020-01-01T12"), (Range{1, 3}));
  EXPECT_EQ(select("", "80%"), (Range{0, 320}));
  EXPECT_EQ(select("80%", ""), (Range{320, 400}));
  BOREAS_EXPECT_ERROR(select("2021", ""), invalid_argument, "from 2020-01-01T00:00:00 to 2020-04-09T18:00:00");
  BOREAS_EXPECT_ERROR(select("2020-03", "2020-02"), invalid_argument, "no date of d");
  BOREAS_EXPECT_ERROR(select("120%", ""), invalid_argument, "0% to 100%");
}

}  // namespace
}  // namespace boreas
