#include "engine/cell_gather.h"

namespace boreas {

CellGather::CellGather(const StepModel& model)
    : ranks_(model.ranks()),
      parts_(Partition::balanced(model.setup().num_cells(), ranks_.size())),
      whole_(ranks_.size() > 1 && ranks_.rank() == 0 ? size_t(parts_.size()) : 0),
      arena_(Buffer(Device::cpu(), Buffer::Kind::host, 1, "staging")),
      ctx_(Device::cpu(), arena_) {}

std::span<const float> CellGather::operator()(std::span<const float> own) {
  if (ranks_.size() == 1) return own;
  const Tensor rows(const_cast<float*>(own.data()), DType::f32, {int64_t(own.size()), 1});
  ranks_.gather_rows(ctx_, parts_, rows, Tensor(whole_.data(), DType::f32, {int64_t(whole_.size()), 1}));
  return whole_;
}

}  // namespace boreas
