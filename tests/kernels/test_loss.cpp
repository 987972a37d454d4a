#include "kernels/loss/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/elementwise/elementwise.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double term(LossKind kind, double e) {
  const double a = std::abs(e);
  switch (kind) {
    case LossKind::mse:
    case LossKind::rmse:
      return e * e;
    case LossKind::mae:
      return a;
    case LossKind::huber:
      return a < 1 ? e * e / 2 : a - 0.5;
    case LossKind::logcosh:
      return std::log(std::cosh(e));
  }
  return 0;
}

// Weights that are positive, of `count` values.
Tensor weights(Workspace& w, DType dtype, int64_t count) {
  const Tensor out = w.random(dtype, {count});
  for (int64_t i = 0; i < count; ++i)
    if (dtype == DType::f64)
      out.as<double>()[i] = std::abs(out.as<double>()[i]) + 0.125;
    else
      out.as<float>()[i] = std::abs(out.as<float>()[i]) + 0.125f;
  return out;
}

// One value per column: sum over rows, over the items.
std::vector<double> column_losses(const WeightedLoss& op) {
  const std::vector<double> p = values_of(op.prediction), t = values_of(op.target);
  const std::vector<double> rows = values_of(op.node_weights), columns = values_of(op.column_weights);
  std::vector<double> sums(columns.size(), 0);
  for (size_t i = 0; i < p.size(); ++i) {
    const size_t row = i / columns.size(), column = i % columns.size();
    const double e = op.ignore_nans && std::isnan(t[i]) ? 0 : p[i] - t[i];
    sums[column] += rows[row % rows.size()] * columns[column] * term(op.kind, e) /
                    double(op.all_items > 0 ? op.all_items : op.num_items);
  }
  if (op.loss.size() == 1) {
    double total = 0;
    for (const double sum : sums) total += sum;
    sums = {total};
  }
  if (op.kind == LossKind::rmse)
    for (double& sum : sums) sum = std::sqrt(sum);
  return sums;
}

TEST(WeightedLoss, ForwardMatchesTheDefinition) {
  for (const auto& [kind, name] : EnumNames<LossKind>::values)
    for (const DType dtype : {DType::f32, DType::f64})
      for (const bool by_column : {false, true})
        for (const bool row_weights : {false, true}) {
          SCOPED_TRACE(name);
          Workspace w;
          const int64_t items = 3, nodes = 50, width = 5;
          const WeightedLoss op{.kind = kind,
                                .prediction = w.random_strided(dtype, items * nodes, width),
                                .target = w.random_strided(dtype, items * nodes, width),
                                .node_weights = weights(w, dtype, row_weights ? items * nodes : nodes),
                                .column_weights = weights(w, dtype, width),
                                .num_items = items,
                                .all_items = row_weights ? 7 : 0,
                                .loss = w.output(dtype, {by_column ? width : 1})};
          run(w.ctx, op);
          expect_close(op.loss, column_losses(op), 1e-6);
        }
}

TEST(WeightedLoss, BackwardMatchesFiniteDifferences) {
  for (const auto& [kind, name] : EnumNames<LossKind>::values)
    for (const bool by_column : {false, true}) {
      SCOPED_TRACE(name);
      Workspace w;
      const int64_t items = 2, nodes = 9, width = 3;
      WeightedLoss op{.kind = kind,
                      .prediction = w.random_strided(DType::f64, items * nodes, width),
                      .target = w.random(DType::f64, {items * nodes, width}),
                      .node_weights = weights(w, DType::f64, nodes),
                      .column_weights = weights(w, DType::f64, width),
                      .num_items = items,
                      .all_items = by_column ? 7 : 0,
                      .loss = w.output(DType::f64, {by_column ? width : 1}),
                      .d_prediction = w.output_strided(DType::f64, items * nodes, width),
                      .loss_scale = 0.5};
      for (int64_t i = 0; i < items * nodes; ++i)
        for (int64_t j = 0; j < width; ++j) {
          double& p = op.prediction.row<double>(i)[j];
          const double t = op.target.row<double>(i)[j];
          for (const double kink : {0.0, 1.0, -1.0})
            if (std::abs(p - t - kink) < 0.02) p += 0.05;
        }
      run(w.ctx, op);
      const auto loss = [&] {
        WeightedLoss forward = op;
        forward.d_prediction = Tensor();
        run(w.ctx, forward);
        double sum = 0;
        for (const double value : values_of(op.loss)) sum += value;
        return 0.5 * sum;
      };
      expect_gradients(loss, {{"prediction", op.prediction, op.d_prediction}});
      w.expect_padding_untouched();
    }
}

TEST(WeightedLoss, SharesOfARootNeedTheTotal) {
  for (const bool by_column : {false, true}) {
    Workspace w;
    const int64_t nodes = 9, width = 3, first = 4;
    const Shape losses{by_column ? width : 1};
    WeightedLoss whole{.kind = LossKind::rmse,
                       .prediction = w.random(DType::f64, {nodes, width}),
                       .target = w.random(DType::f64, {nodes, width}),
                       .node_weights = weights(w, DType::f64, nodes),
                       .column_weights = weights(w, DType::f64, width),
                       .loss = w.output(DType::f64, losses),
                       .d_prediction = w.output(DType::f64, {nodes, width}),
                       .loss_scale = 2};
    run(w.ctx, whole);
    const Tensor total = w.output(DType::f64, losses), share = w.output(DType::f64, losses);
    const Tensor d = w.output(DType::f64, {nodes, width});
    fill(total, 0);
    const auto part_of = [&](Range rows) {
      WeightedLoss part = whole;
      part.prediction = whole.prediction.slice(rows);
      part.target = whole.target.slice(rows);
      part.node_weights = whole.node_weights.columns(rows).reshape({rows.size()});
      part.d_prediction = d.slice(rows);
      part.loss = share;
      return part;
    };
    for (const Range rows : {Range{0, first}, Range{first, nodes}}) {
      WeightedLoss sum = part_of(rows);
      sum.kind = LossKind::mse;
      sum.d_prediction = Tensor();
      run(w.ctx, sum);
      run(w.ctx, Add{.a = total, .b = share, .y = total});
    }
    for (const Range rows : {Range{0, first}, Range{first, nodes}}) {
      WeightedLoss part = part_of(rows);
      part.total = total;
      run(w.ctx, part);
      expect_close(part.loss, values_of(whole.loss));
    }
    expect_close(d, values_of(whole.d_prediction));
    WeightedLoss wrong = part_of({0, first});
    wrong.kind = LossKind::mae;
    wrong.total = total;
    BOREAS_EXPECT_ERROR(run(w.ctx, wrong), invalid_argument, "only the root needs a total");
  }
}

TEST(WeightedLoss, IgnoredNansAddNothing) {
  Workspace w;
  WeightedLoss op{.prediction = w.random(DType::f64, {6, 2}),
                  .target = w.random(DType::f64, {6, 2}),
                  .node_weights = weights(w, DType::f64, 6),
                  .column_weights = weights(w, DType::f64, 2),
                  .ignore_nans = true,
                  .loss = w.output(DType::f64, {1}),
                  .d_prediction = w.output(DType::f64, {6, 2})};
  op.target.row<double>(2)[1] = kNan;
  run(w.ctx, op);
  expect_close(op.loss, column_losses(op));
  EXPECT_EQ(op.d_prediction.row<double>(2)[1], 0);
  EXPECT_NE(op.d_prediction.row<double>(2)[0], 0);
  op.ignore_nans = false;
  run(w.ctx, op);
  EXPECT_TRUE(std::isnan(op.loss.as<double>()[0]));
}

TEST(WeightedLoss, ARootOfZeroHasNoGradient) {
  Workspace w;
  const Tensor p = w.random(DType::f64, {4, 2}), d = w.output(DType::f64, {4, 2});
  run(w.ctx, WeightedLoss{.kind = LossKind::rmse,
                          .prediction = p,
                          .target = w.copy_of(p),
                          .node_weights = weights(w, DType::f64, 4),
                          .column_weights = weights(w, DType::f64, 2),
                          .loss = w.output(DType::f64, {1}),
                          .d_prediction = d});
  EXPECT_EQ(values_of(d), std::vector<double>(8, 0));
}

TEST(WeightedLoss, SinglePrecisionMatchesDouble) {
  Workspace w;
  const Tensor p = w.random(DType::f32, {5000, 7}), t = w.random(DType::f32, {5000, 7}),
               nodes = weights(w, DType::f32, 5000);
  const Tensor columns = weights(w, DType::f32, 7);
  std::vector<Tensor> results;
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor loss = w.output(dtype, {1}), d = w.output(dtype, {5000, 7});
    run(w.ctx, WeightedLoss{.prediction = w.copy_of(p, dtype),
                            .target = w.copy_of(t, dtype),
                            .node_weights = w.copy_of(nodes, dtype),
                            .column_weights = w.copy_of(columns, dtype),
                            .loss = loss,
                            .d_prediction = d});
    results.push_back(loss);
    results.push_back(d);
  }
  expect_close(results[0], results[2], 2e-7);
  expect_close(results[1], results[3], 5e-7);
}

struct Ensemble {
  CrpsLoss op;
  // Slow and plain: the double sum over members.
  double expected() const {
    const int64_t members = op.num_members, nodes = op.target.rows() / op.num_items;
    const double eps = (1 - op.alpha) / double(members);
    double total = 0;
    for (int64_t r = 0; r < op.target.rows(); ++r)
      for (int64_t j = 0; j < op.target.cols(); ++j) {
        const auto x = [&](int64_t e) {
          return op.prediction.row<double>((r / nodes * members + e) * nodes + r % nodes)[j];
        };
        double skill = 0, spread = 0;
        for (int64_t e = 0; e < members; ++e) {
          skill += std::abs(x(e) - op.target.row<double>(r)[j]) / double(members);
          for (int64_t f = 0; f < members; ++f) spread += std::abs(x(e) - x(f));
        }
        total += op.node_weights.as<double>()[r % nodes] * op.column_weights.as<double>()[j] *
                 (skill - (1 - eps) / (2.0 * double(members * (members - 1))) * spread);
      }
    return total / double(op.num_items);
  }
};

Ensemble make_ensemble(Workspace& w, int64_t members, double alpha) {
  const int64_t items = 2, nodes = 7, width = 3;
  return {{.prediction = w.random_strided(DType::f64, items * members * nodes, width),
           .target = w.random(DType::f64, {items * nodes, width}),
           .node_weights = weights(w, DType::f64, nodes),
           .column_weights = weights(w, DType::f64, width),
           .num_items = items,
           .num_members = members,
           .alpha = alpha,
           .loss = w.output(DType::f64, {1}),
           .d_prediction = w.output_strided(DType::f64, items * members * nodes, width),
           .loss_scale = 2}};
}

TEST(CrpsLoss, ForwardMatchesTheDefinition) {
  for (const int64_t members : {2, 4, 9})
    for (const double alpha : {0.0, 0.95, 1.0}) {
      Workspace w;
      const Ensemble e = make_ensemble(w, members, alpha);
      run(w.ctx, e.op);
      EXPECT_NEAR(e.op.loss.as<double>()[0], e.expected(), 1e-13 * std::abs(e.expected()) + 1e-13);
    }
}

TEST(CrpsLoss, BackwardMatchesFiniteDifferences) {
  Workspace w(5);
  const Ensemble e = make_ensemble(w, 4, 0.95);
  run(w.ctx, e.op);
  const auto loss = [&] {
    CrpsLoss forward = e.op;
    forward.d_prediction = Tensor();
    run(w.ctx, forward);
    return 2 * forward.loss.as<double>()[0];
  };
  // Piecewise linear: exact for any step that crosses no kink, and members lie 2^-12 apart or more, if not equal.
  expect_gradients(loss, {{"prediction", e.op.prediction, e.op.d_prediction}}, 1e-8, 1e-6);
}

TEST(CrpsLoss, MasksPointsWithNans) {
  Workspace w;
  Ensemble e = make_ensemble(w, 3, 1);
  run(w.ctx, e.op);
  const double before = e.op.loss.as<double>()[0];
  e.op.ignore_nans = true;
  e.op.target.row<double>(0)[1] = kNan;
  run(w.ctx, e.op);
  EXPECT_LT(e.op.loss.as<double>()[0], before);
  for (const int64_t member : {0, 1, 2}) EXPECT_EQ(e.op.d_prediction.row<double>(member * 7)[1], 0);
}

TEST(Loss, SumsDoNotDependOnRunsAndScratchIsPlanned) {
  Workspace w;
  const WeightedLoss op{.prediction = w.random(DType::f32, {4000, 9}),
                        .target = w.random(DType::f32, {4000, 9}),
                        .node_weights = weights(w, DType::f32, 4000),
                        .column_weights = weights(w, DType::f32, 9),
                        .loss = w.output(DType::f32, {9}),
                        .d_prediction = w.output(DType::f32, {4000, 9})};
  run(w.ctx, op);
  const Tensor first = w.copy_of(op.loss);
  run(w.ctx, op);
  EXPECT_TRUE(identical(first, op.loss));
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  run(plan, op);
  EXPECT_EQ(counting.peak_bytes(), w.ctx.arena().peak_bytes());
}

TEST(Loss, WrongUseIsNamed) {
  Workspace w;
  const Tensor p = w.random(DType::f32, {6, 2}), nodes = weights(w, DType::f32, 6), columns = weights(w, DType::f32, 2);
  const Tensor loss = w.output(DType::f32, {1});
  const WeightedLoss good{.prediction = p, .target = p, .node_weights = nodes, .column_weights = columns, .loss = loss};
  WeightedLoss op = good;
  op.target = w.random(DType::f32, {5, 2});
  BOREAS_EXPECT_ERROR(run(w.ctx, op), shape, "target is f32 [5, 2] but must be [6, 2]");
  op = good;
  op.node_weights = columns;
  BOREAS_EXPECT_ERROR(run(w.ctx, op), shape, "node_weights is f32 [2] but must hold 6 values");
  op = good;
  op.num_items = 4;
  BOREAS_EXPECT_ERROR(run(w.ctx, op), shape, "cannot be split into 4 items");
  op = good;
  op.loss = w.output(DType::f32, {3});
  BOREAS_EXPECT_ERROR(run(w.ctx, op), shape, "loss is f32 [3] but must be 1 value, or one for each of the 2 columns");
  op = good;
  op.d_prediction = w.random(DType::bf16, {6, 2});
  BOREAS_EXPECT_ERROR(run(w.ctx, op), unsupported, "not in bf16");
  op = good;
  op.d_prediction = w.random(DType::f64, {6, 2});
  BOREAS_EXPECT_ERROR(run(w.ctx, op), invalid_argument, "d_prediction is f64 but must be f32 or bf16");
  op = good;
  op.column_weights = weights(w, DType::f64, 2);
  BOREAS_EXPECT_ERROR(run(w.ctx, op), invalid_argument, "column_weights is f64 but must be f32");
  CrpsLoss crps{.prediction = p,
                .target = w.random(DType::f32, {6, 2}),
                .node_weights = nodes,
                .column_weights = columns,
                .num_members = 1,
                .loss = loss};
  BOREAS_EXPECT_ERROR(run(w.ctx, crps), invalid_argument, "two members or more, not 1");
  crps.num_members = 2;
  BOREAS_EXPECT_ERROR(run(w.ctx, crps), shape, "prediction is f32 [6, 2] but must be [12, 2]");
  crps.alpha = 2;
  BOREAS_EXPECT_ERROR(run(w.ctx, crps), invalid_argument, "alpha is 2");
}

}  // namespace
}  // namespace boreas::test
