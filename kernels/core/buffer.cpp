#include "kernels/core/buffer.h"

#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#ifdef BOREAS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace boreas {

namespace {

// Bookkeeping only: no result depends on it.
struct Ledger {
  std::mutex mutex;
  struct Entry {
    int64_t all = 0, on_devices = 0;
  };
  std::map<std::string, Entry> entries;
  void add(const std::string& label, int64_t bytes, detail::MemoryKind kind) {
    const std::lock_guard lock(mutex);
    entries[label].all += bytes;
    if (kind == detail::MemoryKind::device) entries[label].on_devices += bytes;
  }
  int64_t sum(const std::string& label, int64_t Entry::*member) {
    const std::lock_guard lock(mutex);
    int64_t total = 0;
    for (const auto& [name, entry] : entries)
      if (label.empty() || name == label) total += entry.*member;
    return total;
  }
};
Ledger& ledger() {
  static Ledger* const instance = new Ledger;  // never destroyed: buffers of static lifetime may outlive it otherwise
  return *instance;
}

detail::MemoryKind memory_kind(Device device, Buffer::Kind kind) {
  if (!device.is_cuda() || kind == Buffer::Kind::host) return detail::MemoryKind::host;
  return kind == Buffer::Kind::pinned ? detail::MemoryKind::pinned : detail::MemoryKind::device;
}

}  // namespace

Buffer::Buffer(Device device, Kind kind, int64_t bytes, std::string label)
    : device_(device), kind_(kind), bytes_(bytes), label_(std::move(label)) {
  BOREAS_CHECK(bytes >= 0, invalid_argument, "buffer '{}' of {} bytes", label_, bytes);
  data_ = detail::allocate(device, memory_kind(device, kind), bytes);
  ledger().add(label_, bytes_, memory_kind(device, kind));
}

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_),
      kind_(other.kind_),
      bytes_(std::exchange(other.bytes_, 0)),
      data_(std::exchange(other.data_, nullptr)),
      label_(std::move(other.label_)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    this->~Buffer();
    new (this) Buffer(std::move(other));
  }
  return *this;
}

Buffer::~Buffer() {
  if (!data_) return;
  detail::release(device_, memory_kind(device_, kind_), data_);
  ledger().add(label_, -bytes_, memory_kind(device_, kind_));
}

void Buffer::zero() const {
  if (bytes_ == 0 || device_.is_planned()) return;
  if (memory_kind(device_, kind_) != detail::MemoryKind::device) {
    std::memset(data_, 0, bytes_);
    return;
  }
#ifdef BOREAS_WITH_CUDA
  cudaSetDevice(device_.index);
  BOREAS_CHECK(cudaMemset(data_, 0, bytes_) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess, device,
               "zeroing buffer '{}' failed", label_);
#endif
}

Tensor Buffer::tensor(DType dtype, Shape shape, int64_t offset) const {
  const int64_t wanted = shape.size() * size_of(dtype);
  BOREAS_CHECK(offset >= 0 && offset + wanted <= bytes_, shape, "{} {} at byte {} is outside buffer '{}' of {} bytes",
               to_string(dtype), to_string(shape), offset, label_, bytes_);
  const Device where = memory_kind(device_, kind_) == detail::MemoryKind::device ? device_ : Device::cpu();
  return Tensor(static_cast<char*>(data_) + offset, dtype, shape, where);
}

int64_t live_bytes(const std::string& label) { return ledger().sum(label, &Ledger::Entry::all); }

int64_t live_device_bytes(const std::string& label) { return ledger().sum(label, &Ledger::Entry::on_devices); }

}  // namespace boreas
