#include <gtest/gtest.h>

#include "kernels/layer_norm/layer_norm.h"
#include "tests/support/fixtures.h"
#include "tests/support/gpu.h"
#include "tests/support/tolerances.h"

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace boreas::test {
namespace {

struct Sizes {
  int64_t n, c, groups;
};

// Every layout of registers, in every type, and widths and alignments that only the general kernels take.
constexpr Sizes kSizes[] = {{1, 1, 1},     {7, 5, 1},    {37, 16, 1},    {37, 24, 1},   {200, 64, 1},   {33, 100, 1},
                            {65, 128, 1},  {40, 192, 8}, {129, 256, 16}, {50, 512, 1},  {300, 1024, 1}, {20, 1000, 1},
                            {17, 2048, 1}, {9, 4096, 1}, {0, 64, 1},     {5000, 64, 4}, {3, 1026, 2},   {2000, 8, 1}};

struct Types {
  DType storage, x, d_x;
  constexpr Types(DType all) : Types(all, all, all) {}
  constexpr Types(DType storage_, DType x_, DType d_x_) : storage(storage_), x(x_), d_x(d_x_) {}
};
constexpr Types kTypes[] = {{DType::f32, DType::f32, DType::f32},    {DType::f64, DType::f64, DType::f64},
                            {DType::bf16, DType::bf16, DType::bf16}, {DType::bf16, DType::f32, DType::f32},
                            {DType::bf16, DType::f32, DType::bf16},  {DType::bf16, DType::bf16, DType::f32}};

// A forward and a backward, with all that they read and write.
struct Case {
  LayerNormForward forward;
  LayerNormBackward backward;
};

// Host tensors of a case; the layout is strided and not aligned to 16 bytes, or contiguous.
Case make_case(Workspace& w, Types types, Sizes sizes, bool strided, bool optional) {
  const auto [n, c, groups] = sizes;
  const DType dtype = types.storage, accumulator = accumulator_of(dtype);
  const int64_t width = c / groups;
  const auto matrix = [&, n = n, c = c](DType type) {
    return strided ? w.random_strided(type, n, c) : w.random(type, {n, c});
  };
  Case out;
  out.forward = {.x = matrix(types.x),
                 .gamma = w.random(dtype, {width}),
                 .groups = groups,
                 .eps = 1e-3,
                 .y = matrix(dtype),
                 .stats = w.output(accumulator, {n * groups, 2})};
  out.backward = {.x = out.forward.x,
                  .gamma = out.forward.gamma,
                  .stats = out.forward.stats,
                  .groups = groups,
                  .d_y = matrix(dtype),
                  .d_x = matrix(types.d_x)};
  if (!optional) return out;
  out.forward.beta = w.random(dtype, {width});
  out.backward.beta = out.forward.beta;
  out.backward.y = matrix(dtype);
  out.backward.d_residual = matrix(types.d_x);
  out.backward.d_gamma = w.random(accumulator, {width});
  out.backward.d_beta = w.random(accumulator, {width});
  return out;
}

// The same case with every tensor replaced by map(tensor); aliases between the two ops stay.
Case map_tensors(const Case& in, auto&& map) {
  Case out = in;
  const auto apply = [&](Tensor& tensor) {
    if (tensor) tensor = map(tensor);
  };
  for (Tensor* tensor :
       {&out.forward.x, &out.forward.gamma, &out.forward.beta, &out.forward.y, &out.forward.stats, &out.backward.d_y,
        &out.backward.d_residual, &out.backward.d_x, &out.backward.y, &out.backward.d_gamma, &out.backward.d_beta})
    apply(*tensor);
  out.backward.x = out.forward.x;
  out.backward.gamma = out.forward.gamma;
  out.backward.beta = out.forward.beta;
  out.backward.stats = out.forward.stats;
  return out;
}

Case upload(GpuWorkspace& gpu, const Case& host, bool strided) {
  return map_tensors(host, [&](const Tensor& tensor) {
    return !strided || tensor.contiguous() ? gpu.upload(tensor) : gpu.upload_strided(tensor);
  });
}

void run_both(Context& ctx, const Case& c) {
  run(ctx, c.forward);
  run(ctx, c.backward);
}

TEST(LayerNormCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Types types : kTypes)
    for (const Sizes sizes : kSizes)
      for (const bool strided : {false, true})
        for (const bool optional : {false, true}) {
          SCOPED_TRACE(testing::Message()
                       << to_string(types.storage) << " " << to_string(types.x) << " " << to_string(types.d_x) << " "
                       << sizes.n << " x " << sizes.c << " in " << sizes.groups << (strided ? ", strided" : "")
                       << (optional ? ", with options" : ""));
          if (quick_tests() && sizes.n * sizes.c > 30000) continue;
          Workspace w(11);
          GpuWorkspace gpu;
          const Case host = make_case(w, types, sizes, strided, optional), device = upload(gpu, host, strided);
          const Case oracle = map_tensors(host, [&](const Tensor& t) { return w.copy_of(t, DType::f64); });
          run_both(w.ctx, oracle);
          run_both(gpu.ctx, device);
          // Results are rounded to the storage type; statistics and parameter gradients are sums of it.
          const auto stored = [](DType type) { return type == DType::bf16 ? 4e-3 : 2e-6; };
          const double summed = types.storage == DType::bf16 ? 2e-5 : 2e-6;
          const auto expect_like = [&](const Tensor& actual, const Tensor& expected, double tolerance) {
            if (actual) expect_close(gpu.download(w, actual), expected, tolerance, 1e-12, 1e-2);
          };
          expect_like(device.forward.y, oracle.forward.y, stored(types.storage));
          expect_like(device.forward.stats, oracle.forward.stats, summed);
          expect_like(device.backward.d_x, oracle.backward.d_x, stored(types.d_x));
          expect_like(device.backward.y, oracle.backward.y, stored(types.storage));
          expect_like(device.backward.d_gamma, oracle.backward.d_gamma, summed);
          expect_like(device.backward.d_beta, oracle.backward.d_beta, summed);
        }
}

TEST(LayerNormCuda, IsBitwiseRepeatable) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Types types : kTypes)
    for (const bool strided : {false, true}) {
      Workspace w;
      GpuWorkspace gpu;
      const Case host = make_case(w, types, {quick_tests() ? 300 : 30000, 128, 2}, strided, true);
      const Case first = upload(gpu, host, strided), second = upload(gpu, host, strided);
      run_both(gpu.ctx, first);
      run_both(gpu.ctx, second);
      const auto expect_same = [&](const Tensor& a, const Tensor& b) {
        EXPECT_TRUE(identical(gpu.download(w, a), gpu.download(w, b)));
      };
      expect_same(first.forward.y, second.forward.y);
      expect_same(first.forward.stats, second.forward.stats);
      expect_same(first.backward.d_x, second.backward.d_x);
      expect_same(first.backward.y, second.backward.y);
      expect_same(first.backward.d_gamma, second.backward.d_gamma);
      expect_same(first.backward.d_beta, second.backward.d_beta);
    }
}

TEST(LayerNormCuda, ResultsMayBeTheInputs) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const bool strided : {false, true}) {
    Workspace w;
    GpuWorkspace gpu;
    const Case host = make_case(w, DType::f32, {100, 256, 1}, strided, true);
    Case apart = upload(gpu, host, strided), over = upload(gpu, host, strided);
    run_both(gpu.ctx, apart);
    LayerNormForward in_place = over.forward;
    run(gpu.ctx, over.forward);
    over.backward.d_x = over.backward.d_y;
    run(gpu.ctx, over.backward);
    in_place.y = in_place.x;
    run(gpu.ctx, in_place);
    EXPECT_TRUE(identical(gpu.download(w, over.backward.d_y), gpu.download(w, apart.backward.d_x)));
    EXPECT_TRUE(identical(gpu.download(w, in_place.x), gpu.download(w, apart.forward.y)));
    Case over_residual = upload(gpu, host, strided);
    run(gpu.ctx, over_residual.forward);
    over_residual.backward.d_x = over_residual.backward.d_residual;
    run(gpu.ctx, over_residual.backward);
    EXPECT_TRUE(identical(gpu.download(w, over_residual.backward.d_x), gpu.download(w, apart.backward.d_x)));
    Case over_x = upload(gpu, host, strided);
    run(gpu.ctx, over_x.forward);
    over_x.backward.d_x = over_x.backward.x;
    over_x.backward.y = {};
    run(gpu.ctx, over_x.backward);
    EXPECT_TRUE(identical(gpu.download(w, over_x.backward.x), gpu.download(w, apart.backward.d_x)));
  }
}

TEST(LayerNormCuda, PlansTheScratchThatItUses) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Sizes sizes : {Sizes{5000, 1024, 1}, Sizes{5000, 64, 4}}) {
    Workspace w;
    GpuWorkspace gpu;
    const Case device = upload(gpu, make_case(w, DType::f32, sizes, false, true), false);
    Arena counting;
    Context plan(Device::cuda(0), counting, Mode::plan);
    run_both(plan, device);
    run_both(gpu.ctx, device);
    EXPECT_EQ(counting.peak_bytes(), gpu.ctx.arena().peak_bytes());
    EXPECT_GT(counting.peak_bytes(), 0);
  }
}

TEST(LayerNormCuda, ACapturedGraphReplaysToTheSameBits) {
  BOREAS_SKIP_WITHOUT_GPU();
#ifdef BOREAS_WITH_CUDA
  Workspace w;
  GpuWorkspace gpu;
  const Case host = make_case(w, DType::f32, {10000, 512, 1}, false, true);
  const Case eager = upload(gpu, host, false), captured = upload(gpu, host, false);
  run_both(gpu.ctx, eager);

  const auto stream = static_cast<cudaStream_t>(gpu.ctx.compute().native());
  const auto check = [](cudaError_t status) { ASSERT_EQ(status, cudaSuccess) << cudaGetErrorString(status); };
  const auto set = [&](const Tensor& to, const Tensor& from) {
    check(cudaMemcpyAsync(to.data(), from.data(), to.bytes(), cudaMemcpyDefault, stream));
  };
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  run_both(gpu.ctx, captured);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  for (int replay = 0; replay < 3; ++replay) {
    check(cudaMemsetAsync(captured.forward.y.data(), 0xFF, captured.forward.y.bytes(), stream));
    check(cudaMemsetAsync(captured.forward.stats.data(), 0xFF, captured.forward.stats.bytes(), stream));
    check(cudaMemsetAsync(captured.backward.d_x.data(), 0xFF, captured.backward.d_x.bytes(), stream));
    set(captured.backward.d_gamma, host.backward.d_gamma);
    set(captured.backward.d_beta, host.backward.d_beta);
    check(cudaGraphLaunch(executable, stream));
    gpu.ctx.compute().synchronize();
    const auto expect_same = [&](const Tensor& a, const Tensor& b) {
      EXPECT_TRUE(identical(gpu.download(w, a), gpu.download(w, b))) << "replay " << replay;
    };
    expect_same(captured.forward.y, eager.forward.y);
    expect_same(captured.forward.stats, eager.forward.stats);
    expect_same(captured.backward.d_x, eager.backward.d_x);
    expect_same(captured.backward.d_gamma, eager.backward.d_gamma);
    expect_same(captured.backward.d_beta, eager.backward.d_beta);
  }
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
#endif
}

TEST(LayerNormCuda, WrongUseIsNamed) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const Case host = make_case(w, DType::f32, {4, 8, 1}, false, true);
  BOREAS_EXPECT_ERROR(run(gpu.ctx, host.forward), invalid_argument, "x lies on cpu but the context computes on cuda:0");
  Case device = upload(gpu, host, false);
  device.forward.eps = -1;
  BOREAS_EXPECT_ERROR(run(gpu.ctx, device.forward), invalid_argument, "eps is -1");
}

}  // namespace
}  // namespace boreas::test
