#include "tests/support/gradient_check.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/core/rng.h"
#include "tests/support/tolerances.h"

namespace boreas::test {

namespace {

void set_values(const Tensor& tensor, const std::vector<double>& base, const std::vector<double>& direction, double s) {
  int64_t index = 0;
  for (int64_t i = 0; i < tensor.rows(); ++i)
    for (int64_t j = 0; j < tensor.cols(); ++j, ++index)
      tensor.row<double>(i)[j] = s == 0 ? base[index] : base[index] + s * direction[index];
}

double norm(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

void check_along(const std::function<double()>& loss, const std::vector<GradientCase>& cases, const std::string& name,
                 uint64_t stream, double tolerance, double step) {
  std::vector<std::vector<double>> bases, directions;
  double slope = 0, gradient_norm = 0, direction_norm = 0;
  for (const GradientCase& c : cases) {
    const std::vector<double> gradient = values_of(c.gradient);
    bases.push_back(values_of(c.value));
    ASSERT_EQ(gradient.size(), bases.back().size()) << name << ": the gradient has another size than " << c.name;
    const Philox rng(0x6663, stream++);
    std::vector<double>& direction = directions.emplace_back(gradient.size());
    for (size_t i = 0; i < direction.size(); ++i) {
      direction[i] = rng.normal(i);
      slope += gradient[i] * direction[i];
    }
    gradient_norm = std::hypot(gradient_norm, norm(gradient));
    direction_norm = std::hypot(direction_norm, norm(direction));
  }
  const auto loss_at = [&](double s) {
    for (size_t k = 0; k < cases.size(); ++k) set_values(cases[k].value, bases[k], directions[k], s);
    return loss();
  };
  const double near = loss_at(step) - loss_at(-step), far = loss_at(2 * step) - loss_at(-2 * step);
  loss_at(0);
  const double difference = (8 * near - far) / (12 * step);
  const double scale = (gradient_norm > 0 ? gradient_norm : 1) * direction_norm;
  EXPECT_LE(std::abs(difference - slope), tolerance * scale)
      << "gradient of " << name << ": finite difference " << difference << ", <gradient, direction> " << slope
      << ", |gradient| " << gradient_norm << ", |direction| " << direction_norm;
}

}  // namespace

void expect_gradients(const std::function<double()>& loss, const std::vector<GradientCase>& cases, double tolerance,
                      double step) {
  uint64_t stream = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::string names;
    for (const GradientCase& c : cases) {
      names += (names.empty() ? "" : " + ") + c.name;
      if (c.value.size() > 0) check_along(loss, {c}, c.name, stream, tolerance, step);
      stream += 1000;
    }
    if (cases.size() > 1) check_along(loss, cases, names, stream, tolerance, step);
    stream += 1000;
  }
}

}  // namespace boreas::test
