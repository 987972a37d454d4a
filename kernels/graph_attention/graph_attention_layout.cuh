// How rows of heads lie over the lanes of a warp, and products with W_edge in that layout: what the kernels of graph
// attention for any degree are made of.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/matrix.cuh"
#include "kernels/cuda/vector_io.cuh"
#include "kernels/cuda/warp.cuh"

namespace boreas::cuda::graph_attention {

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

template <class L>
__device__ inline void unpack_row(const Packed<typename L::T, L::kWidth> (&from)[L::kVectors],
                                  float (&to)[L::kChannels]) {
#pragma unroll
  for (int i = 0; i < L::kVectors; ++i) from[i].unpack(to + i * L::kWidth);
}

/// The channels of a row that a lane owns, as they are stored; of the head's first ones beyond its end.
template <class L>
struct PackedRow {
  Packed<typename L::T, L::kWidth> vectors[L::kVectors];

  __device__ void load(const typename L::T* row, const Lane<L>& lane) {
#pragma unroll
    for (int i = 0; i < L::kVectors; ++i) vectors[i].load(row + lane.offset(i));
  }
  /// 0 beyond the end of the head.
  __device__ void unpack(const Lane<L>& lane, float (&to)[L::kChannels]) const {
    unpack_row<L>(vectors, to);
#pragma unroll
    for (int c = 0; c < L::kChannels; ++c)
      if (!lane.has(c / L::kWidth)) to[c] = 0;
  }
};

/// The channels of a row that a lane owns; 0 beyond the end of the head.
template <class L>
__device__ inline void load_row(const typename L::T* row, const Lane<L>& lane, float (&to)[L::kChannels]) {
  PackedRow<L> packed;
  packed.load(row, lane);
  packed.unpack(lane, to);
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
  /// From a row of kSlots in shared memory, zeros beyond the last attribute.
  __device__ void load_shared(const T* row, int in_head) {
    static_assert(L::kAligned);
    constexpr int kBytes = kOwn * int(sizeof(T));
    if (in_head * kOwn >= L::kSlots) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) words[w] = 0;
      return;
    }
    const char* const from = reinterpret_cast<const char*>(row + in_head * kOwn);
    if constexpr (kBytes >= 16) {
#pragma unroll
      for (int i = 0; i < kBytes / 16; ++i) {
        const uint4 x = reinterpret_cast<const uint4*>(from)[i];
        words[4 * i] = x.x, words[4 * i + 1] = x.y, words[4 * i + 2] = x.z, words[4 * i + 3] = x.w;
      }
    } else if constexpr (kBytes == 8) {
      const uint2 x = *reinterpret_cast<const uint2*>(from);
      words[0] = x.x, words[1] = x.y;
    } else if constexpr (kBytes == 4) {
      words[0] = *reinterpret_cast<const uint32_t*>(from);
    } else {
      words[0] = *reinterpret_cast<const uint16_t*>(from);
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
  __device__ void unpack(float (&to)[kOwn]) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const uint32_t word = words[i / kPerWord];
      to[i] = __uint_as_float(kPerWord == 1 ? word : i % 2 ? word & 0xFFFF0000u : word << 16);
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

// --- arithmetic ---

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

// --- W_edge ---

/// Where products with W_h read it: in shared memory as [slice, slot, vector, lane] of kWidth channels, so that a warp
/// reads 512 neighbouring bytes; from global memory where rows are not aligned. Slots come in groups, filled up with
/// zeros, so that the columns of a group are read together.
template <class L>
struct EdgeProjection {
  using T = typename L::T;
  static constexpr int kGroup = 4;
  const T* shared;
  Rows<const T> w_edge;
  int num_attributes;

  __host__ __device__ static int padded(int num_attributes) { return (num_attributes + kGroup - 1) / kGroup * kGroup; }

  __host__ __device__ static int64_t shared_bytes(int num_heads, int num_attributes) {
    if (!L::kAligned) return 0;
    const int64_t num_slices = (num_heads + L::kHeads - 1) / L::kHeads;
    return num_slices * padded(num_attributes) * L::kVectors * 32 * 16;
  }

  /// All threads of the block; a barrier must follow.
  __device__ void fill(T* memory, const Problem<T>& in) {
    w_edge = in.w_edge;
    num_attributes = in.num_attributes;
    shared = memory;
    if constexpr (L::kAligned) {
      const int num_slices = (in.num_heads + L::kHeads - 1) / L::kHeads, num_slots = padded(num_attributes);
      const int count = num_slices * num_slots * L::kVectors * 32 * L::kWidth;
      for (int x = int(threadIdx.x); x < count; x += int(blockDim.x)) {
        const int c = x % L::kWidth, lane = x / L::kWidth % 32, i = x / L::kWidth / 32 % L::kVectors;
        const int row = x / L::kWidth / 32 / L::kVectors, slot = row % num_slots, slice = row / num_slots;
        const int head = slice * L::kHeads + lane / L::kLanes;
        const int channel = (lane % L::kLanes + i * L::kLanes) * L::kWidth + c;
        memory[x] = slot < num_attributes && head < in.num_heads && channel < in.head_size
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
        const int row = (slice * padded(num_attributes) + slot) * L::kVectors + i;
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
      for (int first = 0; first < L::kSlots; first += kGroup) {
#pragma unroll
        for (int n = 0; n < kRows; ++n)
#pragma unroll
          for (int slot = first; slot < first + kGroup; ++slot) sums[n][slot] = 0;
        if (first >= num_attributes) continue;
#pragma unroll
        for (int slot = first; slot < first + kGroup; ++slot) {
          float w[L::kChannels];
          column(slice, slot, lane, w);
#pragma unroll
          for (int n = 0; n < kRows; ++n) sums[n][slot] = dot(w, x[n], 0.f);
        }
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
    for (int first = 0; first < L::kSlots; first += kGroup) {
      if (first >= num_attributes) continue;
#pragma unroll
      for (int slot = first; slot < first + kGroup; ++slot) {
        const float factor = __shfl_sync(kFullMask, y[slot % L::kOwnSlots], first_lane + slot / L::kOwnSlots);
        float w[L::kChannels];
        if (!L::kAligned && slot >= num_attributes) continue;
        column(slice, slot, lane, w);
        add_scaled(x, factor, w);
      }
    }
  }
};

}  // namespace boreas::cuda::graph_attention
