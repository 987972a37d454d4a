// The cases of losses that both the GPU and the emulation run: check(op, parity) for each.
#pragma once

#include <cmath>

#include "kernels/loss/loss.h"
#include "tests/support/parity.h"

namespace boreas::test::loss {

inline Tensor weights(Workspace& w, int64_t count) {
  const Tensor out = w.random(DType::f32, {count});
  for (int64_t i = 0; i < count; ++i) out.as<float>()[i] = std::abs(out.as<float>()[i]) + 0.125f;
  return out;
}

inline void spread_nans(const Tensor& tensor, int64_t step) {
  for (int64_t i = 3; i < tensor.size(); i += step) tensor.as<float>()[i] = NAN;
}

enum class Gradient { none, f32, bf16 };

inline Tensor gradient(Workspace& w, Gradient kind, int64_t rows, int64_t cols) {
  if (kind == Gradient::none) return {};
  return w.output(kind == Gradient::f32 ? DType::f32 : DType::bf16, {rows, cols});
}

void weighted_cases(bool quick, auto&& check) {
  std::vector<std::pair<int64_t, int64_t>> sizes = {{1, 1}, {50, 5}, {23, 89}, {5, 300}, {0, 4}};
  if (!quick) sizes.push_back({9000, 89});
  int64_t count = 0;
  for (const auto& [kind, name] : EnumNames<LossKind>::values)
    for (const auto& [nodes, width] : sizes)
      for (const bool by_column : {false, true})
        for (const Gradient d : {Gradient::none, Gradient::f32, Gradient::bf16})
          for (const bool nans : {false, true}) {
            if (quick && ++count % 19 != 0) continue;  // 19 is prime to the lengths of all lists
            SCOPED_TRACE(testing::Message() << name << " " << nodes << " x " << width << (by_column ? " by column" : "")
                                            << " gradient " << int(d));
            Workspace w;
            const int64_t items = 2, rows = items * nodes;
            const Tensor target = w.random(DType::f32, {rows, width});
            if (nans) spread_nans(target, 7);
            const bool given = kind == LossKind::rmse && !nans;  // the sum, of these rows and others
            check(WeightedLoss{.kind = kind,
                               .prediction = w.random(DType::f32, {rows, width}),
                               .target = target,
                               .node_weights = weights(w, nans ? rows : nodes),
                               .column_weights = weights(w, width),
                               .num_items = items,
                               .all_items = nans ? 5 : 0,  // of which these are a share
                               .ignore_nans = nans,
                               .total = given ? weights(w, by_column ? width : 1) : Tensor(),
                               .loss = w.output(DType::f32, {by_column ? width : 1}),
                               .d_prediction = gradient(w, d, rows, width),
                               .loss_scale = 3},
                  Parity{.f32 = 2e-6});
          }
  Workspace w;
  const Tensor prediction = w.random(DType::f32, {60, 89});
  check(WeightedLoss{.prediction = prediction,
                     .target = w.random(DType::f32, {60, 89}),
                     .node_weights = weights(w, 60),
                     .column_weights = weights(w, 89),
                     .loss = w.output(DType::f32, {1}),
                     .d_prediction = prediction},
        Parity{});
}

void crps_cases(bool quick, auto&& check) {
  std::vector<std::pair<int64_t, int64_t>> sizes = {{7, 3}, {3, 140}};
  if (!quick) sizes.push_back({400, 89});
  int64_t count = 0;
  for (const int64_t members : {2, 3, 4, 8, 9, 20})
    for (const auto& [nodes, width] : sizes)
      for (const bool by_column : {false, true})
        for (const Gradient d : {Gradient::none, Gradient::f32, Gradient::bf16})
          for (const bool nans : {false, true}) {
            if (quick && ++count % 19 != 0) continue;  // 19 is prime to the lengths of all lists
            SCOPED_TRACE(testing::Message() << members << " members, " << nodes << " x " << width);
            Workspace w;
            const int64_t items = 2;
            const Tensor prediction = w.random(DType::f32, {items * members * nodes, width});
            const Tensor target = w.random(DType::f32, {items * nodes, width});
            if (nans) {
              spread_nans(target, 7);
              spread_nans(prediction, 11);
            }
            check(CrpsLoss{.prediction = prediction,
                           .target = target,
                           .node_weights = weights(w, nodes),
                           .column_weights = weights(w, width),
                           .num_items = items,
                           .num_members = members,
                           .ignore_nans = nans,
                           .loss = w.output(DType::f32, {by_column ? width : 1}),
                           .d_prediction = gradient(w, d, items * members * nodes, width),
                           .loss_scale = 3},
                  Parity{.f32 = 2e-6});
          }
}

}  // namespace boreas::test::loss
