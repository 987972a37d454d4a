#include "models/layers/head_sharding.h"

#include "kernels/elementwise/elementwise.h"

namespace boreas {

HeadSharding::HeadSharding(Communicator& ranks, int64_t num_src, int64_t num_dst, int64_t num_heads)
    : num_heads_(num_heads),
      src_(ranks, Partition::balanced(num_src, ranks.size()), num_heads),
      dst_(ranks, Partition::balanced(num_dst, ranks.size()), num_heads) {}

Tensor HeadSharding::gather_one(Context& ctx, Keep keep, const HeadExchange& exchange, const Tensor& x) const {
  const Tensor y =
      ctx.alloc(keep, x.dtype(), {exchange.num_rows(), x.cols() / num_heads_ * exchange.own_heads().size()});
  exchange.to_heads(ctx, x, y);
  return y;
}

HeadArrays HeadSharding::gather(Context& ctx, Keep keep, const Tensor& q, const Tensor& k, const Tensor& v) const {
  HeadArrays arrays;
  arrays.q = gather_one(ctx, keep, dst_, q);
  arrays.k = gather_one(ctx, keep, src_, k);
  arrays.v = gather_one(ctx, keep, src_, v);
  arrays.o = ctx.alloc(keep, q.dtype(), arrays.q.shape());
  arrays.stats = ctx.alloc(keep, accumulator_of(q.dtype()), {num_dst(), heads().size()});
  return arrays;
}

HeadArrays HeadSharding::gather_gradient(Context& ctx, const HeadArrays& arrays, const Tensor& d_o) const {
  const auto room = [&](const Tensor& x) { return ctx.alloc(Keep::scratch, x.dtype(), x.shape()); };
  return {.q = room(arrays.q),
          .o = gather_one(ctx, Keep::scratch, dst_, d_o),
          .stats = {},
          .k = room(arrays.k),
          .v = room(arrays.v)};
}

void HeadSharding::scatter(Context& ctx, const HeadArrays& d, const Tensor& d_q, const Tensor& d_k,
                           const Tensor& d_v) const {
  dst_.to_rows(ctx, d.q, d_q);
  src_.to_rows(ctx, d.k, d_k);
  src_.to_rows(ctx, d.v, d_v);
}

void HeadSharding::scatter_output(Context& ctx, const Tensor& o, const Tensor& r, const Tensor& y) const {
  if (!r) return dst_.to_rows(ctx, o, y);
  const Scope scope(ctx);
  const Tensor attended = ctx.alloc(Keep::scratch, y.dtype(), {y.rows(), y.cols()});
  dst_.to_rows(ctx, o, attended);
  run(ctx, Add{.a = attended, .b = r, .y = y});
}

}  // namespace boreas
