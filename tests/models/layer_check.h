// What every layer must pass: gradients, memory, plan.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <functional>
#include <string>
#include <vector>

#include "models/layer.h"
#include "models/parameters.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas::test {

/// Away from their initial ones and zeros, so that no gradient vanishes by accident.
inline void randomise(const ParameterStore& store, uint64_t seed = 99) {
  uint64_t stream = 0;
  store.for_each([&](const std::string&, const Tensor& value, const Tensor&) {
    const Philox rng(seed, ++stream);
    dispatch_float(value.dtype(), [&]<class T>() {
      for (int64_t i = 0; i < value.rows(); ++i)
        for (int64_t j = 0; j < value.cols(); ++j)
          value.row<T>(i)[j] += T(0.2 * rng.normal(uint64_t(i * value.cols() + j)));
    });
  });
}

/// A graph of RandomEdges: every fifth destination and the last source have no edge.
inline Graph random_graph(int64_t num_src, int64_t num_dst, int64_t mean_degree, uint64_t seed = 1) {
  const RandomEdges edges = random_edges(num_src, num_dst, mean_degree, seed);
  return Graph::from_sorted(num_src, num_dst, edges.dst_ptr, edges.src_of);
}

/// One call of a layer with all that goes in and comes out.
template <Layer L>
struct LayerCase {
  const L* layer;
  const ParameterStore* store;
  typename L::Inputs in;
  typename L::Outputs out, upstream;
  typename L::Inputs d_in;
  std::vector<std::pair<Tensor, Tensor>> outputs;  ///< (output, upstream) pairs of `out` and `upstream`
  std::vector<GradientCase> inputs;                ///< of `in` and `d_in`
  std::vector<Tensor> accumulated = {};            ///< parts of `d_in` that backward adds to
  bool recompute = false;                          ///< by run_forward and run_backward

  void forward_and_backward(Context& ctx) const {
    typename L::Saved saved;
    const Arena::Mark begin = ctx.arena().mark(Keep::saved);
    const int64_t used = ctx.arena().used_bytes();
    run_forward(ctx, *layer, recompute, in, out, &saved);
    run_backward(ctx, *layer, recompute, in, saved, upstream, d_in);
    EXPECT_EQ(ctx.arena().mark(Keep::saved).offset, begin.offset) << "backward did not rewind the saved end";
    EXPECT_EQ(ctx.arena().used_bytes(), used) << "scratch memory was kept";
  }

  void gradients(Context& ctx) const {
    store->zero_gradients(ctx);
    for (const Tensor& tensor : accumulated) fill(tensor, 0);
    forward_and_backward(ctx);
  }

  double loss(Context& ctx) const {
    layer->forward(ctx, in, out, nullptr);
    double sum = 0;
    for (const auto& [y, g] : outputs) sum += dot(y, g);
    return sum;
  }
};

/// Gradients of inputs and parameters against finite differences.
template <Layer L>
void check_gradients(const LayerCase<L>& c, Workspace& w, double tolerance = 1e-8, double step = 1e-4) {
  c.gradients(w.ctx);
  std::vector<GradientCase> cases = c.inputs;
  for (const Parameter& p : c.store->parameters())
    cases.push_back({p.parts.front().name + (p.parts.size() > 1 ? "..." : ""), p.value, w.copy_of(p.grad)});
  for (GradientCase& input : cases) input.gradient = w.copy_of(input.gradient);
  // Thousands of tiny forwards: threads would only wait for each other.
  const int num_threads = omp_get_max_threads();
  omp_set_num_threads(1);
  expect_gradients([&] { return c.loss(w.ctx); }, cases, tolerance, step);
  omp_set_num_threads(num_threads);
}

/// The peak of the planned step is, byte for byte, that of the real one.
template <Layer L>
void check_plan(const LayerCase<L>& c, Workspace& w) {
  Arena counting;
  Context plan(w.ctx.device(), counting, Mode::plan);
  c.forward_and_backward(plan);
  w.ctx.arena().reset_peak();
  c.forward_and_backward(w.ctx);
  EXPECT_GT(counting.peak_bytes(), 0);
  EXPECT_EQ(counting.peak_bytes(), w.ctx.arena().peak_bytes());
  EXPECT_EQ(counting.peak().saved_bytes, w.ctx.arena().peak().saved_bytes);
  EXPECT_EQ(counting.peak().owner, w.ctx.arena().peak().owner);
}

/// Forward that saves and forward that does not give the same bits; so do backward with and without recompute.
template <Layer L>
void check_recompute(LayerCase<L> c, Workspace& w) {
  std::vector<std::vector<double>> results[2];
  for (const bool recompute : {false, true}) {
    c.recompute = recompute;
    for (const auto& [y, g] : c.outputs) fill(y, NAN);
    c.gradients(w.ctx);
    auto& result = results[recompute];
    for (const auto& [y, g] : c.outputs) result.push_back(values_of(y));
    for (const GradientCase& input : c.inputs) result.push_back(values_of(input.gradient));
    for (const Parameter& p : c.store->parameters()) result.push_back(values_of(p.grad));
  }
  EXPECT_EQ(results[0], results[1]);
}

template <Layer L>
void check_layer(const LayerCase<L>& c, Workspace& w, double tolerance = 1e-8, double step = 1e-4) {
  check_gradients(c, w, tolerance, step);
  check_plan(c, w);
  check_recompute(c, w);
}

}  // namespace boreas::test
