// Graph attention on the CPU. Forward and the destination pass of backward give each thread a contiguous range of
// destinations, the source pass a range of sources, cut so that the work is even. One destination is done at a time,
// and everything about it (its scores, its sums over attributes) stays in the first-level cache.
//
// Two layouts alternate: sums over channels run along the D channels of a head; what has one value per head and edge
// (scores, alpha, dS) or per head and attribute (W_h^T q, sums of alpha a) is stored with the heads contiguous, padded
// to a whole number of vectors, and runs along heads.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/scratch.h"
#include "kernels/core/simd.h"
#include "kernels/core/vector_math.h"
#include "kernels/graph_attention/graph_attention.h"

namespace boreas {

namespace {

constexpr int kHeadLanes = 8;
template <class T>
using Heads = simd::Vec<T, kHeadLanes>;

template <class T>
Heads<T> load_heads(const T* x) {
  return simd::load<T, kHeadLanes>(x);
}
template <class T>
void store_heads(T* x, const Heads<T>& v) {
  simd::store<T, kHeadLanes>(x, v);
}

// The rows of a tensor without the checks of Tensor::row.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
  Rows() = default;
  explicit Rows(const Tensor& tensor) {
    if (!tensor.empty()) data = tensor.as<T>(), stride = tensor.row_stride();
  }
  T* operator[](int64_t i) const { return data + i * stride; }
};

struct Sizes {
  int64_t num_edges, num_heads, padded_heads, head_size, num_channels, num_attributes;
  template <class Op>
  explicit Sizes(const Op& op)
      : num_edges(op.graph->num_edges()),
        num_heads(op.num_heads),
        padded_heads((op.num_heads + kHeadLanes - 1) / kHeadLanes * kHeadLanes),
        head_size(op.q.cols() / op.num_heads),
        num_channels(op.q.cols()),
        num_attributes(op.edge_attributes.cols()) {}
};

// --- scratch
// -----------------------------------------------------------------------------------------------------------

// W_edge for both directions of the product: along heads [A, D, padded H] and along channels [A, H*D].
template <class T>
struct EdgeWeights {
  T *by_head, *by_channel;
  EdgeWeights(ScratchPieces& pieces, const Sizes& n)
      : by_head(pieces.take<T>(n.num_attributes * n.head_size * n.padded_heads)),
        by_channel(pieces.take<T>(n.num_attributes * n.num_channels)) {}
  void fill(const Sizes& n, const Tensor& w_edge) const {
    for (int64_t a = 0; a < n.num_attributes; ++a)
      for (int64_t h = 0; h < n.padded_heads; ++h)
        for (int64_t c = 0; c < n.head_size; ++c) {
          const int64_t channel = h * n.head_size + c;
          const T weight = h < n.num_heads ? w_edge.row<T>(channel)[a] : T(0);
          by_head[(a * n.head_size + c) * n.padded_heads + h] = weight;
          if (h < n.num_heads) by_channel[a * n.num_channels + channel] = weight;
        }
  }
};

template <class T>
struct ForwardScratch {
  EdgeWeights<T> weights;
  T* alpha;  // [M, padded H]
  struct PerThread {
    T *transposed, *q_edge, *mean_edge, *stats;  // [D, padded H], [A, padded H] twice, [padded H]
  };
  std::vector<PerThread> threads;
  ForwardScratch(ScratchPieces& pieces, const Sizes& n, int num_threads)
      : weights(pieces, n), alpha(pieces.take<T>(n.num_edges * n.padded_heads)), threads(num_threads) {
    for (PerThread& t : threads)
      t = {pieces.take<T>(n.head_size * n.padded_heads), pieces.take<T>(n.num_attributes * n.padded_heads),
           pieces.take<T>(n.num_attributes * n.padded_heads), pieces.take<T>(n.padded_heads)};
  }
};

template <class T>
struct BackwardScratch {
  EdgeWeights<T> weights;
  T *alpha, *d_score;  // [M, padded H]; d_score is scale * dS
  struct PerThread {
    T *transposed, *stats;                                   // [D, padded H], [padded H]
    T *q_edge, *g_edge, *mean_edge, *d_edge;                 // [A, padded H]
    T *d_weights, *d_bias, *d_weights_total, *d_bias_total;  // [A, H*D], [H*D], and again
  };
  std::vector<PerThread> threads;
  BackwardScratch(ScratchPieces& pieces, const Sizes& n, int num_threads)
      : weights(pieces, n),
        alpha(pieces.take<T>(n.num_edges * n.padded_heads)),
        d_score(pieces.take<T>(n.num_edges * n.padded_heads)),
        threads(num_threads) {
    const int64_t per_head = n.num_attributes * n.padded_heads, per_channel = n.num_attributes * n.num_channels;
    for (PerThread& t : threads)
      t = {pieces.take<T>(n.head_size * n.padded_heads),
           pieces.take<T>(n.padded_heads),
           pieces.take<T>(per_head),
           pieces.take<T>(per_head),
           pieces.take<T>(per_head),
           pieces.take<T>(per_head),
           pieces.take<T>(per_channel),
           pieces.take<T>(n.num_channels),
           pieces.take<T>(per_channel),
           pieces.take<T>(n.num_channels)};
  }
};

// --- products along the channels of a head; Size is the head size, 0 if it is none of the common ones
// ------------------

template <class T, int Size>
T dot(const T* x, const T* y, int64_t size) {
  if constexpr (Size > 0) {
    constexpr int kWidth = std::min(Size, simd::kLanes<T>);
    simd::Vec<T, kWidth> total = simd::load<T, kWidth>(x) * simd::load<T, kWidth>(y);
    for (int c = kWidth; c < Size; c += kWidth) total += simd::load<T, kWidth>(x + c) * simd::load<T, kWidth>(y + c);
    return simd::sum<T, kWidth>(total);
  } else {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t c = 0; c < size; ++c) total += x[c] * y[c];
    return total;
  }
}

// A sum of weighted rows of one head: in registers for the common head sizes, else where it is to be stored.
template <class T, int Size>
class RowSum {
  static constexpr int kWidth = std::min(Size, simd::kLanes<T>);
  simd::Vec<T, kWidth> parts_[Size / kWidth] = {};
  T* target_;

 public:
  RowSum(T* target, int64_t) : target_(target) {}
  void add(T weight, const T* x) {
    for (int i = 0; i < Size / kWidth; ++i) parts_[i] += weight * simd::load<T, kWidth>(x + i * kWidth);
  }
  void store() const {
    for (int i = 0; i < Size / kWidth; ++i) simd::store<T, kWidth>(target_ + i * kWidth, parts_[i]);
  }
};
template <class T>
class RowSum<T, 0> {
  T* target_;
  int64_t size_;

 public:
  RowSum(T* target, int64_t size) : target_(target), size_(size) { std::fill_n(target, size, T(0)); }
  void add(T weight, const T* x) {
#pragma omp simd
    for (int64_t c = 0; c < size_; ++c) target_[c] += weight * x[c];
  }
  void store() const {}
};

// --- products along heads
// ----------------------------------------------------------------------------------------------

// y[a, h] = sum_c W[h*D+c, a] x[h*D+c]: the row of a destination as the edge attributes see it.
template <class T>
void project_to_edges(const Sizes& n, const T* by_head, const T* x, T* transposed, T* y) {
  for (int64_t c = 0; c < n.head_size; ++c)
    for (int64_t h = 0; h < n.num_heads; ++h) transposed[c * n.padded_heads + h] = x[h * n.head_size + c];
  for (int64_t h0 = 0; h0 < n.padded_heads; h0 += kHeadLanes)
    for (int64_t a = 0; a < n.num_attributes; ++a) {
      const T* const w = by_head + a * n.head_size * n.padded_heads + h0;
      Heads<T> total = {};
      for (int64_t c = 0; c < n.head_size; ++c)
        total += load_heads(w + c * n.padded_heads) * load_heads(transposed + c * n.padded_heads + h0);
      store_heads(y + a * n.padded_heads + h0, total);
    }
}

// sum_a a[a] y[a, h0 ..]
template <class T>
Heads<T> along_attributes(const Sizes& n, const T* attributes, const T* y) {
  Heads<T> total = {};
  for (int64_t a = 0; a < n.num_attributes; ++a) total += attributes[a] * load_heads(y + a * n.padded_heads);
  return total;
}

// y[a, h] = sum over the edges of weight[m, h] attributes[m, a]
template <class T>
void sum_attributes(const Sizes& n, Range edges, const T* weight, const Rows<T>& attributes, T* y) {
  for (int64_t h0 = 0; h0 < n.padded_heads; h0 += kHeadLanes)
    for (int64_t a = 0; a < n.num_attributes; ++a) {
      Heads<T> total = {};
      for (int64_t m = edges.begin; m < edges.end; ++m)
        total += attributes[m][a] * load_heads(weight + m * n.padded_heads + h0);
      store_heads(y + a * n.padded_heads + h0, total);
    }
}

// x = exp(x), elementwise.
template <class T>
void exponentiate(T* x, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) x[i] = vector_math::exp(x[i]);
}

// --- the two directions
// ------------------------------------------------------------------------------------------------

// Typed views of what both directions read.
template <class T>
struct Inputs {
  Sizes n;
  T scale;
  const int64_t* dst_ptr;
  const int32_t* src_of;
  Rows<T> q, k, v, attributes, stats;
  template <class Op>
  explicit Inputs(const Op& op)
      : n(op),
        scale(T(op.scale > 0 ? op.scale : 1 / std::sqrt(double(n.head_size)))),
        dst_ptr(op.graph->dst_ptr.template as<int64_t>()),
        src_of(op.graph->src_of.template as<int32_t>()),
        q(op.q),
        k(op.k),
        v(op.v),
        attributes(op.edge_attributes),
        stats(op.stats) {}
};

// Part t of num_parts contiguous parts of the n nodes that ptr belongs to; a node costs as much as two edges.
Range even_part(const int64_t* ptr, int64_t n, int64_t t, int64_t num_parts) {
  constexpr int64_t kNodeCost = 2;
  const auto cut = [&](int64_t part) {
    const int64_t goal = (ptr[n] + kNodeCost * n) * part / num_parts;
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
void for_even_parts(int num_parts, const Tensor& ptr, F&& f) {
#pragma omp parallel for schedule(static, 1) num_threads(num_parts)
  for (int part = 0; part < num_parts; ++part) f(part, even_part(ptr.as<int64_t>(), ptr.size() - 1, part, num_parts));
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
  const Rows<T> o(op.o);
  const T* const bias = op.b_edge ? op.b_edge.as<T>() : nullptr;
  const int64_t padded = n.padded_heads;

  for (int64_t i = dst.begin; i < dst.end; ++i) {
    const Range edges{in.dst_ptr[i], in.dst_ptr[i + 1]};
    if (edges.size() == 0) {
      std::fill_n(o[i], n.num_channels, T(0));
      std::fill_n(in.stats[i], n.num_heads, T(0));
      continue;
    }
    T* const alpha = scratch.alpha + edges.begin * padded;

    // Scores, their maximum by head, and exp(score - maximum).
    project_to_edges(n, scratch.weights.by_head, in.q[i], local.transposed, local.q_edge);
    for (int64_t m = edges.begin; m < edges.end; ++m) {
      T* const row = scratch.alpha + m * padded;
      const T* const k = in.k[in.src_of[m]];
      for (int64_t h = 0; h < n.num_heads; ++h)
        row[h] = dot<T, Size>(in.q[i] + h * n.head_size, k + h * n.head_size, n.head_size);
      std::fill(row + n.num_heads, row + padded, T(0));
    }
    for (int64_t h0 = 0; h0 < padded; h0 += kHeadLanes) {
      Heads<T> largest = Heads<T>{} - std::numeric_limits<T>::infinity();
      for (int64_t m = edges.begin; m < edges.end; ++m) {
        T* const row = scratch.alpha + m * padded + h0;
        const Heads<T> score = in.scale * (load_heads(row) + along_attributes(n, in.attributes[m], local.q_edge + h0));
        largest = simd::max(largest, score);
        store_heads(row, score);
      }
      for (int64_t m = edges.begin; m < edges.end; ++m) {
        T* const row = scratch.alpha + m * padded + h0;
        store_heads(row, load_heads(row) - largest);
      }
      store_heads(local.stats + h0, largest);
    }
    exponentiate(alpha, edges.size() * padded);

    // Softmax, and the statistics that backward starts from.
    for (int64_t h0 = 0; h0 < padded; h0 += kHeadLanes) {
      Heads<T> total = {};
      for (int64_t m = edges.begin; m < edges.end; ++m) total += load_heads(scratch.alpha + m * padded + h0);
      for (int64_t m = edges.begin; m < edges.end; ++m) {
        T* const row = scratch.alpha + m * padded + h0;
        store_heads(row, load_heads(row) / total);
      }
      for (int64_t h = h0; h < std::min(h0 + kHeadLanes, n.num_heads); ++h)
        in.stats[i][h] = local.stats[h] + std::log(total[h - h0]);
    }

    sum_attributes(n, edges, scratch.alpha, in.attributes, local.mean_edge);
    for (int64_t h = 0; h < n.num_heads; ++h) {
      const int64_t column = h * n.head_size;
      RowSum<T, Size> total(o[i] + column, n.head_size);
      for (int64_t m = edges.begin; m < edges.end; ++m)
        total.add(scratch.alpha[m * padded + h], in.v[in.src_of[m]] + column);
      for (int64_t a = 0; a < n.num_attributes; ++a)
        total.add(local.mean_edge[a * padded + h], scratch.weights.by_channel + a * n.num_channels + column);
      if (bias) total.add(T(1), bias + column);
      total.store();
    }
  }
}

// Everything but d_k and d_v: leaves alpha and scale * dS of every edge for the source pass.
template <class T, int Size>
void backward_destinations(const GraphAttentionBackward& op, const BackwardScratch<T>& scratch, int thread, Range dst) {
  const Inputs<T> in(op);
  const Sizes& n = in.n;
  const auto& local = scratch.threads[thread];
  const Rows<T> d_o(op.d_o), d_q(op.d_q), d_attributes(op.d_edge_attributes);
  const int64_t padded = n.padded_heads;
  const int64_t num_weights = n.num_attributes * n.num_channels;

  // Gradients of the weights are summed by blocks of destinations, and the blocks into the total, which loses less to
  // rounding than one long sum.
  constexpr int64_t kBlock = 256;
  const auto flush = [&] {
    for (int64_t w = 0; w < num_weights; ++w) local.d_weights_total[w] += local.d_weights[w];
    for (int64_t c = 0; c < n.num_channels; ++c) local.d_bias_total[c] += local.d_bias[c];
    std::fill_n(local.d_weights, num_weights, T(0));
    std::fill_n(local.d_bias, n.num_channels, T(0));
  };
  std::fill_n(local.d_weights, num_weights, T(0));
  std::fill_n(local.d_bias, n.num_channels, T(0));
  std::fill_n(local.d_weights_total, num_weights, T(0));
  std::fill_n(local.d_bias_total, n.num_channels, T(0));
  std::fill_n(local.stats, padded, T(0));

  for (int64_t i = dst.begin; i < dst.end; ++i) {
    if ((i - dst.begin) % kBlock == kBlock - 1) flush();
    const Range edges{in.dst_ptr[i], in.dst_ptr[i + 1]};
    if (edges.size() == 0) {
      std::fill_n(d_q[i], n.num_channels, T(0));
      continue;
    }
    const T *const q = in.q[i], *const g = d_o[i];
    T* const alpha = scratch.alpha + edges.begin * padded;

    // The scores again, relative to their log-sum-exp, and p, which waits in the place of dS.
    std::copy_n(in.stats[i], n.num_heads, local.stats);
    project_to_edges(n, scratch.weights.by_head, q, local.transposed, local.q_edge);
    project_to_edges(n, scratch.weights.by_head, g, local.transposed, local.g_edge);
    for (int64_t m = edges.begin; m < edges.end; ++m) {
      T *const score = scratch.alpha + m * padded, *const p = scratch.d_score + m * padded;
      const T *const k = in.k[in.src_of[m]], *const v = in.v[in.src_of[m]];
      for (int64_t h = 0; h < n.num_heads; ++h) {
        const int64_t column = h * n.head_size;
        score[h] = dot<T, Size>(q + column, k + column, n.head_size);
        p[h] = dot<T, Size>(g + column, v + column, n.head_size);
      }
      std::fill(score + n.num_heads, score + padded, T(0));
      std::fill(p + n.num_heads, p + padded, T(0));
      for (int64_t h0 = 0; h0 < padded; h0 += kHeadLanes) {
        const Heads<T> q_part = along_attributes(n, in.attributes[m], local.q_edge + h0);
        const Heads<T> g_part = along_attributes(n, in.attributes[m], local.g_edge + h0);
        store_heads(score + h0, in.scale * (load_heads(score + h0) + q_part) - load_heads(local.stats + h0));
        store_heads(p + h0, load_heads(p + h0) + g_part);
      }
    }
    exponentiate(alpha, edges.size() * padded);

    // alpha sums to one only up to the rounding of the scores and of stats, which grows with the scores: divide once
    // more.
    for (int64_t h0 = 0; h0 < padded; h0 += kHeadLanes) {
      Heads<T> total = {}, weighted = {};
      for (int64_t m = edges.begin; m < edges.end; ++m) {
        const Heads<T> weight = load_heads(scratch.alpha + m * padded + h0);
        total += weight;
        weighted += weight * load_heads(scratch.d_score + m * padded + h0);
      }
      const Heads<T> inverse = T(1) / total, mean = weighted * inverse;
      for (int64_t m = edges.begin; m < edges.end; ++m) {
        T *const weight = scratch.alpha + m * padded + h0, *const p = scratch.d_score + m * padded + h0;
        const Heads<T> normalised = load_heads(weight) * inverse;
        store_heads(weight, normalised);
        store_heads(p, in.scale * normalised * (load_heads(p) - mean));
      }
    }

    sum_attributes(n, edges, scratch.alpha, in.attributes, local.mean_edge);
    sum_attributes(n, edges, scratch.d_score, in.attributes, local.d_edge);
    for (int64_t h = 0; h < n.num_heads; ++h) {
      const int64_t column = h * n.head_size;
      RowSum<T, Size> total(d_q[i] + column, n.head_size);
      for (int64_t m = edges.begin; m < edges.end; ++m)
        total.add(scratch.d_score[m * padded + h], in.k[in.src_of[m]] + column);
      for (int64_t a = 0; a < n.num_attributes; ++a)
        total.add(local.d_edge[a * padded + h], scratch.weights.by_channel + a * n.num_channels + column);
      total.store();
    }

    for (int64_t m = edges.begin; m < edges.end && d_attributes.data; ++m)
      for (int64_t column = 0; column < op.d_edge_attributes.cols(); ++column) {
        const int64_t a = op.first_edge_column + column;
        Heads<T> total = {};
        for (int64_t h0 = 0; h0 < padded; h0 += kHeadLanes)
          total += load_heads(scratch.alpha + m * padded + h0) * load_heads(local.g_edge + a * padded + h0) +
                   load_heads(scratch.d_score + m * padded + h0) * load_heads(local.q_edge + a * padded + h0);
        d_attributes[m][column] = simd::sum<T, kHeadLanes>(total);
      }

    for (int64_t a = 0; a < n.num_attributes; ++a)
      for (int64_t h = 0; h < n.num_heads; ++h) {
        const T with_g = local.mean_edge[a * padded + h], with_q = local.d_edge[a * padded + h];
        const int64_t column = h * n.head_size;
        T* const target = local.d_weights + a * n.num_channels + column;
#pragma omp simd
        for (int64_t c = 0; c < n.head_size; ++c) target[c] += with_g * g[column + c] + with_q * q[column + c];
      }
#pragma omp simd
    for (int64_t c = 0; c < n.num_channels; ++c) local.d_bias[c] += g[c];
  }
  flush();
}

template <class T, int Size>
void backward_sources(const GraphAttentionBackward& op, const BackwardScratch<T>& scratch, Range src) {
  const Sizes n(op);
  const int64_t* const src_ptr = op.graph->src_ptr.as<int64_t>();
  const int32_t *const edge_of = op.graph->edge_of.as<int32_t>(), *const dst_of = op.graph->dst_of.as<int32_t>();
  const Rows<T> q(op.q), d_o(op.d_o), d_k(op.d_k), d_v(op.d_v);
  for (int64_t j = src.begin; j < src.end; ++j)
    for (int64_t h = 0; h < n.num_heads; ++h) {
      const int64_t column = h * n.head_size;
      RowSum<T, Size> k_total(d_k[j] + column, n.head_size), v_total(d_v[j] + column, n.head_size);
      for (int64_t position = src_ptr[j]; position < src_ptr[j + 1]; ++position) {
        const int64_t at = edge_of[position] * n.padded_heads + h, i = dst_of[position];
        k_total.add(scratch.d_score[at], q[i] + column);
        v_total.add(scratch.alpha[at], d_o[i] + column);
      }
      k_total.store();
      v_total.store();
    }
}

// Adds the sum over the threads, in their order.
template <class T> void add_weight_gradients(const GraphAttentionBackward& op, const BackwardScratch<T>& scratch) {
  const Sizes n(op);
  for (int64_t c = 0; op.d_b_edge && c < n.num_channels; ++c) {
    T total = 0;
    for (const auto& local : scratch.threads) total += local.d_bias_total[c];
    op.d_b_edge.as<T>()[c] += total;
  }
  for (int64_t c = 0; op.d_w_edge && c < n.num_channels; ++c)
    for (int64_t a = 0; a < n.num_attributes; ++a) {
      T total = 0;
      for (const auto& local : scratch.threads) total += local.d_weights_total[a * n.num_channels + c];
      op.d_w_edge.row<T>(c)[a] += total;
    }
}

}  // namespace

int64_t GraphAttentionForward::scratch_bytes() const {
  ScratchPieces pieces;
  dispatch_float(q.dtype(), [&]<class T>() { ForwardScratch<T>(pieces, Sizes(*this), omp_get_max_threads()); });
  return pieces.bytes();
}

int64_t GraphAttentionBackward::scratch_bytes() const {
  ScratchPieces pieces;
  dispatch_float(q.dtype(), [&]<class T>() { BackwardScratch<T>(pieces, Sizes(*this), omp_get_max_threads()); });
  return pieces.bytes();
}

namespace cpu {

void launch(Backend, Context&, const GraphAttentionForward& op, Tensor scratch) {
  dispatch_float(op.q.dtype(), [&]<class T>() {
    const Sizes n(op);
    const int num_threads = omp_get_max_threads();
    ScratchPieces pieces(scratch.data());
    const ForwardScratch<T> parts(pieces, n, num_threads);
    parts.weights.fill(n, op.w_edge);
    dispatch_head_size(n.head_size, [&]<int Size>() {
      for_even_parts(num_threads, op.graph->dst_ptr,
                     [&](int thread, Range dst) { forward_destinations<T, Size>(op, parts, thread, dst); });
    });
  });
}

void launch(Backend, Context&, const GraphAttentionBackward& op, Tensor scratch) {
  dispatch_float(op.q.dtype(), [&]<class T>() {
    const Sizes n(op);
    const int num_threads = omp_get_max_threads();
    ScratchPieces pieces(scratch.data());
    const BackwardScratch<T> parts(pieces, n, num_threads);
    parts.weights.fill(n, op.w_edge);
    dispatch_head_size(n.head_size, [&]<int Size>() {
      for_even_parts(num_threads, op.graph->dst_ptr,
                     [&](int thread, Range dst) { backward_destinations<T, Size>(op, parts, thread, dst); });
      for_even_parts(num_threads, op.graph->src_ptr,
                     [&](int, Range src) { backward_sources<T, Size>(op, parts, src); });
    });
    add_weight_gradients<T>(op, parts);
  });
}

}  // namespace cpu
}  // namespace boreas
