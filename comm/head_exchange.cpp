#include "comm/head_exchange.h"

#include "kernels/elementwise/elementwise.h"

namespace boreas {

HeadExchange::HeadExchange(Communicator& ranks, Partition rows, int64_t num_heads)
    : ranks_(&ranks), rows_(std::move(rows)), heads_(Partition::balanced(num_heads, ranks.size())) {
  BOREAS_CHECK(ranks.size() <= num_heads, config,
               "parallel.shard is heads, but there are {} ranks for {} heads; start at most {} ranks, or set "
               "parallel.shard: edges",
               ranks.size(), num_heads, num_heads);
  BOREAS_CHECK(rows_.num_parts() == ranks.size(), invalid_argument, "rows in {} parts do not fit {} ranks",
               rows_.num_parts(), ranks.size());
}

Range HeadExchange::columns_of(int rank, const Tensor& by_rows) const {
  const int64_t width = by_rows.cols() / heads_.size();
  return {heads_[rank].begin * width, heads_[rank].end * width};
}

void HeadExchange::check(const Tensor& by_rows, const Tensor& by_heads) const {
  BOREAS_CHECK(by_rows.rows() == own_rows().size() && by_heads.rows() == num_rows() && by_heads.contiguous() &&
                   by_rows.cols() % heads_.size() == 0 && by_heads.cols() == columns_of(ranks_->rank(), by_rows).size(),
               shape, "head exchange of {} heads: {} by rows does not fit {} by heads", heads_.size(),
               to_string(by_rows), to_string(by_heads));
}

void HeadExchange::to_heads(Context& ctx, const Tensor& by_rows, const Tensor& by_heads) const {
  check(by_rows, by_heads);
  const Scope scope(ctx);
  std::vector<Communicator::Rows> send, receive;
  for (int peer = 0; peer < ranks_->size(); ++peer) {
    const Tensor columns = by_rows.columns(columns_of(peer, by_rows));
    if (peer == ranks_->rank()) {
      run(ctx, Copy{.x = columns, .y = by_heads.slice(rows_[peer])});
      continue;
    }
    const Tensor packed = ctx.alloc(Keep::scratch, by_rows.dtype(), {columns.rows(), columns.cols()});
    run(ctx, Copy{.x = columns, .y = packed});
    send.push_back({peer, packed});
    receive.push_back({peer, by_heads.slice(rows_[peer])});
  }
  ranks_->exchange(ctx, send, receive);
}

void HeadExchange::to_rows(Context& ctx, const Tensor& by_heads, const Tensor& by_rows) const {
  check(by_rows, by_heads);
  const Scope scope(ctx);
  std::vector<Communicator::Rows> send, receive;
  for (int peer = 0; peer < ranks_->size(); ++peer) {
    if (peer == ranks_->rank()) continue;
    const int64_t width = columns_of(peer, by_rows).size();
    send.push_back({peer, by_heads.slice(rows_[peer])});
    receive.push_back({peer, ctx.alloc(Keep::scratch, by_rows.dtype(), {by_rows.rows(), width})});
  }
  ranks_->exchange(ctx, send, receive);
  for (const Communicator::Rows& message : receive)
    run(ctx, Copy{.x = message.rows, .y = by_rows.columns(columns_of(message.rank, by_rows))});
  run(ctx, Copy{.x = by_heads.slice(own_rows()), .y = by_rows.columns(columns_of(ranks_->rank(), by_rows))});
}

}  // namespace boreas
