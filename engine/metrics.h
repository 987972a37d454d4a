// Scores of forecasts by variable and lead time, against three baselines that need no model.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "engine/forecast_config.h"
#include "io/dataset_reader.h"

namespace boreas {

/// cos(latitude), normalised to sum 1: the weight of each cell of a regular grid in an area mean. Throws
/// invalid_argument for a latitude beyond 90 degrees.
std::vector<double> cosine_latitude_weights(std::span<const double> latitudes_degrees);

/// Climatology and damped anomaly persistence, computed from one period of a dataset and from nothing else.
///
///   climatology         c[b]: mean over the dates of the period that fall in bin b (calendar month, or month and hour)
///   anomaly             a(t) = x(t) - c[bin(t)]
///   damping at lead L   alpha_L = sum a(t) a(t-L) / sum a(t-L)^2   over all cells, unweighted, and all t with t and
///   t-L
///                       in the period: least squares without intercept
///
/// The three forecasts for date t from date t-L are persistence x(t-L), climatology c[bin(t)] and damped anomaly
/// persistence c[bin(t)] + alpha_L a(t-L). A missing date is left out; a cell that is NaN on one date of a bin has no
/// climatology in it. Memory: bins x variables x cells floats.
class Baselines {
 public:
  /// `variables` are indices of the reader; `period` is a range of date indices; `cells` a shard. The damping is that
  /// of the cells of all `ranks`, if given, which then call this together. Throws unsupported if the dataset has
  /// several members.
  Baselines(const DatasetReader& reader, const std::vector<int64_t>& variables, Range period, ClimatologyBins bins,
            int64_t max_lead, Range cells, Communicator* ranks = nullptr);

  /// Climatology of variable v (a position in `variables`) on a date; throws config if its bin had no date in the
  /// period.
  std::span<const float> climatology(int64_t date, int64_t v) const;
  double alpha(int64_t v, int64_t lead) const { return alpha_[v * max_lead_ + lead - 1]; }

 private:
  int64_t bin_of(int64_t date) const;

  bool hourly_;
  int64_t max_lead_, num_cells_, num_variables_;
  std::vector<std::string> names_;
  std::vector<int64_t> offset_of_bin_;  // into mean_; -1 for a bin without dates, which takes no memory
  std::vector<float> mean_;             // [bin][variable][cell]
  std::vector<double> alpha_;           // [variable][lead - 1]
};

/// One record of evaluation.json.
struct ForecastScore {
  std::string variable, units;
  int64_t lead_steps = 0;
  double lead_hours = 0;  ///< mean over the forecasts: calendar months differ
  int64_t num_targets = 0;
  double rmse = 0;                 ///< sqrt(mean over targets of the area-weighted mean square error)
  double bias = 0;                 ///< mean over targets of the area-weighted mean of forecast - truth
  double anomaly_correlation = 0;  ///< mean over targets of sum w f a / sqrt(sum w f^2 sum w a^2), f and a anomalies
  double rmse_persistence = 0, rmse_climatology = 0, rmse_damped_anomaly = 0;
  double damping = 0;  ///< alpha of this lead
  /// Of an ensemble of M members x_i, whose mean is the forecast above:
  ///   spread    sqrt(mean over targets of the area-weighted mean of sum (x_i - mean)^2 / (M - 1))
  ///   crps      mean over targets of the area-weighted mean of sum |x_i - truth| / M - sum |x_i - x_j| / (2 M (M -
  ///   1)),
  ///             the continuous ranked probability score, fair: expected of M members what infinitely many would have
  int64_t num_members = 1;
  double spread = 0, crps = 0;

  /// Share of the mean square error of the best baseline that the forecast removes: 1 - mse / min(mse of baselines).
  double skill() const;
};

/// Sums what scores need, forecast by forecast, in the order of the calls; fields are not kept.
///
/// With `ranks` each has some of the cells, and all make the same calls; what each has summed is put together now and
/// then, in rank order.
class ScoreBoard {
 public:
  ScoreBoard(std::vector<std::string> names, std::vector<std::string> units, std::vector<double> cell_weights,
             int64_t max_lead, const Baselines& baselines, Communicator* ranks = nullptr);

  /// One verification: variable v at `lead` steps and `valid_date`; all fields cover the same cells. The forecast is
  /// the mean of the members, as many in all calls. Cells where the truth, the initial state or the climatology is NaN
  /// have no weight.
  void add(int64_t v, int64_t lead, int64_t start_date, int64_t valid_date,
           std::span<const std::span<const float>> members, std::span<const float> truth,
           std::span<const float> initial);
  void add(int64_t v, int64_t lead, int64_t start_date, int64_t valid_date, std::span<const float> forecast,
           std::span<const float> truth, std::span<const float> initial) {
    add(v, lead, start_date, valid_date, {&forecast, 1}, truth, initial);
  }

  /// By variable, then lead; leads that were never added are left out.
  std::vector<ForecastScore> scores();

 private:
  /// One call of add, whose sums over the cells of this rank wait for those of the others.
  struct Verification {
    int64_t v, lead, seconds;
  };
  static constexpr size_t kNumSums = 11;
  void settle();

  struct Sums {
    int64_t count = 0;
    double seconds = 0, square = 0, error = 0, correlation = 0, persistence = 0, climatology = 0, damped = 0,
           variance = 0, crps = 0;
  };
  std::vector<std::string> names_, units_;
  std::vector<double> weights_;
  int64_t max_lead_;
  const Baselines& baselines_;
  Communicator* ranks_;
  int64_t num_members_ = 1;
  std::vector<Verification> unsettled_;
  std::vector<double> unsettled_sums_;  // [unsettled][kNumSums]
  std::vector<Sums> sums_;              // [variable][lead - 1]
};

/// The table that the command line prints.
std::string score_table(const std::vector<ForecastScore>& scores);

/// evaluation.json: {"format": ..., "scores": [one record per variable and lead time], plus `context`: a JSON object}.
void write_scores(const std::string& path, const std::vector<ForecastScore>& scores, const std::string& context_json);

}  // namespace boreas
