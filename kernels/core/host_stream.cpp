#include "kernels/core/host_stream.h"

#include "kernels/core/error.h"

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace boreas {

#ifdef BOREAS_WITH_CUDA

namespace {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // the next launch must not report it too
  BOREAS_FAIL(device, "{} on the stream of the host failed: {}", what, cudaGetErrorString(status));
}

// What is queued on `second` from here on comes after what is queued on `first`.
void order(Device device, void*& event, void* first, void* second) {
  check(cudaSetDevice(device.index), "cudaSetDevice");
  if (!event) {
    cudaEvent_t made = nullptr;
    check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "cudaEventCreate");
    event = made;
  }
  check(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(first)), "cudaEventRecord");
  check(cudaStreamWaitEvent(static_cast<cudaStream_t>(second), static_cast<cudaEvent_t>(event), 0),
        "cudaStreamWaitEvent");
}

}  // namespace

HostStream::~HostStream() {
  if (event_) cudaEventDestroy(static_cast<cudaEvent_t>(event_));
}

void HostStream::before(const Stream& own) { order(device_, event_, native_, own.native()); }
void HostStream::after(const Stream& own) { order(device_, event_, own.native(), native_); }

Device device_of(const void* address) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, address) != cudaSuccess) {
    (void)cudaGetLastError();
    return Device::cpu();
  }
  const bool on_gpu = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return on_gpu ? Device::cuda(attributes.device) : Device::cpu();
}

#else

HostStream::~HostStream() { (void)device_, (void)native_, (void)event_; }
void HostStream::before(const Stream&) {}
void HostStream::after(const Stream&) {}
Device device_of(const void*) { return Device::cpu(); }

#endif

}  // namespace boreas
