#include "engine/commands.h"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engine/cell_gather.h"
#include "engine/checkpoint.h"
#include "engine/evaluation.h"
#include "engine/forecast_output.h"
#include "engine/map_image.h"
#include "engine/memory_plan.h"
#include "engine/progress.h"
#include "engine/rank_plan.h"
#include "engine/report.h"
#include "engine/text_file.h"
#include "engine/training_step.h"
#include "engine/weights_io.h"
#include "models/communication.h"

namespace boreas {

namespace {

namespace fs = std::filesystem;

ModelSetup agreed_setup(const std::string& path, const RunConfig& config, Communicator& ranks) {
  ModelSetup setup = load_setup(path, graph_share(config, ranks));
  check_agreement(ranks, "graph", setup.graph.hash());
  setup.config.device = config.device;
  setup.config.cuda_graphs = config.cuda_graphs;
  setup.config.parallel = config.parallel;
  setup.config.forecast = config.forecast;
  setup.config.memory = config.memory;
  return setup;
}

/// The device of this rank, on which forecasts then fit the budget. What was trained in bf16 has weights in f32, and
/// runs in f32 on the CPU.
Device device_to_run(ModelSetup& setup, const ForecastUse& use, Communicator& ranks) {
  RunConfig config = setup.config;
  if (config.precision == Precision::bf16) config.precision = Precision::f32;
  const Device device = choose_device(config, ranks);
  if (!device.is_cuda()) setup.config.precision = config.precision;
  setup.config = fit_forecast_to_budget(setup, device, ranks, use);
  const ModelConfig& model = setup.config.model;
  if (!setup.config.memory.budget.empty())
    spdlog::info("memory.budget={} encoder.num_chunks={} decoder.num_chunks={}", setup.config.memory.budget,
                 model.encoder.num_chunks, model.decoder.num_chunks);
  ranks.connect(device);
  return device;
}

std::string agreed_checkpoint(const RunConfig& config, const std::string& checkpoint_or_folder, Communicator& ranks) {
  check_agreement(ranks, "configuration", resolved_config(config));
  return ranks.text_of(0, ranks.rank() == 0 ? resolve_checkpoint(checkpoint_or_folder) : std::string());
}

struct Trained {
  Trained(const RunConfig& config, const std::string& checkpoint_or_folder, const ForecastUse& use, Communicator& ranks)
      : path(agreed_checkpoint(config, checkpoint_or_folder, ranks)),
        setup(agreed_setup(path, config, ranks)),
        model(setup, device_to_run(setup, use, ranks), &ranks) {
    model.parameters().materialise(0);
    load_weights(path, model);
    model.parameters().keep_values_only();
    spdlog::info("checkpoint={} parameters={} device={} precision={}", path, model.parameters().num_parameters(),
                 to_string(model.device()), to_string(setup.config.precision));
  }

  std::string path;
  ModelSetup setup;
  StepModel model;
};

std::string map_title(const Evaluation::Map& map, const std::string& what) {
  return fmt::format("{} {} {} lead {}", map.variable, what, format_date(map.valid_date).substr(0, 13), map.lead_steps);
}

// Three pictures of one verification: forecast and truth on one scale, and their difference.
std::vector<ReportMap> draw_maps(const MapRenderer& renderer, const Evaluation::Map& map, const fs::path& folder) {
  std::vector<float> error(map.truth.size());
  std::transform(map.forecast.begin(), map.forecast.end(), map.truth.begin(), error.begin(), std::minus<float>());
  const std::span<const float> both[] = {map.forecast, map.truth};
  const bool signed_values = std::any_of(map.truth.begin(), map.truth.end(), [](float v) { return v < 0; });
  const auto limits = color_limits(both, signed_values);
  const std::span<const float> error_field(error);
  const auto error_limits = color_limits({&error_field, 1}, true);
  const Palette palette = signed_values ? Palette::diverging : Palette::sequential;
  std::vector<ReportMap> row;
  const auto draw = [&](const std::string& what, std::span<const float> values, std::pair<double, double> range,
                        Palette colors) {
    const std::string title = map_title(map, what);
    const std::vector<uint8_t> png = renderer.render(
        values,
        {.title = title, .unit = map.units, .minimum = range.first, .maximum = range.second, .palette = colors});
    const std::string date = format_date(map.valid_date).substr(0, 10);
    write_file((folder / fmt::format("{}_{}_lead{}_{}.png", map.variable, date, map.lead_steps, what)).string(), png);
    row.push_back({title + (map.units.empty() ? "" : " [" + map.units + "]"), png});
  };
  draw("forecast", map.forecast, limits, palette);
  draw("truth", map.truth, limits, palette);
  draw("error", error, error_limits, Palette::diverging);
  return row;
}

}  // namespace

std::string make_graph(const RunConfig& config) {
  const DatasetReader reader = DatasetReader::open(config.data.dataset);
  return summary(make_setup(config, reader, GraphCache::keep).graph);
}

std::string make_plan(const RunConfig& config, const ProcessGrid& ranks) {
  const MemoryReport report = plan(config, ranks);
  Communicator& world = *ranks.world;
  const bool needs_most = report.training_bytes() == world.largest(report.training_bytes());
  const int64_t rank = world.size() - world.largest(needs_most ? world.size() - world.rank() : 0);
  const std::string title =
      world.size() > 1 ? fmt::format("rank {} of {}, which needs most\n", rank, world.size()) : "";
  return title + world.text_of(int(rank), report.table());
}

std::string make_communication_plan(const RunConfig& config, int64_t num_ranks) {
  BOREAS_CHECK(num_ranks >= 1, invalid_argument, "--ranks is {}; expected at least 1", num_ranks);
  const ModelSetup setup = make_setup(config, DatasetReader::open(config.data.dataset));
  const RankPlan plan = plan_ranks(setup, choose_device(config, Purpose::plan), num_ranks);
  return plan.table() + resolution_table(setup, plan.model_ranks);
}

namespace {

std::vector<int64_t> start_dates(const ForecastConfig& settings, const ForecastSource& source, const StepModel& model) {
  const std::vector<int64_t>& dates = source.dates();
  const TimeStep step = model.setup().step;
  std::vector<int64_t> starts;
  if (!settings.dates.empty()) {
    BOREAS_CHECK(settings.start.empty() && settings.end.empty() && settings.interval.empty(), config,
                 "forecast.dates is a list; leave out forecast.start, end and interval");
    for (const std::string& date : settings.dates)
      starts.push_back(dates[size_t(select_dates(dates, date, date, "forecast.dates").begin)]);
    BOREAS_CHECK(std::adjacent_find(starts.begin(), starts.end(), std::greater_equal<>()) == starts.end(), config,
                 "forecast.dates must ascend");
  } else if (settings.start.empty()) {
    const int64_t num_inputs = model.network().shape().num_input_steps;
    const auto latest = std::find_if(dates.rbegin(), dates.rend(), [&](int64_t date) {
      for (int64_t k = 0; k < num_inputs; ++k)
        if (!source.has_state(advance(date, step, -k))) return false;
      return true;
    });
    BOREAS_CHECK(latest != dates.rend(), config, "{} has no date with {} states in a row, step {}, to start from",
                 source.name(), num_inputs, format_step(step));
    starts.push_back(*latest);
  } else if (settings.end.empty()) {
    starts.push_back(dates[size_t(select_dates(dates, settings.start, settings.start, "forecast.start").begin)]);
  } else {
    const Range range = select_dates(dates, settings.start, settings.end, "forecast");
    const TimeStep interval = settings.interval.empty() ? step : parse_step(settings.interval);
    for (int64_t i = range.begin; i < range.end; ++i)
      if (steps_between(dates[size_t(range.begin)], dates[size_t(i)], interval)) starts.push_back(dates[size_t(i)]);
  }
  return starts;
}

/// The members to start from. Nothing if there is but one: its forecasts are of no ensemble.
std::vector<int64_t> members_of(const ForecastConfig& settings, const std::string& name, int64_t num_members) {
  std::vector<int64_t> members = settings.members;
  for (const int64_t member : members)
    BOREAS_CHECK(member >= 0 && member < num_members, config,
                 "forecast.members has {}, but {} has {} member{}, counted from 0", member, name, num_members,
                 num_members == 1 ? "" : "s");
  BOREAS_CHECK(std::adjacent_find(members.begin(), members.end(), std::greater_equal<>()) == members.end(), config,
               "forecast.members is [{}]; expected numbers that ascend", fmt::join(members, ", "));
  if (num_members == 1) return {};
  if (members.empty()) {
    members.resize(size_t(num_members));
    std::iota(members.begin(), members.end(), 0);
  }
  return members;
}

}  // namespace

std::vector<std::string> make_forecasts(const RunConfig& config, const std::string& checkpoint, Communicator& ranks,
                                        bool resume) {
  const ForecastConfig& settings = config.forecast;
  std::optional<DatasetReader> reader;
  if (settings.state.empty()) reader = DatasetReader::open(config.data.dataset);
  const Trained trained(config, checkpoint, {}, ranks);
  const StepModel& model = trained.model;
  auto source = reader ? dataset_source(model, *reader) : file_source(model, settings.state);
  const std::vector<int64_t> starts = start_dates(settings, *source, model);
  const std::vector<int64_t> members = members_of(settings, source->name(), source->num_members());
  Forecaster forecaster(model, std::move(source));
  ForecastOutput output(model, config, starts, members, trained.path, resume);
  const int64_t first = output.first_forecast(), end = output.num_forecasts();
  const int64_t num_members = std::max<int64_t>(1, int64_t(members.size()));
  if (first > 0) spdlog::info("{} of {} forecasts are there already", first, end);
  std::optional<Progress> progress;
  if (ranks.rank() == 0) progress.emplace("forecast", (end - first) * settings.lead_steps, "steps");
  for (int64_t f = first; f < end; ++f)
    forecaster.run(
        starts[size_t(f / num_members)], settings.lead_steps,
        [&](int64_t lead, int64_t, std::span<const float> fields) {
          output.write(f, lead, fields);
          if (progress) progress->advance(1);
        },
        members.empty() ? 0 : members[size_t(f % num_members)]);
  std::vector<std::string> paths = output.close();
  if (progress) progress->finish();
  spdlog::info("the arena of the forecasts held {} bytes at most", forecaster.arena_peak_bytes());
  spdlog::info("checksums of each variable at each lead time are in {}", paths.back());
  paths.pop_back();
  return paths;
}

std::vector<ForecastScore> make_evaluation(const RunConfig& config, const std::string& checkpoint,
                                           Communicator& ranks) {
  const DatasetReader starts = DatasetReader::open(config.data.dataset);
  const std::string& truth = config.evaluation.truth;
  const DatasetReader reader = truth.empty() ? starts : DatasetReader::open({.path = truth});
  const Trained trained(config, checkpoint, {.num_members = starts.num_members(), .writes = false}, ranks);
  const StepModel& model = trained.model;
  std::optional<Progress> progress;
  int64_t reported = 0;
  std::optional<MapRenderer> renderer;  // of rank 0, to which ranks send the cells that are seen
  if (ranks.rank() == 0) renderer.emplace(reader.latitudes(), reader.longitudes());
  const std::vector<int64_t> map_cells = ranks.all_to_all(std::vector<std::vector<int64_t>>(
      size_t(ranks.size()), renderer ? renderer->cells() : std::vector<int64_t>()))[0];
  const Evaluation evaluation = evaluate(
      model, starts, reader, config.evaluation,
      [&](int64_t done, int64_t total) {
        if (ranks.rank() > 0) return;
        if (!progress) progress.emplace("evaluate", total, "forecasts");
        progress->advance(done - std::exchange(reported, done));
      },
      map_cells);
  if (progress) progress->finish();
  if (ranks.rank() > 0) {
    ranks.barrier();  // the files are whole
    return evaluation.scores;
  }

  const fs::path folder = config.output, map_folder = folder / "maps";
  fs::create_directories(map_folder);
  const auto date = [&](int64_t index) { return format_date(reader.dates()[index]); };
  nlohmann::ordered_json context = {
      {"checkpoint", trained.path},
      {"dataset", starts.name()},
      {"step", format_step(reader.step())},
      {"targets", {date(evaluation.targets.begin), date(evaluation.targets.end - 1)}},
      {"climatology", {date(evaluation.climatology.begin), date(evaluation.climatology.end - 1)}},
      {"weights", "cos(latitude)"}};
  if (!truth.empty()) context["truth"] = reader.name();
  write_scores((folder / "evaluation.json").string(), evaluation.scores, context.dump());

  Report report;
  report.title = "boreas: forecasts of " + fs::path(config.data.dataset.path).stem().string();
  for (const Evaluation::Map& map : evaluation.maps) report.maps.push_back(draw_maps(*renderer, map, map_folder));
  report.scores = evaluation.scores;
  report.lead_unit = "1 step = " + format_step(reader.step());
  report.training_curve = read_training_curve((folder / "metrics.jsonl").string());
  report.config = resolved_config(model.setup().config);
  const ModelConfig& network = model.setup().config.model;
  report.facts = {
      {"checkpoint", trained.path},
      {"parameters", fmt::format("{}", model.parameters().num_parameters())},
      {"data nodes", fmt::format("{}", model.setup().num_cells())},
      {"hidden nodes", fmt::format("{}", model.setup().graph.node_set(kHiddenNodes).size())},
      {"network", fmt::format("{} channels, {} heads, {} {} layers", network.num_channels, network.num_heads,
                              network.processor.num_layers, to_string(network.processor.kind))},
      {"verified on", date(evaluation.targets.begin) + " to " + date(evaluation.targets.end - 1)},
      {"baselines from", date(evaluation.climatology.begin) + " to " + date(evaluation.climatology.end - 1)}};
  write_report((folder / "report.html").string(), report);
  ranks.barrier();
  return evaluation.scores;
}

std::string make_import(const RunConfig& config, const std::string& weights) {
  const DatasetReader reader = DatasetReader::open(config.data.dataset);
  TrainingStep step(make_setup(config, reader, GraphCache::keep), Device::cpu());
  step.materialise();
  const ImportReport report = import_weights(weights, step.model().parameters());
  step.optimizer().reset_average();
  const std::string path = step_checkpoint(config.output, 0);
  fs::create_directories(fs::path(path).parent_path());
  save_checkpoint(path, step.model(), step.optimizer(), {});
  std::string text = fmt::format("{} of {} arrays imported, {} second names\n", report.num_imported, report.num_arrays,
                                 report.aliases.size());
  for (const std::string& line : report.not_used) text += "not used: " + line + "\n";
  return text + "wrote " + path + "\n";
}

void make_export(const std::string& checkpoint, const std::string& output) {
  const std::string path = resolve_checkpoint(checkpoint);
  StepModel model(load_setup(path), Device::cpu());
  model.parameters().materialise(0);
  load_weights(path, model);
  export_weights(output, model.parameters());
}

}  // namespace boreas
