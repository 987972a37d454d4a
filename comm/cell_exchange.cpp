#include "comm/cell_exchange.h"

#include <algorithm>

#include "comm/host_communicator.h"

namespace boreas {

namespace {

// Lists one after the other, and where each of them lies.
std::vector<Range> concatenate(const std::vector<std::vector<int64_t>>& lists, std::vector<int64_t>& all) {
  std::vector<Range> ranges;
  for (const auto& list : lists) {
    ranges.push_back({int64_t(all.size()), int64_t(all.size() + list.size())});
    all.insert(all.end(), list.begin(), list.end());
  }
  return ranges;
}

}  // namespace

CellExchange::CellExchange(Communicator& ranks, Range own, int64_t num_cells, std::span<const int64_t> cells)
    : ranks_(&ranks) {
  const auto num_ranks = size_t(ranks.size());
  const auto end_of_rank = ranks.all_to_all(std::vector<std::vector<int64_t>>(num_ranks, {own.end}));
  std::vector<std::vector<int64_t>> positions(num_ranks), wanted(num_ranks);
  run_together(ranks, [&] {
    for (size_t i = 0; i < cells.size(); ++i) {
      const int64_t cell = cells[i];
      BOREAS_CHECK(cell >= 0 && cell < num_cells, invalid_argument,
                   "cell {} (number {} on this rank) does not exist: the model has the cells 0 to {}", cell, i,
                   num_cells - 1);
      const auto owner = std::partition_point(end_of_rank.begin(), end_of_rank.end(),
                                              [&](const std::vector<int64_t>& end) { return end[0] <= cell; });
      const auto rank = size_t(owner - end_of_rank.begin());
      positions[rank].push_back(int64_t(i));
      wanted[rank].push_back(cell);
    }
  });
  host_of_rank_ = concatenate(positions, host_ids_);
  const auto given = ranks.all_to_all(wanted);
  run_together(ranks, [&] {
    model_of_rank_ = concatenate(given, model_ids_);
    std::vector<uint8_t> seen(size_t(own.size()), 0);
    for (int64_t& cell : model_ids_) {
      cell -= own.begin;
      BOREAS_CHECK(!seen[size_t(cell)], invalid_argument,
                   "cell {} is given twice; give each cell once, on one rank, and no halo", cell + own.begin);
      seen[size_t(cell)] = 1;
    }
    const auto missing = std::find(seen.begin(), seen.end(), 0);
    BOREAS_CHECK(missing == seen.end(), invalid_argument,
                 "cell {} and {} more are on no rank; the cells of all ranks together must be all {} of the model",
                 own.begin + (missing - seen.begin()), std::count(seen.begin(), seen.end(), 0) - 1, num_cells);
  });
}

void CellExchange::move(Communicator& ranks, std::span<const float* const> from, const std::vector<int64_t>& from_ids,
                        const std::vector<Range>& from_of_rank, std::span<float* const> to,
                        const std::vector<int64_t>& to_ids, const std::vector<Range>& to_of_rank) {
  const auto num_fields = int64_t(from.size());
  if (num_fields == 0) return;
  Buffer outgoing(Device::cpu(), Buffer::Kind::host, std::max<int64_t>(1, num_fields * int64_t(from_ids.size()) * 4),
                  "exchange");
  Buffer incoming(Device::cpu(), Buffer::Kind::host, std::max<int64_t>(1, num_fields * int64_t(to_ids.size()) * 4),
                  "exchange");
  const auto message = [&](const Buffer& buffer, Range cells) {
    return buffer.tensor(DType::f32, {num_fields, cells.size()}, cells.begin * num_fields * 4);
  };
  std::vector<Communicator::Rows> send, receive;
  for (int rank = 0; rank < ranks.size(); ++rank) {
    const Range leaving = from_of_rank[size_t(rank)], arriving = to_of_rank[size_t(rank)];
    if (leaving.size() > 0) {
      const Tensor rows = message(outgoing, leaving);
      for (int64_t f = 0; f < num_fields; ++f)
        for (int64_t i = 0; i < leaving.size(); ++i)
          rows.row<float>(f)[i] = from[size_t(f)][from_ids[size_t(leaving.begin + i)]];
      if (rank != ranks.rank()) send.push_back({rank, rows});
    }
    if (arriving.size() > 0 && rank != ranks.rank()) receive.push_back({rank, message(incoming, arriving)});
  }
  Arena arena(Buffer(Device::cpu(), Buffer::Kind::host, 1, "exchange"));
  Context ctx(Device::cpu(), arena);
  ranks.exchange(ctx, send, receive);
  for (int rank = 0; rank < ranks.size(); ++rank) {
    const Range arrived = to_of_rank[size_t(rank)];
    if (arrived.size() == 0) continue;
    const Tensor rows =
        rank == ranks.rank() ? message(outgoing, from_of_rank[size_t(rank)]) : message(incoming, arrived);
    for (int64_t f = 0; f < num_fields; ++f)
      for (int64_t i = 0; i < arrived.size(); ++i)
        to[size_t(f)][to_ids[size_t(arrived.begin + i)]] = rows.row<float>(f)[i];
  }
}

void CellExchange::to_model(std::span<const float* const> host, std::span<float* const> model) const {
  move(*ranks_, host, host_ids_, host_of_rank_, model, model_ids_, model_of_rank_);
}

void CellExchange::to_host(std::span<const float* const> model, std::span<float* const> host) const {
  move(*ranks_, model, model_ids_, model_of_rank_, host, host_ids_, host_of_rank_);
}

}  // namespace boreas
