// Windowed attention: the cases that the kernels for the GPU are held to, on a GPU and in the emulation.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>
#include <vector>

#include "kernels/window_attention/window_attention.h"
#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test::window_attention {

struct Case {
  int64_t length, num_heads, head_size, window;
  double scale = 0;
  int64_t first_query = 0, end_query = -1;  ///< -1: all of the sequence
  int64_t num_queries() const { return (end_query < 0 ? length : end_query) - first_query; }
};
inline std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "length " << c.length << ", " << c.num_heads << " heads of " << c.head_size << ", window " << c.window
             << ", scale " << c.scale << ", queries from " << c.first_query << " to " << c.end_query;
}

/// Every head size that has kernels of its own and some between, windows that end inside tiles, at their ends and
/// beyond the sequence: few and short, because the emulation is slow.
inline std::vector<Case> small_cases() {
  return {{1, 1, 16, 0},
          {65, 2, 8, 5},
          {63, 1, 24, 0},
          {70, 1, 32, -1},
          {64, 1, 40, 1},
          {67, 1, 48, 300},
          {130, 1, 64, 20},
          {65, 1, 128, 5},
          {40, 1, 256, 7},
          {90, 1, 16, 5, 0, 5, 70},
          {70, 2, 24, -1, 0, 33, 34},
          {150, 1, 32, 3, 0, 100, 140}};
}

/// Several tiles of every version, in several steps, some of which some rows have no part in; sharp weights too.
inline std::vector<Case> tiled_cases() {
  return {{450, 2, 64, 7},
          {700, 1, 64, 130, 2.5},
          {600, 1, 32, 130},
          {333, 2, 32, 3},
          {450, 2, 128, 100},
          {260, 1, 128, 33, 2.5},
          {460, 1, 64, 70, 0, 70, 390},
          {600, 1, 64, 5, 0, 290, 600},
          {420, 1, 32, 40, 0, 0, 100},
          {300, 1, 128, 30, 0, 201, 233}};
}

struct Tensors {
  Tensor q, k, v, o, stats, d_o, d_q, d_k, d_v;
};
inline constexpr Tensor Tensors::*kInputs[] = {&Tensors::q, &Tensors::k, &Tensors::v, &Tensors::d_o};
inline constexpr Tensor Tensors::*kOutputs[] = {&Tensors::o, &Tensors::d_q, &Tensors::d_k, &Tensors::d_v};

inline WindowAttentionForward forward_op(const Tensors& t, const Case& c,
                                         WindowAttentionKernel kernel = WindowAttentionKernel::automatic) {
  return {.q = t.q,
          .k = t.k,
          .v = t.v,
          .num_heads = c.num_heads,
          .window = c.window,
          .scale = c.scale,
          .first_query = c.first_query,
          .kernel = kernel,
          .o = t.o,
          .stats = t.stats};
}

inline WindowAttentionBackward backward_op(const Tensors& t, const Case& c,
                                           WindowAttentionKernel kernel = WindowAttentionKernel::automatic) {
  return {.q = t.q,
          .k = t.k,
          .v = t.v,
          .o = t.o,
          .stats = t.stats,
          .num_heads = c.num_heads,
          .window = c.window,
          .scale = c.scale,
          .first_query = c.first_query,
          .kernel = kernel,
          .d_o = t.d_o,
          .d_q = t.d_q,
          .d_k = t.d_k,
          .d_v = t.d_v};
}

/// The same gradients, some of the keys' before the others': d_q with the last of three stretches.
inline std::vector<WindowAttentionBackward> parts_of(const WindowAttentionBackward& op) {
  std::vector<WindowAttentionBackward> parts;
  const int64_t length = op.k.rows(), third = length / 3;
  for (const Range& keys : {Range{0, third}, Range{length - third, length}, Range{third, length - third}}) {
    WindowAttentionBackward& part = parts.emplace_back(op);
    part.first_key = keys.begin;
    part.d_k = op.d_k.slice(keys), part.d_v = op.d_v.slice(keys);
    if (parts.size() < 3) part.d_q = {};
  }
  return parts;
}

/// Random inputs and outputs full of NaN, on the host. Rows lie `before` columns into a matrix that is wider.
inline Tensors host_tensors(Workspace& w, DType dtype, const Case& c, int64_t before = 0) {
  const int64_t channels = c.num_heads * c.head_size;
  Tensors out;
  const auto rows_of = [&](Tensor Tensors::*member) {
    const bool by_key =
        member == &Tensors::k || member == &Tensors::v || member == &Tensors::d_k || member == &Tensors::d_v;
    return by_key ? c.length : c.num_queries();
  };
  for (Tensor Tensors::*input : kInputs)
    out.*input = w.random(dtype, {rows_of(input), before + channels}).columns({before, before + channels});
  for (Tensor Tensors::*output : kOutputs)
    out.*output = w.output(dtype, {rows_of(output), before + channels}).columns({before, before + channels});
  out.stats = w.output(accumulator_of(dtype), {c.num_queries(), c.num_heads});
  return out;
}

/// What the CPU makes of the same inputs in f64.
inline Tensors exact_tensors(Workspace& w, const Tensors& host, const Case& c) {
  Tensors out;
  for (Tensor Tensors::*input : kInputs) out.*input = w.copy_of(host.*input, DType::f64);
  for (Tensor Tensors::*output : kOutputs) out.*output = w.output(DType::f64, (host.*output).shape());
  out.stats = w.output(DType::f64, host.stats.shape());
  run(w.ctx, forward_op(out, c));
  run(w.ctx, backward_op(out, c));
  return out;
}

inline void expect_parity(const Tensors& actual, const Tensors& exact) {
  const bool rounded = actual.o.dtype() == DType::bf16;
  // Scores of the sharp cases reach 100 and more, of which f32 keeps 2^-24: their weights are known to about 1e-5.
  const double stored = rounded ? 5e-3 : 3e-6, gradient = rounded ? 1e-2 : 1e-5;
  expect_close(actual.o, exact.o, stored);
  expect_close(actual.stats, exact.stats, 3e-6, 0, 1e-2);
  // With few partners the gradients of the scores cancel.
  const double floor = 0.1 * std::sqrt(dot(exact.d_v, exact.d_v));
  expect_close(actual.d_q, exact.d_q, gradient, 0, floor);
  expect_close(actual.d_k, exact.d_k, gradient, 0, floor);
  expect_close(actual.d_v, exact.d_v, gradient);
}

}  // namespace boreas::test::window_attention
