#include "kernels/core/device.h"

#include <cstdlib>
#include <cstring>

#include "kernels/core/error.h"

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#define BOREAS_CUDA(call)                                                                              \
  do {                                                                                                 \
    const cudaError_t status_ = (call);                                                                \
    BOREAS_CHECK(status_ == cudaSuccess, device, "{} failed: {}", #call, cudaGetErrorString(status_)); \
  } while (false)
#endif

namespace boreas {

namespace {
#ifndef BOREAS_WITH_CUDA
[[noreturn]] void fail_without_cuda() {
  BOREAS_FAIL(unsupported,
              "this build has no CUDA support; configure with -DBOREAS_CUDA=ON on a machine with the CUDA toolkit");
}
#endif
constexpr int64_t kAlignment = 256;
}  // namespace

std::string to_string(Device device) { return device.is_cuda() ? fmt::format("cuda:{}", device.index) : "cpu"; }

int num_cuda_devices() {
#ifdef BOREAS_WITH_CUDA
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
#else
  return 0;
#endif
}

Stream::Stream(Device device) : device_(device) {
  if (!device.is_cuda()) return;
#ifdef BOREAS_WITH_CUDA
  BOREAS_CUDA(cudaSetDevice(device.index));
  cudaStream_t stream = nullptr;
  BOREAS_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  native_ = stream;
#else
  fail_without_cuda();
#endif
}

Stream::Stream(Stream&& other) noexcept : device_(other.device_), native_(std::exchange(other.native_, nullptr)) {}

Stream::~Stream() {
#ifdef BOREAS_WITH_CUDA
  if (native_) cudaStreamDestroy(static_cast<cudaStream_t>(native_));
#endif
}

void Stream::synchronize() const {
#ifdef BOREAS_WITH_CUDA
  if (device_.is_cuda()) BOREAS_CUDA(cudaStreamSynchronize(static_cast<cudaStream_t>(native_)));
#endif
}

namespace detail {

void* allocate(Device device, MemoryKind kind, int64_t bytes) {
  if (bytes == 0) return nullptr;
  if (kind == MemoryKind::host) {
    void* data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    BOREAS_CHECK(data, out_of_memory, "the host has no room for another {} bytes", bytes);
    return data;
  }
#ifdef BOREAS_WITH_CUDA
  void* data = nullptr;
  BOREAS_CUDA(cudaSetDevice(device.index));
  const cudaError_t status =
      kind == MemoryKind::pinned ? cudaHostAlloc(&data, bytes, cudaHostAllocDefault) : cudaMalloc(&data, bytes);
  BOREAS_CHECK(status == cudaSuccess, out_of_memory, "{} has no room for another {} bytes: {}", to_string(device),
               bytes, cudaGetErrorString(status));
  return data;
#else
  (void)device;
  fail_without_cuda();
#endif
}

void release(Device device, MemoryKind kind, void* data) noexcept {
  if (!data) return;
  if (kind == MemoryKind::host) return std::free(data);
#ifdef BOREAS_WITH_CUDA
  cudaSetDevice(device.index);
  if (kind == MemoryKind::pinned)
    cudaFreeHost(data);
  else
    cudaFree(data);
#else
  (void)device;
#endif
}

}  // namespace detail

void copy_bytes(const Stream& stream, void* dst, Device dst_device, const void* src, Device src_device, int64_t bytes) {
  if (bytes == 0) return;
  if (!dst_device.is_cuda() && !src_device.is_cuda()) {
    std::memcpy(dst, src, bytes);
    return;
  }
#ifdef BOREAS_WITH_CUDA
  BOREAS_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream.native())));
#else
  (void)stream;
  fail_without_cuda();
#endif
}

void copy_now(void* dst, Device dst_device, const void* src, Device src_device, int64_t bytes) {
  const Stream stream(dst_device.is_cuda() ? dst_device : src_device);
  copy_bytes(stream, dst, dst_device, src, src_device, bytes);
  stream.synchronize();
}

}  // namespace boreas
