// Windowed attention backward on Hopper: two passes of one shape, so that every sum has one owner.
//
//   by queries: a block owns rows of Q and dO, and K and V pass by:   S = Q K^T, dP = dO V^T, dQ += dS K
//   by keys:    a block owns rows of K and V, and Q and dO pass by:   S, dP transposed,       dK += dS^T Q, dV += P^T
//   dO
//
// with P = exp2(S - log2 sum), dS = P (dP - D). Written below as owned a1, a2, passing b1, b2: S = a1 b1^T,
// dP = a2 b2^T, sum1 += dS b1, sum2 += P b2. As in forward, a producer thread copies and each consumer warpgroup owns
// 64 rows; P and dS never leave registers, because they are the fragments that the left sides of the next products
// want. S and dP are computed twice: 7 products where one pass with dQ summed across blocks would need 5.
#pragma once

#include "kernels/window_attention/window_attention_sm90_tiles.cuh"

namespace boreas::cuda::sm90 {

struct BackwardParams {
  Band band;
  float log2_scale, scale;
  const float *log2_sum, *mean;  // [heads, padded_length]
  int64_t padded_length;
};

/// kHold: the owned rows are held in registers, which leaves shared memory more time for what passes by.
template <bool kByKeys_, int kHeadSize_, int kGroups_, int kStep_, int kStages_, bool kHold_ = false>
struct BackwardShape {
  static constexpr bool kHold = kHold_;
  static constexpr bool kByKeys = kByKeys_;
  static constexpr int kHeadSize = kHeadSize_, kGroups = kGroups_, kStep = kStep_, kStages = kStages_;
  static constexpr int kRows = 64 * kGroups, kThreads = 128 * (kGroups + 1), kOwnedStages = 2;
  using Layout = TileLayout<kHeadSize>;
  using OwnedRing = Ring<kOwnedStages>;
  using PassingRing = Ring<kStages>;
  static constexpr int kOwnedBytes = Layout::bytes(64), kPassingBytes = Layout::bytes(kStep);
  static constexpr int kTermBytes = kByKeys ? kStep * 4 : 0;  // of log2_sum or mean of the passing rows
  static constexpr int kPassing = kOwnedStages * kGroups * 2 * kOwnedBytes;
  static constexpr int kTerms = kPassing + kStages * 2 * kPassingBytes;
  static constexpr int kBarriers = kTerms + kStages * 2 * kTermBytes;
  static constexpr int kSharedBytes =
      kBarriers + 8 * (OwnedRing::kNumBarriers + PassingRing::kNumBarriers) + kAlignment;
  // Of 65536 registers: what a thread of the producer and of a consumer may have.
  static constexpr int kProducerRegisters = kGroups == 3 ? 32 : 24, kConsumerRegisters = kGroups == 3 ? 160 : 240;

  __device__ static Tile tile(const Band& band, int index) {
    return Tile(band, index, kRows, kStep, kByKeys ? 4 : 1);  // terms are copied by 16 bytes
  }
};

template <class C>
struct BackwardMemory {
  typename C::OwnedRing owned;
  typename C::PassingRing passing;
  char* memory;
  uint32_t base;
  __device__ explicit BackwardMemory(char* memory_)
      : owned{reinterpret_cast<SharedBarrier*>(memory_ + C::kBarriers)},
        passing{owned.barriers + C::OwnedRing::kNumBarriers},
        memory(memory_),
        base(shared_address(memory_)) {}
  __device__ uint32_t owned_tile(int use, int group, int operand) const {
    return base + ((use % C::kOwnedStages * C::kGroups + group) * 2 + operand) * C::kOwnedBytes;
  }
  __device__ uint32_t passing_tile(int use, int operand) const {
    return base + C::kPassing + (use % C::kStages * 2 + operand) * C::kPassingBytes;
  }
  __device__ float* terms(int use, int which) const {
    return reinterpret_cast<float*>(memory + C::kTerms + (use % C::kStages * 2 + which) * C::kTermBytes);
  }
};

template <class C>
__device__ inline void produce(const CUtensorMap* a1, const CUtensorMap* a2, const CUtensorMap* b1,
                               const CUtensorMap* b2, const BackwardParams& params, const BackwardMemory<C>& memory) {
  using Layout = typename C::Layout;
  const Band& band = params.band;
  int step = 0;
  for (int use = 0, index = blockIdx.x; index < band.num_tiles; index += gridDim.x, ++use) {
    const Tile tile = C::tile(band, index);
    SharedBarrier* full = memory.owned.fill(use, C::kGroups * 2 * C::kOwnedBytes);
    for (int group = 0; group < C::kGroups; ++group) {
      Layout::load(memory.owned_tile(use, group, 0), a1, tile.head, tile.row + 64 * group, 64, full);
      Layout::load(memory.owned_tile(use, group, 1), a2, tile.head, tile.row + 64 * group, 64, full);
    }
    for (int i = 0; i < tile.num_steps; ++i, ++step) {
      const int row = tile.first + i * C::kStep;
      full = memory.passing.fill(step, 2 * C::kPassingBytes + 2 * C::kTermBytes);
      Layout::load(memory.passing_tile(step, 0), b1, tile.head, row, C::kStep, full);
      Layout::load(memory.passing_tile(step, 1), b2, tile.head, row, C::kStep, full);
      if constexpr (C::kByKeys) {
        const int64_t first = tile.head * params.padded_length + row;
        load_bulk(memory.terms(step, 0), params.log2_sum + first, C::kTermBytes, full);
        load_bulk(memory.terms(step, 1), params.mean + first, C::kTermBytes, full);
      }
    }
  }
}

template <class C>
__device__ inline void consume(const int group, const CUtensorMap* out1, const CUtensorMap* out2,
                               const BackwardParams& params, const BackwardMemory<C>& memory) {
  using Layout = typename C::Layout;
  constexpr int kD = C::kHeadSize, kStep = C::kStep;
  constexpr bool kByKeys = C::kByKeys;
  const Band& band = params.band;
  const Lane lane;
  Cursor<C::kStages> passing{memory.passing};
  float s[kStep / 2], d[kStep / 2], sum1[kD / 2], sum2[kByKeys ? kD / 2 : 1];
  uint32_t p[kByKeys ? kStep / 4 : 1], ds[kStep / 4];
  float log2_sum[2], mean[2];                                     // of this thread's rows, by queries
  uint32_t a1[C::kHold ? kD / 4 : 1], a2[C::kHold ? kD / 4 : 1];  // the owned rows, if held

  int use = 0, first_use = 0;  // of the tile's rows, and of its step 0, in the rings
  int unreleased = -1;         // the tile whose results are being copied from its rows' memory

  const auto load_terms = [&](const Tile& tile) {
    if constexpr (!kByKeys) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = min(tile.row + 64 * group + lane.row + 8 * r, band.num_rows);
        log2_sum[r] = params.log2_sum[tile.head * params.padded_length + row];
        mean[r] = params.mean[tile.head * params.padded_length + row];
      }
    }
  };
  const auto read_owned = [&] {
    if constexpr (C::kHold) {
      Layout::read(memory.memory + (memory.owned_tile(use, group, 0) - memory.base), a1, lane);
      Layout::read(memory.memory + (memory.owned_tile(use, group, 1) - memory.base), a2, lane);
    }
  };
  const auto issue_scores = [&](int of_use) {
    hold(s);
    hold(d);
    hold(a1);
    hold(a2);
    wgmma_fence();
    const uint32_t owned1 = memory.owned_tile(use, group, 0), owned2 = memory.owned_tile(use, group, 1);
    const uint32_t passing1 = memory.passing_tile(of_use, 0), passing2 = memory.passing_tile(of_use, 1);
#pragma unroll
    for (int x = 0; x < kD / 16; ++x) {
      if constexpr (C::kHold)
        wgmma<kStep, Major::k>(s, a1 + 4 * x, Layout::columns(passing1, kStep, 16 * x), x > 0);
      else
        wgmma<kStep>(s, Layout::columns(owned1, 64, 16 * x), Layout::columns(passing1, kStep, 16 * x), x > 0);
    }
    wgmma_commit();
#pragma unroll
    for (int x = 0; x < kD / 16; ++x) {
      if constexpr (C::kHold)
        wgmma<kStep, Major::k>(d, a2 + 4 * x, Layout::columns(passing2, kStep, 16 * x), x > 0);
      else
        wgmma<kStep>(d, Layout::columns(owned2, 64, 16 * x), Layout::columns(passing2, kStep, 16 * x), x > 0);
    }
    wgmma_commit();
  };
  const auto hold_sums = [&] {
    hold(sum1);
    hold(ds);
    if constexpr (kByKeys) {
      hold(sum2);
      hold(p);
    }
  };
  const auto issue_sums = [&](int of_use, bool add) {
    hold_sums();
    wgmma_fence();
    if constexpr (kByKeys) {
#pragma unroll
      for (int x = 0; x < kStep / 16; ++x)
        wgmma<kD, Major::mn>(sum2, p + 4 * x, Layout::rows(memory.passing_tile(of_use, 1), kStep, 16 * x),
                             add || x > 0);
    }
#pragma unroll
    for (int x = 0; x < kStep / 16; ++x)
      wgmma<kD, Major::mn>(sum1, ds + 4 * x, Layout::rows(memory.passing_tile(of_use, 0), kStep, 16 * x), add || x > 0);
    wgmma_commit();
  };
  // From S and dP, both on their way, to P and dS.
  const auto differentiate = [&](int of_use, int place, int column) {
    const auto pair_of = [&](int which, int n) {
      return *reinterpret_cast<const float2*>(memory.terms(of_use, which) + lane.column + 8 * n);
    };
    if (!band.covers(place, 64, column, kStep))
      mask_fragment(s, band, place + lane.row, column + lane.column, -INFINITY);
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) {
      const float2 of_column = kByKeys ? pair_of(0, n) : float2{};
#pragma unroll
      for (int e = 0; e < 4; ++e)
        s[4 * n + e] = fast_exp2(
            fmaf(s[4 * n + e], params.log2_scale, -(kByKeys ? (e % 2 ? of_column.y : of_column.x) : log2_sum[e / 2])));
    }
    if constexpr (kByKeys) pack_fragment(s, p);
    wgmma_wait<0>();
    hold(d);
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) {
      const float2 of_column = kByKeys ? pair_of(1, n) : float2{};
#pragma unroll
      for (int e = 0; e < 4; ++e)
        s[4 * n + e] *= d[4 * n + e] - (kByKeys ? (e % 2 ? of_column.y : of_column.x) : mean[e / 2]);
    }
    pack_fragment(s, ds);
  };
  const auto release_output = [&] {
    if (unreleased < 0) return;
    wait_bulk_stores_read();
    memory.owned.release(unreleased);
    unreleased = -1;
  };
  const auto finish = [&](int head, int row) {
    const uint32_t to1 = memory.owned_tile(use, group, 0), to2 = memory.owned_tile(use, group, 1);
    Layout::write(to1, sum1, lane, {params.scale, params.scale});
    if constexpr (kByKeys) Layout::write(to2, sum2, lane, {1, 1});
    fence_bulk();
    named_barrier_wait(1 + group, 128);
    if (lane.thread != 0) return;
    if (row < band.num_rows) {
      Layout::store(out1, to1, head, row, 64);
      if constexpr (kByKeys) Layout::store(out2, to2, head, row, 64);
    }
    commit_bulk_stores();
    unreleased = use;
  };

  for (int index = blockIdx.x; index < band.num_tiles; index += gridDim.x, ++use) {
    const Tile tile = C::tile(band, index);
    const int row = tile.row + 64 * group, place = tile.place + 64 * group;
    const Steps steps(band, tile, place, kStep);
    load_terms(tile);
    memory.owned.wait(use);
    read_owned();
    passing.skip(first_use + steps.begin);
    for (int step = steps.begin; step < steps.end; ++step) {
      memory.passing.wait(first_use + step);
      // Never so. But operands in registers that a loop does not change lose them to others (ptxas 13.0).
      if (C::kHold && band.num_rows < 0) read_owned();
      issue_scores(first_use + step);
      wgmma_wait<1>();
      hold(s);
      hold_sums();
      if (step > steps.begin) passing.release();  // the step before: its sums are done
      differentiate(first_use + step, place, tile.first + step * kStep);
      issue_sums(first_use + step, step > steps.begin);
      release_output();
    }
    wgmma_wait<0>();
    hold_sums();
    passing.release();
    finish(tile.head, row);
    first_use += tile.num_steps;
  }
  passing.skip(first_use);
  if (unreleased >= 0) wait_bulk_stores();
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    backward_kernel(const __grid_constant__ CUtensorMap a1, const __grid_constant__ CUtensorMap a2,
                    const __grid_constant__ CUtensorMap b1, const __grid_constant__ CUtensorMap b2,
                    const __grid_constant__ CUtensorMap out1, const __grid_constant__ CUtensorMap out2,
                    const BackwardParams params) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  const BackwardMemory<C> memory(aligned_shared_memory());
  if (threadIdx.x == 0) {
    memory.owned.init(C::kGroups);
    memory.passing.init(128 * C::kGroups);
    publish_barriers();
  }
  __syncthreads();
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (group == C::kGroups) {
    give_registers<C::kProducerRegisters>();
    if (threadIdx.x % 128 == 0) produce<C>(&a1, &a2, &b1, &b2, params, memory);
  } else {
    take_registers<C::kConsumerRegisters>();
    consume<C>(group, &out1, &out2, params, memory);
  }
#endif
}

}  // namespace boreas::cuda::sm90
