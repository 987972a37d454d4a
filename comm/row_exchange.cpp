#include "comm/row_exchange.h"

#include <algorithm>
#include <numeric>

#include "kernels/elementwise/elementwise.h"
#include "kernels/gather_rows/gather_rows.h"

namespace boreas {

RowExchange RowExchange::local(int64_t num_rows) {
  RowExchange exchange;
  exchange.num_rows_ = num_rows;
  exchange.own_ = {0, num_rows};
  return exchange;
}

RowExchange RowExchange::make(Communicator& ranks, const Partition& owners, std::span<const int64_t> needed,
                              ExchangeKind kind, Device device) {
  BOREAS_CHECK(owners.num_parts() == ranks.size(), invalid_argument, "rows in {} parts do not fit {} ranks",
               owners.num_parts(), ranks.size());
  const Range mine = owners[ranks.rank()];
  RowExchange exchange;
  exchange.ranks_ = &ranks;
  exchange.kind_ = kind;
  exchange.owners_ = owners;

  std::vector<std::vector<int64_t>> wanted(size_t(ranks.size()));
  if (kind == ExchangeKind::allgather) {
    exchange.ids_.resize(size_t(owners.size()));
    std::iota(exchange.ids_.begin(), exchange.ids_.end(), 0);
    exchange.own_ = mine;
  } else {
    int64_t previous = -1;
    int owner = 0;
    const auto keep_own = [&] {
      exchange.own_.begin = int64_t(exchange.ids_.size());
      for (int64_t row = mine.begin; row < mine.end; ++row) exchange.ids_.push_back(row);
      exchange.own_.end = int64_t(exchange.ids_.size());
    };
    bool kept = false;
    for (const int64_t row : needed) {
      BOREAS_CHECK(row > previous && row < owners.size(), invalid_argument,
                   "row exchange: row {} follows {} of {}; they must ascend", row, previous, owners.size());
      previous = row;
      if (row >= mine.begin && row < mine.end) continue;
      if (!kept && row >= mine.end) keep_own(), kept = true;
      while (row >= owners[owner].end) ++owner;
      wanted[size_t(owner)].push_back(row);
      exchange.ids_.push_back(row);
    }
    if (!kept) keep_own();
  }
  exchange.num_rows_ = int64_t(exchange.ids_.size());

  const std::vector<std::vector<int64_t>> asked = ranks.all_to_all(wanted);
  if (kind == ExchangeKind::allgather) {
    exchange.num_sent_ = mine.size() * (ranks.size() - 1);
    return exchange;
  }
  std::vector<int32_t> send_ids;
  int64_t received = 0;
  for (int peer = 0; peer < ranks.size(); ++peer) {
    if (peer == ranks.rank()) {
      received += mine.size();
      continue;
    }
    const int64_t num_wanted = int64_t(wanted[size_t(peer)].size()), sent = int64_t(send_ids.size());
    for (const int64_t row : asked[size_t(peer)]) {
      BOREAS_CHECK(row >= mine.begin && row < mine.end, internal, "rank {} asks rank {} for row {}, which it has not",
                   peer, ranks.rank(), row);
      send_ids.push_back(int32_t(row - mine.begin));
    }
    if (num_wanted > 0 || int64_t(send_ids.size()) > sent)
      exchange.peers_.push_back({peer, {sent, int64_t(send_ids.size())}, {received, received + num_wanted}});
    received += num_wanted;
  }
  exchange.num_sent_ = int64_t(send_ids.size());
  exchange.storage_ = Buffer::on(device, std::max<int64_t>(1, exchange.num_sent_) * 4, "graph");
  exchange.send_ids_ = exchange.storage_.tensor(DType::i32, {exchange.num_sent_});
  copy_now(exchange.send_ids_.data(), device, send_ids.data(), Device::cpu(), exchange.num_sent_ * 4);
  return exchange;
}

void RowExchange::reorder_own(std::span<const int32_t> order) {
  BOREAS_CHECK(kind_ == ExchangeKind::halo && ranks_, invalid_argument,
               "row exchange: only own rows of a halo have an order of their own");
  BOREAS_CHECK(int64_t(order.size()) == own_.size(), shape, "row exchange: an order of {} rows was given for {}",
               order.size(), own_.size());
  std::vector<int32_t> place(order.size());
  std::vector<int32_t> send_ids(static_cast<size_t>(num_sent_));
  std::vector<int64_t> ids(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    place[size_t(order[i])] = int32_t(i);
    ids[i] = ids_[size_t(own_.begin + order[i])];
  }
  std::ranges::copy(ids, ids_.begin() + own_.begin);
  const Device device = storage_.device();
  copy_now(send_ids.data(), Device::cpu(), send_ids_.data(), device, num_sent_ * 4);
  for (int32_t& id : send_ids) id = place[size_t(id)];
  copy_now(send_ids_.data(), device, send_ids.data(), Device::cpu(), num_sent_ * 4);
}

void RowExchange::check(const Tensor& rows) const {
  BOREAS_CHECK(rows.rows() == num_rows_, shape, "row exchange: {} was given, {} rows are exchanged", to_string(rows),
               num_rows_);
}

void RowExchange::forward(Context& ctx, const Tensor& rows) const {
  const Scope scope(ctx);
  finish_forward(ctx, start_forward(ctx, rows));
}

void RowExchange::backward(Context& ctx, const Tensor& d_rows) const {
  const Scope scope(ctx);
  finish_backward(ctx, start_backward(ctx, d_rows));
}

// Messages are contiguous: a column slice goes through a copy.
RowExchange::Moving RowExchange::start_forward(Context& ctx, const Tensor& rows) const {
  check(rows);
  Moving moving{rows, {}, Event(ctx.device())};
  if (is_local()) return moving;
  const bool packed = rows.contiguous();
  const auto room = [&](int64_t count) { return ctx.alloc(Keep::scratch, rows.dtype(), {count, rows.cols()}); };
  std::vector<Communicator::Rows> send, receive;
  if (kind_ == ExchangeKind::allgather) {
    const Tensor whole = packed ? rows : room(num_rows_);
    if (!packed) run(ctx, Copy{.x = rows.slice(own_), .y = whole.slice(own_)});
    ranks_->all_gather_messages(owners_, whole, send, receive);
    if (!packed) moving.messages = whole;
  } else {
    const Tensor outgoing = room(num_sent_);
    run(ctx, GatherRows{.x = rows.slice(own_), .ids = send_ids_, .y = outgoing});
    if (!packed) moving.messages = room(num_received());
    for (const Peer& peer : peers_) {
      if (peer.send.size() > 0) send.push_back({peer.rank, outgoing.slice(peer.send)});
      if (peer.receive.size() > 0)
        receive.push_back(
            {peer.rank, packed ? rows.slice(peer.receive) : moving.messages.slice(among_received(peer.receive))});
    }
  }
  ranks_->start_exchange(ctx, send, receive, moving.done);
  return moving;
}

void RowExchange::finish_forward(Context& ctx, const Moving& moving) const {
  Communicator::finish_exchange(ctx, moving.done);
  if (!moving.messages) return;
  const Tensor &rows = moving.rows, &received = moving.messages;
  if (kind_ == ExchangeKind::allgather) return run(ctx, Copy{.x = received, .y = rows});
  run(ctx, Copy{.x = received.slice({0, own_.begin}), .y = rows.slice({0, own_.begin})});
  run(ctx, Copy{.x = received.slice({own_.begin, num_received()}), .y = rows.slice({own_.end, num_rows_})});
}

RowExchange::Moving RowExchange::start_backward(Context& ctx, const Tensor& d_rows) const {
  check(d_rows);
  Moving moving{d_rows, {}, Event(ctx.device())};
  if (is_local() || kind_ == ExchangeKind::allgather) return moving;
  const bool packed = d_rows.contiguous();
  const auto room = [&](int64_t count) { return ctx.alloc(Keep::scratch, d_rows.dtype(), {count, d_rows.cols()}); };
  moving.messages = room(num_sent_);
  const Tensor outgoing = packed ? Tensor() : room(num_received());
  if (!packed) {
    run(ctx, Copy{.x = d_rows.slice({0, own_.begin}), .y = outgoing.slice({0, own_.begin})});
    run(ctx, Copy{.x = d_rows.slice({own_.end, num_rows_}), .y = outgoing.slice({own_.begin, num_received()})});
  }
  std::vector<Communicator::Rows> send, receive;
  for (const Peer& peer : peers_) {
    if (peer.receive.size() > 0)
      send.push_back({peer.rank, packed ? d_rows.slice(peer.receive) : outgoing.slice(among_received(peer.receive))});
    if (peer.send.size() > 0) receive.push_back({peer.rank, moving.messages.slice(peer.send)});
  }
  ranks_->start_exchange(ctx, send, receive, moving.done);
  return moving;
}

void RowExchange::finish_backward(Context& ctx, const Moving& moving) const {
  if (is_local()) return;
  const Scope scope(ctx);
  const Tensor& d_rows = moving.rows;
  if (kind_ == ExchangeKind::allgather) {
    const bool packed = d_rows.contiguous();
    const Tensor whole = packed ? d_rows : ctx.alloc(Keep::scratch, d_rows.dtype(), {num_rows_, d_rows.cols()});
    if (!packed) run(ctx, Copy{.x = d_rows, .y = whole});
    ranks_->reduce_scatter_rows(ctx, owners_, whole);
    if (!packed) run(ctx, Copy{.x = whole.slice(own_), .y = d_rows.slice(own_)});
    return;
  }
  Communicator::finish_exchange(ctx, moving.done);
  const Tensor own = d_rows.slice(own_);
  const DType sum_type = accumulator_of(d_rows.dtype());
  const bool wide = sum_type == d_rows.dtype();
  const Tensor sum = wide ? own : ctx.alloc(Keep::scratch, sum_type, {own.rows(), own.cols()});
  if (!wide) run(ctx, Copy{.x = own, .y = sum});
  for (const Peer& peer : peers_)
    if (peer.send.size() > 0)
      run(ctx, ScatterAddRows{.x = moving.messages.slice(peer.send), .ids = send_ids_.columns(peer.send), .y = sum});
  if (!wide) run(ctx, Copy{.x = sum, .y = own});
}

}  // namespace boreas
