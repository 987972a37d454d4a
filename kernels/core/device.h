// Devices and streams. Everything here works in a build without CUDA, where only the CPU exists.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace boreas {

struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  static Device cpu() { return {}; }
  static Device cuda(int index) { return {Kind::cuda, index}; }
  /// The GPU of a memory plan, which the machine need not have: buffers on it are counted but have no memory, copies to
  /// and from it do nothing.
  static Device planned_cuda() { return {Kind::cuda, -1}; }
  bool is_cuda() const { return kind == Kind::cuda; }
  bool is_planned() const { return index < 0; }
  bool operator==(const Device&) const = default;
};

std::string to_string(Device device);

/// Number of CUDA devices that this process sees; 0 in a build without CUDA or on a machine without a driver.
int num_cuda_devices();
/// Why this process can not compute on a GPU, in words; empty if it can.
std::string why_no_cuda();

struct DeviceMemory {
  int64_t total = 0, free = 0;  ///< bytes, as the driver sees them
};
DeviceMemory memory_of(Device device);  ///< of a GPU that exists
std::string name_of(Device device);     ///< of a GPU that exists: "NVIDIA H200"
std::string uuid_of(Device device);     ///< of a GPU that exists: its name among all, as nvidia-smi -L prints it

class Event;

/// An ordered queue of work on a device; on the CPU a no-op, because CPU work is done when its call returns. It is made
/// when it is first used, so that a context that only plans needs no GPU. Used by one thread at a time.
class Stream {
 public:
  enum class Priority : uint8_t { normal, high };  ///< high: its work goes before that of others as places come free
  explicit Stream(Device device, Priority priority = Priority::normal) : device_(device), priority_(priority) {}
  ~Stream();
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&&) = delete;

  Device device() const { return device_; }
  void synchronize() const;
  void wait(const Event& event) const;  ///< what is queued from here on begins after the event
  void* native() const;                 ///< cudaStream_t, or null on the CPU

 private:
  Device device_;
  Priority priority_ = Priority::normal;
  mutable void* native_ = nullptr;
};

/// A point in the order of a stream. On the CPU the moment of record(). An event that was never recorded has happened.
class Event {
 public:
  explicit Event(Device device) : device_(device) {}
  ~Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&&) = delete;

  void record(const Stream& stream);
  void synchronize() const;  ///< the host waits for it
  /// Time between two events that have happened.
  double seconds_since(const Event& earlier) const;

 private:
  friend class Stream;
  Device device_;
  void* native_ = nullptr;
  std::chrono::steady_clock::time_point moment_;
};

/// Work that was queued on a stream once, to be queued again as a whole (a CUDA graph): the same kernels on the same
/// addresses with the same numbers.
class Recording {
 public:
  /// Calls `work`, which queues on `stream` and on streams that fork from it and join it again, allocates nothing and
  /// waits for nothing; what it queues is recorded, not done.
  Recording(const Stream& stream, const std::function<void()>& work);
  ~Recording();
  Recording(Recording&& other) noexcept;
  Recording& operator=(Recording&&) = delete;

  void launch(const Stream& stream) const;

 private:
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
