// What reading and writing GRIB share. Only for sources that are compiled with ecCodes.
#pragma once

#include <eccodes.h>

#include <mutex>
#include <stdexcept>
#include <string>

#include "kernels/core/error.h"

namespace boreas {

/// What ecCodes would end the process over: damaged messages break its assertions.
struct EccodesFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::mutex& eccodes_mutex() {
  static std::mutex mutex;
  return mutex;
}

/// Calls what uses ecCodes for the file `path`, one call at a time: its failures become corrupt_data, and it prints
/// nothing.
template <class Call>
auto with_eccodes(const std::string& path, const Call& call) {
  static std::once_flag once;
  std::call_once(once, [] {
    codes_context_set_logging_proc(codes_context_get_default(), [](const codes_context*, int, const char*) {});
    codes_set_codes_assertion_failed_proc([](const char* what) { throw EccodesFailure(what); });
  });
  const std::lock_guard lock(eccodes_mutex());
  try {
    return call();
  } catch (const EccodesFailure& failure) {
    BOREAS_FAIL(corrupt_data, "{}: ecCodes cannot go on with a GRIB message: {}", path, failure.what());
  }
}

}  // namespace boreas
