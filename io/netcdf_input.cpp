// NetCDF files as arrays with dimensions and attributes.
#ifdef BOREAS_WITH_NETCDF

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "io/cf_input.h"
#include "io/hdf5_file.h"
#include "io/netcdf.h"

namespace boreas {
namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

class NetcdfFile : public CfFile {
 public:
  explicit NetcdfFile(const std::string& path) : CfFile(path) {
    const Lock lock(hdf5_mutex());
    check_netcdf(nc_open(path.c_str(), NC_NOWRITE, &id_), ErrorCode::corrupt_data, path);
    int num_dimensions = 0, num_variables = 0;
    nc_inq(id_, &num_dimensions, &num_variables, nullptr, nullptr);
    for (int d = 0; d < num_dimensions; ++d) {
      char name[NC_MAX_NAME + 1] = {};
      size_t size = 0;
      check_netcdf(nc_inq_dim(id_, d, name, &size), ErrorCode::corrupt_data, path);
      add_dimension(name, int64_t(size));
    }
    for (int v = 0; v < num_variables; ++v) {
      char name[NC_MAX_NAME + 1] = {};
      Variable variable;
      int rank = 0;
      nc_type type = NC_NAT;
      check_netcdf(nc_inq_var(id_, v, name, &type, &rank, nullptr, nullptr), ErrorCode::corrupt_data, path);
      variable.name = name;
      variable.dimensions.resize(size_t(rank));
      variable.numeric = type != NC_CHAR && type != NC_STRING;
      types_.push_back(type);
      if (rank > 0) nc_inq_vardimid(id_, v, variable.dimensions.data());
      add_variable(std::move(variable));
    }
    find_coordinates();
  }
  ~NetcdfFile() override {
    const Lock lock(hdf5_mutex());
    nc_close(id_);
  }
  NetcdfFile(const NetcdfFile&) = delete;
  NetcdfFile& operator=(const NetcdfFile&) = delete;

  std::string text(int variable, const char* name) const override {
    const Lock lock(hdf5_mutex());
    nc_type type = NC_NAT;
    size_t length = 0;
    if (nc_inq_att(id_, variable, name, &type, &length) != NC_NOERR) return {};
    if (type == NC_CHAR) {
      std::string value(length, '\0');
      nc_get_att_text(id_, variable, name, value.data());
      value.resize(std::min(length, value.find('\0')));
      return value;
    }
    if (type == NC_STRING && length == 1) {
      char* pointer = nullptr;
      if (nc_get_att_string(id_, variable, name, &pointer) != NC_NOERR) return {};
      std::string value = pointer ? pointer : "";
      nc_free_string(1, &pointer);
      return value;
    }
    return {};
  }

  void read(int variable, const std::vector<size_t>& begin, const std::vector<size_t>& count,
            double* out) const override {
    const Lock lock(hdf5_mutex());
    check_netcdf(nc_get_vara_double(id_, variable, begin.data(), count.data(), out), ErrorCode::corrupt_data,
                 fmt::format("{}: variable '{}'", path(), variables()[size_t(variable)].name));
    size_t n = 1;
    for (const size_t c : count) n *= c;
    CfPacking packing{numbers(variable, "_FillValue")};
    std::vector<double>& missing = packing.missing;
    for (const double value : numbers(variable, "missing_value")) missing.push_back(value);
    if (missing.empty() && types_[size_t(variable)] == NC_FLOAT) missing.push_back(NC_FILL_FLOAT);
    if (missing.empty() && types_[size_t(variable)] == NC_DOUBLE) missing.push_back(NC_FILL_DOUBLE);
    if (const auto scale = numbers(variable, "scale_factor"); !scale.empty()) packing.scale = scale[0];
    if (const auto offset = numbers(variable, "add_offset"); !offset.empty()) packing.offset = offset[0];
    packing.unpack({out, n});
  }

 private:
  std::vector<double> numbers(int variable, const char* name) const {
    const Lock lock(hdf5_mutex());
    nc_type type = NC_NAT;
    size_t length = 0;
    if (nc_inq_att(id_, variable, name, &type, &length) != NC_NOERR || type == NC_CHAR || type == NC_STRING) return {};
    std::vector<double> values(length);
    if (nc_get_att_double(id_, variable, name, values.data()) != NC_NOERR) return {};
    return values;
  }

  int id_ = -1;
  std::vector<nc_type> types_;
};

}  // namespace

InputCatalog open_netcdf_files(const std::vector<std::string>& paths) {
  std::vector<std::unique_ptr<CfFile>> files;
  for (const std::string& path : paths) files.push_back(std::make_unique<NetcdfFile>(path));
  return catalog_of(std::move(files));
}

}  // namespace boreas

#endif
