#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/window_attention/window_attention.h"
#include "tests/support/fixtures.h"
#include "tests/support/gpu.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

using Kernel = WindowAttentionKernel;
constexpr Kernel kKernels[] = {Kernel::automatic, Kernel::hopper, Kernel::tensor_cores, Kernel::generic};

struct Sizes {
  int64_t length, num_heads, head_size, window;
};

/// How the rows of a tensor lie: one after the other; in a wider matrix, as queries, keys and values of one product do;
/// in a wider matrix that breaks their alignment.
enum class Layout { contiguous, wide, unaligned };

std::vector<Sizes> all_sizes() {
  std::vector<Sizes> out;
  constexpr int64_t kHeadSizes[] = {8, 16, 24, 32, 40, 64, 128, 256}, kWindows[] = {0, 1, 5, 64, 512, -1};
  for (const int64_t head_size : kHeadSizes)
    for (const int64_t window : kWindows) {
      for (const int64_t length : {1, 63, 64, 65}) out.push_back({length, 2, head_size, window});
      if (head_size % 32 == 0 || window == 5) out.push_back({1000, 2, head_size, window});
    }
  for (const Sizes s :
       {Sizes{4097, 2, 64, 512}, Sizes{4097, 1, 64, -1}, Sizes{4097, 1, 32, 64}, Sizes{4097, 1, 128, 512},
        Sizes{4097, 1, 40, 5}, Sizes{300, 2, 20, 7}, Sizes{1000, 16, 64, 100}})
    out.push_back(s);
  return out;
}

struct Tensors {
  Tensor q, k, v, o, stats, d_o, d_q, d_k, d_v;
};

WindowAttentionForward forward_op(const Tensors& t, Sizes s, Kernel kernel = Kernel::automatic) {
  return {.q = t.q,
          .k = t.k,
          .v = t.v,
          .num_heads = s.num_heads,
          .window = s.window,
          .kernel = kernel,
          .o = t.o,
          .stats = t.stats};
}

WindowAttentionBackward backward_op(const Tensors& t, Sizes s, Kernel kernel = Kernel::automatic) {
  return {.q = t.q,
          .k = t.k,
          .v = t.v,
          .o = t.o,
          .stats = t.stats,
          .num_heads = s.num_heads,
          .window = s.window,
          .kernel = kernel,
          .d_o = t.d_o,
          .d_q = t.d_q,
          .d_k = t.d_k,
          .d_v = t.d_v};
}

/// Inputs on the host, and the results of the CPU in f64.
struct Oracle {
  Tensors host, exact;
  Oracle(Workspace& w, DType dtype, Sizes s) {
    const Shape shape{s.length, s.num_heads * s.head_size};
    for (Tensor Tensors::*input : {&Tensors::q, &Tensors::k, &Tensors::v, &Tensors::d_o}) {
      host.*input = w.random(dtype, shape);
      exact.*input = w.copy_of(host.*input, DType::f64);
    }
    for (Tensor Tensors::*output : {&Tensors::o, &Tensors::d_q, &Tensors::d_k, &Tensors::d_v}) {
      host.*output = w.output(dtype, shape);
      exact.*output = w.output(DType::f64, shape);
    }
    host.stats = w.output(accumulator_of(dtype), {s.length, s.num_heads});
    exact.stats = w.output(DType::f64, {s.length, s.num_heads});
    run(w.ctx, forward_op(exact, s));
    run(w.ctx, backward_op(exact, s));
  }
};

/// The tensors of an oracle on the GPU; outputs, and what lies between the rows, are NaN.
class OnGpu {
  GpuWorkspace& gpu_;
  std::vector<std::pair<Tensor, Range>> wide_;

 public:
  Tensors t;

  OnGpu(GpuWorkspace& gpu, Workspace& w, const Tensors& host, Layout layout) : gpu_(gpu) {
    for (Tensor Tensors::*member : {&Tensors::q, &Tensors::k, &Tensors::v, &Tensors::o, &Tensors::stats, &Tensors::d_o,
                                    &Tensors::d_q, &Tensors::d_k, &Tensors::d_v})
      t.*member = upload(w, host.*member, layout);
  }

  void expect_padding_untouched(Workspace& w) const {
    for (const auto& [wide, columns] : wide_) {
      const Tensor host = gpu_.download(w, wide);
      for (const Range padding : {Range{0, columns.begin}, Range{columns.end, host.cols()}})
        for (const double value : values_of(host.columns(padding)))
          ASSERT_TRUE(std::isnan(value)) << "written outside the rows";
    }
  }

 private:
  Tensor upload(Workspace& w, const Tensor& host, Layout layout) {
    if (layout == Layout::contiguous) return gpu_.upload(host);
    const int64_t before = layout == Layout::wide ? 8 : 1, after = layout == Layout::wide ? 16 : 4;
    const Tensor wide = gpu_.upload(w.output(host.dtype(), {host.rows(), before + host.cols() + after}));
    const Range columns{before, before + host.cols()};
    gpu_.copy(wide.columns(columns), host);
    wide_.push_back({wide, columns});
    return wide.columns(columns);
  }
};

/// Both directions; false if that kernel does not support the case.
bool run_both(Context& ctx, const Tensors& t, Sizes s, Kernel kernel) {
  try {
    run(ctx, forward_op(t, s, kernel));
    run(ctx, backward_op(t, s, kernel));
    return true;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    return false;
  }
}

bool must_support(Kernel kernel, DType dtype, Sizes s, Layout layout) {
  if (kernel == Kernel::hopper) return false;  // depends on the device
  if (kernel != Kernel::tensor_cores) return s.head_size <= 256;
  return dtype == DType::bf16 && s.head_size % 8 == 0 && s.head_size <= 128 && layout != Layout::unaligned;
}

void expect_parity(DType dtype, Sizes s, std::initializer_list<Layout> layouts) {
  SCOPED_TRACE(testing::Message() << to_string(dtype) << ", length " << s.length << ", " << s.num_heads << " heads of "
                                  << s.head_size << ", window " << s.window);
  Workspace w(s.length + s.window + s.head_size);
  const Oracle oracle(w, dtype, s);
  const double stored = dtype == DType::bf16 ? 5e-3 : 3e-6, gradient = dtype == DType::bf16 ? 1e-2 : 5e-6;
  for (const Layout layout : layouts)
    for (const Kernel kernel : kKernels) {
      SCOPED_TRACE(testing::Message() << "kernel " << to_string(kernel) << ", layout " << int(layout));
      GpuWorkspace gpu;
      const OnGpu device(gpu, w, oracle.host, layout);
      if (!run_both(gpu.ctx, device.t, s, kernel)) {
        EXPECT_FALSE(must_support(kernel, dtype, s, layout));
        continue;
      }
      const auto expect_like = [&](Tensor Tensors::*member, double tolerance, double floor = 1e-2) {
        expect_close(gpu.download(w, device.t.*member), oracle.exact.*member, tolerance, 0, floor);
      };
      expect_like(&Tensors::o, stored);
      expect_like(&Tensors::stats, 3e-6);
      // With few partners the gradients of the scores cancel.
      const double floor = 0.1 * std::sqrt(dot(oracle.exact.d_v, oracle.exact.d_v));
      expect_like(&Tensors::d_q, gradient, floor);
      expect_like(&Tensors::d_k, gradient, floor);
      expect_like(&Tensors::d_v, gradient);
      device.expect_padding_untouched(w);
    }
}

TEST(WindowAttentionCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Sizes s : all_sizes()) expect_parity(dtype, s, {Layout::contiguous});
}

TEST(WindowAttentionCuda, RowsMayLieApart) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Sizes s : {Sizes{65, 2, 16, 5}, Sizes{300, 3, 32, -1}, Sizes{200, 2, 64, 64}, Sizes{130, 2, 128, 70},
                          Sizes{77, 1, 24, 30}})
      expect_parity(dtype, s, {Layout::wide, Layout::unaligned});
}

TEST(WindowAttentionCuda, IsBitwiseRepeatable) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Sizes s : {Sizes{3000, 4, 64, 300}, Sizes{3000, 4, 32, 300}, Sizes{1500, 2, 128, -1}})
      for (const Kernel kernel : kKernels) {
        Workspace w;
        GpuWorkspace gpu;
        const Oracle oracle(w, dtype, {1, s.num_heads, s.head_size, s.window});
        const Shape shape{s.length, s.num_heads * s.head_size};
        Tensors host;
        for (Tensor Tensors::*member : {&Tensors::q, &Tensors::k, &Tensors::v, &Tensors::d_o})
          host.*member = w.random(dtype, shape);
        for (Tensor Tensors::*member : {&Tensors::o, &Tensors::d_q, &Tensors::d_k, &Tensors::d_v})
          host.*member = w.output(dtype, shape);
        host.stats = w.output(DType::f32, {s.length, s.num_heads});
        const OnGpu first(gpu, w, host, Layout::contiguous), second(gpu, w, host, Layout::contiguous);
        if (!run_both(gpu.ctx, first.t, s, kernel)) continue;
        for (int repeat = 0; repeat < 3; ++repeat) {
          ASSERT_TRUE(run_both(gpu.ctx, second.t, s, kernel));
          for (Tensor Tensors::*member : {&Tensors::o, &Tensors::stats, &Tensors::d_q, &Tensors::d_k, &Tensors::d_v})
            EXPECT_TRUE(identical(gpu.download(w, first.t.*member), gpu.download(w, second.t.*member)))
                << to_string(kernel);
        }
      }
}

TEST(WindowAttentionCuda, SharpSoftmaxStaysFinite) {
  BOREAS_SKIP_WITHOUT_GPU();
  const Sizes s{300, 2, 64, 40};
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Kernel kernel : kKernels) {
      Workspace w;
      GpuWorkspace gpu;
      const Oracle oracle(w, dtype, s);
      const OnGpu device(gpu, w, oracle.host, Layout::contiguous);
      auto forward = forward_op(device.t, s, kernel);
      auto backward = backward_op(device.t, s, kernel);
      forward.scale = backward.scale = 200;  // scores of some thousands
      try {
        run(gpu.ctx, forward);
        run(gpu.ctx, backward);
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::unsupported) << error.what();
        continue;
      }
      for (Tensor Tensors::*member : {&Tensors::o, &Tensors::stats, &Tensors::d_q, &Tensors::d_k, &Tensors::d_v})
        for (const double value : values_of(gpu.download(w, device.t.*member)))
          ASSERT_TRUE(std::isfinite(value)) << to_string(dtype) << " " << to_string(kernel);
    }
}

TEST(WindowAttentionCuda, SequencesWithoutRows) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const Sizes s{0, 2, 16, 3};
  const OnGpu device(gpu, w, Oracle(w, DType::bf16, s).host, Layout::contiguous);
  EXPECT_TRUE(run_both(gpu.ctx, device.t, s, Kernel::automatic));
}

TEST(WindowAttentionCuda, PlansTheScratchThatItUses) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Kernel kernel : kKernels) {
    Workspace w;
    GpuWorkspace gpu;
    const Sizes s{1000, 2, 64, 64};
    const OnGpu device(gpu, w, Oracle(w, DType::bf16, s).host, Layout::contiguous);
    Arena counting;
    Context plan(Device::cuda(0), counting, Mode::plan);
    ASSERT_TRUE(run_both(plan, device.t, s, kernel));
    EXPECT_GT(counting.peak_bytes(), 0);
    if (run_both(gpu.ctx, device.t, s, kernel)) {
      EXPECT_EQ(counting.peak_bytes(), gpu.ctx.arena().peak_bytes());
    }
  }
}

TEST(WindowAttentionCuda, SaysWhatIsNotSupported) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const auto forward = [&](DType dtype, Sizes s, Kernel kernel) {
    const Tensor x(gpu.ctx.arena().borrow(Keep::scratch, 1 << 16), dtype, {s.length, s.num_heads * s.head_size},
                   gpu.ctx.device());
    const Tensor stats(x.data(), accumulator_of(dtype), {s.length, s.num_heads}, gpu.ctx.device());
    run(gpu.ctx, forward_op({.q = x, .k = x, .v = x, .o = x, .stats = stats}, s, kernel));
  };
  BOREAS_EXPECT_ERROR(forward(DType::f64, {4, 2, 16, 1}, Kernel::automatic), unsupported,
                      "no CUDA kernel on this device for f64 [4, 32] with heads of 16 channels");
  BOREAS_EXPECT_ERROR(forward(DType::bf16, {4, 1, 264, 1}, Kernel::automatic), unsupported, "heads of 264 channels");
  BOREAS_EXPECT_ERROR(forward(DType::f32, {4, 2, 16, 1}, Kernel::tensor_cores), unsupported, "no tensor_cores kernel");
}

}  // namespace
}  // namespace boreas::test
