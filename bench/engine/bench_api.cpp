// What the C interface adds to a step: the same forecast of a tiny model by the engine and by the library.
#include <benchmark/benchmark.h>

#include <boreas.hpp>
#include <cstdlib>

#include "engine/checkpoint.h"
#include "engine/model_state.h"
#include "engine/training_step.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/temporary_folder.h"

namespace boreas {
namespace {

constexpr int64_t kStep = 6 * 3600;

const std::string& checkpoint() {
  static const test::TemporaryFolder folder;
  static const std::string path = [] {
    TrainingStep step(test::tiny_setup(test::tiny_config()), Device::cpu());
    step.materialise();
    const std::string written = folder / "tiny.h5";
    save_checkpoint(written, step.model(), step.optimizer(), {});
    return written;
  }();
  return path;
}

std::vector<float> some_values() { return std::vector<float>(60, 0.5F); }

// One step, its forcing, and one field read.
void BM_StepByTheEngine(benchmark::State& bench) {
  StepModel model(load_setup(checkpoint()), Device::cpu());
  model.parameters().materialise(0);
  load_weights(checkpoint(), model);
  ModelState state(model);
  const std::vector<float> values = some_values();
  std::vector<float> found(60);
  const auto copy = [&](std::span<float> place) { std::copy(values.begin(), values.end(), place.begin()); };
  state.begin(0);
  for (const int64_t v : {0, 1, 3})
    for (const int64_t t : {0, 1}) copy(state.initial(v, t));
  state.step();
  for (auto _ : bench) {
    copy(state.forcing(0, 0));
    state.step();
    state.fetch();
    const Tensor fields = state.fields();
    std::copy_n(fields.row<float>(0), 60, found.begin());
  }
}
BENCHMARK(BM_StepByTheEngine)->Unit(benchmark::kMicrosecond)->MinTime(1)->Repetitions(5);

void BM_StepByTheLibrary(benchmark::State& bench) {
  const host::Model model(checkpoint());
  host::State state(model);
  const std::vector<float> values = some_values();
  std::vector<float> found(60);
  state.begin(0);
  for (const char* name : {"f", "a", "b"})
    for (const int64_t t : {0, 1}) state.set(-t * kStep, name, values);
  state.step();
  for (auto _ : bench) {
    state.set(state.date(), "f", values);
    state.step();
    state.read(state.date(), "a", found);
  }
}
BENCHMARK(BM_StepByTheLibrary)->Unit(benchmark::kMicrosecond)->MinTime(1)->Repetitions(5);

}  // namespace
}  // namespace boreas
