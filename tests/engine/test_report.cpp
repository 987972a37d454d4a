#include "engine/report.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <regex>

#include "engine/text_file.h"

namespace boreas {
namespace {

ForecastScore score(const std::string& variable, int64_t lead, double rmse) {
  return {.variable = variable,
          .units = "m/s",
          .lead_steps = lead,
          .num_targets = 36,
          .rmse = rmse,
          .rmse_persistence = 2.4,
          .rmse_climatology = 2.1,
          .rmse_damped_anomaly = 2.0};
}

TEST(Report, ChartPutsPointsWhereTheyBelong) {
  const std::string svg = line_chart("t", "x", "y", {{"a", {{0, 0}, {1, 1}}}, {"b", {{0, 1}, {1, 0}}}});
  std::vector<std::string> paths;
  const std::regex path("<path d=\"M([0-9.]+),([0-9.]+) L([0-9.]+),([0-9.]+) ");
  for (std::sregex_iterator it(svg.begin(), svg.end(), path), end; it != end; ++it) {
    const double x0 = std::stod((*it)[1]), y0 = std::stod((*it)[2]), x1 = std::stod((*it)[3]), y1 = std::stod((*it)[4]);
    EXPECT_LT(x0, x1);
    EXPECT_EQ(y0 > y1, paths.empty()) << "y grows upwards: line a rises, line b falls";
    paths.push_back((*it)[0]);
  }
  EXPECT_EQ(paths.size(), 2u);
}

TEST(Report, ChartWithoutFinitePointsSaysSo) {
  EXPECT_NE(line_chart("loss", "x", "y", {{"a", {{0, NAN}}}}).find("no data"), std::string::npos);
  EXPECT_NE(line_chart("loss", "x", "y", {{"a", {{0, -1}}}}, true).find("no data"), std::string::npos)
      << "a logarithmic axis has no place for negative values";
}

TEST(Report, PageIsSelfContainedAndMarksTheBest) {
  Report report;
  report.title = "winds <test>";
  report.scores = {score("u", 1, 1.9), score("u", 2, 2.05)};
  report.training_curve = {{"training", {{1, 1.0}, {2, 0.5}}}};
  report.lead_unit = "730.5h";
  report.maps = {{{"forecast", {1, 2, 3, 4}}}};
  const auto path = std::filesystem::temp_directory_path() / "boreas_test_report.html";
  write_report(path.string(), report);
  const std::string html = read_text_file(path.string());
  std::filesystem::remove(path);
  EXPECT_NE(html.find("winds &lt;test&gt;"), std::string::npos);
  EXPECT_NE(html.find("<td class=\"best\">1.900</td>"), std::string::npos);
  EXPECT_NE(html.find("<td>2.050</td>"), std::string::npos) << "damped anomaly persistence is better at lead 2";
  EXPECT_NE(html.find("<td class=\"best\">2.000</td>"), std::string::npos);
  EXPECT_NE(html.find("data:image/png;base64,AQIDBA=="), std::string::npos);
  EXPECT_FALSE(std::regex_search(html, std::regex("(src|href)=\"(?!data:)"))) << "the page refers to other files";
}

TEST(Report, SkillIsTheShareOfTheBestBaseline) {
  EXPECT_DOUBLE_EQ(score("u", 1, 1.0).skill(), 0.75);
  EXPECT_DOUBLE_EQ(score("u", 1, 2.0).skill(), 0);
  EXPECT_LT(score("u", 1, 2.2).skill(), 0);
}

TEST(TextFile, FailureNamesThePathAndLeavesNothing) {
  try {
    write_text_file("/nonexistent-folder/report.html", "x");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io);
    EXPECT_NE(std::string(error.what()).find("/nonexistent-folder/report.html"), std::string::npos);
  }
}

}  // namespace
}  // namespace boreas
