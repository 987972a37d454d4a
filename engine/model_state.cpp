#include "engine/model_state.h"

#include <algorithm>

#include "engine/training_step.h"
#include "io/forcings.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/reduce/reduce.h"

namespace boreas {

namespace {
std::vector<double> copy_of(std::span<const double> values) { return {values.begin(), values.end()}; }
}  // namespace

ModelState::States::States(Context& ctx, const StepModel& model)
    : x(ctx.alloc(Keep::saved, model.state_dtype(), model.input_shape(1))),
      x_next(ctx.alloc(Keep::saved, model.state_dtype(), model.input_shape(1))),
      y(ctx.alloc(Keep::saved, model.state_dtype(), model.output_shape(1))) {}

ModelState::Staging::Staging(const StepModel& model, void* data, Device device) {
  const ModelShape& shape = model.network().shape();
  const int64_t num_variables = model.variables().size(), cells = model.num_cells();
  float* next = static_cast<float*>(data);
  const auto take = [&](Shape size) {
    const Tensor tensor(next, DType::f32, size, device);
    if (next) next += size.size();
    bytes += tensor.bytes();
    return tensor;
  };
  initial.fields = take({1, shape.num_input_steps, num_variables, cells});
  forcings.fields = take({1, shape.num_output_steps, num_variables, cells});
  outputs = take({shape.num_output_steps * shape.num_outputs, cells});
}

void ModelState::compute(Context& ctx, const StepModel& model, const States& states, const Staging& staging,
                         bool first) {
  if (!first) model.advance(ctx, states.x_next, states.y, staging.forcings, 0, states.x);
  model.network().forward(ctx, {.x = states.x}, {.y = states.y}, nullptr);
}

void ModelState::show(Context& ctx, const StepModel& model, const States& states, const Staging& staging) {
  const ModelShape& shape = model.network().shape();
  for (int64_t step = 0; step < shape.num_output_steps; ++step)
    model.physical(ctx, states.y, step,
                   staging.outputs.slice({step * shape.num_outputs, (step + 1) * shape.num_outputs}));
}

Arena::Peak ModelState::plan(const StepModel& model, Device device) {
  return plan_peak(device, [&](Context& ctx) {
    const OwnerScope owner(ctx, "forecast");
    const States states(ctx, model);
    const Staging staging(model, nullptr, device);
    compute(ctx, model, states, staging, false);
    show(ctx, model, states, staging);
    ctx.arena().rewind(Keep::saved, {});
  });
}

int64_t ModelState::staging_bytes(const StepModel& model) { return Staging(model, nullptr, Device::cpu()).bytes; }

ModelState::ModelState(const StepModel& model)
    : model_(model),
      latitudes_(copy_of(setup().latitudes_of(model.cells()))),
      longitudes_(copy_of(setup().longitudes_of(model.cells()))),
      staging_memory_(model.device(), Buffer::Kind::pinned, staging_bytes(model), "staging"),
      device_memory_(model.device().is_cuda() ? Buffer::on(model.device(), staging_bytes(model), "batch") : Buffer()),
      staging_(model, staging_memory_.data(), Device::cpu()),
      on_device_(model, device_memory_.data() ? device_memory_.data() : staging_memory_.data(), model.device()),
      fetching_(model.device()),
      uploaded_(model.device()),
      shown_(model.device()),
      fetched_(model.device()),
      arena_(Buffer::on(model.device(), plan(model, model.device()).bytes, "arena")),
      ctx_(model.device(), arena_),
      replay_(model.setup().config.cuda_graphs),
      states_(ctx_, model),
      initial_given_(size_t(staging_.initial.num_times() * model.variables().size())),
      forcing_given_(size_t(staging_.forcings.num_times() * model.variables().size())) {
  staging_memory_.zero();  // rows of diagnostic variables are never read
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
  return advance(start_date_, setup().step, time + 1 - staging_.initial.num_times());
}

int64_t ModelState::forcing_date(int64_t time) const {
  return advance(start_date_, setup().step, (num_steps_ - 1) * staging_.forcings.num_times() + time + 1);
}

bool ModelState::needs_initial(int64_t variable) const { return model_.variables().role(variable) != Role::diagnostic; }

bool ModelState::needs_forcing(int64_t variable) const {
  return model_.variables().role(variable) == Role::forcing && !setup().constant[size_t(variable)];
}

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
  return place(staging_.initial, initial_given_, variable, time, num_steps_ == 0 && needs_initial(variable));
}

std::span<float> ModelState::forcing(int64_t variable, int64_t time) {
  return place(staging_.forcings, forcing_given_, variable, time, num_steps_ > 0 && needs_forcing(variable));
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
  std::vector<std::string> lacking;
  for (int64_t v = 0; v < variables.size(); ++v) {
    if (given[size_t(v)] || !(initial ? needs_initial(v) : needs_forcing(v))) continue;
    if (is_computed_forcing(variables.name(v)))
      compute_forcing(variables.name(v), date, latitudes_, longitudes_,
                      std::span<float>(fields.row<float>(v), size_t(fields.cols())));
    else
      lacking.push_back(variables.name(v));
  }
  BOREAS_CHECK(lacking.empty(), invalid_argument, "the {} on {} lacks {}: give {} before the step",
               initial ? "state" : "forcing", format_date(date), fmt::join(lacking, ", "),
               lacking.size() == 1 ? "it" : "them");
  model_.preprocess().check_finite(fields, format_date(date));
  if (initial) nan_mask_ = model_.preprocess().nan_mask(fields);  // before copies fill it; the latest date counts
  model_.preprocess().impute_copies(fields, FieldUse::input);
}

void ModelState::upload(const Tensor& to, const Tensor& from) {
  if (ctx_.device().is_cuda())
    copy_bytes(ctx_.compute(), to.data(), to.device(), from.data(), from.device(), from.bytes());
}

void ModelState::prepare() {
  BOREAS_CHECK(begun_, invalid_argument, "a forecast has no start date; begin it first");
  if (prepared_) return;
  uploaded_.synchronize();
  const int64_t num_variables = model_.variables().size();
  const bool initial = num_steps_ == 0;
  const FieldWindow& window = initial ? staging_.initial : staging_.forcings;
  std::vector<uint8_t>& given = initial ? initial_given_ : forcing_given_;
  for (int64_t t = 0; t < window.num_times(); ++t)
    complete(window.at(0, t), std::span(given).subspan(size_t(t * num_variables), size_t(num_variables)),
             initial ? initial_date(t) : forcing_date(t), initial);
  check_sources();
  if (initial) {
    const Tensor latest = window.at(0, window.num_times() - 1);
    for (int64_t t = 0; t < staging_.forcings.num_times(); ++t)  // constants are taken once
      copy_bytes(ctx_.compute(), staging_.forcings.at(0, t).data(), Device::cpu(), latest.data(), Device::cpu(),
                 latest.bytes());
    upload(on_device_.initial.fields, staging_.initial.fields);
    upload(on_device_.forcings.fields, staging_.forcings.fields);
  } else {
    for (int64_t t = 0; t < window.num_times(); ++t)
      for (int64_t v = 0; v < num_variables; ++v)
        if (needs_forcing(v)) upload(on_device_.forcings.at(0, t).slice({v, v + 1}), window.at(0, t).slice({v, v + 1}));
  }
  for (const Source& source : sources_)  // initial values are read by step, those that later steps need are kept
    if (!initial || source.time + 1 == window.num_times())
      for (int64_t t = 0; t < staging_.forcings.num_times(); ++t)
        if (initial || t == source.time)
          copy_bytes(ctx_.compute(), on_device_.forcings.at(0, t).row<float>(source.variable), ctx_.device(),
                     source.values.data(), ctx_.device(), source.values.bytes());
  uploaded_.record(ctx_.compute());
  prepared_ = true;
}

void ModelState::step() {
  prepare();
  const bool first = num_steps_ == 0;
  if (first) {
    model_.start(ctx_, on_device_.initial, states_.x);
    for (const Source& source : sources_) model_.start(ctx_, source.values, source.variable, source.time, states_.x);
  } else {
    std::swap(states_.x, states_.x_next);
  }
  sources_.clear();
  replay_.run(ctx_, {key_of(states_.x.data()), first}, [&] { compute(ctx_, model_, states_, on_device_, first); });
  ctx_.compute().wait(fetched_);
  replay_.run(ctx_, {}, [&] { show(ctx_, model_, states_, on_device_); });
  ++num_steps_;
  prepared_ = false;
  std::fill(forcing_given_.begin(), forcing_given_.end(), 0);
}

void ModelState::fetch() {
  shown_.record(ctx_.compute());
  fetching_.wait(shown_);
  if (ctx_.device().is_cuda())
    copy_bytes(fetching_, staging_.outputs.data(), Device::cpu(), on_device_.outputs.data(), ctx_.device(),
               staging_.outputs.bytes());
  fetched_.record(fetching_);
}

Tensor ModelState::fields() {
  fetched_.synchronize();
  const int64_t num_outputs = model_.variables().num_outputs();
  for (int64_t first = 0; first < staging_.outputs.rows(); first += num_outputs)
    model_.preprocess().restore_nan(staging_.outputs.slice({first, first + num_outputs}), nan_mask_);
  return staging_.outputs;
}

}  // namespace boreas
