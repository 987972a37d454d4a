// Layer norm against a copy, on the CPU and, where one is visible, on the GPU.
#include "bench/kernels/bench_support.h"
#include "kernels/layer_norm/layer_norm.h"

namespace boreas::bench {
namespace {

struct Sizes {
  int64_t n, c, groups;
};

// `stream` is the type of x, d_residual and d_x: that of the residual stream.
LayerNormForward forward(Bench& b, DType dtype, DType stream, Sizes s) {
  return {.x = b.random(stream, {s.n, s.c}),
          .gamma = b.random(dtype, {s.c / s.groups}),
          .beta = b.random(dtype, {s.c / s.groups}),
          .groups = s.groups,
          .y = b.zeros(dtype, {s.n, s.c}),
          .stats = b.zeros(accumulator_of(dtype), {s.n * s.groups, 2})};
}

LayerNormBackward backward(Bench& b, DType dtype, DType stream, Sizes s, bool with_residual) {
  const LayerNormForward before = forward(b, dtype, stream, s);
  run(b.ctx, before);
  return {.x = before.x,
          .gamma = before.gamma,
          .stats = before.stats,
          .groups = s.groups,
          .d_y = b.random(dtype, {s.n, s.c}),
          .d_residual = with_residual ? b.random(stream, {s.n, s.c}) : Tensor(),
          .d_x = b.zeros(stream, {s.n, s.c}),
          .d_gamma = b.zeros(accumulator_of(dtype), {s.c / s.groups}),
          .d_beta = b.zeros(accumulator_of(dtype), {s.c / s.groups})};
}

std::string name_of(const char* op, const char* device, DType dtype, DType stream, Sizes s) {
  return fmt::format("{}/{}/{}{}/{}x{}/groups:{}", op, device, to_string(dtype),
                     stream == dtype ? "" : fmt::format("+{}", to_string(stream)), s.n, s.c, s.groups);
}

void add_all() {
  constexpr DType f32 = DType::f32, bf16 = DType::bf16;
  for (const Sizes s : {Sizes{10512, 128, 1}, Sizes{10512, 128, 4}, Sizes{40962, 512, 1}}) {
    add(name_of("layer_norm_forward", "cpu", f32, f32, s), [s](Bench& b) { return forward(b, f32, f32, s); });
    add(name_of("layer_norm_backward", "cpu", f32, f32, s), [s](Bench& b) { return backward(b, f32, f32, s, false); });
  }
#ifdef BOREAS_WITH_CUDA
  if (num_cuda_devices() == 0) return;
  for (const auto& [dtype, stream] : {std::pair{f32, f32}, std::pair{bf16, bf16}, std::pair{bf16, f32}})
    for (const Sizes s :
         {Sizes{40962, 512, 1}, Sizes{40962, 1024, 1}, Sizes{542080, 512, 1}, Sizes{542080, 1024, 1},
          Sizes{542080, 1024, 16}, Sizes{542080, 512, 16}, Sizes{542080, 128, 1}, Sizes{542080, 1000, 1}}) {
      const auto add_case = [&, dtype = dtype, stream = stream](const char* op, auto make) {
        add_gpu(name_of(op, "gpu", dtype, stream, s), [=](Bench& b) { return make(b, dtype, stream, s); });
      };
      add_case("layer_norm_forward", forward);
      add_case("layer_norm_backward", [](auto&&... arguments) { return backward(arguments..., false); });
      if (s.groups == 1)
        add_case("layer_norm_backward_residual", [](auto&&... arguments) { return backward(arguments..., true); });
    }
#endif
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  boreas::bench::add_all();
  return boreas::bench::main(argc, argv);
}
