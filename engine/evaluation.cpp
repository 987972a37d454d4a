#include "engine/evaluation.h"

#include <algorithm>
#include <memory>

#include "engine/cell_gather.h"

namespace boreas {

namespace {

std::vector<int64_t> output_variables(const StepModel& model, const DatasetReader& reader) {
  std::vector<int64_t> variables;
  for (const std::string& name : model.variables().output_names()) variables.push_back(reader.index_of(name));
  return variables;
}

bool has_inputs(const DatasetReader& reader, int64_t start_date, int64_t num_input_steps) {
  for (int64_t i = 0; i < num_input_steps; ++i) {
    const auto index = reader.index_of_date(advance(start_date, reader.step(), -i));
    if (!index || reader.missing(*index)) return false;
  }
  return true;
}

}  // namespace

int64_t bytes_kept_in_evaluation(const StepModel& model, int64_t num_members) {
  if (num_members == 1) return 0;
  const int64_t num_fields = model.setup().config.data.num_output_steps * model.variables().num_outputs();
  return num_members * num_fields * model.num_cells() * int64_t(sizeof(float));
}

Evaluation evaluate(const StepModel& model, const DatasetReader& starts, const DatasetReader& reader,
                    const EvaluationConfig& config, const std::function<void(int64_t, int64_t)>& progress,
                    std::span<const int64_t> map_cells) {
  check_same_grid(model, reader);
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
  std::vector<double> own_weights;  // those of all cells are made for a moment only: their sum is 1
  {
    const std::vector<double> weights = cosine_latitude_weights(reader.latitudes());
    own_weights.assign(weights.begin() + cells.begin, weights.begin() + cells.end);
  }
  ScoreBoard board(names, units, own_weights, config.lead_steps, baselines, &model.ranks());

  std::vector<std::unique_ptr<Forecaster>> members;  // of which each has its own state
  for (int64_t m = 0; m < starts.num_members(); ++m) members.push_back(std::make_unique<Forecaster>(model, starts));
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
  const auto verify = [&](int64_t start, int64_t lead, std::span<const std::span<const float>> forecasts) {
    const int64_t target = start + lead, valid_date = dates[size_t(target)];
    if (target < result.targets.begin || target >= result.targets.end || reader.missing(target)) return;
    reader.read(target, variables, cells, truth.data());
    ++num_verified;
    for (size_t v = 0; v < variables.size(); ++v) {
      std::vector<std::span<const float>> of_members;
      for (const std::span<const float> forecast : forecasts) of_members.push_back(field(forecast.data(), v));
      board.add(int64_t(v), lead, dates[size_t(start)], valid_date, of_members, field(truth.data(), v),
                field(initial.data(), v));
      if (lead != 1 || target >= result.targets.begin + config.num_map_dates) continue;
      std::vector<float> mean(static_cast<size_t>(field_size));
      for (size_t c = 0; c < mean.size(); ++c) {
        double sum = 0;
        for (const std::span<const float> forecast : of_members) sum += forecast[c];
        mean[c] = float(sum / double(of_members.size()));
      }
      Evaluation::Map map{names[v], units[v], lead, valid_date, shown(mean), shown(field(truth.data(), v))};
      if (model.ranks().rank() == 0) result.maps.push_back(std::move(map));
    }
  };
  const int64_t first_start = std::max<int64_t>(0, result.targets.begin - config.lead_steps);
  const int64_t end_start = result.targets.end - 1, num_outputs = model.setup().config.data.num_output_steps;
  std::vector<std::vector<float>> kept(size_t(num_outputs) * members.size());  // [time][member], of an ensemble
  for (int64_t start = first_start; start < end_start; ++start) {
    if (progress) progress(start - first_start, end_start - first_start);
    if (reader.missing(start) || !has_inputs(starts, dates[size_t(start)], num_inputs)) continue;
    reader.read(start, variables, cells, initial.data());
    const int64_t num_leads = std::min(config.lead_steps, result.targets.end - 1 - start);
    if (members.size() == 1) {
      members[0]->run(dates[size_t(start)], num_leads, [&](int64_t lead, int64_t, std::span<const float> fields) {
        verify(start, lead, {&fields, 1});
      });
      continue;
    }
    for (size_t m = 0; m < members.size(); ++m) members[m]->begin(dates[size_t(start)], int64_t(m));
    for (int64_t done = 0; done < num_leads; done += num_outputs) {
      for (size_t m = 0; m < members.size(); ++m)
        members[m]->next([&](int64_t lead, int64_t, std::span<const float> fields) {
          kept[size_t(lead - done - 1) * members.size() + m].assign(fields.begin(), fields.end());
        });
      for (int64_t o = 0; o < std::min(num_outputs, num_leads - done); ++o) {
        const auto at = kept.begin() + o * int64_t(members.size());
        const std::vector<std::span<const float>> forecasts(at, at + int64_t(members.size()));
        verify(start, done + o + 1, forecasts);
      }
    }
  }
  if (progress) progress(end_start - first_start, end_start - first_start);
  BOREAS_CHECK(num_verified > 0, config,
               "no forecast could be verified between {} and {}: the dataset lacks the initial states or the truth",
               format_date(dates[result.targets.begin]), format_date(dates[result.targets.end - 1]));
  result.scores = board.scores();
  return result;
}

}  // namespace boreas
