// Kernels of graph attention for graphs of any degree. A warp owns a destination (a source in the source pass) and
// works on a slice of its heads at a time: a head belongs to kLanes neighbouring lanes, each of which owns some of its
// channels and some of the edge attributes ("slots"). Rows of neighbours are read 16 bytes a lane, those of several
// edges before the first is used, because what bounds these kernels is the memory that is in flight.
//
// Nothing is as large as edges x channels: q~ = W_h^T q_i meets the attributes of an edge directly, and the sum of
// alpha a is multiplied by W_h once a destination. Products with W_h take it from shared memory, where a block keeps it
// for all the destinations that it meets.
//
// The same source runs on the CPU in tests: see tests/support/cuda_emulation/emulation.h.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/vector_io.cuh"
#include "kernels/cuda/warp.cuh"

namespace boreas::cuda::graph_attention {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
  __device__ T* at(int64_t row) const { return data + row * stride; }
};

/// How the heads of a row lie over a warp: kLanes lanes a head; a lane owns kVectors vectors of kWidth channels, vector
/// lane + i * kLanes, and the slots [lane * kOwnSlots, ...). kWidth is 16 bytes, or 1 where rows are not aligned.
template <class Storage, int width, int lanes, int vectors, int slots>
struct Layout {
  using T = Storage;
  static constexpr int kWidth = width, kLanes = lanes, kVectors = vectors, kSlots = slots;
  static constexpr bool kAligned = width > 1;
  static constexpr int kHeads = 32 / lanes, kChannels = width * vectors;
  static constexpr int kOwnSlots = (slots + lanes - 1) / lanes;
};

/// What all passes know.
template <class T>
struct Problem {
  int num_dst, num_src, num_heads, head_size, num_attributes;
  float scale;
  const int64_t* dst_ptr;
  const int32_t* src_of;
  Rows<const T> q, k, v, attributes, w_edge;
  const T* b_edge;
};

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
  T *mean, *d_mean;      // [N_dst, H, A]: sum of alpha a, of scale * dS a; null: not wanted
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
  int num_dst, num_heads, head_size, num_attributes;
  const int64_t* dst_ptr;
  Rows<const T> q, d_o;
  const T *mean, *d_mean;
  float* partials;  // [parts, H * D, A + 1]; column A: the bias
};

// --- reading and writing ---

/// kWidth neighbouring values as they are stored.
template <class T, int kWidth>
struct Packed {
  std::conditional_t<(kWidth > 1), uint4, T> bits;

  __device__ void load(const T* from) {
    if constexpr (kWidth > 1)
      bits = __ldg(reinterpret_cast<const uint4*>(from));
    else
      bits = *from;
  }
  __device__ void unpack(float* to) const {
    if constexpr (kWidth > 1) {
      if constexpr (std::is_same_v<T, bfloat16>) {
        const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          to[2 * i] = __uint_as_float(words[i] << 16);
          to[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
        }
      } else {
        to[0] = __uint_as_float(bits.x), to[1] = __uint_as_float(bits.y);
        to[2] = __uint_as_float(bits.z), to[3] = __uint_as_float(bits.w);
      }
    } else {
      to[0] = widen(bits);
    }
  }
};

template <class T, int kWidth>
__device__ inline void store(T* to, const float* from) {
  if constexpr (kWidth > 1) {
    float values[kVectorSize<T>];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = from[i];
    store_vector(to, values);
  } else {
    *to = narrow<T>(*from);
  }
}

/// What a lane is to the slice of heads that its warp works on.
template <class L>
struct Lane {
  int in_head;  // which of the kLanes lanes of its head
  int head;     // clamped to an existing head if it owns none
  bool owns;    // whether there is such a head
  int head_size;

  __device__ Lane(int slice, int num_heads, int size) : in_head(threadIdx.x % L::kLanes), head_size(size) {
    const int wanted = slice * L::kHeads + int(threadIdx.x) % 32 / L::kLanes;
    owns = wanted < num_heads;
    head = owns ? wanted : num_heads - 1;
  }
  /// Channel of the head where vector i begins, and whether the head is that large.
  __device__ int channel(int i) const { return (in_head + i * L::kLanes) * L::kWidth; }
  __device__ bool has(int i) const { return channel(i) < head_size; }
  /// Offset of vector i in a row; an existing one if there is no such vector.
  __device__ int64_t offset(int i) const { return int64_t(head) * head_size + (has(i) ? channel(i) : 0); }
};

/// The channels of a row that a lane owns; 0 beyond the end of the head.
template <class L>
__device__ inline void load_row(const typename L::T* row, const Lane<L>& lane, float (&to)[L::kChannels]) {
#pragma unroll
  for (int i = 0; i < L::kVectors; ++i) {
    Packed<typename L::T, L::kWidth> packed;
    packed.load(row + lane.offset(i));
    packed.unpack(to + i * L::kWidth);
#pragma unroll
    for (int c = 0; c < L::kWidth; ++c)
      if (!lane.has(i)) to[i * L::kWidth + c] = 0;
  }
}

template <class L>
__device__ inline void store_row(typename L::T* row, const Lane<L>& lane, const float (&from)[L::kChannels]) {
#pragma unroll
  for (int i = 0; i < L::kVectors; ++i)
    if (lane.owns && lane.has(i)) store<typename L::T, L::kWidth>(row + lane.offset(i), from + i * L::kWidth);
}

/// The attributes of an edge that belong to the slots of a lane, packed.
template <class L>
struct Attributes {
  using T = typename L::T;
  static constexpr int kOwn = L::kOwnSlots, kPerWord = 4 / int(sizeof(T)), kWords = (kOwn + kPerWord - 1) / kPerWord;
  uint32_t words[kWords];

  /// Aligned rows are read in vectors of up to 16 bytes, also beyond the last attribute, but not beyond the last vector
  /// that has one.
  __device__ void load(const T* row, int in_head, int num_attributes) {
    const int first = in_head * kOwn;
    if constexpr (L::kAligned) {
      constexpr int kBytes = kOwn * int(sizeof(T)) < 16 ? kOwn * int(sizeof(T)) : 16, kStep = kBytes / int(sizeof(T));
#pragma unroll
      for (int i = 0; i < kOwn / kStep; ++i) {
        uint32_t* const to = words + i * kBytes / 4;
        const T* const from = row + first + i * kStep;
        const bool any = first + i * kStep < num_attributes;
        if constexpr (kBytes == 16) {
          const uint4 x = any ? __ldg(reinterpret_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0);
          to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
        } else if constexpr (kBytes == 8) {
          const uint2 x = any ? __ldg(reinterpret_cast<const uint2*>(from)) : make_uint2(0, 0);
          to[0] = x.x, to[1] = x.y;
        } else if constexpr (kBytes == 4) {
          to[0] = any ? __ldg(reinterpret_cast<const uint32_t*>(from)) : 0;
        } else {
          to[0] = any ? __ldg(reinterpret_cast<const uint16_t*>(from)) : 0;
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const T value = first + i < num_attributes ? row[first + i] : T();
        const uint32_t bits = __float_as_uint(widen(value));
        if constexpr (kPerWord == 1)
          words[i] = bits;
        else
          words[i / 2] = i % 2 ? words[i / 2] | (bits & 0xFFFF0000u) : bits >> 16;
      }
    }
  }
  /// `masks` clear what was read beyond the last attribute.
  __device__ void unpack(const uint32_t (&masks)[kWords], float (&to)[kOwn]) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const uint32_t word = words[i / kPerWord] & masks[i / kPerWord];
      if constexpr (kPerWord == 1)
        to[i] = __uint_as_float(word);
      else
        to[i] = __uint_as_float(i % 2 ? word & 0xFFFF0000u : word << 16);
    }
  }
  __device__ static void make_masks(int in_head, int num_attributes, uint32_t (&masks)[kWords]) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      masks[w] = 0;
#pragma unroll
      for (int i = 0; i < kPerWord; ++i)
        if (w * kPerWord + i < kOwn && in_head * kOwn + w * kPerWord + i < num_attributes)
          masks[w] |= (kPerWord == 1 ? 0xFFFFFFFFu : 0xFFFFu) << (16 * i);
    }
  }
};

// --- W_edge ---

/// Where products with W_h read it: in shared memory as [slice, attribute, vector, lane] of kWidth channels, so that a
/// warp reads 512 neighbouring bytes; from global memory where rows are not aligned.
template <class L>
struct EdgeProjection {
  using T = typename L::T;
  const T* shared;
  Rows<const T> w_edge;
  int num_attributes;

  __host__ __device__ static int64_t shared_bytes(int num_heads, int num_attributes) {
    if (!L::kAligned) return 0;
    const int64_t num_slices = (num_heads + L::kHeads - 1) / L::kHeads;
    return num_slices * num_attributes * L::kVectors * 32 * 16;
  }

  /// All threads of the block; a barrier must follow.
  __device__ void fill(T* memory, const Problem<T>& in) {
    w_edge = in.w_edge;
    num_attributes = in.num_attributes;
    shared = memory;
    if constexpr (L::kAligned) {
      const int num_slices = (in.num_heads + L::kHeads - 1) / L::kHeads;
      const int count = num_slices * num_attributes * L::kVectors * 32 * L::kWidth;
      for (int x = int(threadIdx.x); x < count; x += kThreads) {
        const int c = x % L::kWidth, lane = x / L::kWidth % 32, i = x / L::kWidth / 32 % L::kVectors;
        const int row = x / L::kWidth / 32 / L::kVectors, slot = row % num_attributes, slice = row / num_attributes;
        const int head = slice * L::kHeads + lane / L::kLanes;
        const int channel = (lane % L::kLanes + i * L::kLanes) * L::kWidth + c;
        memory[x] = head < in.num_heads && channel < in.head_size
                        ? w_edge.at(int64_t(head) * in.head_size + channel)[slot]
                        : T();
      }
    }
  }

  /// Column `slot` of W_h at the channels of the lane; 0 beyond the head.
  __device__ void column(int slice, int slot, const Lane<L>& lane, float (&to)[L::kChannels]) const {
#pragma unroll
    for (int i = 0; i < L::kVectors; ++i) {
      if constexpr (L::kAligned) {
        Packed<T, L::kWidth> packed;
        const int row = (slice * num_attributes + slot) * L::kVectors + i;
        packed.bits = *reinterpret_cast<const uint4*>(shared + (row * 32 + int(threadIdx.x) % 32) * L::kWidth);
        packed.unpack(to + i * L::kWidth);
      } else {
        to[i] = lane.has(i) ? widen(w_edge.at(lane.offset(i))[slot]) : 0.f;
      }
    }
  }

  /// y[n] = W_h^T x[n], the slots of the lane; 0 beyond the attributes.
  template <int kRows>
  __device__ void to_slots(int slice, const Lane<L>& lane, const float (&x)[kRows][L::kChannels],
                           float (&y)[kRows][L::kOwnSlots]) const {
    constexpr int kOwn = L::kOwnSlots;
    if constexpr (L::kAligned) {
      float sums[kRows][L::kSlots];
#pragma unroll
      for (int slot = 0; slot < L::kSlots; ++slot) {
#pragma unroll
        for (int n = 0; n < kRows; ++n) sums[n][slot] = 0;
        if (slot >= num_attributes) continue;
        float w[L::kChannels];
        column(slice, slot, lane, w);
#pragma unroll
        for (int n = 0; n < kRows; ++n)
#pragma unroll
          for (int c = 0; c < L::kChannels; ++c) sums[n][slot] = fmaf(w[c], x[n][c], sums[n][slot]);
      }
      // Sums over the lanes of the head: at every step a lane keeps half of the slots and gives away the others.
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        constexpr int kSpare = L::kLanes > L::kSlots ? L::kLanes / L::kSlots : 1;
#pragma unroll
        for (int offset = L::kLanes / 2; offset >= L::kLanes / kSpare; offset /= 2)
#pragma unroll
          for (int slot = 0; slot < L::kSlots; ++slot)
            sums[n][slot] += __shfl_xor_sync(kFullMask, sums[n][slot], offset);
        int kept = L::kSlots;
#pragma unroll
        for (int offset = L::kLanes / kSpare / 2; offset > 0; offset /= 2) {
          kept /= 2;
          const bool upper = lane.in_head & offset;
#pragma unroll
          for (int slot = 0; slot < L::kSlots / 2; ++slot) {
            if (slot >= kept) continue;
            const float mine = upper ? sums[n][slot + kept] : sums[n][slot];
            const float given = upper ? sums[n][slot] : sums[n][slot + kept];
            sums[n][slot] = mine + __shfl_xor_sync(kFullMask, given, offset);
          }
        }
#pragma unroll
        for (int i = 0; i < kOwn; ++i) y[n][i] = lane.in_head * kOwn + i < L::kSlots ? sums[n][i] : 0.f;
      }
    } else {
#pragma unroll
      for (int n = 0; n < kRows; ++n)
#pragma unroll
        for (int i = 0; i < kOwn; ++i) y[n][i] = 0;
      for (int slot = 0; slot < num_attributes; ++slot) {
        float w[L::kChannels];
        column(slice, slot, lane, w);
#pragma unroll
        for (int n = 0; n < kRows; ++n) {
          float sum = 0;
#pragma unroll
          for (int c = 0; c < L::kChannels; ++c) sum = fmaf(w[c], x[n][c], sum);
          sum = sum_lanes<L::kLanes>(sum);
#pragma unroll
          for (int i = 0; i < kOwn; ++i)
            if (slot == lane.in_head * kOwn + i) y[n][i] = sum;
        }
      }
    }
  }

  /// x += W_h y
  __device__ void add_from_slots(int slice, const Lane<L>& lane, const float (&y)[L::kOwnSlots],
                                 float (&x)[L::kChannels]) const {
    const int first_lane = int(threadIdx.x) % 32 / L::kLanes * L::kLanes;
#pragma unroll
    for (int slot = 0; slot < L::kSlots; ++slot) {
      if (slot >= num_attributes) continue;
      const float factor = __shfl_sync(kFullMask, y[slot % L::kOwnSlots], first_lane + slot / L::kOwnSlots);
      float w[L::kChannels];
      column(slice, slot, lane, w);
#pragma unroll
      for (int c = 0; c < L::kChannels; ++c) x[c] = fmaf(w[c], factor, x[c]);
    }
  }
};

// --- the edges of a destination ---

/// The rows of k and v, and the attributes, that belong to kAhead edges: all requested before the first is used.
template <class L, int kAhead>
struct EdgeBatch {
  using T = typename L::T;
  Packed<T, L::kWidth> k[kAhead][L::kVectors], v[kAhead][L::kVectors];
  Attributes<L> attributes[kAhead];

  /// Edges first .. first + kAhead of the `count` whose sources lie in the lanes of `sources`; the last one again
  /// beyond the end.
  __device__ void load(const Problem<T>& in, const Lane<L>& lane, int64_t chunk, int sources, int first, int count) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int e = first + u < count ? first + u : count - 1;
      const int64_t source = __shfl_sync(kFullMask, sources, e);
      const T *const k_row = in.k.at(source), *const v_row = in.v.at(source);
#pragma unroll
      for (int i = 0; i < L::kVectors; ++i) {
        k[u][i].load(k_row + lane.offset(i));
        v[u][i].load(v_row + lane.offset(i));
      }
      attributes[u].load(in.attributes.at(chunk + e), lane.in_head, in.num_attributes);
    }
  }
};

template <int kSize>
__device__ inline float dot(const float (&x)[kSize], const float (&y)[kSize], float sum) {
#pragma unroll
  for (int c = 0; c < kSize; ++c) sum = fmaf(x[c], y[c], sum);
  return sum;
}

template <int kSize>
__device__ inline void add_scaled(float (&x)[kSize], float factor, const float (&y)[kSize]) {
#pragma unroll
  for (int c = 0; c < kSize; ++c) x[c] = fmaf(factor, y[c], x[c]);
}

template <int kSize>
__device__ inline void multiply_by(float (&x)[kSize], float factor) {
#pragma unroll
  for (int c = 0; c < kSize; ++c) x[c] *= factor;
}

/// Sources of up to 32 edges, one a lane.
template <class T>
__device__ inline int load_sources(const Problem<T>& in, int64_t chunk, int64_t end) {
  const int64_t edge = chunk + threadIdx.x % 32;
  return edge < end ? in.src_of[edge] : 0;
}

/// Every warp has a slice of heads and visits every num_warps-th destination, in order; what it needs to start on the
/// next one is requested while it works on the one before.
template <class L, int kAhead, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks) forward_kernel(const Forward<typename L::T> p) {
  using T = typename L::T;
  const Problem<T>& in = p.in;
  EdgeProjection<L> projection;
  projection.fill(dynamic_shared<T>(), in);
  __syncthreads();

  const int num_slices = (in.num_heads + L::kHeads - 1) / L::kHeads;
  const int warp = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32, step = int(gridDim.x) * kWarps / num_slices;
  const int slice = warp % num_slices, first = warp / num_slices;
  if (first >= step || first >= in.num_dst) return;
  const Lane<L> lane(slice, in.num_heads, in.head_size);
  uint32_t masks[Attributes<L>::kWords];
  Attributes<L>::make_masks(lane.in_head, in.num_attributes, masks);
  const float scale = in.scale * kLog2E;

  int64_t begin = in.dst_ptr[first], end = in.dst_ptr[first + 1];
  int sources = load_sources(in, begin, end);
  for (int64_t i = first; i < in.num_dst; i += step) {
    const int64_t next = i + step < in.num_dst ? i + step : i;
    const int64_t next_begin = in.dst_ptr[next], next_end = in.dst_ptr[next + 1];
    float q[1][L::kChannels], q_edge[1][L::kOwnSlots];
    float sum[L::kChannels], mean[L::kOwnSlots], largest = -INFINITY, total = 0;
#pragma unroll
    for (int c = 0; c < L::kChannels; ++c) sum[c] = 0;
#pragma unroll
    for (int s = 0; s < L::kOwnSlots; ++s) mean[s] = 0;
    if (begin < end) {
      load_row<L>(in.q.at(i), lane, q[0]);
      projection.to_slots(slice, lane, q, q_edge);
    }

    for (int64_t chunk = begin; chunk < end; chunk += 32) {
      if (chunk > begin) sources = load_sources(in, chunk, end);
      const int count = end - chunk < 32 ? int(end - chunk) : 32;
      for (int e = 0; e < count; e += kAhead) {
        EdgeBatch<L, kAhead> edges;
        edges.load(in, lane, chunk, sources, e, count);
        float score[kAhead], new_largest = largest;
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          float k[L::kChannels], a[L::kOwnSlots];
#pragma unroll
          for (int x = 0; x < L::kVectors; ++x) edges.k[u][x].unpack(k + x * L::kWidth);
          edges.attributes[u].unpack(masks, a);
          score[u] = sum_lanes<L::kLanes>(dot(k, q[0], dot(a, q_edge[0], 0.f))) * scale;
          if (e + u >= count) score[u] = -INFINITY;
          new_largest = fmaxf(new_largest, score[u]);
        }
        const float correction = exp2f(largest - new_largest);
        largest = new_largest;
        total *= correction;
        multiply_by(sum, correction);
        multiply_by(mean, correction);
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          float v[L::kChannels], a[L::kOwnSlots];
#pragma unroll
          for (int x = 0; x < L::kVectors; ++x) edges.v[u][x].unpack(v + x * L::kWidth);
          edges.attributes[u].unpack(masks, a);
          const float weight = exp2f(score[u] - largest);
          total += weight;
          add_scaled(sum, weight, v);
          add_scaled(mean, weight, a);
        }
      }
    }

    const int next_sources = load_sources(in, next_begin, next_end);
    if (begin < end) {
      multiply_by(sum, 1 / total);
      multiply_by(mean, 1 / total);
      projection.add_from_slots(slice, lane, mean, sum);
      if (in.b_edge) {
        float bias[L::kChannels];
        load_row<L>(in.b_edge, lane, bias);
        add_scaled(sum, 1.f, bias);
      }
    }
    if (p.r.data) {
      float r[L::kChannels];
      load_row<L>(p.r.at(i), lane, r);
      add_scaled(sum, 1.f, r);
    }
    store_row<L>(p.o.at(i), lane, sum);
    if (lane.owns && lane.in_head == 0) p.stats.at(i)[lane.head] = begin < end ? (largest + log2f(total)) * kLn2 : 0.f;
    begin = next_begin, end = next_end, sources = next_sources;
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

/// A warp has all slices of its destinations, one after the other, because they add to the same attribute gradients.
template <class L, int kAhead, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    backward_destinations_kernel(const BackwardDestinations<typename L::T> p) {
  using T = typename L::T;
  const Problem<T>& in = p.in;
  EdgeProjection<L> projection;
  char* const memory = dynamic_shared<char>();
  projection.fill(reinterpret_cast<T*>(memory), in);
  const DestinationWorkspace<L> work(memory + EdgeProjection<L>::shared_bytes(in.num_heads, in.num_attributes) +
                                     int(threadIdx.x) / 32 * DestinationWorkspace<L>::kBytes);
  __syncthreads();

  const int num_slices = (in.num_heads + L::kHeads - 1) / L::kHeads;
  const int first = int(blockIdx.x) * kWarps + int(threadIdx.x) / 32, step = int(gridDim.x) * kWarps;
  if (first >= in.num_dst) return;
  const int in_slice = int(threadIdx.x) % 32 / L::kLanes;
  uint32_t masks[Attributes<L>::kWords];
  Attributes<L>::make_masks(threadIdx.x % L::kLanes, in.num_attributes, masks);
  const float scale = in.scale * kLog2E;

  int64_t begin = in.dst_ptr[first], end = in.dst_ptr[first + 1];
  int sources = load_sources(in, begin, end);
  for (int64_t i = first; i < in.num_dst; i += step) {
    const int64_t next = i + step < in.num_dst ? i + step : i;
    const int64_t next_begin = in.dst_ptr[next], next_end = in.dst_ptr[next + 1];
    const bool one_chunk = end - begin <= 32;
    for (int slice = 0; slice < num_slices; ++slice) {
      const Lane<L> lane(slice, in.num_heads, in.head_size);
      // [0]: q, what belongs to the scores; [1]: g = d_o, what belongs to p.
      float x[2][L::kChannels], x_edge[2][L::kOwnSlots];
      // Sums of alpha k and alpha p k, of alpha a and alpha p a: d_q and the like when the mean of p is known.
      float sum[L::kChannels], sum_p[L::kChannels], mean[L::kOwnSlots], mean_p[L::kOwnSlots], total = 0, total_p = 0;
#pragma unroll
      for (int c = 0; c < L::kChannels; ++c) sum[c] = sum_p[c] = 0;
#pragma unroll
      for (int s = 0; s < L::kOwnSlots; ++s) mean[s] = mean_p[s] = 0;
      float stats = 0;
      if (begin < end) {
        load_row<L>(in.q.at(i), lane, x[0]);
        load_row<L>(p.d_o.at(i), lane, x[1]);
        stats = p.stats.at(i)[lane.head] * kLog2E;
        projection.to_slots(slice, lane, x, x_edge);
#pragma unroll
        for (int s = 0; s < L::kOwnSlots; ++s)
          if (lane.in_head * L::kOwnSlots + s < L::kSlots) {
            const int at = in_slice * L::kSlots + lane.in_head * L::kOwnSlots + s;
            work.q_edge[at] = x_edge[0][s];
            work.g_edge[at] = x_edge[1][s];
          }
      }

      for (int64_t chunk = begin; chunk < end; chunk += 32) {
        if (!one_chunk) sources = load_sources(in, chunk, end);
        const int count = end - chunk < 32 ? int(end - chunk) : 32;
        for (int e = 0; e < count; e += kAhead) {
          EdgeBatch<L, kAhead> edges;
          edges.load(in, lane, chunk, sources, e, count);
#pragma unroll
          for (int u = 0; u < kAhead; ++u) {
            float k[L::kChannels], v[L::kChannels], a[L::kOwnSlots];
#pragma unroll
            for (int j = 0; j < L::kVectors; ++j) {
              edges.k[u][j].unpack(k + j * L::kWidth);
              edges.v[u][j].unpack(v + j * L::kWidth);
            }
            edges.attributes[u].unpack(masks, a);
            const float score = sum_lanes<L::kLanes>(dot(k, x[0], dot(a, x_edge[0], 0.f)));
            const float value = sum_lanes<L::kLanes>(dot(v, x[1], dot(a, x_edge[1], 0.f)));
            const float weight = e + u < count ? exp2f(fmaf(score, scale, -stats)) : 0.f;
            const float weight_p = weight * value;
            total += weight;
            total_p += weight_p;
            add_scaled(sum, weight, k);
            add_scaled(sum_p, weight_p, k);
            add_scaled(mean, weight, a);
            add_scaled(mean_p, weight_p, a);
            if (lane.in_head == 0 && e + u < count)
              work.weights[(e + u) * L::kHeads + in_slice] = make_float2(weight, value);
          }
        }
        if (one_chunk) continue;
        __syncwarp();  // more edges than fit: they wait in the scratch memory
        for (int e = lane.in_head; lane.owns && e < count; e += L::kLanes)
          p.edge_weights[(chunk + e) * in.num_heads + lane.head] = work.weights[e * L::kHeads + in_slice];
        __syncwarp();
      }

      // The weights sum to one only up to the rounding of scores and statistics, which grows with the scores.
      const float inverse = begin < end ? 1 / total : 0.f, average = total_p * inverse;
#pragma unroll
      for (int c = 0; c < L::kChannels; ++c) sum_p[c] = in.scale * inverse * fmaf(-average, sum[c], sum_p[c]);
#pragma unroll
      for (int s = 0; s < L::kOwnSlots; ++s) {
        mean_p[s] = in.scale * inverse * fmaf(-average, mean[s], mean_p[s]);
        mean[s] *= inverse;
        const int slot = lane.in_head * L::kOwnSlots + s;
        if (p.mean && lane.owns && slot < in.num_attributes) {
          const int64_t at = (i * in.num_heads + lane.head) * in.num_attributes + slot;
          p.mean[at] = narrow<T>(mean[s]);
          p.d_mean[at] = narrow<T>(mean_p[s]);
        }
      }
      if (begin < end) projection.add_from_slots(slice, lane, mean_p, sum_p);
      store_row<L>(p.d_q.at(i), lane, sum_p);

      __syncwarp();
      for (int64_t chunk = begin; chunk < end; chunk += 32) {
        const int count = end - chunk < 32 ? int(end - chunk) : 32;
        if (!one_chunk) {
          for (int e = lane.in_head; lane.owns && e < count; e += L::kLanes)
            work.weights[e * L::kHeads + in_slice] = p.edge_weights[(chunk + e) * in.num_heads + lane.head];
        }
        finish_edges<L>(p, lane, work, chunk, count, inverse, average);
      }
    }
    sources = load_sources(in, next_begin, next_end);
    begin = next_begin, end = next_end;
  }
}

__device__ inline float2 widen_pair(float2 pair) { return pair; }
__device__ inline float2 widen_pair(uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
}

/// A warp has a slice of p.run neighbouring sources, whose edges lie one after the other in the order by source: they
/// are read as one stream, so that sources with one edge or none do not stop it.
template <class L, class Weight, int kAhead, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    backward_sources_kernel(const BackwardSources<typename L::T, Weight> p) {
  using T = typename L::T;
  const int num_slices = (p.num_heads + L::kHeads - 1) / L::kHeads, lane_in_warp = int(threadIdx.x) % 32;
  const int64_t task = int64_t(blockIdx.x) * kWarps + int(threadIdx.x) / 32;
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

constexpr int kGradientChannels = 2, kGradientSlots = 16;  // of a thread

/// A thread owns two channels and adds up, over a part of the destinations, g mean^T + q d_mean^T for kGradientSlots
/// attributes; blockIdx: (part, channels, attributes).
template <class T>
__global__ void __launch_bounds__(kThreads) weight_gradients_kernel(const WeightGradients<T> p) {
  const int num_channels = p.num_heads * p.head_size;
  const int first_slot = int(blockIdx.z) * kGradientSlots;
  const int num_slots = p.num_attributes - first_slot < kGradientSlots ? p.num_attributes - first_slot : kGradientSlots;
  const int channel = (int(blockIdx.y) * kThreads + int(threadIdx.x)) * kGradientChannels;
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
    const int64_t at = (i * p.num_heads + head[0]) * p.num_attributes + first_slot;
    const T *const mean = p.mean + at, *const d_mean = p.d_mean + at;
    const int64_t other = same_head ? 0 : p.num_attributes;
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

/// d_w and d_b += the partial sums. A block of 32 x 8 threads owns 32 values; row r of threads adds partial sums r, r +
/// 8,
/// ...; then the rows are added in order.
constexpr int kSumValues = 32, kSumRows = 8;

static __global__ void __launch_bounds__(kSumValues* kSumRows)
    add_weight_gradients_kernel(const float* partials, int num_parts, int num_channels, int num_attributes,
                                Rows<float> d_w, float* d_b) {
  __shared__ float sums[kSumRows][kSumValues];
  const int width = num_attributes + 1, column = int(threadIdx.x) % kSumValues, row = int(threadIdx.x) / kSumValues;
  const int64_t index = int64_t(blockIdx.x) * kSumValues + column, size = int64_t(num_channels) * width;
  float sum = 0;
  if (index < size) {
#pragma unroll 4
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
