// Graph attention for graphs of any degree on tensor cores: forward, and the destination pass of backward.
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
// which wastes most of the tensor cores' work and saves as much of all other instructions. Weights are rounded to bf16;
// where they sum to zero, as those of backward do, a second product adds what the rounding has cut off.
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
inline constexpr int kProjectionBytes = kSliceChannels * kSlots * 2;
inline constexpr int kTermBytes = kParts * kSlots * 2;  // of a destination: W_h^T x, rounded; and the rest
inline constexpr int kTermStride = 2 * kTermBytes + 16;

/// Of heads of D channels.
template <int D>
struct Parts {
  static constexpr int kHeads = kSliceChannels / D, kFold = D / kPartChannels;
  __device__ static int head(int part) { return part % kHeads; }
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

/// Rows of bf16, channels and heads, are those of the first slice; num_heads is that of all slices.
struct SliceProblem {
  int num_dst, num_heads, num_attributes;
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

struct SliceBackward {
  SliceProblem in;
  SliceRows<const float> stats;
  SliceRows<const bfloat16> d_o;
  SliceRows<bfloat16> d_q;
  float2* edge_weights;     // [M, H] of alpha, scale * dS
  bfloat16 *mean, *d_mean;  // [N_dst, H, kSlots]; null: not wanted
  SliceRows<float> d_attributes;
  int first_column, num_columns;
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
    for (int r = 0; r < kParts; ++r) masks[r] = int(threadIdx.x % 32) / 4 == r ? 0xFFFFFFFFu : 0;
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
    const int lane = int(threadIdx.x % 32), row = lane % 8, matrix = lane / 8;
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

/// Slices of rows of the destinations of a tile in shared memory: that of input y and destination x is number
/// y * kTile + x.
template <int kTile, int kInputs>
struct TileRows {
  static constexpr int kStride = kRowBytes + 64, kBytes = kTile * kInputs * kStride;
  char* const memory;

  __device__ const char* at(int place) const { return memory + place * kStride; }

  /// When all are done with the rows before: starts to copy those of the destinations from `first` on.
  __device__ void copy(const SliceRows<const bfloat16> (&x)[kInputs], int first, int num_dst) const {
    const int lane = int(threadIdx.x % 32);
    __syncwarp();
#pragma unroll
    for (int place = 0; place < kTile * kInputs; ++place)
      copy_async(memory + place * kStride + vector_place(lane) * 16,
                 x[place / kTile].at(min(first + place % kTile, num_dst - 1)) + lane * 8, true);
  }
  __device__ void wait() const {
    commit_copies();
    wait_for_copies<0>();
    __syncwarp();
  }
};

/// W_h^T x of the destinations of a tile, in two summands of bf16: the rows are heads, those beyond them zeros.
/// kInputs arrays x; array n of destination i lies at place n * kTile + i.
template <int D, int kTile, int kInputs>
struct EdgeTerms {
  static_assert(kTile * kInputs <= 8);
  static constexpr int kBytes = kTile * kInputs * kTermStride;
  char* const memory;

  // Results have lain here.
  __device__ void clear_other_rows() const {
    constexpr int kHeads = Parts<D>::kHeads, kVectors = (kParts - kHeads) * 2;
    if constexpr (kVectors > 0) {
      for (int x = int(threadIdx.x % 32); x < kTile * kInputs * 2 * kVectors; x += 32)
        reinterpret_cast<uint4*>(at(x / (2 * kVectors)))[x / kVectors % 2 * kParts * 2 + kHeads * 2 + x % kVectors] =
            make_uint4(0, 0, 0, 0);
    }
  }

  __device__ void compute(const EdgeMatrix& w, const TileRows<kTile, kInputs>& rows) const {
    const int lane = int(threadIdx.x % 32), g = lane / 4, p = lane % 4;
    const char* const row = rows.at(g % (kTile * kInputs));
    char* const to = memory + g * kTermStride + p * 4;
    __syncwarp();
    clear_other_rows();
    constexpr int kFold = Parts<D>::kFold, kHeads = Parts<D>::kHeads;
    uint4 values[kHeads][kFold];
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
#pragma unroll
      for (int f = 0; f < kFold; ++f)
        values[h][f] = *reinterpret_cast<const uint4*>(row + vector_place((h * D + f * kPartChannels) / 8 + p) * 16);
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
        if (g < kTile * kInputs) {
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
    const int lane = int(threadIdx.x % 32);
    load_matrices(to, at(place) + lane / 8 % 2 * kTermBytes + slots_place(lane % 8, lane / 16) * 16);
  }
  /// [slots, heads], then the same of the second summand.
  __device__ void load_transposed(int place, uint32_t (&to)[4]) const {
    const int lane = int(threadIdx.x % 32);
    load_matrices_transposed(to, at(place) + lane / 16 * kTermBytes + slots_place(lane % 8, lane / 8 % 2) * 16);
  }
};

// --- edges ---

/// The tile that a warp works on after another: in the order of the first ones, then, always, in the opposite order.
/// The coarse nodes of a mesh come first and have most edges, so the warp that begins with them has fewer to come.
__device__ inline int next_tile(int tile, int stride) { return tile < stride ? 2 * stride - 1 - tile : tile + stride; }

/// Where the edges of a tile's destinations begin: lane i has that of destination i, lane kTile the end.
template <int kTile>
__device__ inline int tile_pointers(const SliceProblem& in, int tile) {
  const int lane = int(threadIdx.x % 32);
  return int(in.dst_ptr[min(tile * kTile + min(lane, kTile), in.num_dst)]);
}

/// Rows of up to eight edges of a destination in shared memory, and their attributes, then zeros: all edges of all
/// destinations of a warp, in order. Beyond the last edge lie rows of an earlier step, whose weights are zero. `first`
/// and `second` are the two arrays of rows, k and v, in the order of their use; attributes come with the first. As soon
/// as one has been used, it is copied for the next edges, and the copy has the time in which the other is used.
template <int kTile>
class EdgeRows {
  const SliceProblem& in_;
  char* const memory_;
  const int stride_;
  int tile_;                                           // of the edges that are copied next
  int pointers_, next_pointers_;                       // of that tile, and of the one after
  int destination_ = 0, edge_, end_;                   // in the tile; edges
  int source_ = 0;                                     // of edge lane % 8 of the next copy
  SliceRows<const char> first_, second_, attributes_;  // what this lane copies of rows
  int attribute_bytes_;

  __device__ bool done() const { return tile_ * kTile >= in_.num_dst; }

  // To the next destination with edges, from destination_ on.
  __device__ void find_edges() {
    for (; !done(); ++destination_) {
      if (destination_ == kTile) {
        destination_ = 0;
        tile_ = next_tile(tile_, stride_);
        pointers_ = next_pointers_;
        if (done()) return;
        next_pointers_ = tile_pointers<kTile>(in_, next_tile(tile_, stride_));
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
  __device__ void copy_rows(const SliceRows<const char>& rows, char* to) const {
#pragma unroll
    for (int u = 0; u < kStep; ++u)
      copy_async_if(u < end_ - edge_, to + u * kRowStride, rows.at(__shfl_sync(kFullMask, source_, u)));
  }
  __device__ void copy_first() {
    const int lane = int(threadIdx.x % 32);
    if (!done()) {
      copy_rows(first_, memory_ + lane * 16);
      if (lane < 2 * kStep) {
        const bool valid = edge_ + lane / 2 < end_;
        copy_async_cached(memory_ + 2 * kStep * kRowStride + lane / 2 * kAttributeStride + lane % 2 * 16,
                          attributes_.at(valid ? edge_ + lane / 2 : edge_), valid ? attribute_bytes_ : 0);
      }
    }
    commit_copies();
  }
  __device__ void copy_second() {
    if (!done()) {
      copy_rows(second_, memory_ + kStep * kRowStride + int(threadIdx.x % 32) * 16);
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
  static constexpr int kBytes = kStep * (2 * kRowStride + kAttributeStride);

  __device__ EdgeRows(const SliceProblem& in, const SliceRows<const bfloat16>& first,
                      const SliceRows<const bfloat16>& second, char* memory, int first_tile, int stride)
      : in_(in),
        memory_(memory),
        stride_(stride),
        tile_(first_tile),
        pointers_(tile_pointers<kTile>(in, first_tile)),
        next_pointers_(tile_pointers<kTile>(in, next_tile(first_tile, stride))) {
    const int lane = int(threadIdx.x % 32), rest = (in.num_attributes - lane % 2 * 8) * 2;
    const auto from = [](const SliceRows<const bfloat16>& rows, int offset) {
      return SliceRows<const char>{kept(reinterpret_cast<const char*>(rows.data) + offset), rows.stride};
    };
    first_ = from(first, lane * 16);
    second_ = from(second, lane * 16);
    attributes_ = from(in.attributes, rest > 0 ? lane % 2 * 16 : 0);
    attribute_bytes_ = min(max(rest, 0), 16);
    for (int x = lane * 16; x < kBytes; x += 512) *reinterpret_cast<uint4*>(memory + x) = make_uint4(0, 0, 0, 0);
    __syncwarp();
    find_edges();
    find_sources();
    copy_first();
    copy_second();
  }

  /// Until the rows are there that are used next.
  __device__ void wait() const {
    wait_for_copies<1>();
    __syncwarp();
  }
  __device__ void release_first() {
    __syncwarp();
    copy_first();
  }
  __device__ void release_second() {
    __syncwarp();
    copy_second();
  }
  __device__ const char* first() const { return memory_; }
  __device__ const char* second() const { return memory_ + kStep * kRowStride; }
  __device__ const char* attributes() const { return memory_ + 2 * kStep * kRowStride; }
};

/// The attributes of eight edges as right operands: pairs of slots 2p + 8n of edge g, and pairs of edges 2p of slot
/// g + 8n.
struct EdgeAttributes {
  uint32_t edges[4], slots[4];  // the first two of each
  __device__ explicit EdgeAttributes(const char* attributes) {
    const int lane = int(threadIdx.x % 32);
    const char* const row = attributes + lane % 8 * kAttributeStride + lane / 8 % 2 * 16;
    load_matrices(edges, row);
    load_matrices_transposed(slots, row);
  }
};

/// The left operand of scores: a row of TileRows, all parts, in its upper half, another one in its lower half.
struct RowOperand {
  uint32_t first[4], second[4];  // channels 0 to 15 of each part, and 16 to 31
  template <int D>
  __device__ void load(const char* upper, const char* lower) {
    const int lane = int(threadIdx.x % 32), matrix = lane / 8, vector = Parts<D>::channel(lane % 8) / 8 + matrix / 2;
    const char* const row = matrix % 2 == 0 ? upper : lower;
    load_matrices(first, row + vector_place(vector) * 16);
    load_matrices(second, row + vector_place(vector + 2) * 16);
  }
};

/// Scores of eight edges: x k^T, of every part its own channels, plus (W_h^T x) a; of heads in several parts, in each.
/// x is the upper or the lower half of the operand.
template <int D, int kHalf, class Terms>
__device__ inline void compute_scores(const OwnParts& own, const RowOperand& x, const char* rows, const Terms& terms,
                                      int place, const EdgeAttributes& attributes, float (&scores)[2]) {
  const int lane = int(threadIdx.x % 32);
  const char* const mine = rows + lane % 8 * kRowStride + lane / 8 * 16;
  uint32_t term[4], bits[2] = {};
  float c[4] = {};
  terms.load(place, term);
  mma_bf16(c, term, attributes.edges[0], attributes.edges[1]);
#pragma unroll
  for (int r = 0; r < kParts; ++r) {
    float product[4] = {};
    uint32_t k[4];
    load_matrices(k, mine + Parts<D>::channel(r) * 2);
    mma_bf16(product, x.first, k[0], k[1]);
    mma_bf16(product, x.second, k[2], k[3]);
#pragma unroll
    for (int e = 0; e < 2; ++e) bits[e] |= __float_as_uint(product[2 * kHalf + e]) & own.masks[r];
  }
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    scores[e] = c[e] + c[2 + e] + __uint_as_float(bits[e]);
#pragma unroll
    for (int offset = Parts<D>::kHeads * 4; offset < 32; offset *= 2)
      scores[e] += __shfl_xor_sync(kFullMask, scores[e], offset);
  }
}

/// Weights of eight edges, as operands: rounded to bf16, and in a second summand what that has cut off.
template <int kSummands>
struct Weights {
  uint32_t pairs[kSummands];
  __device__ explicit Weights(const float (&w)[2]) {
    if constexpr (kSummands == 1) {
      pairs[0] = pack_bf16(w[0], w[1]);
    } else {
      const SplitPair split(w[0], w[1]);
      pairs[0] = split.upper, pairs[1] = split.lower;
    }
  }
  /// sums[n] += weights times slots 8n, ...: those of the summands in the upper and in the lower half.
  __device__ void add_attributes(const EdgeAttributes& attributes, float (&sums)[2][4]) const {
#pragma unroll
    for (int n = 0; n < 2; ++n)
      mma_bf16(sums[n], pairs[0], kSummands > 1 ? pairs[kSummands - 1] : 0, attributes.slots[n]);
  }
};

using Sums = float[2][4];  // [channel / 16]

/// Calls f(r, x) with the rows x of part r as left operands.
template <int D, class F>
__device__ inline void for_rows(const char* rows, F&& f) {
  const int lane = int(threadIdx.x % 32);
  const char* const mine = rows + lane % 8 * kRowStride + lane / 8 * 16;
#pragma unroll
  for (int r = 0; r < kParts; ++r) {
    uint32_t x[4];
    load_matrices_transposed(x, mine + Parts<D>::channel(r) * 2);
    f(r, x);
  }
}
template <int kSummands>
__device__ inline void add_part(const OwnParts& own, const Weights<kSummands>& weights, int r, const uint32_t (&x)[4],
                                Sums& sums) {
#pragma unroll
  for (int s = 0; s < kSummands; ++s) {
    const uint32_t b = weights.pairs[s] & own.masks[r];
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

/// What a lane has of a row before it is transposed: pairs of channels 8j + 2p of part g.
template <int D>
__device__ inline void load_row(const bfloat16* row, uint32_t (&to)[4]) {
  const int lane = int(threadIdx.x % 32), g = lane / 4, p = lane % 4;
#pragma unroll
  for (int j = 0; j < 4; ++j)
    to[j] = __ldg(reinterpret_cast<const uint32_t*>(row + Parts<D>::channel(g) + 8 * j + 2 * p));
}

/// Adds a row.
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
  const int lane = int(threadIdx.x % 32);
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

template <int kTile, int kInputs>
inline constexpr int kWarpBytes =
    EdgeRows<kTile>::kBytes + kTile* kInputs* kTermStride + TileRows<kTile, kInputs>::kBytes;

template <int D, int kWarps, int kTile>
__global__ void __launch_bounds__(kWarps * 32, 1) forward_kernel(const SliceForward p) {
  using Edges = EdgeRows<kTile>;
  constexpr int kHeads = Parts<D>::kHeads;
  const int slice = int(blockIdx.x) % p.num_slices, channel = slice * kSliceChannels;
  SliceProblem in = p.in;
  in.q.data += channel, in.k.data += channel, in.v.data += channel;
  in.w_edge.data = in.w_edge.at(channel);
  if (in.b_edge) in.b_edge += channel;
  char* const memory = dynamic_shared<char>();
  const EdgeMatrix w(memory, in);
  char* const warp_memory = memory + kProjectionBytes + int(threadIdx.x / 32) * kWarpBytes<kTile, 1>;
  const EdgeTerms<D, kTile, 1> terms{warp_memory + Edges::kBytes};
  const TileRows<kTile, 1> rows{warp_memory + Edges::kBytes + terms.kBytes};
  __syncthreads();

  const int num_blocks = int(gridDim.x) / p.num_slices, stride = num_blocks * kWarps;
  const int first = int(blockIdx.x) / p.num_slices + int(threadIdx.x / 32) * num_blocks;
  if (first * kTile >= in.num_dst) return;
  const int lane = int(threadIdx.x % 32), g = lane / 4, c = lane % 4;
  const float scale = in.scale * kLog2E;
  const OwnParts own;
  Edges edges(in, in.k, in.v, warp_memory, first, stride);
  int pointers = tile_pointers<kTile>(in, first);
  const SliceRows<const bfloat16> inputs[1] = {in.q};
  rows.copy(inputs, first * kTile, in.num_dst);

  for (int tile = first; tile * kTile < in.num_dst; tile = next_tile(tile, stride)) {
    const int next_pointers = tile_pointers<kTile>(in, next_tile(tile, stride));
    rows.wait();
    terms.compute(w, rows);
    for (int x = 0; x < kTile; ++x) {
      const int i = tile * kTile + x;
      if (i >= in.num_dst) break;
      const int begin = __shfl_sync(kFullMask, pointers, x), end = __shfl_sync(kFullMask, pointers, x + 1);
      RowOperand q;
      q.load<D>(rows.at(x), rows.at(x));
      if (x + 1 == kTile) rows.copy(inputs, next_tile(tile, stride) * kTile, in.num_dst);
      uint32_t r[4];
      if (p.r.data) load_row<D>(p.r.at(i) + channel, r);

      float sums[2][4] = {}, mean[2][4] = {}, largest = -INFINITY, total = 0;
      for (int edge = begin; edge < end; edge += kStep) {
        edges.wait();
        const EdgeAttributes attributes(edges.attributes());
        float score[2];
        compute_scores<D, 0>(own, q, edges.first(), terms, x, attributes, score);
        edges.release_first();
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
        const Weights<1> weights(score);
        total = fmaf(total, correction, low_half(weights.pairs[0]) + high_half(weights.pairs[0]));
        weights.add_attributes(attributes, mean);
        edges.wait();
        for_rows<D>(edges.second(), [&](int part, const uint32_t(&v)[4]) { add_part(own, weights, part, v, sums); });
        edges.release_second();
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
      if (p.r.data) add_row(r, sums);
      store_sums<D>(sums, terms.at(x), p.o.at(i) + channel);
      if (c == 0 && g < kHeads) p.stats.at(i)[slice * kHeads + g] = log_total;
    }
    pointers = next_pointers;
  }
}

template <int D, int kWarps, int kTile>
__global__ void __launch_bounds__(kWarps * 32, 1) backward_destinations_kernel(const SliceBackward p) {
  using Edges = EdgeRows<kTile>;
  constexpr int kHeads = Parts<D>::kHeads;
  const SliceProblem& in = p.in;
  char* const memory = dynamic_shared<char>();
  const EdgeMatrix w(memory, in);
  char* const warp_memory = memory + kProjectionBytes + int(threadIdx.x / 32) * kWarpBytes<kTile, 2>;
  const EdgeTerms<D, kTile, 2> terms{warp_memory + Edges::kBytes};
  const TileRows<kTile, 2> rows{warp_memory + Edges::kBytes + terms.kBytes};
  __syncthreads();

  const int first = int(blockIdx.x + threadIdx.x / 32 * gridDim.x), stride = int(gridDim.x) * kWarps;
  if (first * kTile >= in.num_dst) return;
  const int lane = int(threadIdx.x % 32), g = lane / 4, c = lane % 4;
  const float scale = in.scale * kLog2E;
  const OwnParts own;
  Edges edges(in, in.v, in.k, warp_memory, first, stride);
  int pointers = tile_pointers<kTile>(in, first);
  const SliceRows<const bfloat16> inputs[2] = {in.q, p.d_o};
  rows.copy(inputs, first * kTile, in.num_dst);
  float next_stats = p.stats.at(first * kTile)[Parts<D>::head(g)];

  // Of the gradient of attributes this lane has slots g and g + 8 of the edges 2c and 2c + 1 of a step.
  const auto for_gradients = [&](int edge, int end, auto&& f) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = g + e / 2 * 8 - p.first_column, m = edge + 2 * c + e % 2;
      if (column >= 0 && column < p.num_columns && m < end) f(e, p.d_attributes.at(m) + column);
    }
  };
  // The weights of part g, if it stands for a head, of the edges 2c and 2c + 1.
  const auto for_weights = [&](int edge, int end, auto&& f) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int m = edge + 2 * c + e;
      if (g < kHeads && m < end) f(e, p.edge_weights + int64_t(m) * in.num_heads + g);
    }
  };

  for (int tile = first; tile * kTile < in.num_dst; tile = next_tile(tile, stride)) {
    const int next_pointers = tile_pointers<kTile>(in, next_tile(tile, stride));
    rows.wait();
    terms.compute(w, rows);
    for (int x = 0; x < kTile; ++x) {
      const int i = tile * kTile + x;
      if (i >= in.num_dst) break;
      const int begin = __shfl_sync(kFullMask, pointers, x), end = __shfl_sync(kFullMask, pointers, x + 1);
      RowOperand vectors;  // q and d_o
      vectors.load<D>(rows.at(x), rows.at(kTile + x));
      if (x + 1 == kTile) rows.copy(inputs, next_tile(tile, stride) * kTile, in.num_dst);
      const float stats = next_stats * kLog2E;
      const int next = x + 1 < kTile ? i + 1 : next_tile(tile, stride) * kTile;
      next_stats = p.stats.at(next < in.num_dst ? next : i)[Parts<D>::head(g)];
      const bool one_step = end - begin <= kStep;

      // Sums of alpha (p - b) k and, for the mean of p that is known only at the end, of alpha k; the same of a. b is
      // the mean of p over the first step, so that with one step the second sum is not needed.
      float sums_p[2][4] = {}, sums[2][4] = {}, mean_p[2][4] = {}, mean[2][4] = {};
      float total = 0, total_p = 0, base = 0, weight[2] = {}, product[2] = {};
      for (int edge = begin; edge < end; edge += kStep) {
        edges.wait();
        const EdgeAttributes attributes(edges.attributes());
        compute_scores<D, 1>(own, vectors, edges.first(), terms, kTile + x, attributes, product);
        edges.release_first();
        edges.wait();
        compute_scores<D, 0>(own, vectors, edges.second(), terms, x, attributes, weight);
        float sum = 0, sum_p = 0, weight_p[2];
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          weight[u] = edge + 2 * c + u < end ? fast_exp2(fmaf(weight[u], scale, -stats)) : 0.f;
          sum += weight[u];
          sum_p = fmaf(weight[u], product[u], sum_p);
        }
        if (edge == begin) {
          const float all = sum_lanes<4>(sum), all_p = sum_lanes<4>(sum_p);
          base = all > 1e-20f ? all_p / all : 0.f;
        }
#pragma unroll
        for (int u = 0; u < 2; ++u) weight_p[u] = weight[u] * (product[u] - base);
        total += sum;
        total_p += weight_p[0] + weight_p[1];
        const Weights<2> by_weight(weight), by_weight_p(weight_p);
        by_weight.add_attributes(attributes, mean);
        by_weight_p.add_attributes(attributes, mean_p);
        if (one_step) {
          for_rows<D>(edges.second(),
                      [&](int part, const uint32_t(&k)[4]) { add_part(own, by_weight_p, part, k, sums_p); });
        } else {
          for_rows<D>(edges.second(), [&](int part, const uint32_t(&k)[4]) {
            add_part(own, by_weight_p, part, k, sums_p);
            add_part(own, by_weight, part, k, sums);
          });
          for_weights(edge, end, [&](int e, float2* at) { *at = make_float2(weight[e], product[e]); });
        }
        edges.release_second();
      }

      float d_attributes[4] = {};
      for_gradients(begin, end, [&](int e, float* at) { d_attributes[e] = *at; });
      if (!one_step) for_weights(begin, end, [&](int e, float2* at) { weight[e] = at->x, product[e] = at->y; });
      float inverse = 0, average = 0;
      if (begin < end) {
        inverse = fast_reciprocal(sum_lanes<4>(total));
        average = sum_lanes<4>(total_p) * inverse;
        const float factor = in.scale * inverse;
        if (!one_step) {
          const ByColumn averages(average);
#pragma unroll
          for (int t = 0; t < 2; ++t)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums_p[t][e] = fmaf(-averages.values[e % 2], sums[t][e], sums_p[t][e]);
        }
        scale_sums(sums_p, ByColumn(factor));
        uint32_t means[2], d_means[2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float m[2], d_m[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            m[e] = mean[n][e] + mean[n][2 + e];
            d_m[e] = factor * fmaf(-average, m[e], mean_p[n][e] + mean_p[n][2 + e]);
          }
          means[n] = pack_bf16(m[0] * inverse, m[1] * inverse);
          d_means[n] = pack_bf16(d_m[0], d_m[1]);
        }
        w.add_from_slots<D>(own, d_means, sums_p);
        if (p.mean && g < kHeads) {
          const int64_t at = (int64_t(i) * in.num_heads + g) * kSlots + 2 * c;
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            *reinterpret_cast<uint32_t*>(p.mean + at + 8 * n) = means[n];
            *reinterpret_cast<uint32_t*>(p.d_mean + at + 8 * n) = d_means[n];
          }
        }
      } else if (p.mean && lane < kHeads * kSlots / 8) {
        const int64_t at = int64_t(i) * in.num_heads * kSlots + lane * 8;
        *reinterpret_cast<uint4*>(p.mean + at) = make_uint4(0, 0, 0, 0);
        *reinterpret_cast<uint4*>(p.d_mean + at) = make_uint4(0, 0, 0, 0);
      }

      // alpha and scale * dS, for the source pass and for the gradient of the attributes.
      uint32_t g_terms[4], q_terms[4];
      terms.load_transposed(kTile + x, g_terms);
      terms.load_transposed(x, q_terms);
      for (int edge = begin; edge < end; edge += kStep) {
        float alpha[2], d_score[2], added[4];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const bool valid = edge + 2 * c + e < end;
          alpha[e] = valid ? weight[e] * inverse : 0.f;
          d_score[e] = valid ? in.scale * alpha[e] * (product[e] - base - average) : 0.f;
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) added[e] = d_attributes[e];
        if (edge + kStep < end) {
          for_weights(edge + kStep, end, [&](int e, float2* at) { weight[e] = at->x, product[e] = at->y; });
          for_gradients(edge + kStep, end, [&](int e, float* at) { d_attributes[e] = *at; });
        }
        for_weights(edge, end, [&](int e, float2* at) { *at = make_float2(alpha[e], d_score[e]); });
        if (p.num_columns == 0) continue;
        const auto add_terms = [&](const uint32_t(&x)[4], const Weights<2>& weights) {
          const uint32_t upper = transpose_matrix(weights.pairs[0]), lower = transpose_matrix(weights.pairs[1]);
          mma_bf16(added, x[0], x[1], upper);
          mma_bf16(added, x[2], x[3], upper);
          mma_bf16(added, x[0], x[1], lower);
        };
        add_terms(g_terms, Weights<2>(alpha));
        add_terms(q_terms, Weights<2>(d_score));
        for_gradients(edge, end, [&](int e, float* at) { *at = added[e]; });
      }
      store_sums<D>(sums_p, terms.at(x), p.d_q.at(i));
    }
    pointers = next_pointers;
  }
}

}  // namespace boreas::cuda::graph_attention::tiles
