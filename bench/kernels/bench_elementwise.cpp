// Ops that are bound by memory, against a copy: on the CPU and, where one is visible, on the GPU.
#include <numeric>

#include "bench/kernels/bench_support.h"
#include "kernels/activation/activation.h"
#include "kernels/adamw/adamw.h"
#include "kernels/bounding/bounding.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/loss/loss.h"
#include "kernels/reduce/reduce.h"

namespace boreas::bench {
namespace {

constexpr int64_t kRows = 10512, kColumns = 512;

Tensor matrix(Bench& b) { return b.random(DType::f32, {kRows, kColumns}); }

Tensor shuffled_ids(Bench& b, int64_t num_rows) {
  std::vector<int32_t> ids(num_rows);
  for (int64_t i = 0; i < num_rows; ++i) ids[i] = int32_t(i * 7919 % num_rows);  // 7919 is prime to all num_rows here
  const Tensor tensor = b.zeros(DType::i32, {num_rows});
  copy_bytes(b.ctx.compute(), tensor.data(), tensor.device(), ids.data(), Device::cpu(), tensor.bytes());
  b.ctx.compute().synchronize();
  return tensor;
}

void add_cpu() {
  add("add", [](Bench& b) { return Add{.a = matrix(b), .b = matrix(b), .y = matrix(b)}; });
  add("copy", [](Bench& b) { return Copy{.x = matrix(b), .y = matrix(b)}; });
  add("gelu_forward", [](Bench& b) { return GeluForward{.x = matrix(b), .y = matrix(b)}; });
  add("gelu_backward", [](Bench& b) { return GeluBackward{.x = matrix(b), .d_y = matrix(b), .d_x = matrix(b)}; });
  for (const Gate kind : {Gate::silu, Gate::gelu}) {
    const std::string suffix = "/" + std::string(to_string(kind));
    add("gated_forward" + suffix,
        [kind](Bench& b) { return GatedForward{.kind = kind, .gate = matrix(b), .value = matrix(b), .y = matrix(b)}; });
    add("gated_backward" + suffix, [kind](Bench& b) {
      return GatedBackward{.kind = kind,
                           .gate = matrix(b),
                           .value = matrix(b),
                           .d_y = matrix(b),
                           .d_gate = matrix(b),
                           .d_value = matrix(b)};
    });
  }
  add("gather_rows",
      [](Bench& b) { return GatherRows{.x = matrix(b), .ids = shuffled_ids(b, kRows), .y = matrix(b)}; });
  add("scatter_add_rows",
      [](Bench& b) { return ScatterAddRows{.x = matrix(b), .ids = shuffled_ids(b, kRows), .y = matrix(b)}; });
  add("sum_of_squares", [](Bench& b) { return SumOfSquares{.x = matrix(b), .out = b.zeros(DType::f64, {1})}; });
  add("adamw", [](Bench& b) {
    return AdamW{.value = matrix(b),
                 .grad = matrix(b),
                 .first_moment = b.zeros(DType::f32, {kRows, kColumns}),
                 .second_moment = b.zeros(DType::f32, {kRows, kColumns}),
                 .clip_value = 32};
  });
  add("weighted_loss/mse", [](Bench& b) {
    return WeightedLoss{.prediction = b.random(DType::f32, {kRows, 80}),
                        .target = b.random(DType::f32, {kRows, 80}),
                        .node_weights = b.random(DType::f32, {kRows}),
                        .column_weights = b.random(DType::f32, {80}),
                        .loss = b.zeros(DType::f32, {1}),
                        .d_prediction = b.zeros(DType::f32, {kRows, 80})};
  });
}

#ifdef BOREAS_WITH_CUDA
// The cells of N320; 2 x 101 variables and 12 forcings go in, 89 variables come out.
constexpr int64_t kCells = 542080, kFields = 101, kInputs = 214, kOutputs = 89;

struct Lists {
  std::vector<int32_t> fields, known, outputs;
  std::vector<double> ones, zeros, nans;
  Lists() : fields(kFields), known(kOutputs - 5), outputs(kOutputs - 5), ones(kFields, 2), zeros(kFields, 1) {
    std::iota(fields.begin(), fields.end(), 0);
    std::iota(known.begin(), known.end(), 0);
    std::iota(outputs.begin(), outputs.end(), 0);
    std::swap(known[3], known[50]);  // not a run
    nans.assign(kFields, std::numeric_limits<double>::quiet_NaN());
  }
};
const Lists& lists() {
  static const Lists instance;
  return instance;
}

// The columns of an input that are predicted: only what is used is counted as bytes.
Tensor latest_known(Bench& b) { return b.random(DType::f32, {kCells, kInputs}).columns({110, 110 + kOutputs - 5}); }

std::string name_of(const char* op, DType dtype, int64_t rows, int64_t cols) {
  return fmt::format("{}/gpu/{}/{}x{}", op, to_string(dtype), rows, cols);
}

void add_gpu_maps(DType t, int64_t c) {
  add_gpu(name_of("add", t, kCells, c), [=](Bench& b) {
    return Add{.a = b.random(t, {kCells, c}), .b = b.random(t, {kCells, c}), .y = b.zeros(t, {kCells, c})};
  });
  add_gpu(name_of("copy", t, kCells, c), [=](Bench& b) {
    return Copy{.x = b.random(t, {kCells, c}), .y = b.zeros(t, {kCells, c})};
  });
  add_gpu(name_of("copy_slice", t, kCells, c), [=](Bench& b) {
    return Copy{.x = b.random(t, {kCells, c}), .y = b.zeros(t, {kCells, c + 12}).columns({12, c + 12})};
  });
  add_gpu(name_of("copy_to_bf16", t, kCells, c), [=](Bench& b) {
    return Copy{.x = b.random(DType::f32, {kCells, c}), .y = b.zeros(DType::bf16, {kCells, c})};
  });
  add_gpu(name_of("copy_slice_to_bf16", t, kCells, c), [=](Bench& b) {
    return Copy{.x = b.random(DType::f32, {kCells, c}), .y = b.zeros(DType::bf16, {kCells, c + 12}).columns({0, c})};
  });
  add_gpu(name_of("gather_rows", t, kCells, c), [=](Bench& b) {
    return GatherRows{.x = b.random(t, {kCells, c}), .ids = shuffled_ids(b, kCells), .y = b.zeros(t, {kCells, c})};
  });
  add_gpu(name_of("scatter_add_rows", t, kCells, c), [=](Bench& b) {
    return ScatterAddRows{
        .x = b.random(t, {kCells, c}), .ids = shuffled_ids(b, kCells), .y = b.zeros(DType::f32, {kCells, c})};
  });
  add_gpu(name_of("fill", t, kCells, c), [=](Bench& b) { return Fill{.y = b.zeros(t, {kCells, c}), .value = 0}; });
}

void add_gpu_fields() {
  for (const DType t : {DType::f32, DType::bf16}) {
    add_gpu(name_of("normalise_fields", t, kCells, kFields), [=](Bench& b) {
      return NormaliseFields{.fields = b.random(DType::f32, {kFields, kCells}),
                             .mul = lists().ones,
                             .add = lists().zeros,
                             .fill = lists().nans,
                             .columns = lists().fields,
                             .y = b.zeros(t, {kCells, kInputs}).columns({0, kFields})};
    });
    add_gpu(name_of("normalise_fields/contiguous", t, kCells, kFields), [=](Bench& b) {
      return NormaliseFields{.fields = b.random(DType::f32, {kFields, kCells}),
                             .mul = lists().ones,
                             .add = lists().zeros,
                             .fill = lists().nans,
                             .columns = lists().fields,
                             .y = b.zeros(t, {kCells, kFields})};
    });
    add_gpu(name_of("denormalise_fields", t, kCells, kFields), [=](Bench& b) {
      return DenormaliseFields{.x = b.random(t, {kCells, kFields}),
                               .mul = lists().ones,
                               .add = lists().zeros,
                               .columns = lists().fields,
                               .fields = b.zeros(DType::f32, {kFields, kCells})};
    });
  }
  add_gpu(name_of("add_prognostic", DType::f32, kCells, kOutputs), [](Bench& b) {
    return AddPrognostic{.x = latest_known(b),
                         .delta = b.random(DType::f32, {kCells, kOutputs}),
                         .input_columns = lists().known,
                         .output_columns = lists().outputs,
                         .y = b.zeros(DType::f32, {kCells, kOutputs})};
  });
  add_gpu(name_of("add_columns", DType::f32, kCells, kOutputs), [](Bench& b) {
    return AddColumns{.x = latest_known(b),
                      .x_columns = lists().known,
                      .y = b.zeros(DType::f32, {kCells, kOutputs}).columns({0, kOutputs - 5}),
                      .y_columns = lists().outputs};
  });
  const auto rule = [] {
    return BoundingRule{.kind = BoundingKind::relu, .columns = std::span(lists().outputs).first(8)};
  };
  add_gpu(name_of("bounding_forward", DType::f32, kCells, 8), [=](Bench& b) {
    return BoundingForward{.rule = rule(), .y = b.random(DType::f32, {kCells, kOutputs}).columns({0, 8})};
  });
  add_gpu(name_of("bounding_backward", DType::f32, kCells, 8), [=](Bench& b) {
    return BoundingBackward{
        .rule = rule(), .y_before = b.random(DType::f32, {kCells, 8}), .d_y = b.random(DType::f32, {kCells, kOutputs})};
  });
}

void add_gpu_losses() {
  for (const DType d : {DType::f32, DType::bf16})
    for (const int64_t num_losses : {int64_t{1}, kOutputs})
      add_gpu(name_of(num_losses > 1 ? "weighted_loss/by_column" : "weighted_loss/mse", d, kCells, kOutputs),
              [=](Bench& b) {
                return WeightedLoss{.prediction = b.random(DType::f32, {kCells, kOutputs}),
                                    .target = b.random(DType::f32, {kCells, kOutputs}),
                                    .node_weights = b.random(DType::f32, {kCells}),
                                    .column_weights = b.random(DType::f32, {kOutputs}),
                                    .loss = b.zeros(DType::f32, {num_losses}),
                                    .d_prediction = b.zeros(d, {kCells, kOutputs})};
              });
  for (const int64_t members : {2, 4, 8})
    add_gpu(fmt::format("crps_loss/gpu/f32/{}x{}x{}", members, kCells / 4, kOutputs), [=](Bench& b) {
      return CrpsLoss{.prediction = b.random(DType::f32, {members * kCells / 4, kOutputs}),
                      .target = b.random(DType::f32, {kCells / 4, kOutputs}),
                      .node_weights = b.random(DType::f32, {kCells / 4}),
                      .column_weights = b.random(DType::f32, {kOutputs}),
                      .num_members = members,
                      .loss = b.zeros(DType::f32, {1}),
                      .d_prediction = b.zeros(DType::f32, {members * kCells / 4, kOutputs})};
    });
}

void add_gpu_updates() {
  for (const int64_t size : {int64_t{100000}, int64_t{250000000}}) {
    const std::string suffix = fmt::format("/gpu/{}", size);
    for (const bool stored : {false, true})
      add_gpu((stored ? "adamw_bf16" : "adamw") + suffix, [=](Bench& b) {
        return AdamW{.value = b.random(DType::f32, {size}),
                     .grad = b.random(DType::f32, {size}),
                     .first_moment = b.zeros(DType::f32, {size}),
                     .second_moment = b.zeros(DType::f32, {size}),
                     .stored = stored ? b.zeros(DType::bf16, {size}) : Tensor(),
                     .clip_value = 32};
      });
    add_gpu("sum_of_squares" + suffix,
            [=](Bench& b) { return SumOfSquares{.x = b.random(DType::f32, {size}), .out = b.zeros(DType::f64, {1})}; });
    add_gpu("count_non_finite" + suffix, [=](Bench& b) {
      return CountNonFinite{.x = b.random(DType::f32, {size}), .out = b.zeros(DType::i64, {1})};
    });
    add_gpu("blend" + suffix, [=](Bench& b) {
      return Blend{.x = b.random(DType::f32, {size}), .weight = 0.125, .y = b.random(DType::f32, {size})};
    });
  }
}

void add_all_gpu() {
  if (num_cuda_devices() == 0) return;
  for (const DType t : {DType::f32, DType::bf16})
    for (const int64_t c : {int64_t{202}, int64_t{89}, int64_t{512}, int64_t{1024}}) add_gpu_maps(t, c);
  add_gpu_fields();
  add_gpu_losses();
  add_gpu_updates();
}
#endif

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  boreas::bench::add_cpu();
#ifdef BOREAS_WITH_CUDA
  boreas::bench::add_all_gpu();
#endif
  return boreas::bench::main(argc, argv);
}
