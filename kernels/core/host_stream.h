// HostStream: the queue of a program that boreas is a part of, and where its addresses lie.
#pragma once

#include "kernels/core/device.h"

namespace boreas {

/// A cudaStream_t that belongs to someone else; null is CUDA's default one.
class HostStream {
 public:
  HostStream(Device device, void* native) : device_(device), native_(native) {}
  ~HostStream();
  HostStream(const HostStream&) = delete;

  void before(const Stream& own);  ///< what is queued on ours from here on comes after what the host has queued
  void after(const Stream& own);   ///< and what the host queues from here on after what is queued on ours

 private:
  Device device_;
  void* native_;
  void* event_ = nullptr;
};

/// The GPU whose memory an address is in; the CPU for all else.
Device device_of(const void* address);

}  // namespace boreas
