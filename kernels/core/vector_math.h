// Functions that compilers can vectorise inside loops: no branches, no calls, no tables in f32.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace boreas::vector_math {

/// exp(x). Within 2 ulp in f32 (polynomial of degree 6 on |r| <= ln(2)/2); 0 below -87, infinite above 88.73; NaN
/// stays.
inline float exp(float x) {
  constexpr float kRound = 12582912.0f;                                // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;  // n * kLn2High is exact
  x = x > 89.0f ? 89.0f : x;
  x = x < -87.2f ? -87.2f : x;
  const float shifted = x * 0x1.715476p+0f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 0x1.6d75e4p-10f;
  p = p * r + 0x1.120be0p-7f;
  p = p * r + 0x1.5554b8p-5f;
  p = p * r + 0x1.5554dcp-3f;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  // 2^n as 2 * 2^(n-1): exact up to the largest float; n = -126 gives 0.
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) + (126u - std::bit_cast<uint32_t>(kRound));
  return (p + p) * std::bit_cast<float>(exponent << 23);
}
inline double exp(double x) { return std::exp(x); }

/// 1 / (1 + exp(-x))
template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

/// The standard normal distribution at x.
template <class T>
struct Normal {
  T cdf;      ///< Phi(x) = (1 + erf(x / sqrt(2))) / 2
  T density;  ///< phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
};

/// P(v) of `normal`; also of the GPU, where constexpr functions can be called.
constexpr float normal_tail(float v) {
  float p = -0x1.e0da22p-7f;
  p = p * v + 0x1.101694p-4f;
  p = p * v - 0x1.695cf6p-4f;
  p = p * v - 0x1.0f14a0p-6f;
  p = p * v + 0x1.4afe6ap-4f;
  p = p * v + 0x1.41c8dcp-8f;
  p = p * v + 0x1.c54896p-4f;
  p = p * v + 0x1.b3b1ecp-4f;
  p = p * v + 0x1.0164fep-3f;
  p = p * v + 0x1.fe437ap-4f;
  p = p * v + 0x1.f03b1ep-19f;
  return p;
}

/// With t = |x| and v = 1 / (1 + 5/16 t), Phi(-t) = exp(-t^2 / 2) P(v): P, of degree 10, fits erfcx(t / sqrt(2)) / 2 to
/// 5e-9. No cancellation: both tails are good to a few ulp.
inline Normal<float> normal(float x) {
  const float t = std::abs(x);
  const float v = 1.0f / (1.0f + 0.3125f * t);
  const float e = exp(-0.5f * (x * x));
  const float tail = e * normal_tail(v);
  return {x < 0.0f ? tail : 1.0f - tail, 0x1.988454p-2f * e};
}
inline Normal<double> normal(double x) {
  return {0.5 * std::erfc(-0.70710678118654752440 * x), 0.39894228040143267794 * std::exp(-0.5 * x * x)};
}

/// x Phi(x), and its derivative Phi(x) + x phi(x).
template <class T>
inline T gelu(T x) {
  return x * normal(x).cdf;
}
template <class T>
inline T gelu_slope(T x) {
  const Normal<T> at = normal(x);
  return at.cdf + x * at.density;
}

}  // namespace boreas::vector_math
