// The library for host programs: against the engine itself, in threads, from installed packages; and what it refuses.
#include <gtest/gtest.h>

#include <boreas.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "engine/checkpoint.h"
#include "engine/forecaster.h"
#include "engine/training_step.h"
#include "tests/engine/small_model.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/gpu.h"
#include "tests/support/tolerances.h"

// Asked by the leak sanitizer: HDF5 forgets some memory of files that turn out to be damaged.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace boreas {
namespace {

namespace fs = std::filesystem;
using host::make;
using test::small_config;
using test::small_data;
using test::SmallDataset;

using Fields = std::vector<std::vector<float>>;  // by lead, then [V_o, cells]

// A checkpoint of random weights, and the dataset that it belongs to.
struct World {
  test::TemporaryFolder folder;
  SmallDataset data;
  DatasetReader reader;
  std::string checkpoint;

  explicit World(const RunConfig& config, const SmallDataset& data_in)
      : data(data_in), reader(write()), checkpoint(folder / "model.h5") {
    TrainingStep step(make_setup(config, reader), Device::cpu());
    step.materialise();
    save_checkpoint(checkpoint, step.model(), step.optimizer(), {.step = 3});
  }
  World() : World(small_config(small_data(12, true), 2, 2), small_data(12, true)) {}

  DatasetReader write() {
    data.write(folder / "data.zarr");
    return DatasetReader::open({.path = folder / "data.zarr"});
  }
  int64_t date(int64_t index) const { return data.dates[size_t(index)]; }
  std::vector<float> field(const std::string& name, int64_t date) const {
    std::vector<float> values(size_t(data.num_cells()));
    reader.read(*reader.index_of_date(date), {reader.index_of(name)}, {0, data.num_cells()}, values.data());
    return values;
  }

  Fields by_the_engine(int64_t start, int64_t lead_steps) const {
    StepModel model(load_setup(checkpoint), Device::cpu());
    model.parameters().materialise(0);
    load_weights(checkpoint, model);
    Fields fields;
    Forecaster(model, reader).run(start, lead_steps, [&](int64_t, int64_t, std::span<const float> values) {
      fields.emplace_back(values.begin(), values.end());
    });
    return fields;
  }

  // The values of some cells, in their order.
  static std::vector<double> at(const std::vector<float>& values, const std::vector<int64_t>& cells) {
    std::vector<double> found;
    for (const int64_t cell : cells) found.push_back(values[size_t(cell)]);
    return found;
  }
  Fields by_the_library(const host::Model& model, int64_t start, int64_t num_steps,
                        const std::vector<int64_t>& cells) const {
    const boreas_model_info info = model.info();
    host::State state(model);
    state.begin(start);
    Fields fields;
    for (int64_t step = 0; step < num_steps; ++step) {
      const int64_t num_times = step == 0 ? info.num_input_times : info.num_output_times;
      for (const boreas_variable_info& variable : model.variables())
        for (int64_t t = 0; t < num_times; ++t) {
          const int64_t date = state.date() - t * info.step_seconds;
          if (step == 0 ? variable.role != BOREAS_DIAGNOSTIC : variable.name == std::string("dynamic"))
            state.set(date, variable.name, at(field(variable.name, date), cells));
        }
      state.step();
      for (int64_t t = info.num_output_times; t-- > 0;) {
        std::vector<float>& all = fields.emplace_back();
        for (const boreas_variable_info& variable : model.variables()) {
          if (variable.role == BOREAS_FORCING) continue;
          std::vector<float> values(cells.size());
          state.read(state.date() - t * info.step_seconds, variable.name, values);
          std::vector<float> ordered(cells.size());
          for (size_t i = 0; i < cells.size(); ++i) ordered[size_t(cells[i])] = values[i];
          all.insert(all.end(), ordered.begin(), ordered.end());
        }
      }
    }
    return fields;
  }
  std::vector<int64_t> cells() const {
    std::vector<int64_t> all(static_cast<size_t>(data.num_cells()));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
};

TEST(Api, ForecastsAreThoseOfTheEngineToTheBit) {
  const World world;
  const Fields expected = world.by_the_engine(world.date(4), 6);
  const host::Model model(world.checkpoint);
  EXPECT_EQ(world.by_the_library(model, world.date(4), 3, world.cells()), expected);
  EXPECT_EQ(world.by_the_library(model, world.date(4), 3, world.cells()), expected);  // nothing stays of the first
}

TEST(Api, CellsOfTheHostMayStandInAnyOrder) {
  const World world;
  host::Model model(world.checkpoint);
  std::vector<int64_t> cells = world.cells();
  std::shuffle(cells.begin(), cells.end(), std::mt19937(1));
  model.set_cells(cells);
  EXPECT_EQ(world.by_the_library(model, world.date(4), 2, cells), world.by_the_engine(world.date(4), 4));
  const auto refused = [&](const std::vector<int64_t>& wrong, const std::string& text) {
    EXPECT_NE(boreas_model_set_cells(model.handle(), wrong.data(), int64_t(wrong.size())), BOREAS_OK);
    EXPECT_NE(std::string(boreas_error()).find(text), std::string::npos) << boreas_error();
  };
  cells[0] = cells[1];
  refused(cells, "given twice");
  cells[0] = 72;
  refused(cells, "does not exist");
  cells = world.cells();
  cells.pop_back();
  refused(cells, "cell 71 and 0 more are on no rank");
}

TEST(Api, TwoModelsInTwoThreads) {
  const World a, b(small_config(small_data(12)), small_data(12));
  const Fields expected_a = a.by_the_engine(a.date(4), 4), expected_b = b.by_the_engine(b.date(3), 2);
  Fields found_a, found_b;
  std::string errors[2];
  std::thread other([&] {
    for (int i = 0; i < 5; ++i) found_b = b.by_the_library(host::Model(b.checkpoint), b.date(3), 2, b.cells());
    boreas_model_close(nullptr);
    errors[1] = boreas_error();
  });
  for (int i = 0; i < 5; ++i) found_a = a.by_the_library(host::Model(a.checkpoint), a.date(4), 2, a.cells());
  errors[0] = boreas_error();
  other.join();
  EXPECT_EQ(found_a, expected_a);
  EXPECT_EQ(found_b, expected_b);
  EXPECT_EQ(errors[0], "");
  EXPECT_NE(errors[1].find("null"), std::string::npos);
}

TEST(Api, TrainingStepsAreThoseOfTheEngineToTheBit) {
  RunConfig config = test::tiny_config();
  config.training.rollout.maximum = 2;
  test::TemporaryFolder folder;
  const std::string path = folder / "start.h5", saved = folder / "deeper/saved.h5";
  TrainingStep step(test::tiny_setup(config), Device::cpu());
  step.materialise();
  save_checkpoint(path, step.model(), step.optimizer(), {});

  auto options = make<boreas_model_options>();
  options.training = 1;
  host::Model model(path, options);
  Arena arena(Buffer::on(Device::cpu(), int64_t{64} << 20, "arena"));
  Context ctx(Device::cpu(), arena);
  for (int64_t update = 1; update <= 3; ++update) {
    const int64_t rollout = 1 + update % 2, num_times = 2 + rollout;
    const test::RandomWindow data(2, 4, uint64_t(update));
    for (int64_t sample = 0; sample < 2; ++sample)
      for (int64_t t = 0; t < num_times; ++t)
        for (const auto& [v, name] : {std::pair{0, "f"}, {1, "a"}, {2, "p"}, {3, "b"}})
          model.set_sample(sample, t, host::field(name, data.window.at(sample, t).row<float>(v), 60));
    auto how = make<boreas_training_options>();
    how.rollout = rollout;
    how.learning_rate = update == 2 ? 0 : 1e-3;
    const boreas_training_result found = model.train(how);
    step.update(
        ctx, [&] { return data.window; }, rollout, update,
        update == 2 ? learning_rate_at(config.training.learning_rate, config.training.max_steps, 1) : 1e-3);
    const UpdateOutcome expected = step.collect();
    EXPECT_EQ(found.loss, expected.loss);
    EXPECT_EQ(found.gradient_norm, expected.gradient_norm);
    EXPECT_EQ(found.num_updates, update);
  }
  model.save(saved);
  EXPECT_EQ(host::Model(saved, options).info().num_updates, 3);
  StepModel read(load_setup(saved), Device::cpu());
  read.parameters().materialise(0);
  load_weights(saved, read);
  const Tensor a = read.parameters().flat_values(), b = step.model().parameters().flat_values();
  ASSERT_EQ(a.bytes(), b.bytes());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), size_t(a.bytes())), 0);
}

TEST(Api, DescribesTheModelAndItsMemory) {
  const World world;
  const host::Model model(world.checkpoint);
  const boreas_model_info info = model.info();
  EXPECT_EQ(info.num_cells, 72);
  EXPECT_EQ(info.num_local_cells, 72);
  EXPECT_EQ(info.num_input_times, 2);
  EXPECT_EQ(info.num_output_times, 2);
  EXPECT_EQ(info.step_seconds, 6 * 3600);
  EXPECT_EQ(info.grid_rank, 2);
  EXPECT_EQ(info.grid_shape[1], 12);
  EXPECT_EQ(info.cuda_device, -1);
  const auto variables = model.variables();
  ASSERT_EQ(variables.size(), 7U);
  EXPECT_STREQ(variables[1].name, "a");
  EXPECT_STREQ(variables[1].units, "m s-1");
  EXPECT_EQ(variables[1].role, BOREAS_PROGNOSTIC);
  EXPECT_EQ(variables[0].is_computed, 1);
  EXPECT_EQ(variables[3].is_constant, 1);
  EXPECT_EQ(variables[1].mean, world.reader.statistics().mean[1]);
  EXPECT_EQ(model.coordinates().first[5], world.data.latitude(5));

  auto memory = make<boreas_memory>();
  ASSERT_EQ(boreas_plan_memory(world.checkpoint.c_str(), nullptr, &memory), BOREAS_OK) << boreas_error();
  EXPECT_GT(memory.forecast_bytes, 0);
  EXPECT_GT(memory.training_bytes, memory.forecast_bytes);
  auto options = make<boreas_model_options>();
  std::string log;
  options.log = [](const char* line, void* user) { *static_cast<std::string*>(user) += line; };
  options.log_user = &log;
  options.memory_budget = memory.forecast_bytes - 1;  // chunks make it fit
  const host::Model cut(world.checkpoint, options);
  EXPECT_NE(log.find("opened " + world.checkpoint), std::string::npos);
  EXPECT_NE(log.find(": encoder in 2 and decoder in 2 chunks"), std::string::npos) << log;
  const Fields whole = world.by_the_library(model, world.date(4), 2, world.cells());
  const Fields in_chunks = world.by_the_library(cut, world.date(4), 2, world.cells());
  ASSERT_EQ(in_chunks.size(), whole.size());
  for (size_t lead = 0; lead < whole.size(); ++lead)
    EXPECT_LT(test::relative_error(std::vector<double>(in_chunks[lead].begin(), in_chunks[lead].end()),
                                   std::vector<double>(whole[lead].begin(), whole[lead].end())),
              1e-5);
  options.memory_budget = memory.forecast_bytes;
  log.clear();
  EXPECT_NO_THROW(host::Model(world.checkpoint, options));
  EXPECT_NE(log.find(": encoder in 1 and decoder in 1 chunks"), std::string::npos) << log;
  options.memory_budget = 1000;
  for (const int training : {0, 1}) {
    options.training = training;
    boreas_model* none = nullptr;
    EXPECT_EQ(boreas_model_open(world.checkpoint.c_str(), &options, &none), BOREAS_OUT_OF_MEMORY) << boreas_error();
    EXPECT_EQ(none, nullptr);
  }
}

#ifdef BOREAS_WITH_CUDA
// Arrays on the GPU and a stream of the host, whose work is late: what is queued there must come before and after.
TEST(Api, ArraysOnTheGpuAreUsedWhereTheyAre) {
  BOREAS_SKIP_WITHOUT_GPU();
  const World world;
  auto options = make<boreas_model_options>();
  options.device = BOREAS_CUDA;
  const host::Model model(world.checkpoint, options);
  const Fields expected = world.by_the_library(model, world.date(4), 3, world.cells());
  const Fields on_the_cpu = world.by_the_engine(world.date(4), 6);
  for (size_t lead = 0; lead < expected.size(); ++lead)
    EXPECT_LT(test::relative_error(std::vector<double>(expected[lead].begin(), expected[lead].end()),
                                   std::vector<double>(on_the_cpu[lead].begin(), on_the_cpu[lead].end())),
              1e-5);

  const auto cells = size_t(world.data.num_cells());
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  auto state_options = make<boreas_state_options>();
  state_options.has_stream = 1;
  state_options.stream = stream;
  for (int repetition = 0; repetition < 3; ++repetition) {  // done, recorded, replayed
    host::State state(model, state_options);
    state.begin(world.date(4));
    std::deque<Buffer> arrays;
    std::deque<std::vector<float>> truths;
    const auto array = [&](const std::vector<float>* values) {
      Buffer& made = arrays.emplace_back(Buffer::on(Device::cuda(0), int64_t(cells) * 4, "test"));
      if (values) {
        truths.push_back(*values);
        EXPECT_EQ(cudaMemcpyAsync(made.data(), truths.back().data(), cells * 4, cudaMemcpyHostToDevice, stream),
                  cudaSuccess);
      }
      return static_cast<float*>(made.data());
    };
    const auto on_gpu = [&](const char* name, const float* data) {
      boreas_field field = host::field(name, data, cells);
      field.location = BOREAS_DEVICE_MEMORY;
      return field;
    };
    for (int64_t step = 0; step < 3; ++step) {
      for (const boreas_variable_info& variable : model.variables())
        for (const int64_t date : {state.date(), state.date() - 6 * 3600})
          if (step == 0 ? variable.role != BOREAS_DIAGNOSTIC : variable.name == std::string("dynamic")) {
            const std::vector<float> truth = world.field(variable.name, date);
            state.set(date, on_gpu(variable.name, array(&truth)));
          }
      state.step();
      size_t row = 0;
      for (const char* name : {"a", "p", "b"}) {
        std::vector<float> found(cells), seen(cells);
        float* const data = array(nullptr);
        state.read(state.date(), on_gpu(name, data));
        const boreas_field view = state.view(state.date(), name);
        EXPECT_EQ(view.location, BOREAS_DEVICE_MEMORY);
        ASSERT_EQ(cudaMemcpyAsync(found.data(), data, cells * 4, cudaMemcpyDeviceToHost, stream), cudaSuccess);
        ASSERT_EQ(cudaMemcpyAsync(seen.data(), view.data, cells * 4, cudaMemcpyDeviceToHost, stream), cudaSuccess);
        ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
        const auto* const begin = expected[size_t(2 * step + 1)].data() + row++ * cells;
        EXPECT_EQ(found, std::vector<float>(begin, begin + cells)) << name;
        EXPECT_EQ(seen, found) << name;
      }
    }
    boreas_field wrong = on_gpu("a", truths.front().data());
    EXPECT_EQ(boreas_state_read(state.handle(), state.date(), &wrong), BOREAS_INVALID_ARGUMENT);
    const std::vector<float> bad(cells, NAN);
    state.begin(world.date(4));
    for (const char* name : {"a", "dynamic", "orography", "b"})
      for (const int64_t date : {world.date(3), world.date(4)}) state.set(date, name, world.field(name, date));
    state.set(world.date(4), on_gpu("a", array(&bad)));
    EXPECT_EQ(boreas_state_step(state.handle()), BOREAS_CORRUPT_DATA) << boreas_error();
  }
  cudaStreamDestroy(stream);
}
#endif

// --- what is refused
// -----------------------------------------------------------------------------------------------------

#define EXPECT_REFUSED(call, code, text)                                                    \
  do {                                                                                      \
    EXPECT_EQ(call, code) << boreas_error();                                                \
    EXPECT_NE(std::string(boreas_error()).find(text), std::string::npos) << boreas_error(); \
  } while (false)

TEST(Api, RefusesWhatMakesNoSense) {
  const World world;
  boreas_model* model = nullptr;
  auto options = make<boreas_model_options>();
  EXPECT_REFUSED(boreas_model_open(nullptr, &options, &model), BOREAS_INVALID_ARGUMENT, "checkpoint is null");
  EXPECT_REFUSED(boreas_model_open("no such file", &options, &model), BOREAS_IO, "no such file");
  EXPECT_REFUSED(boreas_model_open(world.checkpoint.c_str(), &options, nullptr), BOREAS_INVALID_ARGUMENT, "null");
  options.struct_size = 0;
  EXPECT_REFUSED(boreas_model_open(world.checkpoint.c_str(), &options, &model), BOREAS_INVALID_ARGUMENT, "struct_size");
  options = make<boreas_model_options>();
  options.device = 7;
  EXPECT_REFUSED(boreas_model_open(world.checkpoint.c_str(), &options, &model), BOREAS_INVALID_ARGUMENT, "device is 7");
  options.device = BOREAS_CPU;
  options.mpi_comm = &options;
  EXPECT_REFUSED(boreas_model_open(world.checkpoint.c_str(), &options, &model),
                 std::string(BOREAS_MPIEXEC).empty() ? BOREAS_UNSUPPORTED : BOREAS_INVALID_ARGUMENT, "MPI");
  options.has_fortran_comm = 1;
  EXPECT_REFUSED(boreas_model_open(world.checkpoint.c_str(), &options, &model), BOREAS_INVALID_ARGUMENT, "both");
  struct {
    boreas_model_options known;
    int64_t unknown;
  } newer{make<boreas_model_options>(), 1};
  newer.known.struct_size = sizeof newer;
  EXPECT_REFUSED(boreas_model_open(world.checkpoint.c_str(), &newer.known, &model), BOREAS_UNSUPPORTED,
                 "does not know");
  newer.unknown = 0;
  ASSERT_EQ(boreas_model_open(world.checkpoint.c_str(), &newer.known, &model), BOREAS_OK) << boreas_error();

  boreas_state* state = nullptr;
  auto state_options = make<boreas_state_options>();
  state_options.has_stream = 1;
  EXPECT_REFUSED(boreas_state_open(model, &state_options, &state), BOREAS_UNSUPPORTED, "stream");
  ASSERT_EQ(boreas_state_open(model, nullptr, &state), BOREAS_OK);
  EXPECT_REFUSED(boreas_state_step(state), BOREAS_WRONG_ORDER, "boreas_state_begin");
  EXPECT_REFUSED(boreas_model_set_cells(model, nullptr, 0), BOREAS_WRONG_ORDER, "before the first is opened");
  EXPECT_REFUSED(boreas_model_save(model, "x.h5"), BOREAS_WRONG_ORDER, "training = 1");
  EXPECT_REFUSED(boreas_training_step(model, nullptr, nullptr), BOREAS_WRONG_ORDER, "training = 1");

  std::vector<float> values(72, 1.0F);
  const int64_t start = world.date(4);
  boreas_field field = host::field("a", values.data(), values.size());
  EXPECT_REFUSED(boreas_state_set(state, start, &field), BOREAS_WRONG_ORDER, "boreas_state_begin");
  EXPECT_REFUSED(boreas_state_begin(state, INT64_MAX), BOREAS_INVALID_ARGUMENT, "out of range");
  ASSERT_EQ(boreas_state_begin(state, start), BOREAS_OK);
  EXPECT_REFUSED(boreas_state_read(state, start, &field), BOREAS_WRONG_ORDER, "boreas_state_step");
  EXPECT_REFUSED(boreas_state_set(state, start, nullptr), BOREAS_INVALID_ARGUMENT, "null");
  const auto refused = [&](boreas_field wrong, int64_t date, int code, const std::string& text) {
    EXPECT_REFUSED(boreas_state_set(state, date, &wrong), code, text);
  };
  const auto with = [&](auto member, auto value) {
    boreas_field wrong = field;
    wrong.*member = value;
    return wrong;
  };
  refused(with(&boreas_field::name, "aa"), start, BOREAS_INVALID_ARGUMENT, "no variable 'aa'");
  refused(with(&boreas_field::name, static_cast<const char*>(nullptr)), start, BOREAS_INVALID_ARGUMENT, "null");
  refused(with(&boreas_field::name, "p"), start, BOREAS_INVALID_ARGUMENT, "diagnostic");
  refused(with(&boreas_field::units, "km h-1"), start, BOREAS_INVALID_ARGUMENT, "but the model has it in 'm s-1'");
  refused(with(&boreas_field::count, 71), start, BOREAS_SHAPE, "71 values; expected 72");
  refused(with(&boreas_field::dtype, 5), start, BOREAS_INVALID_ARGUMENT, "dtype");
  refused(with(&boreas_field::location, 1), start, BOREAS_UNSUPPORTED, "device memory");
  refused(with(&boreas_field::stride, -1), start, BOREAS_INVALID_ARGUMENT, "stride");
  refused(with(&boreas_field::data, static_cast<void*>(nullptr)), start, BOREAS_INVALID_ARGUMENT,
          "data of 'a' is null");
  refused(field, start + 1, BOREAS_INVALID_ARGUMENT, "before the first step it is set for 2001-03-05T00:00:00, ");
  EXPECT_REFUSED(boreas_state_step(state), BOREAS_INVALID_ARGUMENT, "lacks a, dynamic, orography, b: give them");

  // A state with NaN can be mended.
  for (const char* name : {"a", "dynamic", "orography", "b"})
    for (const int64_t date : {world.date(3), start}) {
      const std::vector<float> truth = world.field(name, date);
      boreas_field good = host::field(name, truth.data(), truth.size());
      ASSERT_EQ(boreas_state_set(state, date, &good), BOREAS_OK) << boreas_error();
    }
  const std::vector<float> truth = world.field("a", start);
  values = truth;
  values[7] = NAN;
  ASSERT_EQ(boreas_state_set(state, start, &field), BOREAS_OK);
  EXPECT_REFUSED(boreas_state_step(state), BOREAS_CORRUPT_DATA, "'a' is NaN in 1 of 72 cells");
  values = truth;
  ASSERT_EQ(boreas_state_set(state, start, &field), BOREAS_OK);
  ASSERT_EQ(boreas_state_step(state), BOREAS_OK) << boreas_error();
  EXPECT_REFUSED(boreas_state_read(state, start, &field), BOREAS_INVALID_ARGUMENT, "the last step has no states of");
  boreas_field forcing = with(&boreas_field::name, "dynamic");
  EXPECT_REFUSED(boreas_state_read(state, world.date(5), &forcing), BOREAS_INVALID_ARGUMENT, "it predicts a, p, b");
  refused(field, world.date(5), BOREAS_INVALID_ARGUMENT, "before the first step only");
  EXPECT_REFUSED(boreas_state_step(state), BOREAS_INVALID_ARGUMENT, "lacks dynamic: give it");
  auto view = make<boreas_field>();
  ASSERT_EQ(boreas_state_view(state, world.date(5), "a", &view), BOREAS_OK);
  EXPECT_EQ(boreas_state_read(state, world.date(5), &field), BOREAS_OK);
  EXPECT_EQ(std::memcmp(view.data, values.data(), values.size() * 4), 0);

  // Used after it was closed.
  EXPECT_EQ(boreas_model_close(model), BOREAS_OK);
  EXPECT_REFUSED(boreas_model_close(model), BOREAS_BAD_HANDLE, "it was closed");
  auto info = make<boreas_model_info>();
  EXPECT_REFUSED(boreas_model_describe(model, &info), BOREAS_BAD_HANDLE, "no open model");
  EXPECT_EQ(boreas_state_read(state, world.date(5), &field), BOREAS_OK);  // the state keeps what it needs
  EXPECT_EQ(boreas_state_close(state), BOREAS_OK);
  EXPECT_REFUSED(boreas_state_step(state), BOREAS_BAD_HANDLE, "no open state");
  EXPECT_REFUSED(boreas_state_step(nullptr), BOREAS_BAD_HANDLE, "state is null");
}

TEST(Api, LevelsThatAreMissingAreListed) {
  SmallDataset data = small_data(12);
  data.variables[1].name = "t_500";
  data.variables[4].name = "t_850";
  const World world(small_config(data), data);
  const host::Model model(world.checkpoint);
  int64_t index = 0;
  EXPECT_REFUSED(boreas_model_find(model.handle(), "t_700", &index), BOREAS_INVALID_ARGUMENT,
                 "no 't_700': 't' has the levels 500, 850");
}

template <class Value>
Value pick(std::mt19937& random, std::initializer_list<Value> choices) {
  return choices.begin()[random() % choices.size()];
}

// Random arguments, most of them wrong: whatever happens is a status.
TEST(Api, SurvivesRandomArguments) {
  const World world;
  host::Model model(world.checkpoint);
  host::State state(model);
  std::mt19937 random(7);
  std::vector<double> values(200, 0.5);
  std::map<int, int> seen;
  const int64_t start = world.date(4);
  for (int i = 0; i < 4000; ++i) {
    boreas_field field{};
    field.struct_size =
        pick<size_t>(random, {sizeof field, sizeof field, sizeof field, size_t(0), size_t(16), size_t(40), ~size_t(0)});
    field.name =
        pick<const char*>(random, {"a", "dynamic", "orography", "b", "p", "insolation", "", "nothing", nullptr});
    field.units = pick<const char*>(random, {nullptr, nullptr, "", "K", "m s-1"});
    field.dtype = pick<int>(random, {0, 0, 1, 1, 2, -1, INT32_MAX});
    field.location = pick<int>(random, {0, 0, 0, 1, 2, INT32_MIN});
    field.count = pick<int64_t>(random, {72, 72, 72, 0, -1, 71, INT64_MAX, INT64_MIN});
    field.stride = pick<int64_t>(random, {0, 1, 2, -1, INT64_MAX, INT64_MIN});
    field.data = pick<void*>(random, {values.data(), values.data(), nullptr});
    const int64_t date =
        pick<int64_t>(random, {start, start, world.date(3), world.date(5), world.date(6), 0, -1, INT64_MIN});
    boreas_state* const handle = random() % 8 ? state.handle() : reinterpret_cast<boreas_state*>(uintptr_t(random()));
    const boreas_field* const given = random() % 16 ? &field : nullptr;
    if (field.location == 0 && field.stride > 2) field.stride = 2;
    int status = BOREAS_OK;
    switch (random() % 12) {
      case 0:
        status = boreas_state_begin(handle, date);
        break;
      case 1:
        status = boreas_state_step(handle);
        break;
      case 2:
        status = boreas_state_rollout(handle, pick<int64_t>(random, {1, 2, 0, -5}));
        break;
      case 3:
      case 4:
        status = boreas_state_read(handle, date, given);
        break;
      case 5:
        status = boreas_state_view(handle, date, field.name, random() % 16 ? &field : nullptr);
        break;
      case 6:
        status = boreas_training_set(model.handle(), date, field.count, given);
        break;
      default:
        status = boreas_state_set(handle, date, given);
    }
    ASSERT_EQ(status == BOREAS_OK, *boreas_error() == 0);
    ++seen[status];
  }
  EXPECT_GT(seen[BOREAS_OK], 100);
  EXPECT_GT(seen.size(), 5U);
  EXPECT_EQ(seen[BOREAS_INTERNAL], 0);
}

// A damaged checkpoint is told, or its damage does not matter.
TEST(Api, SurvivesDamagedCheckpoints) {
  const World world(small_config(small_data(12)), small_data(12));
  const std::string whole = test::file_text(world.checkpoint), path = world.folder / "damaged.h5";
  std::mt19937 random(3);
  int num_refused = 0;
  const auto try_open = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
    boreas_model* model = nullptr;
    const int status = boreas_model_open(path.c_str(), nullptr, &model);
    num_refused += status != BOREAS_OK;
    if (status != BOREAS_OK) return *boreas_error() != 0;
    boreas_state* state = nullptr;
    const bool opened = boreas_state_open(model, nullptr, &state) == BOREAS_OK;
    return (!opened || boreas_state_close(state) == BOREAS_OK) && boreas_model_close(model) == BOREAS_OK;
  };
  for (const size_t size : {size_t(0), size_t(7), size_t(100), whole.size() / 3, whole.size() / 2, whole.size() - 1})
    EXPECT_TRUE(try_open(whole.substr(0, size))) << "cut after " << size;
  for (int i = 0; i < 200; ++i) {
    std::string damaged = whole;
    const int num_flips = 1 << random() % 8;
    for (int flip = 0; flip < num_flips; ++flip) damaged[random() % damaged.size()] ^= char(1 << random() % 8);
    EXPECT_TRUE(try_open(damaged)) << "case " << i;
  }
  EXPECT_GT(num_refused, 6);
}

// --- as a package
// --------------------------------------------------------------------------------------------------------

std::pair<int, std::string> run_command(const std::string& command) {
  FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  std::string text;
  char part[4096];
  while (const size_t size = std::fread(part, 1, sizeof part, pipe)) text.append(part, size);
  return {pclose(pipe), text};
}

TEST(Api, OnlyTheInterfaceCanBeSeen) {
  const bool shared = std::string(BOREAS_HOST_LIBRARY).find(".so") != std::string::npos;
  const auto [status, text] =
      run_command(std::string(shared ? "nm -D" : "nm --extern-only") + " --defined-only -P " BOREAS_HOST_LIBRARY);
  ASSERT_EQ(status, 0) << text;
  std::istringstream lines(text);
  int num_found = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.back() == ':') continue;
    ++num_found;
    EXPECT_TRUE(line.starts_with("boreas_")) << line;
  }
  EXPECT_GT(num_found, 20);
}

TEST(Api, HostsRunFromAnInstalledPackage) {
  if (std::string(BOREAS_MPIEXEC).empty()) GTEST_SKIP() << "this build has no MPI";
  if (BOREAS_IS_SANITIZED) GTEST_SKIP() << "hosts without sanitizers cannot link a library with them";
  RunConfig config = test::tiny_config();
  test::TemporaryFolder folder;
  const std::string path = folder / "tiny.h5";
  TrainingStep step(test::tiny_setup(config), Device::cpu());
  step.materialise();
  save_checkpoint(path, step.model(), step.optimizer(), {});

  const auto succeed = [&](const std::string& command) {
    const auto [status, text] = run_command(command);
    EXPECT_EQ(status, 0) << command << "\n" << text;
    return text;
  };
  const std::string installed = folder / "installed", moved = folder / "moved", build = folder / "build";
  succeed("cmake --install " BOREAS_BINARY_DIR " --prefix " + installed);
  fs::rename(installed, moved);
  succeed("cmake -S " BOREAS_SOURCE_DIR "/examples -B " + build + " -DCMAKE_PREFIX_PATH=" + moved);
  succeed("cmake --build " + build);
  EXPECT_NE(succeed(moved + "/bin/boreas --version").find("boreas "), std::string::npos);

  std::map<std::string, std::string> said;
  for (const char* host : {"host_c", "host_cpp", "host_f90"})
    for (const int ranks : {1, 2}) {
      if (!fs::exists(fs::path(build) / host)) continue;  // no Fortran compiler
      said[fmt::format("{} on {}", host, ranks)] =
          succeed(fmt::format("OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                              "OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none "
                              "OMPI_MCA_btl_vader_single_copy_mechanism=none {} -n {} {}/{} {}",
                              BOREAS_MPIEXEC, ranks, build, host, path));
    }
  EXPECT_GE(said.size(), 4U);
  const auto numbers = [](const std::string& text) {
    std::vector<double> found;
    std::istringstream words(text);
    std::string name;
    for (double value = 0; words >> name >> value;) found.push_back(value);
    return found;
  };
  const std::vector<double> expected = numbers(said["host_c on 1"]);
  ASSERT_EQ(expected.size(), 3U) << said["host_c on 1"];
  for (const auto& [host, text] : said) EXPECT_LT(test::relative_error(numbers(text), expected), 1e-6) << host << text;
  const auto [status, text] = run_command(build + "/host_c nowhere");
  EXPECT_NE(status, 0);
  EXPECT_NE(text.find("nowhere: no such checkpoint"), std::string::npos) << text;
}

}  // namespace
}  // namespace boreas
