// Wide loads and stores of storage types, converted to and from the type that sums are kept in.
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

template <int kBytes>
struct WordOf;
template <>
struct WordOf<1> {
  using type = uint8_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};
/// What one load or store of that many bytes moves.
template <int kBytes>
using Word = typename WordOf<kBytes>::type;

/// Reads kSize elements (aligned to their bytes), or the first `available` of them if that is less.
template <int kSize, class T>
__device__ inline void load_elements(const T* from, int64_t available, Accumulator<T> (&to)[kSize]) {
  T values[kSize];
  if (available >= kSize) {
    const auto raw = *reinterpret_cast<const Word<kSize * sizeof(T)>*>(from);
    memcpy(static_cast<void*>(values), &raw, sizeof(raw));
  } else {
#pragma unroll
    for (int k = 0; k < kSize; ++k) values[k] = from[k < available ? k : 0];
  }
#pragma unroll
  for (int k = 0; k < kSize; ++k) to[k] = widen(values[k]);
}

/// Writes kSize elements (aligned to their bytes), or the first `available` of them if that is less.
template <int kSize, class T>
__device__ inline void store_elements(T* to, int64_t available, const Accumulator<T> (&from)[kSize]) {
  T values[kSize];
#pragma unroll
  for (int k = 0; k < kSize; ++k) values[k] = narrow<T>(from[k]);
  if (available >= kSize) {
    Word<kSize * sizeof(T)> raw;
    memcpy(&raw, values, sizeof(raw));
    *reinterpret_cast<Word<kSize * sizeof(T)>*>(to) = raw;
  } else {
#pragma unroll
    for (int k = 0; k < kSize; ++k)
      if (k < available) to[k] = values[k];
  }
}

}  // namespace boreas::cuda
