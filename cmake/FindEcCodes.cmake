# Finds ECMWF's ecCodes: target EcCodes::EcCodes.
include(FindPackageHandleStandardArgs)
find_path(EcCodes_INCLUDE_DIR eccodes.h)
find_library(EcCodes_LIBRARY eccodes)
mark_as_advanced(EcCodes_INCLUDE_DIR EcCodes_LIBRARY)
find_package_handle_standard_args(EcCodes REQUIRED_VARS EcCodes_LIBRARY EcCodes_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install libeccodes-dev")
if(EcCodes_FOUND AND NOT TARGET EcCodes::EcCodes)
  add_library(EcCodes::EcCodes UNKNOWN IMPORTED)
  set_target_properties(EcCodes::EcCodes PROPERTIES IMPORTED_LOCATION ${EcCodes_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${EcCodes_INCLUDE_DIR})
endif()
