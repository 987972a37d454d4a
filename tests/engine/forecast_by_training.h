// A forecast by the calls that training makes: what forecasts are compared with, bit by bit.
#pragma once

#include <vector>

#include "engine/step_model.h"
#include "io/dataset_reader.h"

namespace boreas::test {

/// A window of the dataset as it is stored, of this rank's cells: the dates first .. first + num_times - 1.
struct StoredWindow {
  Buffer memory;
  FieldWindow window;
  StoredWindow(const StepModel& model, const DatasetReader& reader, int64_t first, int64_t num_times) {
    const int64_t size = reader.num_variables() * model.num_cells();
    std::vector<float> values(size_t(size * num_times));
    for (int64_t t = 0; t < num_times; ++t) reader.read(first + t, model.cells(), values.data() + t * size);
    memory = Buffer::on(model.device(), size * num_times * 4, "test");
    copy_now(memory.data(), model.device(), values.data(), Device::cpu(), memory.bytes());
    window.fields = memory.tensor(DType::f32, {1, num_times, reader.num_variables(), model.num_cells()});
  }
};

/// By lead, then [V_o, cells]: of T_i input states from the dataset, whose date `start` is the last, num_steps times
/// forward and advance, with the forcings that the dataset holds.
inline std::vector<std::vector<float>> forecast_by_training(const StepModel& model, const DatasetReader& reader,
                                                            int64_t start, int64_t num_steps) {
  const ModelShape& shape = model.network().shape();
  const int64_t num_times = shape.num_output_steps, size = shape.num_outputs * model.num_cells();
  const StoredWindow stored(model, reader, start - shape.num_input_steps + 1,
                            shape.num_input_steps + num_times * num_steps);
  Arena arena(Buffer::on(model.device(), int64_t{64} << 20, "test"));
  Context ctx(model.device(), arena);
  Tensor x = ctx.alloc(Keep::saved, model.state_dtype(), model.input_shape(1));
  Tensor x_next = ctx.alloc(Keep::saved, model.state_dtype(), model.input_shape(1));
  const Tensor y = ctx.alloc(Keep::saved, model.state_dtype(), model.output_shape(1));
  const Tensor fields = ctx.alloc(Keep::saved, DType::f32, {shape.num_outputs, model.num_cells()});
  std::vector<std::vector<float>> found;
  model.start(ctx, stored.window, x);
  for (int64_t step = 0; step < num_steps; ++step) {
    if (step > 0) {
      model.advance(ctx, x, y, stored.window, shape.num_input_steps + num_times * (step - 1), x_next);
      std::swap(x, x_next);
    }
    model.network().forward(ctx, {.x = x}, {.y = y}, nullptr);
    for (int64_t t = 0; t < num_times; ++t) {
      model.physical(ctx, y, t, fields);
      ctx.compute().synchronize();
      copy_now(found.emplace_back(size_t(size)).data(), Device::cpu(), fields.data(), model.device(), fields.bytes());
    }
  }
  arena.rewind(Keep::saved, {});
  return found;
}

}  // namespace boreas::test
