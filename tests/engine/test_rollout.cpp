#include "engine/rollout.h"

#include <gtest/gtest.h>

#include "tests/engine/tiny_run.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::RandomWindow;
using test::tiny_config;
using test::tiny_setup;

// Model, loss and rollout in f64, with weights that are not at a symmetric start.
struct Fixture {
  explicit Fixture(const RunConfig& config)
      : setup(tiny_setup(config)),
        model(setup, Device::cpu()),
        loss(config.training.loss, setup.variables, setup.statistics, node_areas(setup), config.data.num_output_steps,
             model.state_dtype(), Device::cpu()),
        rollout(model, loss, nullptr) {
    model.parameters().materialise(5);
    const Philox random(11, 1);
    uint64_t index = 0;
    model.parameters().for_each([&](const std::string&, Tensor value, Tensor) {
      for (int64_t i = 0; i < value.size(); ++i) value.as<double>()[i] += 0.1 * random.normal(index++);
    });
  }
  double forward(const RandomWindow& data, int64_t num_steps, Rollout::Saved* saved) {
    const Scope scope(workspace.ctx);
    const Tensor losses = workspace.ctx.alloc(Keep::scratch, DType::f64, {num_steps});
    rollout.forward(workspace.ctx, {.window = data.window, .num_steps = num_steps, .loss_scale = 1.0},
                    {.losses = losses, .squared_errors = {}}, saved);
    double sum = 0;
    for (int64_t k = 0; k < num_steps; ++k) sum += losses.as<double>()[k];
    return sum;
  }
  void gradients(const RandomWindow& data, int64_t num_steps) {
    model.parameters().zero_gradients(workspace.ctx);
    Rollout::Saved saved;
    forward(data, num_steps, &saved);
    rollout.backward(workspace.ctx, saved);
    EXPECT_EQ(workspace.ctx.arena().used_bytes(), 0);
  }
  ModelSetup setup;
  StepModel model;
  Loss loss;
  Rollout rollout;
  test::Workspace workspace;
};

RunConfig f64_config(int64_t num_input_steps, int64_t num_output_steps) {
  RunConfig config = tiny_config();
  config.precision = Precision::f64;
  config.data.num_input_steps = num_input_steps;
  config.data.num_output_steps = num_output_steps;
  config.model.num_channels = 8;
  config.model.processor.num_layers = 1;
  return config;
}

void check_gradients(Fixture& fixture, const RandomWindow& data, int64_t num_steps, double tolerance = 1e-8,
                     double step = 1e-4) {
  fixture.gradients(data, num_steps);
  std::vector<test::GradientCase> cases{
      {"parameters", fixture.model.parameters().flat_values(), fixture.model.parameters().flat_gradients()}};
  // Thousands of parameters move at once: a short step keeps the formula's error small.
  test::expect_gradients([&] { return fixture.forward(data, num_steps, nullptr); }, cases, tolerance, step);
}

TEST(Rollout, GradientPassesThroughAllSteps) {
  Fixture fixture(f64_config(2, 1));
  check_gradients(fixture, RandomWindow(2, 2 + 3), 3);
}

TEST(Rollout, GradientPassesThroughStepsOfSeveralOutputs) {
  Fixture more_out(f64_config(1, 2));
  check_gradients(more_out, RandomWindow(1, 1 + 2 * 2), 2);
  Fixture more_in(f64_config(3, 2));
  check_gradients(more_in, RandomWindow(1, 3 + 2 * 2), 2);
}

TEST(Rollout, GradientStopsAtTheOutputMask) {
  Fixture fixture(f64_config(2, 1));
  fixture.model.set_predicted({7, 41});
  check_gradients(fixture, RandomWindow(2, 2 + 2), 2);
}

TEST(Rollout, RecomputeAndChunksGiveTheSameGradient) {
  const RandomWindow data(2, 2 + 3);
  Fixture plain(f64_config(2, 1));
  plain.gradients(data, 3);
  for (const Recompute recompute : {Recompute::none, Recompute::block, Recompute::step})
    for (const int64_t chunks : {1, 3}) {
      RunConfig config = f64_config(2, 1);
      config.model.recompute = recompute;
      config.model.encoder.num_chunks = config.model.decoder.num_chunks = chunks;
      Fixture fixture(config);
      fixture.gradients(data, 3);
      EXPECT_TRUE(
          test::close(fixture.model.parameters().flat_gradients(), plain.model.parameters().flat_gradients(), 0, 1e-12))
          << to_string(recompute) << ", " << chunks << " chunks";
    }
}

TEST(Rollout, LossWithoutGradientIsTheSame) {
  Fixture fixture(f64_config(2, 1));
  const RandomWindow data(2, 2 + 3);
  Rollout::Saved saved;
  const double with = fixture.forward(data, 3, &saved);
  fixture.rollout.backward(fixture.workspace.ctx, saved);
  EXPECT_EQ(fixture.forward(data, 3, nullptr), with);
}

/// Two samples of three members.
RandomWindow ensemble_window(int64_t num_times) {
  RandomWindow data(2 * 3, num_times);
  data.window = {Tensor(data.values.data(), DType::f32, {2, num_times, 4, 3 * test::kTinyRows * test::kTinyColumns}),
                 3};
  return data;
}

TEST(Rollout, AnEnsembleIsHeldAgainstTheFirstMember) {
  RunConfig config = f64_config(2, 1);
  config.training.loss.score = Score::crps;
  config.training.loss.crps_alpha = 1;
  Fixture fixture(config);
  const RandomWindow data = ensemble_window(2 + 1);
  const double loss = fixture.forward(data, 1, nullptr);

  test::Workspace& work = fixture.workspace;
  const StepModel& model = fixture.model;
  const int64_t cells = model.num_cells();
  const Tensor x = work.output(DType::f64, model.input_shape(6)), y = work.output(DType::f64, model.output_shape(6)),
               target = work.output(DType::f64, model.output_shape(6));
  model.start(work.ctx, data.window, x);
  model.network().forward(work.ctx, {.x = x}, {.y = y}, nullptr);
  model.target(work.ctx, data.window, 2, target);
  const std::vector<double> weights = node_scaling(node_areas(fixture.setup));
  double expected = 0;
  for (int64_t sample = 0; sample < 2; ++sample)
    for (int64_t cell = 0; cell < cells; ++cell)
      for (int64_t v = 0; v < 3; ++v) {
        const auto at = [&](const Tensor& of, int64_t member) {
          return of.row<double>((sample * 3 + member) * cells + cell)[v];
        };
        double error = 0, spread = 0;
        for (int64_t e = 0; e < 3; ++e) {
          error += std::abs(at(y, e) - at(target, 0)) / 3;
          for (int64_t f = 0; f < 3; ++f) spread += std::abs(at(y, e) - at(y, f)) / 12;
        }
        expected += weights[size_t(cell)] * (error - spread) / 3 / 2;
      }
  EXPECT_NEAR(loss, expected, 1e-12 * expected);
}

TEST(Rollout, GradientOfAnEnsemblePassesThroughAllSteps) {
  RunConfig config = f64_config(2, 1);
  config.training.loss.score = Score::crps;
  Fixture fixture(config);
  check_gradients(fixture, ensemble_window(2 + 2), 2, 1e-7,
                  1e-8);  // the score has corners: none is met on so short a way
}

TEST(StepModel, AdvanceShiftsStatesAndTakesForcingsFromTheWindow) {
  Fixture fixture(f64_config(3, 2));
  const StepModel& model = fixture.model;
  test::Workspace& work = fixture.workspace;
  const int64_t num_items = 2, num_cells = model.num_cells();
  const RandomWindow data(num_items, 4);
  const Tensor x = work.random(DType::f64, model.input_shape(num_items));
  const Tensor y = work.random(DType::f64, model.output_shape(num_items));
  const Tensor x_next = work.output(DType::f64, model.input_shape(num_items));
  fixture.model.set_predicted({0, num_cells - 1});
  model.advance(work.ctx, x, y, data.window, 1, x_next);

  // Input columns f, a, b; output columns a, p, b; 3 inputs, 2 outputs: slot 0 is the old slot 2, slots 1 and 2 are
  // new.
  for (int64_t item = 0; item < num_items; ++item)
    for (int64_t cell = 0; cell < num_cells; ++cell) {
      const int64_t row = item * num_cells + cell;
      for (int64_t v = 0; v < 3; ++v) EXPECT_EQ(x_next.row<double>(row)[v], x.row<double>(row)[6 + v]);
      for (int64_t step = 0; step < 2; ++step) {
        const double* const slot = x_next.row<double>(row) + 3 * (1 + step);
        const Tensor truth = data.window.at(item, 1 + step);
        const auto normalised = [&](int64_t variable) {
          return model.preprocess().normalise(variable, double(truth.row<float>(variable)[cell]));
        };
        EXPECT_NEAR(slot[0], normalised(0), 1e-14);
        const bool predicted = cell < num_cells - 1;
        EXPECT_NEAR(slot[1], predicted ? y.row<double>(row)[3 * step] : normalised(1), 1e-14);
        EXPECT_NEAR(slot[2], predicted ? y.row<double>(row)[3 * step + 2] : normalised(3), 1e-14);
      }
    }
}

TEST(StepModel, PhysicalInvertsTarget) {
  Fixture fixture(f64_config(1, 2));
  const RandomWindow data(1, 3);
  test::Workspace& work = fixture.workspace;
  const Tensor target = work.output(DType::f64, fixture.model.output_shape(1));
  const Tensor fields = work.output(DType::f32, {3, fixture.model.num_cells()});
  fixture.model.target(work.ctx, data.window, 1, target);
  fixture.model.physical(work.ctx, target, 1, fields);
  for (int64_t k = 0; k < 3; ++k)
    for (int64_t cell = 0; cell < fixture.model.num_cells(); ++cell)
      EXPECT_FLOAT_EQ(fields.row<float>(k)[cell], data.window.at(0, 2).row<float>(k + 1)[cell]);
}

}  // namespace
}  // namespace boreas
