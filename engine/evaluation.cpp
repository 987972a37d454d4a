#include "engine/evaluation.h"

#include <algorithm>

#include "engine/cell_gather.h"

namespace boreas {

namespace {

std::vector<int64_t> output_variables(const StepModel& model, const DatasetReader& reader) {
  std::vector<int64_t> variables;
  for (const std::string& name : model.variables().output_names()) variables.push_back(reader.index_of(name));
  return variables;
}

bool has_inputs(const DatasetReader& reader, int64_t start, int64_t num_input_steps) {
  if (start - num_input_steps + 1 < 0) return false;
  for (int64_t i = 0; i < num_input_steps; ++i)
    if (reader.missing(start - i)) return false;
  return true;
}

}  // namespace

Evaluation evaluate(const StepModel& model, const DatasetReader& reader, const EvaluationConfig& config,
                    const std::function<void(int64_t, int64_t)>& progress, std::span<const int64_t> map_cells) {
  BOREAS_CHECK(config.lead_steps >= 1, config, "evaluation.lead_steps is {}; expected at least 1", config.lead_steps);
  Evaluation result;
  const std::vector<int64_t>& dates = reader.dates();
  result.targets = select_dates(dates, config.start, config.end, "evaluation");
  result.climatology = select_dates(dates, config.climatology_start, config.climatology_end, "evaluation.climatology");
  if (config.climatology_end.empty()) result.climatology.end = std::min(result.climatology.end, result.targets.begin);
  BOREAS_CHECK(
      result.climatology.size() > 0 &&
          (result.climatology.end <= result.targets.begin || result.climatology.begin >= result.targets.end),
      config,
      "the climatology period {} to {} and the verification dates {} to {} overlap or leave nothing; baselines must "
      "not know the dates they are verified on: set evaluation.climatology_start and climatology_end",
      format_date(dates[result.climatology.begin]),
      format_date(dates[std::max(result.climatology.end - 1, result.climatology.begin)]),
      format_date(dates[result.targets.begin]), format_date(dates[result.targets.end - 1]));

  const std::vector<int64_t> variables = output_variables(model, reader);
  const Range cells = model.cells();
  const Baselines baselines(reader, variables, result.climatology, config.climatology, config.lead_steps, cells,
                            &model.ranks());
  std::vector<std::string> names, units;
  for (const int64_t variable : variables) {
    names.push_back(reader.variables()[variable]);
    units.push_back(reader.units(variable));
  }
  const std::vector<double> weights = cosine_latitude_weights(reader.latitudes());
  ScoreBoard board(names, units, {weights.begin() + cells.begin, weights.begin() + cells.end}, config.lead_steps,
                   baselines, &model.ranks());

  Forecaster forecaster(model, reader);
  const int64_t num_inputs = model.setup().config.data.num_input_steps, field_size = cells.size();
  std::vector<float> initial(variables.size() * field_size), truth(initial.size());
  const auto field = [&](const float* fields, size_t v) {
    return std::span<const float>(fields + v * field_size, size_t(field_size));
  };
  CellGather gather = map_cells.empty() ? CellGather(model) : CellGather(model, map_cells);
  const auto shown = [&](std::span<const float> own) {
    const std::span<const float> all = gather(own);
    return std::vector<float>(all.begin(), all.end());
  };
  int64_t num_verified = 0;
  const int64_t first_start = std::max<int64_t>(0, result.targets.begin - config.lead_steps);
  const int64_t end_start = result.targets.end - 1;
  for (int64_t start = first_start; start < end_start; ++start) {
    if (progress) progress(start - first_start, end_start - first_start);
    if (!has_inputs(reader, start, num_inputs)) continue;
    reader.read(start, variables, cells, initial.data());
    const int64_t num_leads = std::min(config.lead_steps, result.targets.end - 1 - start);
    forecaster.run(dates[start], num_leads, [&](int64_t lead, int64_t valid_date, std::span<const float> fields) {
      const int64_t target = start + lead;
      if (target < result.targets.begin || reader.missing(target)) return;
      reader.read(target, variables, cells, truth.data());
      ++num_verified;
      for (size_t v = 0; v < variables.size(); ++v) {
        board.add(int64_t(v), lead, dates[start], valid_date, field(fields.data(), v), field(truth.data(), v),
                  field(initial.data(), v));
        if (lead == 1 && target < result.targets.begin + config.num_map_dates) {
          Evaluation::Map map{
              names[v], units[v], lead, valid_date, shown(field(fields.data(), v)), shown(field(truth.data(), v))};
          if (model.ranks().rank() == 0) result.maps.push_back(std::move(map));
        }
      }
    });
  }
  if (progress) progress(end_start - first_start, end_start - first_start);
  BOREAS_CHECK(num_verified > 0, config,
               "no forecast could be verified between {} and {}: the dataset lacks the initial states or the truth",
               format_date(dates[result.targets.begin]), format_date(dates[result.targets.end - 1]));
  result.scores = board.scores();
  return result;
}

}  // namespace boreas
