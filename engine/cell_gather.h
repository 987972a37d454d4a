// CellGather: fields of all cells, or of some, put together from those of the ranks that share a sample.
#pragma once

#include <span>
#include <vector>

#include "engine/step_model.h"

namespace boreas {

/// One field at a time: rank 0 never holds more than one.
class CellGather {
 public:
  explicit CellGather(const StepModel& model);
  /// Of these cells only, ascending; the same on all ranks.
  CellGather(const StepModel& model, std::span<const int64_t> cells);

  /// `own`: the cells of this rank. The field of the cells asked for on rank 0, valid until the next call, and nothing
  /// elsewhere. Collective.
  std::span<const float> operator()(std::span<const float> own);

 private:
  Communicator& ranks_;
  bool all_;
  std::vector<int64_t> picked_;       // of the cells of this rank
  std::vector<Range> place_of_rank_;  // in the field
  std::vector<float> sent_, whole_;
  Arena arena_;
  Context ctx_;
};

}  // namespace boreas
