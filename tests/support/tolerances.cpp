#include "tests/support/tolerances.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace boreas::test {

std::vector<double> values_of(const Tensor& tensor) {
  std::vector<double> values;
  if (tensor.empty()) return values;
  values.reserve(tensor.size());
  dispatch_dtype(tensor.dtype(), [&]<class T>() {
    for (int64_t i = 0; i < tensor.rows(); ++i)
      for (int64_t j = 0; j < tensor.cols(); ++j)
        if constexpr (std::is_same_v<T, bfloat16>)
          values.push_back(float(tensor.row<T>(i)[j]));
        else
          values.push_back(double(tensor.row<T>(i)[j]));
  });
  return values;
}

double relative_error(std::span<const double> a, std::span<const double> b, double floor) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (a.size() != b.size()) return kInfinity;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return kInfinity;
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  if (difference == 0) return 0;
  return std::sqrt(difference) / std::max(std::sqrt(norm), floor);
}

double relative_error(const Tensor& a, const Tensor& b, double floor) {
  return relative_error(values_of(a), values_of(b), floor);
}

testing::AssertionResult close(const Tensor& actual, std::span<const double> expected, double tolerance_f32,
                               double tolerance_f64, double floor) {
  const std::vector<double> values = values_of(actual);
  const double tolerance = actual.dtype() == DType::f64 ? tolerance_f64 : tolerance_f32;
  const double error = relative_error(values, expected, floor);
  if (error <= tolerance) return testing::AssertionSuccess();
  auto failure = testing::AssertionFailure() << to_string(actual) << ": relative error " << error << " > " << tolerance;
  if (values.size() != expected.size())
    return failure << ": " << values.size() << " values, expected " << expected.size();
  size_t worst = 0;
  double largest = -1;
  for (size_t i = 0; i < values.size(); ++i) {
    const bool both_nan = std::isnan(values[i]) && std::isnan(expected[i]);
    const double distance = both_nan ? 0 : std::abs(values[i] - expected[i]);
    if (std::isnan(distance) || distance > largest) {
      worst = i;
      largest = std::isnan(distance) ? std::numeric_limits<double>::infinity() : distance;
    }
  }
  return failure << "; element [" << int64_t(worst) / actual.cols() << ", " << int64_t(worst) % actual.cols() << "] is "
                 << values[worst] << ", expected " << expected[worst];
}

testing::AssertionResult close(const Tensor& actual, const Tensor& expected, double tolerance_f32, double tolerance_f64,
                               double floor) {
  return close(actual, values_of(expected), tolerance_f32, tolerance_f64, floor);
}

testing::AssertionResult identical(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype() || a.rows() != b.rows() || a.cols() != b.cols())
    return testing::AssertionFailure() << to_string(a) << " and " << to_string(b) << " differ in kind";
  const int64_t stride_a = a.row_stride() * size_of(a.dtype()), stride_b = b.row_stride() * size_of(b.dtype());
  for (int64_t i = 0; i < a.rows(); ++i)
    if (std::memcmp(static_cast<const char*>(a.data()) + i * stride_a,
                    static_cast<const char*>(b.data()) + i * stride_b, a.cols() * size_of(a.dtype())) != 0)
      return testing::AssertionFailure() << to_string(a) << ": row " << i << " differs";
  return testing::AssertionSuccess();
}

}  // namespace boreas::test
