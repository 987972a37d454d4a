// RowExchange: the rows that a rank needs of an array whose rows are spread over the ranks, and the adjoint.
#pragma once

#include "comm/communicator.h"
#include "kernels/core/buffer.h"
#include "kernels/core/fields.h"

namespace boreas {

enum class ExchangeKind : uint8_t {
  halo,      ///< only the rows that are needed, packed: one message to each neighbour
  allgather  ///< all rows of all ranks
};
template <>
struct EnumNames<ExchangeKind> {
  static constexpr std::array values{std::pair{ExchangeKind::halo, std::string_view("halo")},
                                     std::pair{ExchangeKind::allgather, std::string_view("allgather")}};
};

/// Rank r owns rows owners[r] of an array. What this rank computes with is an array of `num_rows` rows: rows of lower
/// ranks, its own, rows of higher ranks, each in their order in the whole. Its own rows are written in place
/// (`own()`); forward fills the rest, backward brings the gradients of the rest home:
///
///   forward    rows[i] = the whole's row ids[i]                        for i outside own()
///   backward   d_rows[own()] += what all other ranks hold for these rows, added in rank order
///
/// Any rank may need any rows: the lists are agreed when the exchange is made. Both directions are collective.
class RowExchange {
 public:
  RowExchange() = default;  ///< of nothing
  /// One rank that needs its own rows only: nothing is moved.
  static RowExchange local(int64_t num_rows);
  /// `needed`: global rows, ascending and unique; own rows may be among them and are always kept. Collective.
  /// `ranks` must outlive the exchange.
  static RowExchange make(Communicator& ranks, const Partition& owners, std::span<const int64_t> needed,
                          ExchangeKind kind, Device device);

  /// Puts own rows in another order: row own().begin + i is then that which was own().begin + order[i]. Others see
  /// nothing of it. Of halos only.
  void reorder_own(std::span<const int32_t> order);

  /// No rows but its own: nothing is moved, and no room for others is needed.
  bool is_local() const { return !ranks_ || ranks_->size() == 1; }
  ExchangeKind kind() const { return kind_; }
  int64_t num_rows() const { return num_rows_; }
  Range own() const { return own_; }
  /// Global row of each row here; empty for `local`.
  const std::vector<int64_t>& ids() const { return ids_; }
  int64_t num_received() const { return num_rows_ - own_.size(); }
  int64_t num_sent() const { return num_sent_; }

  /// rows: [num_rows, C], any type, may be a column slice.
  void forward(Context& ctx, const Tensor& rows) const;
  /// d_rows: [num_rows, C], floating; sums are kept in the accumulator type.
  void backward(Context& ctx, const Tensor& d_rows) const;

  /// Each of them in two parts: what is queued in between is computed while the rows are on their way, and leaves them
  /// alone: forward, the rows of others, and own rows may be read; backward, the rows of others, and own rows may be
  /// written. Both parts are called in the same scope, which lends the memory for the messages.
  struct Moving {
    Tensor rows, messages;
    Event done;
  };
  Moving start_forward(Context& ctx, const Tensor& rows) const;
  void finish_forward(Context& ctx, const Moving& moving) const;
  Moving start_backward(Context& ctx, const Tensor& d_rows) const;
  void finish_backward(Context& ctx, const Moving& moving) const;

 private:
  void check(const Tensor& rows) const;
  /// Rows of others as they are numbered where own rows are left out.
  Range among_received(Range rows) const {
    const int64_t skipped = rows.begin >= own_.end ? own_.size() : 0;
    return {rows.begin - skipped, rows.end - skipped};
  }
  struct Peer {
    int rank;
    Range send;     ///< in send_ids_
    Range receive;  ///< in the rows here
  };
  Communicator* ranks_ = nullptr;
  ExchangeKind kind_ = ExchangeKind::halo;
  Partition owners_ = Partition::balanced(0, 1);
  int64_t num_rows_ = 0, num_sent_ = 0;
  Range own_;
  std::vector<int64_t> ids_;
  std::vector<Peer> peers_;  // ascending
  Buffer storage_;
  Tensor send_ids_;  // i32, positions in own()
};

}  // namespace boreas
