// Head sharding: each rank computes the attention of its own heads between all rows.
#pragma once

#include "comm/head_exchange.h"
#include "kernels/core/fields.h"

namespace boreas {

/// How ranks that share a sample divide the work of attention.
enum class ShardKind : uint8_t {
  edges,  ///< a rank computes all heads of its own rows, and needs rows of others: see RowExchange
  heads   ///< a rank computes its own heads of all rows, by all-to-alls between the two
};
template <>
struct EnumNames<ShardKind> {
  static constexpr std::array values{std::pair{ShardKind::edges, std::string_view("edges")},
                                     std::pair{ShardKind::heads, std::string_view("heads")}};
};

/// The tensors of one attention, of all rows and this rank's heads.
struct HeadArrays {
  Tensor q, o, stats;  ///< by destination
  Tensor k, v;         ///< by source
};

/// Between arrays of this rank's rows and all heads, and those of all rows and this rank's heads. Rows are owned as
/// everywhere in a model: balanced.
class HeadSharding {
 public:
  /// Throws config if there are more ranks than heads.
  HeadSharding(Communicator& ranks, int64_t num_src, int64_t num_dst, int64_t num_heads);

  int64_t num_src() const { return src_.num_rows(); }
  int64_t num_dst() const { return dst_.num_rows(); }
  Range heads() const { return src_.own_heads(); }

  /// Fills q, k, v; makes room for o and, in the accumulator type, for stats.
  HeadArrays gather(Context& ctx, Keep keep, const Tensor& q, const Tensor& k, const Tensor& v) const;
  /// Room for the gradients of these, without stats; o holds that of o, gathered.
  HeadArrays gather_gradient(Context& ctx, const HeadArrays& arrays, const Tensor& d_o) const;
  /// The gradients home.
  void scatter(Context& ctx, const HeadArrays& d, const Tensor& d_q, const Tensor& d_k, const Tensor& d_v) const;
  /// o of all heads of this rank's rows, plus r unless that is empty; y may be r.
  void scatter_output(Context& ctx, const Tensor& o, const Tensor& r, const Tensor& y) const;

 private:
  Tensor gather_one(Context& ctx, Keep keep, const HeadExchange& exchange, const Tensor& x) const;

  int64_t num_heads_;
  HeadExchange src_, dst_;
};

}  // namespace boreas
