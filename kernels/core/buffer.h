// Buffer: the owner of memory that lives as long as an object.
#pragma once

#include <string>

#include "kernels/core/tensor.h"

namespace boreas {

/// Move-only owner of host, pinned or device bytes, 256-byte aligned. What lives for a step comes from the Arena;
/// everything else is a Buffer: parameters, gradients, moments, graph indices, staging, the arena slab itself.
/// Every live byte is counted by label (see `live_bytes`), so a plan can be compared with what was really taken.
class Buffer {
 public:
  enum class Kind : uint8_t { host, pinned, device };  ///< on the CPU device all three are host memory

  Buffer() = default;
  Buffer(Device device, Kind kind, int64_t bytes, std::string label);
  /// Memory that ops on `device` can use.
  static Buffer on(Device device, int64_t bytes, std::string label) {
    return Buffer(device, Kind::device, bytes, std::move(label));
  }
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  int64_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  Device device() const { return device_; }
  const std::string& label() const { return label_; }

  void zero() const;
  /// View of the bytes from `offset` as a tensor; throws if it does not fit.
  Tensor tensor(DType dtype, Shape shape, int64_t offset = 0) const;

 private:
  Device device_;
  Kind kind_ = Kind::host;
  int64_t bytes_ = 0;
  void* data_ = nullptr;
  std::string label_;
};

/// Bytes of all live buffers of this process with that label, or of all labels if it is empty.
int64_t live_bytes(const std::string& label = "");
/// Those of them in the memory of GPUs, planned ones included.
int64_t live_device_bytes(const std::string& label = "");

}  // namespace boreas
