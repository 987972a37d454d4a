// Evaluation: forecasts verified against a dataset as they are made; no forecast is kept.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/forecaster.h"
#include "engine/metrics.h"

namespace boreas {

/// What `evaluate` made.
struct Evaluation {
  struct Map {
    std::string variable, units;
    int64_t lead_steps = 0, valid_date = 0;
    std::vector<float> forecast, truth;  ///< of the cells asked for
  };
  std::vector<ForecastScore> scores;
  std::vector<Map> maps;  ///< by date, then variable: lead 1 on the first dates that are verified; rank 0 has them
  Range targets;          ///< date indices of the truth that were verified, the same at every lead time
  Range climatology;      ///< date indices that the baselines were computed from
};

/// What an ensemble of so many members keeps on the host besides their states: the newest fields of each.
int64_t bytes_kept_in_evaluation(const StepModel& model, int64_t num_members);

/// Forecasts to every verification date at lead 1 .. lead_steps: a lead of L starts L steps before its target, so all
/// lead times are verified on the same dates. Dates whose truth or initial state the dataset lacks are left out. Throws
/// config if no date is left, or if the climatology period overlaps the verification dates. All ranks of the model call
/// this together, and get the same scores. `map_cells`: those that maps show, ascending; empty: all.
///
/// Forecasts start from `starts`, and are verified against `truth`, a dataset of one member, which may be the same. The
/// forecasts of all members go on together, each in a state of its own, and their mean is verified.
Evaluation evaluate(const StepModel& model, const DatasetReader& starts, const DatasetReader& truth,
                    const EvaluationConfig& config,
                    const std::function<void(int64_t done, int64_t total)>& progress = {},
                    std::span<const int64_t> map_cells = {});
inline Evaluation evaluate(const StepModel& model, const DatasetReader& reader, const EvaluationConfig& config,
                           const std::function<void(int64_t done, int64_t total)>& progress = {},
                           std::span<const int64_t> map_cells = {}) {
  return evaluate(model, reader, reader, config, progress, map_cells);
}

}  // namespace boreas
