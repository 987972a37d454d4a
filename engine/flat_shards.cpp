#include "engine/flat_shards.h"

#include <algorithm>

namespace boreas {

FlatShards::FlatShards(const ParameterStore& parameters, const ProcessGrid& ranks, int64_t bucket_bytes)
    : ranks_(ranks), unit_(ParameterStore::kAlignment / size_of(parameters.dtype())), sharded_(parameters.sharded()) {
  const int64_t num_units = parameters.replicated().size() / unit_,
                unit_bytes = unit_ * size_of(parameters.master_dtype());
  const int64_t num_buckets = (num_units * unit_bytes + bucket_bytes - 1) / bucket_bytes;
  const Partition buckets =
      Partition::balanced(num_units, std::clamp<int64_t>(num_buckets, 1, std::max<int64_t>(1, num_units)));
  const auto add_piece = [&](Range flat) {
    if (flat.size() == 0) return;
    const int64_t begin = state_size();
    if (!pieces_.empty() && pieces_.back().flat.end == flat.begin) {
      pieces_.back().flat.end = flat.end;
      pieces_.back().state.end += flat.size();
    } else {
      pieces_.push_back({flat, {begin, begin + flat.size()}});
    }
  };
  for (int64_t b = 0; b < buckets.num_parts(); ++b) {
    buckets_.push_back({buckets[b].begin * unit_, buckets[b].end * unit_});
    const Range own = parts_of(buckets_.back())[ranks_.world->rank()];
    add_piece({buckets_.back().begin + own.begin * unit_, buckets_.back().begin + own.end * unit_});
  }
  add_piece(sharded_);
}

Partition FlatShards::parts_of(Range bucket) const {
  return Partition::balanced(bucket.size() / unit_, ranks_.world->size());
}

Tensor FlatShards::rows_of(const Tensor& flat, Range bucket) const {
  return flat.columns(bucket).reshape({bucket.size() / unit_, unit_});
}

std::vector<FlatShards::Owned> FlatShards::owners_of(Range flat) const {
  std::vector<Owned> owners;
  for (const Range& bucket : buckets_) {
    if (bucket.end <= flat.begin || bucket.begin >= flat.end) continue;
    const Partition parts = parts_of(bucket);
    for (int rank = 0; rank < ranks_.world->size(); ++rank) {
      const Range common{std::max(flat.begin, bucket.begin + parts[rank].begin * unit_),
                         std::min(flat.end, bucket.begin + parts[rank].end * unit_)};
      if (common.size() > 0) owners.push_back({rank, common});
    }
  }
  return owners;
}

void FlatShards::sum(Context& ctx, const Tensor& flat) const {
  const Scope scope(ctx);
  Sum(ctx, *this, flat).finish(ctx);
}

FlatShards::Sum::Sum(Context& ctx, const FlatShards& shards, const Tensor& flat)
    : shards_(shards), flat_(flat), num_left_(shards.buckets_.size()), done_(ctx.device()) {
  const Communicator& world = *shards.ranks_.world;
  int64_t units = 0;
  for (const Range& bucket : shards.buckets_) units = std::max(units, shards.parts_of(bucket)[world.rank()].size());
  room_ = ctx.alloc(Keep::scratch, flat.dtype(), {(world.size() - 1) * units, shards.unit_});
}

void FlatShards::Sum::ready(Context& ctx, int64_t from) {
  const OwnerScope owner(ctx, "gradients");
  if (shards_.ranks_.world->size() == 1) return;
  while (num_left_ > 0 && shards_.buckets_[num_left_ - 1].begin >= from) {
    finish_bucket(ctx);
    moving_ = &shards_.buckets_[--num_left_];
    shards_.ranks_.world->start_reduce_scatter(ctx, shards_.parts_of(*moving_), shards_.rows_of(flat_, *moving_), room_,
                                               done_);
  }
}

void FlatShards::Sum::finish_bucket(Context& ctx) {
  if (!moving_) return;
  shards_.ranks_.world->finish_reduce_scatter(ctx, shards_.parts_of(*moving_), shards_.rows_of(flat_, *moving_), room_,
                                              done_);
  moving_ = nullptr;
}

void FlatShards::Sum::finish(Context& ctx) {
  const OwnerScope owner(ctx, "gradients");
  ready(ctx, 0);
  finish_bucket(ctx);
  shards_.ranks_.replicas->all_reduce(ctx, flat_.columns(shards_.sharded_));
}

void FlatShards::gather(Context& ctx, const Tensor& flat) const {
  const OwnerScope owner(ctx, "weights");
  for (const Range& bucket : buckets_) ranks_.world->all_gather_rows(ctx, parts_of(bucket), rows_of(flat, bucket));
}

}  // namespace boreas
