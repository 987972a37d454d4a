#include "kernels/core/error.h"

namespace boreas {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "invalid_argument";
    case ErrorCode::shape:
      return "shape";
    case ErrorCode::config:
      return "config";
    case ErrorCode::io:
      return "io";
    case ErrorCode::corrupt_data:
      return "corrupt_data";
    case ErrorCode::out_of_memory:
      return "out_of_memory";
    case ErrorCode::device:
      return "device";
    case ErrorCode::comm:
      return "comm";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::internal:
      return "internal";
  }
  return "unknown";
}

Error::Error(ErrorCode code, const std::string& message, const char* file, int line)
    : std::runtime_error(message), code_(code), origin_(fmt::format("{}:{}", file, line)) {}

namespace detail {
void throw_error(ErrorCode code, std::string message, const char* file, int line) {
  throw Error(code, message, file, line);
}
}  // namespace detail

}  // namespace boreas
