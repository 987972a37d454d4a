// ForecastOutput: what forecasts become on the disk, written by all ranks while the next step is computed.
#pragma once

#include <atomic>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/json_lines.h"
#include "engine/step_model.h"
#include "io/forecast_writer.h"

namespace boreas {

/// Takes the field sets of forecasts on all ranks, keeps those that are asked for (variables, cells, steps), moves
/// their rows to the ranks that own the chunks, and hands them to threads that encode and write. A bounded number of
/// field sets is under way; write() waits for room.
///
/// Beside the files, `<output>.checksums.jsonl` gets a line for each forecast, of a start date and a member: a checksum
/// of each variable at each lead time, which depends on the values only, not on ranks, threads or formats. Until all is
/// written, files and checksums have the names `.<name>.partial`; the checksums then say which forecasts are complete,
/// and a run that resumes goes on with the next.
///
/// Errors: io, of any thread, at the next write() or in close(). What has been written stays under its partial name,
/// unless it is nothing.
class ForecastOutput {
 public:
  /// The forecasts are those of each member from each start date, in this order; no members: of one from each date, and
  /// the files do not say of which. `source` is the checkpoint. Collective, as all that follows. With `resume`, throws
  /// config if what is there is of another forecast.
  ForecastOutput(const StepModel& model, const RunConfig& config, std::vector<int64_t> starts,
                 std::vector<int64_t> members, const std::string& source, bool resume);
  ~ForecastOutput();

  int64_t num_forecasts() const { return layout_.num_forecasts(); }
  /// Forecasts before it are written already.
  int64_t first_forecast() const { return first_forecast_; }
  /// fields f32 [V_o][cells of this rank] of a forecast, by its place, at a lead time in steps; not needed afterwards.
  /// Forecasts and steps ascend.
  void write(int64_t forecast, int64_t lead_steps, std::span<const float> fields);
  /// Ends it: the files have their names. Returns their paths, the checksums last.
  std::vector<std::string> close();

  /// Host memory of the field sets under way, of this rank.
  static int64_t staging_bytes(const StepModel& model, const ForecastConfig& config);

 private:
  /// What the ranks write of some of the files, by rank: values go from who computes them to who writes them.
  struct Route {
    std::vector<ForecastPart> parts;
    std::vector<ForecastWriter> writers;
    int64_t place = 0;  ///< in a slot: the first value of this rank's part, [variables][cells]
  };
  /// A field set on its way to the files, a part for each route, and which forecast it is of.
  struct Slot {
    Buffer memory;
    std::future<void> done;
    int64_t forecast = -1;
  };
  void open(const std::string& identity, bool resume);
  void abandon();
  ForecastPart sent_to(const Route& route, int from, int to) const;
  void exchange(const Route& route, std::span<const float> fields, float* out);
  void complete(int64_t end_forecast);
  std::string record_path() const;

  const StepModel& model_;
  ForecastConfig config_;
  std::vector<std::string> paths_;
  ForecastLayout layout_;
  std::vector<int64_t> columns_;  // of the model's outputs
  std::vector<int64_t> chosen_;   // which of this rank's cells are written; all: empty
  std::vector<Range> held_;       // by rank: what it computes, of the cells in the files
  std::vector<Route> routes_;
  std::vector<size_t> route_of_;  // by file
  std::vector<float> sent_, received_;
  Arena arena_;
  Context ctx_;
  std::vector<std::vector<int64_t>> checksums_;  // by forecast: [step][V], of what this rank writes
  std::unique_ptr<JsonLines> record_;            // on rank 0
  int64_t first_forecast_ = 0, num_complete_ = 0, num_sets_ = 0;
  bool closed_ = false;
  std::vector<Slot> slots_;
  ThreadPool pool_;  // last: its threads end first
};

}  // namespace boreas
