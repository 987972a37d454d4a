// Rows by index on the GPU: copies of words, and maps, whose rows have ids.
#pragma once

#include "kernels/cuda/map.cuh"
#include "kernels/gather_rows/gather_rows.h"

namespace boreas::cuda {

inline void enqueue(Context& ctx, const GatherRows& op, Tensor) {
  if (op.y.size() == 0) return;
  with_word(op.y.cols() * size_of(op.y.dtype()), {op.x, op.y}, [&]<class W>(int64_t words) {
    const Chunks<1> chunks(op.y.rows(), words);
    RowsOf<const W> from = words_of<const W>(op.x);
    from.ids = op.ids.as<int32_t>();
    launch_kernel(copy_words<W>, map_blocks(chunks), kMapThreads, 0, stream_of(ctx), chunks, from, words_of<W>(op.y));
  });
}

inline void enqueue(Context& ctx, const ScatterAddRows& op, Tensor) {
  if (op.x.size() == 0) return;
  dispatch_stored(op.name, op.x.dtype(), [&]<class T>() {
    with_chunk_size<4>({op.x, op.y}, [&]<int kSize>() {
      const Chunks<kSize> chunks(op.x.rows(), op.x.cols());
      RowsOf<float> sums = rows_of<float>(op.y);
      sums.ids = op.ids.as<int32_t>();
      launch_kernel(map_chunks<kSize, Sum, float, const float, const T>, map_blocks(chunks), kMapThreads, 0,
                    stream_of(ctx), chunks, Sum{}, sums, {sums.data, sums.stride, sums.ids}, rows_of<const T>(op.x));
    });
  });
}

}  // namespace boreas::cuda
