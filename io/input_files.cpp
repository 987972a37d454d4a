#include "io/input_files.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/core/error.h"

namespace boreas {
namespace {

enum class FileKind { netcdf, grib, zarr, unknown };

std::string name_of(FileKind kind) {
  return kind == FileKind::netcdf ? "NetCDF" : kind == FileKind::grib ? "GRIB" : "Zarr";
}

FileKind kind_of(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error) || path.ends_with(".zip")) return FileKind::zarr;
  BOREAS_CHECK(std::filesystem::is_regular_file(path, error), io, "{}: there is no such file", path);
  std::ifstream file(path, std::ios::binary);
  char magic[8] = {};
  file.read(magic, sizeof magic);
  BOREAS_CHECK(file.gcount() > 0, io, "{}: cannot be read, or is empty", path);
  if (std::memcmp(magic, "CDF", 3) == 0 || std::memcmp(magic, "\x89HDF\r\n\x1a\n", 8) == 0) return FileKind::netcdf;
  if (std::memcmp(magic, "GRIB", 4) == 0) return FileKind::grib;
  return FileKind::unknown;
}

}  // namespace

InputCatalog open_input_files(const std::vector<std::string>& paths) {
  BOREAS_CHECK(!paths.empty(), config, "no input files are given");
  const FileKind kind = kind_of(paths[0]);
  for (const std::string& path : paths) {
    BOREAS_CHECK(kind_of(path) != FileKind::unknown, unsupported,
                 "{}: is neither a NetCDF nor a GRIB file, nor a Zarr store", path);
    BOREAS_CHECK(kind_of(path) == kind, config,
                 "{} and {}: one is {}, the other {}; make a dataset of each and join them", paths[0], path,
                 name_of(kind), name_of(kind_of(path)));
  }
  return kind == FileKind::netcdf ? open_netcdf_files(paths)
         : kind == FileKind::grib ? open_grib_files(paths)
                                  : open_zarr_stores(paths);
}

#ifndef BOREAS_WITH_NETCDF
InputCatalog open_netcdf_files(const std::vector<std::string>& paths) {
  BOREAS_FAIL(unsupported, "{}: this build cannot read NetCDF files; install libnetcdf-dev and configure again",
              paths[0]);
}
#endif

#ifndef BOREAS_WITH_ECCODES
InputCatalog open_grib_files(const std::vector<std::string>& paths) {
  BOREAS_FAIL(unsupported, "{}: this build cannot read GRIB files; install libeccodes-dev and configure again",
              paths[0]);
}
#endif

}  // namespace boreas
