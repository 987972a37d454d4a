#include "engine/api/boreas.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>

#include "comm/cell_exchange.h"
#include "comm/host_communicator.h"
#include "engine/checkpoint.h"
#include "engine/memory_plan.h"
#include "engine/model_state.h"
#include "engine/training_step.h"
#include "io/forcings.h"
#include "kernels/core/host_stream.h"
#include "kernels/core/near_names.h"

namespace {

using namespace boreas;
using Clock = std::chrono::steady_clock;

// --- errors
// ------------------------------------------------------------------------------------------------------------

thread_local char error_text[4096] = "";

int fail(int status, const char* text) noexcept {
  std::strncpy(error_text, text, sizeof error_text - 1);
  return status;
}

int status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return BOREAS_INVALID_ARGUMENT;
    case ErrorCode::shape:
      return BOREAS_SHAPE;
    case ErrorCode::config:
      return BOREAS_CONFIG;
    case ErrorCode::io:
      return BOREAS_IO;
    case ErrorCode::corrupt_data:
      return BOREAS_CORRUPT_DATA;
    case ErrorCode::out_of_memory:
      return BOREAS_OUT_OF_MEMORY;
    case ErrorCode::device:
      return BOREAS_DEVICE;
    case ErrorCode::comm:
      return BOREAS_COMM;
    case ErrorCode::unsupported:
      return BOREAS_UNSUPPORTED;
    case ErrorCode::internal:
      break;
  }
  return BOREAS_INTERNAL;
}

// What the engine has no code for.
struct ApiError : std::runtime_error {
  ApiError(int status_in, const std::string& text) : std::runtime_error(text), status(status_in) {}
  int status;
};

void check_order(bool condition, const char* text) {
  if (!condition) throw ApiError(BOREAS_WRONG_ORDER, text);
}

// Runs what a function of the interface does; nothing thrown leaves it.
int guarded(const auto& body) noexcept {
  error_text[0] = 0;
  try {
    body();
    return BOREAS_OK;
  } catch (const Error& error) {
    return fail(status_of(error.code()), error.what());
  } catch (const ApiError& error) {
    return fail(error.status, error.what());
  } catch (const std::bad_alloc&) {
    return fail(BOREAS_OUT_OF_MEMORY, "the host is out of memory; boreas_plan_memory says how much a model needs");
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(BOREAS_IO, error.what());
  } catch (const std::exception& error) {
    return fail(BOREAS_INTERNAL, error.what());
  } catch (...) {
    return fail(BOREAS_INTERNAL, "an unknown failure; this is a defect of boreas, please report it");
  }
}

// --- handles
// -----------------------------------------------------------------------------------------------------------

// A handle is a number that is never used again, and points to nothing: one that was closed is known to be.
template <class Object>
class Handles {
 public:
  explicit Handles(const char* kind) : kind_(kind) {}

  void* add(std::shared_ptr<Object> object) {
    const std::lock_guard lock(mutex_);
    next_ += kStep;
    objects_.emplace(next_, std::move(object));
    return reinterpret_cast<void*>(next_);
  }
  std::shared_ptr<Object> find(const void* handle) {
    const std::lock_guard lock(mutex_);
    return place(handle)->second;
  }
  std::shared_ptr<Object> take(const void* handle) {
    const std::lock_guard lock(mutex_);
    const auto found = place(handle);
    std::shared_ptr<Object> object = std::move(found->second);
    objects_.erase(found);
    return object;
  }

 private:
  static constexpr uintptr_t kStep = 16;  // as memory is aligned

  auto place(const void* handle) {
    if (!handle) throw ApiError(BOREAS_BAD_HANDLE, fmt::format("the {} is null; open one first", kind_));
    const auto found = objects_.find(reinterpret_cast<uintptr_t>(handle));
    if (found == objects_.end())
      throw ApiError(BOREAS_BAD_HANDLE,
                     fmt::format("this is no open {}: it was closed, or is something else; open one, and use it only "
                                 "until it is closed",
                                 kind_));
    return found;
  }

  const char* kind_;
  std::mutex mutex_;
  uintptr_t next_ = 0;
  std::map<uintptr_t, std::shared_ptr<Object>> objects_;
};

// --- structs of the host
// -------------------------------------------------------------------------------------------------

constexpr size_t kLargestStruct = 4096;

void check_size(size_t given, const char* name) {
  BOREAS_CHECK(given >= 2 * sizeof(size_t) && given <= kLargestStruct, invalid_argument,
               "{} has struct_size {}; set it to sizeof({}) before the call", name, given, name);
}

// A struct as this version knows it: members that the host does not have are zero, and those that boreas does not have
// must be.
template <class Struct>
Struct taken(const Struct* given, const char* name, bool optional = false) {
  Struct known{};
  if (!given && optional) return known;
  BOREAS_CHECK(given, invalid_argument, "the address of {} is null", name);
  const size_t size = given->struct_size;
  check_size(size, name);
  const char* const bytes = reinterpret_cast<const char*>(given);
  for (size_t i = sizeof(Struct); i < size; ++i)
    BOREAS_CHECK(bytes[i] == 0, unsupported,
                 "{} has members that boreas {} does not know; use the header of the library that is linked", name,
                 BOREAS_VERSION);
  std::memcpy(&known, given, std::min(size, sizeof(Struct)));
  return known;
}

template <class Struct>
void give(Struct* to, const Struct& values, const char* name) {
  BOREAS_CHECK(to, invalid_argument, "the address of {} is null", name);
  const size_t size = to->struct_size;
  check_size(size, name);
  std::memcpy(reinterpret_cast<char*>(to) + sizeof(size_t), reinterpret_cast<const char*>(&values) + sizeof(size_t),
              std::min(size, sizeof(Struct)) - sizeof(size_t));
}

const char* text_argument(const char* text, const char* what) {
  BOREAS_CHECK(text && *text, invalid_argument, "{} is {}", what, text ? "empty" : "null");
  return text;
}

constexpr int64_t kLatestDate = 250000000000;  // the year 9892

void check_date(int64_t date) {
  BOREAS_CHECK(date > -kLatestDate / 4 && date < kLatestDate, invalid_argument,
               "the date {} is out of range; dates are seconds since 1970-01-01, see boreas_parse_date", date);
}

// --- models
// --------------------------------------------------------------------------------------------------------------

// Samples on their way into a training step.
struct Batch {
  Batch(const StepModel& model, const TrainingConfig& training)
      : num_samples(training.batch_size * training.micro_steps),
        num_times(window_length(model.setup().config.data, training.rollout.maximum)),
        memory(model.device(), Buffer::Kind::pinned,
               num_samples * num_times * model.variables().size() * model.num_cells() * 4, "staging"),
        device_memory(model.device().is_cuda()
                          ? Buffer::on(model.device(), memory.bytes() / training.micro_steps, "batch")
                          : Buffer()),
        given(size_t(num_samples * num_times * model.variables().size())) {
    fields.fields = memory.tensor(DType::f32, {num_samples, num_times, model.variables().size(), model.num_cells()});
  }
  int64_t num_samples, num_times;
  Buffer memory, device_memory;
  FieldWindow fields;
  std::vector<float> host;     // in the host's cells, if they are not the model's
  std::vector<uint8_t> given;  // by sample, time and variable
};

struct Model {
  ProcessGrid ranks;
  std::unique_ptr<TrainingStep> training;  // or
  std::unique_ptr<StepModel> forecast_only;
  TrainingState position;
  std::unique_ptr<CellExchange> cells;  // null: the host's are the model's
  std::unique_ptr<Arena> arena;         // of training steps
  std::unique_ptr<Context> ctx;
  std::unique_ptr<Batch> batch;
  int64_t num_states = 0;

  const StepModel& step_model() const { return training ? training->model() : *forecast_only; }
  const ModelSetup& setup() const { return step_model().setup(); }
  Communicator& group() const { return *ranks.model; }
  int64_t num_host_cells() const { return cells ? cells->num_host_cells() : step_model().num_cells(); }
};

struct State {
  explicit State(std::shared_ptr<Model> model_in) : model(std::move(model_in)), state(model->step_model()) {}
  std::shared_ptr<Model> model;
  ModelState state;
  std::optional<HostStream> stream;
  std::vector<float> host_in, host_out;  // in the host's cells, if they are not the model's
  std::vector<uint8_t> host_given;       // by time and variable
  int64_t fetched_step = 0;              // whose states are on the host
  bool begun = false;
  boreas_timings timings{};

  void enter() {
    if (stream) stream->before(state.context().compute());
  }
  void leave() {
    if (stream) stream->after(state.context().compute());
  }
};

Handles<Model>& models() {
  static Handles<Model> handles("model");
  return handles;
}
Handles<State>& states() {
  static Handles<State> handles("state");
  return handles;
}

class Timer {
 public:
  explicit Timer(double& seconds) : seconds_(seconds), begin_(Clock::now()) {}
  ~Timer() { seconds_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }

 private:
  double& seconds_;
  Clock::time_point begin_;
};

std::unique_ptr<Communicator> communicator_of(const boreas_model_options& options) {
  BOREAS_CHECK(!options.mpi_comm || !options.has_fortran_comm, invalid_argument,
               "mpi_comm and fortran_comm are both given; give the one that the host has");
  if (options.mpi_comm) return make_host_communicator(options.mpi_comm);
  if (options.has_fortran_comm) return make_host_communicator(int(options.fortran_comm));
  return make_single_rank_communicator();
}

// What a checkpoint says, changed as the host wants it.
struct Opening {
  Opening(const char* checkpoint, const boreas_model_options* given)
      : options(taken(given, "boreas_model_options", true)) {
    text_argument(checkpoint, "the path of the checkpoint");
    BOREAS_CHECK(options.device >= BOREAS_AUTO && options.device <= BOREAS_CUDA, invalid_argument,
                 "device is {}; expected BOREAS_AUTO, BOREAS_CPU or BOREAS_CUDA", options.device);
    BOREAS_CHECK(options.memory_budget >= 0, invalid_argument, "memory_budget is {}; expected bytes, or 0 for no limit",
                 options.memory_budget);
    auto world = communicator_of(options);
    const int num_ranks = world->size();
    run_together(*world, [&] {
      path = resolve_checkpoint(checkpoint);
      setup = load_setup(path, graph_share({}, *world));
      check_setup(num_ranks);
    });
    RunConfig& config = setup.config;
    if (!options.training) config.parallel.model_ranks = 0;
    config.parallel.ensemble_ranks = 1;
    if (options.device == BOREAS_CPU) config.device = DeviceChoice::cpu;
    if (options.device == BOREAS_CUDA) config.device = DeviceChoice::cuda;
    if (config.precision == Precision::bf16 && options.device == BOREAS_CPU) config.precision = Precision::f32;
    config.memory.budget = options.memory_budget ? fmt::format("{}", options.memory_budget) : "";
    ranks = ProcessGrid::make(std::move(world), config.parallel.model_ranks);
    if (ranks.model->size() != num_ranks || config.parallel.shard == ShardKind::heads)
      run_together(*ranks.world, [&] {
        const RunConfig changed = config;
        setup = load_setup(path, graph_share(changed, *ranks.model));
        setup.config = changed;
      });
    if (options.training) setup.num_members = 1;  // as the windows of the library have
    device = choose_device(config, *ranks.world);
  }

  void log(const std::string& line) const {
    if (options.log) options.log(line.c_str(), options.log_user);
  }

  // Cuts work into chunks until the plan fits the budget.
  void fit() {
    setup.config =
        options.training ? fit_to_budget(setup, device, ranks) : fit_forecast_to_budget(setup, device, *ranks.model);
    if (options.memory_budget > 0)
      log(fmt::format("memory_budget {}: encoder in {} and decoder in {} chunks", format_bytes(options.memory_budget),
                      setup.config.model.encoder.num_chunks, setup.config.model.decoder.num_chunks));
  }

  boreas_model_options options;
  std::string path;
  ModelSetup setup;
  ProcessGrid ranks;
  Device device;

 private:
  void check_setup(int num_ranks) const {
    const int64_t num_nodes = std::min(setup.num_cells(), setup.graph.node_set(kHiddenNodes).size());
    BOREAS_CHECK(num_ranks <= num_nodes, comm,
                 "the communicator has {} ranks but the model has {} cells and {} hidden nodes to share; use fewer",
                 num_ranks, setup.num_cells(), setup.graph.node_set(kHiddenNodes).size());
  }
};

std::shared_ptr<Model> open_model(Opening opening) {
  opening.fit();
  auto model = std::make_shared<Model>();
  model->ranks = std::move(opening.ranks);
  model->ranks.connect(opening.device);
  if (opening.options.training) {
    model->training = std::make_unique<TrainingStep>(opening.setup, opening.device, model->ranks);
    model->training->materialise();
    run_together(*model->ranks.world, [&] {
      model->position = load_checkpoint(opening.path, model->training->model(), model->training->optimizer());
    });
    TrainingStep& step = *model->training;
    const Arena::Peak peak = plan_peak(opening.device.is_cuda() ? Device::planned_cuda() : opening.device,
                                       [&](Context& ctx) { step.plan(ctx, opening.setup.variables.size(), 1); });
    model->arena = std::make_unique<Arena>(Buffer::on(opening.device, peak.bytes, "arena"));
    model->ctx = std::make_unique<Context>(opening.device, *model->arena);
    model->batch = std::make_unique<Batch>(step.model(), opening.setup.config.training);
  } else {
    model->forecast_only = std::make_unique<StepModel>(opening.setup, opening.device, model->ranks.model.get());
    ParameterStore& parameters = model->forecast_only->parameters();
    parameters.materialise(0);
    run_together(*model->ranks.world, [&] { load_weights(opening.path, *model->forecast_only); });
    parameters.keep_values_only();
  }
  opening.log(fmt::format("opened {}: {} parameters, {} cells, {}, rank {} of {}", opening.path,
                          model->step_model().parameters().num_parameters(), model->setup().num_cells(),
                          to_string(opening.device), model->group().rank(), model->group().size()));
  return model;
}

// --- fields
// ----------------------------------------------------------------------------------------------------------------

// A field that the host names, held against the model.
struct Field {
  Field(const Model& model, const boreas_field* given) : host(taken(given, "boreas_field")) {
    variable = find(model, host.name);
    const VariableTable& variables = model.setup().variables;
    name = variables.name(variable);
    const std::string& units = model.setup().units[size_t(variable)];
    BOREAS_CHECK(!host.units || units == host.units, invalid_argument,
                 "'{}' is given in '{}', but the model has it in '{}'; convert it", name, host.units ? host.units : "",
                 units);
    BOREAS_CHECK(host.dtype == BOREAS_F32 || host.dtype == BOREAS_F64, invalid_argument,
                 "the dtype of '{}' is {}; expected BOREAS_F32 or BOREAS_F64", name, host.dtype);
    BOREAS_CHECK(host.location == BOREAS_HOST || host.location == BOREAS_DEVICE_MEMORY, invalid_argument,
                 "the location of '{}' is {}; expected BOREAS_HOST or BOREAS_DEVICE_MEMORY", name, host.location);
    BOREAS_CHECK(host.count == model.num_host_cells(), shape,
                 "'{}' has {} values; expected {}, one for each cell of {}", name, host.count, model.num_host_cells(),
                 model.group().size() > 1 ? "this rank" : "the grid");
    BOREAS_CHECK(host.stride >= 0 && host.stride < int64_t{1} << 40, invalid_argument,
                 "the stride of '{}' is {}; expected elements from one cell to the next", name, host.stride);
    if (host.stride == 0) host.stride = 1;
    BOREAS_CHECK(host.data || host.count == 0, invalid_argument, "the data of '{}' is null", name);
    if (host.location == BOREAS_DEVICE_MEMORY) {
      const Device device = model.step_model().device();
      BOREAS_CHECK(device.is_cuda(), unsupported,
                   "'{}' lies in device memory, but the model computes on the CPU; give an array of the host", name);
      BOREAS_CHECK(host.dtype == BOREAS_F32 && host.stride == 1, unsupported,
                   "'{}' lies in device memory, where it must be f32 without gaps", name);
      BOREAS_CHECK(device_of(host.data) == device, invalid_argument, "'{}' does not lie in the memory of {}", name,
                   to_string(device));
    }
  }

  static int64_t find(const Model& model, const char* name) {
    text_argument(name, "the name of the variable");
    const VariableTable& variables = model.setup().variables;
    if (const auto found = variables.find(name)) return *found;
    const VariableName parsed = parse_variable_name(name);
    std::vector<std::string> levels;
    for (int64_t v = 0; v < variables.size(); ++v)
      if (variables.base(v) == parsed.base && variables.level(v))
        levels.push_back(fmt::format("{}", *variables.level(v)));
    BOREAS_CHECK(levels.empty(), invalid_argument, "the model has no '{}': '{}' has the levels {}", name, parsed.base,
                 fmt::join(levels, ", "));
    BOREAS_FAIL(invalid_argument, "the model has no variable '{}'{}", name, near_names(name, variables.names()));
  }

  bool on_device() const { return host.location == BOREAS_DEVICE_MEMORY; }

  // Into an array of the host's cells, or out of it.
  void copy_to(const Model& model, float* to) const {
    if (on_device()) return copy_now(to, Device::cpu(), host.data, model.step_model().device(), host.count * 4);
    with_type([&](const auto* from) {
      for (int64_t i = 0; i < host.count; ++i) to[i] = float(from[i * host.stride]);
    });
  }
  void copy_from(const Model& model, const float* from) const {
    if (on_device()) return copy_now(host.data, model.step_model().device(), from, Device::cpu(), host.count * 4);
    with_type([&](auto* to) {
      using Value = std::remove_pointer_t<decltype(to)>;
      for (int64_t i = 0; i < host.count; ++i) to[i * host.stride] = Value(from[i]);
    });
  }

  boreas_field host;
  int64_t variable = 0;
  std::string name;

 private:
  void with_type(const auto& task) const {
    if (host.dtype == BOREAS_F32)
      task(static_cast<float*>(host.data));
    else
      task(static_cast<double*>(host.data));
  }
};

// Position of a date among `count` times, of which time t has date_of(t); -1 if it is none of them.
int64_t time_of(int64_t date, int64_t count, const auto& date_of) {
  for (int64_t t = 0; t < count; ++t)
    if (date_of(t) == date) return t;
  return -1;
}

std::string dates_text(int64_t count, const auto& date_of) {
  std::vector<std::string> dates;
  for (int64_t t = 0; t < count; ++t) dates.push_back(format_date(date_of(t)));
  return fmt::format("{}", fmt::join(dates, ", "));
}

int64_t num_inputs(const State& state) { return state.model->setup().config.data.num_input_steps; }
int64_t num_outputs(const State& state) { return state.model->setup().config.data.num_output_steps; }

void set_field(State& s, int64_t date, const boreas_field* given) {
  check_order(s.begun, "no forecast has begun; call boreas_state_begin with its start date first");
  check_date(date);
  const Model& model = *s.model;
  const Field field(model, given);
  const bool initial = s.state.num_steps() == 0;
  const int64_t count = initial ? num_inputs(s) : num_outputs(s);
  const auto date_of = [&](int64_t t) { return initial ? s.state.initial_date(t) : s.state.forcing_date(t); };
  const int64_t t = time_of(date, count, date_of);
  BOREAS_CHECK(t >= 0, invalid_argument, "'{}' is set for {}; {} it is set for {}", field.name, format_date(date),
               initial ? "before the first step" : "now", dates_text(count, date_of));
  BOREAS_CHECK(!initial || s.state.needs_initial(field.variable), invalid_argument,
               "'{}' is a diagnostic variable, which is an output only; it is not set", field.name);
  BOREAS_CHECK(initial || s.state.needs_forcing(field.variable), invalid_argument,
               "'{}' is no forcing that changes, and is set before the first step only; begin another forecast for it",
               field.name);
  const int64_t v = field.variable, num_variables = model.setup().variables.size();
  if (model.cells) {
    const int64_t row = t * num_variables + v;
    field.copy_to(model, s.host_in.data() + row * model.num_host_cells());
    s.host_given[size_t(row)] = 1;
  } else if (field.on_device() && !model.step_model().preprocess().imputes_any()) {
    const Tensor values(field.host.data, DType::f32, {1, field.host.count}, model.step_model().device());
    initial ? s.state.use_initial(v, t, values) : s.state.use_forcing(v, t, values);
  } else {
    field.copy_to(model, (initial ? s.state.initial(v, t) : s.state.forcing(v, t)).data());
  }
}

// What the host gave in its own cells, to the ranks of the model.
void move_inputs(State& s) {
  const Model& model = *s.model;
  const bool initial = s.state.num_steps() == 0;
  const int64_t num_variables = model.setup().variables.size();
  check_agreement(model.group(), "variables that were set",
                  std::string(reinterpret_cast<const char*>(s.host_given.data()), s.host_given.size()));
  std::vector<const float*> from;
  std::vector<float*> to;
  for (size_t row = 0; row < s.host_given.size(); ++row) {
    if (!s.host_given[row]) continue;
    const int64_t v = int64_t(row) % num_variables, t = int64_t(row) / num_variables;
    from.push_back(s.host_in.data() + int64_t(row) * model.num_host_cells());
    to.push_back((initial ? s.state.initial(v, t) : s.state.forcing(v, t)).data());
  }
  model.cells->to_model(from, to);
  std::fill(s.host_given.begin(), s.host_given.end(), 0);
}

// The states of the last step on the host, in its cells.
const float* states_on_host(State& s) {
  const Model& model = *s.model;
  if (s.fetched_step != s.state.num_steps()) {
    s.state.fetch();
    const Tensor fields = s.state.fields();
    s.fetched_step = s.state.num_steps();
    if (model.cells) {
      std::vector<const float*> from;
      std::vector<float*> to;
      for (int64_t row = 0; row < fields.rows(); ++row) {
        from.push_back(fields.row<float>(row));
        to.push_back(s.host_out.data() + row * model.num_host_cells());
      }
      model.cells->to_host(from, to);
    }
  }
  return model.cells ? s.host_out.data() : s.state.fields().as<float>();
}

void step(State& s) {
  const Timer timer(s.timings.step_seconds);
  Communicator& group = s.model->group();
  run_together(
      group, [&] { check_order(s.begun, "no forecast has begun; call boreas_state_begin with its start date first"); });
  s.enter();
  if (s.model->cells) move_inputs(s);
  run_together(group, [&] { s.state.prepare(); });
  s.state.step();
  ++s.timings.num_steps;
  if (s.model->cells) (void)states_on_host(s);
  s.leave();
}

// Row of the last step's states.
int64_t output_row(const State& s, int64_t date, int64_t variable) {
  check_order(s.state.num_steps() > 0, "there are no states yet; call boreas_state_step first");
  check_date(date);
  const auto date_of = [&](int64_t t) { return s.state.forcing_date(t); };
  const int64_t t = time_of(date, num_outputs(s), date_of);
  BOREAS_CHECK(t >= 0, invalid_argument, "the last step has no states of {}; it made {}", format_date(date),
               dates_text(num_outputs(s), date_of));
  const VariableTable& variables = s.model->setup().variables;
  BOREAS_CHECK(variables.role(variable) != Role::forcing, invalid_argument,
               "'{}' is a forcing, which the model does not predict; it predicts {}", variables.name(variable),
               fmt::join(variables.output_names(), ", "));
  return t * variables.num_outputs() + variables.output_index(variables.name(variable), "boreas_state_read");
}

// --- training
// --------------------------------------------------------------------------------------------------------------

TrainingStep& training_of(Model& model) {
  check_order(model.training != nullptr, "the model was opened for forecasts; open it with training = 1");
  return *model.training;
}

void set_sample(Model& model, int64_t sample, int64_t time, const boreas_field* given) {
  (void)training_of(model);
  Batch& batch = *model.batch;
  const Field field(model, given);
  BOREAS_CHECK(sample >= 0 && sample < batch.num_samples, invalid_argument, "sample {} of '{}': there are {} in a step",
               sample, field.name, batch.num_samples);
  BOREAS_CHECK(time >= 0 && time < batch.num_times, invalid_argument, "time {} of '{}': a sample has {}", time,
               field.name, batch.num_times);
  const int64_t row = (sample * batch.num_times + time) * model.setup().variables.size() + field.variable;
  field.copy_to(model,
                model.cells
                    ? batch.host.data() + row * model.num_host_cells()
                    : batch.memory.tensor(DType::f32, {int64_t(batch.given.size()), model.step_model().num_cells()})
                          .row<float>(row));
  batch.given[size_t(row)] = 1;
}

void complete_samples(Model& model, int64_t num_times) {
  Batch& batch = *model.batch;
  const VariableTable& variables = model.setup().variables;
  for (int64_t sample = 0; sample < batch.num_samples; ++sample)
    for (int64_t time = 0; time < num_times; ++time)
      for (int64_t v = 0; v < variables.size(); ++v)
        check_order(batch.given[size_t((sample * batch.num_times + time) * variables.size() + v)],
                    fmt::format("sample {} lacks '{}' at time {}; set all variables of {} samples at {} times", sample,
                                variables.name(v), time, batch.num_samples, num_times)
                        .c_str());
}

void move_samples(Model& model, int64_t num_times) {
  Batch& batch = *model.batch;
  const int64_t num_variables = model.setup().variables.size(), cells = model.step_model().num_cells();
  std::vector<const float*> from;
  std::vector<float*> to;
  for (int64_t sample = 0; sample < batch.num_samples; ++sample)
    for (int64_t row = 0; row < num_times * num_variables; ++row) {
      const int64_t at = sample * batch.num_times * num_variables + row;
      from.push_back(batch.host.data() + at * model.num_host_cells());
      to.push_back(batch.fields.fields.as<float>() + at * cells);
    }
  model.cells->to_model(from, to);
}

boreas_training_result train(Model& model, const boreas_training_options& options) {
  TrainingStep& step = training_of(model);
  const TrainingConfig& training = model.setup().config.training;
  Batch& batch = *model.batch;
  const int64_t rollout = options.rollout == 0 ? 1 : options.rollout;
  run_together(*model.ranks.world, [&] {
    BOREAS_CHECK(rollout >= 1 && rollout <= training.rollout.maximum, invalid_argument,
                 "rollout is {}; the checkpoint was configured for 1 to {} (training.rollout.maximum)", rollout,
                 training.rollout.maximum);
    BOREAS_CHECK(std::isfinite(options.learning_rate) && options.learning_rate >= 0, invalid_argument,
                 "learning_rate is {}; expected a positive number, or 0 for the checkpoint's schedule",
                 options.learning_rate);
    complete_samples(model, window_length(model.setup().config.data, rollout));
  });
  const int64_t num_times = window_length(model.setup().config.data, rollout);
  if (model.cells) move_samples(model, num_times);
  run_together(*model.ranks.world, [&] {
    const Preprocess& preprocess = model.step_model().preprocess();
    for (int64_t sample = 0; sample < batch.num_samples; ++sample)
      for (int64_t time = 0; time < num_times; ++time) {
        const Tensor fields = batch.fields.at(sample, time);
        preprocess.check_finite(fields, fmt::format("sample {} at time {}", sample, time));
        preprocess.impute_copies(fields,
                                 time < model.setup().config.data.num_input_steps ? FieldUse::input : FieldUse::target);
      }
  });
  const int64_t decay =
      training.learning_rate.decay_steps > 0 ? training.learning_rate.decay_steps : training.max_steps;
  const double rate = options.learning_rate > 0
                          ? options.learning_rate
                          : learning_rate_at(training.learning_rate, std::max<int64_t>(decay, 1), model.position.step);
  int64_t micro = 0;
  const Device device = model.step_model().device();
  const auto next_batch = [&] {
    const int64_t first = micro++ * training.batch_size;
    const Tensor& all = batch.fields.fields;
    const int64_t rows = batch.num_times * all.size(2);
    const Tensor host = all.slice({first * rows, (first + training.batch_size) * rows})
                            .reshape({training.batch_size, batch.num_times, all.size(2), all.size(3)});
    if (!device.is_cuda()) return FieldWindow{host, 1};
    const Tensor target = batch.device_memory.tensor(DType::f32, host.shape());
    copy_bytes(model.ctx->compute(), target.data(), device, host.data(), Device::cpu(), host.bytes());
    return FieldWindow{target, 1};
  };
  step.update(*model.ctx, next_batch, rollout, model.position.step + 1, rate);
  const UpdateOutcome outcome = step.collect();
  ++model.position.step;
  std::fill(batch.given.begin(), batch.given.end(), 0);
  return {sizeof(boreas_training_result), outcome.loss, outcome.gradient_norm, outcome.seconds, model.position.step};
}

}  // namespace

// --- the interface
// ---------------------------------------------------------------------------------------------------------

const char* boreas_error(void) { return error_text; }
const char* boreas_version(void) { return BOREAS_VERSION; }
int boreas_api_version(void) { return BOREAS_API_VERSION; }

int boreas_parse_date(const char* text, int64_t* date) {
  return guarded([&] {
    BOREAS_CHECK(date, invalid_argument, "the address of the date is null");
    *date = parse_date(text_argument(text, "the text of the date"));
  });
}

int boreas_format_date(int64_t date, char* text, size_t size) {
  return guarded([&] {
    check_date(date);
    const std::string formatted = format_date(date);
    BOREAS_CHECK(text && size > formatted.size(), invalid_argument,
                 "a date needs room for {} characters, and {} were given", formatted.size() + 1, text ? size : 0);
    std::memcpy(text, formatted.c_str(), formatted.size() + 1);
  });
}

int boreas_model_open(const char* checkpoint, const boreas_model_options* options, boreas_model** model) {
  return guarded([&] {
    BOREAS_CHECK(model, invalid_argument, "the address of the model's handle is null");
    *model = nullptr;
    *model = static_cast<boreas_model*>(models().add(open_model(Opening(checkpoint, options))));
  });
}

int boreas_model_close(boreas_model* model) {
  return guarded([&] { models().take(model); });
}

int boreas_model_describe(const boreas_model* handle, boreas_model_info* out) {
  return guarded([&] {
    const auto model = models().find(handle);
    const StepModel& step = model->step_model();
    const ModelSetup& setup = model->setup();
    boreas_model_info info{};
    info.num_variables = setup.variables.size();
    info.num_cells = setup.num_cells();
    info.num_local_cells = model->num_host_cells();
    info.first_cell = step.cells().begin;
    info.num_input_times = setup.config.data.num_input_steps;
    info.num_output_times = setup.config.data.num_output_steps;
    info.step_seconds = setup.step.seconds;
    info.step_months = setup.step.months;
    info.num_parameters = step.parameters().num_parameters();
    info.grid_rank = std::min<int64_t>(4, int64_t(setup.field_shape.size()));
    std::copy_n(setup.field_shape.begin(), info.grid_rank, info.grid_shape);
    info.rank = int32_t(model->group().rank());
    info.num_ranks = int32_t(model->group().size());
    info.cuda_device = step.device().is_cuda() ? step.device().index : -1;
    info.training = model->training != nullptr;
    info.batch_size = setup.config.training.batch_size * setup.config.training.micro_steps;
    info.max_rollout = setup.config.training.rollout.maximum;
    info.num_updates = model->position.step;
    give(out, info, "boreas_model_info");
  });
}

int boreas_model_variable(const boreas_model* handle, int64_t index, boreas_variable_info* out) {
  return guarded([&] {
    const auto model = models().find(handle);
    const ModelSetup& setup = model->setup();
    BOREAS_CHECK(index >= 0 && index < setup.variables.size(), invalid_argument,
                 "variable {} does not exist: the model has 0 to {}", index, setup.variables.size() - 1);
    const auto v = size_t(index);
    const auto of = [&](const std::vector<double>& values) { return v < values.size() ? values[v] : std::nan(""); };
    boreas_variable_info info{};
    info.name = setup.variables.name(index).c_str();
    info.units = setup.units[v].c_str();
    const Role role = setup.variables.role(index);
    info.role = role == Role::prognostic ? BOREAS_PROGNOSTIC
                : role == Role::forcing  ? BOREAS_FORCING
                                         : BOREAS_DIAGNOSTIC;
    info.is_computed = is_computed_forcing(setup.variables.name(index));
    info.is_constant = setup.constant[v] != 0;
    info.has_level = setup.variables.level(index).has_value();
    info.level = setup.variables.level(index).value_or(0);
    info.mean = of(setup.statistics.mean);
    info.stdev = of(setup.statistics.stdev);
    info.minimum = of(setup.statistics.minimum);
    info.maximum = of(setup.statistics.maximum);
    give(out, info, "boreas_variable_info");
  });
}

int boreas_model_find(const boreas_model* handle, const char* name, int64_t* index) {
  return guarded([&] {
    const auto model = models().find(handle);
    BOREAS_CHECK(index, invalid_argument, "the address of the index is null");
    *index = Field::find(*model, name);
  });
}

int boreas_model_coordinates(const boreas_model* handle, double* latitudes, double* longitudes, int64_t count) {
  return guarded([&] {
    const auto model = models().find(handle);
    const ModelSetup& setup = model->setup();
    BOREAS_CHECK(latitudes && longitudes, invalid_argument, "the address of the {} is null",
                 latitudes ? "longitudes" : "latitudes");
    BOREAS_CHECK(count == setup.num_cells(), shape, "room for {} coordinates was given; the grid has {} cells", count,
                 setup.num_cells());
    const Coordinates all = all_coordinates(setup);
    std::copy(all.latitudes.begin(), all.latitudes.end(), latitudes);
    std::copy(all.longitudes.begin(), all.longitudes.end(), longitudes);
  });
}

int boreas_model_set_cells(boreas_model* handle, const int64_t* cells, int64_t count) {
  return guarded([&] {
    const auto model = models().find(handle);
    run_together(model->group(), [&] {
      check_order(model->num_states == 0, "the model has states already; set the cells before the first is opened");
      BOREAS_CHECK(count >= 0 && count <= model->setup().num_cells(), shape, "{} cells were given; the grid has {}",
                   count, model->setup().num_cells());
      BOREAS_CHECK(cells || count == 0, invalid_argument, "the address of the cells is null");
    });
    model->cells = std::make_unique<CellExchange>(model->group(), model->step_model().cells(),
                                                  model->setup().num_cells(), std::span(cells, size_t(count)));
    if (!model->batch) return;
    model->batch->host.assign(model->batch->given.size() * size_t(count), 0.0F);
    std::fill(model->batch->given.begin(), model->batch->given.end(), 0);
  });
}

int boreas_plan_memory(const char* checkpoint, const boreas_model_options* options, boreas_memory* memory) {
  return guarded([&] {
    Opening opening(checkpoint, options);
    opening.fit();
    const MemoryReport report = plan_memory(opening.setup, opening.device, opening.ranks);
    opening.log(report.table());
    give(memory,
         {sizeof(boreas_memory), report.forecast_bytes(), report.training_bytes(), report.forecast_host_bytes,
          report.training_host_bytes, report.context_bytes},
         "boreas_memory");
  });
}

int boreas_state_open(boreas_model* handle, const boreas_state_options* given, boreas_state** state) {
  return guarded([&] {
    const auto model = models().find(handle);
    BOREAS_CHECK(state, invalid_argument, "the address of the state's handle is null");
    *state = nullptr;
    const boreas_state_options options = taken(given, "boreas_state_options", true);
    const Device device = model->step_model().device();
    BOREAS_CHECK(device.is_cuda() || (!options.stream && !options.has_stream), unsupported,
                 "a stream is given, but the model computes on the CPU; give none");
    auto opened = std::make_shared<State>(model);
    if (options.stream || options.has_stream) opened->stream.emplace(device, options.stream);
    if (model->cells) {
      const auto cells = size_t(model->num_host_cells());
      const auto rows = size_t(std::max(num_inputs(*opened), num_outputs(*opened)) * model->setup().variables.size());
      opened->host_in.resize(rows * cells);
      opened->host_given.resize(rows);
      opened->host_out.resize(size_t(num_outputs(*opened) * model->setup().variables.num_outputs()) * cells);
    }
    *state = static_cast<boreas_state*>(states().add(opened));
    ++model->num_states;
  });
}

int boreas_state_close(boreas_state* state) {
  return guarded([&] { --states().take(state)->model->num_states; });
}

int boreas_state_begin(boreas_state* handle, int64_t start_date) {
  return guarded([&] {
    const auto s = states().find(handle);
    check_date(start_date);
    s->state.begin(start_date);
    std::fill(s->host_given.begin(), s->host_given.end(), 0);
    s->fetched_step = 0;
    s->begun = true;
  });
}

int boreas_state_set(boreas_state* handle, int64_t date, const boreas_field* field) {
  return guarded([&] {
    const auto s = states().find(handle);
    const Timer timer(s->timings.set_seconds);
    set_field(*s, date, field);
  });
}

int boreas_state_step(boreas_state* handle) {
  return guarded([&] { step(*states().find(handle)); });
}

int boreas_state_rollout(boreas_state* handle, int64_t num_steps) {
  return guarded([&] {
    const auto s = states().find(handle);
    BOREAS_CHECK(num_steps >= 1, invalid_argument, "a rollout has at least one step, not {}", num_steps);
    for (int64_t i = 0; i < num_steps; ++i) step(*s);
  });
}

int boreas_state_date(const boreas_state* handle, int64_t* date) {
  return guarded([&] {
    const auto s = states().find(handle);
    BOREAS_CHECK(date, invalid_argument, "the address of the date is null");
    check_order(s->begun, "no forecast has begun; call boreas_state_begin with its start date first");
    *date = s->state.forcing_date(num_outputs(*s) - 1);
  });
}

int boreas_state_read(boreas_state* handle, int64_t date, const boreas_field* given) {
  return guarded([&] {
    const auto s = states().find(handle);
    const Timer timer(s->timings.read_seconds);
    const Field field(*s->model, given);
    const int64_t row = output_row(*s, date, field.variable);
    if (field.on_device() && !s->model->cells && !s->model->step_model().preprocess().imputes_any()) {
      copy_bytes(s->state.context().compute(), field.host.data, s->model->step_model().device(),
                 s->state.device_fields().row<float>(row), s->model->step_model().device(), field.host.count * 4);
      s->leave();
      if (!s->stream) s->state.context().compute().synchronize();
    } else {
      field.copy_from(*s->model, states_on_host(*s) + row * s->model->num_host_cells());
    }
  });
}

int boreas_state_view(boreas_state* handle, int64_t date, const char* name, boreas_field* out) {
  return guarded([&] {
    const auto s = states().find(handle);
    const Timer timer(s->timings.read_seconds);
    const int64_t variable = Field::find(*s->model, name), row = output_row(*s, date, variable);
    const bool on_device = s->model->step_model().device().is_cuda() && !s->model->cells;
    boreas_field field{};
    field.name = s->model->setup().variables.name(variable).c_str();
    field.units = s->model->setup().units[size_t(variable)].c_str();
    field.location = on_device ? BOREAS_DEVICE_MEMORY : BOREAS_HOST;
    field.count = s->model->num_host_cells();
    field.stride = 1;
    if (on_device) {
      field.data = s->state.device_fields().row<float>(row);
      if (!s->stream) s->state.context().compute().synchronize();
    } else {
      field.data = const_cast<float*>(states_on_host(*s)) + row * field.count;
    }
    give(out, field, "boreas_field");
  });
}

int boreas_state_timings(const boreas_state* handle, boreas_timings* out) {
  return guarded([&] { give(out, states().find(handle)->timings, "boreas_timings"); });
}

int boreas_training_set(boreas_model* handle, int64_t sample, int64_t time, const boreas_field* field) {
  return guarded([&] { set_sample(*models().find(handle), sample, time, field); });
}

int boreas_training_step(boreas_model* handle, const boreas_training_options* given, boreas_training_result* result) {
  return guarded([&] {
    const auto model = models().find(handle);
    const boreas_training_options options = taken(given, "boreas_training_options", true);
    boreas_training_result unwanted{};
    unwanted.struct_size = sizeof unwanted;
    if (!result) result = &unwanted;
    check_size(result->struct_size, "boreas_training_result");
    give(result, train(*model, options), "boreas_training_result");
  });
}

int boreas_model_save(boreas_model* handle, const char* path) {
  return guarded([&] {
    const auto model = models().find(handle);
    TrainingStep& step = training_of(*model);
    text_argument(path, "the path of the checkpoint");
    const std::filesystem::path file = std::filesystem::absolute(path);
    save_checkpoint(file.string(), step.model(), step.optimizer(), model->position);
  });
}
