// kernels/cuda/kernel.cuh for the emulation.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace boreas::cuda {

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulation::Block::current().shared());
}

template <class... P>
void launch_kernel(void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared_bytes, cudaStream_t,
                   const std::type_identity_t<P>&... arguments) {
  emulation::launch(grid, block, size_t(shared_bytes), [&] { kernel(arguments...); });
}

}  // namespace boreas::cuda
