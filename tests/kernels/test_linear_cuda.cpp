#include <gtest/gtest.h>

#include "kernels/activation/activation.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/linear/linear.h"
#include "tests/support/fixtures.h"
#include "tests/support/gpu.h"
#include "tests/support/tolerances.h"

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace boreas::test {
namespace {

struct Sizes {
  int64_t n, k, m;
};
constexpr Sizes kSizes[] = {{1, 1, 1},       {7, 5, 3},       {130, 17, 33},  {300, 214, 512},
                            {257, 512, 89},  {1000, 64, 256}, {200, 256, 64}, {0, 4, 5},
                            {2000, 226, 96}, {513, 4, 130},   {129, 1024, 4}, {30000, 48, 32}};
constexpr DType kTypes[] = {DType::f32, DType::bf16};

// Products whose operands are exact; what remains is the order of sums, and the rounding to the result's type.
double tolerance(DType result) { return result == DType::bf16 ? 4e-3 : 5e-6; }

struct Types {
  DType storage, wide;  // of operands; of y, d_y, d_x and the residual
};
constexpr Types kMixes[] = {{DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}};

constexpr LinearEpilogue kEpilogues[] = {LinearEpilogue::separate, LinearEpilogue::fused};

// Uploads as a column slice of a wider matrix, or contiguous.
struct Uploader {
  GpuWorkspace& gpu;
  bool strided;
  Tensor operator()(const Tensor& host) const { return strided ? gpu.upload_strided(host) : gpu.upload(host); }
};

std::string describe(Types types, Sizes sizes, bool strided) {
  return fmt::format("{} and {}, {} x {} -> {}{}", to_string(types.storage), to_string(types.wide), sizes.n, sizes.k,
                     sizes.m, strided ? ", strided" : "");
}

TEST(LinearCuda, ForwardMatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Types types : kMixes)
    for (const Sizes sizes : kSizes)
      for (const bool strided : {false, true})
        for (const bool optional : {false, true}) {
          SCOPED_TRACE(describe(types, sizes, strided) + (optional ? ", bias and residual" : ""));
          const auto [n, k, m] = sizes;
          if (quick_tests() && n * (k + m) > 30000) continue;
          Workspace w;
          GpuWorkspace gpu;
          const Uploader upload{gpu, strided};
          const Tensor x = w.random(types.storage, {n, k}), weight = w.random(types.storage, {m, k});
          const Tensor bias = optional ? w.random(types.storage, {m}) : Tensor();
          const Tensor residual = optional ? w.random(types.wide, {n, m}) : Tensor();
          const Tensor y = upload(w.output(types.wide, {n, m})), expected = w.output(DType::f64, {n, m});
          const auto exact = [&](const Tensor& t) { return t ? w.copy_of(t, DType::f64) : Tensor(); };
          run(gpu.ctx, LinearForward{.x = upload(x),
                                     .weight = upload(weight),
                                     .bias = optional ? upload(bias) : Tensor(),
                                     .residual = optional ? upload(residual) : Tensor(),
                                     .y = y});
          run(w.ctx, LinearForward{.x = exact(x),
                                   .weight = exact(weight),
                                   .bias = exact(bias),
                                   .residual = exact(residual),
                                   .y = expected});
          expect_close(gpu.download(w, y), expected, tolerance(types.wide), 0, 1e-3);
        }
}

TEST(LinearCuda, BackwardMatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Types types : kMixes)
    for (const Sizes sizes : kSizes)
      for (const bool strided : {false, true})
        for (const LinearEpilogue epilogue : kEpilogues) {
          const bool accumulate = epilogue == LinearEpilogue::fused;  // every other time
          SCOPED_TRACE(describe(types, sizes, strided) + (accumulate ? ", fused, d_x added to" : ""));
          const auto [n, k, m] = sizes;
          if (quick_tests() && n * (k + m) > 30000) continue;
          Workspace w;
          GpuWorkspace gpu;
          const Uploader upload{gpu, strided};
          const Tensor x = w.random(types.storage, {n, k}), weight = w.random(types.storage, {m, k});
          const Tensor d_y = w.random(types.wide, {n, m}), d_x = w.random(types.wide, {n, k});
          const Tensor d_weight = w.random(DType::f32, {m, k}), d_bias = w.random(DType::f32, {m});
          const auto make = [&](auto&& matrix, auto&& vector) {
            return LinearBackward{.x = matrix(x),
                                  .weight = matrix(weight),
                                  .d_y = matrix(d_y),
                                  .d_x = matrix(d_x),
                                  .accumulate_d_x = accumulate,
                                  .d_weight = matrix(d_weight),
                                  .d_bias = vector(d_bias),
                                  .epilogue = epilogue};
          };
          const LinearBackward actual = make(upload, [&](const Tensor& t) { return gpu.upload(t); });
          // Operands of products are rounded to the storage type.
          const auto exact = [&](const Tensor& t) { return w.copy_of(t, DType::f64); };
          LinearBackward expected = make(exact, exact);
          run(gpu.ctx, actual);
          run(w.ctx, expected);
          // Tensor cores truncate as they add up: the error of a sum over rows grows with the steps of 16 of them.
          const double summed = tolerance(DType::f32) + (types.storage == DType::bf16 ? 3e-9 * double(n) : 0);
          const double rounded = types.storage == types.wide ? summed : 4e-3;
          expect_close(gpu.download(w, actual.d_x), expected.d_x, std::max(rounded, tolerance(types.wide)), 0, 1e-3);
          expect_close(gpu.download(w, actual.d_weight), expected.d_weight, rounded, 0, 1e-3);
          expect_close(gpu.download(w, actual.d_bias), expected.d_bias, accumulate ? summed : 5e-6, 0, 1e-3);
        }
}

// Sums over a width that is no multiple of 8, in padded rows; and results of such a width.
TEST(LinearCuda, PaddedRowsMatchTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Types types : kMixes)
    for (const Sizes sizes :
         {Sizes{300, 226, 512}, Sizes{257, 13, 64}, Sizes{1000, 226, 89}, Sizes{200, 5, 3}, Sizes{64, 16, 8}}) {
      SCOPED_TRACE(describe(types, sizes, false));
      const auto [n, k, m] = sizes;
      Workspace w;
      GpuWorkspace gpu;
      const Tensor x = w.random(types.storage, {n, k}), weight = w.random(types.storage, {m, k}),
                   bias = w.random(types.storage, {m}), d_y = w.random(types.wide, {n, m}),
                   d_weight = w.random(DType::f32, {m, k}), d_bias = w.random(DType::f32, {m});
      const Tensor padded = w.filled(types.storage, {n, padded_columns(k)}, 0);
      run(w.ctx, Copy{.x = x, .y = padded.columns({0, k})});
      const Tensor y = gpu.upload(w.output(types.wide, {n, m})), d_x = gpu.upload(w.output(types.wide, {n, k}));
      const Tensor d_last = gpu.upload(w.output(types.wide, {n, std::min<int64_t>(k, 3)}));  // of the last columns
      const Tensor device_x = gpu.upload(padded), device_weight = gpu.upload(weight), device_d_y = gpu.upload(d_y);
      const LinearBackward back{.x = device_x,
                                .weight = device_weight,
                                .d_y = device_d_y,
                                .d_x = d_x,
                                .d_weight = gpu.upload(d_weight),
                                .d_bias = gpu.upload(d_bias)};
      run(gpu.ctx, LinearForward{.x = device_x, .weight = device_weight, .bias = gpu.upload(bias), .y = y});
      run(gpu.ctx, back);
      run(gpu.ctx,
          LinearBackward{.weight = device_weight.columns({k - d_last.cols(), k}), .d_y = device_d_y, .d_x = d_last});

      const auto exact = [&](const Tensor& t) { return w.copy_of(t, DType::f64); };
      const Tensor y_expected = w.output(DType::f64, {n, m}), d_x_expected = w.output(DType::f64, {n, k});
      const Tensor d_weight_expected = exact(d_weight), d_bias_expected = exact(d_bias);
      run(w.ctx, LinearForward{.x = exact(x), .weight = exact(weight), .bias = exact(bias), .y = y_expected});
      run(w.ctx, LinearBackward{.x = exact(x),
                                .weight = exact(weight),
                                .d_y = exact(d_y),
                                .d_x = d_x_expected,
                                .d_weight = d_weight_expected,
                                .d_bias = d_bias_expected});
      const double rounded = types.storage == types.wide ? 8e-6 : 4e-3;
      const double result = std::max(rounded, tolerance(types.wide));
      expect_close(gpu.download(w, y), y_expected, tolerance(types.wide), 0, 1e-3);
      expect_close(gpu.download(w, d_x), d_x_expected, result, 0, 1e-3);
      expect_close(gpu.download(w, d_last), values_of(d_x_expected.columns({k - d_last.cols(), k})), result, 0, 1e-3);
      expect_close(gpu.download(w, back.d_weight), d_weight_expected, rounded, 0, 1e-3);
      expect_close(gpu.download(w, back.d_bias), d_bias_expected, 5e-6, 0, 1e-3);
    }
}

TEST(LinearCuda, FusedGeluMatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes)
    for (const Sizes sizes : kSizes)
      for (const bool strided : {false, true})
        for (const auto& [keep, epilogue] :
             {std::pair{false, LinearEpilogue::separate}, std::pair{true, LinearEpilogue::separate},
              std::pair{false, LinearEpilogue::fused}, std::pair{true, LinearEpilogue::fused}}) {
          SCOPED_TRACE(describe({dtype, dtype}, sizes, strided) + (keep ? ", z kept" : "") +
                       (epilogue == LinearEpilogue::fused ? ", fused" : ""));
          const auto [n, k, m] = sizes;
          if (quick_tests() && n * (k + m) > 30000) continue;
          Workspace w;
          GpuWorkspace gpu;
          const Uploader upload{gpu, strided};
          const double scale = 1 / std::sqrt(double(k));
          const Tensor x = w.random(dtype, {n, k}), weight = w.random(dtype, {m, k}, scale),
                       bias = w.random(dtype, {m});
          const Tensor y = upload(w.output(dtype, {n, m})), z = keep ? upload(w.output(dtype, {n, m})) : Tensor();
          const auto exact = [&](const Tensor& t) { return w.copy_of(t, DType::f64); };
          const Tensor y_expected = w.output(DType::f64, {n, m}), z_expected = w.output(DType::f64, {n, m});
          run(gpu.ctx, LinearForward{.x = upload(x),
                                     .weight = upload(weight),
                                     .bias = gpu.upload(bias),
                                     .activation = Activation::gelu,
                                     .pre_activation = z,
                                     .y = y,
                                     .epilogue = epilogue});
          run(w.ctx, LinearForward{.x = exact(x),
                                   .weight = exact(weight),
                                   .bias = exact(bias),
                                   .activation = Activation::gelu,
                                   .pre_activation = z_expected,
                                   .y = y_expected});
          // z is rounded before its GELU is taken.
          expect_close(gpu.download(w, y), y_expected, 2 * tolerance(dtype), 0, 1e-2);
          if (keep) expect_close(gpu.download(w, z), z_expected, tolerance(dtype), 0, 1e-3);

          const Tensor d_y = w.random(dtype, {n, k}), back = w.random(dtype, {k, m}, scale);  // of a layer m -> k
          const Tensor before = w.random(dtype, {n, m}), d_x = upload(w.output(dtype, {n, m}));
          const Tensor d_x_expected = w.output(DType::f64, {n, m});
          run(gpu.ctx, LinearBackward{.weight = upload(back),
                                      .d_y = upload(d_y),
                                      .pre_activation = upload(before),
                                      .d_x = d_x,
                                      .epilogue = epilogue});
          run(w.ctx,
              LinearBackward{
                  .weight = exact(back), .d_y = exact(d_y), .pre_activation = exact(before), .d_x = d_x_expected});
          expect_close(gpu.download(w, d_x), d_x_expected, 2 * tolerance(dtype), 0, 1e-2);
        }
}

// The fused form is the one by tanh: over normally distributed arguments it must be lost in the rounding to bf16.
TEST(LinearCuda, FusedGeluIsCloseToTheExactOne) {
  BOREAS_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 4096, kCols = 64;
  Workspace w;
  GpuWorkspace gpu;
  gpu.ctx.log_debug = [](const std::string& choice) { fmt::print("[ chosen   ] {}\n", choice); };
  const Tensor z = w.random(DType::bf16, {kRows, kCols}), identity = w.filled(DType::bf16, {kCols, kCols}, 0);
  for (int64_t i = 0; i < kCols; ++i) identity.row<bfloat16>(i)[i] = bfloat16(1.0f);
  const Tensor exact = w.copy_of(z, DType::f64), slope = w.copy_of(z, DType::f64);
  run(w.ctx, GeluForward{.x = exact, .y = exact});
  run(w.ctx, GeluBackward{.x = slope, .d_y = w.filled(DType::f64, {kRows, kCols}, 1), .d_x = slope});
  const Tensor device_z = gpu.upload(z), device_identity = gpu.upload(identity),
               ones = gpu.upload(w.filled(DType::bf16, {kRows, kCols}, 1));
  for (const LinearEpilogue epilogue : kEpilogues) {
    const Tensor y = gpu.upload(z), d = gpu.upload(z), kept = gpu.upload(w.output(DType::bf16, {kRows, kCols}));
    run(gpu.ctx, LinearForward{.x = device_z,
                               .weight = device_identity,
                               .activation = Activation::gelu,
                               .pre_activation = kept,
                               .y = y,
                               .epilogue = epilogue});
    run(gpu.ctx,
        LinearBackward{
            .weight = device_identity, .d_y = ones, .pre_activation = device_z, .d_x = d, .epilogue = epilogue});
    expect_close(gpu.download(w, kept), z, 0);  // but for the sign of zeros
    const double value_error = relative_error(gpu.download(w, y), exact),
                 slope_error = relative_error(gpu.download(w, d), slope);
    const char* const name = epilogue == LinearEpilogue::fused ? "fused" : "separate";
    fmt::print("[ measured ] {}: relative error of GELU {:.3e} and of its derivative {:.3e}; rounding alone {:.3e}\n",
               name, value_error, slope_error, relative_error(w.copy_of(exact, DType::bf16), exact));
    EXPECT_LE(value_error, 3e-3) << name;
    EXPECT_LE(slope_error, 3e-3) << name;
  }
}

TEST(LinearCuda, ResidualMayBeTheResultAndWeightsColumnSlices) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes) {
    Workspace w;
    GpuWorkspace gpu;
    const Tensor x = w.random(dtype, {70, 24}), weight = w.random(dtype, {40, 24}), y = w.random(dtype, {70, 40}),
                 apart = gpu.upload(w.output(dtype, {70, 40}));
    const Tensor in_place = gpu.upload(y), device_x = gpu.upload(x), device_weight = gpu.upload(weight);
    run(gpu.ctx, LinearForward{.x = device_x, .weight = device_weight, .residual = in_place, .y = apart});
    run(gpu.ctx, LinearForward{.x = device_x, .weight = device_weight, .residual = in_place, .y = in_place});
    // In place the library may add to memory what it has rounded.
    const Tensor expected = w.output(DType::f64, {70, 40});
    run(w.ctx, LinearForward{.x = w.copy_of(x, DType::f64),
                             .weight = w.copy_of(weight, DType::f64),
                             .residual = w.copy_of(y, DType::f64),
                             .y = expected});
    expect_close(gpu.download(w, apart), expected, tolerance(dtype));
    expect_close(gpu.download(w, in_place), expected, 2 * tolerance(dtype));

    // The gradient of the last 4 columns of x alone, as for trainable columns behind fixed ones.
    const Tensor whole = gpu.upload(w.output(dtype, {70, 24})), part = gpu.upload(w.output(dtype, {70, 4}));
    run(gpu.ctx, LinearBackward{.weight = device_weight, .d_y = in_place, .d_x = whole});
    run(gpu.ctx, LinearBackward{.weight = device_weight.columns({20, 24}), .d_y = in_place, .d_x = part});
    expect_close(gpu.download(w, part), values_of(gpu.download(w, whole).columns({20, 24})), tolerance(dtype));
  }
}

// All that a captured step does with linear layers.
struct Layer {
  LinearForward forward, gelu;
  LinearBackward backward, through_gelu;
};

Layer make_layer(GpuWorkspace& gpu, Workspace& w, DType dtype, Sizes sizes) {
  const auto [n, k, m] = sizes;
  const auto random = [&](Shape shape) { return gpu.upload(w.random(dtype, shape)); };
  const auto sums = [&](Shape shape) { return gpu.upload(w.random(DType::f32, shape)); };
  Layer layer;
  layer.forward = {.x = random({n, k}), .weight = random({m, k}), .bias = random({m}), .y = random({n, m})};
  layer.gelu = layer.forward;
  layer.gelu.activation = Activation::gelu;
  layer.gelu.pre_activation = random({n, m});
  layer.gelu.y = random({n, m});
  layer.backward = {.x = layer.forward.x,
                    .weight = layer.forward.weight,
                    .d_y = random({n, m}),
                    .d_x = random({n, k}),
                    .d_weight = sums({m, k}),
                    .d_bias = sums({m})};
  layer.through_gelu = {.weight = layer.forward.weight,
                        .d_y = layer.backward.d_y,
                        .pre_activation = layer.forward.x,
                        .d_x = random({n, k})};
  return layer;
}

void run_all(Context& ctx, const Layer& layer) {
  run(ctx, layer.forward);
  run(ctx, layer.gelu);
  run(ctx, layer.backward);
  run(ctx, layer.through_gelu);
}

void expect_same_results(GpuWorkspace& gpu, Workspace& w, const Layer& a, const Layer& b) {
  const auto expect_same = [&](const Tensor& x, const Tensor& y) {
    EXPECT_TRUE(identical(gpu.download(w, x), gpu.download(w, y)));
  };
  expect_same(a.forward.y, b.forward.y);
  expect_same(a.gelu.y, b.gelu.y);
  expect_same(a.gelu.pre_activation, b.gelu.pre_activation);
  expect_same(a.backward.d_x, b.backward.d_x);
  expect_same(a.backward.d_weight, b.backward.d_weight);
  expect_same(a.backward.d_bias, b.backward.d_bias);
  expect_same(a.through_gelu.d_x, b.through_gelu.d_x);
}

TEST(LinearCuda, IsBitwiseRepeatable) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes)
    for (const Sizes sizes :
         quick_tests() ? std::vector{Sizes{200, 64, 32}}
                       : std::vector{Sizes{20000, 512, 512}, Sizes{30001, 214, 96}}) {  // sums over n are split
      Workspace first_values(5), second_values(5);
      GpuWorkspace gpu;
      const Layer first = make_layer(gpu, first_values, dtype, sizes),
                  second = make_layer(gpu, second_values, dtype, sizes);
      run_all(gpu.ctx, first);
      run_all(gpu.ctx, second);
      expect_same_results(gpu, first_values, first, second);
    }
}

TEST(LinearCuda, PlansTheScratchThatItUses) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Types types : kMixes) {
    Workspace w;
    GpuWorkspace gpu;
    const LinearBackward op{.x = gpu.upload(w.random(types.storage, {5000, 24})),
                            .weight = gpu.upload(w.random(types.storage, {90, 24})),
                            .d_y = gpu.upload(w.random(types.wide, {5000, 90})),
                            .d_x = gpu.upload(w.random(types.wide, {5000, 24})),
                            .d_weight = gpu.upload(w.random(DType::f32, {90, 24})),
                            .d_bias = gpu.upload(w.random(DType::f32, {90}))};
    Arena counting;
    Context plan(Device::cuda(0), counting, Mode::plan);
    run(plan, op);
    EXPECT_EQ(live_bytes("libraries"), 0);
    run(gpu.ctx, op);
    EXPECT_EQ(counting.peak_bytes(), gpu.ctx.arena().peak_bytes());
    EXPECT_GT(counting.peak_bytes(), 0);
    EXPECT_EQ(live_bytes("libraries"), Context::kLibraryWorkspaceBytes);
  }
}

TEST(LinearCuda, ACapturedGraphReplaysToTheSameBits) {
  BOREAS_SKIP_WITHOUT_GPU();
#ifdef BOREAS_WITH_CUDA
  for (const DType dtype : kTypes) {
    Workspace values(7), same(7);
    GpuWorkspace gpu;
    const Layer eager = make_layer(gpu, values, dtype, {3000, 192, 320}),
                captured = make_layer(gpu, same, dtype, {3000, 192, 320});
    run_all(gpu.ctx, eager);
    const auto stream = static_cast<cudaStream_t>(gpu.ctx.compute().native());
    const auto check = [](cudaError_t status) { ASSERT_EQ(status, cudaSuccess) << cudaGetErrorString(status); };
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    run_all(gpu.ctx, captured);
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    check(cudaGraphLaunch(executable, stream));
    gpu.ctx.compute().synchronize();
    expect_same_results(gpu, values, captured, eager);
    run_all(gpu.ctx, eager);  // sums go on growing
    check(cudaGraphLaunch(executable, stream));
    gpu.ctx.compute().synchronize();
    expect_same_results(gpu, values, captured, eager);
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
  }
#endif
}

// More than 2^31 elements in x and y: 10 GB.
TEST(LinearCuda, TakesMoreElementsThan32BitsCount) {
  BOREAS_SKIP_WITHOUT_GPU();
#ifdef BOREAS_WITH_CUDA
  if (quick_tests()) GTEST_SKIP() << "takes 10 GB";
  constexpr int64_t kRows = 4'300'000, kCols = 512;
  size_t free = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  if (free < size_t{12} << 30) GTEST_SKIP() << "needs 12 GiB of free GPU memory";
  Workspace w;
  GpuWorkspace gpu;
  const Buffer buffer = Buffer::on(Device::cuda(0), 2 * kRows * kCols * 2, "test");
  buffer.zero();
  const Tensor x = buffer.tensor(DType::bf16, {kRows, kCols}),
               y = buffer.tensor(DType::bf16, {kRows, kCols}, x.bytes());
  const Tensor tail = w.random(DType::bf16, {100, kCols}), weight = w.random(DType::bf16, {kCols, kCols});
  const auto put = [&](int64_t row) {
    copy_bytes(gpu.ctx.compute(), x.slice({row, row + 100}).data(), x.device(), tail.data(), tail.device(),
               tail.bytes());
  };
  put(0);
  put(kRows - 100);
  const Tensor device_weight = gpu.upload(weight);
  run(gpu.ctx, LinearForward{.x = x, .weight = device_weight, .y = y});
  EXPECT_TRUE(identical(gpu.download(w, y.slice({kRows - 100, kRows})), gpu.download(w, y.slice({0, 100}))));
  const Tensor d_weight = gpu.upload(w.filled(DType::f32, {kCols, kCols}, 0));
  run(gpu.ctx, LinearBackward{.x = x, .d_y = y, .d_weight = d_weight});
  run(gpu.ctx, LinearBackward{.weight = device_weight, .d_y = x, .d_x = y});
  const Tensor expected = w.filled(DType::f64, {kCols, kCols}, 0), y_exact = w.output(DType::f64, {100, kCols});
  const Tensor x_exact = w.copy_of(tail, DType::f64);
  run(w.ctx, LinearForward{.x = x_exact, .weight = w.copy_of(weight, DType::f64), .y = y_exact});
  for (int i = 0; i < 2; ++i) run(w.ctx, LinearBackward{.x = x_exact, .d_y = y_exact, .d_weight = expected});
  expect_close(gpu.download(w, d_weight), expected, 4e-3);
  EXPECT_TRUE(identical(gpu.download(w, y.slice({kRows - 100, kRows})), gpu.download(w, y.slice({0, 100}))));
#endif
}

TEST(LinearCuda, WrongUseIsNamed) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const Tensor x = gpu.upload(w.random(DType::f64, {4, 4}));
  BOREAS_EXPECT_ERROR(run(gpu.ctx, LinearForward{.x = x, .weight = x, .y = gpu.upload(w.random(DType::f64, {4, 4}))}),
                      unsupported, "not in f64");
  BOREAS_EXPECT_ERROR(run(gpu.ctx, LinearForward{.x = w.random(DType::f32, {4, 4}), .weight = x, .y = x}),
                      invalid_argument, "x lies on cpu but the context computes on cuda:0");
}

}  // namespace
}  // namespace boreas::test
