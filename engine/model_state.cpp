#include "engine/model_state.h"

#include <algorithm>

#include "engine/training_step.h"
#include "io/forcings.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/reduce/reduce.h"

namespace boreas {

namespace {

std::vector<double> copy_of(std::span<const double> values) { return {values.begin(), values.end()}; }

/// Whether a step needs its values at its own date.
bool changes(const StepModel& model, int64_t variable) {
  return model.variables().role(variable) == Role::forcing && !model.setup().constant[size_t(variable)];
}

}  // namespace

ModelState::HostFields::HostFields(const StepModel& model, void* data) {
  const ModelShape& shape = model.network().shape();
  const int64_t num_variables = model.variables().size(), cells = model.num_cells();
  float* next = static_cast<float*>(data);
  const auto take = [&](Shape size) {
    const Tensor tensor(next, DType::f32, size);
    if (next) next += size.size();
    bytes += tensor.bytes();
    return tensor;
  };
  initial.fields = take({1, shape.num_input_steps, num_variables, cells});
  forcings.fields = take({1, shape.num_output_steps, num_variables, cells});
  outputs = take({shape.num_output_steps * shape.num_outputs, cells});
}

ModelState::Forcings::Forcings(const StepModel& model, bool compact) {
  const Preprocess& preprocess = model.preprocess();
  const std::span<const int32_t> inputs = model.variables().input();
  std::vector<int32_t> row_of(size_t(model.variables().size()), -1);
  for (int64_t v = 0; v < model.variables().size(); ++v) {
    if (compact && !changes(model, v)) continue;
    row_of[size_t(v)] = int32_t(variables.size());
    variables.push_back(int32_t(v));
    mul.push_back(preprocess.mul()[size_t(v)]);
    add.push_back(preprocess.add()[size_t(v)]);
    fill.push_back(preprocess.fill(FieldUse::target)[size_t(v)]);
  }
  for (size_t column = 0; column < inputs.size(); ++column) {
    if (!changes(model, inputs[column])) continue;
    if (runs.empty() || runs.back().column + int64_t(runs.back().rows.size()) != int64_t(column))
      runs.push_back({int64_t(column), {}});
    runs.back().rows.push_back(row_of[size_t(inputs[column])]);
  }
}

ModelState::Steps::Steps(Context& ctx, const StepModel& model_in, const HostFields& host, void* device_memory)
    : model(model_in),
      changing(model, ctx.device().is_cuda()),
      features(model.network().alloc_features(ctx, Keep::saved)),
      y(ctx.alloc(Keep::saved, model.state_dtype(), model.output_shape(1))),
      before_fixed(ctx.arena().mark(Keep::saved)) {
  BOREAS_CHECK(model.predicted() == (Range{0, model.num_cells()}), internal, "a forecast predicts all cells");
  if (!ctx.device().is_cuda()) {
    forcings = host.forcings.fields;
    outputs = host.outputs;
    return;
  }
  float* const memory = static_cast<float*>(device_memory);
  outputs = Tensor(memory, DType::f32, host.outputs.shape(), ctx.device());
  const Shape size{host.forcings.num_times(), int64_t(changing.variables.size()), model.num_cells()};
  forcings = Tensor(memory ? memory + outputs.size() : nullptr, DType::f32, size, ctx.device());
}

Tensor ModelState::Steps::slot(int64_t time) const {
  const int64_t width = model.network().shape().num_inputs;
  return features.columns({time * width, (time + 1) * width});
}

Tensor ModelState::Steps::newest(int64_t output_step) const {
  const int64_t width = model.network().shape().num_outputs;
  return y.columns({output_step * width, (output_step + 1) * width});
}

Tensor ModelState::Steps::forcings_at(int64_t output_step) const {
  const int64_t num_rows = int64_t(changing.variables.size());
  return forcings.slice({output_step * num_rows, (output_step + 1) * num_rows});
}

void ModelState::Steps::take(Context& ctx, const Tensor& fields, Range variables, int64_t time) const {
  const ModelShape& shape = model.network().shape();
  const auto of_fields = [&](std::span<const double> all) {
    return all.subspan(size_t(variables.begin), size_t(variables.size()));
  };
  const auto normalise = [&](std::span<const int32_t> all, const Tensor& to) {
    const auto begin = std::lower_bound(all.begin(), all.end(), variables.begin);
    const auto end = std::lower_bound(begin, all.end(), variables.end);
    std::vector<int32_t> rows(begin, end);
    for (int32_t& row : rows) row -= int32_t(variables.begin);
    if (rows.empty()) return;
    run(ctx, NormaliseFields{.fields = fields,
                             .mul = of_fields(model.preprocess().mul()),
                             .add = of_fields(model.preprocess().add()),
                             .fill = of_fields(model.preprocess().fill(FieldUse::input)),
                             .columns = rows,
                             .y = to.columns({begin - all.begin(), end - all.begin()})});
  };
  normalise(model.variables().input(), slot(time));
  if (time + 1 == shape.num_input_steps) normalise(model.variables().output(), newest(shape.num_output_steps - 1));
}

void ModelState::Steps::fix(Context& ctx) {
  ctx.arena().rewind(Keep::saved, before_fixed);
  model.network().write_attributes(ctx, features);
  fixed = model.network().fix(ctx);
  version = model.parameters().version();
}

void ModelState::Steps::advance(Context& ctx) const {
  const ModelShape& shape = model.network().shape();
  const int64_t latest = shape.num_input_steps - 1, kept = std::min(shape.num_input_steps, shape.num_output_steps);
  const int64_t num_old = shape.num_input_steps - kept;
  for (int64_t time = 0; time < num_old; ++time) run(ctx, Copy{.x = slot(time + kept), .y = slot(time)});
  for (int64_t time = num_old; time < latest; ++time) run(ctx, Copy{.x = slot(latest), .y = slot(time)});  // constants
  for (int64_t time = num_old; time <= latest; ++time) {
    const int64_t output_step = shape.num_output_steps - 1 - (latest - time);
    for (const Forcings::Run& forcing : changing.runs)
      run(ctx,
          NormaliseFields{.fields = forcings_at(output_step),
                          .mul = changing.mul,
                          .add = changing.add,
                          .fill = changing.fill,
                          .columns = forcing.rows,
                          .y = slot(time).columns({forcing.column, forcing.column + int64_t(forcing.rows.size())})});
    run(ctx, CopyColumns{.x = newest(output_step),
                         .x_columns = shape.output_prognostic,
                         .y = slot(time),
                         .y_columns = shape.input_prognostic});
  }
}

void ModelState::Steps::compute(Context& ctx, bool first) const {
  if (!first) advance(ctx);
  if (!fixed) model.network().write_attributes(ctx, features);
  model.network().step(ctx, features, y, fixed ? &*fixed : nullptr);
}

void ModelState::Steps::show(Context& ctx) const {
  const ModelShape& shape = model.network().shape();
  for (int64_t step = 0; step < shape.num_output_steps; ++step)
    model.physical(ctx, y, step, outputs.slice({step * shape.num_outputs, (step + 1) * shape.num_outputs}));
}

Arena::Peak ModelState::plan(const StepModel& model, Device device) {
  return plan_peak(device, [&](Context& ctx) {
    const OwnerScope owner(ctx, "forecast");
    Steps steps(ctx, model, HostFields(model, nullptr), nullptr);
    if (model.setup().config.forecast.fold) steps.fix(ctx);
    steps.compute(ctx, false);
    steps.show(ctx);
    ctx.arena().rewind(Keep::saved, {});
  });
}

int64_t ModelState::staging_bytes(const StepModel& model) { return HostFields(model, nullptr).bytes; }

int64_t ModelState::device_bytes(const StepModel& model, Device device) {
  if (!device.is_cuda()) return 0;
  const int64_t num_changing = int64_t(Forcings(model, true).variables.size());
  const ModelShape& shape = model.network().shape();
  return shape.num_output_steps * (num_changing + shape.num_outputs) * model.num_cells() * size_of(DType::f32);
}

ModelState::ModelState(const StepModel& model)
    : model_(model),
      latitudes_(copy_of(setup().latitudes_of(model.cells()))),
      longitudes_(copy_of(setup().longitudes_of(model.cells()))),
      staging_memory_(model.device(), Buffer::Kind::pinned, staging_bytes(model), "staging"),
      device_memory_(Buffer::on(model.device(), device_bytes(model, model.device()), "batch")),
      host_(model, staging_memory_.data()),
      fetching_(model.device()),
      uploaded_(model.device()),
      shown_(model.device()),
      fetched_(model.device()),
      arena_(Buffer::on(model.device(), plan(model, model.device()).bytes, "arena")),
      ctx_(model.device(), arena_),
      replay_(model.setup().config.cuda_graphs),
      steps_(ctx_, model, host_, device_memory_.data()),
      initial_given_(size_t(host_.initial.num_times() * model.variables().size())),
      forcing_given_(size_t(host_.forcings.num_times() * model.variables().size())) {
  staging_memory_.zero();  // rows of diagnostic variables are taken with those beside them, but never read
}

void ModelState::begin(int64_t start_date) {
  uploaded_.synchronize();
  start_date_ = start_date;
  num_steps_ = 0;
  begun_ = true;
  prepared_ = false;
  sources_.clear();
  std::fill(initial_given_.begin(), initial_given_.end(), 0);
  std::fill(forcing_given_.begin(), forcing_given_.end(), 0);
}

int64_t ModelState::initial_date(int64_t time) const {
  return advance(start_date_, setup().step, time + 1 - host_.initial.num_times());
}

int64_t ModelState::forcing_date(int64_t time) const {
  return advance(start_date_, setup().step, (num_steps_ - 1) * host_.forcings.num_times() + time + 1);
}

bool ModelState::needs_initial(int64_t variable) const { return model_.variables().role(variable) != Role::diagnostic; }

bool ModelState::needs_forcing(int64_t variable) const { return changes(model_, variable); }

std::span<float> ModelState::place(const FieldWindow& window, std::vector<uint8_t>& given, int64_t variable,
                                   int64_t time, bool needed) {
  BOREAS_CHECK(begun_ && variable >= 0 && variable < model_.variables().size() && time >= 0 &&
                   time < window.num_times() && needed,
               invalid_argument, "a state after {} steps takes no variable {} at time {}", num_steps_, variable, time);
  uploaded_.synchronize();  // what was given before may still be on its way to the device
  prepared_ = false;
  given[size_t(time * model_.variables().size() + variable)] = 1;
  std::erase_if(sources_, [&](const Source& source) { return source.variable == variable && source.time == time; });
  const Tensor fields = window.at(0, time);
  return {fields.row<float>(variable), size_t(fields.cols())};
}

std::span<float> ModelState::initial(int64_t variable, int64_t time) {
  return place(host_.initial, initial_given_, variable, time, num_steps_ == 0 && needs_initial(variable));
}

std::span<float> ModelState::forcing(int64_t variable, int64_t time) {
  return place(host_.forcings, forcing_given_, variable, time, num_steps_ > 0 && needs_forcing(variable));
}

void ModelState::use_initial(int64_t variable, int64_t time, const Tensor& values) {
  use(initial(variable, time), {variable, time, values});
}

void ModelState::use_forcing(int64_t variable, int64_t time, const Tensor& values) {
  use(forcing(variable, time), {variable, time, values});
}

void ModelState::use(std::span<float> place, const Source& source) {
  BOREAS_CHECK(source.values.device() == model_.device() && source.values.size() == int64_t(place.size()) &&
                   !model_.preprocess().imputes_any(),
               invalid_argument,
               "a field used where it lies is {}; expected f32 [1, {}] on {}, of a model without imputer",
               to_string(source.values), place.size(), to_string(model_.device()));
  std::fill(place.begin(), place.end(), 0.0F);
  sources_.push_back(source);
}

void ModelState::check_sources() {
  for (const Source& source : sources_) {
    const Scope scope(ctx_);
    const Tensor count = ctx_.alloc(Keep::scratch, DType::i64, {1});
    run(ctx_, CountNonFinite{.x = source.values, .out = count});
    int64_t num_bad = 0;
    ctx_.compute().synchronize();
    copy_now(&num_bad, Device::cpu(), count.data(), count.device(), 8);
    BOREAS_CHECK(num_bad == 0, corrupt_data, "{}: variable '{}' is NaN or infinite in {} of {} cells",
                 format_date(num_steps_ == 0 ? initial_date(source.time) : forcing_date(source.time)),
                 model_.variables().name(source.variable), num_bad, source.values.size());
  }
}

void ModelState::complete(const Tensor& fields, std::span<const uint8_t> given, int64_t date, bool initial) {
  const VariableTable& variables = model_.variables();
  const auto needs = [&](int64_t v) { return initial ? needs_initial(v) : needs_forcing(v); };
  std::vector<std::string> lacking;
  for (int64_t v = 0; v < variables.size(); ++v) {
    if (given[size_t(v)] || !needs(v)) continue;
    if (is_computed_forcing(variables.name(v)))
      compute_forcing(variables.name(v), date, latitudes_, longitudes_,
                      std::span<float>(fields.row<float>(v), size_t(fields.cols())));
    else
      lacking.push_back(variables.name(v));
  }
  BOREAS_CHECK(lacking.empty(), invalid_argument, "the {} on {} lacks {}: give {} before the step",
               initial ? "state" : "forcing", format_date(date), fmt::join(lacking, ", "),
               lacking.size() == 1 ? "it" : "them");
  for (int64_t v = 0; v < variables.size(); ++v)
    if (needs(v)) model_.preprocess().check_finite(fields.slice({v, v + 1}), v, format_date(date));
  if (initial) nan_mask_ = model_.preprocess().nan_mask(fields);  // before copies fill it; the latest date counts
  model_.preprocess().impute_copies(fields, FieldUse::input);
}

void ModelState::take_initial() {
  const int64_t num_variables = model_.variables().size();
  const bool on_gpu = ctx_.device().is_cuda();
  const int64_t at_once = on_gpu ? steps_.outputs.rows() : num_variables;
  ctx_.compute().wait(fetched_);  // on their way they lie in the place of the outputs
  for (int64_t t = 0; t < host_.initial.num_times(); ++t)
    for (int64_t begin = 0; begin < num_variables; begin += at_once) {
      const Range variables{begin, std::min(begin + at_once, num_variables)};
      Tensor fields = host_.initial.at(0, t).slice(variables);
      if (on_gpu) {
        const Tensor arrived = steps_.outputs.slice({0, variables.size()});
        copy_bytes(ctx_.compute(), arrived.data(), arrived.device(), fields.data(), fields.device(), fields.bytes());
        fields = arrived;
      }
      steps_.take(ctx_, fields, variables, t);
    }
  for (const Source& source : sources_)
    steps_.take(ctx_, source.values, {source.variable, source.variable + 1}, source.time);
}

void ModelState::take_forcings() {
  for (int64_t t = 0; t < host_.forcings.num_times(); ++t) {
    const Tensor to = steps_.forcings_at(t), from = host_.forcings.at(0, t);
    for (int64_t row = 0; row < to.rows(); ++row) {
      const int64_t variable = steps_.changing.variables[size_t(row)];
      const auto source = std::find_if(sources_.begin(), sources_.end(), [&](const Source& candidate) {
        return candidate.variable == variable && candidate.time == t;
      });
      const Tensor field = source == sources_.end() ? from.slice({variable, variable + 1}) : source->values;
      if (field.data() != to.row<float>(row))
        copy_bytes(ctx_.compute(), to.row<float>(row), to.device(), field.data(), field.device(), field.bytes());
    }
  }
}

void ModelState::prepare() {
  BOREAS_CHECK(begun_, invalid_argument, "a forecast has no start date; begin it first");
  if (prepared_) return;
  uploaded_.synchronize();
  const int64_t num_variables = model_.variables().size();
  const bool initial = num_steps_ == 0;
  const FieldWindow& window = initial ? host_.initial : host_.forcings;
  std::vector<uint8_t>& given = initial ? initial_given_ : forcing_given_;
  for (int64_t t = 0; t < window.num_times(); ++t)
    complete(window.at(0, t), std::span(given).subspan(size_t(t * num_variables), size_t(num_variables)),
             initial ? initial_date(t) : forcing_date(t), initial);
  check_sources();
  if (initial && model_.preprocess().imputes_any()) {  // forcings may be imputed by a copy of any variable
    const Tensor latest = window.at(0, window.num_times() - 1);
    for (int64_t t = 0; t < host_.forcings.num_times(); ++t)
      copy_bytes(ctx_.compute(), host_.forcings.at(0, t).data(), Device::cpu(), latest.data(), Device::cpu(),
                 latest.bytes());
  }
  initial ? take_initial() : take_forcings();
  uploaded_.record(ctx_.compute());
  prepared_ = true;
}

void ModelState::step() {
  prepare();
  const bool first = num_steps_ == 0;
  sources_.clear();
  if (setup().config.forecast.fold && steps_.version != model_.parameters().version()) steps_.fix(ctx_);
  replay_.run(ctx_, {first}, [&] { steps_.compute(ctx_, first); });
  ctx_.compute().wait(fetched_);
  replay_.run(ctx_, {}, [&] { steps_.show(ctx_); });
  ++num_steps_;
  prepared_ = false;
  std::fill(forcing_given_.begin(), forcing_given_.end(), 0);
}

void ModelState::fetch() {
  shown_.record(ctx_.compute());
  fetching_.wait(shown_);
  if (ctx_.device().is_cuda())
    copy_bytes(fetching_, host_.outputs.data(), Device::cpu(), steps_.outputs.data(), ctx_.device(),
               host_.outputs.bytes());
  fetched_.record(fetching_);
}

Tensor ModelState::fields() {
  fetched_.synchronize();
  const int64_t num_outputs = model_.variables().num_outputs();
  for (int64_t first = 0; first < host_.outputs.rows(); first += num_outputs)
    model_.preprocess().restore_nan(host_.outputs.slice({first, first + num_outputs}), nan_mask_);
  return host_.outputs;
}

}  // namespace boreas
