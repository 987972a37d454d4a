// CellGather: fields of all cells, put together from those of the ranks that share a sample.
#pragma once

#include <span>
#include <vector>

#include "engine/step_model.h"

namespace boreas {

/// One field at a time: rank 0 never holds more than one.
class CellGather {
 public:
  explicit CellGather(const StepModel& model);

  /// `own`: the cells of this rank. The field of all cells on rank 0, valid until the next call, and nothing elsewhere.
  /// Collective.
  std::span<const float> operator()(std::span<const float> own);

 private:
  Communicator& ranks_;
  Partition parts_;
  std::vector<float> whole_;
  Arena arena_;
  Context ctx_;
};

}  // namespace boreas
