// How kernels are launched and get at their dynamic shared memory. Kernels and launchers that keep to this, to
// shuffles, barriers and what matrix.cuh has can be run on the CPU too: see tests/support/cuda_emulation/emulation.h.
#pragma once

#include <type_traits>

#include "kernels/cuda/launch.cuh"

namespace boreas::cuda {

/// Where the dynamic shared memory of the block begins, aligned to 128 bytes.
template <class T>
__device__ inline T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char boreas_dynamic_shared[];
  return reinterpret_cast<T*>(boreas_dynamic_shared);
}

/// Launches a kernel, after it was allowed as much shared memory as it wants.
template <class... P>
void launch_kernel(void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared_bytes, cudaStream_t stream,
                   const std::type_identity_t<P>&... arguments) {
  constexpr int64_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    BOREAS_CHECK(status == cudaSuccess, device, "a kernel needs {} bytes of shared memory a block: {}", shared_bytes,
                 cudaGetErrorString(status));
  }
  kernel<<<grid, block, size_t(shared_bytes), stream>>>(arguments...);
  BOREAS_CUDA_LAUNCHED("a kernel");
}

}  // namespace boreas::cuda
