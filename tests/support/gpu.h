// GPU tests: a context on the first GPU, and tensors moved there and back. Compiles in every build.
#pragma once

#include <gtest/gtest.h>

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

#include <cstdlib>
#include <deque>

#include "tests/support/fixtures.h"

/// Skips the test, with the reason, where no GPU can be used.
#ifdef BOREAS_WITH_CUDA
#define BOREAS_SKIP_WITHOUT_GPU() \
  if (::boreas::num_cuda_devices() == 0) GTEST_SKIP() << "no CUDA device is visible"
#else
#define BOREAS_SKIP_WITHOUT_GPU() GTEST_SKIP() << "this build has no CUDA backend (-DBOREAS_CUDA=ON)"
#endif

namespace boreas::test {

/// Whether only small cases are wanted, because a tool that watches every access makes kernels slow.
inline bool quick_tests() { return std::getenv("BOREAS_QUICK_TESTS") != nullptr; }

/// Owns an arena, a context and tensors on a GPU. All memory begins as NaN, so that what a kernel reads without anyone
/// having written it spoils the result.
class GpuWorkspace {
  Device device_;
  std::deque<Buffer> buffers_;
  Arena arena_;

  Buffer spoiled(int64_t bytes, const char* name) const {
    Buffer buffer = Buffer::on(device_, bytes, name);
#ifdef BOREAS_WITH_CUDA
    EXPECT_EQ(cudaMemset(buffer.data(), 0xff, size_t(bytes)), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // other streams do not wait for it
#endif
    return buffer;
  }

 public:
  Context ctx;

  explicit GpuWorkspace(int64_t arena_bytes = int64_t{64} << 20) : GpuWorkspace(Device::cuda(0), arena_bytes) {}
  explicit GpuWorkspace(Device device, int64_t arena_bytes = int64_t{64} << 20)
      : device_(device), arena_(spoiled(arena_bytes, "test arena")), ctx(device, arena_) {}
  GpuWorkspace(const GpuWorkspace&) = delete;

  /// A contiguous copy on the GPU; slices of it are strided.
  Tensor upload(const Tensor& host) {
    const int64_t bytes = (std::max<int64_t>(host.bytes(), 1) + 15) / 16 * 16;
    const Tensor device = buffers_.emplace_back(spoiled(bytes, "test")).tensor(host.dtype(), host.shape());
    copy(device, host);
    return device;
  }

  /// A copy that is a column slice of a wider matrix: strided and, with an odd number of columns before it, not
  /// aligned.
  Tensor upload_strided(const Tensor& host, int64_t columns_before = 1, int64_t columns_after = 4) {
    const int64_t width = columns_before + host.cols() + columns_after;
    const int64_t bytes = std::max<int64_t>(host.rows(), 1) * width * size_of(host.dtype());
    const Tensor wide = buffers_.emplace_back(spoiled(bytes, "test")).tensor(host.dtype(), {host.rows(), width});
    const Tensor device = wide.columns({columns_before, columns_before + host.cols()});
    copy(device, host);
    return device;
  }

  /// Copies the elements of a tensor, on either side, over those of another.
  void copy(const Tensor& to, const Tensor& from) {
    const int64_t element = size_of(from.dtype());
    const bool whole = to.contiguous() && from.contiguous();
    for (int64_t i = 0; i < (whole ? 1 : from.rows()); ++i)
      copy_bytes(ctx.compute(), static_cast<char*>(to.data()) + i * to.row_stride() * element, to.device(),
                 static_cast<const char*>(from.data()) + i * from.row_stride() * element, from.device(),
                 (whole ? from.size() : from.cols()) * element);
    ctx.compute().synchronize();
  }

  /// A contiguous copy on the host, owned by `workspace`.
  Tensor download(Workspace& workspace, const Tensor& device) {
    const Tensor host = workspace.output(device.dtype(), device.shape());
    copy(host, device);
    return host;
  }
};

}  // namespace boreas::test
