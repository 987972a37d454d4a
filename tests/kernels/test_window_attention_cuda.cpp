#include <gtest/gtest.h>

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "tests/support/cases/window_attention.h"
#include "tests/support/gpu.h"

namespace boreas::test {
namespace {

using Kernel = WindowAttentionKernel;
constexpr Kernel kKernels[] = {Kernel::automatic, Kernel::hopper, Kernel::tensor_cores, Kernel::generic, Kernel::cudnn};

using namespace window_attention;

/// How the rows of a tensor lie: one after the other; in a wider matrix, as queries, keys and values of one product do;
/// in a wider matrix that breaks their alignment.
enum class Layout { contiguous, wide, unaligned };

constexpr Tensor Tensors::*kAll[] = {&Tensors::q,   &Tensors::k,   &Tensors::v,   &Tensors::o,  &Tensors::stats,
                                     &Tensors::d_o, &Tensors::d_q, &Tensors::d_k, &Tensors::d_v};

std::vector<Case> all_cases() {
  std::vector<Case> out = small_cases();
  for (const Case& c : tiled_cases()) out.push_back(c);
  if (quick_tests()) return out;
  for (const int64_t head_size : {8, 16, 24, 32, 40, 64, 128, 256})
    for (const int64_t window : {0, 1, 5, 64, 512, -1}) {
      for (const int64_t length : {1, 63, 64, 65}) out.push_back({length, 2, head_size, window});
      if (head_size % 32 == 0 || window == 5) out.push_back({1000, 2, head_size, window});
    }
  for (const Case& c : {Case{4097, 2, 64, 512}, Case{4097, 1, 64, -1}, Case{4097, 1, 32, 64}, Case{4097, 1, 128, 512},
                        Case{4097, 1, 40, 5}, Case{300, 2, 20, 7}, Case{1000, 16, 64, 100}})
    out.push_back(c);
  return out;
}

/// Tensors on the GPU; outputs, and what lies between the rows, are NaN.
class OnGpu {
  GpuWorkspace& gpu_;
  std::vector<std::pair<Tensor, Range>> wide_;

 public:
  Tensors t;

  OnGpu(GpuWorkspace& gpu, Workspace& w, const Tensors& host, Layout layout) : gpu_(gpu) {
    for (Tensor Tensors::*member : kAll) t.*member = upload(w, host.*member, layout);
  }

  Tensors download(Workspace& w) const {
    Tensors out;
    for (Tensor Tensors::*member : kAll) out.*member = gpu_.download(w, t.*member);
    return out;
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

/// Both directions; false if that kernel does not support the case. `in_parts`: backward, which cudnn does not know.
bool run_both(Context& ctx, const Tensors& t, const Case& c, Kernel kernel, bool in_parts = false) {
  const WindowAttentionBackward backward = backward_op(t, c, kernel);
  try {
    run(ctx, forward_op(t, c, kernel));
    if (in_parts && kernel != Kernel::cudnn)
      for (const WindowAttentionBackward& part : parts_of(backward)) run(ctx, part);
    else
      run(ctx, backward);
    return true;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported) throw;
    return false;
  }
}

bool must_support(Kernel kernel, DType dtype, const Case& c, Layout layout) {
  if (kernel == Kernel::hopper || kernel == Kernel::cudnn) return false;  // depends on the device and the build
  if (kernel != Kernel::tensor_cores) return c.head_size <= 256;
  return dtype == DType::bf16 && c.head_size % 8 == 0 && c.head_size <= 128 && layout != Layout::unaligned;
}

void expect_gpu_parity(DType dtype, const Case& c, std::initializer_list<Layout> layouts,
                       std::span<const Kernel> kernels = kKernels) {
  SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << c);
  Workspace w(c.length + c.window + c.head_size);
  const Tensors host = host_tensors(w, dtype, c), exact = exact_tensors(w, host, c);
  for (const Layout layout : layouts)
    for (const Kernel kernel : kernels) {
      SCOPED_TRACE(testing::Message() << "kernel " << to_string(kernel) << ", layout " << int(layout));
      GpuWorkspace gpu;
      const OnGpu device(gpu, w, host, layout);
      if (!run_both(gpu.ctx, device.t, c, kernel, layout == Layout::wide)) {
        EXPECT_FALSE(must_support(kernel, dtype, c, layout));
        continue;
      }
      expect_parity(device.download(w), exact);
      device.expect_padding_untouched(w);
    }
}

TEST(WindowAttentionCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  const auto own_kernels = std::span(kKernels).first(std::size(kKernels) - 1);
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Case& c : all_cases()) expect_gpu_parity(dtype, c, {Layout::contiguous}, own_kernels);
}

// Few cases: each is two plans, which take the library long to make.
TEST(WindowAttentionCuda, CudnnMatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  const Kernel kernel = Kernel::cudnn;
  Workspace w;
  GpuWorkspace gpu;
  const Case probe{128, 2, 64, 20};
  try {
    run(gpu.ctx, forward_op(OnGpu(gpu, w, host_tensors(w, DType::bf16, probe), Layout::contiguous).t, probe, kernel));
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  std::vector<Case> cases = tiled_cases();
  for (const Case& c : {Case{1, 1, 16, 0}, Case{65, 2, 8, 5}, Case{70, 1, 32, -1}, Case{1000, 16, 64, 100},
                        Case{1000, 2, 64, 999}, Case{1024, 2, 64, 0}, Case{2100, 2, 64, 512}})
    cases.push_back(c);
  for (const Case& c : cases) expect_gpu_parity(DType::bf16, c, {Layout::contiguous, Layout::wide}, {&kernel, 1});
}

TEST(WindowAttentionCuda, RowsMayLieApart) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Case& c :
         {Case{65, 2, 16, 5}, Case{300, 3, 32, -1}, Case{200, 2, 64, 64}, Case{130, 2, 128, 70}, Case{77, 1, 24, 30}})
      expect_gpu_parity(dtype, c, {Layout::wide, Layout::unaligned});
}

TEST(WindowAttentionCuda, IsBitwiseRepeatable) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Case& c : {Case{3000, 4, 64, 300}, Case{3000, 4, 32, 300}, Case{1500, 2, 128, -1}})
      for (const Kernel kernel : kKernels) {
        Workspace w;
        GpuWorkspace gpu;
        const Tensors host = host_tensors(w, dtype, c);
        const OnGpu first(gpu, w, host, Layout::contiguous), second(gpu, w, host, Layout::contiguous);
        if (!run_both(gpu.ctx, first.t, c, kernel)) continue;
        for (int repeat = 0; repeat < 3; ++repeat) {
          ASSERT_TRUE(run_both(gpu.ctx, second.t, c, kernel));
          const Tensors a = first.download(w), b = second.download(w);
          for (Tensor Tensors::*member : kAll) EXPECT_TRUE(identical(a.*member, b.*member)) << to_string(kernel);
        }
      }
}

// Too long for the CPU in f64: the kernels are held to each other.
TEST(WindowAttentionCuda, KernelsAgreeOnALongSequence) {
  BOREAS_SKIP_WITHOUT_GPU();
  if (quick_tests()) GTEST_SKIP() << "quick tests only";
  const Case c{40333, 16, 64, 512};
  Workspace w;
  GpuWorkspace gpu;
  const Tensors host = host_tensors(w, DType::bf16, c);
  const OnGpu plain(gpu, w, host, Layout::contiguous);
  ASSERT_TRUE(run_both(gpu.ctx, plain.t, c, Kernel::generic));
  const Tensors expected = plain.download(w);
  for (const Kernel kernel : {Kernel::hopper, Kernel::tensor_cores}) {
    SCOPED_TRACE(to_string(kernel));
    const OnGpu device(gpu, w, host, Layout::contiguous);
    if (run_both(gpu.ctx, device.t, c, kernel)) expect_parity(device.download(w), expected);
  }
}

TEST(WindowAttentionCuda, SharpSoftmaxStaysFinite) {
  BOREAS_SKIP_WITHOUT_GPU();
  const Case c{300, 2, 64, 40};
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Kernel kernel : kKernels) {
      Workspace w;
      GpuWorkspace gpu;
      const OnGpu device(gpu, w, host_tensors(w, dtype, c), Layout::contiguous);
      auto forward = forward_op(device.t, c, kernel);
      auto backward = backward_op(device.t, c, kernel);
      forward.scale = backward.scale = 200;  // scores of some thousands
      try {
        run(gpu.ctx, forward);
        run(gpu.ctx, backward);
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::unsupported) << error.what();
        continue;
      }
      const Tensors results = device.download(w);
      for (Tensor Tensors::*member : kAll)
        for (const double value : values_of(results.*member))
          ASSERT_TRUE(std::isfinite(value)) << to_string(dtype) << " " << to_string(kernel);
    }
}

TEST(WindowAttentionCuda, SequencesWithoutRows) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const Case c{0, 2, 16, 3};
  const OnGpu device(gpu, w, host_tensors(w, DType::bf16, c), Layout::contiguous);
  EXPECT_TRUE(run_both(gpu.ctx, device.t, c, Kernel::automatic));
}

TEST(WindowAttentionCuda, PlansTheScratchThatItUses) {
  BOREAS_SKIP_WITHOUT_GPU();
  for (const Kernel kernel : kKernels) {
    Workspace w;
    GpuWorkspace gpu;
    const Case c{1000, 2, 64, 64};
    const OnGpu device(gpu, w, host_tensors(w, DType::bf16, c), Layout::contiguous);
    Arena counting;
    Context plan(Device::cuda(0), counting, Mode::plan);
    ASSERT_TRUE(run_both(plan, device.t, c, kernel));
    EXPECT_GT(counting.peak_bytes(), 0);
    if (run_both(gpu.ctx, device.t, c, kernel)) {
      EXPECT_EQ(counting.peak_bytes(), gpu.ctx.arena().peak_bytes());
    }
  }
}

TEST(WindowAttentionCuda, SaysWhatIsNotSupported) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  const auto forward = [&](DType dtype, const Case& c, Kernel kernel) {
    const Tensor x(gpu.ctx.arena().borrow(Keep::scratch, 1 << 16), dtype, {c.length, c.num_heads * c.head_size},
                   gpu.ctx.device());
    const Tensor stats(x.data(), accumulator_of(dtype), {c.length, c.num_heads}, gpu.ctx.device());
    run(gpu.ctx, forward_op({.q = x, .k = x, .v = x, .o = x, .stats = stats}, c, kernel));
  };
  BOREAS_EXPECT_ERROR(forward(DType::f64, {4, 2, 16, 1}, Kernel::automatic), unsupported,
                      "no CUDA kernel on this device for f64 [4, 32] with heads of 16 channels");
  BOREAS_EXPECT_ERROR(forward(DType::bf16, {4, 1, 264, 1}, Kernel::automatic), unsupported, "heads of 264 channels");
  BOREAS_EXPECT_ERROR(forward(DType::f32, {4, 2, 16, 1}, Kernel::tensor_cores), unsupported, "no tensor_cores kernel");
  BOREAS_EXPECT_ERROR(forward(DType::f32, {4, 2, 16, 1}, Kernel::cudnn), unsupported, "no cudnn kernel");
}

}  // namespace
}  // namespace boreas::test
