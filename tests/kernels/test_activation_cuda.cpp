#include <gtest/gtest.h>

#include "kernels/activation/activation.h"
#include "tests/support/fixtures.h"
#include "tests/support/gpu.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::bf16};
constexpr Gate kGates[] = {Gate::sigmoid, Gate::silu, Gate::gelu, Gate::relu};
constexpr std::pair<int64_t, int64_t> kSizes[] = {{1, 1},     {7, 5},      {0, 4},    {33, 64},
                                                  {1000, 33}, {129, 2048}, {3, 10000}};

// Rounding to bf16 costs up to 2^-8 of a value, and 1.7e-3 in the norm over many.
double tolerance(DType dtype, int64_t size) {
  if (dtype == DType::f32) return 5e-7;
  return size < 100 ? 0x1p-8 + 1e-5 : 3e-3;
}

// What an activation reads, on the host: column slices of wider matrices where wanted, and wide enough for the tails.
struct Inputs {
  Tensor gate, value, d_y;
  Inputs(Workspace& w, DType dtype, int64_t n, int64_t c)
      : gate(w.random(dtype, {n, c}, 2)), value(w.random(dtype, {n, c})), d_y(w.random(dtype, {n, c})) {}
};

class Uploader {
 public:
  Uploader(GpuWorkspace& gpu, bool strided) : gpu_(gpu), strided_(strided) {}
  Tensor operator()(const Tensor& host) const { return strided_ ? gpu_.upload_strided(host) : gpu_.upload(host); }

 private:
  GpuWorkspace& gpu_;
  bool strided_;
};

TEST(ActivationCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : kTypes)
    for (const auto& [n, c] : kSizes)
      for (const bool strided : {false, true}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << " " << n << " x " << c << (strided ? ", strided" : ""));
        if (quick_tests() && n * c > 30000) continue;
        Workspace w;
        GpuWorkspace gpu;
        const Uploader upload(gpu, strided);
        const Inputs host(w, dtype, n, c);
        const Tensor g = w.copy_of(host.gate, DType::f64), v = w.copy_of(host.value, DType::f64),
                     d = w.copy_of(host.d_y, DType::f64);
        const Tensor gate = upload(host.gate), value = upload(host.value), d_y = upload(host.d_y);
        const auto out = [&] { return upload(w.output(dtype, {n, c})); };
        const auto expected = [&, n = n, c = c] { return w.output(DType::f64, {n, c}); };
        const auto expect_like = [&](const Tensor& actual, const Tensor& reference) {
          expect_close(gpu.download(w, actual), reference, tolerance(dtype, reference.size()), 0, 1e-3);
        };
        {
          const Tensor y = out(), d_x = out(), y_expected = expected(), d_x_expected = expected();
          run(gpu.ctx, GeluForward{.x = gate, .y = y});
          run(gpu.ctx, GeluBackward{.x = gate, .d_y = d_y, .d_x = d_x});
          run(w.ctx, GeluForward{.x = g, .y = y_expected});
          run(w.ctx, GeluBackward{.x = g, .d_y = d, .d_x = d_x_expected});
          expect_like(y, y_expected);
          expect_like(d_x, d_x_expected);
        }
        for (const Gate kind : kGates) {
          SCOPED_TRACE(std::string(to_string(kind)));
          const Tensor y = out(), d_gate = out(), d_value = out();
          const Tensor y_expected = expected(), d_gate_expected = expected(), d_value_expected = expected();
          run(gpu.ctx, GatedForward{.kind = kind, .gate = gate, .value = value, .y = y});
          run(gpu.ctx,
              GatedBackward{
                  .kind = kind, .gate = gate, .value = value, .d_y = d_y, .d_gate = d_gate, .d_value = d_value});
          run(w.ctx, GatedForward{.kind = kind, .gate = g, .value = v, .y = y_expected});
          run(w.ctx, GatedBackward{.kind = kind,
                                   .gate = g,
                                   .value = v,
                                   .d_y = d,
                                   .d_gate = d_gate_expected,
                                   .d_value = d_value_expected});
          expect_like(y, y_expected);
          expect_like(d_gate, d_gate_expected);
          expect_like(d_value, d_value_expected);
        }
      }
}

// Element by element: the tails must be as good as the middle, also where results are far below 1.
TEST(ActivationCuda, GeluIsExactInItsTails) {
  BOREAS_SKIP_WITHOUT_GPU();
  constexpr int64_t kSize = 1 << 16;
  for (const DType dtype : kTypes) {
    Workspace w;
    GpuWorkspace gpu;
    std::vector<double> x(kSize);
    for (int64_t i = 0; i < kSize; ++i) x[i] = -12 + 24 * double(i) / kSize;
    const Tensor host = w.of(dtype, {1, kSize}, x), exact = w.copy_of(host, DType::f64),
                 y = gpu.upload(w.output(dtype, {1, kSize}));
    run(gpu.ctx, GeluForward{.x = gpu.upload(host), .y = y});
    run(w.ctx, GeluForward{.x = exact, .y = exact});
    const std::vector<double> actual = values_of(gpu.download(w, y)), expected = values_of(exact);
    double worst = 0;
    for (int64_t i = 0; i < kSize; ++i)
      worst = std::max(worst, std::abs(actual[i] - expected[i]) / std::max(std::abs(expected[i]), 1e-30));
    EXPECT_LE(worst, dtype == DType::bf16 ? 4.1e-3 : 3e-5) << to_string(dtype);  // bf16: half of its last bit, 2^-8
  }
}

TEST(ActivationCuda, ResultsMayBeTheInputs) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const Inputs host(w, DType::f32, 300, 96);
  const Tensor y = gpu.upload(host.gate), d_gate = gpu.upload(host.gate), d_value = gpu.upload(host.gate);
  const Tensor gate = gpu.upload(host.gate), value = gpu.upload(host.value), d_y = gpu.upload(host.d_y);
  run(gpu.ctx, GatedForward{.gate = gate, .value = value, .y = y});
  run(gpu.ctx, GatedBackward{.gate = gate, .value = value, .d_y = d_y, .d_gate = d_gate, .d_value = d_value});
  const Tensor over = gpu.upload(host.value);
  run(gpu.ctx, GatedForward{.gate = gate, .value = over, .y = over});
  run(gpu.ctx, GatedBackward{.gate = gate, .value = value, .d_y = d_y, .d_gate = gate, .d_value = d_y});
  EXPECT_TRUE(identical(gpu.download(w, over), gpu.download(w, y)));
  EXPECT_TRUE(identical(gpu.download(w, gate), gpu.download(w, d_gate)));
  EXPECT_TRUE(identical(gpu.download(w, d_y), gpu.download(w, d_value)));
}

TEST(ActivationCuda, DoubleIsRefused) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const Tensor x = gpu.upload(w.random(DType::f64, {4, 4}));
  BOREAS_EXPECT_ERROR(run(gpu.ctx, GeluForward{.x = x, .y = x}), unsupported, "not in f64");
}

}  // namespace
}  // namespace boreas::test
