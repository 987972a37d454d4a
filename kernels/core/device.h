// Devices and streams. Everything here works in a build without CUDA, where only the CPU exists.
#pragma once

#include <cstdint>
#include <string>

namespace boreas {

struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  static Device cpu() { return {}; }
  static Device cuda(int index) { return {Kind::cuda, index}; }
  bool is_cuda() const { return kind == Kind::cuda; }
  bool operator==(const Device&) const = default;
};

std::string to_string(Device device);

/// Number of CUDA devices that this process sees; 0 in a build without CUDA or on a machine without a driver.
int num_cuda_devices();

/// An ordered queue of work on a device; on the CPU a no-op, because CPU work is done when its call returns.
class Stream {
 public:
  explicit Stream(Device device);
  ~Stream();
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&&) = delete;

  Device device() const { return device_; }
  void synchronize() const;
  void* native() const { return native_; }  ///< cudaStream_t, or null on the CPU

 private:
  Device device_;
  void* native_ = nullptr;
};

/// Raw memory of a device. Only Buffer calls these.
namespace detail {
enum class MemoryKind : uint8_t { host, pinned, device };
void* allocate(Device device, MemoryKind kind, int64_t bytes);
void release(Device device, MemoryKind kind, void* data) noexcept;
}  // namespace detail

/// Copies bytes between any two places (host or device); queued on `stream` when a device takes part: host memory must
/// then stay as it is until the stream has come there, and only copies from and to pinned memory overlap other work.
void copy_bytes(const Stream& stream, void* dst, Device dst_device, const void* src, Device src_device, int64_t bytes);
/// The same, done when this returns; not ordered with what streams still have to do.
void copy_now(void* dst, Device dst_device, const void* src, Device src_device, int64_t bytes);

}  // namespace boreas
