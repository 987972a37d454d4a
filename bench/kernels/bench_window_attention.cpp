// Window attention: FLOP/s by the op's own formula, which counts only pairs inside the window, on the CPU and, where
// one is visible, on the GPU, there with each kernel that supports the case.
#include "bench/kernels/bench_support.h"
#include "kernels/window_attention/window_attention.h"

namespace boreas::bench {
namespace {

using Kernel = WindowAttentionKernel;

struct Case {
  DType dtype;
  int64_t length, num_heads, head_size, window;
  Kernel kernel = Kernel::automatic;
};

// Queries, keys and values are slices of one matrix, as a layer makes them.
WindowAttentionForward forward(Bench& b, const Case& c) {
  const int64_t channels = c.num_heads * c.head_size;
  const Tensor qkv = b.random(c.dtype, {c.length, 3 * channels});
  return {.q = qkv.columns({0, channels}),
          .k = qkv.columns({channels, 2 * channels}),
          .v = qkv.columns({2 * channels, 3 * channels}),
          .num_heads = c.num_heads,
          .window = c.window,
          .kernel = c.kernel,
          .o = b.zeros(c.dtype, {c.length, channels}),
          .stats = b.zeros(accumulator_of(c.dtype), {c.length, c.num_heads})};
}

WindowAttentionBackward backward(Bench& b, const Case& c) {
  const WindowAttentionForward before = forward(b, c);
  run(b.ctx, before);
  const int64_t channels = c.num_heads * c.head_size;
  const Tensor d_qkv = b.zeros(c.dtype, {c.length, 3 * channels});
  return {.q = before.q,
          .k = before.k,
          .v = before.v,
          .o = before.o,
          .stats = before.stats,
          .num_heads = c.num_heads,
          .window = c.window,
          .kernel = c.kernel,
          .d_o = b.random(c.dtype, {c.length, channels}),
          .d_q = d_qkv.columns({0, channels}),
          .d_k = d_qkv.columns({channels, 2 * channels}),
          .d_v = d_qkv.columns({2 * channels, 3 * channels})};
}

std::string name_of(const char* op, const char* device, const Case& c) {
  return fmt::format("{}/{}/{}/{}x{}x{}/window:{}", op, device, to_string(c.dtype), c.length, c.num_heads, c.head_size,
                     c.window);
}

#ifdef BOREAS_WITH_CUDA
bool is_supported(Case c) {
  c.length = 64;
  Bench b(Device::cuda(0));
  try {
    run(b.ctx, backward(b, c));
    return true;
  } catch (const Error&) {
    return false;
  }
}
#endif

void add_all() {
  for (const auto& [length, heads, size, window] :
       {std::array{642, 8, 16, -1}, std::array{2562, 8, 16, 256}, std::array{2562, 8, 16, -1},
        std::array{2562, 4, 64, 512}, std::array{10944, 4, 64, 512}}) {
    const Case c{DType::f32, length, heads, size, window};
    add(name_of("window_attention_forward", "cpu", c), [c](Bench& b) { return forward(b, c); });
    add(name_of("window_attention_backward", "cpu", c), [c](Bench& b) { return backward(b, c); });
  }
#ifdef BOREAS_WITH_CUDA
  if (num_cuda_devices() == 0) return;
  const auto add_kernels = [](Case c, std::initializer_list<Kernel> kernels) {
    for (const Kernel kernel : kernels) {
      c.kernel = kernel;
      if (!is_supported(c)) continue;
      const auto name = [&](const char* op) { return fmt::format("{}/{}", name_of(op, "gpu", c), to_string(kernel)); };
      add_gpu(name("window_attention_forward"), [c](Bench& b) { return forward(b, c); });
      // In memory that grows with the square of the length.
      if (kernel == Kernel::cudnn && c.length > 10000) continue;
      add_gpu(name("window_attention_backward"), [c](Bench& b) { return backward(b, c); });
    }
  };
  const auto tensor_cores = {Kernel::hopper, Kernel::tensor_cores};
  for (const int64_t size : {64, 32})
    for (const int64_t window : {512, 1120}) add_kernels({DType::bf16, 40320, 16, size, window}, tensor_cores);
  add_kernels({DType::bf16, 40333, 16, 64, 512}, tensor_cores);
  add_kernels({DType::bf16, 40320, 8, 128, 512}, tensor_cores);
  add_kernels({DType::bf16, 8192, 16, 64, -1}, tensor_cores);
  for (const int64_t window : {512, 1120}) add_kernels({DType::bf16, 40320, 16, 64, window}, {Kernel::cudnn});
  add_kernels({DType::bf16, 10000, 16, 64, 512}, {Kernel::hopper, Kernel::generic, Kernel::cudnn});
  add_kernels({DType::f32, 10000, 16, 64, 512}, {Kernel::generic});
#endif
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  boreas::bench::add_all();
  return boreas::bench::main(argc, argv);
}
