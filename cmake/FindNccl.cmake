# Finds NCCL, which comes with the CUDA toolkit, with the system, or with nvidia-nccl of Python: target Nccl::Nccl.
include(FindPackageHandleStandardArgs)
find_path(Nccl_INCLUDE_DIR nccl.h HINTS ENV NCCL_HOME ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
find_library(Nccl_LIBRARY NAMES nccl libnccl.so.2
  HINTS ENV NCCL_HOME ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_TARGET_DIR} PATH_SUFFIXES lib lib64)
mark_as_advanced(Nccl_INCLUDE_DIR Nccl_LIBRARY)
find_package_handle_standard_args(Nccl REQUIRED_VARS Nccl_LIBRARY Nccl_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install libnccl-dev")
if(Nccl_FOUND AND NOT TARGET Nccl::Nccl)
  add_library(Nccl::Nccl UNKNOWN IMPORTED)
  set_target_properties(Nccl::Nccl PROPERTIES IMPORTED_LOCATION ${Nccl_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${Nccl_INCLUDE_DIR})
endif()
