// One self-contained HTML page about a run: scores, training curve, maps.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/metrics.h"

namespace boreas {

/// A line of a chart.
struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  ///< (x, y), drawn in this order
};

/// An inline SVG line chart with axes, grid, legend and a mark at every point of series with few points.
/// With `log_y` the y axis is logarithmic (values must be positive). Series without finite points are left out.
std::string line_chart(const std::string& title, const std::string& x_label, const std::string& y_label,
                       const std::vector<Series>& series, bool log_y = false);

struct ReportMap {
  std::string caption;
  std::vector<uint8_t> png;
};

struct Report {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;  ///< "parameters" -> "1.2 million", in this order
  std::vector<Series> training_curve;                      ///< loss against optimiser step
  std::string lead_unit;                                   ///< unit of a step: "1 step = 730.5h"
  std::vector<ForecastScore> scores;
  std::vector<std::vector<ReportMap>> maps;  ///< rows of maps
  std::string config;                        ///< resolved configuration
};

/// Loss curves from the metrics file of a training run (JSON lines); empty if there is no such file.
std::vector<Series> read_training_curve(const std::string& metrics_path);

/// Writes the page; nothing in it refers to another file.
void write_report(const std::string& path, const Report& report);

}  // namespace boreas
