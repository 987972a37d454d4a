// The layer norm kernels of the GPU, run on the CPU.
#include <gtest/gtest.h>

#include "kernels/layer_norm/layer_norm_kernels.cuh"
#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

struct Sizes {
  int64_t n, c, groups;
};
struct Types {
  DType storage, x, d_x;
};
constexpr Sizes kSizes[] = {{7, 5, 1},     {37, 24, 1},  {40, 192, 8}, {65, 128, 1},
                            {20, 1024, 1}, {9, 1000, 1}, {3, 26, 2}};
constexpr Types kTypes[] = {{DType::f32, DType::f32, DType::f32},
                            {DType::bf16, DType::bf16, DType::bf16},
                            {DType::bf16, DType::f32, DType::f32},
                            {DType::bf16, DType::f32, DType::bf16},
                            {DType::bf16, DType::bf16, DType::f32}};

TEST(LayerNormEmulated, MatchesTheCpuInDouble) {
  for (const Types types : kTypes)
    for (const Sizes sizes : kSizes)
      for (const bool optional : {false, true}) {
        SCOPED_TRACE(testing::Message() << to_string(types.storage) << " " << to_string(types.x) << " "
                                        << to_string(types.d_x) << " " << sizes.n << " x " << sizes.c << " in "
                                        << sizes.groups << (optional ? ", with options" : ""));
        const auto [n, c, groups] = sizes;
        Workspace w;
        // A little wider than c, so that rows are strided; aligned where c is.
        const auto wide = [&, n = n, c = c](const Tensor& from) { return from.columns({0, c}); };
        const auto matrix = [&, n = n, c = c](DType dtype) { return wide(w.random(dtype, {n, c + 8})); };
        const int64_t width = c / groups;
        LayerNormForward forward{.x = matrix(types.x),
                                 .gamma = w.random(types.storage, {width}),
                                 .groups = groups,
                                 .eps = 1e-3,
                                 .y = matrix(types.storage),
                                 .stats = w.output(DType::f32, {n * groups, 2})};
        LayerNormBackward backward{.x = forward.x,
                                   .gamma = forward.gamma,
                                   .stats = forward.stats,
                                   .groups = groups,
                                   .d_y = matrix(types.storage),
                                   .d_x = matrix(types.d_x)};
        if (optional) {
          forward.beta = backward.beta = w.random(types.storage, {width});
          backward.d_residual = matrix(types.d_x);
          backward.d_gamma = w.random(DType::f32, {width});
          backward.d_beta = w.random(DType::f32, {width});
          backward.y = matrix(types.storage);
        }
        const auto exact = [&](const Tensor& t) { return t ? w.copy_of(t, DType::f64) : Tensor(); };
        LayerNormForward forward_expected = forward;
        for (Tensor* t : {&forward_expected.x, &forward_expected.gamma, &forward_expected.beta, &forward_expected.y,
                          &forward_expected.stats})
          *t = exact(*t);
        LayerNormBackward expected = backward;
        for (Tensor* t : {&expected.x, &expected.gamma, &expected.beta, &expected.d_y, &expected.d_residual,
                          &expected.d_x, &expected.d_gamma, &expected.d_beta, &expected.y})
          *t = exact(*t);
        expected.stats = forward_expected.stats;
        run(w.ctx, forward_expected);
        run(w.ctx, expected);

        forward.check();
        cuda::layer_norm::launch_forward(forward, nullptr);
        backward.check();
        const int64_t blocks = cuda::layer_norm_blocks(n * groups, width);
        cuda::layer_norm::launch_backward(backward, w.output(DType::f32, {blocks, 2, width}).data(), nullptr);
        const double stored = 4e-3, summed = types.storage == DType::bf16 ? 2e-5 : 2e-6;
        const auto tolerance = [&](DType dtype) { return dtype == DType::bf16 ? stored : 2e-6; };
        const auto expect_like = [&](const Tensor& actual, const Tensor& reference, double allowed) {
          if (actual) expect_close(actual, reference, allowed, 0, 1e-2);
        };
        expect_like(forward.y, forward_expected.y, tolerance(types.storage));
        expect_like(forward.stats, forward_expected.stats, summed);
        expect_like(backward.d_x, expected.d_x, tolerance(types.d_x));
        expect_like(backward.y, expected.y, tolerance(types.storage));
        expect_like(backward.d_gamma, expected.d_gamma, summed);
        expect_like(backward.d_beta, expected.d_beta, summed);
      }
}

}  // namespace
}  // namespace boreas::test
