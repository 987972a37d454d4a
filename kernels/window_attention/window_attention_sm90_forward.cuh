// Windowed attention forward on Hopper.
//
// A block takes tiles of query rows of one head in turn: a producer thread copies Q and, one step after the other,
// kKeys rows of K and V into rings of shared memory; each consumer warpgroup owns 64 of the rows. Per step it has S = Q
// K^T and O += P V computed by wgmma, and P = exp2(S - reference) in registers, the fragment of S being that of the
// left side of P V. The next S is on its way during P V, across tiles too.
//
// A row's reference is the maximum of its first step, and is raised only when a score exceeds it by kSlack: the
// quotient O / sum does not depend on it, and f32 and bf16 have the exponents to spare.
#pragma once

#include "kernels/window_attention/window_attention_sm90_tiles.cuh"

namespace boreas::cuda::sm90 {

struct ForwardParams {
  Band band;
  float log2_scale;  // scale * log2(e)
  float* stats;
  int64_t stats_stride;
};

/// kTurns: warpgroups issue their products in turn, so that one has softmax while the other has products.
template <int kHeadSize_, int kGroups_, int kKeys_, int kStages_, bool kTurns_ = false>
struct ForwardShape {
  static constexpr bool kTurns = kTurns_;
  static constexpr int kHeadSize = kHeadSize_, kGroups = kGroups_, kKeys = kKeys_, kStages = kStages_;
  static constexpr int kRows = 64 * kGroups, kThreads = 128 * (kGroups + 1), kQueryStages = 2;
  using Layout = TileLayout<kHeadSize>;
  using QueryRing = Ring<kQueryStages>;
  using KeyRing = Ring<kStages>;
  static constexpr int kQueryBytes = Layout::bytes(64), kStepBytes = Layout::bytes(kKeys);
  static constexpr int kK = kQueryStages * kGroups * kQueryBytes, kV = kK + kStages * kStepBytes;
  static constexpr int kBarriers = kV + kStages * kStepBytes;
  static constexpr int kSharedBytes =
      kBarriers + 8 * (QueryRing::kNumBarriers + 2 * KeyRing::kNumBarriers) + kAlignment;
  // A group waits for K of a tile's first step before it gives back V of the last tile's last step: the steps between
  // them, which only other groups have a part in, must fit into the ring, or nobody can go on.
  static_assert(kStages >= 1 + (64 * (kGroups - 1) + kKeys - 1) / kKeys);
  // Of 65536 registers: what a thread of the producer and of a consumer may have.
  static constexpr int kProducerRegisters = kGroups == 3 ? 32 : 24, kConsumerRegisters = kGroups == 3 ? 160 : 240;
};

template <class C>
struct ForwardMemory {
  typename C::QueryRing queries;
  typename C::KeyRing k, v;
  uint32_t base;
  __device__ explicit ForwardMemory(char* memory)
      : queries{reinterpret_cast<SharedBarrier*>(memory + C::kBarriers)},
        k{queries.barriers + C::QueryRing::kNumBarriers},
        v{k.barriers + C::KeyRing::kNumBarriers},
        base(shared_address(memory)) {}
  __device__ uint32_t query_tile(int use, int group) const {
    return base + (use % C::kQueryStages * C::kGroups + group) * C::kQueryBytes;
  }
  __device__ uint32_t k_tile(int use) const { return base + C::kK + use % C::kStages * C::kStepBytes; }
  __device__ uint32_t v_tile(int use) const { return base + C::kV + use % C::kStages * C::kStepBytes; }
};

template <class C>
__device__ inline void produce(const CUtensorMap* q, const CUtensorMap* k, const CUtensorMap* v, const Band& band,
                               const ForwardMemory<C>& memory) {
  using Layout = typename C::Layout;
  int step = 0;
  for (int n = 0, index = blockIdx.x; index < band.num_tiles; index += gridDim.x, ++n) {
    const Tile tile(band, index, C::kRows, C::kKeys);
    SharedBarrier* full = memory.queries.fill(n, C::kGroups * C::kQueryBytes);
    for (int group = 0; group < C::kGroups; ++group)
      Layout::load(memory.query_tile(n, group), q, tile.head, tile.row + 64 * group, 64, full);
    for (int i = 0; i < tile.num_steps; ++i, ++step) {
      const int key = tile.first + i * C::kKeys;
      full = memory.k.fill(step, C::kStepBytes);
      Layout::load(memory.k_tile(step), k, tile.head, key, C::kKeys, full);
      full = memory.v.fill(step, C::kStepBytes);
      Layout::load(memory.v_tile(step), v, tile.head, key, C::kKeys, full);
    }
  }
}

// Two rows, 8 apart, of which four threads hold the columns.
struct SoftmaxRows {
  static constexpr float kSlack = 8;  // in powers of 2
  float reference[2];                 // scores are times log2_scale
  float sum[2];                       // this thread's part
  float factor[2];                    // what the last raise made of everything so far

  __device__ void reset() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      reference[r] = -1e30f;
      sum[r] = 0;
    }
  }

  // s -> numerators. Whether the references were raised.
  template <int kSize>
  __device__ bool exponentiate(float (&s)[kSize], float log2_scale) {
    float largest[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float even = s[2 * r], odd = s[2 * r + 1];
#pragma unroll
      for (int n = 1; n < kSize / 4; ++n) {
        even = fmaxf(even, s[4 * n + 2 * r]);
        odd = fmaxf(odd, s[4 * n + 2 * r + 1]);
      }
      largest[r] = fmaxf(even, odd) * log2_scale;
    }
    const bool raise = __any_sync(~0u, largest[0] > reference[0] + kSlack || largest[1] > reference[1] + kSlack);
    if (raise) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float raised = fmaxf(reference[r], maximum_of_row(largest[r]));
        factor[r] = fast_exp2(reference[r] - raised);
        sum[r] *= factor[r];
        reference[r] = raised;
      }
    }
    float part[4] = {};
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      s[i] = fast_exp2(fmaf(s[i], log2_scale, -reference[i / 2 % 2]));
      part[i % 4] += s[i];
    }
    sum[0] += part[0] + part[1];
    sum[1] += part[2] + part[3];
    return raise;
  }
};

template <class C>
__device__ inline void consume(const int group, const CUtensorMap* o_map, const ForwardParams& params,
                               const ForwardMemory<C>& memory) {
  using Layout = typename C::Layout;
  constexpr int kD = C::kHeadSize, kKeys = C::kKeys;
  const Band& band = params.band;
  const Lane lane;
  Cursor<C::kStages> k{memory.k}, v{memory.v};
  float s[kKeys / 2], o[kD / 2];
  uint32_t p[kKeys / 4];
  SoftmaxRows rows;

  int use = 0, index = blockIdx.x;  // of the tile: its number in this block, and among all
  Tile tile(band, index, C::kRows, kKeys);
  Steps steps(band, tile, tile.place + 64 * group, kKeys);
  int step = steps.begin, first_use = 0;  // the tile's step 0 in the rings
  int unreleased = -1;                    // the tile whose output is being copied from its queries' memory

  const auto issue_scores = [&] {
    const uint32_t query = memory.query_tile(use, group), key = memory.k_tile(k.use);
    hold(s);
    wgmma_fence();
#pragma unroll
    for (int x = 0; x < kD / 16; ++x)
      wgmma<kKeys>(s, Layout::columns(query, 64, 16 * x), Layout::columns(key, kKeys, 16 * x), x > 0);
    wgmma_commit();
  };
  const auto issue_output = [&](bool add) {
    const uint32_t value = memory.v_tile(v.use);
    hold(o);
    hold(p);
    wgmma_fence();
#pragma unroll
    for (int x = 0; x < kKeys / 16; ++x)
      wgmma<kD, Major::mn>(o, p + 4 * x, Layout::rows(value, kKeys, 16 * x), add || x > 0);
    wgmma_commit();
  };
  const auto take_turn = [&] {
    if constexpr (C::kTurns) named_barrier_wait(1 + C::kGroups + group, 256);
  };
  const auto pass_turn = [&] {
    if constexpr (C::kTurns) named_barrier_arrive(1 + C::kGroups + (group + 1) % C::kGroups, 256);
  };
  const auto softmax = [&] {
    const int place = tile.place + 64 * group, key = tile.first + step * kKeys;
    if (!band.covers(place, 64, key, kKeys)) mask_fragment(s, band, place + lane.row, key + lane.column, -INFINITY);
    return rows.exponentiate(s, params.log2_scale);
  };
  const auto release_output = [&] {
    if (unreleased < 0) return;
    wait_bulk_stores_read();
    memory.queries.release(unreleased);
    unreleased = -1;
  };
  const auto finish = [&](int of_use, int head, int first_row) {
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float sum = sum_of_row(rows.sum[r]);
      const int row = first_row + lane.row + 8 * r;
      factor[r] = 1 / sum;
      if (lane.column == 0 && row < band.num_rows)
        params.stats[row * params.stats_stride + head] = float(kLog2) * (rows.reference[r] + fast_log2(sum));
    }
    const uint32_t out = memory.query_tile(of_use, group);
    Layout::write(out, o, lane, factor);
    fence_bulk();
    named_barrier_wait(1 + group, 128);
    if (lane.thread != 0) return;
    if (first_row < band.num_rows) Layout::store(o_map, out, head, first_row, 64);
    commit_bulk_stores();
    unreleased = of_use;
  };

  // Each round of the inner loop begins with the numerators p of a step: S of the next step, then O of this one.
  if (group == C::kGroups - 1) pass_turn();  // the first is group 0's
  rows.reset();
  memory.queries.wait(use);
  k.wait(step);
  take_turn();
  issue_scores();
  pass_turn();
  wgmma_wait<0>();
  hold(s);
  k.release();
  softmax();
  pack_fragment(s, p);
  while (true) {
    bool add = false;
    while (step + 1 < steps.end) {
      ++step;
      k.wait(first_use + step);
      v.wait(first_use + step - 1);
      take_turn();
      issue_scores();
      issue_output(add);
      pass_turn();
      add = true;
      wgmma_wait<1>();
      hold(s);
      k.release();
      const bool rescale = softmax();
      wgmma_wait<0>();
      hold(o);
      hold(p);
      v.release();
      if (rescale) {
#pragma unroll
        for (int i = 0; i < kD / 2; ++i) o[i] *= rows.factor[i / 2 % 2];
      }
      pack_fragment(s, p);
      release_output();
    }
    // The last step of a tile goes with the first of the next, if there is one.
    v.wait(first_use + step);
    const int this_use = use, head = tile.head, row = tile.row + 64 * group;
    index += gridDim.x;
    first_use += tile.num_steps;
    const bool more = index < band.num_tiles;
    if constexpr (C::kTurns)  // as many as the other groups
      for (int i = steps.end - steps.begin; i < tile.num_steps; ++i) {
        take_turn();
        pass_turn();
      }
    release_output();  // the next tile's queries may be waiting for that memory
    if (more) {
      tile = Tile(band, index, C::kRows, kKeys);
      steps = Steps(band, tile, tile.place + 64 * group, kKeys);
      step = steps.begin;
      memory.queries.wait(++use);
      k.wait(first_use + step);
    }
    take_turn();
    issue_scores();
    issue_output(add);
    pass_turn();
    wgmma_wait<0>();
    hold(s);
    hold(o);
    hold(p);
    v.release();
    finish(this_use, head, row);
    if (!more) break;
    k.release();
    rows.reset();
    softmax();
    pack_fragment(s, p);
  }
  if (group == 0) take_turn();  // the one that nobody is left to take
  k.skip(first_use);
  v.skip(first_use);
  if (unreleased >= 0) wait_bulk_stores();
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    forward_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                   const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap o,
                   const ForwardParams params) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  const ForwardMemory<C> memory(aligned_shared_memory());
  if (threadIdx.x == 0) {
    memory.queries.init(C::kGroups);
    memory.k.init(128 * C::kGroups);
    memory.v.init(128 * C::kGroups);
    publish_barriers();
  }
  __syncthreads();
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (group == C::kGroups) {
    give_registers<C::kProducerRegisters>();
    if (threadIdx.x % 128 == 0) produce<C>(&q, &k, &v, params.band, memory);
  } else {
    take_registers<C::kConsumerRegisters>();
    consume<C>(group, &o, params, memory);
  }
#endif
}

}  // namespace boreas::cuda::sm90
