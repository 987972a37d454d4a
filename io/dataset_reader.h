// Anemoi datasets for reading: dates, variables, statistics, and the fields of a date for any range of cells.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/time.h"
#include "kernels/core/fields.h"

namespace boreas {

class ThreadPool;
struct ReadStats;

/// A dataset: one on disk, or several joined, or several concatenated; then what is kept of it, applied in the order of
/// the members below. The struct nests: members of a join may be concatenations, and so on.
struct DatasetConfig {
  std::string path{};                 // exactly one of path, join and concat is given
  std::vector<DatasetConfig> join{};  // along variables; of a name that occurs twice, the last data at the first place
  std::vector<DatasetConfig> concat{};  // along dates: in order, without gaps or overlap
  std::string start{}, end{}, frequency{};
  std::vector<std::string> select{}, drop{}, reorder{};
  std::map<std::string, std::string> rename{};
  std::string statistics{};

  void fields(auto&& visit) {
    visit("path", path, "", "Anemoi dataset: folder or .zip in Zarr format 2 or 3");
    visit("join", join, "", "datasets with the same dates and grid whose variables are put together, instead of path");
    visit("concat", concat, "",
          "datasets with the same variables and grid that follow each other in time, instead of path");
    visit("start", start, "", "first date: 1979, 1979-01, 1979-01-01T06, or a share such as 80%; empty: the first");
    visit("end", end, "", "last date, inclusive, in the same forms; empty: the last");
    visit("frequency", frequency, "",
          "step between dates, a multiple of the dataset's: 6h, 1d, 730.5h, 1M; empty: the dataset's");
    visit("select", select, "",
          "variables to keep, in this order; a computed forcing that the dataset lacks is computed; empty: all");
    visit("drop", drop, "", "variables to leave out");
    visit("reorder", reorder, "", "all variables in their new order, or the single entry sort");
    visit("rename", rename, "", "new names of variables: {old: new}");
    visit("statistics", statistics, "", "dataset whose statistics are used instead; empty: its own");
  }
};

/// One number per variable.
struct Statistics {
  std::vector<double> mean, stdev, minimum, maximum;
};

/// An open dataset. Opening checks everything (dates regular, sizes agree) and compiles the configuration to a
/// flat plan: variable, dates -> source array, its variable, its dates. A read then decodes only the blocks of the rows
/// and cells that it needs. Copies share the open files; const methods may be called from several threads.
class DatasetReader {
 public:
  /// `pool` decodes; without one the reader makes its own with as many threads as there are cores.
  static DatasetReader open(const DatasetConfig& config, std::shared_ptr<ThreadPool> pool = nullptr);

  const std::string& name() const;  ///< for messages
  const std::vector<std::string>& variables() const;
  int64_t num_variables() const { return int64_t(variables().size()); }
  int64_t index_of(const std::string& variable) const;  ///< throws, listing near names
  const std::string& units(int64_t variable) const;     ///< "" if the dataset does not say
  bool constant(int64_t variable) const;                ///< same values at all dates and members
  bool computed(int64_t variable) const;                ///< a computed forcing, stored or made while reading

  const std::vector<int64_t>& dates() const;  ///< evenly spaced by step(), missing ones included
  int64_t num_dates() const { return int64_t(dates().size()); }
  TimeStep step() const;
  bool missing(int64_t date_index) const;  ///< the date has no data: reading it throws
  std::optional<int64_t> index_of_date(int64_t date) const;
  int64_t require_date(int64_t date) const;  ///< throws for a date outside or between, naming first, last and step

  int64_t num_members() const;
  int64_t num_cells() const;
  /// Degrees, of a range of cells or of all. Read when they are asked for; the reader keeps only those of the cells
  /// that it computes forcings for.
  std::vector<double> latitudes(Range cells) const;
  std::vector<double> longitudes(Range cells) const;
  std::vector<double> latitudes() const { return latitudes({0, num_cells()}); }
  std::vector<double> longitudes() const { return longitudes({0, num_cells()}); }
  const std::vector<int64_t>& field_shape() const;  ///< {num_cells} or {rows, columns} of a regular or local grid

  /// Statistics by variable. Throws config if the dataset holds none. Those of forcings made while reading are of a
  /// sample of the dates and cells.
  const Statistics& statistics() const;
  /// Statistics of x(t) - x(t - lag), if the dataset holds them for all variables.
  std::optional<Statistics> tendency_statistics(TimeStep lag) const;

  /// out[v][e][c]: variables x members x cells, in f32, as stored. Throws invalid_argument for a missing date, and
  /// corrupt_data naming array, chunk and file for chunks that are damaged, or absent though the dataset allows no NaN.
  void read(int64_t date_index, Range cells, float* out, ReadStats* stats = nullptr) const;
  /// The same for some variables, in the given order.
  void read(int64_t date_index, const std::vector<int64_t>& variables, Range cells, float* out,
            ReadStats* stats = nullptr) const;
  /// And of some members.
  void read(int64_t date_index, const std::vector<int64_t>& variables, Range members, Range cells, float* out,
            ReadStats* stats = nullptr) const;

  /// Date indices p, ascending, for which p - (num_input_steps - 1) .. p + num_output_steps exist and none is missing:
  /// p is the latest input date, outputs follow it.
  std::vector<int64_t> anchors(int64_t num_input_steps, int64_t num_output_steps) const;

  struct Plan;

 private:
  explicit DatasetReader(std::shared_ptr<const Plan> plan) : plan_(std::move(plan)) {}
  std::shared_ptr<const Plan> plan_;
};

}  // namespace boreas
