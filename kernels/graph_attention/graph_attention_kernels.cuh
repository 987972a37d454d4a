// Kernels of graph attention for graphs of any degree. A warp owns a destination (a source in the source pass) and
// works on a slice of its heads at a time: see Layout. Nothing is as large as edges x channels: q~ = W_h^T q_i meets
// the attributes of an edge directly, and the sum of alpha a is multiplied by W_h once a destination. Products with W_h
// take it from shared memory, where a block keeps it for all the destinations that it meets.
//
// The same source runs on the CPU in tests: see tests/support/cuda_emulation/emulation.h.
#pragma once

#include "kernels/graph_attention/graph_attention_edges.cuh"

namespace boreas::cuda::graph_attention {

template <class T>
struct Forward {
  Problem<T> in;
  Rows<const T> r;
  Rows<T> o;
  Rows<float> stats;
};

template <class T>
struct BackwardDestinations {
  Problem<T> in;
  Rows<const float> stats;
  Rows<const T> d_o;
  Rows<T> d_q;
  float2* edge_weights;  // [M, H] of alpha, scale * dS
  T *mean, *d_mean;      // [N_dst, H, mean_width]: sum of alpha a, of scale * dS a; null: not wanted
  int mean_width;
  Rows<float> d_attributes;
  int first_column, num_columns;
};

template <class T, class Weight>
struct BackwardSources {
  int num_src, num_heads, head_size;
  int run;  // sources of a warp, less than 32
  const int64_t* src_ptr;
  const int32_t *edge_of, *dst_of;
  Rows<const T> q, d_o;
  const Weight* edge_weights;  // [M, H]
  Rows<T> d_k, d_v;
};

template <class T>
struct WeightGradients {
  int num_dst, num_heads, head_size, num_attributes, mean_width;
  const int64_t* dst_ptr;
  Rows<const T> q, d_o;
  const T *mean, *d_mean;  // [N_dst, H, mean_width]
  float* partials;         // [parts, H * D, A + 1]; column A: the bias
};

/// Every warp visits every num_warps-th destination, in order; what it needs to start on the next one is requested
/// while it works on the one before.
template <class L, class Edges, int kThreads, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks) forward_kernel(const Forward<typename L::T> p) {
  using T = typename L::T;
  constexpr int kStep = Edges::kStep, kWarps = kThreads / 32;
  const Problem<T>& in = p.in;
  char* const memory = dynamic_shared<char>();
  EdgeProjection<L> projection;
  projection.fill(reinterpret_cast<T*>(memory), in);
  __syncthreads();

  const int num_slices = (in.num_heads + L::kHeads - 1) / L::kHeads;
  const unsigned first = blockIdx.x * kWarps + threadIdx.x / 32, stride = gridDim.x * kWarps;
  const unsigned num_dst = unsigned(in.num_dst);
  if (first >= num_dst) return;
  const float scale = in.scale * kLog2E;
  Edges edges(in,
              memory + EdgeProjection<L>::shared_bytes(in.num_heads, in.num_attributes) +
                  int(threadIdx.x) / 32 * Edges::kSharedBytes,
              first, stride);

  EdgeRange range = EdgeRange::of(in, first);
  PackedRow<L> next_q;
  next_q.load(in.q.at(first), Lane<L>(0, in.num_heads, in.head_size));
  for (unsigned i = first; i < num_dst; i += stride) {
    const EdgeRange next_range = EdgeRange::of(in, i + stride);
    for (int slice = 0; slice < num_slices; ++slice) {
      const Lane<L> lane(slice, in.num_heads, in.head_size);
      float q[1][L::kChannels], q_edge[1][L::kOwnSlots];
      next_q.unpack(lane, q[0]);
      const int next_slice = slice + 1 < num_slices ? slice + 1 : 0;
      const unsigned next = next_slice > 0 ? i : i + stride < num_dst ? i + stride : i;
      next_q.load(in.q.at(next), Lane<L>(next_slice, in.num_heads, in.head_size));
      float r[L::kChannels];
      if (p.r.data) load_row<L>(p.r.at(i), lane, r);

      float sum[L::kChannels], mean[L::kOwnSlots], largest = -INFINITY, total = 0;
#pragma unroll
      for (int c = 0; c < L::kChannels; ++c) sum[c] = 0;
#pragma unroll
      for (int s = 0; s < L::kOwnSlots; ++s) mean[s] = 0;
      if (range.degree > 0) projection.to_slots(slice, lane, q, q_edge);

      for (int e = 0; e < range.degree; e += kStep) {
        edges.next(lane, range, e);
        float score[kStep], a[kStep][L::kOwnSlots], new_largest = largest;
#pragma unroll
        for (int u = 0; u < kStep; ++u) {
          float k[L::kChannels];
          edges.keys(u, k);
          edges.attributes(u, a[u]);
          score[u] = sum_lanes<L::kLanes>(dot(k, q[0], dot(a[u], q_edge[0], 0.f))) * scale;
          if (e + u >= range.degree) score[u] = -INFINITY;
          new_largest = fmaxf(new_largest, score[u]);
        }
        const float correction = fast_exp2(largest - new_largest);
        largest = new_largest;
        total *= correction;
        multiply_by(sum, correction);
        multiply_by(mean, correction);
#pragma unroll
        for (int u = 0; u < kStep; ++u) {
          float v[L::kChannels];
          edges.values(u, v);
          const float weight = fast_exp2(score[u] - largest);
          total += weight;
          add_scaled(sum, weight, v);
          add_scaled(mean, weight, a[u]);
        }
      }

      if (range.degree > 0) {
        multiply_by(sum, 1 / total);
        multiply_by(mean, 1 / total);
        projection.add_from_slots(slice, lane, mean, sum);
        if (in.b_edge) {
          float bias[L::kChannels];
          load_row<L>(in.b_edge, lane, bias);
          add_scaled(sum, 1.f, bias);
        }
      }
      if (p.r.data) add_scaled(sum, 1.f, r);
      store_row<L>(p.o.at(i), lane, sum);
      if (lane.owns && lane.in_head == 0)
        p.stats.at(i)[lane.head] = range.degree > 0 ? (largest + log2f(total)) * kLn2 : 0.f;
    }
    range = next_range;
  }
}

/// Shared memory of a warp in the destination pass: the weights of up to 32 edges, and q~ and g~ for the heads of the
/// slice.
template <class L>
struct DestinationWorkspace {
  float2* weights;         // [32, kHeads]
  float *q_edge, *g_edge;  // [kHeads, kSlots]
  static constexpr int kBytes = 32 * L::kHeads * 8 + 2 * L::kHeads * L::kSlots * 4;
  __device__ explicit DestinationWorkspace(char* memory)
      : weights(reinterpret_cast<float2*>(memory)),
        q_edge(reinterpret_cast<float*>(memory + 32 * L::kHeads * 8)),
        g_edge(q_edge + L::kHeads * L::kSlots) {}
};

/// From alpha and p to alpha and scale * dS, for `count` edges of a destination: in shared memory, in the scratch
/// memory and, over the heads of the slice, in the gradient of the attributes.
template <class L>
__device__ inline void finish_edges(const BackwardDestinations<typename L::T>& p, const Lane<L>& lane,
                                    const DestinationWorkspace<L>& work, int64_t chunk, int count, float inverse,
                                    float mean_p) {
  const int num_heads = p.in.num_heads, in_slice = int(threadIdx.x) % 32 / L::kLanes;
  for (int e = lane.in_head; e < count; e += L::kLanes) {
    float2 weight = work.weights[e * L::kHeads + in_slice];
    weight.x *= inverse;
    weight.y = p.in.scale * weight.x * (weight.y - mean_p);
    if (!lane.owns) weight = make_float2(0, 0);
    work.weights[e * L::kHeads + in_slice] = weight;
    if (lane.owns) p.edge_weights[(chunk + e) * num_heads + lane.head] = weight;
  }
  __syncwarp();
  // A group of 8 lanes has an edge, a lane one of 8 columns. What is added to comes from memory: 4 at a time.
  constexpr int kEdges = 4, kAtOnce = 4;
  const int sub_edge = int(threadIdx.x) % 32 / 8;
  for (int first = 0; first < p.num_columns; first += 8) {
    const int column = first + int(threadIdx.x) % 8, slot = p.first_column + column;
    const bool wanted = column < p.num_columns;
    for (int e0 = sub_edge; e0 - sub_edge < count; e0 += kEdges * kAtOnce) {
      float sum[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u)
        sum[u] = wanted && e0 + u * kEdges < count ? p.d_attributes.at(chunk + e0 + u * kEdges)[column] : 0.f;
#pragma unroll
      for (int h = 0; h < L::kHeads; ++h) {
        const float q_edge = wanted ? work.q_edge[h * L::kSlots + slot] : 0.f;
        const float g_edge = wanted ? work.g_edge[h * L::kSlots + slot] : 0.f;
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          if (e0 + u * kEdges >= count) continue;
          const float2 weight = work.weights[(e0 + u * kEdges) * L::kHeads + h];
          sum[u] = fmaf(weight.x, g_edge, fmaf(weight.y, q_edge, sum[u]));
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u)
        if (wanted && e0 + u * kEdges < count) p.d_attributes.at(chunk + e0 + u * kEdges)[column] = sum[u];
    }
  }
  __syncwarp();
}

/// Stores the slots of a lane in a row of `width` of them, as they are kept for the gradients of the weights; aligned
/// rows have kSlots.
template <class L>
__device__ inline void store_slots(typename L::T* row, const Lane<L>& lane, int width,
                                   const float (&from)[L::kOwnSlots]) {
  using T = typename L::T;
  constexpr int kOwn = L::kOwnSlots, kBytes = kOwn * int(sizeof(T));
  const int first = lane.in_head * kOwn;
  if (first >= width) return;
  if constexpr (L::kAligned && kBytes >= 4) {
    T values[kOwn];
#pragma unroll
    for (int s = 0; s < kOwn; ++s) values[s] = narrow<T>(from[s]);
    using Word = std::conditional_t<kBytes % 16 == 0, uint4, std::conditional_t<kBytes == 8, uint2, uint32_t>>;
    constexpr int kWords = kBytes / int(sizeof(Word));
    Word words[kWords];
    memcpy(words, values, kBytes);
#pragma unroll
    for (int w = 0; w < kWords; ++w) reinterpret_cast<Word*>(row + first)[w] = words[w];
  } else {
#pragma unroll
    for (int s = 0; s < kOwn; ++s)
      if (first + s < width) row[first + s] = narrow<T>(from[s]);
  }
}

/// A warp has all slices of its destinations, one after the other, because they add to the same attribute gradients.
template <class L, class Edges, int kThreads, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    backward_destinations_kernel(const BackwardDestinations<typename L::T> p) {
  using T = typename L::T;
  constexpr int kStep = Edges::kStep, kWarps = kThreads / 32;
  const Problem<T>& in = p.in;
  char* const memory = dynamic_shared<char>();
  EdgeProjection<L> projection;
  projection.fill(reinterpret_cast<T*>(memory), in);
  __syncthreads();

  const int num_slices = (in.num_heads + L::kHeads - 1) / L::kHeads;
  const unsigned first = blockIdx.x * kWarps + threadIdx.x / 32, stride = gridDim.x * kWarps;
  const unsigned num_dst = unsigned(in.num_dst);
  if (first >= num_dst) return;
  const int in_slice = int(threadIdx.x) % 32 / L::kLanes;
  const float scale = in.scale * kLog2E;
  char* const warp_memory = memory + EdgeProjection<L>::shared_bytes(in.num_heads, in.num_attributes) +
                            int(threadIdx.x) / 32 * (DestinationWorkspace<L>::kBytes + Edges::kSharedBytes);
  const DestinationWorkspace<L> work(warp_memory);
  Edges edges(in, warp_memory + DestinationWorkspace<L>::kBytes, first, stride);

  EdgeRange range = EdgeRange::of(in, first);
  // [0]: q, what belongs to the scores; [1]: g = d_o, what belongs to p.
  PackedRow<L> next_rows[2];
  float next_stats;
  const auto request = [&](unsigned i, int slice) {
    const Lane<L> lane(slice, in.num_heads, in.head_size);
    next_rows[0].load(in.q.at(i), lane);
    next_rows[1].load(p.d_o.at(i), lane);
    next_stats = p.stats.at(i)[lane.head];
  };
  request(first, 0);
  for (unsigned i = first; i < num_dst; i += stride) {
    const EdgeRange next_range = EdgeRange::of(in, i + stride);
    const bool one_chunk = range.degree <= 32;
    for (int slice = 0; slice < num_slices; ++slice) {
      const Lane<L> lane(slice, in.num_heads, in.head_size);
      float x[2][L::kChannels], x_edge[2][L::kOwnSlots];
      next_rows[0].unpack(lane, x[0]);
      next_rows[1].unpack(lane, x[1]);
      const float stats = next_stats * kLog2E;
      const int next_slice = slice + 1 < num_slices ? slice + 1 : 0;
      request(next_slice > 0 ? i : i + stride < num_dst ? i + stride : i, next_slice);

      // Sums of alpha k and alpha p k, of alpha a and alpha p a: d_q and the like when the mean of p is known.
      float sum[L::kChannels], sum_p[L::kChannels], mean[L::kOwnSlots], mean_p[L::kOwnSlots], total = 0, total_p = 0;
#pragma unroll
      for (int c = 0; c < L::kChannels; ++c) sum[c] = sum_p[c] = 0;
#pragma unroll
      for (int s = 0; s < L::kOwnSlots; ++s) mean[s] = mean_p[s] = 0;
      if (range.degree > 0) {
        projection.to_slots(slice, lane, x, x_edge);
#pragma unroll
        for (int s = 0; s < L::kOwnSlots; ++s)
          if (lane.in_head * L::kOwnSlots + s < L::kSlots) {
            const int at = in_slice * L::kSlots + lane.in_head * L::kOwnSlots + s;
            work.q_edge[at] = x_edge[0][s];
            work.g_edge[at] = x_edge[1][s];
          }
      }

      for (int e = 0; e < range.degree; e += kStep) {
        edges.next(lane, range, e);
#pragma unroll
        for (int u = 0; u < kStep; ++u) {
          float k[L::kChannels], v[L::kChannels], a[L::kOwnSlots];
          edges.keys(u, k);
          edges.values(u, v);
          edges.attributes(u, a);
          const float score = sum_lanes<L::kLanes>(dot(k, x[0], dot(a, x_edge[0], 0.f)));
          const float value = sum_lanes<L::kLanes>(dot(v, x[1], dot(a, x_edge[1], 0.f)));
          const float weight = e + u < range.degree ? fast_exp2(fmaf(score, scale, -stats)) : 0.f;
          const float weight_p = weight * value;
          total += weight;
          total_p += weight_p;
          add_scaled(sum, weight, k);
          add_scaled(sum_p, weight_p, k);
          add_scaled(mean, weight, a);
          add_scaled(mean_p, weight_p, a);
          if (lane.in_head == 0 && e + u < range.degree)
            work.weights[(e + u) % 32 * L::kHeads + in_slice] = make_float2(weight, value);
        }
        if (!one_chunk && (e % 32 + kStep == 32 || e + kStep >= range.degree)) {
          // More edges than the shared memory holds: they wait in the scratch memory.
          __syncwarp();
          const int chunk = e / 32 * 32, count = range.degree - chunk < 32 ? range.degree - chunk : 32;
          for (int f = lane.in_head; lane.owns && f < count; f += L::kLanes)
            p.edge_weights[int64_t(range.begin + chunk + f) * in.num_heads + lane.head] =
                work.weights[f * L::kHeads + in_slice];
          __syncwarp();
        }
      }

      // The weights sum to one only up to the rounding of scores and statistics, which grows with the scores.
      const float inverse = range.degree > 0 ? 1 / total : 0.f, average = total_p * inverse;
#pragma unroll
      for (int c = 0; c < L::kChannels; ++c) sum_p[c] = in.scale * inverse * fmaf(-average, sum[c], sum_p[c]);
#pragma unroll
      for (int s = 0; s < L::kOwnSlots; ++s) {
        mean_p[s] = in.scale * inverse * fmaf(-average, mean[s], mean_p[s]);
        mean[s] *= inverse;
      }
      if (p.mean && lane.owns) {
        const int64_t at = (int64_t(i) * in.num_heads + lane.head) * p.mean_width;
        store_slots<L>(p.mean + at, lane, p.mean_width, mean);
        store_slots<L>(p.d_mean + at, lane, p.mean_width, mean_p);
      }
      if (range.degree > 0) projection.add_from_slots(slice, lane, mean_p, sum_p);
      store_row<L>(p.d_q.at(i), lane, sum_p);

      __syncwarp();
      for (int chunk = 0; chunk < range.degree; chunk += 32) {
        const int count = range.degree - chunk < 32 ? range.degree - chunk : 32;
        if (!one_chunk) {
          for (int f = lane.in_head; lane.owns && f < count; f += L::kLanes)
            work.weights[f * L::kHeads + in_slice] =
                p.edge_weights[int64_t(range.begin + chunk + f) * in.num_heads + lane.head];
        }
        finish_edges<L>(p, lane, work, range.begin + chunk, count, inverse, average);
      }
    }
    range = next_range;
  }
}

__device__ inline float2 widen_pair(float2 pair) { return pair; }
__device__ inline float2 widen_pair(uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
}

constexpr int kSourceThreads = 128;

/// A warp has a slice of p.run neighbouring sources, whose edges lie one after the other in the order by source: they
/// are read as one stream, so that sources with one edge or none do not stop it.
template <class L, class Weight, int kAhead, int kBlocks>
__global__ void __launch_bounds__(kSourceThreads, kBlocks)
    backward_sources_kernel(const BackwardSources<typename L::T, Weight> p) {
  using T = typename L::T;
  const int num_slices = (p.num_heads + L::kHeads - 1) / L::kHeads, lane_in_warp = int(threadIdx.x) % 32;
  const int64_t task = (int64_t(blockIdx.x) * kSourceThreads + threadIdx.x) / 32;
  const int slice = int(task % num_slices);
  const int64_t first = task / num_slices * p.run;
  if (first >= p.num_src) return;
  const Lane<L> lane(slice, p.num_heads, p.head_size);
  const int num_run = p.num_src - first < p.run ? int(p.num_src - first) : p.run;
  const int64_t pointer = p.src_ptr[first + (lane_in_warp < num_run ? lane_in_warp : num_run)];
  const int64_t begin = __shfl_sync(kFullMask, pointer, 0), end = __shfl_sync(kFullMask, pointer, num_run);
  const int my_end = int(__shfl_down_sync(kFullMask, pointer, 1) - begin);  // of source first + lane

  float d_k[L::kChannels], d_v[L::kChannels];
#pragma unroll
  for (int c = 0; c < L::kChannels; ++c) d_k[c] = d_v[c] = 0;
  int run = 0, run_end = __shfl_sync(kFullMask, my_end, 0);
  const auto finish_source = [&] {
    store_row<L>(p.d_k.at(first + run), lane, d_k);
    store_row<L>(p.d_v.at(first + run), lane, d_v);
#pragma unroll
    for (int c = 0; c < L::kChannels; ++c) d_k[c] = d_v[c] = 0;
    ++run;
    run_end = __shfl_sync(kFullMask, my_end, run < num_run ? run : 0);
  };

  const int num_edges = int(end - begin);
  for (int chunk = 0; chunk < num_edges; chunk += 32) {
    const int count = num_edges - chunk < 32 ? num_edges - chunk : 32;
    const int64_t position = begin + chunk + (lane_in_warp < count ? lane_in_warp : 0);
    const int edges = p.edge_of[position], destinations = p.dst_of[position];
    for (int e = 0; e < count; e += kAhead) {
      Packed<T, L::kWidth> q[kAhead][L::kVectors], g[kAhead][L::kVectors];
      Weight weights[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const int at = e + u < count ? e + u : count - 1;
        const int64_t destination = __shfl_sync(kFullMask, destinations, at), edge = __shfl_sync(kFullMask, edges, at);
        weights[u] = __ldg(p.edge_weights + edge * p.num_heads + lane.head);
#pragma unroll
        for (int i = 0; i < L::kVectors; ++i) {
          q[u][i].load(p.q.at(destination) + lane.offset(i));
          g[u][i].load(p.d_o.at(destination) + lane.offset(i));
        }
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (e + u >= count) continue;
        while (run_end <= chunk + e + u) finish_source();
        const float2 weight = widen_pair(weights[u]);
        float values[L::kChannels];
#pragma unroll
        for (int i = 0; i < L::kVectors; ++i) q[u][i].unpack(values + i * L::kWidth);
        add_scaled(d_k, weight.y, values);
#pragma unroll
        for (int i = 0; i < L::kVectors; ++i) g[u][i].unpack(values + i * L::kWidth);
        add_scaled(d_v, weight.x, values);
      }
    }
  }
  while (run < num_run) finish_source();
}

// --- gradients of W_edge and b_edge ---

constexpr int kGradientThreads = 128, kGradientChannels = 2, kGradientSlots = 16;

/// A thread owns two channels and adds up, over a part of the destinations, g mean^T + q d_mean^T for kGradientSlots
/// attributes; blockIdx: (part, channels, attributes).
template <class T>
__global__ void __launch_bounds__(kGradientThreads) weight_gradients_kernel(const WeightGradients<T> p) {
  const int num_channels = p.num_heads * p.head_size;
  const int first_slot = int(blockIdx.z) * kGradientSlots;
  const int num_slots = p.num_attributes - first_slot < kGradientSlots ? p.num_attributes - first_slot : kGradientSlots;
  const int channel = (int(blockIdx.y) * kGradientThreads + int(threadIdx.x)) * kGradientChannels;
  if (channel >= num_channels) return;
  const int64_t begin = int64_t(p.num_dst) * blockIdx.x / gridDim.x;
  const int64_t end = int64_t(p.num_dst) * (blockIdx.x + 1) / gridDim.x;
  float sums[kGradientChannels][kGradientSlots] = {}, bias[kGradientChannels] = {};
  int head[kGradientChannels];
#pragma unroll
  for (int c = 0; c < kGradientChannels; ++c)
    head[c] = (channel + c < num_channels ? channel + c : channel) / p.head_size;
  const bool same_head = head[0] == head[kGradientChannels - 1];
  const int second = channel + 1 < num_channels ? 1 : 0;
#pragma unroll 2
  for (int64_t i = begin; i < end; ++i) {
    const float any = p.dst_ptr[i] < p.dst_ptr[i + 1] ? 1.f : 0.f;
    const T *const q_row = p.q.at(i) + channel, *const g_row = p.d_o.at(i) + channel;
    const float q[kGradientChannels] = {widen(q_row[0]), widen(q_row[second])};
    const float g[kGradientChannels] = {widen(g_row[0]), widen(g_row[second])};
    const int64_t at = (i * p.num_heads + head[0]) * p.mean_width + first_slot;
    const T *const mean = p.mean + at, *const d_mean = p.d_mean + at;
    const int64_t other = same_head ? 0 : p.mean_width;
#pragma unroll
    for (int s = 0; s < kGradientSlots; ++s) {
      if (s >= num_slots) continue;
      const float m0 = widen(mean[s]), d0 = widen(d_mean[s]);
      const float m1 = same_head ? m0 : widen(mean[s + other]), d1 = same_head ? d0 : widen(d_mean[s + other]);
      sums[0][s] = fmaf(g[0], m0, fmaf(q[0], d0, sums[0][s]));
      sums[1][s] = fmaf(g[1], m1, fmaf(q[1], d1, sums[1][s]));
    }
#pragma unroll
    for (int c = 0; c < kGradientChannels; ++c) bias[c] = fmaf(any, g[c], bias[c]);
  }
#pragma unroll
  for (int c = 0; c < kGradientChannels; ++c) {
    if (channel + c >= num_channels) continue;
    float* const row = p.partials + (int64_t(blockIdx.x) * num_channels + channel + c) * (p.num_attributes + 1);
#pragma unroll
    for (int s = 0; s < kGradientSlots; ++s)
      if (s < num_slots) row[first_slot + s] = sums[c][s];
    if (first_slot + num_slots == p.num_attributes) row[p.num_attributes] = bias[c];
  }
}

/// The same on tensor cores, for bf16, heads of a multiple of 32 channels and rows of 16 slots: a warp owns 32 channels
/// of a head and adds up products of 16 destinations at a time. Elements come in the order in which lanes read them, 16
/// bytes each: of matrix j of a row, column 2p + e is channel 8p + 2j + e, or slot 4p + 2j + e.
[[maybe_unused]] static __global__ void __launch_bounds__(kGradientThreads)
    weight_gradients_tensor_cores_kernel(const WeightGradients<bfloat16> p) {
  const int num_channels = p.num_heads * p.head_size, lane = int(threadIdx.x) % 32, g = lane / 4, c = lane % 4;
  const int channel = (int(blockIdx.y) * kGradientThreads + int(threadIdx.x)) / 32 * 32;
  if (channel >= num_channels) return;
  const int64_t begin = int64_t(p.num_dst) * blockIdx.x / gridDim.x;
  const int64_t end = int64_t(p.num_dst) * (blockIdx.x + 1) / gridDim.x;
  const int head = channel / p.head_size;
  float sums[2][2][4] = {}, bias[2][4] = {};  // [16 channels][8 slots], [16 channels][in column 0]
#pragma unroll 2
  for (int64_t tile = begin; tile < end; tile += 16) {
    uint32_t left[2][2][4], right[2][2][2], any = 0;  // [g, q] with [mean, d_mean]
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t i = tile + half * 8 + g;
      const bool valid = i < end;
      const uint4 zero = make_uint4(0, 0, 0, 0);
      const int64_t slots = (i * p.num_heads + head) * p.mean_width + 4 * c;
#pragma unroll
      for (int x = 0; x < 2; ++x) {
        const bfloat16* const row = (x == 0 ? p.d_o : p.q).at(valid ? i : begin) + channel + 8 * c;
        const uint4 channels = valid ? __ldg(reinterpret_cast<const uint4*>(row)) : zero;
        const bfloat16* const from = (x == 0 ? p.mean : p.d_mean) + (valid ? slots : 0);
        const uint2 attributes = valid ? __ldg(reinterpret_cast<const uint2*>(from)) : make_uint2(0, 0);
        left[x][0][2 * half] = transpose_matrix(channels.x);
        left[x][0][2 * half + 1] = transpose_matrix(channels.y);
        left[x][1][2 * half] = transpose_matrix(channels.z);
        left[x][1][2 * half + 1] = transpose_matrix(channels.w);
        right[x][0][half] = transpose_matrix(attributes.x);
        right[x][1][half] = transpose_matrix(attributes.y);
      }
      // Ones in column 0 for the destinations that have edges: row 8 half + 2c + e.
      const int64_t j = tile + half * 8 + 2 * c;
      const uint32_t low = g == 0 && j < end && p.dst_ptr[j] < p.dst_ptr[j + 1] ? 0x3F80u : 0u;
      const uint32_t high = g == 0 && j + 1 < end && p.dst_ptr[j + 1] < p.dst_ptr[j + 2] ? 0x3F800000u : 0u;
      const uint32_t ones = low | high;
      if (half == 0)
        any = ones;
      else {
#pragma unroll
        for (int m = 0; m < 2; ++m) mma_bf16(bias[m], left[0][m], any, ones);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int x = 0; x < 2; ++x) mma_bf16(sums[m][n], left[x][m], right[x][n][0], right[x][n][1]);
  }
  float* const partial = p.partials + (int64_t(blockIdx.x) * num_channels + channel) * (p.num_attributes + 1);
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      // Row g of matrix 2m (+ 1 for e > 1).
      float* const row = partial + (8 * (g / 2) + 2 * (2 * m + e / 2) + g % 2) * (p.num_attributes + 1);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int slot = 4 * c + 2 * n + e % 2;
        if (slot < p.num_attributes) row[slot] = sums[m][n][e];
      }
      if (c == 0 && e % 2 == 0) row[p.num_attributes] = bias[m][e];
    }
}

/// d_w and d_b += the partial sums. A block of 32 x 8 threads owns 32 values; row r of threads adds partial sums r,
/// r + 8, ...; then the rows are added in order.
constexpr int kSumValues = 32, kSumRows = 8;

[[maybe_unused]] static __global__ void __launch_bounds__(kSumValues* kSumRows)
    add_weight_gradients_kernel(const float* partials, int num_parts, int num_channels, int num_attributes,
                                Rows<float> d_w, float* d_b) {
  __shared__ float sums[kSumRows][kSumValues];
  const int width = num_attributes + 1, column = int(threadIdx.x) % kSumValues, row = int(threadIdx.x) / kSumValues;
  const int64_t index = int64_t(blockIdx.x) * kSumValues + column, size = int64_t(num_channels) * width;
  float sum = 0;
  if (index < size) {
#pragma unroll 8
    for (int part = row; part < num_parts; part += kSumRows) sum += partials[part * size + index];
  }
  sums[row][column] = sum;
  __syncthreads();
  if (row != 0 || index >= size) return;
#pragma unroll
  for (int r = 1; r < kSumRows; ++r) sum += sums[r][column];
  const int channel = int(index / width), slot = int(index % width);
  if (slot == num_attributes) {
    if (d_b) d_b[channel] += sum;
  } else if (d_w.data) {
    d_w.at(channel)[slot] += sum;
  }
}

}  // namespace boreas::cuda::graph_attention
