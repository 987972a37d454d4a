#include "engine/forecaster.h"

#include <algorithm>
#include <cstring>

#include "io/forcings.h"

namespace boreas {

namespace {

// One rollout step in memory: the two states that advance alternates between, and the output.
struct States {
  States(Context& ctx, const StepModel& model)
      : x{ctx.alloc(Keep::saved, model.dtype(), model.input_shape(1)),
          ctx.alloc(Keep::saved, model.dtype(), model.input_shape(1))},
        y(ctx.alloc(Keep::saved, model.dtype(), model.output_shape(1))),
        fields(ctx.alloc(Keep::saved, DType::f32, {model.variables().num_outputs(), model.num_cells()})) {}
  Tensor x[2], y, fields;
};

}  // namespace

struct Forecaster::Impl {
  Impl(const StepModel& model, const DatasetReader& reader);

  const ModelSetup& setup() const { return model.setup(); }
  int64_t input_steps() const { return setup().config.data.num_input_steps; }
  int64_t output_steps() const { return setup().config.data.num_output_steps; }
  FieldWindow window(int64_t num_times) const {
    const int64_t num_variables = model.variables().size();
    return {fields.tensor(DType::f32, {1, num_times, num_variables, model.num_cells()}), 1};
  }
  float* slot(int64_t time) const {
    return static_cast<float*>(fields.data()) + time * model.variables().size() * model.num_cells();
  }
  void read_initial(int64_t start_date);
  void read_slot(int64_t time, int64_t date, bool forcings_only);
  Tensor fields_at(int64_t time) const { return window(time + 1).at(0, time); }

  const StepModel& model;
  const DatasetReader& reader;
  std::vector<int64_t> reader_variable;  // by dataset variable of the model; -1: computed from its formula
  Buffer fields;                         // window of the inputs, then of the forcings to come
  NanMask nan_mask;                      // where the start date had no values
  Arena arena;
  Context ctx;
};

int64_t Forecaster::plan_bytes(const StepModel& model) {
  Arena counting;
  Context ctx(Device::cpu(), counting, Mode::plan);
  const States states(ctx, model);
  const DataConfig& data = model.setup().config.data;
  const int64_t num_times = std::max(data.num_input_steps, data.num_output_steps);
  const FieldWindow window{Tensor(nullptr, DType::f32, {1, num_times, model.variables().size(), model.num_cells()}), 1};
  model.start(ctx, window, states.x[0]);
  model.network().forward(ctx, {.x = states.x[0]}, {.y = states.y}, nullptr);
  model.physical(ctx, states.y, 0, states.fields);
  model.advance(ctx, states.x[0], states.y, window, 0, states.x[1]);
  return counting.peak_bytes();
}

Forecaster::Impl::Impl(const StepModel& model_in, const DatasetReader& reader_in)
    : model(model_in),
      reader(reader_in),
      fields(Buffer::on(Device::cpu(),
                        std::max(input_steps(), output_steps()) * model.variables().size() * model.num_cells() *
                            int64_t(sizeof(float)),
                        "staging")),
      arena(Buffer::on(Device::cpu(), plan_bytes(model), "arena")),
      ctx(Device::cpu(), arena) {
  BOREAS_CHECK(reader.num_cells() == model.num_cells(), config,
               "dataset {} has {} cells but the model was trained on {}: use a dataset of the same grid", reader.name(),
               reader.num_cells(), model.num_cells());
  BOREAS_CHECK(reader.step() == setup().step, config, "dataset {} has a step of {} but the model makes steps of {}",
               reader.name(), format_step(reader.step()), format_step(setup().step));
  const std::vector<std::string>& known = reader.variables();
  for (int64_t v = 0; v < model.variables().size(); ++v) {
    const std::string& name = model.variables().name(v);
    const bool stored = std::find(known.begin(), known.end(), name) != known.end();
    const bool made = setup().computed[v] || is_computed_forcing(name);
    reader_variable.push_back(made && !stored ? -1 : reader.index_of(name));
  }
}

void Forecaster::Impl::read_initial(int64_t start_date) {
  fields.zero();  // rows of diagnostic variables are never read
  for (int64_t i = 0; i < input_steps(); ++i) {
    const int64_t date = advance(start_date, setup().step, i + 1 - input_steps());
    const auto index = reader.index_of_date(date);
    BOREAS_CHECK(index && !reader.missing(*index), invalid_argument,
                 "a forecast from {} needs the state of {}, which {} {}; it holds {} to {}, step {}",
                 format_date(start_date), format_date(date), reader.name(),
                 index ? "marks as missing" : "does not hold", format_date(reader.dates().front()),
                 format_date(reader.dates().back()), format_step(reader.step()));
    read_slot(i, date, false);
  }
  nan_mask = model.preprocess().nan_mask(fields_at(input_steps() - 1));
  // Any slot may later take the forcings of a step to come, and those that are constant are not read again.
  const size_t slot_bytes = size_t(fields_at(0).bytes());
  for (int64_t i = input_steps(); i < output_steps(); ++i) std::memcpy(slot(i), slot(0), slot_bytes);
}

// The fields of a date that the model starts from, or only what it needs besides its own output: forcings that change.
void Forecaster::Impl::read_slot(int64_t time, int64_t date, bool forcings_only) {
  for (int64_t v = 0; v < model.variables().size(); ++v) {
    const Role role = model.variables().role(v);
    if (forcings_only ? role != Role::forcing || setup().constant[v] : role == Role::diagnostic) continue;
    const std::string& name = model.variables().name(v);
    float* const out = slot(time) + v * model.num_cells();
    // Beyond the dataset's dates a computed forcing follows from its formula, stored or not.
    if (reader_variable[v] < 0 || (forcings_only && is_computed_forcing(name))) {
      compute_forcing(name, date, setup().latitudes, setup().longitudes, {out, size_t(model.num_cells())});
      continue;
    }
    const auto index = reader.index_of_date(date);
    BOREAS_CHECK(
        index && !reader.missing(*index), invalid_argument,
        "the model needs the forcing {} on {}, which {} does not hold; shorten the forecast or extend the dataset",
        name, format_date(date), reader.name());
    reader.read(*index, {reader_variable[v]}, {0, model.num_cells()}, out);
  }
  model.preprocess().check_finite(fields_at(time), format_date(date));
  model.preprocess().impute_copies(fields_at(time), FieldUse::input);
}

Forecaster::Forecaster(const StepModel& model, const DatasetReader& reader)
    : impl_(std::make_unique<Impl>(model, reader)) {}
Forecaster::~Forecaster() = default;

int64_t Forecaster::arena_bytes() const { return impl_->arena.peak_bytes(); }

void Forecaster::run(int64_t start_date, int64_t lead_steps, const Sink& sink) {
  Impl& in = *impl_;
  BOREAS_CHECK(lead_steps >= 1, invalid_argument, "a forecast has at least one step, not {}", lead_steps);
  const Arena::Mark begin = in.arena.mark(Keep::saved);
  const States states(in.ctx, in.model);
  in.read_initial(start_date);
  in.model.start(in.ctx, in.window(in.input_steps()), states.x[0]);
  for (int64_t lead = 0, k = 0; lead < lead_steps; ++k) {
    const Tensor &x = states.x[k % 2], &next = states.x[(k + 1) % 2];
    in.model.network().forward(in.ctx, {.x = x}, {.y = states.y}, nullptr);
    const int64_t first_lead = lead;
    for (int64_t o = 0; o < in.output_steps() && lead < lead_steps; ++o) {
      ++lead;
      in.model.physical(in.ctx, states.y, o, states.fields);
      in.model.preprocess().restore_nan(states.fields, in.nan_mask);
      sink(lead, advance(start_date, in.setup().step, lead), {states.fields.as<float>(), size_t(states.fields.size())});
    }
    if (lead == lead_steps) break;
    for (int64_t o = 0; o < in.output_steps(); ++o)
      in.read_slot(o, advance(start_date, in.setup().step, first_lead + o + 1), true);
    in.model.advance(in.ctx, x, states.y, in.window(in.output_steps()), 0, next);
  }
  in.arena.rewind(Keep::saved, begin);
}

}  // namespace boreas
