// Layer norm against a copy, on the CPU and, where one is visible, on the GPU.
#include "bench/kernels/bench_support.h"
#include "kernels/layer_norm/layer_norm.h"

namespace boreas::bench {
namespace {

struct Sizes {
  int64_t n, c, groups;
};

LayerNormForward forward(Bench& b, DType dtype, Sizes s) {
  return {.x = b.random(dtype, {s.n, s.c}),
          .gamma = b.random(dtype, {s.c / s.groups}),
          .beta = b.random(dtype, {s.c / s.groups}),
          .groups = s.groups,
          .y = b.zeros(dtype, {s.n, s.c}),
          .stats = b.zeros(accumulator_of(dtype), {s.n * s.groups, 2})};
}

LayerNormBackward backward(Bench& b, DType dtype, Sizes s) {
  const LayerNormForward before = forward(b, dtype, s);
  run(b.ctx, before);
  return {.x = before.x,
          .gamma = before.gamma,
          .stats = before.stats,
          .groups = s.groups,
          .d_y = b.random(dtype, {s.n, s.c}),
          .d_x = b.zeros(dtype, {s.n, s.c}),
          .d_gamma = b.zeros(accumulator_of(dtype), {s.c / s.groups}),
          .d_beta = b.zeros(accumulator_of(dtype), {s.c / s.groups})};
}

std::string name_of(const char* op, const char* device, DType dtype, Sizes s) {
  return fmt::format("{}/{}/{}/{}x{}/groups:{}", op, device, to_string(dtype), s.n, s.c, s.groups);
}

void add_all() {
  for (const Sizes s : {Sizes{10512, 128, 1}, Sizes{10512, 128, 4}, Sizes{40962, 512, 1}}) {
    add(name_of("layer_norm_forward", "cpu", DType::f32, s), [s](Bench& b) { return forward(b, DType::f32, s); });
    add(name_of("layer_norm_backward", "cpu", DType::f32, s), [s](Bench& b) { return backward(b, DType::f32, s); });
  }
#ifdef BOREAS_WITH_CUDA
  if (num_cuda_devices() == 0) return;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Sizes s : {Sizes{40962, 1024, 1}, Sizes{542080, 1024, 1}, Sizes{542080, 1024, 16}, Sizes{542080, 512, 1},
                          Sizes{542080, 128, 1}, Sizes{542080, 1000, 1}}) {
      add_gpu(name_of("layer_norm_forward", "gpu", dtype, s), [=](Bench& b) { return forward(b, dtype, s); });
      add_gpu(name_of("layer_norm_backward", "gpu", dtype, s), [=](Bench& b) { return backward(b, dtype, s); });
    }
#endif
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  boreas::bench::add_all();
  return boreas::bench::main(argc, argv);
}
