// 16-byte loads and stores of storage types, converted to and from the type that sums are kept in.
#pragma once

#include <cuda_bf16.h>

#include <cstring>

#include "kernels/core/dtype.h"

namespace boreas::cuda {

template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

template <class T>
__device__ inline Accumulator<T> widen(T value) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return __uint_as_float(uint32_t(value.bits) << 16);
  else
    return value;
}

/// To bf16: to nearest, ties to even.
template <class T>
__device__ inline T narrow(Accumulator<T> value) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    const __nv_bfloat16 rounded = __float2bfloat16_rn(value);
    T out;
    memcpy(static_cast<void*>(&out), &rounded, sizeof(out));
    return out;
  } else {
    return value;
  }
}

template <class T>
inline constexpr int kVectorSize = 16 / int(sizeof(T));

/// `from` and `to` must be 16-byte aligned.
template <class T>
__device__ inline void load_vector(const T* from, Accumulator<T> (&to)[kVectorSize<T>]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(from);
  T values[kVectorSize<T>];
  memcpy(static_cast<void*>(values), &raw, sizeof(raw));
#pragma unroll
  for (int k = 0; k < kVectorSize<T>; ++k) to[k] = widen(values[k]);
}

template <class T>
__device__ inline void store_vector(T* to, const Accumulator<T> (&from)[kVectorSize<T>]) {
  T values[kVectorSize<T>];
#pragma unroll
  for (int k = 0; k < kVectorSize<T>; ++k) values[k] = narrow<T>(from[k]);
  uint4 raw;
  memcpy(&raw, values, sizeof(raw));
  *reinterpret_cast<uint4*>(to) = raw;
}

}  // namespace boreas::cuda
