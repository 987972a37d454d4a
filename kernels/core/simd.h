// Short vectors for CPU kernels whose accumulators must stay in registers.
#pragma once

#include <cstdint>
#include <utility>

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

/// Lanes [Begin, Begin + sizeof...(I)).
template <class T, int N, int Begin, int... I>
inline Vec<T, int(sizeof...(I))> part(const Vec<T, N>& v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (Begin + I)...);
}

/// Sum of the lanes, by halves.
template <class T, int N>
inline T sum(const Vec<T, N>& v) {
  if constexpr (N == 1) {
    return v[0];
  } else {
    using Half = std::make_integer_sequence<int, N / 2>;
    return sum<T, N / 2>(part<T, N, 0>(v, Half{}) + part<T, N, N / 2>(v, Half{}));
  }
}

/// Lanewise maximum.
template <class V>
inline V max(const V& a, const V& b) {
  return a > b ? a : b;
}

}  // namespace boreas::simd
