// Activations against a copy, on the CPU and, where one is visible, on the GPU.
#include "bench/kernels/bench_support.h"
#include "kernels/activation/activation.h"

namespace boreas::bench {
namespace {

struct Sizes {
  int64_t n, c;
};

GeluForward gelu_forward(Bench& b, DType dtype, Sizes s) {
  return {.x = b.random(dtype, {s.n, s.c}), .y = b.zeros(dtype, {s.n, s.c})};
}

GeluBackward gelu_backward(Bench& b, DType dtype, Sizes s) {
  return {.x = b.random(dtype, {s.n, s.c}), .d_y = b.random(dtype, {s.n, s.c}), .d_x = b.zeros(dtype, {s.n, s.c})};
}

// Gates and values lie side by side, as the layer before gives them.
GatedForward gated_forward(Bench& b, DType dtype, Sizes s) {
  const Tensor before = b.random(dtype, {s.n, 2 * s.c});
  return {.gate = before.columns({0, s.c}), .value = before.columns({s.c, 2 * s.c}), .y = b.zeros(dtype, {s.n, s.c})};
}

GatedBackward gated_backward(Bench& b, DType dtype, Sizes s) {
  const GatedForward forward = gated_forward(b, dtype, s);
  return {.gate = forward.gate,
          .value = forward.value,
          .d_y = b.random(dtype, {s.n, s.c}),
          .d_gate = forward.gate,
          .d_value = forward.value};
}

template <class Add>
void add_cases(Add&& add_case, const char* device, DType dtype, Sizes s) {
  const auto name = [&](const char* op) {
    return fmt::format("{}/{}/{}/{}x{}", op, device, to_string(dtype), s.n, s.c);
  };
  add_case(name("gelu_forward"), [=](Bench& b) { return gelu_forward(b, dtype, s); });
  add_case(name("gelu_backward"), [=](Bench& b) { return gelu_backward(b, dtype, s); });
  add_case(name("silu_gated_forward"), [=](Bench& b) { return gated_forward(b, dtype, s); });
  add_case(name("silu_gated_backward"), [=](Bench& b) { return gated_backward(b, dtype, s); });
}

void add_all() {
  add_cases([](const std::string& name, auto make) { add(name, make); }, "cpu", DType::f32, {10512, 512});
#ifdef BOREAS_WITH_CUDA
  if (num_cuda_devices() == 0) return;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Sizes s : {Sizes{542080, 2048}, Sizes{40962, 2048}, Sizes{40962, 4096}})
      add_cases([](const std::string& name, auto make) { add_gpu(name, make); }, "gpu", dtype, s);
#endif
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  boreas::bench::add_all();
  return boreas::bench::main(argc, argv);
}
