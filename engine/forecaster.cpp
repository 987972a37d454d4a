#include "engine/forecaster.h"

#include <cmath>

#include "engine/replay.h"
#include "engine/training_step.h"
#include "io/forcings.h"

namespace boreas {

namespace {

constexpr double kSamePlace = 1e-5;  // degrees

// The two states that a forecast alternates between.
struct States {
  States(Context& ctx, const StepModel& model)
      : x(ctx.alloc(Keep::scratch, model.state_dtype(), model.input_shape(1))),
        x_next(ctx.alloc(Keep::scratch, model.state_dtype(), model.input_shape(1))) {}
  Tensor x, x_next;
};

// Fields of a forecast, on the host or on the device: the window it starts from, that of the forcings to come, and its
// output.
struct Staging {
  Staging(const StepModel& model, void* data, Device device) {
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
  FieldWindow initial, forcings;
  Tensor outputs;
  int64_t bytes = 0;
};

}  // namespace

struct Forecaster::Impl {
  Impl(const StepModel& model, const DatasetReader& reader);

  const ModelSetup& setup() const { return model.setup(); }
  void read_initial(int64_t start_date);
  void read_forcings(int64_t start_date, int64_t first_lead);
  void read(const Tensor& fields, int64_t date, bool forcings_only);
  bool is_read(int64_t v, bool forcings_only) const;
  void upload(const Tensor& to, const Tensor& from);

  const StepModel& model;
  const DatasetReader& reader;
  std::vector<double> latitudes, longitudes;  // of this rank's cells
  std::vector<int64_t> column_of;             // by variable of the model: in the reader; -1: computed from its formula
  Buffer staging_memory, device_memory;
  Staging staging, on_device;  // the same memory on the CPU
  Event uploaded, done;
  NanMask nan_mask;  // where the start date has no values
  Arena arena;
  Context ctx;
  Replay replay;
};

Arena::Peak Forecaster::plan(const StepModel& model, Device device) {
  return plan_peak(device, [&](Context& ctx) {
    const OwnerScope owner(ctx, "forecast");
    const Scope scope(ctx);
    const States states(ctx, model);
    const Staging staging(model, nullptr, device);
    forecast_step(ctx, model, states.x, staging.outputs, staging.forcings, states.x_next);
  });
}

int64_t Forecaster::staging_bytes(const StepModel& model) { return Staging(model, nullptr, Device::cpu()).bytes; }

Forecaster::Impl::Impl(const StepModel& model_in, const DatasetReader& reader_in)
    : model(model_in),
      reader(reader_in),
      staging_memory(model.device(), Buffer::Kind::pinned, staging_bytes(model), "staging"),
      device_memory(model.device().is_cuda() ? Buffer::on(model.device(), staging_bytes(model), "batch") : Buffer()),
      staging(model, staging_memory.data(), Device::cpu()),
      on_device(model, device_memory.data() ? device_memory.data() : staging_memory.data(), model.device()),
      uploaded(model.device()),
      done(model.device()),
      arena(Buffer::on(model.device(), plan(model, model.device()).bytes, "arena")),
      ctx(model.device(), arena),
      replay(model.setup().config.cuda_graphs) {
  BOREAS_CHECK(reader.num_cells() == setup().num_cells(), config,
               "dataset {} has {} cells but the model was trained on {}: use a dataset of the same grid", reader.name(),
               reader.num_cells(), setup().num_cells());
  const Range cells = model.cells();
  const auto own = [&](const std::vector<double>& all) {
    return std::vector<double>(all.begin() + cells.begin, all.begin() + cells.end);
  };
  latitudes = own(setup().latitudes);
  longitudes = own(setup().longitudes);
  for (size_t c = 0; c < setup().latitudes.size(); ++c) {
    const double latitude = reader.latitudes()[c], longitude = reader.longitudes()[c];
    BOREAS_CHECK(std::abs(latitude - setup().latitudes[c]) < kSamePlace &&
                     std::abs(std::remainder(longitude - setup().longitudes[c], 360.0)) < kSamePlace,
                 config,
                 "dataset {} has another grid than the model was trained on: cell {} lies at latitude {}, longitude {} "
                 "and for the model at {}, {}",
                 reader.name(), c, latitude, longitude, setup().latitudes[c], setup().longitudes[c]);
  }
  BOREAS_CHECK(reader.step() == setup().step, config, "dataset {} has a step of {} but the model makes steps of {}",
               reader.name(), format_step(reader.step()), format_step(setup().step));
  BOREAS_CHECK(reader.num_members() == 1, unsupported, "dataset {} has {} members; a forecast starts from one",
               reader.name(), reader.num_members());
  const std::vector<std::string>& known = reader.variables();
  for (const std::string& name : model.variables().names()) {
    const bool stored = std::find(known.begin(), known.end(), name) != known.end();
    column_of.push_back(!stored && is_computed_forcing(name) ? -1 : reader.index_of(name));
  }
  staging_memory.zero();  // rows of diagnostic variables are never read
}

// The model starts from all but the diagnostic variables; of a later date it needs the forcings that change.
bool Forecaster::Impl::is_read(int64_t v, bool forcings_only) const {
  const Role role = model.variables().role(v);
  return forcings_only ? role == Role::forcing && !setup().constant[size_t(v)] : role != Role::diagnostic;
}

void Forecaster::Impl::upload(const Tensor& to, const Tensor& from) {
  if (ctx.device().is_cuda())
    copy_bytes(ctx.compute(), to.data(), to.device(), from.data(), from.device(), from.bytes());
}

void Forecaster::Impl::read(const Tensor& fields, int64_t date, bool forcings_only) {
  const VariableTable& variables = model.variables();
  for (int64_t v = 0; v < variables.size(); ++v) {
    if (!is_read(v, forcings_only)) continue;
    float* const out = fields.row<float>(v);
    // The dates of a forecast may lie beyond the dataset's, so there a formula comes before what is stored.
    if (column_of[v] < 0 || (forcings_only && is_computed_forcing(variables.name(v)))) {
      compute_forcing(variables.name(v), date, latitudes, longitudes, std::span<float>(out, size_t(fields.cols())));
      continue;
    }
    const auto index = reader.index_of_date(date);
    BOREAS_CHECK(index && !reader.missing(*index), invalid_argument,
                 "the forecast needs {} on {}, which {} {}; it holds {} to {}, step {}", variables.name(v),
                 format_date(date), reader.name(), index ? "marks as missing" : "does not hold",
                 format_date(reader.dates().front()), format_date(reader.dates().back()), format_step(reader.step()));
    reader.read(*index, {column_of[v]}, model.cells(), out);
  }
  model.preprocess().check_finite(fields, format_date(date));
  if (!forcings_only) nan_mask = model.preprocess().nan_mask(fields);  // before copies fill it; the latest date counts
  model.preprocess().impute_copies(fields, FieldUse::input);
}

void Forecaster::Impl::read_initial(int64_t start_date) {
  uploaded.synchronize();
  const int64_t num_times = staging.initial.num_times();
  for (int64_t i = 0; i < num_times; ++i)
    read(staging.initial.at(0, i), advance(start_date, setup().step, i + 1 - num_times), false);
  const Tensor latest = staging.initial.at(0, num_times - 1);
  for (int64_t t = 0; t < staging.forcings.num_times(); ++t)  // constants are read once
    copy_bytes(ctx.compute(), staging.forcings.at(0, t).data(), Device::cpu(), latest.data(), Device::cpu(),
               latest.bytes());
  upload(on_device.initial.fields, staging.initial.fields);
  upload(on_device.forcings.fields, staging.forcings.fields);
  uploaded.record(ctx.compute());
}

void Forecaster::Impl::read_forcings(int64_t start_date, int64_t first_lead) {
  uploaded.synchronize();
  for (int64_t t = 0; t < staging.forcings.num_times(); ++t) {
    const Tensor fields = staging.forcings.at(0, t), target = on_device.forcings.at(0, t);
    read(fields, advance(start_date, setup().step, first_lead + t), true);
    for (int64_t v = 0; v < model.variables().size(); ++v)
      if (is_read(v, true)) upload(target.slice({v, v + 1}), fields.slice({v, v + 1}));
  }
  uploaded.record(ctx.compute());
}

Forecaster::Forecaster(const StepModel& model, const DatasetReader& reader)
    : impl_(std::make_unique<Impl>(model, reader)) {}
Forecaster::~Forecaster() = default;

int64_t Forecaster::arena_peak_bytes() const { return impl_->arena.peak_bytes(); }

void Forecaster::run(int64_t start_date, int64_t lead_steps, const Sink& sink) {
  Impl& in = *impl_;
  BOREAS_CHECK(lead_steps >= 1, invalid_argument, "a forecast has at least one step, not {}", lead_steps);
  const Scope scope(in.ctx);
  States states(in.ctx, in.model);
  in.read_initial(start_date);
  in.model.start(in.ctx, in.on_device.initial, states.x);
  const int64_t num_output_steps = in.staging.forcings.num_times();
  const auto deliver = [&](int64_t done) {
    in.done.synchronize();
    const int64_t num_outputs = in.staging.outputs.rows() / num_output_steps;
    for (int64_t o = 0; o < std::min(num_output_steps, lead_steps - done); ++o) {
      const Tensor fields = in.staging.outputs.slice({o * num_outputs, (o + 1) * num_outputs});
      in.model.preprocess().restore_nan(fields, in.nan_mask);
      sink(done + o + 1, advance(start_date, in.setup().step, done + o + 1),
           {fields.as<float>(), size_t(fields.size())});
    }
  };
  const bool overlaps = in.ctx.device().is_cuda();  // a GPU makes the next step while the host takes this one
  for (int64_t done = 0; done < lead_steps; done += num_output_steps) {
    const bool last = done + num_output_steps >= lead_steps;
    if (!last) in.read_forcings(start_date, done + 1);
    in.replay.run(in.ctx, {key_of(states.x.data()), last}, [&] {
      forecast_step(in.ctx, in.model, states.x, in.on_device.outputs, in.on_device.forcings,
                    last ? Tensor() : states.x_next);
    });
    if (overlaps && done > 0) deliver(done - num_output_steps);
    if (overlaps)
      copy_bytes(in.ctx.compute(), in.staging.outputs.data(), Device::cpu(), in.on_device.outputs.data(),
                 in.ctx.device(), in.staging.outputs.bytes());
    in.done.record(in.ctx.compute());
    if (last || !overlaps) deliver(done);
    std::swap(states.x, states.x_next);
  }
}

}  // namespace boreas
