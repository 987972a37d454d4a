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

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) {
  boreas::bench::add_all();
  return boreas::bench::main(argc, argv);
}
