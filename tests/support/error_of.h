// What a call that must fail says.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "kernels/core/error.h"

namespace boreas::test {

/// Runs `f` and returns the message of the Error that it must throw with this code.
template <class F>
std::string error_of(ErrorCode code, F f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

/// "code: message" of the Error that `f` throws, or "no error".
std::string message_of(const auto& f) {
  try {
    f();
  } catch (const Error& error) {
    return std::string(to_string(error.code())) + ": " + error.what();
  }
  return "no error";
}

}  // namespace boreas::test
