// A segment (a row, or a head of a row) belongs to a group of kLanes lanes, each of which owns kVectors vectors of 16
// bytes: vector lane + i * kLanes. It is read once, kept in registers, and written once. Segments that are too wide for
// that, or not aligned, take the general kernels, which read them again from the cache.
//
// Backward sums parameter gradients without atomics: each block adds up the segments that it visits, in its own order,
// into one partial sum; a second kernel adds the partial sums up in the order of the blocks.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector_io.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/layer_norm/layer_norm_blocks.h"

namespace boreas {

namespace {

using namespace cuda;

constexpr int kThreads = 128, kWarps = kThreads / 32;

/// Where the segments of a tensor lie.
template <class T>
struct Segments {
  T* data;
  int64_t row_stride;
  __device__ T* at(int64_t segment, int64_t groups, int64_t width) const {
    if (groups == 1) return data + segment * row_stride;
    return data + segment / groups * row_stride + segment % groups * width;
  }
};

template <class T>
Segments<T> segments_of(const Tensor& tensor) {
  return {tensor ? tensor.as<T>() : nullptr, tensor.row_stride()};
}

template <class T>
struct Forward {
  int64_t count, groups, width;
  Accumulator<T> eps;
  Segments<T> x, y;
  const T *gamma, *beta;
  Segments<Accumulator<T>> stats;
};

template <class T>
struct Backward {
  int64_t count, groups, width;
  Segments<T> x, d_y, d_residual, d_x;
  const T* gamma;
  Segments<Accumulator<T>> stats;
  Accumulator<T>* partials;  // [blocks, 2, width]: d_gamma, d_beta; null: not wanted
};

template <class T, int kLanes, int kVectors>
__global__ void __launch_bounds__(kThreads) forward_registers(Forward<T> p) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorSize<T>, kGroups = kThreads / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int64_t first = int64_t(blockIdx.x) * kGroups + threadIdx.x / kLanes;
  // All lanes of a warp go round equally often, because they take part in each other's sums.
  for (int64_t segment = first; segment - threadIdx.x % 32 / kLanes < p.count;
       segment += int64_t(gridDim.x) * kGroups) {
    const bool active = segment < p.count;
    const T* const x = p.x.at(segment, p.groups, p.width);
    A value[kVectors][kVector];
    A sum = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (active && c < p.width) load_vector(x + c, value[i]);
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
    T* const y = p.y.at(segment, p.groups, p.width);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (c >= p.width) continue;
      A gamma[kVector], beta[kVector] = {};
      load_vector(p.gamma + c, gamma);
      if (p.beta) load_vector(p.beta + c, beta);
#pragma unroll
      for (int k = 0; k < kVector; ++k) value[i][k] = (value[i][k] - mean) * rstd * gamma[k] + beta[k];
      store_vector(y + c, value[i]);
    }
    if (lane == 0) {
      A* const stats = p.stats.data + segment * p.stats.row_stride;
      stats[0] = mean;
      stats[1] = rstd;
    }
  }
}

// One warp a segment, any width, any alignment.
template <class T>
__global__ void __launch_bounds__(kThreads) forward_general(Forward<T> p) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x % 32;
  for (int64_t segment = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32; segment < p.count;
       segment += int64_t(gridDim.x) * kWarps) {
    const T* const x = p.x.at(segment, p.groups, p.width);
    T* const y = p.y.at(segment, p.groups, p.width);
    A sum = 0, squares = 0;
    for (int64_t c = lane; c < p.width; c += 32) sum += widen(x[c]);
    const A mean = sum_lanes<32>(sum) / A(p.width);
    for (int64_t c = lane; c < p.width; c += 32) squares += (widen(x[c]) - mean) * (widen(x[c]) - mean);
    const A rstd = A(1) / sqrt(sum_lanes<32>(squares) / A(p.width) + p.eps);
    for (int64_t c = lane; c < p.width; c += 32)
      y[c] = narrow<T>((widen(x[c]) - mean) * rstd * widen(p.gamma[c]) + (p.beta ? widen(p.beta[c]) : A(0)));
    if (lane == 0) {
      A* const stats = p.stats.data + segment * p.stats.row_stride;
      stats[0] = mean;
      stats[1] = rstd;
    }
  }
}

template <class T, int kLanes, int kVectors>
constexpr int kResidentBlocks = kVectors* kVectorSize<T> * sizeof(Accumulator<T>) > 64   ? 3
                                : kVectors* kVectorSize<T> * sizeof(Accumulator<T>) > 32 ? 4
                                                                                         : 8;

template <class T, int kLanes, int kVectors>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T, kLanes, kVectors>) backward_registers(Backward<T> p) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorSize<T>, kGroups = kThreads / kLanes;
  const int lane = threadIdx.x % kLanes;
  A d_gamma[kVectors][kVector] = {}, d_beta[kVectors][kVector] = {};

  const int64_t first = int64_t(blockIdx.x) * kGroups + threadIdx.x / kLanes;
  for (int64_t segment = first; segment - threadIdx.x % 32 / kLanes < p.count;
       segment += int64_t(gridDim.x) * kGroups) {
    const bool active = segment < p.count;
    const T* const x = p.x.at(segment, p.groups, p.width);
    const T* const d_y = p.d_y.at(segment, p.groups, p.width);
    A xhat[kVectors][kVector] = {}, a[kVectors][kVector] = {};  // a: d_y, then d_y * gamma
    A mean = 0, rstd = 0;
    if (active) {
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int c = (lane + i * kLanes) * kVector;
        if (c >= p.width) continue;
        load_vector(x + c, xhat[i]);
        load_vector(d_y + c, a[i]);
      }
      const A* const stats = p.stats.data + segment * p.stats.row_stride;
      mean = stats[0];
      rstd = stats[1];
    }
    A sum = 0, product = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      A gamma[kVector] = {};  // from the cache each time: registers are for the sums
      if (c < p.width) load_vector(p.gamma + c, gamma);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        xhat[i][k] = (xhat[i][k] - mean) * rstd;  // lanes beyond the width: times a = 0 below
        d_gamma[i][k] += a[i][k] * xhat[i][k];
        d_beta[i][k] += a[i][k];
        a[i][k] *= gamma[k];
        sum += a[i][k];
        product += a[i][k] * xhat[i][k];
      }
    }
    const A mean_a = sum_lanes<kLanes>(sum) / A(p.width), mean_product = sum_lanes<kLanes>(product) / A(p.width);
    if (!active) continue;
    T* const d_x = p.d_x.at(segment, p.groups, p.width);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int c = (lane + i * kLanes) * kVector;
      if (c >= p.width) continue;
      A added[kVector] = {};
      if (p.d_residual.data) load_vector(p.d_residual.at(segment, p.groups, p.width) + c, added);
#pragma unroll
      for (int k = 0; k < kVector; ++k) added[k] += rstd * (a[i][k] - mean_a - xhat[i][k] * mean_product);
      store_vector(d_x + c, added);
    }
  }

  if (!p.partials) return;
  extern __shared__ double shared[];
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
  for (int64_t c = threadIdx.x; c < 2 * p.width; c += kThreads) partial[c] = block_sums[c];
}

// One block a segment, any width, any alignment. A thread owns the columns c with c % kThreads == threadIdx.x, also in
// the block's partial sum.
template <class T>
__global__ void __launch_bounds__(kThreads) backward_general(Backward<T> p) {
  using A = Accumulator<T>;
  __shared__ A warp_sums[2][kWarps];
  A* const partial = p.partials ? p.partials + int64_t(blockIdx.x) * 2 * p.width : nullptr;
  for (int64_t c = threadIdx.x; partial && c < p.width; c += kThreads) partial[c] = partial[p.width + c] = 0;
  for (int64_t segment = blockIdx.x; segment < p.count; segment += gridDim.x) {
    const T* const x = p.x.at(segment, p.groups, p.width);
    const T* const d_y = p.d_y.at(segment, p.groups, p.width);
    const T* const d_residual = p.d_residual.data ? p.d_residual.at(segment, p.groups, p.width) : nullptr;
    T* const d_x = p.d_x.at(segment, p.groups, p.width);
    const A* const stats = p.stats.data + segment * p.stats.row_stride;
    const A mean = stats[0], rstd = stats[1];
    A sum = 0, product = 0;
    for (int64_t c = threadIdx.x; c < p.width; c += kThreads) {
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
    for (int64_t c = threadIdx.x; c < p.width; c += kThreads) {
      const A xhat = (widen(x[c]) - mean) * rstd, a = widen(d_y[c]) * widen(p.gamma[c]);
      d_x[c] = narrow<T>(rstd * (a - mean_a - xhat * mean_product) + (d_residual ? widen(d_residual[c]) : A(0)));
    }
    __syncthreads();  // warp_sums is written again
  }
}

// d_gamma and d_beta += the sum of the partial sums. A block of 32 x 8 threads owns 32 of the 2 * width columns; row r
// of threads adds partial sums r, r + 8, ...; then the 8 rows are added in order.
constexpr int kSumColumns = 32, kSumRows = 8;

template <class A>
__global__ void add_partials(const A* partials, int64_t num_partials, int64_t width, A* d_gamma, A* d_beta) {
  __shared__ A sums[kSumRows][kSumColumns];
  const int64_t column = int64_t(blockIdx.x) * kSumColumns + threadIdx.x;
  A sum = 0;
  if (column < 2 * width)
    for (int64_t b = threadIdx.y; b < num_partials; b += kSumRows) sum += partials[b * 2 * width + column];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= 2 * width) return;
  for (int r = 1; r < kSumRows; ++r) sum += sums[r][threadIdx.x];
  if (column < width && d_gamma) d_gamma[column] += sum;
  if (column >= width && d_beta) d_beta[column - width] += sum;
}

template <class T>
bool is_vectorisable(const Tensor& tensor, int64_t width) {
  return tensor.empty() || (reinterpret_cast<uintptr_t>(tensor.data()) % 16 == 0 && width % kVectorSize<T> == 0 &&
                            (tensor.rows() <= 1 || tensor.row_stride() % kVectorSize<T> == 0));
}

/// Calls f<lanes a segment, vectors a lane>() for the narrowest layout that holds a segment in at most kMostBytes of
/// registers a lane and array; false if there is none.
template <class T, int kMostBytes, class F>
bool with_layout(int64_t width, F&& f) {
  const int64_t vectors = width / kVectorSize<T>;
  const auto try_layout = [&]<int kLanes, int kVectors>() {
    if constexpr (kVectors * kVectorSize<T> * int(sizeof(Accumulator<T>)) <= kMostBytes)
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

int grid_of(int64_t num_segments, int64_t segments_per_block) {
  constexpr int64_t kMostBlocks = int64_t{1} << 30;
  return int(std::min((num_segments + segments_per_block - 1) / segments_per_block, kMostBlocks));
}

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

}  // namespace

void cuda::launch(Backend, Context& ctx, const LayerNormForward& op, Tensor) {
  dispatch_storage(op.x.dtype(), [&]<class T>() {
    const Forward<T> p{.count = op.x.rows() * op.groups,
                       .groups = op.groups,
                       .width = op.gamma.size(),
                       .eps = Accumulator<T>(op.eps),
                       .x = segments_of<T>(op.x),
                       .y = segments_of<T>(op.y),
                       .gamma = op.gamma.as<T>(),
                       .beta = op.beta ? op.beta.as<T>() : nullptr,
                       .stats = segments_of<Accumulator<T>>(op.stats)};
    if (p.count == 0 || p.width == 0) return;
    const cudaStream_t stream = stream_of(ctx);
    const bool vectors = is_vectorisable<T>(op.x, p.width) && is_vectorisable<T>(op.y, p.width) &&
                         is_vectorisable<T>(op.gamma, p.width) && is_vectorisable<T>(op.beta, p.width);
    const bool done =
        vectors && with_layout<T, 256>(p.width, [&]<int kLanes, int kVectors>() {
          forward_registers<T, kLanes, kVectors><<<grid_of(p.count, kThreads / kLanes), kThreads, 0, stream>>>(p);
        });
    if (!done) forward_general<T><<<grid_of(p.count, kWarps), kThreads, 0, stream>>>(p);
    BOREAS_CUDA_LAUNCHED(op.name);
  });
}

void cuda::launch(Backend, Context& ctx, const LayerNormBackward& op, Tensor scratch) {
  dispatch_storage(op.x.dtype(), [&]<class T>() {
    using A = Accumulator<T>;
    const bool want_sums = op.d_gamma || op.d_beta;
    const Backward<T> p{.count = op.x.rows() * op.groups,
                        .groups = op.groups,
                        .width = op.gamma.size(),
                        .x = segments_of<T>(op.x),
                        .d_y = segments_of<T>(op.d_y),
                        .d_residual = segments_of<T>(op.d_residual),
                        .d_x = segments_of<T>(op.d_x),
                        .gamma = op.gamma.as<T>(),
                        .stats = segments_of<A>(op.stats),
                        .partials = want_sums ? static_cast<A*>(scratch.data()) : nullptr};
    if (p.count == 0 || p.width == 0) return;
    const cudaStream_t stream = stream_of(ctx);
    const int blocks = int(layer_norm_blocks(p.count, p.width));
    const bool vectors = is_vectorisable<T>(op.x, p.width) && is_vectorisable<T>(op.d_y, p.width) &&
                         is_vectorisable<T>(op.d_residual, p.width) && is_vectorisable<T>(op.d_x, p.width) &&
                         is_vectorisable<T>(op.gamma, p.width);
    const bool done = vectors && with_layout<T, 128>(p.width, [&]<int kLanes, int kVectors>() {
                        const size_t shared_bytes = want_sums ? 2 * p.width * sizeof(A) : 0;
                        backward_registers<T, kLanes, kVectors><<<blocks, kThreads, shared_bytes, stream>>>(p);
                      });
    if (!done) backward_general<T><<<blocks, kThreads, 0, stream>>>(p);
    BOREAS_CUDA_LAUNCHED(op.name);
    if (!want_sums) return;
    add_partials<A><<<grid_of(2 * p.width, kSumColumns), dim3(kSumColumns, kSumRows), 0, stream>>>(
        p.partials, blocks, p.width, op.d_gamma ? op.d_gamma.as<A>() : nullptr,
        op.d_beta ? op.d_beta.as<A>() : nullptr);
    BOREAS_CUDA_LAUNCHED(op.name);
  });
}

}  // namespace boreas
