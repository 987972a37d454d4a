// Kernels of reductions, and their launches: each block sums chunks of its own, in an order that depends on the shape
// only; a second kernel of one block adds the partial sums up.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/map.cuh"
#include "kernels/reduce/reduce.h"
#include "kernels/reduce/reduce_blocks.h"

namespace boreas::cuda {

inline constexpr int kReduceThreads = 256;

struct Square {
  using Result = double;
  __device__ double operator()(float x) const { return double(x) * double(x); }
};
struct IsNonFinite {
  using Result = int64_t;
  __device__ int64_t operator()(float x) const { return !isfinite(x); }
};

template <int kSize, class T, class F>
__global__ void __launch_bounds__(kReduceThreads, kReduceBlocksResident)
    reduce_chunks(Chunks<kSize> chunks, F f, RowsOf<const T> x, typename F::Result* partials) {
  constexpr int kChunks = kChunksAThread<kSize>;
  __shared__ typename F::Result shared[kReduceThreads / 32];
  typename F::Result sum = 0;
  for (int64_t first = int64_t(blockIdx.x) * kChunks * kReduceThreads; first < chunks.count;
       first += int64_t(gridDim.x) * kChunks * kReduceThreads) {
    float in[kChunks][kSize];
    int64_t available[kChunks];
#pragma unroll
    for (int u = 0; u < kChunks; ++u) {
      const int64_t chunk = first + u * kReduceThreads + threadIdx.x;
      available[u] = 0;
      if (chunk >= chunks.count) continue;
      const Place place = chunks.place(chunk);
      available[u] = chunks.columns - place.column;
      load_elements<kSize>(x.at(place.row, place.column), available[u], in[u]);
    }
#pragma unroll
    for (int u = 0; u < kChunks; ++u)
#pragma unroll
      for (int k = 0; k < kSize; ++k)
        if (k < available[u]) sum += f(in[u][k]);
  }
  sum = sum_block<kReduceThreads>(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

template <class R>
__global__ void __launch_bounds__(kReduceThreads) reduce_partials(const R* partials, int64_t count, R* out) {
  const R sum = sum_strided<kReduceThreads>(partials, count, 1);
  if (threadIdx.x == 0) *out = sum;
}

// --- launches ---

template <class F>
void reduce(Context& ctx, const char* name, F f, const Tensor& x, const Tensor& out, const Tensor& scratch) {
  using Result = typename F::Result;
  const int64_t blocks = reduce_blocks(x.size());
  // The only block of a small tensor writes the result itself.
  Result* const sums = blocks == 1 ? out.as<Result>() : static_cast<Result*>(scratch.data());
  dispatch_stored(name, x.dtype(), [&]<class T>() {
    with_chunks<16 / int(sizeof(T))>({x}, [&]<int kSize>(Chunks<kSize> chunks) {
      launch_kernel(reduce_chunks<kSize, T, F>, unsigned(blocks), kReduceThreads, 0, stream_of(ctx), chunks, f,
                    rows_of<const T>(x), sums);
    });
  });
  if (blocks > 1)
    launch_kernel(reduce_partials<Result>, 1, kReduceThreads, 0, stream_of(ctx), sums, blocks, out.as<Result>());
}

inline void enqueue(Context& ctx, const SumOfSquares& op, Tensor scratch) {
  reduce(ctx, op.name, Square{}, op.x, op.out, scratch);
}

inline void enqueue(Context& ctx, const CountNonFinite& op, Tensor scratch) {
  reduce(ctx, op.name, IsNonFinite{}, op.x, op.out, scratch);
}

}  // namespace boreas::cuda
