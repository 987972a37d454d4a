// A segment (a row, or a head of a row) belongs to a group of kLanes lanes, each of which owns kVectors vectors of
// columns: vector lane + i * kLanes. Forward reads it
// once into registers, several segments at a time. Backward has the next segment copied to shared memory while it works
// on one: a lane copies what it will read itself, so nobody waits for others. Segments that are too wide for that, or
// not aligned, take the general kernels, which read them again from the cache.
//
// Backward sums parameter gradients without atomics: each block adds up the segments that it visits, in its own order,
// into one partial sum; a second kernel adds the partial sums up in the order of the blocks.
#pragma once

#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/matrix.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/vector_io.cuh"
#include "kernels/cuda/walk.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/layer_norm/layer_norm_blocks.h"

namespace boreas::cuda::layer_norm {

inline constexpr int kThreads = 128, kWarps = kThreads / 32;

/// Where the segments of a tensor lie.
template <class T>
struct Segments {
  T* data;
  int64_t row_stride;
};

/// The segments that a group of lanes visits. It steps by row and group, because to divide takes longer than the rest.
struct Cursor {
  int64_t segment, row;
  int group;
  struct Step {
    int64_t segments, rows;
    int groups;
  };

  __device__ Cursor(int64_t first, const Divisor& groups)
      : segment(first), row(groups.quotient(first)), group(int(groups.remainder(first))) {}
  __device__ void advance(const Step& by, int groups) {
    segment += by.segments;
    row += by.rows;
    group += by.groups;
    if (group < groups) return;
    group -= groups;
    ++row;
  }
  template <class T>
  __device__ T* in(const Segments<T>& segments, int width) const {
    return segments.data + row * segments.row_stride + group * width;
  }
};

template <class T, class X>
struct Forward {
  int64_t count;
  int groups, width;
  Divisor row_of;  // segment -> row
  Cursor::Step step;
  Accumulator<T> eps, share;  // share: 1 / width
  Segments<const X> x;
  Segments<T> y;
  const T *gamma, *beta;  // beta: null if there is none
  Segments<Accumulator<T>> stats;
};

/// R: the type of d_residual and d_x.
template <class T, class X, class R>
struct Backward {
  int64_t count;
  int groups, width;
  Divisor row_of;  // segment -> row
  Cursor::Step step;
  Accumulator<T> share;  // 1 / width
  Segments<const X> x;
  Segments<const T> d_y;
  Segments<const R> d_residual;  // null: none
  Segments<R> d_x;
  Segments<T> y;  // null: not wanted
  const T *gamma, *beta;
  Segments<const Accumulator<T>> stats;
  Accumulator<T>* partials;  // [blocks, 2, width]: d_gamma, d_beta; null: not wanted
};

/// Segments that a group of lanes reads before it uses the first: a lane then has 64 bytes on their way.
constexpr int segments_at_once(int words) { return words < 4 ? 4 / words : 1; }

/// The word comes by value: through a reference, its elements would be read from memory one by one.
template <class S, int kSize>
__device__ inline void unpack(Word<kSize * sizeof(S)> word, Accumulator<S> (&to)[kSize]) {
  S values[kSize];
  memcpy(static_cast<void*>(values), &word, sizeof(word));
#pragma unroll
  for (int k = 0; k < kSize; ++k) to[k] = widen(values[k]);
}
template <class S, int kSize>
__device__ inline void load(const S* from, Accumulator<S> (&to)[kSize]) {
  unpack<S, kSize>(*reinterpret_cast<const Word<kSize * sizeof(S)>*>(from), to);
}
/// Of gamma and beta, which no store of the kernel can change.
template <class S, int kSize>
__device__ inline void load_constant(const S* from, Accumulator<S> (&to)[kSize]) {
  unpack<S, kSize>(__ldg(reinterpret_cast<const Word<kSize * sizeof(S)>*>(from)), to);
}

/// In one store, which an assignment of a word is not always.
template <class S, int kSize>
__device__ inline void store(S* to, const Accumulator<S> (&from)[kSize]) {
  Word<kSize * sizeof(S)> word;
  if constexpr (std::is_same_v<S, bfloat16>) {
    uint32_t pairs[kSize / 2];
#pragma unroll
    for (int k = 0; k < kSize / 2; ++k) pairs[k] = pack_bf16(from[2 * k], from[2 * k + 1]);
    memcpy(&word, pairs, sizeof(word));
  } else {
    memcpy(&word, from, sizeof(word));
  }
  __stwb(reinterpret_cast<Word<kSize * sizeof(S)>*>(to), word);
}

/// A vector of kSize columns as it lies in memory.
template <class S, int kSize>
struct Packed {
  static constexpr int kWords = kSize * int(sizeof(S)) / 16;
  uint4 word[kWords];

  __device__ void load(const S* from) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) word[w] = reinterpret_cast<const uint4*>(from)[w];
  }
  /// The compiler must not know where the words come from: it unpacks them again then, instead of keeping the elements
  /// in twice the registers.
  __device__ void unpack(float (&to)[kSize]) {
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      asm("" : "+r"(word[w].x), "+r"(word[w].y), "+r"(word[w].z), "+r"(word[w].w));
      float part[kSize / kWords];
      layer_norm::unpack<S>(word[w], part);
#pragma unroll
      for (int k = 0; k < kSize / kWords; ++k) to[w * (kSize / kWords) + k] = part[k];
    }
  }
};

// A block owns kGroups * kAtOnce consecutive segments.
template <class T, class X, int kLanes, int kVectors>
__global__ void __launch_bounds__(kThreads) forward_registers(Forward<T, X> p) {
  constexpr int kVector = kVectorSize<T>, kGroups = kThreads / kLanes;
  constexpr int kAtOnce = segments_at_once(kVectors * Packed<X, kVector>::kWords);
  const int lane = threadIdx.x % kLanes;
  const Cursor first(int64_t(blockIdx.x) * (kGroups * kAtOnce) + threadIdx.x / kLanes, p.row_of);
  Packed<X, kVector> packed[kAtOnce][kVectors];
  Cursor at = first;
#pragma unroll
  for (int s = 0; s < kAtOnce; ++s, at.advance(p.step, p.groups))
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      packed[s][i] = {};
      if (at.segment < p.count && c < p.width) packed[s][i].load(at.in(p.x, p.width) + c);
    }
  float mean[kAtOnce], rstd[kAtOnce];
#pragma unroll
  for (int s = 0; s < kAtOnce; ++s) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float x[kVector];
      packed[s][i].unpack(x);
#pragma unroll
      for (int k = 0; k < kVector; ++k) sum += x[k];
    }
    mean[s] = sum_lanes<kLanes>(sum) * p.share;
  }
#pragma unroll
  for (int s = 0; s < kAtOnce; ++s) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float x[kVector];
      packed[s][i].unpack(x);
      if ((lane + i * kLanes) * kVector < p.width)
#pragma unroll
        for (int k = 0; k < kVector; ++k) squares += (x[k] - mean[s]) * (x[k] - mean[s]);
    }
    rstd[s] = rsqrtf(sum_lanes<kLanes>(squares) * p.share + p.eps);
  }
  at = first;
#pragma unroll
  for (int s = 0; s < kAtOnce; ++s, at.advance(p.step, p.groups)) {
    if (at.segment >= p.count) continue;
    const float shift = -mean[s] * rstd[s];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (c >= p.width) continue;
      float x[kVector], gamma[kVector], y[kVector] = {};
      packed[s][i].unpack(x);
      load_constant(p.gamma + c, gamma);
      if (p.beta) load_constant(p.beta + c, y);
#pragma unroll
      for (int k = 0; k < kVector; ++k) y[k] += (x[k] * rstd[s] + shift) * gamma[k];
      store(at.in(p.y, p.width) + c, y);
    }
    if (lane == 0) {
      float* const stats = p.stats.data + at.segment * p.stats.row_stride;
      stats[0] = mean[s];
      stats[1] = rstd[s];
    }
  }
}

// One warp a segment, any width, any alignment.
template <class T, class X>
__global__ void __launch_bounds__(kThreads) forward_general(Forward<T, X> p) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x % 32;
  for (Cursor at(int64_t(blockIdx.x) * kWarps + threadIdx.x / 32, p.row_of); at.segment < p.count;
       at.advance(p.step, p.groups)) {
    const X* const x = at.in(p.x, p.width);
    T* const y = at.in(p.y, p.width);
    A sum = 0, squares = 0;
    for (int c = lane; c < p.width; c += 32) sum += widen(x[c]);
    const A mean = sum_lanes<32>(sum) / A(p.width);
    for (int c = lane; c < p.width; c += 32) squares += (widen(x[c]) - mean) * (widen(x[c]) - mean);
    const A rstd = A(1) / sqrt(sum_lanes<32>(squares) / A(p.width) + p.eps);
    for (int c = lane; c < p.width; c += 32)
      y[c] = narrow<T>((widen(x[c]) - mean) * rstd * widen(p.gamma[c]) + (p.beta ? widen(p.beta[c]) : A(0)));
    if (lane == 0) {
      A* const stats = p.stats.data + at.segment * p.stats.row_stride;
      stats[0] = mean;
      stats[1] = rstd;
    }
  }
}

inline constexpr int kStages = 2;

/// Columns of a vector of backward: as many as fill 16 bytes in the widest of the types.
template <class... S>
inline constexpr int kVectorOf = 16 / int(std::max({sizeof(S)...}));

/// Where the vectors of a stage lie: those of x, of d_y and, behind them, of d_residual; vector by vector, thread by
/// thread, so that a warp copies and reads without gaps.
template <class T, class X, class R, int kVectors>
struct StageOf {
  static constexpr int kVector = kVectorOf<T, X, R>, kOfX = kThreads * kVectors * kVector * int(sizeof(X)),
                       kOfDy = kThreads * kVectors * kVector * int(sizeof(T)),
                       kOfResidual = kThreads * kVectors * kVector * int(sizeof(R));
  static constexpr int bytes(bool with_residual) { return kOfX + kOfDy + (with_residual ? kOfResidual : 0); }

  unsigned char* first;
  template <class S>
  __device__ S* vector(int section, int i) const {
    return reinterpret_cast<S*>(first + section) + (i * kThreads + threadIdx.x) * kVector;
  }
  __device__ X* x(int i) const { return vector<X>(0, i); }
  __device__ T* d_y(int i) const { return vector<T>(kOfX, i); }
  __device__ R* d_residual(int i) const { return vector<R>(kOfX + kOfDy, i); }
};

template <class T, class X, class R, int kLanes, int kVectors>
__global__ void __launch_bounds__(kThreads, layer_norm_resident_blocks(kVectors* kVectorOf<T, X, R>))
    backward_registers(Backward<T, X, R> p) {
  using A = Accumulator<T>;
  using Stage = StageOf<T, X, R, kVectors>;
  constexpr int kVector = Stage::kVector, kGroups = kThreads / kLanes;
  const int lane = threadIdx.x % kLanes;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const bool has_residual = p.d_residual.data != nullptr;
  const auto stage = [&](int which) { return Stage{shared + which * Stage::bytes(has_residual)}; };

  A ahead_mean = 0, ahead_rstd = 0;
  const auto fetch = [&](const Cursor& from, Stage to) {
    if (from.segment < p.count) {
      const X* const x = from.in(p.x, p.width);
      const T* const d_y = from.in(p.d_y, p.width);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int c = (lane + i * kLanes) * kVector;
        if (c >= p.width) continue;
        copy_async<kVector * sizeof(X)>(to.x(i), x + c);
        copy_async<kVector * sizeof(T)>(to.d_y(i), d_y + c);
        if (has_residual) copy_async<kVector * sizeof(R)>(to.d_residual(i), from.in(p.d_residual, p.width) + c);
      }
      const A* const stats = p.stats.data + from.segment * p.stats.row_stride;
      ahead_mean = stats[0];
      ahead_rstd = stats[1];
    }
    commit_copies();
  };

  A d_gamma[kVectors][kVector] = {}, d_beta[kVectors][kVector] = {};
  Cursor at(int64_t(blockIdx.x) * kGroups + threadIdx.x / kLanes, p.row_of);
  Cursor ahead = at;
  fetch(ahead, stage(0));
  // All lanes of a warp go round equally often, because they take part in each other's sums.
  for (int turn = 0; at.segment - threadIdx.x % 32 / kLanes < p.count; at.advance(p.step, p.groups), turn ^= 1) {
    const bool active = at.segment < p.count;
    const A rstd = ahead_rstd, shift = -ahead_mean * ahead_rstd;  // xhat = x * rstd + shift
    ahead.advance(p.step, p.groups);
    fetch(ahead, stage(turn ^ 1));
    const Stage here = stage(turn);
    wait_for_copies<1>();
    A sum = 0, product = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (!active || c >= p.width) continue;
      A x[kVector], d_y[kVector], gamma[kVector];
      load(here.x(i), x);
      load(here.d_y(i), d_y);
      load(p.gamma + c, gamma);  // from the cache each time: registers are for the sums
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const A xhat = x[k] * rstd + shift, a = d_y[k] * gamma[k];
        d_gamma[i][k] += d_y[k] * xhat;
        d_beta[i][k] += d_y[k];
        sum += a;
        product += a * xhat;
      }
    }
    const A rate = rstd * p.share;
    const A mean_a = sum_lanes<kLanes>(sum) * rate, mean_product = sum_lanes<kLanes>(product) * rate;  // times rstd
    if (!active) continue;
    R* const d_x = at.in(p.d_x, p.width);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (c >= p.width) continue;
      A x[kVector], d_y[kVector], gamma[kVector], out[kVector] = {};
      load(here.x(i), x);
      load(here.d_y(i), d_y);
      load(p.gamma + c, gamma);
      if (has_residual) load(here.d_residual(i), out);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        x[k] = x[k] * rstd + shift;
        out[k] += d_y[k] * gamma[k] * rstd - mean_a - x[k] * mean_product;
      }
      store(d_x + c, out);
      if (!p.y.data) continue;
      A y[kVector] = {};
      if (p.beta) load(p.beta + c, y);
#pragma unroll
      for (int k = 0; k < kVector; ++k) y[k] += x[k] * gamma[k];
      store(at.in(p.y, p.width) + c, y);
    }
  }

  if (!p.partials) return;
  wait_for_copies<0>();
  __syncthreads();
  A* const warp_sums = reinterpret_cast<A*>(shared);  // [kWarps, 2, width]
  A* const own = warp_sums + int64_t(threadIdx.x / 32) * 2 * p.width;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
#pragma unroll
    for (int k = 0; k < kVector; ++k)  // over the groups of the warp
#pragma unroll
      for (int offset = kLanes; offset < 32; offset *= 2) {
        d_gamma[i][k] += __shfl_xor_sync(kFullMask, d_gamma[i][k], offset);
        d_beta[i][k] += __shfl_xor_sync(kFullMask, d_beta[i][k], offset);
      }
    const int c = (lane + i * kLanes) * kVector;
    if (threadIdx.x % 32 >= kLanes || c >= p.width) continue;
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      own[c + k] = d_gamma[i][k];
      own[p.width + c + k] = d_beta[i][k];
    }
  }
  __syncthreads();
  A* const partial = p.partials + int64_t(blockIdx.x) * 2 * p.width;
  for (int c = threadIdx.x; c < 2 * p.width; c += kThreads) {
    A sum = warp_sums[c];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += warp_sums[int64_t(w) * 2 * p.width + c];
    partial[c] = sum;
  }
}

// One block a segment, any width, any alignment. A thread owns the columns c with c % kThreads == threadIdx.x, also in
// the block's partial sum.
template <class T, class X, class R>
__global__ void __launch_bounds__(kThreads) backward_general(Backward<T, X, R> p) {
  using A = Accumulator<T>;
  __shared__ A warp_sums[2][kWarps];
  A* const partial = p.partials ? p.partials + int64_t(blockIdx.x) * 2 * p.width : nullptr;
  for (int c = threadIdx.x; partial && c < p.width; c += kThreads) partial[c] = partial[p.width + c] = 0;
  for (Cursor at(blockIdx.x, p.row_of); at.segment < p.count; at.advance(p.step, p.groups)) {
    const X* const x = at.in(p.x, p.width);
    const T* const d_y = at.in(p.d_y, p.width);
    const R* const d_residual = p.d_residual.data ? at.in(p.d_residual, p.width) : nullptr;
    R* const d_x = at.in(p.d_x, p.width);
    T* const y = p.y.data ? at.in(p.y, p.width) : nullptr;
    const A* const stats = p.stats.data + at.segment * p.stats.row_stride;
    const A mean = stats[0], rstd = stats[1];
    A sum = 0, product = 0;
    for (int c = threadIdx.x; c < p.width; c += kThreads) {
      const A xhat = (widen(x[c]) - mean) * rstd, d = widen(d_y[c]), a = d * widen(p.gamma[c]);
      if (partial) {
        partial[c] += d * xhat;
        partial[p.width + c] += d;
      }
      sum += a;
      product += a * xhat;
    }
    sum = sum_lanes<32>(sum);
    product = sum_lanes<32>(product);
    if (threadIdx.x % 32 == 0) {
      warp_sums[0][threadIdx.x / 32] = sum;
      warp_sums[1][threadIdx.x / 32] = product;
    }
    __syncthreads();
    sum = product = 0;
    for (int w = 0; w < kWarps; ++w) {
      sum += warp_sums[0][w];
      product += warp_sums[1][w];
    }
    const A mean_a = sum / A(p.width), mean_product = product / A(p.width);
    for (int c = threadIdx.x; c < p.width; c += kThreads) {
      const A xhat = (widen(x[c]) - mean) * rstd, gamma = widen(p.gamma[c]), a = widen(d_y[c]) * gamma;
      d_x[c] = narrow<R>(rstd * (a - mean_a - xhat * mean_product) + (d_residual ? widen(d_residual[c]) : A(0)));
      if (y) y[c] = narrow<T>(xhat * gamma + (p.beta ? widen(p.beta[c]) : A(0)));
    }
    __syncthreads();  // warp_sums is written again
  }
}

template <class S>
Segments<S> segments_of(const Tensor& tensor) {
  return {tensor ? tensor.as<std::remove_const_t<S>>() : nullptr, tensor.row_stride()};
}

/// Whether vectors of that many columns can be moved as words.
inline bool is_vectorisable(const Tensor& tensor, int64_t width, int64_t vector) {
  return tensor.empty() || (reinterpret_cast<uintptr_t>(tensor.data()) % (vector * size_of(tensor.dtype())) == 0 &&
                            width % vector == 0 && (tensor.rows() <= 1 || tensor.row_stride() % vector == 0));
}

/// Calls f<lanes a segment, vectors a lane>() for the narrowest layout that holds a segment of that width in at most
/// kMostColumns columns a lane; false if there is none.
template <int kVector, int kMostColumns, class F>
bool with_layout(int64_t width, F&& f) {
  const int64_t vectors = width / kVector;
  const auto try_layout = [&]<int kLanes, int kVectors>() {
    if constexpr (kVectors * kVector <= kMostColumns)
      if (vectors <= kLanes * kVectors) {
        f.template operator()<kLanes, kVectors>();
        return true;
      }
    return false;
  };
  return try_layout.template operator()<4, 1>() || try_layout.template operator()<8, 1>() ||
         try_layout.template operator()<16, 1>() || try_layout.template operator()<32, 1>() ||
         try_layout.template operator()<32, 2>() || try_layout.template operator()<32, 4>() ||
         try_layout.template operator()<32, 8>() || try_layout.template operator()<32, 16>();
}

inline Cursor::Step step_of(int64_t segments, int groups) {
  return {segments, segments / groups, int(segments % groups)};
}

/// f<storage type>() of a bf16, f32 or f64 tensor.
template <class F>
void dispatch_storage(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f.template operator()<double>();
    case DType::f32:
      return f.template operator()<float>();
    default:
      return f.template operator()<bfloat16>();
  }
}
/// f<type of the tensor>(): T or its accumulator.
template <class T, class F>
void dispatch_wider(const Tensor& tensor, F&& f) {
  if (tensor.dtype() == dtype_of<T>) return f.template operator()<T>();
  f.template operator()<Accumulator<T>>();
}

inline void launch_forward(const LayerNormForward& op, cudaStream_t stream) {
  const auto blocks_of = [](int64_t segments, int64_t per_block) { return (segments + per_block - 1) / per_block; };
  dispatch_storage(op.gamma.dtype(), [&]<class T>() {
    dispatch_wider<T>(op.x, [&]<class X>() {
      Forward<T, X> p{.count = op.x.rows() * op.groups,
                      .groups = int(op.groups),
                      .width = int(op.gamma.size()),
                      .row_of = Divisor(op.groups),
                      .step = {},
                      .eps = Accumulator<T>(op.eps),
                      .share = Accumulator<T>(1) / Accumulator<T>(op.gamma.size()),
                      .x = segments_of<const X>(op.x),
                      .y = segments_of<T>(op.y),
                      .gamma = op.gamma.as<T>(),
                      .beta = op.beta ? op.beta.as<T>() : nullptr,
                      .stats = segments_of<Accumulator<T>>(op.stats)};
      if (p.count == 0 || p.width == 0) return;
      if constexpr (!std::is_same_v<T, double>) {
        constexpr int kVector = kVectorSize<T>;
        bool vectors = true;
        for (const Tensor* tensor : {&op.x, &op.y, &op.gamma, &op.beta})
          vectors = vectors && is_vectorisable(*tensor, p.width, kVector);
        if (vectors && with_layout<kVector, 64>(p.width, [&]<int kLanes, int kVectors>() {
              constexpr int kGroups = kThreads / kLanes;
              p.step = step_of(kGroups, p.groups);
              launch_kernel(
                  forward_registers<T, X, kLanes, kVectors>,
                  unsigned(blocks_of(p.count, kGroups * segments_at_once(kVectors * Packed<X, kVector>::kWords))),
                  kThreads, 0, stream, p);
            }))
          return;
      }
      const int64_t blocks = std::min(blocks_of(p.count, kWarps), int64_t{1} << 30);
      p.step = step_of(blocks * kWarps, p.groups);
      launch_kernel(forward_general<T, X>, unsigned(blocks), kThreads, 0, stream, p);
    });
  });
}

inline void launch_backward(const LayerNormBackward& op, void* scratch, cudaStream_t stream) {
  dispatch_storage(op.gamma.dtype(), [&]<class T>() {
    using A = Accumulator<T>;
    const bool want_sums = op.d_gamma || op.d_beta;
    const int64_t blocks = layer_norm_blocks(op.x.rows() * op.groups, op.gamma.size());
    dispatch_wider<T>(op.x, [&]<class X>() {
      dispatch_wider<T>(op.d_x, [&]<class R>() {
        Backward<T, X, R> p{.count = op.x.rows() * op.groups,
                            .groups = int(op.groups),
                            .width = int(op.gamma.size()),
                            .row_of = Divisor(op.groups),
                            .step = {},
                            .share = A(1) / A(op.gamma.size()),
                            .x = segments_of<const X>(op.x),
                            .d_y = segments_of<const T>(op.d_y),
                            .d_residual = segments_of<const R>(op.d_residual),
                            .d_x = segments_of<R>(op.d_x),
                            .y = segments_of<T>(op.y),
                            .gamma = op.gamma.as<T>(),
                            .beta = op.beta ? op.beta.as<T>() : nullptr,
                            .stats = segments_of<const A>(op.stats),
                            .partials = want_sums ? static_cast<A*>(scratch) : nullptr};
        if (p.count == 0 || p.width == 0) return;
        bool vectors = true;
        for (const Tensor* tensor : {&op.x, &op.d_y, &op.d_residual, &op.d_x, &op.y, &op.gamma, &op.beta})
          vectors = vectors && is_vectorisable(*tensor, p.width, kVectorOf<T, X, R>);
        bool done = false;
        if constexpr (!std::is_same_v<T, double> && sizeof(R) <= sizeof(X))
          done = vectors && with_layout<kVectorOf<T, X, R>, 32>(p.width, [&]<int kLanes, int kVectors>() {
                   const int64_t copies = kStages * StageOf<T, X, R, kVectors>::bytes(bool(op.d_residual));
                   const int64_t sums = want_sums ? kWarps * 2 * p.width * sizeof(A) : 0;
                   p.step = step_of(blocks * (kThreads / kLanes), p.groups);
                   launch_kernel(backward_registers<T, X, R, kLanes, kVectors>, unsigned(blocks), kThreads,
                                 std::max(copies, sums), stream, p);
                 });
        if (!done) {
          p.step = step_of(blocks, p.groups);
          launch_kernel(backward_general<T, X, R>, unsigned(blocks), kThreads, 0, stream, p);
        }
        if (want_sums)
          launch_add_partial_sums<A>(p.partials, blocks, 2 * p.width, p.width,
                                     op.d_gamma ? op.d_gamma.as<A>() : nullptr, op.d_beta ? op.d_beta.as<A>() : nullptr,
                                     stream);
      });
    });
  });
}

}  // namespace boreas::cuda::layer_norm
