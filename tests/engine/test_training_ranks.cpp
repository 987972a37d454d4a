// Training, resuming, forecasting and evaluating on several ranks gives what one rank gives.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "engine/checkpoint.h"
#include "engine/commands.h"
#include "engine/forecaster.h"
#include "engine/memory_plan.h"
#include "engine/rank_plan.h"
#include "engine/text_file.h"
#include "engine/trainer.h"
#include "io/hdf5_file.h"
#include "io/input_files.h"
#include "io/zarr.h"
#include "tests/engine/forecast_by_training.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/error_of.h"
#include "tests/support/ranks.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::world;

/// A folder that all ranks share, with a dataset.
struct SharedFolder {
  std::optional<test::TemporaryFolder> folder;
  std::string path;

  SharedFolder() {
    if (world().rank() == 0) {
      folder.emplace();
      test::write_tiny_dataset(*folder / "tiny.zarr", 40);
    }
    path = world().text_of(0, folder ? folder->path().string() : "");
  }
  ~SharedFolder() { world().barrier(); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }

  /// Epochs of 12 batches; all that has a state.
  RunConfig config(const std::string& output) const {
    RunConfig config = test::tiny_config(*this / output);
    config.precision = Precision::f64;
    config.data.dataset.path = *this / "tiny.zarr";
    config.data.training = {"", "70%"};
    config.data.validation = {"1970-01-08", ""};
    config.training.ema_decay = 0.8;
    config.training.clip = {ClipKind::norm, 1};
    config.training.rollout = {.start = 1, .epoch_increment = 1, .maximum = 2};
    config.training.learning_rate.decay_steps = 20;
    config.training.validation.every_steps = 10;
    config.training.checkpoint = {.every_steps = 10, .keep = 3, .best = false};
    config.forecast = {.start = "1970-01-08",
                       .end = "1970-01-09",
                       .lead_steps = 3,
                       .formats = {ForecastFormat::zarr, ForecastFormat::netcdf}};
    config.forecast.chunk_cells = 20;
    config.evaluation.start = "1970-01-08";
    config.evaluation.lead_steps = 2;
    return config;
  }
};

/// Runs `task` on the first `size` ranks, in groups of `model_ranks`; the others wait.
void on_ranks(int size, int64_t model_ranks, const std::function<void(const ProcessGrid&)>& task,
              int64_t ensemble_ranks = 1) {
  auto group = world().split(world().rank() < size ? 0 : 1);
  if (world().rank() < size) task(ProcessGrid::make(std::move(group), model_ranks, ensemble_ranks));
  world().barrier();
}

void train_on(int size, const RunConfig& config, int64_t model_ranks = 0, bool resume = false) {
  on_ranks(
      size, model_ranks,
      [&](const ProcessGrid& ranks) { train(config, {.resume = resume, .initial_weights = {}}, ranks); },
      config.parallel.ensemble_ranks);
}

double norm(std::span<const double> x) { return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0)); }

/// |a - b| / max(|b|, scale)
double error_of(std::span<const double> a, std::span<const double> b, double scale) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<double> difference(std::min(a.size(), b.size()));
  for (size_t i = 0; i < difference.size(); ++i) difference[i] = a[i] - b[i];
  return norm(difference) / std::max(norm(b), scale);
}

std::vector<std::string> arrays_below(const Hdf5File& file, const std::string& group) {
  std::vector<std::string> found;
  for (const std::string& name : file.list(group)) {
    const std::string path = group + "/" + name;
    if (!file.is_group(path)) found.push_back(path);
  }
  return found;
}

/// Rank 0 holds two checkpoints, and what was measured on the way, against each other.
void expect_same_training(const RunConfig& a, const RunConfig& b, int64_t step = 20, double tolerance = 1e-9) {
  if (world().rank() > 0) return;
  const Hdf5File in_a = Hdf5File::open(step_checkpoint(a.output, step));
  const Hdf5File in_b = Hdf5File::open(step_checkpoint(b.output, step));
  int num_arrays = 0;
  for (const std::string group :
       {"parameters", "constants", "optimizer/first_moment", "optimizer/second_moment", "ema"}) {
    EXPECT_EQ(arrays_below(in_a, group), arrays_below(in_b, group));
    for (const std::string& name : arrays_below(in_b, group)) {
      ++num_arrays;
      const auto x = in_a.read_vector<double>(name), y = in_b.read_vector<double>(name);
      EXPECT_EQ(in_a.info(name).shape, in_b.info(name).shape) << name;
      // A bias is judged by the weight beside it: its own gradient may be rounding only.
      double scale = 1e-12;
      if (name.ends_with(".bias")) {
        const std::string weight = name.substr(0, name.size() - 4) + "weight";
        if (in_b.exists(weight)) scale = norm(in_b.read_vector<double>(weight));
      }
      EXPECT_LE(error_of(x, y, scale), tolerance) << name;
    }
  }
  EXPECT_GT(num_arrays, 80);
  const auto lines = [](const RunConfig& config) {
    std::vector<nlohmann::json> parsed;
    std::istringstream text(read_text_file(config.output + "/metrics.jsonl"));
    for (std::string line; std::getline(text, line);) parsed.push_back(nlohmann::json::parse(line));
    return parsed;
  };
  const auto of_a = lines(a), of_b = lines(b);
  ASSERT_EQ(of_a.size(), of_b.size());
  for (size_t i = 0; i < of_a.size(); ++i)
    for (const char* key : {"step", "epoch", "rollout", "learning_rate", "loss", "gradient_norm", "validation_loss"}) {
      ASSERT_EQ(of_a[i].contains(key), of_b[i].contains(key)) << i << key;
      if (!of_a[i].contains(key)) continue;
      const double x = of_a[i][key], y = of_b[i][key];
      EXPECT_LE(std::abs(x - y), tolerance * std::abs(y)) << "line " << i << ": " << key;
    }
  for (size_t i = 0; i < of_b.size(); ++i) {
    if (!of_b[i].contains("rmse")) continue;
    for (const auto& [variable, of_leads] : of_b[i]["rmse"].items())
      for (size_t lead = 0; lead < of_leads.size(); ++lead) {
        const double x = of_a[i]["rmse"][variable][lead], y = of_leads[lead];
        EXPECT_LE(std::abs(x - y), tolerance * y) << "line " << i << ": " << variable;
      }
  }
}

void expect_same_bits(const RunConfig& a, const RunConfig& b, int64_t step) {
  if (world().rank() > 0) return;
  EXPECT_EQ(read_text_file(a.output + "/metrics.jsonl"), read_text_file(b.output + "/metrics.jsonl"));
  const Hdf5File in_a = Hdf5File::open(step_checkpoint(a.output, step));
  const Hdf5File in_b = Hdf5File::open(step_checkpoint(b.output, step));
  for (const std::string group : {"parameters", "optimizer/first_moment", "optimizer/second_moment"})
    for (const std::string& name : arrays_below(in_a, group))
      EXPECT_EQ(in_a.read_vector<double>(name), in_b.read_vector<double>(name)) << name;
}

std::vector<float> read_field(const std::string& store, const std::string& name) {
  const ZarrArray array = ZarrArray::open(open_store(store), name);
  int64_t size = 1;
  for (const int64_t n : array.shape()) size *= n;
  std::vector<float> values(static_cast<size_t>(size));
  ThreadPool pool(0);
  array.read(array.whole(), values.data(), pool);
  return values;
}

TEST(TrainingRanks, TwentyStepsEqualOneRank) {
  const SharedFolder folder;
  struct Case {
    const char* name;
    ProcessorKind processor;
    ExchangeKind exchange;
    ShardKind shard = ShardKind::edges;
    Score score = Score::mse;
  };
  for (const Case& c : {Case{"graph", ProcessorKind::graph_transformer, ExchangeKind::halo},
                        Case{"window", ProcessorKind::transformer, ExchangeKind::allgather},
                        Case{"heads", ProcessorKind::graph_transformer, ExchangeKind::halo, ShardKind::heads},
                        Case{"root", ProcessorKind::none, ExchangeKind::halo, ShardKind::edges, Score::rmse}}) {
    SCOPED_TRACE(c.name);
    RunConfig one = folder.config(std::string(c.name) + "_one");
    one.parallel.shard = c.shard;
    one.training.loss.score = c.score;
    if (c.shard == ShardKind::heads) one.model.num_heads = 8;
    one.model.processor.kind = c.processor;
    one.model.processor.window = 6;
    one.parallel.exchange = c.exchange;
    RunConfig all = one;
    all.output = folder / (std::string(c.name) + "_all");
    train_on(1, one);
    train_on(world().size(), all);
    expect_same_training(all, one);
  }
}

TEST(TrainingRanks, AnyNumberGoesOnForecastsAndEvaluates) {
  if (world().size() > 4) GTEST_SKIP() << "takes long, and shows no more than on 4";
  const SharedFolder folder;
  const int all = world().size(), fewer = std::max(1, all - 1);
  const RunConfig whole = folder.config("whole");
  train_on(1, whole);
  RunConfig parts = folder.config("parts");
  parts.training.max_steps = 10;
  train_on(all, parts);
  parts.training.max_steps = 20;
  train_on(fewer, parts, 0, true);
  expect_same_training(parts, whole);

  std::vector<ForecastScore> scores_of_one, scores_of_all;
  RunConfig forecast = parts;
  const auto forecast_on = [&](int size, const std::string& name) {
    forecast.forecast.output = name;
    on_ranks(size, 0, [&](const ProcessGrid& ranks) { make_forecasts(forecast, parts.output, *ranks.world); });
  };
  forecast_on(1, "one");
  forecast_on(all, "all");
  forecast.forecast.area = {50, 100, -50, 300};
  forecast.forecast.every_steps = 2;
  forecast.forecast.variables = {"b"};
  forecast.forecast.chunk_cells = 1;
  forecast_on(all, "area");
  on_ranks(1, 0, [&](const ProcessGrid& ranks) { scores_of_one = make_evaluation(parts, parts.output, *ranks.world); });
  const std::string report = world().rank() == 0 ? read_text_file(parts.output + "/report.html") : "";
  on_ranks(all, 0,
           [&](const ProcessGrid& ranks) { scores_of_all = make_evaluation(parts, parts.output, *ranks.world); });
  if (world().rank() > 0) return;
  for (const char* name : {"a", "b", "p"}) {
    const auto x = read_field(parts.output + "/all.zarr", name), y = read_field(parts.output + "/one.zarr", name);
    ASSERT_EQ(x.size(), y.size());
    ASSERT_EQ(y.size(), size_t(8 * 3 * test::kTinyRows * test::kTinyColumns));
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], 1e-6 * (1 + std::abs(y[i]))) << name << i;
    EXPECT_EQ(Hdf5File::open(parts.output + "/all.nc").read_vector<float>(name), x) << name;
  }
  // The area, of every second step: rows 1 to 4, columns 3 to 8.
  const auto whole_b = read_field(parts.output + "/all.zarr", "b"),
             area_b = read_field(parts.output + "/area.zarr", "b");
  ASSERT_EQ(area_b.size(), size_t(8 * 4 * 6));
  for (size_t start = 0; start < 8; ++start)
    for (size_t i = 0; i < 24; ++i)
      EXPECT_EQ(area_b[start * 24 + i], whole_b[(start * 3 + 1) * 60 + (1 + i / 6) * 10 + 3 + i % 6]);
  ASSERT_EQ(scores_of_all.size(), scores_of_one.size());
  for (size_t i = 0; i < scores_of_all.size(); ++i) {
    const ForecastScore &x = scores_of_all[i], &y = scores_of_one[i];
    EXPECT_EQ(x.num_targets, y.num_targets);
    EXPECT_NEAR(x.rmse, y.rmse, 1e-6 * y.rmse);
    EXPECT_NEAR(x.rmse_damped_anomaly, y.rmse_damped_anomaly, 1e-9 * y.rmse_damped_anomaly);
    EXPECT_NEAR(x.anomaly_correlation, y.anomaly_correlation, 1e-6);
  }
  // The maps too: a picture shows no rounding.
  EXPECT_EQ(read_text_file(parts.output + "/report.html").size(), report.size());
}

TEST(TrainingRanks, ForecastStepsAreThoseOfTrainingToTheBit) {
  const SharedFolder folder;
  RunConfig config = folder.config("steps");
  config.precision = Precision::f32;
  config.model.encoder.num_chunks = config.model.decoder.num_chunks = 2;
  const DatasetReader reader = DatasetReader::open(config.data.dataset);
  for (const ShardKind kind : {ShardKind::edges, ShardKind::heads})
    for (const bool fold : {true, false}) {
      if (kind == ShardKind::heads && world().size() > config.model.num_heads) continue;
      config.parallel.shard = kind;
      config.forecast.fold = fold;
      StepModel model(make_setup(config, reader, GraphCache::read_only, graph_share(config, world())), Device::cpu(),
                      &world());
      model.parameters().materialise(1);
      const auto expected = test::forecast_by_training(model, reader, 10, 3);
      Forecaster forecaster(model, reader);
      std::vector<std::vector<float>> found;
      forecaster.run(reader.dates()[10], 3, [&](int64_t, int64_t, std::span<const float> fields) {
        found.emplace_back(fields.begin(), fields.end());
      });
      EXPECT_EQ(found, expected) << to_string(kind) << ", fold " << fold;
    }
}

// In f32, of an ensemble, in all three formats, with variables that GRIB knows.
TEST(TrainingRanks, ForecastsInSinglePrecisionEqualThoseOfOneRank) {
  if (world().size() > 4) GTEST_SKIP() << "takes long, and shows no more than on 4";
  const SharedFolder folder;
  if (world().rank() == 0) test::write_tiny_dataset(folder / "members.zarr", 40, -1, 1, 3);
  world().barrier();
  RunConfig config = folder.config("single");
  config.precision = Precision::f32;
  config.data.dataset.rename = {{"a", "10u"}, {"b", "t_850"}, {"p", "tp"}};
  config.data.roles.diagnostic = {"tp"};
  config.training.max_steps = 4;
  train_on(1, config);
  config.data.dataset.path = folder / "members.zarr";
  config.forecast.members = {0, 2};
  config.forecast.end = "";
  config.forecast.lead_steps = 12;
  config.forecast.formats.push_back(ForecastFormat::grib);
  config.forecast.output = "one";
  bool has_grib = true;
  on_ranks(1, 0, [&](const ProcessGrid& ranks) {
    try {
      make_forecasts(config, config.output, *ranks.world);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      has_grib = false;
      config.forecast.formats.pop_back();
      make_forecasts(config, config.output, *ranks.world);
    }
  });
  has_grib = world().text_of(0, has_grib ? "yes" : "no") == "yes";
  config.forecast.formats.resize(has_grib ? 3 : 2);
  config.forecast.output = "all";
  on_ranks(world().size(), 0, [&](const ProcessGrid& ranks) { make_forecasts(config, config.output, *ranks.world); });
  if (world().rank() > 0) return;

  const std::string one = config.output + "/one", all = config.output + "/all";
  constexpr size_t kMembers = 2, kSteps = 12, kCells = test::kTinyRows * test::kTinyColumns;
  const int64_t start = parse_date(config.forecast.start);
  double worst = 0;
  for (const std::string name : {"10u", "t_850", "tp"}) {
    const auto x = read_field(all + ".zarr", name), y = read_field(one + ".zarr", name);
    ASSERT_EQ(x.size(), kMembers * kSteps * kCells);
    ASSERT_EQ(y.size(), x.size());
    double largest = 0, difference = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      largest = std::max(largest, std::abs(double(y[i])));
      difference = std::max(difference, std::abs(double(x[i]) - double(y[i])));
    }
    EXPECT_LE(difference, 1e-6 * largest) << name;
    worst = std::max(worst, difference / largest);
    for (const std::string suffix : {".nc", ".grib"}) {
      if (suffix == ".grib" && !has_grib) continue;
      const InputCatalog catalog = open_input_files({all + suffix});
      const auto variable = std::find_if(catalog.variables.begin(), catalog.variables.end(),
                                         [&](const InputVariable& v) { return v.name == name; });
      ASSERT_NE(variable, catalog.variables.end()) << name;
      for (size_t k = 0; k < kSteps; ++k) {
        const auto& of_members = variable->fields.at(start + int64_t(k + 1) * 6 * 3600);
        ASSERT_EQ(of_members.size(), kMembers);
        for (size_t m = 0; m < kMembers; ++m) {
          std::vector<double> values(kCells);
          catalog.read(of_members[m], values);
          const float* const field = x.data() + (m * kSteps + k) * kCells;
          const auto [least, most] = std::minmax_element(field, field + kCells);
          const double packing = suffix == ".nc" ? 0 : (double(*most) - double(*least)) / 65535 + 1e-6;
          for (size_t c = 0; c < kCells; ++c) EXPECT_NEAR(values[c], double(field[c]), packing) << name << k << c;
        }
      }
    }
  }
  EXPECT_TRUE(worst > 0 || !has_grib || read_text_file(all + ".grib") == read_text_file(one + ".grib"));
}

TEST(TrainingRanks, PatchesGiveTheFilesOfBands) {
  const SharedFolder folder;
  const auto with = [&](const std::string& name, GraphPartition partition) {
    RunConfig config = folder.config(name);
    config.parallel.partition = partition;
    return config;
  };
  const RunConfig bands = with("bands", GraphPartition::bands), one = with("one", GraphPartition::patches);
  train_on(1, bands);
  train_on(1, one);
  if (world().rank() == 0) {  // of one rank, bit for bit
    const Hdf5File a = Hdf5File::open(step_checkpoint(one.output, 20));
    const Hdf5File b = Hdf5File::open(step_checkpoint(bands.output, 20));
    for (const std::string group : {"parameters", "constants", "optimizer/first_moment", "optimizer/second_moment"})
      for (const std::string& name : arrays_below(b, group))
        EXPECT_EQ(a.read_vector<double>(name), b.read_vector<double>(name)) << name;
    EXPECT_EQ(a.read_text_attribute("graph", "hash"), b.read_text_attribute("graph", "hash"));
  }
  RunConfig all = with("all", GraphPartition::patches);
  all.training.max_steps = 10;
  train_on(world().size(), all);
  on_ranks(world().size(), 0, [&](const ProcessGrid& ranks) {
    GraphShare share = graph_share(all, *ranks.model);
    share.partition = GraphPartition::patches;
    const ModelSetup setup = make_setup(all, DatasetReader::open(all.data.dataset), GraphCache::read_only, share);
    const auto& part = setup.graph.node_set(kDataNodes).part;
    EXPECT_EQ(ranks.world->any(part && part->stored.size() > 1), world().size() > 2);  // halves are bands
  });
  const auto read = [](const RunConfig& config, const std::string& name) {
    return Hdf5File::open(step_checkpoint(config.output, 10)).read_vector<double>(name);
  };
  if (world().rank() == 0) {  // what no training changes, in the order of the dataset
    for (const char* name : {"constants/node_attributes.latlons_data", "constants/node_attributes.latlons_hidden",
                             "variables/latitudes", "graph/edges/data-to-hidden/attributes"})
      EXPECT_EQ(read(all, name), read(bands, name)) << name;
  }
  all.training.max_steps = 20;
  all.parallel.partition = world().size() == 3 ? GraphPartition::bands : GraphPartition::patches;
  train_on(std::max(1, world().size() - 1), all, 0, true);
  expect_same_training(all, bands);

  RunConfig refused = bands;
  refused.parallel.partition = GraphPartition::patches;
  refused.model.processor.kind = ProcessorKind::transformer;
  BOREAS_EXPECT_ERROR(validate(refused), config, "the order of its nodes is a part of the model");
  refused.model.processor.kind = ProcessorKind::graph_transformer;
  refused.parallel.shard = ShardKind::heads;
  BOREAS_EXPECT_ERROR(validate(refused), config, "parallel.partition is patches, but parallel.shard is heads");
}

TEST(TrainingRanks, DataGroupsEqualMicroSteps) {
  if (world().size() % 2 != 0) GTEST_SKIP() << "needs an even number of ranks";
  const SharedFolder folder;
  RunConfig one = folder.config("one"), groups = folder.config("groups");
  one.training.micro_steps = 4;
  groups.training.micro_steps = 2;
  groups.training.max_steps = 10;
  groups.parallel.model_ranks = world().size() / 2;
  if (world().size() == 4) groups.parallel.partition = GraphPartition::patches;
  train_on(1, one);
  train_on(world().size(), groups, groups.parallel.model_ranks);
  groups.training.max_steps = 20;
  groups.training.micro_steps = 4;
  train_on(1, groups, 0, true);  // goes on with what two groups wrote
  expect_same_training(groups, one);
}

/// Ranks in use, of which so many share cells and in so many groups divide members; the others train on other samples.
struct MemberGrid {
  int ranks;
  int64_t model_ranks, ensemble_ranks;
  int64_t data_groups() const { return ranks / (model_ranks * ensemble_ranks); }
};

/// The grids that need as many ranks as there are, or nearly.
std::vector<MemberGrid> member_grids() {
  std::vector<MemberGrid> grids;
  for (const MemberGrid& grid : {MemberGrid{2, 1, 2}, MemberGrid{3, 1, 3}, MemberGrid{4, 2, 2}, MemberGrid{4, 1, 2},
                                 MemberGrid{6, 2, 3}, MemberGrid{8, 2, 2}})
    if (grid.ranks == world().size() || (grid.ranks == 6 && world().size() == 8)) grids.push_back(grid);
  return grids;
}

/// Three members: uneven on two ranks. Rollout 2 from the beginning, in validations too; 12 updates of 2 batches are
/// two epochs.
RunConfig member_config(const SharedFolder& folder, const std::string& output) {
  const std::string path = folder / "members.zarr";
  if (world().rank() == 0 && !std::filesystem::exists(path)) test::write_tiny_dataset(path, 40, -1, 1, 3);
  world().barrier();
  RunConfig config = folder.config(output);
  config.data.dataset.path = path;
  config.training.micro_steps = 2;
  config.training.max_steps = 10;
  config.training.rollout = {.start = 2, .epoch_increment = 0, .maximum = 2};
  config.training.validation.rollout = 2;
  config.training.validation.every_steps = 5;
  return config;
}

RunConfig on_grid(RunConfig config, const MemberGrid& grid, const std::string& output) {
  config.output = output;
  config.training.micro_steps /= grid.data_groups();
  config.parallel.model_ranks = grid.model_ranks;
  config.parallel.ensemble_ranks = grid.ensemble_ranks;
  return config;
}

TEST(TrainingRanks, MembersDividedEqualOneRank) {
  const SharedFolder folder;
  if (member_grids().empty()) GTEST_SKIP() << "needs several ranks";
  for (const Score score : {Score::mse, Score::rmse, Score::crps}) {
    RunConfig one = member_config(folder, fmt::format("one_{}", to_string(score)));
    one.training.loss.score = score;
    if (score == Score::rmse) one.training.micro_steps = 4;  // the root is of a batch
    train_on(1, one);
    int number = 0;
    for (const MemberGrid& grid : member_grids()) {
      SCOPED_TRACE(fmt::format("{}: {} ranks, {} share cells, members in {} parts", to_string(score), grid.ranks,
                               grid.model_ranks, grid.ensemble_ranks));
      RunConfig parts = on_grid(one, grid, folder / fmt::format("parts_{}_{}", to_string(score), number++));
      if (score == Score::rmse && grid.model_ranks > 1) parts.parallel.partition = GraphPartition::patches;
      train_on(grid.ranks, parts, grid.model_ranks);
      expect_same_training(parts, one, 10);
    }
  }
}

TEST(TrainingRanks, MembersDividedRepeatBitForBitAndGoOnUndivided) {
  const SharedFolder folder;
  if (member_grids().empty()) GTEST_SKIP() << "needs several ranks";
  const MemberGrid grid = member_grids().front(), alone{1, 1, 1};
  RunConfig one = member_config(folder, "one");
  one.training.loss.score = Score::crps;
  const RunConfig first = on_grid(one, grid, folder / "first"), second = on_grid(one, grid, folder / "second");
  train_on(grid.ranks, first, grid.model_ranks);
  train_on(grid.ranks, second, grid.model_ranks);
  expect_same_bits(first, second, 10);
  train_on(1, one);
  one.training.max_steps = 20;
  // Each goes on with what the other wrote.
  RunConfig divided = on_grid(one, grid, one.output), undivided = on_grid(one, alone, first.output);
  train_on(grid.ranks, divided, grid.model_ranks, true);
  train_on(1, undivided, 0, true);
  expect_same_training(divided, undivided);
}

TEST(TrainingRanks, MembersThatCannotBeDividedAreRefused) {
  if (world().size() == 1) GTEST_SKIP() << "needs several ranks";
  const SharedFolder folder;
  RunConfig config = member_config(folder, "members");
  const auto error_on = [&](int64_t model_ranks, int64_t ensemble_ranks) {
    std::string message;
    config.parallel.model_ranks = model_ranks;
    config.parallel.ensemble_ranks = ensemble_ranks;
    message = test::message_of([&] {
      const ProcessGrid ranks = ProcessGrid::make(world().split(0), model_ranks, ensemble_ranks);
      train(config, {}, ranks);
    });
    world().barrier();
    return message;
  };
  EXPECT_NE(error_on(0, world().size() + 1).find("which does not divide the"), std::string::npos);
  if (world().size() > 3) {
    const std::string message = error_on(0, world().size());
    EXPECT_NE(message.find(fmt::format("config: parallel.ensemble_ranks is {}, but the members to divide in "
                                       "data.dataset are 3; choose at most as many",
                                       world().size())),
              std::string::npos)
        << message;
  }
  config.data.dataset.path = folder / "tiny.zarr";
  config.training.loss.score = Score::crps;
  EXPECT_NE(error_on(0, 1).find("crps, which scores ensembles, but"), std::string::npos);
}

TEST(TrainingRanks, RepeatsBitForBit) {
  const SharedFolder folder;
  RunConfig first = folder.config("first");
  first.training.max_steps = 10;
  first.precision = Precision::f32;
  first.parallel.model_ranks = world().size() % 2 == 0 ? world().size() / 2 : 0;
  RunConfig second = first;
  second.output = folder / "second";
  train_on(world().size(), first, first.parallel.model_ranks);
  train_on(world().size(), second, first.parallel.model_ranks);
  if (world().rank() > 0) return;
  EXPECT_EQ(read_text_file(first.output + "/metrics.jsonl"), read_text_file(second.output + "/metrics.jsonl"));
  const Hdf5File a = Hdf5File::open(step_checkpoint(first.output, 10));
  const Hdf5File b = Hdf5File::open(step_checkpoint(second.output, 10));
  for (const std::string& name : arrays_below(a, "parameters"))
    EXPECT_EQ(a.read_vector<float>(name), b.read_vector<float>(name)) << name;
}

TEST(TrainingRanks, ShardsPassInSlabs) {
  const SharedFolder folder;
  RunConfig config = folder.config("slabs");
  config.model.trainable.data = 10000;  // a row is 80 kB, and a slab of 1 MiB has 13
  const std::string path = step_checkpoint(config.output, 0), name = "node_attributes.trainable_tensors.data.trainable";
  on_ranks(world().size(), 0, [&](const ProcessGrid& ranks) {
    const ModelSetup setup = make_setup(config, DatasetReader::open(config.data.dataset));
    TrainingStep step(setup, Device::cpu(), ranks), again(setup, Device::cpu(), ranks);
    step.materialise();
    again.materialise();
    step.model().parameters().for_each([&](const std::string& of, Tensor value, Tensor) {
      const Range rows = step.model().parameters().shards_of(of).rows;
      for (int64_t i = 0; i < value.size(); ++i) value.as<double>()[i] = double(rows.begin * value.cols() + i);
    });
    save_checkpoint(path, step.model(), step.optimizer(), {});
    ranks.world->barrier();
    load_checkpoint(path, again.model(), again.optimizer());
    EXPECT_TRUE(test::identical(again.model().parameters().flat_masters(), step.model().parameters().flat_masters()));
  });
  if (world().rank() > 0) return;
  const auto whole = Hdf5File::open(path).read_vector<double>("parameters/" + name);
  ASSERT_EQ(whole.size(), size_t(test::kTinyRows * test::kTinyColumns * 10000));
  for (size_t i = 0; i < whole.size(); ++i) ASSERT_EQ(whole[i], double(i));
}

TEST(TrainingRanks, NoRankHasTheWholeGraph) {
  const SharedFolder folder;
  RunConfig config = folder.config("parts");
  config.training.max_steps = 1;
  train_on(world().size(), config);  // makes the graph
  on_ranks(world().size(), 0, [&](const ProcessGrid& ranks) {
    const DatasetReader reader = DatasetReader::open(config.data.dataset);
    const GraphShare share = graph_share(config, *ranks.model);
    const ModelSetup whole = make_setup(config, reader);
    for (const ModelSetup& part : {make_setup(config, reader, GraphCache::read_only, share),
                                   load_setup(step_checkpoint(config.output, 1), share)}) {
      EXPECT_EQ(part.graph.hash(), whole.graph.hash());
      EXPECT_EQ(part.graph.is_part(), world().size() > 1);
      for (size_t i = 0; i < whole.graph.edges.size(); ++i) {
        double num_edges = double(part.graph.edges[i].src_of.size());
        EXPECT_LE(num_edges, 1.6 * double(whole.graph.edges[i].size()) / world().size() + 100);
        ranks.world->sum_values({&num_edges, 1});
        EXPECT_EQ(num_edges, double(whole.graph.edges[i].size()));
      }
      const Range own = part.graph.nodes[0].rows();
      EXPECT_EQ(int64_t(part.graph.nodes[0].latitudes.size()), own.size());
      // Coordinates too, but for the first, which writes them.
      EXPECT_EQ(int64_t(part.longitudes.size()), share.index == 0 ? part.num_cells() : own.size());
      for (int64_t i = own.begin; i < own.end; ++i) {
        EXPECT_EQ(part.latitudes_of(own)[size_t(i - own.begin)], whole.latitudes[size_t(i)]);
        EXPECT_EQ(part.longitudes_of(own)[size_t(i - own.begin)], whole.longitudes[size_t(i)]);
      }
      for (size_t i = 0; i < whole.latitudes.size(); ++i)
        EXPECT_NEAR(all_coordinates(part).latitudes[i], whole.latitudes[i], 1e-12);
    }
  });
}

TEST(TrainingRanks, MemoryIsDividedAndABudgetHoldsOnAll) {
  const SharedFolder folder;
  RunConfig config = folder.config("budget");
  on_ranks(world().size(), 0, [&](const ProcessGrid& ranks) {
    ModelSetup setup = make_setup(config, DatasetReader::open(config.data.dataset));
    const int64_t one = plan_memory(setup, Device::cpu()).training_peak.bytes;
    const MemoryReport own = plan_memory(setup, Device::cpu(), ranks);
    EXPECT_LE(double(own.training_peak.bytes), (1.0 / double(world().size()) + 0.35) * double(one));
    setup.config.memory.budget = fmt::format("{}", world().largest(own.training_bytes()) * 9 / 10);
    const ModelConfig fitted = fit_to_budget(setup, Device::cpu(), ranks).model;
    const std::string choice = fmt::format("{} {}", to_string(fitted.recompute), fitted.encoder.num_chunks);
    check_agreement(world(), "choice", choice);
    EXPECT_NE(choice, "none 1");
  });
}

TEST(TrainingRanks, OneMachinePlansTheMemoryOfAnyRankExactly) {
  const SharedFolder folder;
  struct Case {
    ShardKind shard;
    ExchangeKind exchange;
    ProcessorKind processor;
    int64_t model_ranks;
    GraphPartition partition = GraphPartition::bands;
    int64_t ensemble_ranks = 1;
    Score score = Score::mse;
  };
  const int size = world().size();
  (void)member_config(folder, "plan");  // writes the dataset
  for (const Case& c :
       {Case{ShardKind::edges, ExchangeKind::halo, ProcessorKind::graph_transformer, 0},
        Case{ShardKind::edges, ExchangeKind::halo, ProcessorKind::graph_transformer, 0, GraphPartition::patches},
        Case{ShardKind::edges, ExchangeKind::allgather, ProcessorKind::transformer, 0},
        Case{ShardKind::heads, ExchangeKind::halo, ProcessorKind::transformer, 0},
        Case{ShardKind::edges, ExchangeKind::halo, ProcessorKind::transformer, size % 2 ? 0 : size / 2},
        Case{ShardKind::edges, ExchangeKind::halo, ProcessorKind::graph_transformer, 0, GraphPartition::bands,
             size % 2 ? 1 : 2, Score::crps},
        Case{ShardKind::edges, ExchangeKind::halo, ProcessorKind::graph_transformer, 0, GraphPartition::bands,
             size % 2 ? 1 : 2, Score::mse}}) {
    RunConfig config = folder.config("plan");
    if (c.ensemble_ranks > 1 || c.score == Score::crps) config.data.dataset.path = folder / "members.zarr";
    config.training.loss.score = c.score;
    config.model.num_heads = 8;
    config.model.processor.kind = c.processor;
    config.model.processor.window = 6;
    config.parallel = {.model_ranks = c.model_ranks,
                       .ensemble_ranks = c.ensemble_ranks,
                       .shard = c.shard,
                       .exchange = c.exchange,
                       .partition = c.partition};
    const ModelSetup setup = make_setup(config, DatasetReader::open(config.data.dataset));
    const RankPlan plan = plan_ranks(setup, Device::cpu(), size);
    const auto compare = [&](const ProcessGrid& ranks) {
      ModelSetup ordered = setup;
      if (c.partition == GraphPartition::patches && size > 1) ordered.graph = in_patches(setup.graph, size);
      const MemoryReport own = plan_memory(ordered, Device::cpu(), ranks);
      if (ranks.world->rank() == plan.rank) {
        EXPECT_EQ(plan.memory.training_bytes(), own.training_bytes());
        EXPECT_EQ(plan.memory.forecast_bytes(), own.forecast_bytes());
        EXPECT_EQ(plan.memory.training_peak.bytes, own.training_peak.bytes);
      }
      EXPECT_LE(own.training_bytes(), plan.memory.training_bytes());
    };
    on_ranks(size, c.model_ranks, compare, c.ensemble_ranks);
    EXPECT_NE(plan.table().find("groups of"), std::string::npos);
  }
}

TEST(TrainingRanks, WhatCannotWorkIsToldOnEveryRank) {
  if (world().size() == 1) GTEST_SKIP() << "needs several ranks";
  const SharedFolder folder;
  const auto error_with = [&](const RunConfig& config) {
    std::string message;
    on_ranks(world().size(), 0,
             [&](const ProcessGrid& ranks) { message = test::message_of([&] { train(config, {}, ranks); }); });
    return message;
  };
  RunConfig config = folder.config("seeds");
  config.training.seed = 10 + world().rank();
  EXPECT_NE(error_with(config).find("config: the configuration of rank 1 differs from that of rank 0"),
            std::string::npos);
  if (world().size() > 2) {
    config = folder.config("heads");
    config.parallel.shard = ShardKind::heads;
    EXPECT_NE(error_with(config).find("config: parallel.shard is heads, but there are"), std::string::npos);
  }
  if (world().size() < 8) return;
  config = folder.config("few");
  config.graph.build.hidden = {.kind = NodesKind::regular, .num_latitudes = 2, .num_longitudes = 3};
  config.graph.build.processor.kind = EdgesKind::knn;
  config.graph.build.processor.num_nearest_neighbours = 3;
  config.graph.build.encoder.cutoff_factor = 1.5;
  EXPECT_NE(error_with(config).find("config: 8 ranks cannot share the 6 nodes of hidden"), std::string::npos)
      << error_with(config);
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN
