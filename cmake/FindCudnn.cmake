# Finds cuDNN with the headers of cudnn-frontend, its interface for graphs: target Cudnn::Cudnn.
include(FindPackageHandleStandardArgs)
find_package(CUDAToolkit QUIET)
find_path(Cudnn_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(Cudnn_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}/lib)
find_path(Cudnn_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
mark_as_advanced(Cudnn_INCLUDE_DIR Cudnn_LIBRARY Cudnn_FRONTEND_INCLUDE_DIR)
if(EXISTS ${Cudnn_INCLUDE_DIR}/cudnn_version.h)
  file(READ ${Cudnn_INCLUDE_DIR}/cudnn_version.h text)
  foreach(part MAJOR MINOR PATCHLEVEL)
    string(REGEX MATCH "define CUDNN_${part} ([0-9]+)" matched "${text}")
    list(APPEND Cudnn_VERSION ${CMAKE_MATCH_1})
  endforeach()
  list(JOIN Cudnn_VERSION . Cudnn_VERSION)
endif()
find_package_handle_standard_args(Cudnn REQUIRED_VARS Cudnn_LIBRARY Cudnn_INCLUDE_DIR Cudnn_FRONTEND_INCLUDE_DIR
  VERSION_VAR Cudnn_VERSION REASON_FAILURE_MESSAGE
  "install cuDNN, and cudnn-frontend: its folder of headers is -DCudnn_FRONTEND_INCLUDE_DIR")
if(Cudnn_FOUND AND NOT TARGET Cudnn::Cudnn)
  add_library(Cudnn::Cudnn UNKNOWN IMPORTED)
  set_target_properties(Cudnn::Cudnn PROPERTIES IMPORTED_LOCATION ${Cudnn_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES "${Cudnn_INCLUDE_DIR};${Cudnn_FRONTEND_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES CUDA::nvrtc)  # which the headers call
endif()
