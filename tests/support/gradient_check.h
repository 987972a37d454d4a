// Gradients against finite differences.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/core/tensor.h"

namespace boreas::test {

/// An f64 tensor that a scalar function depends on, and the gradient that backward gave for it.
struct GradientCase {
  std::string name;
  Tensor value;
  Tensor gradient;
};

/// Expects, for each case apart and all together, along 3 random directions d each (standard normal, by Philox),
///
///   | (8 (f(+h) - f(-h)) - (f(+2h) - f(-2h))) / 12h - <gradient, d> |  <=  tolerance * |gradient| |d|,
///
/// f(s) = loss with value + s d. `loss` recomputes the scalar from the current values; they are restored exactly. A
/// gradient of norm 0 is compared with `tolerance` * |d| instead. `step` is h; lower it where the function bends
/// strongly.
void expect_gradients(const std::function<double()>& loss, const std::vector<GradientCase>& cases,
                      double tolerance = 1e-8, double step = 1e-3);

}  // namespace boreas::test
