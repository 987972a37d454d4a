// Graph attention for graphs of any degree on tensor cores, forward.
//
// A warp works on a slice of 256 channels, in 8 parts of 32: a part is a head of 32 channels, or a share of a larger
// head (part r belongs to head r % kHeads). It owns tiles of kTile neighbouring destinations and works on one after the
// other, on up to eight edges of a destination at a time. Rows of k and v and the attributes of these edges are copied
// to a ring of stages of the warp ahead of their use, on across destinations, so that copies never stop.
//
// What is wanted of eight edges are 8 vectors of scores, one a part, and 8 sums, each over its own columns of the rows.
// Both are products with matrices of which one row, or one column, is wanted:
//
//   scores   all rows of q times (columns of part r of k)^T: [8, 32] x [32, 8]; row r is kept
//   sums     (columns of part r of v)^T times the weights of part r in column r, zeros elsewhere:
//            [32, 8] x [8, 8]; the parts add to different columns of the same result
//
// which wastes most of the tensor cores' work and saves as much of all other instructions. Weights are rounded to bf16,
// and divided by the sum of the rounded ones.
//
// W_h^T q for a tile, and W_h (sum alpha a), are products with W_h in shared memory, which the block keeps. Slots of an
// edge: its attributes, zeros, and in the last one the bias, which enters W_h (sum alpha a) only.
//
// Lane 4g + p holds, of scores and weights, part g and the edges 2p, 2p + 1; of sums over edges, channels g + 8i of the
// parts 2p, 2p + 1.
#pragma once

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/graph_attention/graph_attention_kernels.cuh"

namespace boreas::cuda::graph_attention::tiles {

inline constexpr int kParts = 8, kPartChannels = 32, kSliceChannels = kParts * kPartChannels, kStep = 8;
inline constexpr int kSlots = 16, kBiasSlot = kSlots - 1;
inline constexpr int kRowBytes = kSliceChannels * 2;
inline constexpr int kRowStride = kRowBytes + 16;  // eight rows lie in different banks
inline constexpr int kAttributeStride = kSlots * 2 + 16;
inline constexpr int kStageBytes = kStep * (2 * kRowStride + kAttributeStride);
inline constexpr int kProjectionBytes = kSliceChannels * kSlots * 2;
inline constexpr int kTermBytes = kParts * kSlots * 2;  // of a destination: W_h^T x, rounded; and the rest
inline constexpr int kTermStride = 2 * kTermBytes + 16;

/// Of heads of D channels.
template <int D>
struct Parts {
  static constexpr int kHeads = kSliceChannels / D, kFold = D / kPartChannels;
  __device__ static int channel(int part) { return part % kHeads * D + part / kHeads * kPartChannels; }
};

/// Rows by 32-bit numbers: an address is one instruction.
template <class T>
struct SliceRows {
  T* data = nullptr;
  uint32_t stride = 0;  // in bytes
  __device__ T* at(int row) const {
    using Bytes = std::conditional_t<std::is_const_v<T>, const char, char>;
    return reinterpret_cast<T*>(reinterpret_cast<Bytes*>(data) + uint64_t(uint32_t(row)) * stride);
  }
};

/// Rows of bf16, channels and heads, are those of the first slice.
struct SliceProblem {
  int num_dst, num_attributes;
  float scale;
  const int64_t* dst_ptr;
  const int32_t* src_of;
  SliceRows<const bfloat16> q, k, v, attributes, w_edge;
  const bfloat16* b_edge;
};

struct SliceForward {
  SliceProblem in;
  int num_slices;  // block b works on slice b % num_slices
  SliceRows<const bfloat16> r;
  SliceRows<bfloat16> o;
  SliceRows<float> stats;
};

// --- small things ---

__device__ inline float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_half(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

/// Two values as the sum of two pairs of bf16.
struct SplitPair {
  uint32_t upper, lower;
  __device__ SplitPair(float x, float y)
      : upper(pack_bf16(x, y)), lower(pack_bf16(x - low_half(upper), y - high_half(upper))) {}
};

/// All ones for the lanes that own part r, zeros for the others.
struct OwnParts {
  uint32_t masks[kParts];
  __device__ OwnParts() {
#pragma unroll
    for (int r = 0; r < kParts; ++r) masks[r] = int(threadIdx.x) % 32 / 4 == r ? 0xFFFFFFFFu : 0;
  }
};

/// Place of 8 slots of a row of 16, in units of 16 bytes: rows that a matrix is loaded from lie in different banks,
/// both when they are neighbours and when they are the rows 8a + b, a < 4, of two neighbouring b.
__device__ inline int slots_place(int row, int half) {
  return (2 * row + half) ^ (row >> 2 & 1) ^ (row >> 3 & 1) ^ (row >> 4 & 1) << 2;
}
/// Place of vector c of a row of results.
__device__ inline int vector_place(int c) { return c ^ (c >> 3 & 7); }

// --- W_h ---

/// W_h of the slice as [channel, slot] in shared memory.
struct EdgeMatrix {
  const char* memory;
  int to_slots[2], from_slots[2];  // offsets of this lane's rows

  /// All threads of the block; a barrier must follow.
  __device__ EdgeMatrix(char* shared, const SliceProblem& in) : memory(shared) {
    for (int x = int(threadIdx.x); x < kSliceChannels * kSlots; x += int(blockDim.x)) {
      const int channel = x / kSlots, slot = x % kSlots;
      uint16_t bits = 0;
      if (slot < in.num_attributes)
        bits = in.w_edge.at(channel)[slot].bits;
      else if (slot == kBiasSlot && in.b_edge)
        bits = in.b_edge[channel].bits;
      reinterpret_cast<uint16_t*>(shared)[slots_place(channel, slot / 8) * 8 + slot % 8] = bits;
    }
    const int lane = int(threadIdx.x) % 32, row = lane % 8, matrix = lane / 8;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      to_slots[s] = slots_place(row / 2 * 8 + 2 * s + 4 * (matrix % 2) + row % 2, matrix / 2) * 16;
      from_slots[s] = slots_place(16 * s + 8 * (matrix % 2) + row, matrix / 2) * 16;
    }
  }

  /// x^T += W_h y^T for all parts; y: pairs of slots 2p and 2p + 8 of part g.
  template <int D>
  __device__ void add_from_slots(const OwnParts& own, const uint32_t (&y)[2], float (&x)[2][4]) const {
#pragma unroll
    for (int r = 0; r < kParts; ++r) {
      const char* const part = memory + Parts<D>::channel(r) * kSlots * 2;
      const uint32_t b0 = y[0] & own.masks[r], b1 = y[1] & own.masks[r];
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        uint32_t w[4];
        load_matrices(w, part + from_slots[t]);
        mma_bf16(x[t], w, b0, b1);
      }
    }
  }
};

/// W_h^T q of the destinations of a tile, in two summands of bf16: the rows are heads, those beyond them zeros.
template <int D, int kTile>
struct EdgeTerms {
  static_assert(kTile <= 8);
  static constexpr int kBytes = kTile * kTermStride;
  char* const memory;

  // Results have lain here.
  __device__ void clear_other_rows() const {
    constexpr int kHeads = Parts<D>::kHeads, kVectors = (kParts - kHeads) * 2;
    if constexpr (kVectors > 0) {
      for (int x = int(threadIdx.x) % 32; x < kTile * 2 * kVectors; x += 32)
        reinterpret_cast<uint4*>(at(x / (2 * kVectors)))[x / kVectors % 2 * kParts * 2 + kHeads * 2 + x % kVectors] =
            make_uint4(0, 0, 0, 0);
    }
  }

  __device__ void compute(const EdgeMatrix& w, const SliceRows<const bfloat16>& q, int first, int num_dst) const {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, p = lane % 4;
    const int i = min(first + g % kTile, num_dst - 1);
    const bfloat16* const row = q.at(i) + 8 * p;
    char* const to = memory + g * kTermStride + p * 4;
    __syncwarp();
    clear_other_rows();
    constexpr int kFold = Parts<D>::kFold, kHeads = Parts<D>::kHeads;
    uint4 values[kHeads][kFold];
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
#pragma unroll
      for (int f = 0; f < kFold; ++f)
        values[h][f] = __ldg(reinterpret_cast<const uint4*>(row + h * D + f * kPartChannels));
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      // A vector of 8 channels is the left operand as it is: channels 0, 1, 4, 5 belong to row g, the others to row
      // g + 8.
      float halves[2][2][4] = {}, y[2][2];
#pragma unroll
      for (int f = 0; f < kFold; ++f)
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          uint32_t b[4];
          load_matrices_transposed(b, w.memory + (h * D + f * kPartChannels) * kSlots * 2 + w.to_slots[s]);
          const uint32_t a[4] = {values[h][f].x, values[h][f].y, values[h][f].z, values[h][f].w};
          mma_bf16(halves[s][0], a, b[0], b[1]);
          mma_bf16(halves[s][1], a, b[2], b[3]);
        }
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) y[n][e] = halves[0][n][e] + halves[1][n][2 + e];
      if (p == 3) y[1][1] = 0;  // the bias, the same for all edges
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const SplitPair split(y[n][0], y[n][1]);
        const int place = slots_place(h, n) * 16;
        if (g < kTile) {
          *reinterpret_cast<uint32_t*>(to + place) = split.upper;
          *reinterpret_cast<uint32_t*>(to + place + kTermBytes) = split.lower;
        }
      }
    }
    __syncwarp();
  }

  __device__ char* at(int place) const { return memory + place * kTermStride; }

  /// As a left operand of 16 rows: [heads, slots], and below it the second summand.
  __device__ void load(int place, uint32_t (&to)[4]) const {
    const int lane = int(threadIdx.x) % 32;
    load_matrices(to, at(place) + lane / 8 % 2 * kTermBytes + slots_place(lane % 8, lane / 16) * 16);
  }
};

// --- edges ---

/// Where the edges of a tile's destinations begin: lane i has that of destination i, lane kTile the end.
template <int kTile>
__device__ inline int tile_pointers(const SliceProblem& in, int tile) {
  const int lane = int(threadIdx.x) % 32;
  return int(in.dst_ptr[min(tile * kTile + min(lane, kTile), in.num_dst)]);
}

/// Stages in shared memory, each with up to eight edges of a destination, then zeros: all edges of all destinations of
/// a warp, in order.
template <int kTile, int kStages>
class EdgeRing {
  const SliceProblem& in_;
  char* const memory_;
  const int stride_;
  int tile_;                                  // of the edges that are copied next
  int pointers_, next_pointers_;              // of that tile, and of the one after
  int destination_ = 0, edge_, end_;          // in the tile; edges
  int read_ = 0;                              // the stage that is computed with
  int source_ = 0;                            // of edge lane % 8 of the next copy
  SliceRows<const char> k_, v_, attributes_;  // what this lane copies of rows
  int attribute_bytes_;

  __device__ bool done() const { return tile_ * kTile >= in_.num_dst; }

  // To the next destination with edges, from destination_ on.
  __device__ void find_edges() {
    for (; !done(); ++destination_) {
      if (destination_ == kTile) {
        destination_ = 0;
        tile_ += stride_;
        pointers_ = next_pointers_;
        if (done()) return;
        next_pointers_ = tile_pointers<kTile>(in_, tile_ + stride_);
      }
      edge_ = __shfl_sync(kFullMask, pointers_, destination_);
      end_ = __shfl_sync(kFullMask, pointers_, destination_ + 1);
      if (edge_ < end_) return;
    }
  }
  __device__ void find_sources() {
    const int edge = edge_ + int(threadIdx.x) % 8;
    if (!done()) source_ = edge < end_ ? in_.src_of[edge] : 0;
  }
  __device__ void copy_to(int stage) {
    if (!done()) {
      const int lane = int(threadIdx.x) % 32;
      char* const to = memory_ + stage * kStageBytes + lane * 16;
#pragma unroll
      for (int u = 0; u < kStep; ++u) {
        const int source = __shfl_sync(kFullMask, source_, u), bytes = edge_ + u < end_ ? 16 : 0;
        copy_async_cached(to + u * kRowStride, k_.at(source), bytes);
        copy_async_cached(to + (kStep + u) * kRowStride, v_.at(source), bytes);
      }
      if (lane < 2 * kStep) {
        const bool valid = edge_ + lane / 2 < end_;
        copy_async_cached(
            memory_ + stage * kStageBytes + 2 * kStep * kRowStride + lane / 2 * kAttributeStride + lane % 2 * 16,
            attributes_.at(valid ? edge_ + lane / 2 : edge_), valid ? attribute_bytes_ : 0);
      }
      edge_ += kStep;
      if (edge_ >= end_) {
        ++destination_;
        find_edges();
      }
      find_sources();
    }
    commit_copies();
  }

 public:
  static constexpr int kBytes = kStages * kStageBytes;

  __device__ EdgeRing(const SliceProblem& in, char* memory, int first, int stride)
      : in_(in),
        memory_(memory),
        stride_(stride),
        tile_(first),
        pointers_(tile_pointers<kTile>(in, first)),
        next_pointers_(tile_pointers<kTile>(in, first + stride)) {
    const int lane = int(threadIdx.x) % 32, rest = (in.num_attributes - lane % 2 * 8) * 2;
    const auto from = [](const SliceRows<const bfloat16>& rows, int offset) {
      return SliceRows<const char>{reinterpret_cast<const char*>(rows.data) + offset, rows.stride};
    };
    k_ = from(in.k, lane * 16);
    v_ = from(in.v, lane * 16);
    attributes_ = from(in.attributes, rest > 0 ? lane % 2 * 16 : 0);
    attribute_bytes_ = min(max(rest, 0), 16);
    find_edges();
    find_sources();
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) copy_to(stage);
  }

  __device__ void wait() {
    wait_for_copies<kStages - 1>();
    __syncwarp();
  }
  /// Done with the stage: it is filled again.
  __device__ void release() {
    __syncwarp();
    copy_to(read_);
    read_ = read_ + 1 == kStages ? 0 : read_ + 1;
  }
  __device__ const char* keys() const { return memory_ + read_ * kStageBytes; }
  __device__ const char* values() const { return keys() + kStep * kRowStride; }
  __device__ const char* attributes() const { return keys() + 2 * kStep * kRowStride; }
};

/// The attributes of eight edges as right operands: pairs of slots 2p + 8n of edge g, and pairs of edges 2p of slot
/// g + 8n.
struct EdgeAttributes {
  uint32_t edges[4], slots[4];  // the first two of each
  __device__ explicit EdgeAttributes(const char* attributes) {
    const int lane = int(threadIdx.x) % 32;
    const char* const row = attributes + lane % 8 * kAttributeStride + lane / 8 % 2 * 16;
    load_matrices(edges, row);
    load_matrices_transposed(slots, row);
  }
};

/// A row of all parts as the left operand of scores.
struct RowOperand {
  uint32_t a[4];
  template <int D>
  __device__ void load(const bfloat16* row) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, p = lane % 4;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      a[e] = __ldg(reinterpret_cast<const uint32_t*>(row + Parts<D>::channel(g) + 8 * e + 2 * p));
  }
};

/// Scores of eight edges: q k^T, of every part its own channels, plus (W_h^T q) a; of heads in several parts, in each.
template <int D, class Terms>
__device__ inline void compute_scores(const OwnParts& own, const RowOperand& q, const char* rows, const Terms& terms,
                                      int place, const EdgeAttributes& attributes, float (&scores)[2]) {
  const int lane = int(threadIdx.x) % 32;
  const char* const mine = rows + lane % 8 * kRowStride + lane / 8 * 16;
  const uint32_t first[4] = {q.a[0], 0, q.a[1], 0}, second[4] = {q.a[2], 0, q.a[3], 0};
  uint32_t term[4], bits[2] = {};
  float c[4] = {};
  terms.load(place, term);
  mma_bf16(c, term, attributes.edges[0], attributes.edges[1]);
#pragma unroll
  for (int r = 0; r < kParts; ++r) {
    float product[4] = {};
    uint32_t k[4];
    load_matrices(k, mine + Parts<D>::channel(r) * 2);
    mma_bf16(product, first, k[0], k[1]);
    mma_bf16(product, second, k[2], k[3]);
#pragma unroll
    for (int e = 0; e < 2; ++e) bits[e] |= __float_as_uint(product[e]) & own.masks[r];
  }
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    scores[e] = c[e] + c[2 + e] + __uint_as_float(bits[e]);
#pragma unroll
    for (int offset = Parts<D>::kHeads * 4; offset < 32; offset *= 2)
      scores[e] += __shfl_xor_sync(kFullMask, scores[e], offset);
  }
}

using Sums = float[2][4];  // [channel / 16]

/// sums += rows times weights, a pair of bf16.
template <int D>
__device__ inline void add_rows(const OwnParts& own, const char* rows, uint32_t weights, Sums& sums) {
  const int lane = int(threadIdx.x) % 32;
  const char* const mine = rows + lane % 8 * kRowStride + lane / 8 * 16;
#pragma unroll
  for (int r = 0; r < kParts; ++r) {
    uint32_t x[4];
    load_matrices_transposed(x, mine + Parts<D>::channel(r) * 2);
    const uint32_t b = weights & own.masks[r];
#pragma unroll
    for (int t = 0; t < 2; ++t) mma_bf16(sums[t], x[2 * t], x[2 * t + 1], b);
  }
}

// --- results ---

/// A value of each part, held for part g, for the parts that sums are held for.
struct ByColumn {
  float values[2];
  __device__ explicit ByColumn(float of_part) {
    const int p = int(threadIdx.x) % 4;
#pragma unroll
    for (int u = 0; u < 2; ++u) values[u] = __shfl_sync(kFullMask, of_part, (2 * p + u) * 4);
  }
};

__device__ inline void scale_sums(Sums& sums, const ByColumn& factor) {
#pragma unroll
  for (int t = 0; t < 2; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[t][e] *= factor.values[e % 2];
}

/// Adds a row: pairs of channels 8j + 2p of part g.
__device__ inline void add_row(const uint32_t (&row)[4], Sums& sums) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t pair = transpose_matrix(row[j]);
    sums[j / 2][j % 2 * 2] += low_half(pair);
    sums[j / 2][j % 2 * 2 + 1] += high_half(pair);
  }
}

/// Rounds sums and stores them as a row; `memory`: kRowBytes of the warp.
template <int D>
__device__ inline void store_sums(const Sums& sums, char* memory, bfloat16* row) {
  const int lane = int(threadIdx.x) % 32;
  uint32_t matrices[4];
#pragma unroll
  for (int j = 0; j < 4; ++j)
    matrices[j] = transpose_matrix(pack_bf16(sums[j / 2][j % 2 * 2], sums[j / 2][j % 2 * 2 + 1]));
  __syncwarp();
  store_matrices(matrices, memory + vector_place(Parts<D>::channel(lane % 8) / 8 + lane / 8) * 16);
  __syncwarp();
  reinterpret_cast<uint4*>(row)[lane] = reinterpret_cast<const uint4*>(memory)[vector_place(lane)];
}

// --- kernels ---

template <int kTile, int kStages>
inline constexpr int kWarpBytes = EdgeRing<kTile, kStages>::kBytes + kTile* kTermStride;

template <int D, int kWarps, int kTile, int kStages>
__global__ void __launch_bounds__(kWarps * 32, 1) forward_kernel(const SliceForward p) {
  using Ring = EdgeRing<kTile, kStages>;
  constexpr int kHeads = Parts<D>::kHeads;
  const int slice = int(blockIdx.x) % p.num_slices, channel = slice * kSliceChannels;
  SliceProblem in = p.in;
  in.q.data += channel, in.k.data += channel, in.v.data += channel;
  in.w_edge.data = in.w_edge.at(channel);
  if (in.b_edge) in.b_edge += channel;
  char* const memory = dynamic_shared<char>();
  const EdgeMatrix w(memory, in);
  char* const warp_memory = memory + kProjectionBytes + int(threadIdx.x) / 32 * kWarpBytes<kTile, kStages>;
  const EdgeTerms<D, kTile> terms{warp_memory + Ring::kBytes};
  __syncthreads();

  const int first = int(blockIdx.x) / p.num_slices * kWarps + int(threadIdx.x) / 32;
  const int stride = int(gridDim.x) / p.num_slices * kWarps;
  if (first * kTile >= in.num_dst) return;
  const int lane = int(threadIdx.x) % 32, g = lane / 4, c = lane % 4;
  const float scale = in.scale * kLog2E;
  const OwnParts own;
  Ring edges(in, warp_memory, first, stride);
  int pointers = tile_pointers<kTile>(in, first);
  RowOperand next_q;
  next_q.load<D>(in.q.at(first * kTile));

  for (int tile = first; tile * kTile < in.num_dst; tile += stride) {
    const int next_pointers = tile_pointers<kTile>(in, tile + stride);
    terms.compute(w, in.q, tile * kTile, in.num_dst);
    for (int x = 0; x < kTile; ++x) {
      const int i = tile * kTile + x;
      if (i >= in.num_dst) break;
      const RowOperand q = next_q;
      const int next = x + 1 < kTile ? i + 1 : (tile + stride) * kTile;
      next_q.load<D>(in.q.at(next < in.num_dst ? next : i));
      RowOperand r;
      if (p.r.data) r.load<D>(p.r.at(i) + channel);
      const int begin = __shfl_sync(kFullMask, pointers, x), end = __shfl_sync(kFullMask, pointers, x + 1);

      float sums[2][4] = {}, mean[2][4] = {}, largest = -INFINITY, total = 0;
      for (int edge = begin; edge < end; edge += kStep) {
        edges.wait();
        const EdgeAttributes attributes(edges.attributes());
        float score[2];
        compute_scores<D>(own, q, edges.keys(), terms, x, attributes, score);
        float most = -INFINITY;
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          score[u] = edge + 2 * c + u < end ? score[u] * scale : -INFINITY;
          most = fmaxf(most, score[u]);
        }
        most = fmaxf(most, __shfl_xor_sync(kFullMask, most, 1));
        most = fmaxf(fmaxf(most, __shfl_xor_sync(kFullMask, most, 2)), largest);
        const float correction = fast_exp2(largest - most);
        largest = most;
#pragma unroll
        for (int u = 0; u < 2; ++u) score[u] = fast_exp2(score[u] - most);
        if (edge > begin) {
          scale_sums(sums, ByColumn(correction));
#pragma unroll
          for (int n = 0; n < 2; ++n) mean[n][0] *= correction, mean[n][1] *= correction;
        }
        const uint32_t weights = pack_bf16(score[0], score[1]);
        total = fmaf(total, correction, low_half(weights) + high_half(weights));
#pragma unroll
        for (int n = 0; n < 2; ++n) mma_bf16(mean[n], weights, 0, attributes.slots[n]);
        add_rows<D>(own, edges.values(), weights, sums);
        edges.release();
      }

      float log_total = 0;
      if (begin < end) {
        total = sum_lanes<4>(total);
        const float inverse = fast_reciprocal(total);
        log_total = (largest + __log2f(total)) * kLn2;
        scale_sums(sums, ByColumn(inverse));
        const uint32_t by_part[2] = {pack_bf16(mean[0][0] * inverse, mean[0][1] * inverse),
                                     pack_bf16(mean[1][0] * inverse, c == 3 ? 1.f : mean[1][1] * inverse)};
        w.add_from_slots<D>(own, by_part, sums);
      }
      if (p.r.data) add_row(r.a, sums);
      store_sums<D>(sums, terms.at(x), p.o.at(i) + channel);
      if (c == 0 && g < kHeads) p.stats.at(i)[slice * kHeads + g] = log_total;
    }
    pointers = next_pointers;
  }
}

}  // namespace boreas::cuda::graph_attention::tiles
