// Ops that are bound by memory, against a copy.
#include "bench/kernels/bench_support.h"
#include "kernels/activation/activation.h"
#include "kernels/adamw/adamw.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/loss/loss.h"
#include "kernels/reduce/reduce.h"

namespace boreas::bench {
namespace {

constexpr int64_t kRows = 10512, kColumns = 512;

Tensor matrix(Bench& b) { return b.random(DType::f32, {kRows, kColumns}); }

Tensor shuffled_ids(Bench& b) {
  const Tensor ids = b.zeros(DType::i32, {kRows});
  for (int64_t i = 0; i < kRows; ++i) ids.as<int32_t>()[i] = int32_t(i * 7919 % kRows);  // 7919 is prime to kRows
  return ids;
}

void add_all() {
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
  add("gather_rows", [](Bench& b) { return GatherRows{.x = matrix(b), .ids = shuffled_ids(b), .y = matrix(b)}; });
  add("scatter_add_rows",
      [](Bench& b) { return ScatterAddRows{.x = matrix(b), .ids = shuffled_ids(b), .y = matrix(b)}; });
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

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  boreas::bench::add_all();
  return boreas::bench::main(argc, argv);
}
