// Windowed attention on the CPU. Scores are made, used and forgotten in tiles of kRows rows by kColumns columns that
// fit in the first-level cache. One head is done at a time: its keys (and whatever else stands on the right of a
// product) are packed once, then threads take tiles of rows. In forward and for d_q a tile's rows are queries and its
// columns keys; for d_k and d_v the tile is transposed, so that every sum is made by one thread in one order.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/scratch.h"
#include "kernels/core/simd.h"
#include "kernels/core/small_product.h"
#include "kernels/core/vector_math.h"
#include "kernels/window_attention/window_attention.h"

namespace boreas {

namespace {

constexpr int64_t kRows = 32, kColumns = 64;

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
constexpr int64_t round_down(int64_t n, int64_t step) { return n / step * step; }

// --- one head of an array ---

enum class Side : uint8_t { queries, keys };

// With `side` as rows, and the other as columns.
template <class T>
struct Sizes {
  int64_t num_rows, num_columns;
  int64_t shift;  // row i stands where column i + shift does
  int64_t num_heads, head_size, padded_size, padded_columns, window;
  T scale;
  template <class Op>
  Sizes(const Op& op, Side side)
      : num_rows(side == Side::queries ? op.q.rows() : op.k.rows()),
        num_columns(side == Side::queries ? op.k.rows() : op.q.rows()),
        shift(side == Side::queries ? op.first_query : -op.first_query),
        num_heads(op.num_heads),
        head_size(op.q.cols() / op.num_heads),
        padded_size(round_up(head_size, simd::kLanes<T>)),
        padded_columns(round_up(num_columns, kColumns)),
        window(op.window < 0 ? op.k.rows() : std::min(op.window, op.k.rows())),
        scale(T(op.scale > 0 ? op.scale : 1 / std::sqrt(double(head_size)))) {}

  int64_t num_row_tiles() const { return (num_rows + kRows - 1) / kRows; }
  int64_t num_column_tiles() const { return padded_columns / kColumns; }
  Range rows_of(int64_t tile) const { return {tile * kRows, std::min((tile + 1) * kRows, num_rows)}; }
  Range columns_of(int64_t tile) const { return {tile * kColumns, std::min((tile + 1) * kColumns, num_columns)}; }
  // The columns that row i attends to, or that attend to it.
  Range partners(int64_t i) const {
    const int64_t begin = std::clamp<int64_t>(i + shift - window, 0, num_columns);
    return {begin, std::clamp<int64_t>(i + shift + window + 1, begin, num_columns)};
  }
};

template <class T>
Matrix<T> head_of(const Tensor& tensor, const Sizes<T>& n, int64_t head) {
  return {tensor.as<T>() + head * n.head_size, tensor.row_stride()};
}

// The columns of a head as the right side of products over them: padded to whole vectors, and copied only where it is
// not already.
template <class T>
struct PackedRows {
  T* storage = nullptr;
  PackedRows(ScratchPieces& pieces, const Sizes<T>& n) {
    if (n.padded_size != n.head_size) storage = pieces.take<T>(n.num_columns * n.padded_size);
  }
  void pack(const Sizes<T>& n, Matrix<T> head, Range rows) const {
    if (!storage) return;
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      T* const target = storage + i * n.padded_size;
      std::copy_n(head.row(i), n.head_size, target);
      std::fill(target + n.head_size, target + n.padded_size, T(0));
    }
  }
  Matrix<const T> from(const Sizes<T>& n, Matrix<T> head, int64_t row) const {
    if (storage) return {storage + row * n.padded_size, n.padded_size};
    return {head.row(row), head.stride};
  }
};

// The columns of a head as the right side of products over channels: tiles of kColumns of them, each transposed, the
// last filled with 0.
template <class T>
struct PackedTransposed {
  T* storage = nullptr;
  PackedTransposed(ScratchPieces& pieces, const Sizes<T>& n)
      : storage(pieces.take<T>(n.padded_columns * n.head_size)) {}
  void pack(const Sizes<T>& n, Matrix<T> head, int64_t tile) const {
    T* const target = storage + tile * kColumns * n.head_size;
    for (int64_t t = 0; t < kColumns; ++t) {
      const int64_t i = tile * kColumns + t;
      for (int64_t c = 0; c < n.head_size; ++c) target[c * kColumns + t] = i < n.num_columns ? head.row(i)[c] : T(0);
    }
  }
  Matrix<const T> from(const Sizes<T>& n, int64_t tile, int64_t column) const {
    return {storage + tile * kColumns * n.head_size + column, kColumns};
  }
};

// Calls f(tile, columns within it) for the column tiles that hold partners of these rows; columns are whole vectors.
template <class T, class F>
void for_column_tiles(const Sizes<T>& n, Range rows, F&& f) {
  const Range all{n.partners(rows.begin).begin, n.partners(rows.end - 1).end};
  if (all.size() <= 0) return;
  for (int64_t tile = all.begin / kColumns; tile * kColumns < all.end; ++tile) {
    const int64_t begin = std::max<int64_t>(all.begin - tile * kColumns, 0);
    const int64_t end = std::min(all.end - tile * kColumns, kColumns);
    f(tile, Range{round_down(begin, simd::kLanes<T>), round_up(end, simd::kLanes<T>)});
  }
}

// Which of `size` columns from sequence position `first` on are partners of row i.
template <class T>
Range valid_columns(const Sizes<T>& n, int64_t i, int64_t first, int64_t size) {
  const Range partners = n.partners(i);
  const int64_t begin = std::clamp<int64_t>(partners.begin - first, 0, size);
  return {begin, std::clamp<int64_t>(partners.end - first, begin, size)};
}

template <class T>
void fill_outside(T* row, Range valid, int64_t size, T value) {
  std::fill(row, row + valid.begin, value);
  std::fill(row + valid.end, row + size, value);
}

template <class T>
void copy_rows(Matrix<const T> from, Matrix<T> to, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from.row(r), columns, to.row(r));
}

// --- forward ---

template <class T>
struct ForwardScratch {
  PackedTransposed<T> k;
  PackedRows<T> v;
  struct PerThread {
    T *scores, *out;  // [kRows, kColumns], [kRows, padded D]
  };
  std::vector<PerThread> threads;
  ForwardScratch(ScratchPieces& pieces, const Sizes<T>& n, int num_threads)
      : k(pieces, n), v(pieces, n), threads(num_threads) {
    for (PerThread& t : threads) t = {pieces.take<T>(kRows * kColumns), pieces.take<T>(kRows * n.padded_size)};
  }
};

// s = exp(scale * s - largest); returns the sum.
template <class T>
T exponentiate(T* s, int64_t size, T scale, T largest) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t j = 0; j < size; ++j) {
    s[j] = vector_math::exp(scale * s[j] - largest);
    total += s[j];
  }
  return total;
}

// The maximum of whole vectors.
template <class T>
T maximum(const T* s, int64_t size) {
  constexpr int kWidth = simd::kLanes<T>;
  simd::Vec<T, kWidth> largest = simd::load<T, kWidth>(s);
  for (int64_t j = kWidth; j < size; j += kWidth) largest = simd::max(largest, simd::load<T, kWidth>(s + j));
  T result = largest[0];
  for (int lane = 1; lane < kWidth; ++lane) result = std::max(result, largest[lane]);
  return result;
}

template <class T>
void forward_rows(const WindowAttentionForward& op, const ForwardScratch<T>& scratch, const Sizes<T>& n, int64_t head,
                  Range rows, const typename ForwardScratch<T>::PerThread& local) {
  constexpr T kNone = -std::numeric_limits<T>::infinity();
  const Matrix<T> q = head_of(op.q, n, head), v = head_of(op.v, n, head), o = head_of(op.o, n, head);
  const Matrix<T> scores{local.scores, kColumns}, out{local.out, n.padded_size};
  T largest[kRows], total[kRows];
  std::fill_n(largest, kRows, kNone);
  std::fill_n(total, kRows, T(0));
  std::fill_n(local.out, kRows * n.padded_size, T(0));

  for_column_tiles(n, rows, [&](int64_t tile, Range columns) {
    const int64_t first = tile * kColumns + columns.begin, size = columns.size();
    multiply<T, simd::kLanes<T>, false>(rows.size(), size, n.head_size, q.at(rows.begin, 0),
                                        scratch.k.from(n, tile, columns.begin), scores);
    for (int64_t r = 0; r < rows.size(); ++r) {
      T* const s = scores.row(r);
      fill_outside(s, valid_columns(n, rows.begin + r, first, size), size, kNone);
      const T largest_here = maximum(s, size);
      if (largest_here == kNone) {  // no partner in this tile
        std::fill_n(s, size, T(0));
        continue;
      }
      const T new_largest = std::max(largest[r], n.scale * largest_here);
      const T correction = std::exp(largest[r] - new_largest);
      largest[r] = new_largest;
      total[r] = total[r] * correction + exponentiate(s, size, n.scale, new_largest);
      if (correction != T(1))
        for (int64_t c = 0; c < n.padded_size; ++c) out.row(r)[c] *= correction;
    }
    const int64_t depth = std::min(size, n.num_columns - first);
    multiply<T, simd::kLanes<T>, true>(rows.size(), n.padded_size, depth, scores, scratch.v.from(n, v, first), out);
  });

  for (int64_t r = 0; r < rows.size(); ++r) {
    const int64_t i = rows.begin + r;
    for (int64_t c = 0; c < n.head_size; ++c) o.row(i)[c] = out.row(r)[c] / total[r];
    op.stats.row<T>(i)[head] = largest[r] + std::log(total[r]);
  }
}

// --- backward ---

template <class T>
struct BackwardScratch {
  PackedTransposed<T> q_columns, k_columns, v_columns, g_columns;
  PackedRows<T> q, k, g;
  T *stats, *mean;  // of one head: log-sum-exp, and D = g . o
  struct PerThread {
    T *scores, *d_scores, *out, *more_out;  // [kRows, kColumns] twice, [kRows, padded D] twice
  };
  std::vector<PerThread> threads;
  BackwardScratch(ScratchPieces& pieces, const Sizes<T>& n, const Sizes<T>& by_key, int num_threads)
      : q_columns(pieces, by_key),
        k_columns(pieces, n),
        v_columns(pieces, n),
        g_columns(pieces, by_key),
        q(pieces, by_key),
        k(pieces, n),
        g(pieces, by_key),
        stats(pieces.take<T>(by_key.padded_columns)),
        mean(pieces.take<T>(by_key.padded_columns)),
        threads(num_threads) {
    for (PerThread& t : threads)
      t = {pieces.take<T>(kRows * kColumns), pieces.take<T>(kRows * kColumns), pieces.take<T>(kRows * n.padded_size),
           pieces.take<T>(kRows * n.padded_size)};
  }
};

// The sizes by keys, of those whose gradients are wanted.
template <class T>
Sizes<T> by_wanted_keys(const WindowAttentionBackward& op, Sizes<T> by_key) {
  by_key.num_rows = op.d_k.rows();
  by_key.shift += op.first_key;
  return by_key;
}

// A tile of queries: d_q.
template <class T>
void backward_queries(const WindowAttentionBackward& op, const BackwardScratch<T>& scratch, const Sizes<T>& n,
                      int64_t head, Range rows, const typename BackwardScratch<T>::PerThread& local) {
  const Matrix<T> q = head_of(op.q, n, head), k = head_of(op.k, n, head), g = head_of(op.d_o, n, head);
  const Matrix<T> scores{local.scores, kColumns}, d_scores{local.d_scores, kColumns}, out{local.out, n.padded_size};
  std::fill_n(local.out, kRows * n.padded_size, T(0));
  for_column_tiles(n, rows, [&](int64_t tile, Range columns) {
    const int64_t first = tile * kColumns + columns.begin, size = columns.size();
    multiply<T, simd::kLanes<T>, false>(rows.size(), size, n.head_size, q.at(rows.begin, 0),
                                        scratch.k_columns.from(n, tile, columns.begin), scores);
    multiply<T, simd::kLanes<T>, false>(rows.size(), size, n.head_size, g.at(rows.begin, 0),
                                        scratch.v_columns.from(n, tile, columns.begin), d_scores);
    for (int64_t r = 0; r < rows.size(); ++r) {
      const int64_t i = rows.begin + r;
      const T stats = scratch.stats[i], mean = scratch.mean[i];
      const T* const s = scores.row(r);
      T* const ds = d_scores.row(r);
#pragma omp simd
      for (int64_t j = 0; j < size; ++j) ds[j] = n.scale * vector_math::exp(n.scale * s[j] - stats) * (ds[j] - mean);
      fill_outside(ds, valid_columns(n, i, first, size), size, T(0));
    }
    const int64_t depth = std::min(size, n.num_columns - first);
    multiply<T, simd::kLanes<T>, true>(rows.size(), n.padded_size, depth, d_scores, scratch.k.from(n, k, first), out);
  });
  const Matrix<T> d_q = head_of(op.d_q, n, head);
  copy_rows<T>(out, d_q.at(rows.begin, 0), rows.size(), n.head_size);
}

// A tile of keys: d_k and d_v. Rows are keys, columns queries.
template <class T>
void backward_keys(const WindowAttentionBackward& op, const BackwardScratch<T>& scratch, const Sizes<T>& n,
                   int64_t head, Range rows, const typename BackwardScratch<T>::PerThread& local) {
  const Matrix<T> q = head_of(op.q, n, head), g = head_of(op.d_o, n, head);
  const Range wanted{op.first_key, op.first_key + n.num_rows};
  const Matrix<T> k = head_of(op.k.slice(wanted), n, head), v = head_of(op.v.slice(wanted), n, head);
  const Matrix<T> weights{local.scores, kColumns}, d_scores{local.d_scores, kColumns};
  const Matrix<T> k_out{local.out, n.padded_size}, v_out{local.more_out, n.padded_size};
  std::fill_n(local.out, kRows * n.padded_size, T(0));
  std::fill_n(local.more_out, kRows * n.padded_size, T(0));
  for_column_tiles(n, rows, [&](int64_t tile, Range columns) {
    const int64_t first = tile * kColumns + columns.begin, size = columns.size();
    multiply<T, simd::kLanes<T>, false>(rows.size(), size, n.head_size, k.at(rows.begin, 0),
                                        scratch.q_columns.from(n, tile, columns.begin), weights);
    multiply<T, simd::kLanes<T>, false>(rows.size(), size, n.head_size, v.at(rows.begin, 0),
                                        scratch.g_columns.from(n, tile, columns.begin), d_scores);
    const T *const stats = scratch.stats + first, *const mean = scratch.mean + first;
    for (int64_t r = 0; r < rows.size(); ++r) {
      T *const w = weights.row(r), *const ds = d_scores.row(r);
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) {
        w[i] = vector_math::exp(n.scale * w[i] - stats[i]);
        ds[i] = n.scale * w[i] * (ds[i] - mean[i]);
      }
      const Range valid = valid_columns(n, rows.begin + r, first, size);
      fill_outside(w, valid, size, T(0));
      fill_outside(ds, valid, size, T(0));
    }
    const int64_t depth = std::min(size, n.num_columns - first);
    multiply<T, simd::kLanes<T>, true>(rows.size(), n.padded_size, depth, d_scores, scratch.q.from(n, q, first), k_out);
    multiply<T, simd::kLanes<T>, true>(rows.size(), n.padded_size, depth, weights, scratch.g.from(n, g, first), v_out);
  });
  const Matrix<T> d_k = head_of(op.d_k, n, head), d_v = head_of(op.d_v, n, head);
  copy_rows<T>(k_out, d_k.at(rows.begin, 0), rows.size(), n.head_size);
  copy_rows<T>(v_out, d_v.at(rows.begin, 0), rows.size(), n.head_size);
}

}  // namespace

int64_t cpu::scratch_bytes(const WindowAttentionForward& op) {
  ScratchPieces pieces;
  dispatch_float(op.q.dtype(),
                 [&]<class T>() { ForwardScratch<T>(pieces, Sizes<T>(op, Side::queries), omp_get_max_threads()); });
  return pieces.bytes();
}

int64_t cpu::scratch_bytes(const WindowAttentionBackward& op) {
  ScratchPieces pieces;
  dispatch_float(op.q.dtype(), [&]<class T>() {
    BackwardScratch<T>(pieces, Sizes<T>(op, Side::queries), Sizes<T>(op, Side::keys), omp_get_max_threads());
  });
  return pieces.bytes();
}

namespace cpu {

void launch(Backend, Context&, const WindowAttentionForward& op, Tensor scratch_memory) {
  dispatch_float(op.q.dtype(), [&]<class T>() {
    const Sizes<T> n(op, Side::queries);
    ScratchPieces pieces(scratch_memory.data());
    const ForwardScratch<T> scratch(pieces, n, omp_get_max_threads());
#pragma omp parallel num_threads(int(scratch.threads.size()))
    for (int64_t head = 0; head < n.num_heads; ++head) {
#pragma omp for schedule(static)
      for (int64_t tile = 0; tile < n.num_column_tiles(); ++tile) {
        scratch.k.pack(n, head_of(op.k, n, head), tile);
        scratch.v.pack(n, head_of(op.v, n, head), n.columns_of(tile));
      }
#pragma omp for schedule(static)
      for (int64_t tile = 0; tile < n.num_row_tiles(); ++tile)
        forward_rows(op, scratch, n, head, n.rows_of(tile), scratch.threads[omp_get_thread_num()]);
    }
  });
}

void launch(Backend, Context&, const WindowAttentionBackward& op, Tensor scratch_memory) {
  dispatch_float(op.q.dtype(), [&]<class T>() {
    const Sizes<T> n(op, Side::queries), by_key = by_wanted_keys(op, Sizes<T>(op, Side::keys));
    ScratchPieces pieces(scratch_memory.data());
    const BackwardScratch<T> scratch(pieces, n, by_key, omp_get_max_threads());
    std::fill(scratch.stats + n.num_rows, scratch.stats + by_key.padded_columns, T(0));
    std::fill(scratch.mean + n.num_rows, scratch.mean + by_key.padded_columns, T(0));
#pragma omp parallel num_threads(int(scratch.threads.size()))
    for (int64_t head = 0; head < n.num_heads; ++head) {
      const Matrix<T> q = head_of(op.q, n, head), k = head_of(op.k, n, head), v = head_of(op.v, n, head);
      const Matrix<T> g = head_of(op.d_o, n, head), o = head_of(op.o, n, head);
#pragma omp for schedule(static)
      for (int64_t tile = 0; tile < n.num_column_tiles(); ++tile) {
        scratch.k_columns.pack(n, k, tile), scratch.v_columns.pack(n, v, tile);
        scratch.k.pack(n, k, n.columns_of(tile));
      }
#pragma omp for schedule(static)
      for (int64_t tile = 0; tile < by_key.num_column_tiles(); ++tile) {
        const Range rows = by_key.columns_of(tile);
        scratch.q_columns.pack(by_key, q, tile), scratch.g_columns.pack(by_key, g, tile);
        scratch.q.pack(by_key, q, rows), scratch.g.pack(by_key, g, rows);
        for (int64_t i = rows.begin; i < rows.end; ++i) {
          T mean = 0;
          for (int64_t c = 0; c < n.head_size; ++c) mean += g.row(i)[c] * o.row(i)[c];
          scratch.mean[i] = mean;
          scratch.stats[i] = op.stats.row<T>(i)[head];
        }
      }
      const auto& local = scratch.threads[omp_get_thread_num()];
#pragma omp for schedule(static) nowait
      for (int64_t tile = 0; tile < (op.d_q ? n.num_row_tiles() : 0); ++tile)
        backward_queries(op, scratch, n, head, n.rows_of(tile), local);
#pragma omp for schedule(static)
      for (int64_t tile = 0; tile < by_key.num_row_tiles(); ++tile)
        backward_keys(op, scratch, by_key, head, by_key.rows_of(tile), local);
    }
  });
}

}  // namespace cpu
}  // namespace boreas
