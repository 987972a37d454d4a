// Graph attention on the CPU. Forward and the destination pass of backward give each thread a contiguous range of
// destinations, the source pass a range of sources, cut so that the work is even. Destinations are done in blocks of
// kBlock, so that the products with W_edge are products of matrices; everything about a block stays in the first-level
// cache.
//
// Sums over the channels of a head run along the channels. What has one value per edge and head (scores, alpha, dS) is
// stored with the heads contiguous, padded to whole vectors. What has one value per head and attribute (W_h^T q, sums
// of alpha a) is stored with the attributes in lanes: see AttributeLanes.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/core/scratch.h"
#include "kernels/core/simd.h"
#include "kernels/core/small_product.h"
#include "kernels/core/vector_math.h"
#include "kernels/graph_attention/graph_attention.h"
#include "kernels/graph_attention/graph_attention_cuda.h"

namespace boreas {

namespace {

constexpr int kLanes = 8;
constexpr int64_t kBlock = 8;
constexpr int64_t kEdgesAhead = 4;  // rows of the other end of an edge are fetched this early: their order is irregular
template <class T>
using Lanes = simd::Vec<T, kLanes>;

template <class T>
Lanes<T> load(const T* x) {
  return simd::load<T, kLanes>(x);
}
template <class T>
void store(T* x, const Lanes<T>& v) {
  simd::store<T, kLanes>(x, v);
}

template <class T>
Matrix<T> matrix_of(const Tensor& tensor) {
  return tensor.empty() ? Matrix<T>{} : Matrix<T>{tensor.as<T>(), tensor.row_stride()};
}

template <class T>
void prefetch(const T* row, int64_t size) {
  for (int64_t c = 0; c < size; c += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + c);
}

// How A attributes lie in vectors: the last vector ends with the last attribute and so overlaps the one before. Rows of
// attributes are then read as they are, without padding; of the two lanes that meet the same attribute the first has
// weight 0. Fewer attributes than lanes are copied to padded rows first.
struct AttributeLanes {
  int64_t num_attributes, num_vectors, shift;
  explicit AttributeLanes(int64_t n)
      : num_attributes(n), num_vectors((n + kLanes - 1) / kLanes), shift(n < kLanes ? 0 : num_vectors * kLanes - n) {}
  bool copied() const { return num_attributes < kLanes; }
  int64_t size() const { return num_vectors * kLanes; }
  // Where vector i starts in a row of attributes.
  int64_t start(int64_t i) const { return i + 1 == num_vectors ? i * kLanes - shift : i * kLanes; }
  // The lane whose weight belongs to attribute a.
  int64_t lane_of(int64_t a) const { return a < start(num_vectors - 1) ? a : a + shift; }
};

struct Sizes {
  int64_t num_edges, num_heads, padded_heads, head_size, num_channels;
  AttributeLanes lanes;
  int64_t row_size;  // values of a destination that has one per head and lane
  template <class Op>
  explicit Sizes(const Op& op)
      : num_edges(op.graph->num_edges()),
        num_heads(op.num_heads),
        padded_heads((op.num_heads + kLanes - 1) / kLanes * kLanes),
        head_size(op.q.cols() / op.num_heads),
        num_channels(op.q.cols()),
        lanes(op.edge_attributes.cols()),
        row_size(num_heads * lanes.size()) {}
};

// --- scratch ---

// W_edge and the edge attributes as the loops want them.
template <class T>
struct EdgeTerms {
  T *weights, *transposed_weights;  // [H*D, lanes], [lanes, H*D]
  T* copied_attributes;             // [M, lanes], only if there are fewer attributes than lanes
  EdgeTerms(ScratchPieces& pieces, const Sizes& n)
      : weights(pieces.take<T>(n.num_channels * n.lanes.size())),
        transposed_weights(pieces.take<T>(n.num_channels * n.lanes.size())),
        copied_attributes(pieces.take<T>(n.lanes.copied() ? n.num_edges * n.lanes.size() : 0)) {}
  void fill(const Sizes& n, const Tensor& w_edge, const Tensor& attributes) const {
    std::fill_n(weights, n.num_channels * n.lanes.size(), T(0));
    std::fill_n(transposed_weights, n.num_channels * n.lanes.size(), T(0));
    for (int64_t channel = 0; channel < n.num_channels; ++channel)
      for (int64_t a = 0; a < n.lanes.num_attributes; ++a) {
        const int64_t lane = n.lanes.lane_of(a);
        weights[channel * n.lanes.size() + lane] = w_edge.row<T>(channel)[a];
        transposed_weights[lane * n.num_channels + channel] = w_edge.row<T>(channel)[a];
      }
    if (!n.lanes.copied() || n.lanes.size() == 0) return;
    const Matrix<T> from = matrix_of<T>(attributes);
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < n.num_edges; ++m) {
      T* const row = copied_attributes + m * kLanes;
      std::copy_n(from.row(m), n.lanes.num_attributes, row);
      std::fill(row + n.lanes.num_attributes, row + kLanes, T(0));
    }
  }
  Matrix<const T> attributes(const Sizes& n, const Tensor& tensor) const {
    if (n.lanes.copied()) return {copied_attributes, kLanes};
    return matrix_of<T>(tensor);
  }
};

template <class T>
struct ForwardScratch {
  EdgeTerms<T> edge;
  T* alpha;  // [M, padded H]
  struct PerThread {
    T *q_edge, *mean_edge, *stats;  // [kBlock, H, lanes] twice, [padded H]
  };
  std::vector<PerThread> threads;
  ForwardScratch(ScratchPieces& pieces, const Sizes& n, int num_threads)
      : edge(pieces, n), alpha(pieces.take<T>(n.num_edges * n.padded_heads)), threads(num_threads) {
    for (PerThread& t : threads)
      t = {pieces.take<T>(kBlock * n.row_size), pieces.take<T>(kBlock * n.row_size), pieces.take<T>(n.padded_heads)};
  }
};

template <class T>
struct BackwardScratch {
  EdgeTerms<T> edge;
  T *alpha, *d_score;  // [M, padded H]; d_score is scale * dS
  struct PerThread {
    T *q_edge, *g_edge, *mean_edge, *d_edge;                 // [kBlock, H, lanes]
    T *stats, *d_attributes;                                 // [padded H], [lanes]
    T *d_weights, *d_bias, *d_weights_total, *d_bias_total;  // [H*D, lanes], [H*D], and again
  };
  std::vector<PerThread> threads;
  BackwardScratch(ScratchPieces& pieces, const Sizes& n, int num_threads)
      : edge(pieces, n),
        alpha(pieces.take<T>(n.num_edges * n.padded_heads)),
        d_score(pieces.take<T>(n.num_edges * n.padded_heads)),
        threads(num_threads) {
    for (PerThread& t : threads) {
      for (T** piece : {&t.q_edge, &t.g_edge, &t.mean_edge, &t.d_edge}) *piece = pieces.take<T>(kBlock * n.row_size);
      t.stats = pieces.take<T>(n.padded_heads);
      t.d_attributes = pieces.take<T>(n.lanes.size());
      for (T** piece : {&t.d_weights, &t.d_weights_total}) *piece = pieces.take<T>(n.num_channels * n.lanes.size());
      for (T** piece : {&t.d_bias, &t.d_bias_total}) *piece = pieces.take<T>(n.num_channels);
    }
  }
};

// --- along the channels of a head; Size is the head size, 0 if it is none of the common ones ---

// Lanes whose sum is x . y.
template <class T, int Size>
Lanes<T> partial_dot(const T* x, const T* y, int64_t size) {
  Lanes<T> total = {};
  if constexpr (Size > 0) {
    for (int c = 0; c < Size; c += kLanes) total += load(x + c) * load(y + c);
  } else {
    int64_t c = 0;
    for (; c + kLanes <= size; c += kLanes) total += load(x + c) * load(y + c);
    for (; c < size; ++c) total[c % kLanes] += x[c] * y[c];
  }
  return total;
}

// A sum of weighted rows of NumHeads neighbouring heads, each with its own weight: in registers for the common head
// sizes, else (one head) where it is to be stored. It begins with what `start`, null or the target, holds, or with 0.
template <class T, int Size, int NumHeads>
class RowSum {
  static constexpr int kWidth = std::min(Size, simd::kLanes<T>), kPerHead = Size / kWidth;
  simd::Vec<T, kWidth> parts_[NumHeads * kPerHead] = {};

 public:
  RowSum(T*, int64_t, const T* start) {
    for (int i = 0; start && i < NumHeads * kPerHead; ++i) parts_[i] = simd::load<T, kWidth>(start + i * kWidth);
  }
  void add(const T* weights, const T* x) {
    for (int i = 0; i < NumHeads * kPerHead; ++i)
      parts_[i] += weights[i / kPerHead] * simd::load<T, kWidth>(x + i * kWidth);
  }
  void store(T* target) const {
    for (int i = 0; i < NumHeads * kPerHead; ++i) simd::store<T, kWidth>(target + i * kWidth, parts_[i]);
  }
};
template <class T>
class RowSum<T, 0, 1> {
  T* target_;
  int64_t size_;

 public:
  RowSum(T* target, int64_t size, const T* start) : target_(target), size_(size) {
    if (!start) std::fill_n(target, size, T(0));
  }
  void add(const T* weight, const T* x) {
#pragma omp simd
    for (int64_t c = 0; c < size_; ++c) target_[c] += *weight * x[c];
  }
  void store(T*) const {}
};

// Calls f.template operator()<NumHeads>(h) for groups of heads, of 64 channels together where there are as many.
template <int Size, class F>
void for_head_groups(int64_t num_heads, F&& f) {
  constexpr int kGroup = Size > 0 ? 64 / Size : 1;
  int64_t h = 0;
  for (; h + kGroup <= num_heads; h += kGroup) f.template operator()<kGroup>(h);
  for (; h < num_heads; ++h) f.template operator()<1>(h);
}

// --- products with W_edge and with attributes ---

// y[i, h, lane] = sum_c W[h*D+c, lane] x[i, h*D+c]: rows of destinations as the edge attributes see them.
template <class T>
void project_to_edges(const Sizes& n, const T* weights, Matrix<const T> x, int64_t rows, T* y) {
  for (int64_t h = 0; h < n.num_heads; ++h)
    multiply<T, kLanes, false>(rows, n.lanes.size(), n.head_size, x.at(0, h * n.head_size),
                               {weights + h * n.head_size * n.lanes.size(), n.lanes.size()},
                               {y + h * n.lanes.size(), n.row_size});
}

// y[i, h*D+c] += sum_lane W[h*D+c, lane] x[i, h, lane]
template <class T>
void add_from_edges(const Sizes& n, const T* transposed_weights, const T* x, int64_t rows, Matrix<T> y) {
  for (int64_t h = 0; h < n.num_heads; ++h) {
    const Matrix<const T> left{x + h * n.lanes.size(), n.row_size};
    const Matrix<const T> right{transposed_weights + h * n.head_size, n.num_channels};
    const Matrix<T> target = y.at(0, h * n.head_size);
    if (n.head_size % kLanes == 0) {
      multiply<T, kLanes, true>(rows, n.head_size, n.lanes.size(), left, right, target);
    } else {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t lane = 0; lane < n.lanes.size(); ++lane)
          for (int64_t c = 0; c < n.head_size; ++c) target.row(r)[c] += left.row(r)[lane] * right.row(lane)[c];
    }
  }
}

// y[h, lane] = sum over the edges of weight[m, h] attributes[m, lane]
template <class T>
void sum_attributes(const Sizes& n, Range edges, const T* weight, Matrix<const T> attributes, T* y) {
  const LeftSide<T> by_head = transposed(Matrix<const T>{weight + edges.begin * n.padded_heads, n.padded_heads});
  for (int64_t i = 0; i < n.lanes.num_vectors; ++i)
    multiply<T, kLanes, false>(n.num_heads, kLanes, edges.size(), by_head, attributes.at(edges.begin, n.lanes.start(i)),
                               {y + i * kLanes, n.lanes.size()});
}

// scores[h] = x_h . y_h + x_edge_h . attributes, for all heads, 8 at a time; 0 for the padding.
template <class T, int Size>
void score_edge(const Sizes& n, const T* x, const T* y, const T* x_edge, const T* attributes, T* scores) {
  const int64_t head_size = Size > 0 ? Size : n.head_size;
  for (int64_t h0 = 0; h0 < n.padded_heads; h0 += kLanes) {
    Lanes<T> parts[kLanes];
#pragma GCC unroll 8
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t h = h0 + lane;
      if (h >= n.num_heads) {
        parts[lane] = Lanes<T>{};
        continue;
      }
      parts[lane] = partial_dot<T, Size>(x + h * head_size, y + h * head_size, head_size);
      for (int64_t i = 0; i < n.lanes.num_vectors; ++i)
        parts[lane] += load(attributes + n.lanes.start(i)) * load(x_edge + h * n.lanes.size() + i * kLanes);
    }
    store(scores + h0, simd::sum_each<T>(parts));
  }
}

// x = exp(x), elementwise.
template <class T>
void exponentiate(T* x, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) x[i] = vector_math::exp(x[i]);
}

// --- the two directions ---

// Typed views of what both directions read.
template <class T>
struct Inputs {
  Sizes n;
  T scale;
  const int64_t* dst_ptr;
  const int32_t* src_of;
  Matrix<T> q, k, v, stats;
  template <class Op>
  explicit Inputs(const Op& op)
      : n(op),
        scale(T(op.scale > 0 ? op.scale : 1 / std::sqrt(double(n.head_size)))),
        dst_ptr(op.graph->dst_ptr.template as<int64_t>() + op.dst().begin),
        src_of(op.graph->src_of.template as<int32_t>()),
        q(matrix_of<T>(op.q)),
        k(matrix_of<T>(op.k)),
        v(matrix_of<T>(op.v)),
        stats(matrix_of<T>(op.stats)) {}
};

// Part t of num_parts contiguous parts of the n nodes that ptr belongs to, whose edges begin at ptr[0]; a node costs as
// much as two edges.
Range even_part(const int64_t* ptr, int64_t n, int64_t t, int64_t num_parts) {
  constexpr int64_t kNodeCost = 2;
  const auto cut = [&](int64_t part) {
    const int64_t goal = ptr[0] + (ptr[n] - ptr[0] + kNodeCost * n) * part / num_parts;
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (ptr[middle] + kNodeCost * middle < goal)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  return {cut(t), t + 1 == num_parts ? n : cut(t + 1)};
}

// Calls f(part, range of nodes) for as many parts as there are threads.
template <class F>
void for_even_parts(int num_parts, const Tensor& ptr, Range nodes, F&& f) {
#pragma omp parallel for schedule(static, 1) num_threads(num_parts)
  for (int part = 0; part < num_parts; ++part) {
    const Range own = even_part(ptr.as<int64_t>() + nodes.begin, nodes.size(), part, num_parts);
    f(part, Range{nodes.begin + own.begin, nodes.begin + own.end});
  }
}

// Calls f(block) for the range in blocks of kBlock.
template <class F>
void for_blocks(Range range, F&& f) {
  for (int64_t begin = range.begin; begin < range.end; begin += kBlock)
    f(Range{begin, std::min(begin + kBlock, range.end)});
}

// f.template operator()<Size>() with the head size if it is a common one, else with 0.
template <class F>
void dispatch_head_size(int64_t head_size, F&& f) {
  switch (head_size) {
    case 8:
      return f.template operator()<8>();
    case 16:
      return f.template operator()<16>();
    case 32:
      return f.template operator()<32>();
    case 64:
      return f.template operator()<64>();
    default:
      return f.template operator()<0>();
  }
}

template <class T, int Size>
void forward_destinations(const GraphAttentionForward& op, const ForwardScratch<T>& scratch, int thread, Range dst) {
  const Inputs<T> in(op);
  const Sizes& n = in.n;
  const auto& local = scratch.threads[thread];
  const Matrix<const T> attributes = scratch.edge.attributes(n, op.edge_attributes);
  const Matrix<T> o = matrix_of<T>(op.o);
  const Matrix<T> r = matrix_of<T>(op.r);
  const T* const bias = op.b_edge ? op.b_edge.as<T>() : nullptr;
  const int64_t padded = n.padded_heads;

  for_blocks(dst, [&](Range block) {
    project_to_edges<T>(n, scratch.edge.weights, in.q.at(block.begin, 0), block.size(), local.q_edge);
    for (int64_t i = block.begin; i < block.end; ++i) {
      const Range edges{in.dst_ptr[i], in.dst_ptr[i + 1]};
      const T* const q_edge = local.q_edge + (i - block.begin) * n.row_size;
      T* const mean_edge = local.mean_edge + (i - block.begin) * n.row_size;
      for (int64_t c = 0; c < n.num_channels; ++c)
        o.row(i)[c] = (op.r ? r.row(i)[c] : T(0)) + (bias && edges.size() > 0 ? bias[c] : T(0));
      if (edges.size() == 0) {
        std::fill_n(mean_edge, n.row_size, T(0));
        std::fill_n(in.stats.row(i), n.num_heads, T(0));
        continue;
      }

      // Scores, their maximum by head, and exp(score - maximum).
      T* const alpha = scratch.alpha + edges.begin * padded;
      for (int64_t m = edges.begin; m < edges.end; ++m) {
        prefetch(in.k.row(in.src_of[std::min(m + kEdgesAhead, n.num_edges - 1)]), n.num_channels);
        prefetch(in.v.row(in.src_of[m]), n.num_channels);
        score_edge<T, Size>(n, in.q.row(i), in.k.row(in.src_of[m]), q_edge, attributes.row(m),
                            scratch.alpha + m * padded);
      }
      for (int64_t h0 = 0; h0 < padded; h0 += kLanes) {
        Lanes<T> largest = load(alpha + h0);
        for (int64_t m = edges.begin + 1; m < edges.end; ++m)
          largest = simd::max(largest, load(scratch.alpha + m * padded + h0));
        for (int64_t m = edges.begin; m < edges.end; ++m) {
          T* const row = scratch.alpha + m * padded + h0;
          store(row, in.scale * (load(row) - largest));
        }
        store(local.stats + h0, in.scale * largest);
      }
      exponentiate(alpha, edges.size() * padded);

      // Softmax, and the statistics that backward starts from.
      for (int64_t h0 = 0; h0 < padded; h0 += kLanes) {
        Lanes<T> total = {};
        for (int64_t m = edges.begin; m < edges.end; ++m) total += load(scratch.alpha + m * padded + h0);
        for (int64_t m = edges.begin; m < edges.end; ++m) {
          T* const row = scratch.alpha + m * padded + h0;
          store(row, load(row) / total);
        }
        for (int64_t h = h0; h < std::min(h0 + kLanes, n.num_heads); ++h)
          in.stats.row(i)[h] = local.stats[h] + std::log(total[h - h0]);
      }

      sum_attributes<T>(n, edges, scratch.alpha, attributes, mean_edge);
      for_head_groups<Size>(n.num_heads, [&]<int NumHeads>(int64_t h) {
        T* const target = o.row(i) + h * n.head_size;
        RowSum<T, Size, NumHeads> total(target, n.head_size, target);
        for (int64_t m = edges.begin; m < edges.end; ++m)
          total.add(scratch.alpha + m * padded + h, in.v.row(in.src_of[m]) + h * n.head_size);
        total.store(target);
      });
    }
    add_from_edges<T>(n, scratch.edge.transposed_weights, local.mean_edge, block.size(), o.at(block.begin, 0));
  });
}

// Gradients of the weights are summed by some blocks of destinations, and these sums into the total, which loses less
// to rounding than one long sum.
template <class T>
class WeightGradients {
  static constexpr int64_t kBlocksPerSum = 32;
  const Sizes& n_;
  const typename BackwardScratch<T>::PerThread& local_;
  int64_t num_blocks_ = 0;

 public:
  WeightGradients(const Sizes& n, const typename BackwardScratch<T>::PerThread& local) : n_(n), local_(local) {
    for (T* weights : {local.d_weights, local.d_weights_total})
      std::fill_n(weights, n.num_channels * n.lanes.size(), T(0));
    for (T* bias : {local.d_bias, local.d_bias_total}) std::fill_n(bias, n.num_channels, T(0));
  }
  // d_W_h += g mean^T + q d^T, over a block.
  void add_block(Matrix<const T> q, Matrix<const T> g, int64_t rows) {
    const auto add = [&](Matrix<const T> x, const T* edge) {
      for (int64_t h = 0; h < n_.num_heads; ++h)
        multiply<T, kLanes, true>(n_.head_size, n_.lanes.size(), rows, transposed(x.at(0, h * n_.head_size)),
                                  {edge + h * n_.lanes.size(), n_.row_size},
                                  {local_.d_weights + h * n_.head_size * n_.lanes.size(), n_.lanes.size()});
    };
    add(g, local_.mean_edge);
    add(q, local_.d_edge);
    if (++num_blocks_ % kBlocksPerSum == 0) flush();
  }
  void add_bias(const T* g) {
#pragma omp simd
    for (int64_t c = 0; c < n_.num_channels; ++c) local_.d_bias[c] += g[c];
  }
  void flush() {
    const auto move = [](T* from, T* to, int64_t size) {
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) to[i] += from[i];
      std::fill_n(from, size, T(0));
    };
    move(local_.d_weights, local_.d_weights_total, n_.num_channels * n_.lanes.size());
    move(local_.d_bias, local_.d_bias_total, n_.num_channels);
  }
};

// Everything but d_k and d_v: leaves alpha and scale * dS of every edge for the source pass.
template <class T, int Size>
void backward_destinations(const GraphAttentionBackward& op, const BackwardScratch<T>& scratch, int thread, Range dst) {
  const Inputs<T> in(op);
  const Sizes& n = in.n;
  const auto& local = scratch.threads[thread];
  const Matrix<const T> attributes = scratch.edge.attributes(n, op.edge_attributes);
  const Matrix<T> d_o = matrix_of<T>(op.d_o), d_q = matrix_of<T>(op.d_q);
  const Matrix<T> d_attributes = matrix_of<T>(op.d_edge_attributes);
  const int64_t padded = n.padded_heads, num_columns = op.d_edge_attributes.cols();
  WeightGradients<T> weight_gradients(n, local);
  std::fill_n(local.stats, padded, T(0));

  for_blocks(dst, [&](Range block) {
    project_to_edges<T>(n, scratch.edge.weights, in.q.at(block.begin, 0), block.size(), local.q_edge);
    project_to_edges<T>(n, scratch.edge.weights, d_o.at(block.begin, 0), block.size(), local.g_edge);
    for (int64_t i = block.begin; i < block.end; ++i) {
      const Range edges{in.dst_ptr[i], in.dst_ptr[i + 1]};
      const int64_t offset = (i - block.begin) * n.row_size;
      const T *const q_edge = local.q_edge + offset, *const g_edge = local.g_edge + offset;
      T *const mean_edge = local.mean_edge + offset, *const d_edge = local.d_edge + offset;
      if (edges.size() == 0) {
        std::fill_n(mean_edge, n.row_size, T(0));
        std::fill_n(d_edge, n.row_size, T(0));
        std::fill_n(d_q.row(i), n.num_channels, T(0));
        continue;
      }

      // The scores again, relative to their log-sum-exp, and p, which waits in the place of dS.
      T* const alpha = scratch.alpha + edges.begin * padded;
      std::copy_n(in.stats.row(i), n.num_heads, local.stats);
      for (int64_t m = edges.begin; m < edges.end; ++m) {
        T *const score = scratch.alpha + m * padded, *const p = scratch.d_score + m * padded;
        const int64_t src_ahead = in.src_of[std::min(m + kEdgesAhead, n.num_edges - 1)];
        prefetch(in.k.row(src_ahead), n.num_channels);
        prefetch(in.v.row(src_ahead), n.num_channels);
        score_edge<T, Size>(n, in.q.row(i), in.k.row(in.src_of[m]), q_edge, attributes.row(m), score);
        score_edge<T, Size>(n, d_o.row(i), in.v.row(in.src_of[m]), g_edge, attributes.row(m), p);
        for (int64_t h0 = 0; h0 < padded; h0 += kLanes)
          store(score + h0, in.scale * load(score + h0) - load(local.stats + h0));
      }
      exponentiate(alpha, edges.size() * padded);

      // alpha sums to one only up to the rounding of scores and stats, which grows with the scores: divide once more.
      for (int64_t h0 = 0; h0 < padded; h0 += kLanes) {
        Lanes<T> total = {}, weighted = {};
        for (int64_t m = edges.begin; m < edges.end; ++m) {
          const Lanes<T> weight = load(scratch.alpha + m * padded + h0);
          total += weight;
          weighted += weight * load(scratch.d_score + m * padded + h0);
        }
        const Lanes<T> inverse = T(1) / total, mean = weighted * inverse;
        for (int64_t m = edges.begin; m < edges.end; ++m) {
          T *const weight = scratch.alpha + m * padded + h0, *const p = scratch.d_score + m * padded + h0;
          const Lanes<T> normalised = load(weight) * inverse;
          store(weight, normalised);
          store(p, in.scale * normalised * (load(p) - mean));
        }
      }

      sum_attributes<T>(n, edges, scratch.alpha, attributes, mean_edge);
      sum_attributes<T>(n, edges, scratch.d_score, attributes, d_edge);
      for_head_groups<Size>(n.num_heads, [&]<int NumHeads>(int64_t h) {
        T* const target = d_q.row(i) + h * n.head_size;
        RowSum<T, Size, NumHeads> total(target, n.head_size, nullptr);
        for (int64_t m = edges.begin; m < edges.end; ++m)
          total.add(scratch.d_score + m * padded + h, in.k.row(in.src_of[m]) + h * n.head_size);
        total.store(target);
      });
      weight_gradients.add_bias(d_o.row(i));

      for (int64_t m = edges.begin; m < edges.end && num_columns > 0; ++m) {
        for (int64_t lane = 0; lane < n.lanes.size(); lane += kLanes) {
          Lanes<T> total = {};
          for (int64_t h = 0; h < n.num_heads; ++h)
            total += scratch.alpha[m * padded + h] * load(g_edge + h * n.lanes.size() + lane) +
                     scratch.d_score[m * padded + h] * load(q_edge + h * n.lanes.size() + lane);
          store(local.d_attributes + lane, total);
        }
        for (int64_t column = 0; column < num_columns; ++column)
          d_attributes.row(m)[column] += local.d_attributes[n.lanes.lane_of(op.first_edge_column + column)];
      }
    }
    add_from_edges<T>(n, scratch.edge.transposed_weights, local.d_edge, block.size(), d_q.at(block.begin, 0));
    weight_gradients.add_block(in.q.at(block.begin, 0), d_o.at(block.begin, 0), block.size());
  });
  weight_gradients.flush();
}

template <class T, int Size>
void backward_sources(const GraphAttentionBackward& op, const BackwardScratch<T>& scratch, Range src) {
  const Sizes n(op);
  const int64_t* const src_ptr = op.graph->src_ptr.as<int64_t>();
  const int32_t *const edge_of = op.graph->edge_of.as<int32_t>(), *const dst_of = op.graph->dst_of.as<int32_t>();
  const Matrix<T> q = matrix_of<T>(op.q), d_o = matrix_of<T>(op.d_o);
  const Matrix<T> d_k = matrix_of<T>(op.d_k), d_v = matrix_of<T>(op.d_v);
  for (int64_t j = src.begin; j < src.end; ++j)
    for_head_groups<Size>(n.num_heads, [&]<int NumHeads>(int64_t h) {
      const int64_t column = h * n.head_size;
      T *const k_target = d_k.row(j) + column, *const v_target = d_v.row(j) + column;
      RowSum<T, Size, NumHeads> k_total(k_target, n.head_size, nullptr), v_total(v_target, n.head_size, nullptr);
      for (int64_t position = src_ptr[j]; position < src_ptr[j + 1]; ++position) {
        const int64_t at = edge_of[position] * n.padded_heads + h, i = dst_of[position];
        const int64_t ahead = dst_of[std::min(position + kEdgesAhead, n.num_edges - 1)];
        prefetch(q.row(ahead) + column, NumHeads * n.head_size);
        prefetch(d_o.row(ahead) + column, NumHeads * n.head_size);
        k_total.add(scratch.d_score + at, q.row(i) + column);
        v_total.add(scratch.alpha + at, d_o.row(i) + column);
      }
      k_total.store(k_target);
      v_total.store(v_target);
    });
}

// Adds the sum over the threads, in their order.
template <class T>
void add_weight_gradients(const GraphAttentionBackward& op, const BackwardScratch<T>& scratch) {
  const Sizes n(op);
  for (int64_t c = 0; op.d_b_edge && c < n.num_channels; ++c) {
    T total = 0;
    for (const auto& local : scratch.threads) total += local.d_bias_total[c];
    op.d_b_edge.as<T>()[c] += total;
  }
  for (int64_t c = 0; op.d_w_edge && c < n.num_channels; ++c)
    for (int64_t a = 0; a < n.lanes.num_attributes; ++a) {
      T total = 0;
      for (const auto& local : scratch.threads) total += local.d_weights_total[c * n.lanes.size() + n.lanes.lane_of(a)];
      op.d_w_edge.row<T>(c)[a] += total;
    }
}

}  // namespace

int64_t GraphAttentionForward::scratch_bytes() const {
  if (q.device().is_cuda()) return cuda::version_for(*this).scratch_bytes(*this);
  ScratchPieces pieces;
  dispatch_float(accumulator_of(q.dtype()),
                 [&]<class T>() { ForwardScratch<T>(pieces, Sizes(*this), omp_get_max_threads()); });
  return pieces.bytes();
}

int64_t GraphAttentionBackward::workspace_bytes() const {
  if (q.device().is_cuda()) return cuda::version_for(*this).scratch_bytes(*this);
  ScratchPieces pieces;
  dispatch_float(accumulator_of(q.dtype()),
                 [&]<class T>() { BackwardScratch<T>(pieces, Sizes(*this), omp_get_max_threads()); });
  return pieces.bytes();
}

namespace cpu {

void launch(Backend, Context&, const GraphAttentionForward& op, Tensor scratch) {
  dispatch_float(op.q.dtype(), [&]<class T>() {
    const Sizes n(op);
    const int num_threads = omp_get_max_threads();
    ScratchPieces pieces(scratch.data());
    const ForwardScratch<T> parts(pieces, n, num_threads);
    parts.edge.fill(n, op.w_edge, op.edge_attributes);
    dispatch_head_size(n.head_size, [&]<int Size>() {
      const int64_t first = op.dst().begin;  // whose row is the first of q
      for_even_parts(num_threads, op.graph->dst_ptr, op.dst(), [&](int thread, Range dst) {
        forward_destinations<T, Size>(op, parts, thread, {dst.begin - first, dst.end - first});
      });
    });
  });
}

void launch(Backend, Context&, const GraphAttentionBackward& op, Tensor scratch) {
  dispatch_float(op.q.dtype(), [&]<class T>() {
    const Sizes n(op);
    using Pass = GraphAttentionBackward::Pass;
    const int num_threads = omp_get_max_threads();
    ScratchPieces pieces(op.pass == Pass::both ? scratch.data() : op.workspace.data());
    const BackwardScratch<T> parts(pieces, n, num_threads);
    dispatch_head_size(n.head_size, [&]<int Size>() {
      if (op.has(Pass::destinations)) {
        parts.edge.fill(n, op.w_edge, op.edge_attributes);
        for_even_parts(num_threads, op.graph->dst_ptr, op.dst(),
                       [&](int thread, Range dst) { backward_destinations<T, Size>(op, parts, thread, dst); });
        add_weight_gradients<T>(op, parts);
      }
      if (op.has(Pass::sources))
        for_even_parts(num_threads, op.graph->src_ptr, op.src(),
                       [&](int, Range src) { backward_sources<T, Size>(op, parts, src); });
    });
  });
}

}  // namespace cpu
}  // namespace boreas
