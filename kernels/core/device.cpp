#include "kernels/core/device.h"

#include <cstdlib>
#include <cstring>

#include "kernels/core/error.h"

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#define BOREAS_CUDA(call)                                                                              \
  do {                                                                                                 \
    const cudaError_t status_ = (call);                                                                \
    if (status_ != cudaSuccess) (void)cudaGetLastError(); /* the next launch must not report it too */ \
    BOREAS_CHECK(status_ == cudaSuccess, device, "{} failed: {}", #call, cudaGetErrorString(status_)); \
  } while (false)
#endif

namespace boreas {

namespace {
#ifndef BOREAS_WITH_CUDA
[[noreturn]] void fail_without_cuda() { BOREAS_FAIL(unsupported, "{}", why_no_cuda()); }
#else
constexpr int kLeastMajor = 8;  // compute capability of the oldest GPUs that kernels are compiled for

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

cudaStream_t native_of(const Stream& stream) { return static_cast<cudaStream_t>(stream.native()); }

bool computes(Device device) { return device.is_cuda() && !device.is_planned(); }
#endif
constexpr int64_t kAlignment = 256;

// What planned buffers have for an address: nobody may touch it, it only keeps "empty" and "not empty" apart.
void* const kPlannedMemory = reinterpret_cast<void*>(int64_t{1} << 44);
}  // namespace

std::string to_string(Device device) {
  if (!device.is_cuda()) return "cpu";
  return device.is_planned() ? "cuda (planned)" : fmt::format("cuda:{}", device.index);
}

int num_cuda_devices() {
#ifdef BOREAS_WITH_CUDA
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();
  return 0;
#else
  return 0;
#endif
}

std::string why_no_cuda() {
#ifdef BOREAS_WITH_CUDA
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver > 0)
      return fmt::format("the driver serves CUDA {} but this build was made with CUDA {}; update the driver",
                         version_text(driver), version_text(CUDART_VERSION));
    return "no NVIDIA driver is installed";
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
    return "no GPU is visible; see `nvidia-smi` and CUDA_VISIBLE_DEVICES";
  if (status != cudaSuccess) return fmt::format("the CUDA driver says: {}", cudaGetErrorString(status));
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) == cudaSuccess && properties.major < kLeastMajor)
    return fmt::format("{} has compute capability {}.{}; boreas needs {}.0 (Ampere) or later", properties.name,
                       properties.major, properties.minor, kLeastMajor);
  return {};
#else
  return "this build has no CUDA support; configure with -DBOREAS_CUDA=ON on a machine with the CUDA toolkit";
#endif
}

DeviceMemory memory_of(Device device) {
#ifdef BOREAS_WITH_CUDA
  size_t free = 0, total = 0;
  BOREAS_CUDA(cudaSetDevice(device.index));
  BOREAS_CUDA(cudaMemGetInfo(&free, &total));
  return {int64_t(total), int64_t(free)};
#else
  (void)device;
  fail_without_cuda();
#endif
}

std::string name_of(Device device) {
#ifdef BOREAS_WITH_CUDA
  cudaDeviceProp properties;
  BOREAS_CUDA(cudaGetDeviceProperties(&properties, device.index));
  return properties.name;
#else
  (void)device;
  fail_without_cuda();
#endif
}

std::string uuid_of(Device device) {
#ifdef BOREAS_WITH_CUDA
  cudaDeviceProp properties;
  BOREAS_CUDA(cudaGetDeviceProperties(&properties, device.index));
  std::string text = "GPU";
  for (int i = 0; i < 16; ++i)
    text += fmt::format("{}{:02x}", i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                        static_cast<unsigned char>(properties.uuid.bytes[i]));
  return text;
#else
  (void)device;
  fail_without_cuda();
#endif
}

Stream::Stream(Stream&& other) noexcept
    : device_(other.device_), priority_(other.priority_), native_(std::exchange(other.native_, nullptr)) {}

Stream::~Stream() {
#ifdef BOREAS_WITH_CUDA
  if (native_) cudaStreamDestroy(static_cast<cudaStream_t>(native_));
#endif
}

void* Stream::native() const {
  if (native_ || !device_.is_cuda()) return native_;
  BOREAS_CHECK(!device_.is_planned(), internal, "work for a GPU that is only planned for");
#ifdef BOREAS_WITH_CUDA
  BOREAS_CUDA(cudaSetDevice(device_.index));
  cudaStream_t stream = nullptr;
  int lowest = 0, highest = 0;
  BOREAS_CUDA(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  BOREAS_CUDA(
      cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority_ == Priority::high ? highest : lowest));
  return native_ = stream;
#else
  fail_without_cuda();
#endif
}

void Stream::synchronize() const {
#ifdef BOREAS_WITH_CUDA
  if (native_) BOREAS_CUDA(cudaStreamSynchronize(native_of(*this)));
#endif
}

void Stream::wait(const Event& event) const {
#ifdef BOREAS_WITH_CUDA
  if (event.native_) BOREAS_CUDA(cudaStreamWaitEvent(native_of(*this), static_cast<cudaEvent_t>(event.native_), 0));
#else
  (void)event;
#endif
}

Event::Event(Event&& other) noexcept
    : device_(other.device_), native_(std::exchange(other.native_, nullptr)), moment_(other.moment_) {}

Event::~Event() {
#ifdef BOREAS_WITH_CUDA
  if (native_) cudaEventDestroy(static_cast<cudaEvent_t>(native_));
#endif
}

void Event::record(const Stream& stream) {
  moment_ = std::chrono::steady_clock::now();
#ifdef BOREAS_WITH_CUDA
  if (!computes(device_)) return;
  if (!native_) {
    BOREAS_CUDA(cudaSetDevice(device_.index));
    cudaEvent_t event = nullptr;
    BOREAS_CUDA(cudaEventCreate(&event));
    native_ = event;
  }
  BOREAS_CUDA(cudaEventRecord(static_cast<cudaEvent_t>(native_), native_of(stream)));
#else
  (void)stream;
#endif
}

void Event::synchronize() const {
#ifdef BOREAS_WITH_CUDA
  if (native_) BOREAS_CUDA(cudaEventSynchronize(static_cast<cudaEvent_t>(native_)));
#endif
}

double Event::seconds_since(const Event& earlier) const {
#ifdef BOREAS_WITH_CUDA
  if (native_ && earlier.native_) {
    float milliseconds = 0;
    BOREAS_CUDA(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(earlier.native_),
                                     static_cast<cudaEvent_t>(native_)));
    return milliseconds * 1e-3;
  }
#endif
  return std::chrono::duration<double>(moment_ - earlier.moment_).count();
}

Recording::Recording(const Stream& stream, const std::function<void()>& work) {
#ifdef BOREAS_WITH_CUDA
  BOREAS_CUDA(cudaStreamBeginCapture(native_of(stream), cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(native_of(stream), &graph);
    if (graph) cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    throw;
  }
  BOREAS_CUDA(cudaStreamEndCapture(native_of(stream), &graph));
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  BOREAS_CHECK(status == cudaSuccess, device, "a recorded step cannot be made ready: {}", cudaGetErrorString(status));
  native_ = executable;
#else
  (void)stream, (void)work;
  fail_without_cuda();
#endif
}

Recording::Recording(Recording&& other) noexcept : native_(std::exchange(other.native_, nullptr)) {}

Recording::~Recording() {
#ifdef BOREAS_WITH_CUDA
  if (native_) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(native_));
#endif
}

void Recording::launch(const Stream& stream) const {
#ifdef BOREAS_WITH_CUDA
  BOREAS_CUDA(cudaGraphLaunch(static_cast<cudaGraphExec_t>(native_), native_of(stream)));
#else
  (void)stream;
#endif
}

namespace detail {

void* allocate(Device device, MemoryKind kind, int64_t bytes) {
  if (bytes == 0) return nullptr;
  if (kind == MemoryKind::device && device.is_planned()) return kPlannedMemory;
  if (kind == MemoryKind::host || device.is_planned()) {
    void* data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    BOREAS_CHECK(data, out_of_memory, "the host has no room for another {} bytes", bytes);
    return data;
  }
#ifdef BOREAS_WITH_CUDA
  void* data = nullptr;
  BOREAS_CUDA(cudaSetDevice(device.index));
  const cudaError_t status =
      kind == MemoryKind::pinned ? cudaHostAlloc(&data, bytes, cudaHostAllocDefault) : cudaMalloc(&data, bytes);
  if (status != cudaSuccess) (void)cudaGetLastError();  // the next launch must not report it again
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
  if (data == kPlannedMemory) return;
  if (kind == MemoryKind::host || device.is_planned()) return std::free(data);
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
  if (bytes == 0 || dst_device.is_planned() || src_device.is_planned()) return;
  if (!dst_device.is_cuda() && !src_device.is_cuda()) {
    std::memcpy(dst, src, bytes);
    return;
  }
#ifdef BOREAS_WITH_CUDA
  BOREAS_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, native_of(stream)));
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
