#include <cmath>

#include "kernels/core/cpu_loops.h"
#include "kernels/loss/loss.h"

namespace boreas {

namespace {

template <class T>
struct Term {
  T value, slope;
};

template <LossKind kind, class T>
inline Term<T> term(T e) {
  const T size = std::abs(e), sign = T((e > T(0)) - (e < T(0)));
  if constexpr (kind == LossKind::mse || kind == LossKind::rmse) {
    return {e * e, T(2) * e};
  } else if constexpr (kind == LossKind::mae) {
    return {size, sign};
  } else if constexpr (kind == LossKind::huber) {
    return {size < T(1) ? T(0.5) * e * e : size - T(0.5), size < T(1) ? e : sign};
  } else {
    constexpr double kLog2 = 0.69314718055994530942;
    return {size + std::log1p(std::exp(T(-2) * size)) - T(kLog2), std::tanh(e)};
  }
}

template <class F>
void dispatch_loss(LossKind kind, F&& f) {
  switch (kind) {
    case LossKind::mse:
      return f.template operator()<LossKind::mse>();
    case LossKind::mae:
      return f.template operator()<LossKind::mae>();
    case LossKind::rmse:
      return f.template operator()<LossKind::rmse>();
    case LossKind::huber:
      return f.template operator()<LossKind::huber>();
    case LossKind::logcosh:
      return f.template operator()<LossKind::logcosh>();
  }
}

void refuse_bf16_gradient(const Tensor& d_prediction) {
  if (d_prediction) dispatch_float(d_prediction.dtype(), []<class T>() {});
}

/// Sums parts in order into `loss`; columns keep apart if there is room for each.
template <class T>
void add_up(const double* part_sums, int64_t num_parts, double divisor, const Tensor& loss) {
  for (int64_t k = 0; k < loss.size(); ++k) {
    double sum = 0;
    for (int64_t p = 0; p < num_parts; ++p) sum += part_sums[p * loss.size() + k];
    loss.as<T>()[k] = T(sum / divisor);
  }
}

template <class T, LossKind kind>
void weighted_loss(const WeightedLoss& op, double* part_sums) {
  const Tensor &prediction = op.prediction, &target = op.target;
  const int64_t num_columns = prediction.cols(), num_weights = op.node_weights.size();
  const T* const node_weights = op.node_weights.as<T>();
  const T* const column_weights = op.column_weights.as<T>();
  const auto error_at = [ignore = op.ignore_nans](T p, T t) { return ignore && std::isnan(t) ? T(0) : p - t; };

  const Partition parts = cpu::summation_parts(op.total ? 0 : prediction.rows());
  const bool by_column = op.loss.size() > 1;
#pragma omp parallel for schedule(static) if (prediction.size() >= cpu::kParallelElements)
  for (int64_t part = 0; part < parts.num_parts(); ++part) {
    double* const sums = part_sums + part * op.loss.size();
    std::fill_n(sums, op.loss.size(), 0.0);
    for (int64_t i = parts[part].begin; i < parts[part].end; ++i) {
      const T *p = prediction.row<T>(i), *t = target.row<T>(i);
      const double weight = double(node_weights[i % num_weights]);
      if (by_column) {
#pragma omp simd
        for (int64_t j = 0; j < num_columns; ++j)
          sums[j] += weight * double(column_weights[j] * term<kind>(error_at(p[j], t[j])).value);
      } else {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < num_columns; ++j)
          sum += double(column_weights[j] * term<kind>(error_at(p[j], t[j])).value);
        sums[0] += weight * sum;
      }
    }
  }
  add_up<T>(part_sums, parts.num_parts(), op.divisor(), op.loss);

  T* const loss = op.loss.as<T>();
  if (op.total) std::copy_n(op.total.as<T>(), op.loss.size(), loss);
  if constexpr (kind == LossKind::rmse)
    for (int64_t k = 0; k < op.loss.size(); ++k) loss[k] = std::sqrt(loss[k]);
  if (!op.d_prediction) return;
  const double scale = op.loss_scale / op.divisor();
  // d sqrt(L) = dL / (2 sqrt(L)); a loss of zero is a minimum.
  const auto root_slope = [&](int64_t j) {
    if constexpr (kind != LossKind::rmse) return T(1);
    const T root = loss[by_column ? j : 0];
    return root > T(0) ? T(0.5) / root : T(0);
  };
#pragma omp parallel for schedule(static) if (prediction.size() >= cpu::kParallelElements)
  for (int64_t i = 0; i < prediction.rows(); ++i) {
    const T *p = prediction.row<T>(i), *t = target.row<T>(i);
    T* const d = op.d_prediction.row<T>(i);
    const T weight = T(scale * double(node_weights[i % num_weights]));
#pragma omp simd
    for (int64_t j = 0; j < num_columns; ++j)
      d[j] = weight * column_weights[j] * root_slope(j) * term<kind>(error_at(p[j], t[j])).slope;
  }
}

}  // namespace

void cpu::launch(Backend, Context&, const WeightedLoss& op, Tensor scratch) {
  refuse_bf16_gradient(op.d_prediction);
  dispatch_float(op.prediction.dtype(), [&]<class T>() {
    dispatch_loss(op.kind, [&]<LossKind kind>() { weighted_loss<T, kind>(op, static_cast<double*>(scratch.data())); });
  });
}

void cpu::launch(Backend, Context&, const CrpsLoss& op, Tensor scratch) {
  refuse_bf16_gradient(op.d_prediction);
  dispatch_float(op.prediction.dtype(), [&]<class T>() {
    const int64_t num_members = op.num_members, num_nodes = op.target.rows() / op.num_items;
    const Partition parts = summation_parts(op.target.rows());
    double* const part_sums = static_cast<double*>(scratch.data());
    double* const part_members = part_sums + parts.num_parts() * op.loss.size();
    const double pairs = double(num_members) * double(num_members - 1);
    const double spread_weight = 1 - (1 - op.alpha) / double(num_members);
    const double scale = op.loss_scale / double(op.num_items);
    const auto sign = [](double x) { return double((x > 0) - (x < 0)); };
#pragma omp parallel for schedule(static) if (op.prediction.size() >= kParallelElements)
    for (int64_t part = 0; part < parts.num_parts(); ++part) {
      double* const sums = part_sums + part * op.loss.size();
      double* const x = part_members + part * num_members;
      std::fill_n(sums, op.loss.size(), 0.0);
      for (int64_t r = parts[part].begin; r < parts[part].end; ++r) {
        const int64_t item = r / num_nodes, node = r % num_nodes;
        const auto row_of = [&](int64_t e) { return (item * num_members + e) * num_nodes + node; };
        const double node_weight = double(op.node_weights.as<T>()[node]);
        for (int64_t j = 0; j < op.target.cols(); ++j) {
          const double t = double(op.target.row<T>(r)[j]);
          bool masked = op.ignore_nans && std::isnan(t);
          for (int64_t e = 0; e < num_members; ++e) {
            x[e] = double(op.prediction.row<T>(row_of(e))[j]);
            masked = masked || (op.ignore_nans && std::isnan(x[e]));
          }
          const double weight = node_weight * double(op.column_weights.as<T>()[j]);
          // Summed by pairs, |x_e - t| + |x_f - t| - |x_e - x_f|: every term is small where the ensemble is good.
          double term = 0;
          for (int64_t e = 0; e < num_members && !masked; ++e) {
            double spread_slope = 0;
            for (int64_t f = 0; f < num_members; ++f) {
              if (f == e) continue;
              term += std::abs(x[e] - t) + std::abs(x[f] - t) - spread_weight * std::abs(x[e] - x[f]);
              spread_slope += sign(x[e] - x[f]);
            }
            if (op.d_prediction)
              op.d_prediction.row<T>(row_of(e))[j] =
                  T(scale * weight * (sign(x[e] - t) / double(num_members) - spread_weight * spread_slope / pairs));
          }
          if (masked && op.d_prediction)
            for (int64_t e = 0; e < num_members; ++e) op.d_prediction.row<T>(row_of(e))[j] = 0;
          sums[op.loss.size() > 1 ? j : 0] += weight * term / (2 * pairs);
        }
      }
    }
    add_up<T>(part_sums, parts.num_parts(), double(op.num_items), op.loss);
  });
}

}  // namespace boreas
