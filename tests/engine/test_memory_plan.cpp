#include "engine/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/forecast_output.h"
#include "engine/model_state.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::RandomWindow;
using test::tiny_config;
using test::tiny_setup;

RunConfig with_memory_settings(Recompute recompute, int64_t chunks) {
  RunConfig config = tiny_config();
  config.model.recompute = recompute;
  config.model.encoder.num_chunks = config.model.decoder.num_chunks = chunks;
  config.training.rollout = {.start = 2, .epoch_increment = 0, .maximum = 2};
  config.training.validation.rollout = 2;
  config.training.ema_decay = 0.9;
  return config;
}

TEST(MemoryPlan, TrainingPeakIsThePlannedOneToTheByte) {
  for (const Recompute recompute : {Recompute::none, Recompute::mappers, Recompute::block, Recompute::step})
    for (const int64_t chunks : {1, 2, 5}) {
      const ModelSetup setup = tiny_setup(with_memory_settings(recompute, chunks));
      const MemoryReport report = plan_memory(setup, Device::cpu());

      TrainingStep step(setup, Device::cpu());
      step.materialise();
      // More room than planned, so that a plan that is too small shows as a difference.
      Arena arena(Buffer::on(Device::cpu(), 2 * report.training_peak.bytes, "arena"));
      Context ctx(Device::cpu(), arena);
      const RandomWindow data(2, 4);
      step.update(
          ctx, [&] { return data.window; }, 2, 1, 1e-3);
      step.collect();
      step.optimizer().with_average(ctx, [&] { step.validate(ctx, data.window, 2); });
      EXPECT_EQ(arena.peak_bytes(), report.training_peak.bytes) << to_string(recompute) << ", " << chunks << " chunks";
      EXPECT_EQ(arena.used_bytes(), 0);
    }
}

TEST(MemoryPlan, ForecastMemoryIsThePlannedOneToTheByte) {
  for (const int64_t chunks : {1, 2, 5})
    for (const bool fold : {true, false}) {
      RunConfig config = with_memory_settings(Recompute::none, chunks);
      config.forecast.fold = fold;
      const ModelSetup setup = tiny_setup(config);
      const MemoryReport report = plan_memory(setup, Device::cpu());
      const int64_t output = ForecastOutput::staging_bytes(StepModel(setup, Device::cpu()), config.forecast);

      const int64_t before = live_bytes();
      StepModel model(setup, Device::cpu());
      model.parameters().materialise(1);
      model.parameters().keep_values_only();
      ModelState state(model);
      state.begin(0);
      for (int64_t step = 0; step < 3; ++step) {
        for (int64_t v = 0; v < setup.variables.size(); ++v)
          for (int64_t t = 0; t < (step == 0 ? config.data.num_input_steps : config.data.num_output_steps); ++t) {
            if (step == 0 && state.needs_initial(v)) std::ranges::fill(state.initial(v, t), float(v));
            if (step > 0 && state.needs_forcing(v)) std::ranges::fill(state.forcing(v, t), float(v));
          }
        state.step();
      }
      EXPECT_EQ(state.arena_peak_bytes(), report.forecast_peak.bytes) << chunks << " chunks";
      EXPECT_EQ(live_bytes() - before, report.forecast_bytes() - output);
      const ForecastUse unwritten{.writes = false};
      Communicator& one = *ProcessGrid::one_rank().world;
      EXPECT_EQ(plan_forecast(setup, Device::cpu(), one).forecast_bytes(), report.forecast_bytes());
      EXPECT_EQ(plan_forecast(setup, Device::cpu(), one, unwritten).forecast_bytes(), live_bytes() - before);
      EXPECT_EQ(live_bytes("staging"), ModelState::staging_bytes(model));
    }
}

TEST(MemoryPlan, OwnersOfBuffersAreWhatIsReallyTaken) {
  const ModelSetup setup = tiny_setup(with_memory_settings(Recompute::none, 2));
  const MemoryReport report = plan_memory(setup, Device::cpu());
  const auto planned = [&](const std::string& owner) {
    for (const MemoryReport::Line& line : report.training)
      if (line.owner == owner) return line.bytes;
    return int64_t{-1};
  };
  const int64_t before = live_bytes();
  TrainingStep step(setup, Device::cpu());
  EXPECT_EQ(live_bytes() - before, planned("graph"));
  step.materialise();
  EXPECT_EQ(live_bytes("parameters"), planned("parameters"));
  EXPECT_EQ(live_bytes("gradients"), planned("gradients"));
  EXPECT_EQ(live_bytes("optimizer"), planned("optimizer"));
  EXPECT_EQ(live_bytes("ema"), planned("ema"));
  EXPECT_GT(planned("saved"), 0);
  EXPECT_GT(planned("scratch"), 0);
}

TEST(MemoryPlan, Bf16HasMastersAndSmallerActivations) {
  const auto report_of = [](Precision precision) {
    RunConfig config = with_memory_settings(Recompute::none, 1);
    config.precision = precision;
    return plan_memory(tiny_setup(config), Device::cpu());
  };
  const MemoryReport f32 = report_of(Precision::f32), bf16 = report_of(Precision::bf16);
  const auto bytes = [](const MemoryReport& report, const std::string& owner) {
    for (const MemoryReport::Line& line : report.training)
      if (line.owner == owner) return line.bytes;
    return int64_t{-1};
  };
  EXPECT_EQ(bytes(f32, "masters"), 0);
  EXPECT_EQ(bytes(bf16, "masters"), 2 * bytes(bf16, "parameters"));
  EXPECT_EQ(bytes(bf16, "optimizer"), 2 * bytes(bf16, "masters"));
  EXPECT_LT(bf16.training_peak.saved_bytes, f32.training_peak.saved_bytes);
}

TEST(MemoryPlan, AGpuCanBePlannedForWithoutOne) {
  RunConfig config = with_memory_settings(Recompute::block, 3);
  config.precision = Precision::bf16;
  const int64_t before = live_bytes();
  const MemoryReport report = plan_memory(tiny_setup(config), Device::planned_cuda());
  EXPECT_EQ(live_bytes(), before);
  const auto bytes = [&](const std::string& owner) {
    for (const MemoryReport::Line& line : report.training)
      if (line.owner == owner) return line.bytes;
    return int64_t{-1};
  };
  EXPECT_GT(bytes("graph"), 0);
  EXPECT_EQ(bytes("batch"), 2 * 4 * 4 * test::kTinyRows * test::kTinyColumns * 4);  // samples, times, variables, cells
  EXPECT_EQ(bytes("staging"), bytes("batch"));
  EXPECT_EQ(bytes("libraries"), Context::kLibraryWorkspaceBytes);
  EXPECT_GT(report.context_bytes, 0);
  EXPECT_GT(report.training_host_bytes, 2 * bytes("batch"));
  EXPECT_NE(report.table().find("on the host"), std::string::npos);
}

TEST(MemoryPlan, TheDeviceMustBeThereAndFitThePrecision) {
  RunConfig config = tiny_config();
  EXPECT_EQ(choose_device(config), Device::cpu());
  config.precision = Precision::bf16;
  BOREAS_EXPECT_ERROR(choose_device(config), unsupported, "bf16 needs a GPU; set device=cuda");
  config.device = DeviceChoice::automatic;
  const bool has_gpu = num_cuda_devices() > 0;
  if (!has_gpu) {
    BOREAS_EXPECT_ERROR(choose_device(config), unsupported, "precision bf16 needs a GPU, but");
    EXPECT_EQ(choose_device(config, Purpose::plan), Device::planned_cuda());
  }
  config.precision = Precision::f32;
  EXPECT_EQ(choose_device(config), has_gpu ? Device::cuda(0) : Device::cpu());
  config.precision = Precision::f64;
  EXPECT_EQ(choose_device(config), Device::cpu());
  config.device = DeviceChoice::cuda;
  config.precision = Precision::f32;
  if (!has_gpu) {
    BOREAS_EXPECT_ERROR(choose_device(config), unsupported, "device is cuda, but");
    EXPECT_EQ(choose_device(config, Purpose::plan), Device::planned_cuda());
  }
  config.precision = Precision::f64;
  BOREAS_EXPECT_ERROR(choose_device(config, Purpose::plan), unsupported, "f64 is for the CPU only");
}

TEST(MemoryPlan, PlanningTakesNoMemoryForTheStep) {
  const ModelSetup setup = tiny_setup(tiny_config());
  const int64_t before = live_bytes();
  (void)plan_memory(setup, Device::cpu());
  EXPECT_EQ(live_bytes(), before);
}

TEST(MemoryPlan, RecomputeSavesMemory) {
  int64_t previous = std::numeric_limits<int64_t>::max();
  for (const Recompute recompute : {Recompute::none, Recompute::mappers, Recompute::block, Recompute::step}) {
    const int64_t bytes =
        plan_memory(tiny_setup(with_memory_settings(recompute, 1)), Device::cpu()).training_peak.bytes;
    EXPECT_LT(bytes, previous) << to_string(recompute);
    previous = bytes;
  }
}

TEST(MemoryPlan, BudgetTakesTheFastestSettingsThatFit) {
  struct Setting {
    Recompute recompute;
    int64_t chunks, bytes;
  };
  std::vector<Setting> settings;
  for (const Recompute recompute : {Recompute::none, Recompute::mappers, Recompute::block, Recompute::step})
    for (const int64_t chunks : {1, 2, 4})
      settings.push_back(
          {recompute, chunks,
           plan_memory(tiny_setup(with_memory_settings(recompute, chunks)), Device::cpu()).training_bytes()});
  for (const Setting& wanted : settings) {
    RunConfig config = with_memory_settings(Recompute::none, 1);
    config.memory.budget = std::to_string(wanted.bytes);
    const auto first =
        std::find_if(settings.begin(), settings.end(), [&](const Setting& s) { return s.bytes <= wanted.bytes; });
    const ModelConfig fitted = fit_to_budget(tiny_setup(config), Device::cpu()).model;
    EXPECT_LE(fitted.recompute, first->recompute) << wanted.bytes;
    config.model = fitted;
    EXPECT_LE(plan_memory(tiny_setup(config), Device::cpu()).training_bytes(), wanted.bytes);
  }
}

TEST(MemoryPlan, BudgetRaisesChunksWhenRecomputeIsNotEnough) {
  RunConfig config = with_memory_settings(Recompute::step, 1);
  config.graph.build.hidden.level = 3;
  config.model.processor.kind = ProcessorKind::none;  // the peak lies in a mapper
  ModelSetup setup = tiny_setup(config);
  const auto bytes_with = [&](int64_t chunks) {
    setup.config.model.encoder.num_chunks = setup.config.model.decoder.num_chunks = chunks;
    return plan_memory(setup, Device::cpu()).training_bytes();
  };
  const int64_t one = bytes_with(1), two = bytes_with(2), four = bytes_with(4);
  ASSERT_LT(two, one);
  ASSERT_LT(four, two);
  setup.config = config;
  setup.config.memory.budget = std::to_string(four);
  const ModelConfig fitted = fit_to_budget(setup, Device::cpu()).model;
  EXPECT_EQ(fitted.recompute, Recompute::step);
  EXPECT_EQ(fitted.encoder.num_chunks, 4);
  EXPECT_EQ(fitted.decoder.num_chunks, 4);
}

TEST(MemoryPlan, ImpossibleBudgetNamesTheLargestConsumers) {
  RunConfig config = with_memory_settings(Recompute::none, 1);
  config.memory.budget = "100KiB";
  const ModelSetup setup = tiny_setup(config);
  BOREAS_EXPECT_ERROR(fit_to_budget(setup, Device::cpu()), out_of_memory,
                      "memory.budget is 100.00 KiB but the training needs");
  BOREAS_EXPECT_ERROR(fit_to_budget(setup, Device::cpu()), out_of_memory, "largest: ");
}

TEST(MemoryPlan, AForecastFitsItsBudgetByChunks) {
  RunConfig config = with_memory_settings(Recompute::none, 1);
  config.graph.build.hidden.level = 3;
  config.model.processor.kind = ProcessorKind::none;
  ModelSetup setup = tiny_setup(config);
  Communicator& one = *ProcessGrid::one_rank().world;
  const auto bytes_with = [&](int64_t chunks) {
    setup.config.model.encoder.num_chunks = setup.config.model.decoder.num_chunks = chunks;
    return plan_forecast(setup, Device::cpu(), one).forecast_bytes();
  };
  const int64_t none = bytes_with(1), two = bytes_with(2), four = bytes_with(4);
  ASSERT_LT(two, none);
  ASSERT_LT(four, two);
  const auto fitted_to = [&](const std::string& budget, const ForecastUse& use = {}) {
    setup.config = config;
    setup.config.memory.budget = budget;
    return fit_forecast_to_budget(setup, Device::cpu(), one, use).model;
  };
  for (const auto& [budget, chunks] : {std::pair{none, 1}, {none - 1, 2}, {two, 2}, {two - 1, 4}, {four, 4}}) {
    EXPECT_EQ(fitted_to(std::to_string(budget)).encoder.num_chunks, chunks) << budget;
    EXPECT_EQ(fitted_to(std::to_string(budget)).decoder.num_chunks, chunks) << budget;
  }
  EXPECT_EQ(fitted_to("").encoder.num_chunks, 1);
  setup.config = config;
  const ForecastUse three{.num_members = 3, .writes = false};
  const int64_t of_three = plan_forecast(setup, Device::cpu(), one, three).forecast_bytes();
  EXPECT_EQ(fitted_to(std::to_string(of_three), three).encoder.num_chunks, 1);
  EXPECT_EQ(fitted_to(std::to_string(of_three - 1), three).encoder.num_chunks, 2);
  config.model.encoder.num_chunks = 3;  // never fewer than asked for
  EXPECT_EQ(fitted_to(std::to_string(none)).encoder.num_chunks, 3);
  EXPECT_EQ(fitted_to(std::to_string(none)).decoder.num_chunks, 1);
  BOREAS_EXPECT_ERROR(fitted_to("10KiB"), out_of_memory, "memory.budget is 10.00 KiB but a forecast needs at least");
  BOREAS_EXPECT_ERROR(fitted_to("10KiB"), out_of_memory, "set forecast.fold to false");
  config.forecast.fold = false;
  BOREAS_EXPECT_ERROR(fitted_to("10KiB"), out_of_memory, "Raise the budget, or use more ranks");
  BOREAS_EXPECT_ERROR(fitted_to("10KiB", {.num_members = 3}), out_of_memory, "forecasts of 3 members together need");
}

TEST(MemoryPlan, TableNamesOwnersAndThePlaceOfThePeak) {
  const std::string table = plan_memory(tiny_setup(tiny_config()), Device::cpu()).table();
  for (const char* word : {"parameters", "gradients", "optimizer", "staging", "saved", "peak in training/", "forecast"})
    EXPECT_NE(table.find(word), std::string::npos) << word << "\n" << table;
}

}  // namespace
}  // namespace boreas
