// Launching elementwise maps: which tensors are one long row, and how wide loads and stores may be.
#pragma once

#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/walk.cuh"

namespace boreas::cuda {

/// Calls f<T>() with the storage type; the GPU computes in f32 and stores f32 or bf16.
template <class F>
void dispatch_stored(const char* op, DType dtype, F&& f) {
  if (dtype == DType::f32) return f.template operator()<float>();
  if (dtype == DType::bf16) return f.template operator()<bfloat16>();
  BOREAS_FAIL(unsupported, "{}: on a GPU it takes f32 or bf16, not {}", op, to_string(dtype));
}

inline void require_f32(const char* op, DType dtype) {
  BOREAS_CHECK(dtype == DType::f32, unsupported, "{}: on a GPU it takes f32, not {}", op, to_string(dtype));
}

/// Whether these tensors of equal shape can be taken as one row each.
inline bool are_one_row(std::initializer_list<Tensor> tensors) {
  for (const Tensor& tensor : tensors)
    if (tensor && !tensor.contiguous()) return false;
  return true;
}

/// Calls f<kSize>() with the largest chunk that can be moved as words in all the tensors; kMost elements fill 16 bytes.
template <int kMost, class F>
void with_chunk_size(std::initializer_list<Tensor> tensors, bool one_row, F&& f) {
  const auto fits = [&](int64_t size) {
    for (const Tensor& tensor : tensors)
      if (tensor && (reinterpret_cast<uintptr_t>(tensor.data()) % (size * size_of(tensor.dtype())) != 0 ||
                     (!one_row && tensor.rows() > 1 && tensor.row_stride() % size != 0)))
        return false;
    return true;
  };
  if (fits(kMost)) return f.template operator()<kMost>();
  if constexpr (kMost > 2)
    if (fits(2)) return f.template operator()<2>();
  f.template operator()<1>();
}

/// Calls f(chunks): the widest chunks of the rows of these tensors of equal shape, which are one row if all are
/// contiguous.
template <int kMost, class F>
void with_chunks(std::initializer_list<Tensor> tensors, F&& f) {
  const Tensor& first = *tensors.begin();
  const bool one_row = are_one_row(tensors);
  with_chunk_size<kMost>(tensors, one_row, [&]<int kSize>() {
    f(one_row ? Chunks<kSize>(1, first.size()) : Chunks<kSize>(first.rows(), first.cols()));
  });
}

template <int kSize>
unsigned map_blocks(const Chunks<kSize>& chunks) {
  constexpr int64_t kPerBlock = int64_t{kMapThreads} * kChunksAThread<kSize>;
  return unsigned((chunks.count + kPerBlock - 1) / kPerBlock);
}

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

/// y = f(x...) over chunks of rows.
template <int kSize, class Y, class... X, class F>
void launch_map_chunks(Context& ctx, const Chunks<kSize>& chunks, F f, RowsOf<Y> y, RowsOf<X>... x) {
  if constexpr (kSize == 1)
    if (const RowTiles tiles{chunks.count / chunks.per_row, chunks.columns}; tiles.suit())
      return launch_kernel(map_row_tiles<F, Y, X...>, tiles.blocks(), kMapThreads, 0, stream_of(ctx), tiles, f, y,
                           x...);
  launch_kernel(map_chunks<kSize, F, Y, X...>, map_blocks(chunks), kMapThreads, 0, stream_of(ctx), chunks, f, y, x...);
}

/// y = f(x...), element by element, for tensors of equal shape; T are the types of y and the x.
template <class Y, class... X, class F>
void launch_map(Context& ctx, F f, const Tensor& y, const std::same_as<Tensor> auto&... x) {
  if (y.size() == 0) return;
  constexpr int kWidest = std::max({sizeof(Y), sizeof(X)...});
  with_chunks<16 / kWidest>(
      {y, x...}, [&](const auto& chunks) { launch_map_chunks(ctx, chunks, f, rows_of<Y>(y), rows_of<X>(x)...); });
}

/// Calls f<W>(number of words in a row) with the widest word that the bytes of the tensors can be moved in.
template <class F>
void with_word(int64_t row_bytes, std::initializer_list<Tensor> tensors, F&& f) {
  uint64_t places = uint64_t(row_bytes);
  for (const Tensor& tensor : tensors) {
    places |= reinterpret_cast<uintptr_t>(tensor.data());
    if (tensor.rows() > 1) places |= uint64_t(tensor.row_stride() * size_of(tensor.dtype()));
  }
  if (places % 16 == 0) return f.template operator()<Word<16>>(row_bytes / 16);
  if (places % 8 == 0) return f.template operator()<Word<8>>(row_bytes / 8);
  if (places % 4 == 0) return f.template operator()<Word<4>>(row_bytes / 4);
  if (places % 2 == 0) return f.template operator()<Word<2>>(row_bytes / 2);
  f.template operator()<Word<1>>(row_bytes);
}

template <class W>
RowsOf<W> words_of(const Tensor& tensor) {
  return {static_cast<W*>(tensor.data()), tensor.row_stride() * size_of(tensor.dtype()) / int64_t(sizeof(W))};
}

/// Copies rows of words; x may have row ids.
template <class W>
void launch_copy_words(Context& ctx, int64_t rows, int64_t words, RowsOf<const W> x, RowsOf<W> y) {
  if constexpr (sizeof(W) <= 8)
    if (const RowTiles tiles{rows, words}; tiles.suit())
      return launch_kernel(copy_row_tiles<W>, tiles.blocks(), kMapThreads, 0, stream_of(ctx), tiles, x, y);
  const Chunks<1> chunks(rows, words);
  launch_kernel(copy_words<W>, map_blocks(chunks), kMapThreads, 0, stream_of(ctx), chunks, x, y);
}

/// y = x, of the same type and shape.
inline void copy_bytes_of_rows(Context& ctx, const Tensor& x, const Tensor& y) {
  if (y.size() == 0 || x.data() == y.data()) return;
  if (x.contiguous() && y.contiguous())
    return copy_bytes(ctx.compute(), y.data(), y.device(), x.data(), x.device(), y.bytes());
  with_word(y.cols() * size_of(y.dtype()), {x, y}, [&]<class W>(int64_t words) {
    launch_copy_words<W>(ctx, y.rows(), words, words_of<const W>(x), words_of<W>(y));
  });
}

}  // namespace boreas::cuda
