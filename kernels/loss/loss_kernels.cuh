// Kernels of the losses, and their launches. Block (x, y) owns tile y of the columns of some of the rows: lane l the
// columns l, l + 32,
// ... of its tile, warp w the rows w, w + 8, ... of its block. A lane sums its columns in double; the block adds them
// up in the order of the warps into partial sums, and a second kernel adds those up in the order of the blocks.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/map.cuh"
#include "kernels/loss/loss.h"
#include "kernels/loss/loss_blocks.h"

namespace boreas::cuda {

inline constexpr int kLossThreads = kLossLanes * kLossWarps;

__device__ inline float sign_of(float x) { return float(x > 0.0f) - float(x < 0.0f); }

struct Term {
  float value, slope;
};

template <LossKind kind>
__device__ inline Term loss_term(float e) {
  const float size = fabsf(e), sign = sign_of(e);
  if constexpr (kind == LossKind::mse)
    return {e * e, 2.0f * e};
  else if constexpr (kind == LossKind::mae)
    return {size, sign};
  else if constexpr (kind == LossKind::huber)
    return {size < 1.0f ? 0.5f * e * e : size - 0.5f, size < 1.0f ? e : sign};
  else
    return {size + log1pf(expf(-2.0f * size)) - 0.69314718055994530942f, tanhf(e)};
}

/// The sums of a block to its partial sums: one a column, or one in all.
__device__ inline void store_loss_sums(const double (&sums)[kLossColumnsALane], int64_t num_columns, bool by_column,
                                       double* partials) {
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int64_t first = int64_t(blockIdx.y) * kLossColumns;
  if (by_column) {
    __shared__ double shared[kLossWarps][kLossColumns];
#pragma unroll
    for (int j = 0; j < kLossColumnsALane; ++j) shared[warp][j * kLossLanes + lane] = sums[j];
    __syncthreads();
    const int c = warp * kLossLanes + lane;
    if (c >= kLossColumns || first + c >= num_columns) return;
    double sum = 0;
    for (int w = 0; w < kLossWarps; ++w) sum += shared[w][c];
    partials[blockIdx.x * num_columns + first + c] = sum;
  } else {
    __shared__ double shared[kLossThreads / 32];
    double sum = 0;
#pragma unroll
    for (int j = 0; j < kLossColumnsALane; ++j) sum += sums[j];
    sum = sum_block<kLossThreads>(sum, shared);
    if (lane == 0 && warp == 0) partials[int64_t(blockIdx.x) * gridDim.y + blockIdx.y] = sum;
  }
}

template <class D>
struct WeightedLossArguments {
  int64_t num_rows, num_columns;
  RowsOf<const float> prediction, target;
  const float *node_weights, *column_weights;
  Divisor node_of;  ///< row -> node weight, by the remainder
  bool ignore_nans, by_column;
  double* partials;   ///< null: no sums
  RowsOf<D> d;        ///< null: no gradient
  double scale;       ///< of the gradient
  const float* root;  ///< rmse: the losses, by which the gradient is divided
};

template <LossKind kind, class D>
__global__ void __launch_bounds__(kLossThreads, kLossBlocksResident) weighted_loss(WeightedLossArguments<D> p) {
  constexpr int kColumns = kLossColumnsALane, kRows = 2;
  const int64_t first = int64_t(blockIdx.y) * kLossColumns + threadIdx.x;
  float column_weight[kColumns], slope_factor[kColumns];
  double sums[kColumns] = {};
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    const int64_t c = first + j * kLossLanes;
    column_weight[j] = c < p.num_columns ? p.column_weights[c] : 0.0f;
    slope_factor[j] = column_weight[j];
    if (p.root && c < p.num_columns) {
      const float root = p.root[p.by_column ? c : 0];
      slope_factor[j] = root > 0.0f ? column_weight[j] * (0.5f / root) : 0.0f;
    }
  }
  const int64_t step = int64_t(gridDim.x) * kLossWarps;
  for (int64_t row = int64_t(blockIdx.x) * kLossWarps + threadIdx.y; row < p.num_rows; row += kRows * step) {
    // Loads depend on nothing but bounds, so that all are in flight at once.
    float x[kRows][kColumns], t[kRows][kColumns], node_weights[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t i = row + r * step;
      const bool exists = i < p.num_rows;
      const float* const predictions = p.prediction.data + i * p.prediction.stride;
      const float* const targets = p.target.data + i * p.target.stride;
      node_weights[r] = exists ? p.node_weights[p.node_of.remainder(i)] : 0.0f;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int64_t c = first + j * kLossLanes;
        x[r][j] = exists && c < p.num_columns ? predictions[c] : 0.0f;
        t[r][j] = exists && c < p.num_columns ? targets[c] : 0.0f;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t i = row + r * step;
      const double node_weight = node_weights[r];
      const float slope_weight = float(p.scale * node_weight);
      D* const slopes = p.d.data + i * p.d.stride;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int64_t c = first + j * kLossLanes;
        const Term term = loss_term<kind>(p.ignore_nans && isnan(t[r][j]) ? 0.0f : x[r][j] - t[r][j]);
        if (p.partials) sums[j] += node_weight * double(column_weight[j] * term.value);
        if (p.d.data && i < p.num_rows && c < p.num_columns)
          slopes[c] = narrow<D>(slope_weight * slope_factor[j] * term.slope);
      }
    }
  }
  if (p.partials) store_loss_sums(sums, p.num_columns, p.by_column, p.partials);
}

template <class D>
struct CrpsArguments {
  int64_t num_rows, num_nodes, num_columns;  ///< rows of the target
  int num_members;
  RowsOf<const float> prediction, target;
  const float *node_weights, *column_weights;
  Divisor item_of;  ///< row of the target -> item
  bool ignore_nans, by_column;
  double* partials;
  RowsOf<D> d;
  float spread_weight;  ///< 1 - eps
  double scale;
};

/// A thread owns all members of a point: kMembers of them in registers or, if that is 0, any number up to 64. The sums
/// lack the division by E (E - 1), which the last stage makes.
template <int kMembers, class D>
__global__ void __launch_bounds__(kLossThreads, kLossBlocksResident) crps_loss(CrpsArguments<D> p) {
  constexpr int kMost = kMembers > 0 ? kMembers : 64;
  // Points that a thread reads before it uses the first.
  constexpr int kAtOnce = kMembers == 0 ? 1 : kMembers <= 4 ? kLossColumnsALane : kLossColumnsALane / 2;
  [[maybe_unused]] constexpr int kUnrolled = kMembers > 0 ? kMembers : 1;
  const int members = kMembers > 0 ? kMembers : p.num_members;
  const int64_t first = int64_t(blockIdx.y) * kLossColumns + threadIdx.x;
  const float share = 1.0f / float(members), spread = p.spread_weight / float(members * (members - 1));
  float column_weight[kLossColumnsALane];
  double sums[kLossColumnsALane] = {};
#pragma unroll
  for (int j = 0; j < kLossColumnsALane; ++j) {
    const int64_t c = first + j * kLossLanes;
    column_weight[j] = c < p.num_columns ? p.column_weights[c] : 0.0f;
  }
  const int64_t step = int64_t(gridDim.x) * kLossWarps;
  for (int64_t row = int64_t(blockIdx.x) * kLossWarps + threadIdx.y; row < p.num_rows; row += step) {
    const int64_t item = p.item_of.quotient(row), node = row - item * p.num_nodes;
    const int64_t first_row = item * members * p.num_nodes + node;  // of member 0; the next is num_nodes away
    const double node_weight = p.node_weights[node];
    const float slope_weight = float(p.scale * node_weight);
#pragma unroll
    for (int begin = 0; begin < kLossColumnsALane; begin += kAtOnce) {
      float t[kAtOnce], x[kAtOnce][kMost];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int64_t c = first + (begin + j) * kLossLanes;
        t[j] = c < p.num_columns ? *p.target.at(row, c) : 0.0f;
#pragma unroll kUnrolled
        for (int e = 0; e < members; ++e)
          x[j][e] = c < p.num_columns ? *p.prediction.at(first_row + e * p.num_nodes, c) : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int64_t c = first + (begin + j) * kLossLanes;
        if (c >= p.num_columns) continue;
        bool masked = p.ignore_nans && isnan(t[j]);
        float distance[kMost], above[kMost];  // above: members below one, less those above it
#pragma unroll kUnrolled
        for (int e = 0; e < members; ++e) {
          masked = masked || (p.ignore_nans && isnan(x[j][e]));
          distance[e] = fabsf(x[j][e] - t[j]);
          above[e] = 0;
        }
        float term = 0;
#pragma unroll kUnrolled
        for (int e = 1; e < members; ++e)
#pragma unroll kUnrolled
          for (int f = 0; f < e; ++f) {
            const float between = x[j][e] - x[j][f];
            // By pairs: every term is small where the ensemble is good.
            term += distance[e] + distance[f] - p.spread_weight * fabsf(between);
            const float side = sign_of(between);
            above[e] += side;
            above[f] -= side;
          }
        if (!masked) sums[begin + j] += node_weight * double(column_weight[begin + j] * term);
        if (!p.d.data) continue;
        const float weight = slope_weight * column_weight[begin + j];
#pragma unroll kUnrolled
        for (int e = 0; e < members; ++e) {
          const float slope = weight * (sign_of(x[j][e] - t[j]) * share - above[e] * spread);
          *p.d.at(first_row + e * p.num_nodes, c) = narrow<D>(masked ? 0.0f : slope);
        }
      }
    }
  }
  store_loss_sums(sums, p.num_columns, p.by_column, p.partials);
}

inline constexpr int kAddUpThreads = 256;

/// Block k adds up the partial sums k, k + stride, ... to loss k.
static __global__ void __launch_bounds__(kAddUpThreads)
    add_up_losses(const double* partials, int64_t count, int64_t stride, double divisor, bool root, float* loss) {
  const double sum = sum_strided<kAddUpThreads>(partials + blockIdx.x, count, stride);
  if (threadIdx.x != 0) return;
  const float value = float(sum / divisor);
  loss[blockIdx.x] = root ? sqrtf(value) : value;
}

static __global__ void take_roots(const float* totals, int64_t count, float* losses) {
  for (int64_t k = threadIdx.x; k < count; k += blockDim.x) losses[k] = sqrtf(totals[k]);
}

// --- launches ---

inline dim3 loss_grid(const Tensor& target) {
  return {unsigned(loss_blocks(target.rows())), unsigned(loss_column_tiles(target.cols()))};
}

inline const dim3 kLossBlock{kLossLanes, kLossWarps};

template <class Op>
void add_up(Context& ctx, const Op& op, const double* partials, double divisor, bool root) {
  const int64_t blocks = loss_blocks(op.target.rows()), num_losses = op.loss.size();
  const int64_t a_block = loss_sums_a_block(op.target.cols(), num_losses);
  const int64_t stride = num_losses > 1 ? a_block : 1, count = num_losses > 1 ? blocks : blocks * a_block;
  launch_kernel(add_up_losses, unsigned(num_losses), kAddUpThreads, 0, stream_of(ctx), partials, count, stride, divisor,
                root, op.loss.template as<float>());
}

template <LossKind kind, class D>
void launch_weighted(Context& ctx, const WeightedLoss& op, double* partials) {
  const bool rmse = op.kind == LossKind::rmse;
  WeightedLossArguments<D> p{.num_rows = op.prediction.rows(),
                             .num_columns = op.prediction.cols(),
                             .prediction = rows_of<const float>(op.prediction),
                             .target = rows_of<const float>(op.target),
                             .node_weights = op.node_weights.as<float>(),
                             .column_weights = op.column_weights.as<float>(),
                             .node_of = Divisor(std::max<int64_t>(op.node_weights.size(), 1)),
                             .ignore_nans = op.ignore_nans,
                             .by_column = op.loss.size() > 1,
                             .partials = partials,
                             .d = rmse ? RowsOf<D>{} : rows_of<D>(op.d_prediction),
                             .scale = op.loss_scale / op.divisor()};
  if (op.total) {
    launch_kernel(take_roots, 1, 32, 0, stream_of(ctx), op.total.as<float>(), op.total.size(), op.loss.as<float>());
  } else {
    launch_kernel(weighted_loss<kind, D>, loss_grid(op.target), kLossBlock, 0, stream_of(ctx), p);
    add_up(ctx, op, partials, op.divisor(), rmse);
  }
  if (!rmse || !op.d_prediction) return;
  p.partials = nullptr;  // the root is known only now
  p.d = rows_of<D>(op.d_prediction);
  p.root = op.loss.as<float>();
  launch_kernel(weighted_loss<kind, D>, loss_grid(op.target), kLossBlock, 0, stream_of(ctx), p);
}

template <class D>
void launch_weighted(Context& ctx, const WeightedLoss& op, double* partials) {
  switch (op.kind) {
    case LossKind::mse:
    case LossKind::rmse:
      return launch_weighted<LossKind::mse, D>(ctx, op, partials);
    case LossKind::mae:
      return launch_weighted<LossKind::mae, D>(ctx, op, partials);
    case LossKind::huber:
      return launch_weighted<LossKind::huber, D>(ctx, op, partials);
    case LossKind::logcosh:
      return launch_weighted<LossKind::logcosh, D>(ctx, op, partials);
  }
}

template <class D>
void launch_crps(Context& ctx, const CrpsLoss& op, double* partials) {
  const int64_t num_nodes = op.target.rows() / op.num_items;
  const CrpsArguments<D> p{.num_rows = op.target.rows(),
                           .num_nodes = num_nodes,
                           .num_columns = op.target.cols(),
                           .num_members = int(op.num_members),
                           .prediction = rows_of<const float>(op.prediction),
                           .target = rows_of<const float>(op.target),
                           .node_weights = op.node_weights.as<float>(),
                           .column_weights = op.column_weights.as<float>(),
                           .item_of = Divisor(std::max<int64_t>(num_nodes, 1)),
                           .ignore_nans = op.ignore_nans,
                           .by_column = op.loss.size() > 1,
                           .partials = partials,
                           .d = rows_of<D>(op.d_prediction),
                           .spread_weight = float(1 - (1 - op.alpha) / double(op.num_members)),
                           .scale = op.loss_scale / double(op.num_items)};
  const auto launch_for = [&]<int kMembers>() {
    launch_kernel(crps_loss<kMembers, D>, loss_grid(op.target), kLossBlock, 0, stream_of(ctx), p);
  };
  const auto launch_if = [&]<int kMembers>() {
    if (op.num_members != kMembers) return false;
    launch_for.template operator()<kMembers>();
    return true;
  };
  [&]<int... kTwoLess>(std::integer_sequence<int, kTwoLess...>) {
    if (!(launch_if.template operator()<kTwoLess + 2>() || ...)) launch_for.template operator()<0>();
  }
  (std::make_integer_sequence<int, 7>());
  add_up(ctx, op, partials, double(op.num_items * op.num_members * (op.num_members - 1)), false);
}

inline DType gradient_type(const Tensor& d_prediction) { return d_prediction ? d_prediction.dtype() : DType::f32; }

inline void enqueue(Context& ctx, const WeightedLoss& op, Tensor scratch) {
  require_f32(op.name, op.prediction.dtype());
  dispatch_stored(op.name, gradient_type(op.d_prediction),
                  [&]<class D>() { launch_weighted<D>(ctx, op, static_cast<double*>(scratch.data())); });
}

inline void enqueue(Context& ctx, const CrpsLoss& op, Tensor scratch) {
  require_f32(op.name, op.prediction.dtype());
  BOREAS_CHECK(op.num_members <= 64, unsupported, "{}: {} members, but a GPU takes at most 64", op.name,
               op.num_members);
  dispatch_stored(op.name, gradient_type(op.d_prediction),
                  [&]<class D>() { launch_crps<D>(ctx, op, static_cast<double*>(scratch.data())); });
}

}  // namespace boreas::cuda
