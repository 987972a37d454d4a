// Rows by index on the GPU: copies of words, and maps, whose rows have ids.
#pragma once

#include "kernels/cuda/map.cuh"
#include "kernels/gather_rows/gather_rows.h"

namespace boreas::cuda {

inline void enqueue(Context& ctx, const GatherRows& op, Tensor) {
  if (op.y.size() == 0) return;
  with_word(op.y.cols() * size_of(op.y.dtype()), {op.x, op.y}, [&]<class W>(int64_t words) {
    RowsOf<const W> from = words_of<const W>(op.x);
    from.ids = op.ids.as<int32_t>();
    launch_copy_words<W>(ctx, op.y.rows(), words, from, words_of<W>(op.y));
  });
}

inline void enqueue(Context& ctx, const ScatterAddRows& op, Tensor) {
  if (op.x.size() == 0) return;
  dispatch_stored(op.name, op.x.dtype(), [&]<class T>() {
    with_chunk_size<4>({op.x, op.y}, false, [&]<int kSize>() {
      RowsOf<float> sums = rows_of<float>(op.y);
      sums.ids = op.ids.as<int32_t>();
      launch_map_chunks(ctx, Chunks<kSize>(op.x.rows(), op.x.cols()), Sum{}, sums,
                        RowsOf<const float>{sums.data, sums.stride, sums.ids}, rows_of<const T>(op.x));
    });
  });
}

}  // namespace boreas::cuda
