// How close is close: the one comparison of tensors in tests.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "kernels/core/tensor.h"

namespace boreas::test {

/// All elements of a host tensor, row by row, as f64.
std::vector<double> values_of(const Tensor& tensor);

/// |a - b| / max(|b|, floor) in the Frobenius norm; infinite if the sizes differ, a value is not finite, or b and floor
/// are 0 and a is not; NaN at the same places in both is agreement.
double relative_error(std::span<const double> a, std::span<const double> b, double floor = 0);
double relative_error(const Tensor& a, const Tensor& b, double floor = 0);

/// Expects relative_error(actual, expected, floor) <= the tolerance of actual's type, and says which element differs
/// most.
testing::AssertionResult close(const Tensor& actual, std::span<const double> expected, double tolerance_f32,
                               double tolerance_f64, double floor = 0);
testing::AssertionResult close(const Tensor& actual, const Tensor& expected, double tolerance_f32, double tolerance_f64,
                               double floor = 0);

/// EXPECT_TRUE(close(...)) with the defaults of one op: f32 2e-6, f64 1e-14 times a few.
inline void expect_close(const Tensor& actual, std::span<const double> expected, double tolerance_f32 = 2e-6,
                         double tolerance_f64 = 1e-13, double floor = 0) {
  EXPECT_TRUE(close(actual, expected, tolerance_f32, tolerance_f64, floor));
}
inline void expect_close(const Tensor& actual, const Tensor& expected, double tolerance_f32 = 2e-6,
                         double tolerance_f64 = 1e-13, double floor = 0) {
  EXPECT_TRUE(close(actual, expected, tolerance_f32, tolerance_f64, floor));
}

/// Whether both tensors hold the same bytes, element by element.
testing::AssertionResult identical(const Tensor& a, const Tensor& b);

/// Expects that the statement throws boreas::Error with this code and a message that contains `text`.
#define BOREAS_EXPECT_ERROR(statement, error_code, text)                                  \
  do {                                                                                    \
    try {                                                                                 \
      statement;                                                                          \
      ADD_FAILURE() << #statement " threw nothing; expected " #error_code ": " << (text); \
    } catch (const ::boreas::Error& error_) {                                             \
      EXPECT_EQ(::boreas::to_string(error_.code()), #error_code) << error_.what();        \
      EXPECT_NE(std::string(error_.what()).find(text), std::string::npos)                 \
          << "message: " << error_.what() << "\nlacks:   " << (text);                     \
    }                                                                                     \
  } while (false)

}  // namespace boreas::test
