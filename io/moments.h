// Mean, variance and range of many values, accumulated in parts.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

namespace boreas {

/// count, mean, sum of squared differences from the mean, minimum and maximum of the values seen; NaN are skipped.
///
///   merged: n = n1 + n2,  mean = m1 + (m2 - m1) n2 / n,  M2 = M2_1 + M2_2 + (m2 - m1)^2 n1 n2 / n
///
/// Source: Chan, Golub and LeVeque 1979.
struct Moments {
  int64_t count = 0;
  double mean = 0, squares = 0;
  double minimum = std::numeric_limits<double>::infinity(), maximum = -std::numeric_limits<double>::infinity();

  /// Moments of value(0) .. value(n - 1), in two passes.
  template <class F>
  static Moments of(int64_t n, F value) {
    Moments m;
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double x = value(i);
      if (std::isnan(x)) continue;
      ++m.count;
      sum += x;
      m.minimum = x < m.minimum ? x : m.minimum;
      m.maximum = x > m.maximum ? x : m.maximum;
    }
    if (m.count == 0) return m;
    m.mean = m.minimum == m.maximum ? m.minimum : sum / double(m.count);
    for (int64_t i = 0; i < n; ++i) {
      const double d = value(i) - m.mean;
      if (!std::isnan(d)) m.squares += d * d;
    }
    return m;
  }

  void merge(const Moments& other) {
    if (other.count == 0) return;
    const double n = double(count + other.count), shift = other.mean - mean;
    mean += shift * double(other.count) / n;
    squares += other.squares + shift * shift * double(count) * double(other.count) / n;
    count += other.count;
    minimum = other.minimum < minimum ? other.minimum : minimum;
    maximum = other.maximum > maximum ? other.maximum : maximum;
  }

  /// Population standard deviation; NaN without values, as are the others then.
  double stdev() const { return count ? std::sqrt(squares / double(count)) : NAN; }
};

}  // namespace boreas
