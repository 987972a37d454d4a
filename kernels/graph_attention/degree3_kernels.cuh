// Graph attention where exactly three edges end in every destination: edge m = 3 i + s ends in i.
//
// A tile is up to 16 consecutive destinations that have at most 16 different sources among them, the union. The scores
// of a tile and a head are then a dense 16 x 16 product of matrices, of which three elements a row are wanted; sums
// over edges are products with a 16 x 16 matrix that has three elements a row. Rows of q, k and v come as a whole into
// shared memory, those of k and v once a tile.
//
// A block has a warp a head, which computes, and a warp a stage of a ring in shared memory. The warp of a stage finds
// the unions of its tiles, starts the copies of their rows, and takes away what the heads leave for it. Each stage has
// two barriers: `loaded` (the rows are there) and `computed` (all heads have done their part). A tile without
// destinations ends the work of a stage. A launch computes a slice of the heads, at most kMostChannels channels.
//
// In a stage, the columns of a head belong to the warp of that head while it computes: results, and values on their way
// between lanes, go where inputs were that are no longer needed. Rows beyond the destinations or sources of a tile hold
// finite values of earlier ones; their weights are zero.
//
// Lane 4g + p of a computing warp owns destinations g and g + 8 of the tile (index f), and of the 16 slots for the
// attributes of an edge 2p, 2p + 1, 2p + 8, 2p + 9, as in the fragments of matrix.cuh. Slots hold the attributes,
// rotated so that those with a gradient come first; the last one stands for the bias.
#pragma once

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/matrix.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/graph_attention/degree3.h"

namespace boreas::cuda::degree3 {

inline constexpr int kDegree = 3, kTileEdges = kDegree * kTile, kTileSources = 16, kBias = kSlots - 1;

inline constexpr int kMostStages = 4;
template <int D>
inline constexpr int kMostThreads = (kMostChannels / D + kMostStages) * 32;

template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
  __device__ T* at(int64_t row) const { return data + row * stride; }
};

/// What both directions read. Channels and heads are those of the slice.
struct Inputs {
  const int32_t* src_of;
  int64_t num_dst;
  Rows<const bfloat16> q, k, v, attributes, w_edge;
  const bfloat16* b_edge;  // may be null
  int num_attributes, first_gradient, num_heads, num_stages;
  float scale;

  __device__ int attribute_of(int slot) const {
    const int column = slot + first_gradient;
    return column < num_attributes ? column : column - num_attributes;
  }
  __device__ uint32_t weight_bits(int channel, int slot) const {
    if (slot < num_attributes) return w_edge.at(channel)[attribute_of(slot)].bits;
    return slot == kBias && b_edge ? b_edge[channel].bits : 0;
  }
};

struct Forward {
  Inputs in;
  Rows<const bfloat16> second;  // r; may be null
  Rows<bfloat16> result;        // o
  Rows<float> stats;
};

struct Backward {
  Inputs in;
  Rows<const bfloat16> second;  // d_o
  Rows<bfloat16> result;        // d_q
  Rows<uint32_t> weights;       // [M, H]: alpha in the lower half, scale * dS in the upper
  Rows<float> d_attributes;     // may be null
  int num_gradients;            // its columns
  float* partials;              // [blocks, kSlots, channels]
};

// --- shared memory: barriers, then the stages; a stage is a header, small results, rows of q, second, k and v ---

struct alignas(16) TileHeader {
  int32_t begin, count;
  uint2 attributes[kTileEdges * kSlots / 4];  // [edge, p]: the slots of lane p
  uint4 columns[kDegree][32];                 // [s, lane]: see scatter_weights
  uint8_t offset_of[kTileEdges];              // bytes to the edge's source, in a row of one float a source
  uint4 raw[kTileEdges * 2];                  // of the warp that loads: rows of attributes,
  uint32_t keys[kTileEdges];                  // and what tells sources apart
};

inline constexpr int kBarrierBytes = 128;
inline constexpr int kWeightsStride = 50;  // words of a head: neither side of the staging has bank conflicts

template <class P>
inline constexpr bool kIsBackward = std::is_same_v<P, Backward>;

template <class P>
struct Layout {
  int row_stride, results, rows, stage;  // in bytes

  /// Rows are 16 bytes longer than their values, so that eight of them lie in different banks.
  __host__ __device__ constexpr Layout(int num_heads, int head_size, bool has_second)
      : row_stride(num_heads * head_size * 2 + 16),
        results(int(sizeof(TileHeader))),
        rows(results + (kIsBackward<P> ? num_heads * kWeightsStride : kTile * (num_heads + 1)) * 4 / 16 * 16 + 16),
        stage(rows + (has_second ? 4 : 3) * kTile * row_stride) {}
};

struct Barriers {
  SharedBarrier loaded[kMostStages], computed[kMostStages];
};

/// The stages as one warp goes through them.
template <class P>
struct Ring {
  char* const shared;
  const Layout<P> layout;
  const int num_stages;
  int stage = 0, phase = 0;

  __device__ Ring(char* shared, const P& p, int head_size)
      : shared(shared), layout(p.in.num_heads, head_size, p.second.data), num_stages(p.in.num_stages) {}
  __device__ Barriers& barriers() const { return *reinterpret_cast<Barriers*>(shared); }
  __device__ char* at() const { return shared + kBarrierBytes + stage * layout.stage; }
  __device__ TileHeader& header() const { return *reinterpret_cast<TileHeader*>(at()); }
  __device__ char* results() const { return at() + layout.results; }
  /// Array 0 is q; k and v are the last two.
  __device__ char* rows(int array) const { return at() + layout.rows + array * kTile * layout.row_stride; }
  /// Calls f at every tile, once it is loaded: those of the stages in turns.
  template <class F>
  __device__ void for_tiles(F&& f) {
    for (uint32_t live = (1u << num_stages) - 1; live != 0; ++stage) {
      if (stage == num_stages) {
        stage = 0;
        phase ^= 1;
      }
      if ((live >> stage & 1) == 0) continue;
      wait_phase(&barriers().loaded[stage], phase);
      if (header().count > 0)
        f();
      else
        live &= ~(1u << stage);
    }
  }
};

// --- the warp of a stage: what it loads ---

__device__ inline int bits_up_to(uint32_t low, uint32_t high, int last) {
  return last < 32 ? __popc(low & ((2u << last) - 1)) : __popc(low) + __popc(high & ((2u << (last - 32)) - 1));
}

/// What a lane loads for a tile: the sources of its edges, lane and lane + 32, with those of the two edges before, and
/// halves of rows of attributes.
struct TileInputs {
  int64_t begin;
  int num_edges;  // up to the end of the block of 16 destinations
  int32_t src[2][kDegree];
  uint4 raw[kTileEdges * 2 / 32];

  __device__ TileInputs(const Inputs& in, int64_t begin, int lane) : begin(begin) {
    const int64_t end = min((begin / kTile + 1) * kTile, in.num_dst);
    num_edges = begin < end ? int(end - begin) * kDegree : 0;
#pragma unroll
    for (int u = 0; u < 2; ++u)
#pragma unroll
      for (int before = 0; before < kDegree; ++before) {
        const int edge = lane + 32 * u - before;
        src[u][before] = edge >= 0 && edge < num_edges ? in.src_of[begin * kDegree + edge] : -1;
      }
#pragma unroll
    for (int u = 0; u < kTileEdges * 2 / 32; ++u) {
      const int edge = lane / 2 + 16 * u, column = lane % 2 * 8;
      raw[u] = make_uint4(0, 0, 0, 0);
      if (edge < num_edges && column < in.num_attributes)
        raw[u] = *reinterpret_cast<const uint4*>(in.attributes.at(begin * kDegree + edge) + column);
    }
  }
};

/// The union of the sources of a tile's edges, in order of their first edge. Edges of one destination never share a
/// place in the union, also if they share a source.
struct Union {
  uint32_t leads[2];  // edges that are the first with their source, as bits
  int first[2];       // edge that leads for an edge of this lane

  __device__ Union(const TileInputs& tile, uint32_t* keys, int lane) {
    uint32_t key[2];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int edge = lane + 32 * u, s = edge % kDegree;
      const int32_t* const src = tile.src[u];
      const int repeats = (s >= 1 && src[1] == src[0]) + (s == 2 && src[2] == src[0]);
      key[u] = edge < tile.num_edges ? uint32_t(src[0]) | uint32_t(repeats) << 30 : ~uint32_t(edge);
      if (edge < kTileEdges) keys[edge] = key[u];
      first[u] = edge;
    }
    __syncwarp();
#pragma unroll
    for (int quad = kTileEdges / 4 - 1; quad >= 0; --quad) {
      const uint4 four = *reinterpret_cast<const uint4*>(keys + 4 * quad);
      const uint32_t theirs[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int i = 3; i >= 0; --i)
#pragma unroll
        for (int u = quad / 8; u < 2; ++u)
          if (theirs[i] == key[u]) first[u] = 4 * quad + i;  // the last one found is the first of all
    }
#pragma unroll
    for (int u = 0; u < 2; ++u)
      leads[u] = __ballot_sync(kFullMask, first[u] == lane + 32 * u && lane + 32 * u < tile.num_edges);
  }
  /// How many sources the edges up to and including this one have.
  __device__ int size_up_to(int edge) const { return bits_up_to(leads[0], leads[1], edge); }
};

// --- the warp of a stage: what it takes away ---

/// Calls f(i, h) for i < count and all heads, consecutive heads in consecutive lanes.
template <class F>
__device__ void for_heads(int count, int num_heads, int lane, F&& f) {
  if (32 % num_heads == 0) {
#pragma unroll 8
    for (int i = lane / num_heads; i < count; i += 32 / num_heads) f(i, lane % num_heads);
    return;
  }
  for (int i = lane / num_heads, h = lane % num_heads; i < count;) {
    f(i, h);
    for (h += 32; h >= num_heads; h -= num_heads) ++i;
  }
}

/// Takes the results of the last tile away, once they are there.
template <int D>
__device__ void drain_tile(const Forward& p, const Ring<Forward>& ring, int lane) {
  const int num_heads = p.in.num_heads;
  const int64_t begin = ring.header().begin;
  const int count = ring.header().count;
  wait_phase(&ring.barriers().computed[ring.stage], ring.phase ^ 1);
  const float* const stats = reinterpret_cast<const float*>(ring.results());
  for_heads(count, num_heads, lane, [&](int i, int h) { p.stats.at(begin + i)[h] = stats[i * (num_heads + 1) + h]; });
  __syncwarp();
}

template <int D>
__device__ void drain_tile(const Backward& p, const Ring<Backward>& ring, int lane) {
  constexpr int kItems = kTileEdges * kGradientSlots / 4 / 32;
  const int num_heads = p.in.num_heads, row_stride = ring.layout.row_stride;
  const bool vectors = p.num_gradients == kGradientSlots && p.d_attributes.stride % 4 == 0 &&
                       reinterpret_cast<uintptr_t>(p.d_attributes.data) % 16 == 0;
  const int64_t first_edge = int64_t(ring.header().begin) * kDegree;
  const int count = ring.header().count;

  // Two edges lie in a row, as compute_tiles places them; a lane adds four slots of an edge over the heads.
  float4 total[kItems];
  int edge[kItems];
  const int row = lane / 8 + lane % 8 / 4 * 4, half = lane % 2 * 4;
#pragma unroll
  for (int u = 0; u < kItems; ++u) {
    const int place = 2 * u + lane % 4 / 2;
    edge[u] = (row + place / kDegree * 8) * kDegree + place % kDegree;
    total[u] = make_float4(0, 0, 0, 0);
    if (edge[u] >= count * kDegree || !p.d_attributes.data) continue;
    const float* const from = p.d_attributes.at(first_edge + edge[u]) + half;
    if (vectors) {
      total[u] = *reinterpret_cast<const float4*>(from);
    } else {
      if (half + 0 < p.num_gradients) total[u].x = from[0];
      if (half + 1 < p.num_gradients) total[u].y = from[1];
      if (half + 2 < p.num_gradients) total[u].z = from[2];
      if (half + 3 < p.num_gradients) total[u].w = from[3];
    }
  }

  wait_phase(&ring.barriers().computed[ring.stage], ring.phase ^ 1);
  const uint32_t* const weights = reinterpret_cast<const uint32_t*>(ring.results());
  for_heads(count * kDegree, num_heads, lane,
            [&](int e, int h) { p.weights.at(first_edge + e)[h] = weights[h * kWeightsStride + e]; });
  if (p.d_attributes.data) {
    for (int h = 0; h < num_heads; ++h)
#pragma unroll
      for (int u = 0; u < kItems; ++u) {
        const float4 x =
            *reinterpret_cast<const float4*>(ring.rows(0) + (row + 8 * u) * row_stride + h * D * 2 + lane % 4 * 16);
        total[u].x += x.x;
        total[u].y += x.y;
        total[u].z += x.z;
        total[u].w += x.w;
      }
#pragma unroll
    for (int u = 0; u < kItems; ++u) {
      if (edge[u] >= count * kDegree) continue;
      float* const to = p.d_attributes.at(first_edge + edge[u]) + half;
      if (vectors) {
        *reinterpret_cast<float4*>(to) = total[u];
      } else {
        if (half + 0 < p.num_gradients) to[0] = total[u].x;
        if (half + 1 < p.num_gradients) to[1] = total[u].y;
        if (half + 2 < p.num_gradients) to[2] = total[u].z;
        if (half + 3 < p.num_gradients) to[3] = total[u].w;
      }
    }
  }
  __syncwarp();
}

template <int D, class P>
__device__ void serve_stage(const P& p, Ring<P> ring, int stage, int lane) {
  const Inputs& in = p.in;
  ring.stage = stage;
  TileHeader& header = ring.header();
  bool is_first = true;
  int bytes_to[4];  // the slots of lane p of the computing warps, in a row of attributes
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int slot = lane % 4 * 2 + i % 2 + i / 2 * 8;
    bytes_to[i] = slot < in.num_attributes ? in.attribute_of(slot) * 2 : -1;
  }
  const int bytes = in.num_heads * D * 2, row_stride = ring.layout.row_stride;
  const bool has_second = p.second.data != nullptr;
  for (TileInputs tile(in, (int64_t(stage) * gridDim.x + blockIdx.x) * kTile, lane); tile.num_edges > 0;) {
#pragma unroll
    for (int u = 0; u < kTileEdges * 2 / 32; ++u) header.raw[lane + 32 * u] = tile.raw[u];
    const Union sources(tile, header.keys, lane);
    const bool fits = lane * kDegree < tile.num_edges && sources.size_up_to(lane * kDegree + 2) <= kTileSources;
    const int count = __popc(__ballot_sync(kFullMask, fits)), num_edges = count * kDegree;
    const int64_t begin = tile.begin, end = begin + count;
    const bool ends_block = num_edges == tile.num_edges;
    const TileInputs next(in, ends_block ? (begin / kTile + in.num_stages * gridDim.x) * kTile : end, lane);

    if (!is_first) drain_tile<D>(p, ring, lane);
    is_first = false;
    // Lanes below 16 copy rows of q, the others rows of the second array; leaders copy their sources. Backward sums
    // over all rows of q and d_o, so it needs finite values in each.
    const int row = lane % kTile, num_copied = kIsBackward<P> ? kTile : count;
    const bool copies_row = row < num_copied && (lane < kTile || has_second);
    bool leads[2];
    int num_copies = copies_row;
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int edge = lane + 32 * u;
      leads[u] = edge < num_edges && sources.first[u] == edge;
      num_copies += 2 * leads[u];
    }
    SharedBarrier* const loaded = &ring.barriers().loaded[stage];
    if (copies_row) {
      const Rows<const bfloat16>& from = lane < kTile ? in.q : p.second;
      load_bulk(ring.rows(lane / kTile) + row * row_stride, from.at(begin + min(row, count - 1)), bytes, loaded);
    }
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      if (!leads[u]) continue;
      const int offset = (sources.size_up_to(lane + 32 * u) - 1) * row_stride;
      load_bulk(ring.rows(1 + has_second) + offset, in.k.at(tile.src[u][0]), bytes, loaded);
      load_bulk(ring.rows(2 + has_second) + offset, in.v.at(tile.src[u][0]), bytes, loaded);
    }
    if (lane == 0) {
      header.begin = int32_t(begin);
      header.count = count;
    }
#pragma unroll
    for (int u = 0; u < kTileEdges * kSlots / 4 / 32; ++u) {
      const char* const row = reinterpret_cast<const char*>(header.raw + (lane / 4 + 8 * u) * 2);
      uint32_t x[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = bytes_to[i] < 0 ? 0 : *reinterpret_cast<const uint16_t*>(row + bytes_to[i]);
      header.attributes[lane + 32 * u] = make_uint2(x[0] | x[1] << 16, x[2] | x[3] << 16);
    }
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const int edge = lane + 32 * u;
      if (edge < kTileEdges)
        header.offset_of[edge] = edge < num_edges ? uint8_t((sources.size_up_to(sources.first[u]) - 1) * 4) : 0;
    }
    __syncwarp();
#pragma unroll
    for (int s = 0; s < kDegree; ++s) {
      const auto mask = [&](int f, int half) {
        const int column = header.offset_of[(lane / 4 + 8 * f) * kDegree + s] / 4 - 8 * half - 2 * (lane % 4);
        return column == 0 ? 0x0000ffffu : column == 1 ? 0xffff0000u : 0u;
      };
      header.columns[s][lane] = make_uint4(mask(0, 0), mask(1, 0), mask(0, 1), mask(1, 1));
    }
    arrive_expecting(loaded, num_copies * bytes);
    ring.phase ^= 1;
    tile = next;
  }
  if (!is_first) drain_tile<D>(p, ring, lane);
  if (lane == 0) header.count = 0;
  arrive(&ring.barriers().loaded[stage]);
}

// --- the warps that compute ---

/// Values of the destinations g and g + 8 of a lane.
using PerEdge = float[2][kDegree];
using PerSlot = float[2][4];

/// The fragments of W_h that a lane needs.
template <int D>
struct EdgeWeights {
  uint32_t to_slots[D / 16][2][2];  // [channels, slots] as b: 16 channels, 8 slots
  uint32_t to_channels[D / 8][2];   // [slots, channels] as b: 16 slots, 8 channels

  __device__ EdgeWeights(const Inputs& in, int head, int lane) {
    const int g = lane / 4, p = lane % 4;
    const auto pair = [&](int c0, int s0, int c1, int s1) {
      return in.weight_bits(head * D + c0, s0) | in.weight_bits(head * D + c1, s1) << 16;
    };
#pragma unroll
    for (int i = 0; i < D / 16; ++i)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int channel = 16 * i + 8 * half + 2 * p, slot = 8 * n + g;
          to_slots[i][n][half] = pair(channel, slot, channel + 1, slot);
        }
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int channel = 8 * j + g, slot = 8 * half + 2 * p;
        to_channels[j][half] = pair(channel, slot, channel, slot + 1);
      }
  }
};

__device__ inline float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_half(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/// Where lane l points to in 16 rows of bf16 for the loads of four 8 x 8 matrices: rows 0-7 and 8-15 of 8 columns, then
/// of the next 8.
__device__ inline char* matrix_address(char* rows, int row_stride, int lane) {
  return rows + lane % 16 * row_stride + lane / 16 * 16;
}

/// The attributes of the edges of a lane's destinations.
struct Attributes {
  uint2 at[2][kDegree];

  __device__ Attributes(const TileHeader& header, int lane) {
#pragma unroll
    for (int f = 0; f < 2; ++f)
#pragma unroll
      for (int s = 0; s < kDegree; ++s) at[f][s] = header.attributes[((lane / 4 + 8 * f) * kDegree + s) * 4 + lane % 4];
  }
};

/// Of the products of all destinations with all sources, and of values of the destinations with attributes: those of
/// the edges, added up. Both are fragments c, [destinations, sources] and [destinations, slots].
__device__ inline void pick(const TileHeader& header, int lane, const Attributes& attributes,
                            const float (&products)[2][4], const float (&values)[2][4], PerEdge& picked) {
#pragma unroll
  for (int s = 0; s < kDegree; ++s) {
    const uint4 columns = header.columns[s][lane];
    const uint32_t mask[4] = {columns.x, columns.y, columns.z, columns.w};
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      uint32_t bits = 0;  // of the product, where this lane has it
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t low = mask[f + 2 * half] << 16, high = mask[f + 2 * half] & 0xffff0000u;
        bits |= __float_as_uint(products[half][2 * f]) & (low | low >> 16);
        bits |= __float_as_uint(products[half][2 * f + 1]) & (high | high >> 16);
      }
      const uint2 a = attributes.at[f][s];
      float term = fmaf(low_half(a.x), values[0][2 * f], __uint_as_float(bits));
      term = fmaf(high_half(a.x), values[0][2 * f + 1], term);
      term = fmaf(low_half(a.y), values[1][2 * f], term);
      term = fmaf(high_half(a.y), values[1][2 * f + 1], term);
      picked[f][s] = sum_lanes<4>(term);
    }
  }
}

/// Sums of the attributes of a destination's edges, times weights.
__device__ inline void sum_attributes(const Attributes& attributes, const PerEdge& weight, PerSlot& sum) {
#pragma unroll
  for (int f = 0; f < 2; ++f) {
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[f][k] = 0;
#pragma unroll
    for (int s = 0; s < kDegree; ++s) {
      const uint2 a = attributes.at[f][s];
      sum[f][0] = fmaf(low_half(a.x), weight[f][s], sum[f][0]);
      sum[f][1] = fmaf(high_half(a.x), weight[f][s], sum[f][1]);
      sum[f][2] = fmaf(low_half(a.y), weight[f][s], sum[f][2]);
      sum[f][3] = fmaf(high_half(a.y), weight[f][s], sum[f][3]);
    }
  }
}

/// The fragment a of [destinations, slots], rounded.
__device__ inline void round_sums(const PerSlot& values, uint32_t (&a)[4]) {
#pragma unroll
  for (int f = 0; f < 2; ++f)
#pragma unroll
    for (int half = 0; half < 2; ++half) a[f + 2 * half] = pack_bf16(values[f][2 * half], values[f][2 * half + 1]);
}

/// The fragments a of [destinations, sources] that have the weights of the edges, rounded, in the columns of their
/// sources, and in the second one what the rounding leaves.
template <int kParts>
__device__ inline void scatter_weights(const TileHeader& header, int lane, const PerEdge& weight,
                                       uint32_t (&a)[kParts][4]) {
#pragma unroll
  for (int s = 0; s < kDegree; ++s) {
    const uint4 columns = header.columns[s][lane];
    const uint32_t mask[4] = {columns.x, columns.y, columns.z, columns.w};
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      float rest = weight[f][s];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const uint32_t rounded = pack_bf16(rest, rest);
        rest -= low_half(rounded);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t masked = rounded & mask[f + 2 * half];
          a[part][f + 2 * half] = s == 0 ? masked : a[part][f + 2 * half] | masked;
        }
      }
    }
  }
}

/// Channels 16 i to 16 i + 15 of a product [destinations, sources] times rows, or [destinations, slots] times W_h^T.
__device__ inline void add_products(const uint32_t (&by_source)[4], const uint32_t (&x)[4], float (&out)[2][4]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) mma_bf16(out[n], by_source, x[2 * n], x[2 * n + 1]);
}
template <int D>
__device__ inline void add_products(const uint32_t (&by_slot)[4], const EdgeWeights<D>& w, int i, float (&out)[2][4]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) mma_bf16(out[n], by_slot, w.to_channels[2 * i + n][0], w.to_channels[2 * i + n][1]);
}

/// Channels 16 i to 16 i + 15 of a result, rounded, to its rows.
__device__ inline void store_result(const float (&result)[2][4], char* rows, int i) {
  uint32_t packed[4];
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int f = 0; f < 2; ++f) packed[2 * n + f] = pack_bf16(result[n][2 * f], result[n][2 * f + 1]);
  store_matrices(packed, rows + 32 * i);
}

/// A head's columns of the rows of a result to where they belong, 16 bytes a lane.
template <int D>
__device__ inline void store_rows(const char* rows, int row_stride, const Rows<bfloat16>& result, int64_t begin,
                                  int count, int head, int lane) {
  constexpr int kVectors = D / 8;
  __syncwarp();
#pragma unroll
  for (int u = 0; u < kTile * kVectors / 32; ++u) {
    const int row = (lane + 32 * u) / kVectors, vector = lane % kVectors;
    if (row < count)
      *reinterpret_cast<uint4*>(result.at(begin + row) + head * D + vector * 8) =
          *reinterpret_cast<const uint4*>(rows + row * row_stride + vector * 16);
  }
}

__device__ inline void zero(float (&x)[2][4]) {
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int k = 0; k < 4; ++k) x[n][k] = 0;
}

inline constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

/// Scores, in units of log 2 and not scaled to a maximum, to weights that sum to one.
__device__ inline void softmax(const PerEdge& score, PerEdge& weight, float (&log2_sum)[2]) {
#pragma unroll
  for (int f = 0; f < 2; ++f) {
    const float most = fmaxf(score[f][0], fmaxf(score[f][1], score[f][2]));
    float sum = 0;
#pragma unroll
    for (int s = 0; s < kDegree; ++s) {
      weight[f][s] = fast_exp2(score[f][s] - most);
      sum += weight[f][s];
    }
    const float inverse = __fdividef(1.f, sum);
#pragma unroll
    for (int s = 0; s < kDegree; ++s) weight[f][s] *= inverse;
    log2_sum[f] = most + __log2f(sum);
  }
}

/// Tells the warp of the stage that this head has done its part.
template <class P>
__device__ void hand_over(const Ring<P>& ring) {
  fence_bulk();
  arrive(&ring.barriers().computed[ring.stage]);
}

template <int D>
__device__ void compute_tiles(const Forward& p, Ring<Forward> ring, int head, int lane) {
  const EdgeWeights<D> w(p.in, head, lane);
  const int row_stride = ring.layout.row_stride, num_heads = p.in.num_heads;
  const bool has_second = p.second.data != nullptr;
  ring.for_tiles([&] {
    char* const q = ring.rows(0) + head * D * 2;
    char* const k = ring.rows(1 + has_second) + head * D * 2;
    char* const v = ring.rows(2 + has_second) + head * D * 2;
    char *const q_matrices = matrix_address(q, row_stride, lane), *const k_matrices =
                                                                      matrix_address(k, row_stride, lane);

    float q_edge[2][4], scores[2][4];
    zero(q_edge);
    zero(scores);
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      uint32_t a[4], b[4];
      load_matrices(a, q_matrices + 32 * i);
      load_matrices(b, k_matrices + 32 * i);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        mma_bf16(q_edge[n], a, w.to_slots[i][n][0], w.to_slots[i][n][1]);
        mma_bf16(scores[n], a, b[n], b[n + 2]);
      }
    }

    const Attributes attributes(ring.header(), lane);
    PerEdge score, alpha;
    pick(ring.header(), lane, attributes, scores, q_edge, score);
#pragma unroll
    for (int f = 0; f < 2; ++f)
#pragma unroll
      for (int s = 0; s < kDegree; ++s) score[f][s] *= p.in.scale * kLog2E;
    float log2_sum[2];
    softmax(score, alpha, log2_sum);
    if (lane % 4 < 2)
      reinterpret_cast<float*>(ring.results())[(lane / 4 + 8 * (lane % 4)) * (num_heads + 1) + head] =
          (lane % 4 == 0 ? log2_sum[0] : log2_sum[1]) * kLn2;

    PerSlot mean;
    sum_attributes(attributes, alpha, mean);
    if (lane % 4 == 3) mean[0][3] = mean[1][3] = 1;
    uint32_t by_source[1][4], by_slot[4];
    scatter_weights(ring.header(), lane, alpha, by_source);
    round_sums(mean, by_slot);
    const char* const v_matrices = matrix_address(v, row_stride, lane);
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      uint32_t x[4];
      load_matrices_transposed(x, v_matrices + 32 * i);
      float o[2][4];
      zero(o);
      add_products(by_source[0], x, o);
      add_products(by_slot, w, i, o);
      if (has_second) {
        const char* const r = ring.rows(1) + head * D * 2 + lane / 4 * row_stride + (16 * i + 2 * (lane % 4)) * 2;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int f = 0; f < 2; ++f) {
            const uint32_t pair = *reinterpret_cast<const uint32_t*>(r + 8 * f * row_stride + 16 * n);
            o[n][2 * f] += low_half(pair);
            o[n][2 * f + 1] += high_half(pair);
          }
      }
      store_result(o, q_matrices, i);
    }
    store_rows<D>(q, row_stride, p.result, ring.header().begin, ring.header().count, head, lane);
    hand_over(ring);
  });
}

template <int D>
__device__ void compute_tiles(const Backward& p, Ring<Backward> ring, int head, int lane) {
  const EdgeWeights<D> w(p.in, head, lane);
  const int row_stride = ring.layout.row_stride, g = lane / 4;
  float d_weights[D / 8][4];  // [slots, channels]
#pragma unroll
  for (int j = 0; j < D / 8; ++j)
#pragma unroll
    for (int k = 0; k < 4; ++k) d_weights[j][k] = 0;

  ring.for_tiles([&] {
    const int count = ring.header().count;
    char* const rows = ring.rows(0) + head * D * 2;
    const int array = kTile * row_stride;
    char* const q_matrices = matrix_address(rows, row_stride, lane);
    char *const g_matrices = q_matrices + array, *const k_matrices = g_matrices + array,
                *const v_matrices = k_matrices + array;

    float q_edge[2][4], g_edge[2][4], scores[2][4], products[2][4];
    zero(q_edge);
    zero(g_edge);
    zero(scores);
    zero(products);
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      uint32_t a[4], b[4];
      load_matrices(a, q_matrices + 32 * i);
      load_matrices(b, k_matrices + 32 * i);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        mma_bf16(q_edge[n], a, w.to_slots[i][n][0], w.to_slots[i][n][1]);
        mma_bf16(scores[n], a, b[n], b[n + 2]);
      }
      load_matrices(a, g_matrices + 32 * i);
      load_matrices(b, v_matrices + 32 * i);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        mma_bf16(g_edge[n], a, w.to_slots[i][n][0], w.to_slots[i][n][1]);
        mma_bf16(products[n], a, b[n], b[n + 2]);
      }
    }

    const Attributes attributes(ring.header(), lane);
    PerEdge score, product, alpha, d_score;
    pick(ring.header(), lane, attributes, scores, q_edge, score);
    pick(ring.header(), lane, attributes, products, g_edge, product);
#pragma unroll
    for (int f = 0; f < 2; ++f)
#pragma unroll
      for (int s = 0; s < kDegree; ++s) score[f][s] *= p.in.scale * kLog2E;
    float log2_sum[2];
    softmax(score, alpha, log2_sum);
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      float mean = 0;
#pragma unroll
      for (int s = 0; s < kDegree; ++s) mean = fmaf(alpha[f][s], product[f][s], mean);
      const bool exists = g + 8 * f < count;
#pragma unroll
      for (int s = 0; s < kDegree; ++s) {
        d_score[f][s] = exists ? p.in.scale * alpha[f][s] * (product[f][s] - mean) : 0.f;
        if (!exists) alpha[f][s] = 0;
      }
    }

    // What the edges need, before the weights are taken apart. A head's share of the attributes' gradients goes to the
    // rows of q and d_o, two edges a row, but these are still read.
    float2 d_attributes[2][kDegree];
#pragma unroll
    for (int f = 0; f < 2; ++f)
#pragma unroll
      for (int s = 0; s < kDegree; ++s)
        d_attributes[f][s] = make_float2(alpha[f][s] * g_edge[0][2 * f] + d_score[f][s] * q_edge[0][2 * f],
                                         alpha[f][s] * g_edge[0][2 * f + 1] + d_score[f][s] * q_edge[0][2 * f + 1]);
    uint32_t* const weights = reinterpret_cast<uint32_t*>(ring.results()) + head * kWeightsStride;
    if (lane % 4 < kDegree)
#pragma unroll
      for (int f = 0; f < 2; ++f)
        weights[(g + 8 * f) * kDegree + lane % 4] = lane % 4 == 0   ? pack_bf16(alpha[f][0], d_score[f][0])
                                                    : lane % 4 == 1 ? pack_bf16(alpha[f][1], d_score[f][1])
                                                                    : pack_bf16(alpha[f][2], d_score[f][2]);

    // d_W^T += mean^T g + d_mean^T q.
    PerSlot mean, d_mean;
    sum_attributes(attributes, alpha, mean);
    sum_attributes(attributes, d_score, d_mean);
    if (lane % 4 == 3) {
      mean[0][3] = g < count;
      mean[1][3] = g + 8 < count;
    }
    uint32_t by_slot[4], means[4], mean_t[4], by_slot_t[4];
    round_sums(d_mean, by_slot);
    round_sums(mean, means);
#pragma unroll
    for (int f = 0; f < 2; ++f)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mean_t[2 * f + half] = transpose_matrix(means[f + 2 * half]);
        by_slot_t[2 * f + half] = transpose_matrix(by_slot[f + 2 * half]);
      }
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      uint32_t b[4];
      load_matrices_transposed(b, g_matrices + 32 * i);
#pragma unroll
      for (int n = 0; n < 2; ++n) mma_bf16(d_weights[2 * i + n], mean_t, b[2 * n], b[2 * n + 1]);
      load_matrices_transposed(b, q_matrices + 32 * i);
#pragma unroll
      for (int n = 0; n < 2; ++n) mma_bf16(d_weights[2 * i + n], by_slot_t, b[2 * n], b[2 * n + 1]);
    }

    // dS sums to zero over the edges; rounding it once would leave a share of what neighbouring keys have in common.
    uint32_t by_source[2][4];
    scatter_weights(ring.header(), lane, d_score, by_source);
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      uint32_t x[4];
      load_matrices_transposed(x, k_matrices + 32 * i);
      float d_q[2][4];
      zero(d_q);
      add_products(by_source[0], x, d_q);
      add_products(by_source[1], x, d_q);
      add_products(by_slot, w, i, d_q);
      __syncwarp();
      store_result(d_q, k_matrices, i);
    }
    store_rows<D>(rows + 2 * array, row_stride, p.result, ring.header().begin, count, head, lane);
#pragma unroll
    for (int f = 0; f < 2; ++f)
#pragma unroll
      for (int s = 0; s < kDegree; ++s) {
        const int place = 3 * f + s;
        *reinterpret_cast<float2*>(rows + (g + place / 2 * 8) * row_stride + place % 2 * kGradientSlots * 4 +
                                   lane % 4 * 8) = d_attributes[f][s];
      }
    hand_over(ring);
  });

  const int num_channels = p.in.num_heads * D;
  float* const partial = p.partials + int64_t(blockIdx.x) * kSlots * num_channels + head * D;
#pragma unroll
  for (int j = 0; j < D / 8; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<float2*>(partial + (g + 8 * half) * num_channels + 8 * j + 2 * (lane % 4)) =
          make_float2(d_weights[j][2 * half], d_weights[j][2 * half + 1]);
}

// --- kernels ---

/// A warp a head and a warp a stage.
template <int D, class P>
__global__ void __launch_bounds__(kMostThreads<D>, 1) attend(P p) {
  char* const shared = dynamic_shared<char>();
  Ring<P> ring(shared, p, D);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, num_heads = p.in.num_heads;
  if (threadIdx.x == 0) {
    for (int s = 0; s < ring.num_stages; ++s) {
      init_barrier(&ring.barriers().loaded[s], 32);
      init_barrier(&ring.barriers().computed[s], 32 * num_heads);
    }
    publish_barriers();
  }
  const int bytes = ring.num_stages * ring.layout.stage;
  for (int offset = threadIdx.x * 16; offset < bytes; offset += blockDim.x * 16)
    *reinterpret_cast<uint4*>(shared + kBarrierBytes + offset) = make_uint4(0, 0, 0, 0);
  fence_bulk();
  __syncthreads();
  if (warp < num_heads)
    compute_tiles<D>(p, ring, warp, lane);
  else
    serve_stage<D>(p, ring, warp - num_heads, lane);
}

/// d_w_edge and d_b_edge += the sums of the blocks' partial sums. A block of kSumColumns x kSumRows threads owns
/// kSumColumns channels of slot blockIdx.y; row r of threads adds partial sums r, r + kSumRows, ...; then these are
/// added in order.
inline constexpr int kSumColumns = 32, kSumRows = 8;

static __global__ void add_weight_gradients(Inputs in, const float* partials, int num_partials, int num_channels,
                                            Rows<float> d_w_edge, float* d_b_edge) {
  __shared__ float sums[kSumRows][kSumColumns];
  const int channel = blockIdx.x * kSumColumns + threadIdx.x, slot = blockIdx.y;
  float sum = 0;
  if (channel < num_channels)
    for (int b = threadIdx.y; b < num_partials; b += kSumRows)
      sum += partials[(int64_t(b) * kSlots + slot) * num_channels + channel];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || channel >= num_channels) return;
  for (int r = 1; r < kSumRows; ++r) sum += sums[r][threadIdx.x];
  if (slot < in.num_attributes && d_w_edge.data) d_w_edge.at(channel)[in.attribute_of(slot)] += sum;
  if (slot == kBias && d_b_edge) d_b_edge[channel] += sum;
}

}  // namespace boreas::cuda::degree3
