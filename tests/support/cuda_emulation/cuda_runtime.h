// The part of CUDA's language and headers that kernels use, for the emulation (see emulation.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "tests/support/cuda_emulation/emulation.h"

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

#define threadIdx (::boreas::emulation::Block::current().thread_index())
#define blockIdx (::boreas::emulation::Block::current().block_index)
#define blockDim (::boreas::emulation::Block::current().block_size)
#define gridDim (::boreas::emulation::Block::current().grid_size)

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) int2 {
  int32_t x, y;
};
struct alignas(16) int4 {
  int32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline int2 make_int2(int32_t x, int32_t y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline void __syncthreads() { boreas::emulation::Block::current().sync_threads(); }
inline void __syncwarp(unsigned = ~0u) {
  boreas::emulation::Block::current().meet(boreas::emulation::Meeting::barrier, nullptr, 0);
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return boreas::emulation::exchange(value, [&](int) { return lane; });
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return boreas::emulation::exchange(value, [&](int lane) { return lane ^ mask; });
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta) {
  return boreas::emulation::exchange(value, [&](int lane) { return lane + delta < 32 ? lane + delta : lane; });
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta) {
  return boreas::emulation::exchange(value, [&](int lane) { return lane >= delta ? lane - delta : lane; });
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const auto words = boreas::emulation::Block::current().meet(boreas::emulation::Meeting::exchange, &predicate, 4);
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane) result |= unsigned(uint32_t(words[lane][0]) != 0) << lane;
  return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == ~0u; }

inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __int_as_float(int32_t x) { return std::bit_cast<float>(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= uint32_t(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xFF) << (8 * i);
  return result;
}
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}
template <class T>
void __stwb(T* address, T value) {
  *address = value;
}
using std::isfinite;
using std::isnan;
using std::max;
using std::min;
