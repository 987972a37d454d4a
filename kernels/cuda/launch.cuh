// What every launcher of CUDA kernels needs.
#pragma once

#include <cuda_runtime.h>

#include "kernels/core/context.h"

/// Right after a launch: throws `device` if it was refused. What happens inside the kernel shows at the next wait.
#define BOREAS_CUDA_LAUNCHED(name)                                                                                   \
  do {                                                                                                               \
    const cudaError_t status_ = cudaGetLastError();                                                                  \
    BOREAS_CHECK(status_ == cudaSuccess, device, "{} could not be launched: {}", name, cudaGetErrorString(status_)); \
  } while (false)

namespace boreas::cuda {

inline cudaStream_t stream_of(Context& ctx) { return static_cast<cudaStream_t>(ctx.compute().native()); }

}  // namespace boreas::cuda
