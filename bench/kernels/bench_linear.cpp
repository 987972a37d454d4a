// Linear layers of the sizes that models use, against the matrix product that the machine can do at best.
#include "bench/kernels/bench_support.h"
#include "kernels/linear/linear.h"

namespace boreas::bench {
namespace {

struct Sizes {
  int64_t n, k, m;
};
constexpr Sizes kSizes[] = {{10512, 128, 128}, {10512, 128, 512}, {10512, 512, 128}, {10512, 20, 128},
                            {10512, 128, 2},   {2562, 128, 512},  {642, 256, 1024}};

void add_all() {
  for (const auto [n, k, m] : kSizes) {
    const std::string sizes = fmt::format("{}x{}x{}", n, k, m);
    add("linear_forward/" + sizes, [n = n, k = k, m = m](Bench& b) {
      return LinearForward{.x = b.random(DType::f32, {n, k}),
                           .weight = b.random(DType::f32, {m, k}),
                           .bias = b.random(DType::f32, {m}),
                           .y = b.zeros(DType::f32, {n, m})};
    });
    add("linear_backward/" + sizes, [n = n, k = k, m = m](Bench& b) {
      return LinearBackward{.x = b.random(DType::f32, {n, k}),
                            .weight = b.random(DType::f32, {m, k}),
                            .d_y = b.random(DType::f32, {n, m}),
                            .d_x = b.zeros(DType::f32, {n, k}),
                            .d_weight = b.zeros(DType::f32, {m, k}),
                            .d_bias = b.zeros(DType::f32, {m})};
    });
  }
}

#ifdef BOREAS_WITH_CUDA
LinearForward gpu_forward(Bench& b, Sizes s) {
  return {.x = b.random(DType::bf16, {s.n, s.k}),
          .weight = b.random(DType::bf16, {s.m, s.k}),
          .bias = b.random(DType::bf16, {s.m}),
          .y = b.zeros(DType::bf16, {s.n, s.m})};
}

// Columns of a matrix with rows of a multiple of 8 elements: aligned to 16 bytes, as products like it.
Tensor padded(Bench& b, int64_t rows, int64_t cols) {
  return b.random(DType::bf16, {rows, (cols + 7) / 8 * 8}).columns({0, cols});
}

// Layers of models on N320 (542,080 nodes) with icosahedron 6 (40,962) or O96 (40,320) inside, in bf16.
void add_gpu_cases() {
  if (num_cuda_devices() == 0) return;
  for (const Sizes s :
       {Sizes{542080, 226, 512}, Sizes{542080, 512, 89}, Sizes{542080, 512, 512}, Sizes{542080, 512, 1536},
        Sizes{542080, 1024, 1024}, Sizes{40962, 512, 512}, Sizes{40962, 512, 1536}, Sizes{40962, 1024, 3072},
        Sizes{542080, 512, 2048}, Sizes{542080, 1024, 4096}, Sizes{40962, 512, 2048}, Sizes{40962, 1024, 4096}}) {
    const std::string sizes = fmt::format("/gpu/bf16/{}x{}x{}", s.n, s.k, s.m);
    const bool mlp = s.m == 4 * s.k;  // the two layers of an MLP: k -> m, GELU, m -> k
    add_gpu("linear_forward" + sizes, [=](Bench& b) { return gpu_forward(b, s); });
    if (s.k % 8 != 0)
      add_gpu("linear_forward_padded" + sizes, [=](Bench& b) {
        LinearForward op = gpu_forward(b, s);
        op.x = padded(b, s.n, s.k);
        op.weight = padded(b, s.m, s.k);
        return op;
      });
    if (s.m % 8 != 0)
      add_gpu("linear_forward_padded" + sizes, [=](Bench& b) {
        LinearForward op = gpu_forward(b, s);
        op.y = padded(b, s.n, s.m);
        return op;
      });
    if (s.k % 8 != 0)  // of the trainable columns alone
      add_gpu("linear_d_x_of_4_columns" + sizes, [=](Bench& b) {
        return LinearBackward{.weight = b.random(DType::bf16, {s.m, s.k}).columns({s.k - 4, s.k}),
                              .d_y = b.random(DType::bf16, {s.n, s.m}),
                              .d_x = b.zeros(DType::bf16, {s.n, 4})};
      });
    add_gpu("linear_d_x" + sizes, [=](Bench& b) {
      return LinearBackward{.weight = b.random(DType::bf16, {s.m, s.k}),
                            .d_y = b.random(DType::bf16, {s.n, s.m}),
                            .d_x = b.zeros(DType::bf16, {s.n, s.k})};
    });
    if (mlp)
      add_gpu("linear_residual" + sizes, [=](Bench& b) {
        LinearForward op = gpu_forward(b, {s.n, s.m, s.k});
        op.residual = b.random(DType::bf16, {s.n, s.k});
        return op;
      });
    for (const auto& [name, epilogue] :
         {std::pair{"separate", LinearEpilogue::separate}, std::pair{"fused", LinearEpilogue::fused}}) {
      const auto add_with = [&, epilogue = epilogue](const char* op, auto make) {
        add_gpu(fmt::format("{}{}/{}", op, sizes, name), [=](Bench& b) {
          auto out = make(b);
          out.epilogue = epilogue;
          return out;
        });
      };
      add_with("linear_d_weight", [=](Bench& b) {
        return LinearBackward{.x = b.random(DType::bf16, {s.n, s.k}),
                              .d_y = b.random(DType::bf16, {s.n, s.m}),
                              .d_weight = b.zeros(DType::f32, {s.m, s.k}),
                              .d_bias = b.zeros(DType::f32, {s.m})};
      });
      if (!mlp) continue;
      add_with("linear_gelu", [=](Bench& b) {
        LinearForward op = gpu_forward(b, s);
        op.activation = Activation::gelu;
        op.pre_activation = b.zeros(DType::bf16, {s.n, s.m});
        return op;
      });
      add_with("linear_d_x_through_gelu", [=](Bench& b) {
        return LinearBackward{.weight = b.random(DType::bf16, {s.k, s.m}),
                              .d_y = b.random(DType::bf16, {s.n, s.k}),
                              .pre_activation = b.random(DType::bf16, {s.n, s.m}),
                              .d_x = b.zeros(DType::bf16, {s.n, s.m})};
      });
    }
  }
}
#endif

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  boreas::bench::add_all();
#ifdef BOREAS_WITH_CUDA
  boreas::bench::add_gpu_cases();
#endif
  return boreas::bench::main(argc, argv);
}
