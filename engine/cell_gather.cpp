#include "engine/cell_gather.h"

#include <algorithm>
#include <numeric>

namespace boreas {

namespace {

std::vector<int64_t> all_cells(const StepModel& model) {
  std::vector<int64_t> cells(size_t(model.setup().num_cells()));
  std::iota(cells.begin(), cells.end(), 0);
  return cells;
}

}  // namespace

CellGather::CellGather(const StepModel& model) : CellGather(model, all_cells(model)) {}

CellGather::CellGather(const StepModel& model, std::span<const int64_t> cells)
    : ranks_(model.ranks()),
      all_(int64_t(cells.size()) == model.setup().num_cells()),
      arena_(Buffer(Device::cpu(), Buffer::Kind::host, 1, "staging")),
      ctx_(Device::cpu(), arena_) {
  const auto place = [&](int64_t cell) { return std::lower_bound(cells.begin(), cells.end(), cell) - cells.begin(); };
  const Partition owners = Partition::balanced(model.setup().num_cells(), ranks_.size());
  for (int rank = 0; rank < ranks_.size(); ++rank)
    place_of_rank_.push_back({place(owners[rank].begin), place(owners[rank].end)});
  const Range own = place_of_rank_[size_t(ranks_.rank())];
  for (int64_t i = own.begin; i < own.end; ++i) picked_.push_back(cells[size_t(i)] - model.cells().begin);
  if (!all_) sent_.resize(picked_.size());
  if (ranks_.rank() == 0) whole_.resize(cells.size());
}

std::span<const float> CellGather::operator()(std::span<const float> own) {
  if (all_ && ranks_.size() == 1) return own;
  if (!all_) std::transform(picked_.begin(), picked_.end(), sent_.begin(), [&](int64_t i) { return own[size_t(i)]; });
  const std::span<const float> mine = all_ ? own : std::span<const float>(sent_);
  const auto rows = [](const float* data, int64_t size) {
    return Tensor(const_cast<float*>(data), DType::f32, {size});
  };
  std::vector<Communicator::Rows> send, receive;
  if (ranks_.rank() > 0) {
    send.push_back({0, rows(mine.data(), int64_t(mine.size()))});
  } else {
    std::copy(mine.begin(), mine.end(), whole_.begin());
    for (int rank = 1; rank < ranks_.size(); ++rank)
      receive.push_back(
          {rank, rows(whole_.data() + place_of_rank_[size_t(rank)].begin, place_of_rank_[size_t(rank)].size())});
  }
  ranks_.exchange(ctx_, send, receive);
  return whole_;
}

}  // namespace boreas
