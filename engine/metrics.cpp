#include "engine/metrics.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <nlohmann/json.hpp>

#include "engine/text_file.h"

namespace boreas {

namespace {
constexpr double kRadians = 3.14159265358979323846 / 180;
constexpr int64_t kDay = 86400;
constexpr size_t kMostUnsettled = 4096;
}  // namespace

std::vector<double> cosine_latitude_weights(std::span<const double> latitudes_degrees) {
  std::vector<double> weights;
  double total = 0;
  for (const double latitude : latitudes_degrees) {
    BOREAS_CHECK(std::abs(latitude) <= 90 + 1e-6, invalid_argument,
                 "a cell has latitude {}; expected degrees in [-90, 90]", latitude);
    weights.push_back(std::max(0.0, std::cos(latitude * kRadians)));
    total += weights.back();
  }
  BOREAS_CHECK(total > 0, invalid_argument, "all {} cells have weight 0: they lie at the poles", weights.size());
  for (double& weight : weights) weight /= total;
  return weights;
}

Baselines::Baselines(const DatasetReader& reader, const std::vector<int64_t>& variables, Range period,
                     ClimatologyBins bins, int64_t max_lead, Range cells, Communicator* ranks)
    : max_lead_(max_lead), num_cells_(cells.size()), num_variables_(int64_t(variables.size())) {
  BOREAS_CHECK(reader.num_members() == 1, unsupported,
               "{} has {} members; forecasts are verified against a dataset of one: name it as evaluation.truth",
               reader.name(), reader.num_members());
  const TimeStep step = reader.step();
  hourly_ = bins == ClimatologyBins::month_hour ||
            (bins == ClimatologyBins::automatic && step.months == 0 && step.seconds < kDay);
  for (const int64_t variable : variables) names_.push_back(reader.variables()[variable]);
  const int64_t num_bins = 12 * (hourly_ ? 24 : 1), field_size = num_variables_ * num_cells_;
  std::vector<int64_t> dates_per_bin(num_bins, 0);
  offset_of_bin_.assign(num_bins, -1);

  std::vector<float> field(field_size);
  std::vector<double> sums;
  for (int64_t t = period.begin; t < period.end; ++t) {
    if (reader.missing(t)) continue;
    const int64_t bin = bin_of(reader.dates()[t]);
    if (offset_of_bin_[bin] < 0) {
      offset_of_bin_[bin] = int64_t(sums.size());
      sums.resize(sums.size() + field_size, 0.0);
    }
    reader.read(t, variables, cells, field.data());
    ++dates_per_bin[bin];
    double* const sum = sums.data() + offset_of_bin_[bin];
    for (int64_t i = 0; i < field_size; ++i) sum[i] += field[i];
  }
  BOREAS_CHECK(!sums.empty(), config, "the climatology period has no date with data; see evaluation.climatology_start");
  mean_.resize(sums.size());
  for (int64_t bin = 0; bin < num_bins; ++bin)
    for (int64_t i = 0; offset_of_bin_[bin] >= 0 && i < field_size; ++i)
      mean_[offset_of_bin_[bin] + i] = float(sums[offset_of_bin_[bin] + i] / double(dates_per_bin[bin]));

  // Anomalies of the last max_lead dates are kept while the period streams by.
  std::vector<double> products(num_variables_ * max_lead, 0.0), squares(num_variables_ * max_lead, 0.0);
  std::deque<std::vector<float>> recent;  // recent[k] is the anomaly k + 1 dates ago; empty if that date is missing
  for (int64_t t = period.begin; t < period.end; ++t) {
    std::vector<float> anomaly;
    if (!reader.missing(t)) {
      anomaly.resize(field_size);
      reader.read(t, variables, cells, anomaly.data());
      const float* const mean = mean_.data() + offset_of_bin_[bin_of(reader.dates()[t])];
      for (int64_t i = 0; i < field_size; ++i) anomaly[i] -= mean[i];
      for (int64_t lead = 1; lead <= std::min<int64_t>(max_lead, int64_t(recent.size())); ++lead) {
        const std::vector<float>& earlier = recent[lead - 1];
        if (earlier.empty()) continue;
        for (int64_t v = 0; v < num_variables_; ++v) {
          double product = 0, square = 0;
          for (int64_t c = v * num_cells_; c < (v + 1) * num_cells_; ++c) {
            if (std::isnan(anomaly[c]) || std::isnan(earlier[c])) continue;
            product += double(anomaly[c]) * earlier[c];
            square += double(earlier[c]) * earlier[c];
          }
          products[v * max_lead + lead - 1] += product;
          squares[v * max_lead + lead - 1] += square;
        }
      }
    }
    recent.push_front(std::move(anomaly));
    if (int64_t(recent.size()) > max_lead) recent.pop_back();
  }
  if (ranks) ranks->sum_values(products);
  if (ranks) ranks->sum_values(squares);
  alpha_.resize(products.size());
  for (size_t i = 0; i < alpha_.size(); ++i) alpha_[i] = squares[i] > 0 ? products[i] / squares[i] : 0;
}

int64_t Baselines::bin_of(int64_t date) const {
  const CivilTime civil = civil_time(date);
  return hourly_ ? (civil.month - 1) * 24 + civil.hour : civil.month - 1;
}

std::span<const float> Baselines::climatology(int64_t date, int64_t v) const {
  const int64_t offset = offset_of_bin_[bin_of(date)];
  BOREAS_CHECK(offset >= 0, config,
               "{} is verified on {}, but the climatology period has no date of that calendar month{}; widen "
               "evaluation.climatology_start and climatology_end",
               names_[v], format_date(date), hourly_ ? " and hour" : "");
  return {mean_.data() + offset + v * num_cells_, size_t(num_cells_)};
}

double ForecastScore::skill() const {
  const double best = std::min({rmse_persistence, rmse_climatology, rmse_damped_anomaly});
  return best > 0 ? 1 - rmse * rmse / (best * best) : 0;
}

ScoreBoard::ScoreBoard(std::vector<std::string> names, std::vector<std::string> units, std::vector<double> cell_weights,
                       int64_t max_lead, const Baselines& baselines, Communicator* ranks)
    : names_(std::move(names)),
      units_(std::move(units)),
      weights_(std::move(cell_weights)),
      max_lead_(max_lead),
      baselines_(baselines),
      ranks_(ranks),
      sums_(names_.size() * size_t(max_lead)) {}

void ScoreBoard::add(int64_t v, int64_t lead, int64_t start_date, int64_t valid_date,
                     std::span<const std::span<const float>> members, std::span<const float> truth,
                     std::span<const float> initial) {
  const size_t n = weights_.size(), num_members = members.size();
  BOREAS_CHECK(num_members > 0, invalid_argument, "scores of {}: no forecast is given", names_[v]);
  num_members_ = int64_t(num_members);
  for (const std::span<const float> forecast : members)
    BOREAS_CHECK(forecast.size() == n && truth.size() == n && initial.size() == n, shape,
                 "scores of {}: forecast, truth and initial state have {}, {} and {} cells; expected {}", names_[v],
                 forecast.size(), truth.size(), initial.size(), n);
  std::vector<double> sorted(num_members);
  const std::span<const float> climatology = baselines_.climatology(valid_date, v);
  const std::span<const float> climatology_at_start = baselines_.climatology(start_date, v);
  const double alpha = baselines_.alpha(v, lead);
  double weight = 0, square = 0, error = 0, persistence = 0, climate = 0, damped = 0, fa = 0, ff = 0, aa = 0;
  double variance = 0, crps = 0;
  for (size_t c = 0; c < n; ++c) {
    const double w = weights_[c], x = truth[c], mean = climatology[c];
    if (std::isnan(x + mean + initial[c] + climatology_at_start[c])) continue;
    weight += w;
    double forecast = 0;
    for (size_t m = 0; m < num_members; ++m) forecast += sorted[m] = members[m][c];
    forecast /= double(num_members);
    const double e = forecast - x, f = forecast - mean, a = x - mean;
    if (num_members > 1) {
      const double count = double(num_members);
      std::sort(sorted.begin(), sorted.end());
      double squares = 0, errors = 0, pairs = 0;  // pairs: sum over i < j of |x_i - x_j|
      for (size_t m = 0; m < num_members; ++m) {
        squares += (sorted[m] - forecast) * (sorted[m] - forecast);
        errors += std::abs(sorted[m] - x);
        pairs += (2 * double(m) + 1 - count) * sorted[m];
      }
      variance += w * squares / (count - 1);
      crps += w * (errors / count - pairs / (count * (count - 1)));
    }
    const double ep = initial[c] - x, ed = mean + alpha * (double(initial[c]) - climatology_at_start[c]) - x;
    square += w * e * e;
    error += w * e;
    persistence += w * ep * ep;
    climate += w * a * a;
    damped += w * ed * ed;
    fa += w * f * a;
    ff += w * f * f;
    aa += w * a * a;
  }
  unsettled_.push_back({v, lead, valid_date - start_date});
  unsettled_sums_.insert(unsettled_sums_.end(),
                         {weight, square, error, persistence, climate, damped, fa, ff, aa, variance, crps});
  if (unsettled_.size() >= kMostUnsettled) settle();
}

void ScoreBoard::settle() {
  if (ranks_) ranks_->sum_values(unsettled_sums_);
  for (size_t i = 0; i < unsettled_.size(); ++i) {
    const Verification& verification = unsettled_[i];
    const double* const of_this = unsettled_sums_.data() + i * kNumSums;
    const double weight = of_this[0], fa = of_this[6], ff = of_this[7], aa = of_this[8];
    if (weight == 0) continue;
    Sums& sums = sums_[verification.v * max_lead_ + verification.lead - 1];
    ++sums.count;
    sums.seconds += double(verification.seconds);
    sums.square += of_this[1] / weight;
    sums.error += of_this[2] / weight;
    sums.persistence += of_this[3] / weight;
    sums.climatology += of_this[4] / weight;
    sums.damped += of_this[5] / weight;
    sums.variance += of_this[9] / weight;
    sums.crps += of_this[10] / weight;
    sums.correlation += ff > 0 && aa > 0 ? fa / std::sqrt(ff * aa) : 0;
  }
  unsettled_.clear();
  unsettled_sums_.clear();
}

std::vector<ForecastScore> ScoreBoard::scores() {
  settle();
  std::vector<ForecastScore> scores;
  for (size_t v = 0; v < names_.size(); ++v)
    for (int64_t lead = 1; lead <= max_lead_; ++lead) {
      const Sums& sums = sums_[v * max_lead_ + lead - 1];
      if (sums.count == 0) continue;
      const double n = double(sums.count);
      scores.push_back({.variable = names_[v],
                        .units = units_[v],
                        .lead_steps = lead,
                        .lead_hours = sums.seconds / n / 3600,
                        .num_targets = sums.count,
                        .rmse = std::sqrt(sums.square / n),
                        .bias = sums.error / n,
                        .anomaly_correlation = sums.correlation / n,
                        .rmse_persistence = std::sqrt(sums.persistence / n),
                        .rmse_climatology = std::sqrt(sums.climatology / n),
                        .rmse_damped_anomaly = std::sqrt(sums.damped / n),
                        .damping = baselines_.alpha(int64_t(v), lead),
                        .num_members = num_members_,
                        .spread = std::sqrt(sums.variance / n),
                        .crps = sums.crps / n});
    }
  return scores;
}

std::string score_table(const std::vector<ForecastScore>& scores) {
  std::string text =
      fmt::format("{:<10}{:>6}{:>9}{:>9}{:>9}{:>9}{:>13}{:>13}{:>17}{:>8}\n", "variable", "lead", "targets", "rmse",
                  "bias", "acc", "persistence", "climatology", "damped anomaly", "skill");
  const bool ensemble = !scores.empty() && scores[0].num_members > 1;
  if (ensemble) text.insert(text.size() - 1, fmt::format("{:>9}{:>9}", "spread", "crps"));
  for (const ForecastScore& s : scores) {
    text += fmt::format("{:<10}{:>6}{:>9}{:>9.3f}{:>9.3f}{:>9.3f}{:>13.3f}{:>13.3f}{:>17}{:>7.1f}%", s.variable,
                        s.lead_steps, s.num_targets, s.rmse, s.bias, s.anomaly_correlation, s.rmse_persistence,
                        s.rmse_climatology, fmt::format("{:.3f} ({:.3f})", s.rmse_damped_anomaly, s.damping),
                        100 * s.skill());
    text += ensemble ? fmt::format("{:>9.3f}{:>9.3f}\n", s.spread, s.crps) : "\n";
  }
  if (ensemble) text += fmt::format("of the mean of {} members; ", scores[0].num_members);
  return text + "rmse in each variable's unit; skill: mean square error removed from that of the best baseline\n";
}

void write_scores(const std::string& path, const std::vector<ForecastScore>& scores, const std::string& context_json) {
  nlohmann::ordered_json document = nlohmann::ordered_json::parse(context_json);
  auto& records = document["scores"] = nlohmann::ordered_json::array();
  for (const ForecastScore& s : scores) {
    records.push_back({{"variable", s.variable},
                       {"units", s.units},
                       {"lead_steps", s.lead_steps},
                       {"lead_hours", s.lead_hours},
                       {"num_targets", s.num_targets},
                       {"rmse", s.rmse},
                       {"bias", s.bias},
                       {"anomaly_correlation", s.anomaly_correlation},
                       {"rmse_persistence", s.rmse_persistence},
                       {"rmse_climatology", s.rmse_climatology},
                       {"rmse_damped_anomaly", s.rmse_damped_anomaly},
                       {"damping", s.damping}});
    if (s.num_members == 1) continue;
    records.back()["num_members"] = s.num_members;
    records.back()["spread"] = s.spread;
    records.back()["crps"] = s.crps;
  }
  write_text_file(path, document.dump(2) + "\n");
}

}  // namespace boreas
