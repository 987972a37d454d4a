#include "engine/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/text_file.h"

namespace boreas {

namespace {

// Okabe and Ito's colours, which colour-blind readers can tell apart.
constexpr std::array<const char*, 6> kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};

std::string escape(const std::string& text) {
  std::string safe;
  for (const char c : text) switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += c;
    }
  return safe;
}

std::string base64(const std::vector<uint8_t>& bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    uint32_t word = 0;
    for (size_t k = 0; k < 3; ++k) word = word << 8 | (k < count ? bytes[i + k] : 0);
    for (size_t k = 0; k < 4; ++k) text += k <= count ? kDigits[word >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

// Ticks at multiples of 1, 2 or 5 times a power of ten.
std::vector<double> linear_ticks(double low, double high, int wanted) {
  const double raw = (high - low) / wanted, power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0})
    if (factor * power >= raw) step = factor * power;
  std::vector<double> ticks;
  for (double tick = std::ceil(low / step) * step; tick <= high + 1e-9 * step; tick += step)
    ticks.push_back(std::abs(tick) < 1e-9 * step ? 0 : tick);
  return ticks;
}

std::vector<double> logarithmic_ticks(double low, double high) {
  std::vector<double> ticks;
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10)
    for (const double factor : {1.0, 2.0, 5.0})
      if (factor * power >= low && factor * power <= high) ticks.push_back(factor * power);
  return ticks;
}

constexpr const char* kStyle = R"(
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1100px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2rem 0 .6rem;border-bottom:1px solid #ddd;padding-bottom:.2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #eee}
th{font-weight:600;background:#f6f6f6}td:first-child,th:first-child{text-align:left}.best{font-weight:700;color:#00694c}
.facts td:last-child{text-align:left}.row{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;flex:1 1 320px;min-width:0;max-width:540px}
figcaption{font-size:.85rem;color:#555}img,svg{max-width:100%;height:auto}pre{background:#f6f6f6;padding:.8rem;overflow:auto;font-size:.8rem}
p.note{color:#555;font-size:.9rem}
)";

}  // namespace

std::string line_chart(const std::string& title, const std::string& x_label, const std::string& y_label,
                       const std::vector<Series>& series, bool log_y) {
  constexpr double kWidth = 520, kHeight = 320, kLeft = 62, kRight = 14, kTop = 34, kBottom = 46;
  const auto usable = [&](const std::pair<double, double>& p) {
    return std::isfinite(p.first) && std::isfinite(p.second) && (!log_y || p.second > 0);
  };
  double x0 = HUGE_VAL, x1 = -HUGE_VAL, y0 = HUGE_VAL, y1 = -HUGE_VAL;
  for (const Series& line : series)
    for (const auto& point : line.points) {
      if (!usable(point)) continue;
      x0 = std::min(x0, point.first), x1 = std::max(x1, point.first);
      y0 = std::min(y0, point.second), y1 = std::max(y1, point.second);
    }
  if (!(x0 <= x1)) return "<p class=\"note\">" + escape(title) + ": no data</p>";
  if (x0 == x1) x0 -= 0.5, x1 += 0.5;
  if (log_y) {
    y0 /= 1.05, y1 *= 1.05;
  } else {
    const double pad = y1 > y0 ? 0.08 * (y1 - y0) : 0.5;
    y0 -= pad, y1 += pad;
  }
  const auto fraction_y = [&](double y) { return log_y ? std::log(y / y0) / std::log(y1 / y0) : (y - y0) / (y1 - y0); };
  const auto place_x = [&](double x) { return kLeft + (x - x0) / (x1 - x0) * (kWidth - kLeft - kRight); };
  const auto place_y = [&](double y) { return kHeight - kBottom - fraction_y(y) * (kHeight - kTop - kBottom); };

  std::string svg = fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" font-family=\"system-ui,sans-serif\" font-size=\"11\"><title>{}</title>"
      "<text x=\"{}\" y=\"14\" font-size=\"13\" font-weight=\"600\">{}</text>",
      kWidth, kHeight, escape(title), kLeft, escape(title));
  for (const double tick : log_y ? logarithmic_ticks(y0, y1) : linear_ticks(y0, y1, 5))
    svg += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.4g}</text>",
        kLeft, kWidth - kRight, place_y(tick), kLeft - 6, place_y(tick) + 4, tick);
  for (const double tick : linear_ticks(x0, x1, 6))
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#eee\"/>"
        "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:.6g}</text>",
        place_x(tick), kTop, kHeight - kBottom, kHeight - kBottom + 15, tick);
  svg += fmt::format(
      "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>"
      "<text transform=\"translate(14 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
      (kLeft + kWidth - kRight) / 2, kHeight - 8, escape(x_label), (kTop + kHeight - kBottom) / 2, escape(y_label));
  double legend_x = kLeft;
  for (size_t i = 0; i < series.size(); ++i) {
    const char* const color = kColors[i % kColors.size()];
    std::string path, marks;
    size_t count = 0;
    for (const auto& point : series[i].points) {
      if (!usable(point)) continue;
      path += fmt::format("{}{:.1f},{:.1f} ", count++ ? "L" : "M", place_x(point.first), place_y(point.second));
      marks += fmt::format(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"><title>{}: {:.6g}, {:.5g}</title></circle>",
          place_x(point.first), place_y(point.second), color, escape(series[i].name), point.first, point.second);
    }
    if (count == 0) continue;
    svg += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>", path, color);
    if (count <= 60) svg += marks;
    svg += fmt::format(
        "<rect x=\"{:.1f}\" y=\"21\" width=\"12\" height=\"3\" fill=\"{}\"/><text x=\"{:.1f}\" y=\"27\">{}</text>",
        legend_x, color, legend_x + 16, escape(series[i].name));
    legend_x += 26 + 6.2 * double(series[i].name.size());
  }
  return svg + "</svg>";
}

std::vector<Series> read_training_curve(const std::string& metrics_path) {
  std::vector<Series> curve = {{"training (mean of 20 updates)", {}}, {"validation", {}}};
  if (!std::filesystem::exists(metrics_path)) return {};
  std::istringstream lines(read_text_file(metrics_path));
  double window = 0;
  int64_t count = 0;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line, nullptr, false);
    if (record.is_discarded() || !record.contains("step")) continue;  // the line that an interruption cut
    const double step = record["step"];
    if (record.contains("validation_loss")) {
      if (record["validation_loss"].is_number()) curve[1].points.emplace_back(step, double(record["validation_loss"]));
    } else if (record.contains("loss") && record["loss"].is_number()) {
      window += double(record["loss"]);
      if (++count % 20 == 0) curve[0].points.emplace_back(step - 9.5, std::exchange(window, 0) / 20);
    }
  }
  return curve;
}

void write_report(const std::string& path, const Report& report) {
  std::string html = fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>{0}</title><style>{1}</style></head><body><h1>{0}</h1>",
      escape(report.title), kStyle);

  html +=
      "<h2>Scores</h2><p class=\"note\">Root mean square error, area weighted, on the verification dates (bold: the "
      "best "
      "of its row). Skill: share of the best baseline's mean square error that the forecast removes.</p>"
      "<table><tr><th>variable</th><th>lead</th><th>targets</th><th>forecast</th><th>persistence</th><th>climatology</"
      "th>"
      "<th>damped anomaly</th><th>skill</th><th>bias</th><th>anomaly correlation</th></tr>";
  std::map<std::string, std::vector<ForecastScore>> by_variable;
  std::vector<std::string> order;
  for (const ForecastScore& s : report.scores) {
    if (!by_variable.contains(s.variable)) order.push_back(s.variable);
    by_variable[s.variable].push_back(s);
    const std::array errors = {s.rmse, s.rmse_persistence, s.rmse_climatology, s.rmse_damped_anomaly};
    const double best = *std::min_element(errors.begin(), errors.end());
    html += fmt::format("<tr><td>{} [{}]</td><td>{}</td><td>{}</td>", escape(s.variable), escape(s.units), s.lead_steps,
                        s.num_targets);
    for (const double error : errors)
      html += fmt::format("<td{}>{:.3f}</td>", error == best ? " class=\"best\"" : "", error);
    html += fmt::format("<td>{:.1f} %</td><td>{:.3f}</td><td>{:.3f}</td></tr>", 100 * s.skill(), s.bias,
                        s.anomaly_correlation);
  }
  html += "</table>";

  html += "<h2>Skill by lead time</h2><div class=\"row\">";
  for (const std::string& variable : order) {
    std::vector<Series> lines = {{"forecast", {}}, {"persistence", {}}, {"climatology", {}}, {"damped anomaly", {}}};
    for (const ForecastScore& s : by_variable[variable]) {
      const std::array errors = {s.rmse, s.rmse_persistence, s.rmse_climatology, s.rmse_damped_anomaly};
      for (size_t i = 0; i < errors.size(); ++i) lines[i].points.emplace_back(double(s.lead_steps), errors[i]);
    }
    html += "<figure>" +
            line_chart(variable, "lead time (" + report.lead_unit + ")",
                       "rmse [" + by_variable[variable].front().units + "]", lines) +
            "</figure>";
  }
  html += "</div>";

  if (!report.training_curve.empty())
    html += "<h2>Training</h2><div class=\"row\"><figure>" +
            line_chart("Loss", "optimiser step", "loss", report.training_curve, true) + "</figure></div>";

  if (!report.maps.empty()) html += "<h2>Maps</h2>";
  for (const auto& row : report.maps) {
    html += "<div class=\"row\">";
    for (const ReportMap& map : row)
      html += fmt::format(
          "<figure><img alt=\"{0}\" src=\"data:image/png;base64,{1}\"><figcaption>{0}</figcaption></figure>",
          escape(map.caption), base64(map.png));
    html += "</div>";
  }

  html += "<h2>Run</h2><table class=\"facts\">";
  for (const auto& [name, value] : report.facts)
    html += fmt::format("<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value));
  html += "</table>";
  if (!report.config.empty())
    html += "<details><summary>Resolved configuration</summary><pre>" + escape(report.config) + "</pre></details>";
  write_text_file(path, html + "</body></html>\n");
}

}  // namespace boreas
