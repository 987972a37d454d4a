// Files of self-describing arrays after the CF conventions, whatever stores them: which arrays are fields on a grid of
// latitudes and longitudes, and on which dates, levels and members.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/input_files.h"

namespace boreas {

/// Arrays with named dimensions and attributes: a NetCDF file, or a Zarr store as xarray writes it.
class CfFile {
 public:
  struct Dimension {
    std::string name;
    int64_t size = 0;
    int coordinate = -1;  // the 1-D variable of the same name
  };
  struct Variable {
    std::string name;
    std::vector<int> dimensions;
    bool numeric = true;
  };

  virtual ~CfFile() = default;
  const std::string& path() const { return path_; }
  const std::vector<Dimension>& dimensions() const { return dimensions_; }
  const std::vector<Variable>& variables() const { return variables_; }

  /// An attribute; "" if there is none of that type.
  virtual std::string text(int variable, const char* name) const = 0;
  /// Reads a box, unpacked, NaN where values are missing.
  virtual void read(int variable, const std::vector<size_t>& begin, const std::vector<size_t>& count,
                    double* out) const = 0;
  std::vector<double> read_all(int variable) const;

 protected:
  explicit CfFile(std::string path) : path_(std::move(path)) {}
  void add_dimension(const std::string& name, int64_t size) { dimensions_.push_back({name, size, -1}); }
  void add_variable(Variable variable) { variables_.push_back(std::move(variable)); }
  /// After all of both.
  void find_coordinates();

 private:
  std::string path_;
  std::vector<Dimension> dimensions_;
  std::vector<Variable> variables_;
};

/// What packed values mean: scale * value + offset, NaN where a value is one of `missing`.
struct CfPacking {
  std::vector<double> missing;
  double scale = 1, offset = 0;
  void unpack(std::span<double> values) const;
};

/// All fields on grids. Of a variable u with several levels each is one of its own, such as u_500. Dates are those of a
/// time axis, of a scalar time, or of a valid time by start date and step, as forecasts have it. Throws corrupt_data,
/// config, unsupported.
InputCatalog catalog_of(std::vector<std::unique_ptr<CfFile>> files);

}  // namespace boreas
