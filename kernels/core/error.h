// The one exception type of boreas, its codes, and the check macros.
#pragma once

#ifdef __CUDACC__
#define FMT_USE_CONSTEXPR 1  // fmt turns it off for nvcc, which breaks its own checks of format strings
#endif
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace boreas {

/// Class of a failure. At the C boundary it becomes a status code; the command line maps every code to exit status 2
/// except `internal` (1).
enum class ErrorCode {
  invalid_argument,
  shape,
  config,
  io,
  corrupt_data,
  out_of_memory,
  device,
  comm,
  unsupported,
  internal
};

std::string_view to_string(ErrorCode code);

/// What happened, with values; what was expected; where (file, key, chunk); what to do. `what()` is that sentence;
/// `origin()` is the source line that threw, for logs.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, const char* file = "", int line = 0);
  ErrorCode code() const { return code_; }
  const std::string& origin() const { return origin_; }

 private:
  ErrorCode code_;
  std::string origin_;
};

namespace detail {
[[noreturn]] void throw_error(ErrorCode code, std::string message, const char* file, int line);
}  // namespace detail

}  // namespace boreas

/// BOREAS_FAIL(shape, "gamma has {} channels but x is {}", ...): throws Error with the formatted text.
#define BOREAS_FAIL(code, ...) \
  ::boreas::detail::throw_error(::boreas::ErrorCode::code, ::fmt::format(__VA_ARGS__), __FILE__, __LINE__)

/// BOREAS_CHECK(condition, code, "text {}", ...): throws Error unless the condition holds.
#define BOREAS_CHECK(condition, code, ...)            \
  do {                                                \
    if (!(condition)) BOREAS_FAIL(code, __VA_ARGS__); \
  } while (false)

/// A broken invariant of boreas itself.
#define BOREAS_ASSERT(condition) BOREAS_CHECK(condition, internal, "broken invariant: {}", #condition)
