// What reading and writing NetCDF share. Only for sources that are compiled with the NetCDF library.
#pragma once

#include <netcdf.h>

#include <string>

#include "kernels/core/error.h"

namespace boreas {

/// Throws unless a call of the library succeeded; `where` is the file, with the variable if there is one.
inline void check_netcdf(int status, ErrorCode code, const std::string& where) {
  if (status != NC_NOERR)
    detail::throw_error(code, where + ": " + (status > 0 ? "the system says: " : "") + nc_strerror(status), __FILE__,
                        __LINE__);
}

}  // namespace boreas
