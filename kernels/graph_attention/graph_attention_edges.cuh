// How a warp comes by the edges of its destinations: their rows of k and v and their attributes. Both ways hand out
// kStep edges at a time, for all edges of a slice of heads of a destination before the next slice, and all slices of a
// destination before the next destination. What bounds attention on graphs is the memory that is in flight.
#pragma once

#include "kernels/graph_attention/graph_attention_layout.cuh"

namespace boreas::cuda::graph_attention {

/// Edges into a destination.
struct EdgeRange {
  int begin = 0, degree = 0;

  template <class T>
  __device__ static EdgeRange of(const Problem<T>& in, unsigned destination) {
    if (destination >= unsigned(in.num_dst)) return {};
    const int begin = int(in.dst_ptr[destination]);
    return {begin, int(in.dst_ptr[destination + 1]) - begin};
  }
  /// The sources of the edges first .. first + 32, one a lane.
  template <class T>
  __device__ int sources(const Problem<T>& in, int first) const {
    const int edge = first + int(threadIdx.x) % 32;
    return edge < degree ? in.src_of[begin + edge] : 0;
  }
};

/// Reads the rows of kStep edges into registers when they are asked for, all before the first is used.
template <class L, int step>
class DirectEdges {
  using T = typename L::T;
  static_assert(32 % step == 0);
  const Problem<T>& in_;
  uint32_t masks_[Attributes<L>::kWords];
  int sources_ = 0;
  Packed<T, L::kWidth> k_[step][L::kVectors], v_[step][L::kVectors];
  Attributes<L> attributes_[step];

 public:
  static constexpr int kStep = step, kSharedBytes = 0;

  /// For destinations first, first + stride, ...; `memory`: kSharedBytes of the warp.
  __device__ DirectEdges(const Problem<T>& in, char*, unsigned, unsigned) : in_(in) {
    Attributes<L>::make_masks(threadIdx.x % L::kLanes, in.num_attributes, masks_);
  }

  /// Goes on to edges [e, e + kStep) of a destination; beyond its last edge that one again.
  __device__ void next(const Lane<L>& lane, const EdgeRange& edges, int e) {
    if (e % 32 == 0) sources_ = edges.sources(in_, e);
#pragma unroll
    for (int u = 0; u < step; ++u) {
      const int edge = e + u < edges.degree ? e + u : edges.degree - 1;
      const int64_t source = __shfl_sync(kFullMask, sources_, edge % 32);
      const T *const k_row = in_.k.at(source), *const v_row = in_.v.at(source);
#pragma unroll
      for (int i = 0; i < L::kVectors; ++i) {
        k_[u][i].load(k_row + lane.offset(i));
        v_[u][i].load(v_row + lane.offset(i));
      }
      attributes_[u].load(in_.attributes.at(edges.begin + edge), lane.in_head, in_.num_attributes);
    }
  }
  __device__ void keys(int u, float (&to)[L::kChannels]) const { unpack_row<L>(k_[u], to); }
  __device__ void values(int u, float (&to)[L::kChannels]) const { unpack_row<L>(v_[u], to); }
  __device__ void attributes(int u, float (&to)[L::kOwnSlots]) const { attributes_[u].unpack(masks_, to); }
};

/// Copies rows to a ring in shared memory, (kStages - 1) * kStep edges ahead of their use, on into the next slices and
/// destinations, so that the copies never stop. Only for aligned rows.
template <class L, int step, int stages>
class StreamedEdges {
  using T = typename L::T;
  static_assert(32 % step == 0 && stages >= 2 && L::kAligned);
  static constexpr int kRowBytes = 32 * 16 * L::kVectors, kAttributeBytes = L::kSlots * int(sizeof(T));
  static constexpr int kEdgeBytes = 2 * kRowBytes + kAttributeBytes, kStageBytes = step * kEdgeBytes;

  /// Rows by their number: a vector at `begin` in row 0.
  struct Source {
    const char* begin = nullptr;
    uint32_t stride = 0;
    __device__ void set(const Rows<const T>& rows, int64_t offset) {
      begin = reinterpret_cast<const char*>(rows.data + offset);
      stride = uint32_t(rows.stride * int64_t(sizeof(T)));
    }
    __device__ const char* at(int row) const { return begin + uint64_t(uint32_t(row)) * stride; }
  };

  const Problem<T>& in_;
  char* const ring_;
  const unsigned stride_;
  const int num_slices_;
  int read_ = 0;  // stage that is computed with

  // Of the edges that are copied next: where they are, and what is known of the two destinations after.
  unsigned destination_;
  int slice_ = 0, edge_ = 0, sources_, next_sources_;
  EdgeRange edges_, next_, after_;
  Source k_[L::kVectors], v_[L::kVectors], attributes_;
  int attribute_bytes_;  // of the 16 that this lane copies

  __device__ void begin_slice() {
    const Lane<L> lane(slice_, in_.num_heads, in_.head_size);
#pragma unroll
    for (int i = 0; i < L::kVectors; ++i) {
      k_[i].set(in_.k, lane.offset(i));
      v_[i].set(in_.v, lane.offset(i));
    }
  }
  __device__ void next_destination() {
    destination_ += stride_;
    edges_ = next_, sources_ = next_sources_;
    next_ = after_;
    next_sources_ = next_.sources(in_, 0);
    after_ = EdgeRange::of(in_, destination_ + 2 * stride_);
  }
  __device__ void skip_destinations_without_edges() {
    while (edges_.degree == 0 && destination_ < unsigned(in_.num_dst)) next_destination();
  }

  __device__ void copy_stage(int stage) {
    if (destination_ < unsigned(in_.num_dst)) {
      if (edge_ % 32 == 0 && edges_.degree > 32) sources_ = edges_.sources(in_, edge_);
      char* const to = ring_ + stage * kStageBytes;
#pragma unroll
      for (int u = 0; u < step; ++u) {
        const bool valid = edge_ + u < edges_.degree;  // else zeros, because what is not used must be finite
        const int edge = valid ? edge_ + u : edge_, bytes = valid ? 16 : 0;
        const int source = __shfl_sync(kFullMask, sources_, edge % 32);
#pragma unroll
        for (int i = 0; i < L::kVectors; ++i) {
          copy_async_cached(to + u * kEdgeBytes + i * 512, k_[i].at(source), bytes);
          copy_async_cached(to + u * kEdgeBytes + kRowBytes + i * 512, v_[i].at(source), bytes);
        }
        if (int(threadIdx.x) % 32 * 16 < kAttributeBytes)
          copy_async_cached(to + u * kEdgeBytes + 2 * kRowBytes, attributes_.at(edges_.begin + edge),
                            valid ? attribute_bytes_ : 0);
      }
      edge_ += step;
      if (edge_ >= edges_.degree) {
        edge_ = 0;
        if (++slice_ == num_slices_) {
          slice_ = 0;
          next_destination();
          skip_destinations_without_edges();
        }
        begin_slice();
      }
    }
    commit_copies();
  }

  __device__ const char* at(int u) const { return ring_ + read_ * kStageBytes + u * kEdgeBytes; }
  __device__ void row(const char* from, float (&to)[L::kChannels]) const {
    Packed<T, L::kWidth> packed[L::kVectors];
#pragma unroll
    for (int i = 0; i < L::kVectors; ++i) packed[i].bits = *reinterpret_cast<const uint4*>(from + i * 512);
    unpack_row<L>(packed, to);
  }

 public:
  static constexpr int kStep = step, kSharedBytes = stages * kStageBytes;

  __device__ StreamedEdges(const Problem<T>& in, char* memory, unsigned first, unsigned stride)
      : in_(in),
        ring_(memory + int(threadIdx.x) % 32 * 16),
        stride_(stride),
        num_slices_((in.num_heads + L::kHeads - 1) / L::kHeads),
        destination_(first),
        edges_(EdgeRange::of(in, first)),
        next_(EdgeRange::of(in, first + stride)),
        after_(EdgeRange::of(in, first + 2 * stride)) {
    const int first_attribute = int(threadIdx.x) % 32 * (16 / int(sizeof(T)));
    const int mine = in.num_attributes - first_attribute;  // the rest of the row is filled with zeros
    attribute_bytes_ = mine <= 0 ? 0 : mine * int(sizeof(T)) < 16 ? mine * int(sizeof(T)) : 16;
    attributes_.set(in.attributes, mine > 0 ? first_attribute : 0);
    sources_ = edges_.sources(in, 0);
    next_sources_ = next_.sources(in, 0);
    skip_destinations_without_edges();
    begin_slice();
#pragma unroll
    for (int stage = 0; stage < stages - 1; ++stage) copy_stage(stage);
    read_ = stages - 1;  // the one before the first
  }

  __device__ void next(const Lane<L>&, const EdgeRange&, int) {
    wait_for_copies<stages - 2>();
    __syncwarp();  // attributes come through other lanes; and all are done with the stage that is filled now
    copy_stage(read_);
    read_ = read_ + 1 == stages ? 0 : read_ + 1;
  }
  __device__ void keys(int u, float (&to)[L::kChannels]) const { row(at(u), to); }
  __device__ void values(int u, float (&to)[L::kChannels]) const { row(at(u) + kRowBytes, to); }
  __device__ void attributes(int u, float (&to)[L::kOwnSlots]) const {
    Attributes<L> packed;
    const int lane = int(threadIdx.x) % 32;
    packed.load_shared(reinterpret_cast<const T*>(at(u) + 2 * kRowBytes - lane * 16), lane % L::kLanes);
    packed.unpack(to);
  }
};

}  // namespace boreas::cuda::graph_attention
