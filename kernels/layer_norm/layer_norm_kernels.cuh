// A segment (a row, or a head of a row) belongs to a group of kLanes lanes, each of which owns kVectors vectors of
// kVectorSize<T> columns: vector lane + i * kLanes. Forward reads it once into registers. Backward has the next segment
// copied to shared memory while it works on one: a lane copies what it will read itself, so nobody waits for others.
// Segments that are too wide for that, or not aligned, take the general kernels, which read them again from the cache.
//
// Backward sums parameter gradients without atomics: each block adds up the segments that it visits, in its own order,
// into one partial sum; a second kernel adds the partial sums up in the order of the blocks.
#pragma once

#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/matrix.cuh"
#include "kernels/cuda/partial_sums.cuh"
#include "kernels/cuda/vector_io.cuh"
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

  __device__ Cursor(int64_t first, int groups) : segment(first), row(first / groups), group(int(first % groups)) {}
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
  Cursor::Step step;
  Accumulator<T> eps;
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
  Cursor::Step step;
  Segments<const X> x;
  Segments<const T> d_y;
  Segments<const R> d_residual;  // null: none
  Segments<R> d_x;
  Segments<T> y;  // null: not wanted
  const T *gamma, *beta;
  Segments<const Accumulator<T>> stats;
  Accumulator<T>* partials;  // [blocks, 2, width]: d_gamma, d_beta; null: not wanted
};

/// Consecutive elements of any type.
template <class S, int kSize, class A>
__device__ inline void load_elements(const S* from, A (&to)[kSize]) {
#pragma unroll
  for (int v = 0; v < kSize / kVectorSize<S>; ++v) {
    A part[kVectorSize<S>];
    load_vector(from + v * kVectorSize<S>, part);
#pragma unroll
    for (int k = 0; k < kVectorSize<S>; ++k) to[v * kVectorSize<S> + k] = part[k];
  }
}
template <class S, int kSize, class A>
__device__ inline void store_elements(S* to, const A (&from)[kSize]) {
#pragma unroll
  for (int v = 0; v < kSize / kVectorSize<S>; ++v) {
    A part[kVectorSize<S>];
#pragma unroll
    for (int k = 0; k < kVectorSize<S>; ++k) part[k] = from[v * kVectorSize<S> + k];
    store_vector(to + v * kVectorSize<S>, part);
  }
}

template <class T, class X, int kLanes, int kVectors>
__global__ void __launch_bounds__(kThreads) forward_registers(Forward<T, X> p) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorSize<T>, kGroups = kThreads / kLanes;
  const int lane = threadIdx.x % kLanes;
  Cursor at(int64_t(blockIdx.x) * kGroups + threadIdx.x / kLanes, p.groups);
  // All lanes of a warp go round equally often, because they take part in each other's sums.
  for (; at.segment - threadIdx.x % 32 / kLanes < p.count; at.advance(p.step, p.groups)) {
    const bool active = at.segment < p.count;
    const X* const x = at.in(p.x, p.width);
    A value[kVectors][kVector];
    A sum = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (active && c < p.width) load_elements(x + c, value[i]);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        if (!active || c >= p.width) value[i][k] = 0;
        sum += value[i][k];
      }
    }
    const A mean = sum_lanes<kLanes>(sum) / A(p.width);
    A squares = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
#pragma unroll
      for (int k = 0; k < kVector; ++k)
        if ((lane + i * kLanes) * kVector < p.width) squares += (value[i][k] - mean) * (value[i][k] - mean);
    const A rstd = A(1) / sqrt(sum_lanes<kLanes>(squares) / A(p.width) + p.eps);
    if (!active) continue;
    T* const y = at.in(p.y, p.width);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (c >= p.width) continue;
      A gamma[kVector], beta[kVector] = {};
      load_elements(p.gamma + c, gamma);
      if (p.beta) load_elements(p.beta + c, beta);
#pragma unroll
      for (int k = 0; k < kVector; ++k) value[i][k] = (value[i][k] - mean) * rstd * gamma[k] + beta[k];
      store_elements(y + c, value[i]);
    }
    if (lane == 0) {
      A* const stats = p.stats.data + at.segment * p.stats.row_stride;
      stats[0] = mean;
      stats[1] = rstd;
    }
  }
}

// One warp a segment, any width, any alignment.
template <class T, class X>
__global__ void __launch_bounds__(kThreads) forward_general(Forward<T, X> p) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x % 32;
  for (Cursor at(int64_t(blockIdx.x) * kWarps + threadIdx.x / 32, p.groups); at.segment < p.count;
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

/// 16-byte pieces of a segment's x, d_y and, behind them, d_residual that one lane copies.
template <class T, class X, class R, int kVectors>
struct Pieces {
  static constexpr int kOfX = sizeof(X) / sizeof(T), kOfResidual = sizeof(R) / sizeof(T);  // a vector
  static constexpr int kX = kVectors * kOfX, kDy = kVectors, kResidual = kVectors * kOfResidual;
  static constexpr int count(bool with_residual) { return kX + kDy + (with_residual ? kResidual : 0); }
};

/// The elements of consecutive pieces of a thread.
template <class S, int kSize, class A>
__device__ inline void load_pieces(const unsigned char* first, A (&to)[kSize]) {
#pragma unroll
  for (int v = 0; v < kSize / kVectorSize<S>; ++v) {
    A part[kVectorSize<S>];
    load_vector(reinterpret_cast<const S*>(first + v * kThreads * 16), part);
#pragma unroll
    for (int k = 0; k < kVectorSize<S>; ++k) to[v * kVectorSize<S> + k] = part[k];
  }
}

template <class T, class X, class R, int kLanes, int kVectors>
__global__ void __launch_bounds__(kThreads, layer_norm_resident_blocks(kVectors* kVectorSize<T>))
    backward_registers(Backward<T, X, R> p) {
  using A = Accumulator<T>;
  using P = Pieces<T, X, R, kVectors>;
  constexpr int kVector = kVectorSize<T>, kGroups = kThreads / kLanes;
  const int lane = threadIdx.x % kLanes;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const bool has_residual = p.d_residual.data != nullptr;
  const int num_pieces = P::count(has_residual);
  // Piece by piece, thread by thread: a warp reads 512 bytes in a row.
  const auto piece = [&](int stage, int index) {
    return shared + (int64_t(stage * num_pieces + index) * kThreads + threadIdx.x) * 16;
  };

  A ahead_mean = 0, ahead_rstd = 0;
  const auto fetch = [&](const Cursor& from, int stage) {
    if (from.segment < p.count) {
      const X* const x = from.in(p.x, p.width);
      const T* const d_y = from.in(p.d_y, p.width);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int c = (lane + i * kLanes) * kVector;
        if (c >= p.width) continue;
#pragma unroll
        for (int v = 0; v < P::kOfX; ++v) copy_async(piece(stage, i * P::kOfX + v), x + c + v * kVectorSize<X>, true);
        copy_async(piece(stage, P::kX + i), d_y + c, true);
        if (!has_residual) continue;
        const R* const d_residual = from.in(p.d_residual, p.width) + c;
#pragma unroll
        for (int v = 0; v < P::kOfResidual; ++v)
          copy_async(piece(stage, P::kX + P::kDy + i * P::kOfResidual + v), d_residual + v * kVectorSize<R>, true);
      }
      const A* const stats = p.stats.data + from.segment * p.stats.row_stride;
      ahead_mean = stats[0];
      ahead_rstd = stats[1];
    }
    commit_copies();
  };

  A d_gamma[kVectors][kVector] = {}, d_beta[kVectors][kVector] = {};
  Cursor at(int64_t(blockIdx.x) * kGroups + threadIdx.x / kLanes, p.groups);
  Cursor ahead = at;
  fetch(ahead, 0);
  // All lanes of a warp go round equally often, because they take part in each other's sums.
  for (int stage = 0; at.segment - threadIdx.x % 32 / kLanes < p.count; at.advance(p.step, p.groups), stage ^= 1) {
    const bool active = at.segment < p.count;
    const A rstd = ahead_rstd, shift = -ahead_mean * ahead_rstd;  // xhat = x * rstd + shift
    ahead.advance(p.step, p.groups);
    fetch(ahead, stage ^ 1);
    wait_for_copies<1>();
    A sum = 0, product = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (!active || c >= p.width) continue;
      A x[kVector], d_y[kVector], gamma[kVector];
      load_pieces<X>(piece(stage, i * P::kOfX), x);
      load_pieces<T>(piece(stage, P::kX + i), d_y);
      load_elements(p.gamma + c, gamma);  // from the cache each time: registers are for the sums
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const A xhat = x[k] * rstd + shift, a = d_y[k] * gamma[k];
        d_gamma[i][k] += d_y[k] * xhat;
        d_beta[i][k] += d_y[k];
        sum += a;
        product += a * xhat;
      }
    }
    const A rate = rstd / A(p.width);
    const A mean_a = sum_lanes<kLanes>(sum) * rate, mean_product = sum_lanes<kLanes>(product) * rate;  // times rstd
    if (!active) continue;
    R* const d_x = at.in(p.d_x, p.width);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (c >= p.width) continue;
      A x[kVector], d_y[kVector], gamma[kVector], out[kVector] = {};
      load_pieces<X>(piece(stage, i * P::kOfX), x);
      load_pieces<T>(piece(stage, P::kX + i), d_y);
      load_elements(p.gamma + c, gamma);
      if (has_residual) load_pieces<R>(piece(stage, P::kX + P::kDy + i * P::kOfResidual), out);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        x[k] = x[k] * rstd + shift;
        out[k] += d_y[k] * gamma[k] * rstd - mean_a - x[k] * mean_product;
      }
      store_elements(d_x + c, out);
      if (!p.y.data) continue;
      A y[kVector] = {};
      if (p.beta) load_elements(p.beta + c, y);
#pragma unroll
      for (int k = 0; k < kVector; ++k) y[k] += x[k] * gamma[k];
      store_elements(at.in(p.y, p.width) + c, y);
    }
  }

  if (!p.partials) return;
  wait_for_copies<0>();
  __syncthreads();
  A* const block_sums = reinterpret_cast<A*>(shared);  // [2, width]
  const int warp = threadIdx.x / 32;
  for (int turn = 0; turn < kWarps; ++turn) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        if (turn == 0) {  // over the groups of the warp, once
#pragma unroll
          for (int offset = kLanes; offset < 32; offset *= 2) {
            d_gamma[i][k] += __shfl_xor_sync(kFullMask, d_gamma[i][k], offset);
            d_beta[i][k] += __shfl_xor_sync(kFullMask, d_beta[i][k], offset);
          }
        }
        const int c = (lane + i * kLanes) * kVector + k;
        if (warp != turn || threadIdx.x % 32 >= kLanes || c >= p.width) continue;
        block_sums[c] = (turn ? block_sums[c] : A(0)) + d_gamma[i][k];
        block_sums[p.width + c] = (turn ? block_sums[p.width + c] : A(0)) + d_beta[i][k];
      }
    __syncthreads();
  }
  A* const partial = p.partials + int64_t(blockIdx.x) * 2 * p.width;
  for (int c = threadIdx.x; c < 2 * p.width; c += kThreads) partial[c] = block_sums[c];
}

// One block a segment, any width, any alignment. A thread owns the columns c with c % kThreads == threadIdx.x, also in
// the block's partial sum.
template <class T, class X, class R>
__global__ void __launch_bounds__(kThreads) backward_general(Backward<T, X, R> p) {
  using A = Accumulator<T>;
  __shared__ A warp_sums[2][kWarps];
  A* const partial = p.partials ? p.partials + int64_t(blockIdx.x) * 2 * p.width : nullptr;
  for (int c = threadIdx.x; partial && c < p.width; c += kThreads) partial[c] = partial[p.width + c] = 0;
  for (Cursor at(blockIdx.x, p.groups); at.segment < p.count; at.advance(p.step, p.groups)) {
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

/// Whether vectors of kVectorSize<T> columns are aligned to 16 bytes in a tensor of T or of a wider type.
template <class T>
bool is_vectorisable(const Tensor& tensor, int64_t width) {
  return tensor.empty() || (reinterpret_cast<uintptr_t>(tensor.data()) % 16 == 0 && width % kVectorSize<T> == 0 &&
                            (tensor.rows() <= 1 || tensor.row_stride() % kVectorSize<T> == 0));
}

/// Calls f<lanes a segment, vectors a lane>() for the narrowest layout that holds a segment of that width in at most
/// kMostColumns columns a lane; false if there is none.
template <class T, int kMostColumns, class F>
bool with_layout(int64_t width, F&& f) {
  const int64_t vectors = width / kVectorSize<T>;
  const auto try_layout = [&]<int kLanes, int kVectors>() {
    if constexpr (kVectors * kVectorSize<T> <= kMostColumns)
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
  const auto grid_of = [](int64_t segments, int64_t per_block) {
    return std::min((segments + per_block - 1) / per_block, int64_t{1} << 30);
  };
  dispatch_storage(op.gamma.dtype(), [&]<class T>() {
    dispatch_wider<T>(op.x, [&]<class X>() {
      Forward<T, X> p{.count = op.x.rows() * op.groups,
                      .groups = int(op.groups),
                      .width = int(op.gamma.size()),
                      .step = {},
                      .eps = Accumulator<T>(op.eps),
                      .x = segments_of<const X>(op.x),
                      .y = segments_of<T>(op.y),
                      .gamma = op.gamma.as<T>(),
                      .beta = op.beta ? op.beta.as<T>() : nullptr,
                      .stats = segments_of<Accumulator<T>>(op.stats)};
      if (p.count == 0 || p.width == 0) return;
      const bool vectors = is_vectorisable<T>(op.x, p.width) && is_vectorisable<T>(op.y, p.width) &&
                           is_vectorisable<T>(op.gamma, p.width) && is_vectorisable<T>(op.beta, p.width);
      if constexpr (!std::is_same_v<T, double>)
        if (vectors && with_layout<T, 64>(p.width, [&]<int kLanes, int kVectors>() {
              const int64_t blocks = grid_of(p.count, kThreads / kLanes);
              p.step = step_of(blocks * (kThreads / kLanes), p.groups);
              launch_kernel(forward_registers<T, X, kLanes, kVectors>, unsigned(blocks), kThreads, 0, stream, p);
            }))
          return;
      const int64_t blocks = grid_of(p.count, kWarps);
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
                            .step = {},
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
          vectors = vectors && is_vectorisable<T>(*tensor, p.width);
        bool done = false;
        if constexpr (!std::is_same_v<T, double> && sizeof(R) <= sizeof(X))
          done = vectors && with_layout<T, 32>(p.width, [&]<int kLanes, int kVectors>() {
                   const int64_t copies =
                       int64_t{16} * kThreads * kStages * Pieces<T, X, R, kVectors>::count(bool(op.d_residual));
                   const int64_t sums = want_sums ? 2 * p.width * sizeof(A) : 0;
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
