// Short vectors for CPU kernels whose accumulators must stay in registers.
#pragma once

#include <cstdint>

// Everything here is inlined, so how a vector would be passed between functions does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace boreas::simd {

/// N lanes of T with elementwise + - * / among themselves and with T. N is a power of two; the compiler splits a vector
/// that is wider than the processor's.
template <class T, int N>
struct VecOf {
  typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T, int N>
using Vec = typename VecOf<T, N>::type;

template <class T>
inline constexpr int kLanes = 64 / sizeof(T);

template <class T, int N>
inline Vec<T, N> load(const T* x) {
  return *reinterpret_cast<const Vec<T, N>*>(x);
}
template <class T, int N>
inline void store(T* y, const Vec<T, N>& v) {
  *reinterpret_cast<Vec<T, N>*>(y) = v;
}

/// The sums of 8 vectors of 8 lanes, in one vector.
template <class T>
inline Vec<T, 8> sum_each(const Vec<T, 8> (&v)[8]) {
  const auto neighbours = [](const Vec<T, 8>& a, const Vec<T, 8>& b) {  // a01 b01 a23 b23 a45 b45 a67 b67
    return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
           __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  };
  const auto pairs = [](const Vec<T, 8>& a, const Vec<T, 8>& b) {
    return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
           __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  };
  const Vec<T, 8> low = pairs(neighbours(v[0], v[1]), neighbours(v[2], v[3]));
  const Vec<T, 8> high = pairs(neighbours(v[4], v[5]), neighbours(v[6], v[7]));
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
}

/// Lanewise maximum.
template <class V>
inline V max(const V& a, const V& b) {
  return a > b ? a : b;
}

}  // namespace boreas::simd
