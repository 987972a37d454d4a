#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/graph_attention/graph_attention.h"
#include "tests/support/cases/graph_attention.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using namespace boreas::test;

struct Case {
  std::string name;
  int64_t num_src, num_dst, mean_degree, num_heads, head_size, num_attributes;
};
std::vector<Case> cases() {
  return {
      {"common head size", 30, 41, 4, 4, 16, 11}, {"many heads", 17, 23, 3, 16, 8, 3},
      {"odd sizes", 13, 19, 3, 3, 5, 7},          {"wide head", 11, 7, 5, 2, 64, 11},
      {"head of 32", 9, 12, 2, 9, 32, 1},         {"one of everything", 1, 1, 1, 1, 1, 1},
      {"high degree", 50, 3, 200, 4, 16, 11},     {"no edge attributes", 12, 14, 3, 2, 8, 0},
  };
}

Graph make_graph(const Case& c) {
  const RandomEdges edges = random_edges(c.num_src, c.num_dst, c.mean_degree);
  return Graph::from_sorted(edges.num_src, edges.num_dst, edges.dst_ptr, edges.src_of);
}

// All tensors of one case, forward and backward; inputs and gradients are column slices of wider matrices.
struct Problem {
  const Graph& graph;
  Workspace& work;
  int64_t num_heads;
  Tensor q, k, v, attributes, w_edge, b_edge, r, o, stats, d_o;
  Tensor d_q, d_k, d_v, d_w_edge, d_b_edge, d_attributes;
  double scale = 0;

  Problem(Workspace& workspace, const Graph& g, DType dtype, int64_t heads, int64_t head_size, int64_t num_attributes)
      : graph(g), work(workspace), num_heads(heads) {
    const int64_t channels = heads * head_size;
    q = work.random_strided(dtype, g.num_dst(), channels);
    k = work.random_strided(dtype, g.num_src(), channels);
    v = work.random_strided(dtype, g.num_src(), channels);
    attributes = work.random(dtype, {g.num_edges(), num_attributes});
    w_edge = work.random(dtype, {channels, num_attributes}, 0.5);
    b_edge = work.random(dtype, {channels}, 0.5);
    d_o = work.random_strided(dtype, g.num_dst(), channels);
    o = work.output_strided(dtype, g.num_dst(), channels);
    stats = work.output(accumulator_of(dtype), {g.num_dst(), heads});
    d_q = work.output_strided(dtype, g.num_dst(), channels);
    d_k = work.output_strided(dtype, g.num_src(), channels);
    d_v = work.output_strided(dtype, g.num_src(), channels);
    d_w_edge = work.filled(accumulator_of(dtype), {channels, num_attributes}, 0);
    d_b_edge = work.filled(accumulator_of(dtype), {channels}, 0);
    d_attributes = work.output_strided(accumulator_of(dtype), g.num_edges(), num_attributes);
    fill(d_attributes, 0);
  }
  Problem(Workspace& workspace, const Graph& g, DType dtype, const Case& c)
      : Problem(workspace, g, dtype, c.num_heads, c.head_size, c.num_attributes) {}

  GraphAttentionForward forward_op() const {
    return {.graph = &graph,
            .q = q,
            .k = k,
            .v = v,
            .edge_attributes = attributes,
            .w_edge = w_edge,
            .b_edge = b_edge,
            .r = r,
            .num_heads = num_heads,
            .scale = scale,
            .o = o,
            .stats = stats};
  }
  GraphAttentionBackward backward_op() const {
    return {.graph = &graph,
            .q = q,
            .k = k,
            .v = v,
            .edge_attributes = attributes,
            .w_edge = w_edge,
            .b_edge = b_edge,
            .num_heads = num_heads,
            .scale = scale,
            .stats = stats,
            .d_o = d_o,
            .d_q = d_q,
            .d_k = d_k,
            .d_v = d_v,
            .d_w_edge = d_w_edge,
            .d_b_edge = d_b_edge,
            .d_edge_attributes = d_attributes};
  }
  void forward() const { run(work.ctx, forward_op()); }
  void backward() const { run(work.ctx, backward_op()); }
  double loss() const {
    forward();
    return dot(o, d_o);
  }
};

double at(const Tensor& t, int64_t i, int64_t j) {
  return t.dtype() == DType::f64 ? t.row<double>(i)[j] : double(t.row<float>(i)[j]);
}

// The equations as they are written, with e formed, in f64.
struct Naive {
  std::vector<double> o, d_q, d_k, d_v, d_w, d_b, d_a;
  explicit Naive(const Problem& p) {
    const Graph& graph = p.graph;
    const int64_t channels = p.q.cols(), size = channels / p.num_heads, num_attributes = p.attributes.cols();
    const double scale = p.scale > 0 ? p.scale : 1 / std::sqrt(double(size));
    o.resize(graph.num_dst() * channels), d_q = o, d_k.resize(graph.num_src() * channels), d_v = d_k;
    d_w.resize(channels * num_attributes), d_b.resize(channels), d_a.resize(graph.num_edges() * num_attributes);
    std::vector<double> e(graph.num_edges() * channels), d_e(e.size());
    for (int64_t m = 0; m < graph.num_edges(); ++m)
      for (int64_t c = 0; c < channels; ++c) {
        e[m * channels + c] = p.b_edge ? at(p.b_edge, 0, c) : 0;
        for (int64_t a = 0; a < num_attributes; ++a) e[m * channels + c] += at(p.w_edge, c, a) * at(p.attributes, m, a);
      }
    for (int64_t i = 0; i < graph.num_dst(); ++i)
      for (int64_t h = 0; h < p.num_heads; ++h) {
        const int64_t begin = graph.dst_ptr.as<int64_t>()[i], end = graph.dst_ptr.as<int64_t>()[i + 1];
        std::vector<double> alpha(end - begin), dp(end - begin);
        double largest = -INFINITY, total = 0, mean = 0;
        for (int64_t m = begin; m < end; ++m) {
          const int64_t j = graph.src_of.as<int32_t>()[m];
          for (int64_t c = h * size; c < (h + 1) * size; ++c) {
            alpha[m - begin] += scale * at(p.q, i, c) * (at(p.k, j, c) + e[m * channels + c]);
            dp[m - begin] += at(p.d_o, i, c) * (at(p.v, j, c) + e[m * channels + c]);
          }
          largest = std::max(largest, alpha[m - begin]);
        }
        for (double& x : alpha) total += x = std::exp(x - largest);
        for (int64_t m = begin; m < end; ++m) mean += (alpha[m - begin] /= total) * dp[m - begin];
        for (int64_t m = begin; m < end; ++m) {
          const int64_t j = graph.src_of.as<int32_t>()[m];
          const double weight = alpha[m - begin], ds = scale * weight * (dp[m - begin] - mean);
          for (int64_t c = h * size; c < (h + 1) * size; ++c) {
            o[i * channels + c] += weight * (at(p.v, j, c) + e[m * channels + c]);
            d_q[i * channels + c] += ds * (at(p.k, j, c) + e[m * channels + c]);
            d_k[j * channels + c] += ds * at(p.q, i, c);
            d_v[j * channels + c] += weight * at(p.d_o, i, c);
            d_e[m * channels + c] = weight * at(p.d_o, i, c) + ds * at(p.q, i, c);
          }
        }
      }
    for (int64_t m = 0; m < graph.num_edges(); ++m)
      for (int64_t c = 0; c < channels; ++c) {
        d_b[c] += d_e[m * channels + c];
        for (int64_t a = 0; a < num_attributes; ++a) {
          d_w[c * num_attributes + a] += d_e[m * channels + c] * at(p.attributes, m, a);
          d_a[m * num_attributes + a] += d_e[m * channels + c] * at(p.w_edge, c, a);
        }
      }
  }
};

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

TEST(GraphAttention, MatchesTheEquationsWithEdgesFormed) {
  for (const DType dtype : {DType::f64, DType::f32})
    for (const Case& c : cases()) {
      SCOPED_TRACE(testing::Message() << c.name << " " << to_string(dtype));
      Workspace work;
      const Graph graph = make_graph(c);
      Problem p(work, graph, dtype, c);
      p.scale = c.num_heads == 3 ? 0.3 : 0;
      const Naive naive(p);
      p.forward();
      p.backward();
      expect_close(p.o, naive.o);
      const double floor = 1e-3 * norm(naive.d_v);  // what cancels exactly, at degree 1, is rounding here
      expect_close(p.d_q, naive.d_q, 1e-5, 1e-13, floor);
      expect_close(p.d_k, naive.d_k, 1e-5, 1e-13, floor);
      expect_close(p.d_v, naive.d_v);
      expect_close(p.d_b_edge, naive.d_b, 5e-6);
      if (c.num_attributes > 0) {
        expect_close(p.d_w_edge, naive.d_w, 5e-6);
        expect_close(p.d_attributes, naive.d_a, 5e-6);
      }
      work.expect_padding_untouched();
    }
}

TEST(GraphAttention, BiasIsOptional) {
  Workspace work;
  const Case c = cases()[0];
  const Graph graph = make_graph(c);
  Problem p(work, graph, DType::f64, c);
  p.b_edge = Tensor();
  const Naive naive(p);
  p.d_b_edge = p.d_w_edge = p.d_attributes = Tensor();
  p.forward();
  p.backward();
  expect_close(p.o, naive.o);
  expect_close(p.d_q, naive.d_q);
  expect_close(p.d_v, naive.d_v);
}

TEST(GraphAttention, BackwardMatchesFiniteDifferences) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    Workspace work;
    const Graph graph = make_graph(c);
    Problem p(work, graph, DType::f64, c);
    p.forward();
    p.backward();
    std::vector<GradientCase> inputs{{"v", p.v, p.d_v}, {"b_edge", p.b_edge, p.d_b_edge}};
    if (c.name != "one of everything") inputs.push_back({"q", p.q, p.d_q}), inputs.push_back({"k", p.k, p.d_k});
    if (c.num_attributes > 0) {
      inputs.push_back({"edge_attributes", p.attributes, p.d_attributes});
      inputs.push_back({"w_edge", p.w_edge, p.d_w_edge});
    }
    expect_gradients([&] { return p.loss(); }, inputs);
  }
}

TEST(GraphAttention, NodesWithoutEdgesGiveExactlyZero) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    Workspace work;
    const Case c = cases()[0];
    const Graph graph = make_graph(c);
    const Problem p(work, graph, dtype, c);
    p.forward();
    p.backward();
    int64_t isolated = 0;
    for (int64_t i = 0; i < graph.num_dst(); ++i) {
      if (graph.dst_ptr.as<int64_t>()[i] != graph.dst_ptr.as<int64_t>()[i + 1]) continue;
      ++isolated;
      for (int64_t h = 0; h < p.num_heads; ++h) EXPECT_EQ(at(p.stats, i, h), 0);
      for (int64_t channel = 0; channel < p.q.cols(); ++channel) {
        EXPECT_EQ(at(p.o, i, channel), 0);
        EXPECT_EQ(at(p.d_q, i, channel), 0);
      }
    }
    EXPECT_GT(isolated, 0);
    for (int64_t channel = 0; channel < p.q.cols(); ++channel) {
      EXPECT_EQ(at(p.d_k, graph.num_src() - 1, channel), 0);
      EXPECT_EQ(at(p.d_v, graph.num_src() - 1, channel), 0);
    }
  }
}

// o = r + attention, also over r itself, and r alone where no edge ends.
TEST(GraphAttention, ResidualIsAdded) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    Workspace work;
    const Graph graph = make_graph(c);
    Problem p(work, graph, DType::f64, c);
    p.r = work.random_strided(DType::f64, p.q.rows(), p.q.cols());
    const Naive naive(p);
    std::vector<double> expected = values_of(p.r);
    for (size_t x = 0; x < expected.size(); ++x) expected[x] += naive.o[x];
    p.forward();
    expect_close(p.o, expected);
    const int64_t* const dst_ptr = graph.dst_ptr.as<int64_t>();
    for (int64_t i = 0; i < graph.num_dst(); ++i)
      for (int64_t channel = 0; dst_ptr[i] == dst_ptr[i + 1] && channel < p.q.cols(); ++channel)
        EXPECT_EQ(at(p.o, i, channel), at(p.r, i, channel));
    const Tensor apart = p.o;
    p.o = p.r;
    p.forward();
    EXPECT_TRUE(identical(p.o, apart));
    work.expect_padding_untouched();
  }
}

TEST(GraphAttention, GraphsWithoutEdgesOrNodes) {
  Workspace work;
  const Graph no_edges = Graph::from_sorted(3, 2, std::vector<int64_t>{0, 0, 0}, {});
  const Problem p(work, no_edges, DType::f32, 2, 8, 4);
  p.forward();
  p.backward();
  for (const Tensor& zero : {p.o, p.stats, p.d_q, p.d_k, p.d_v, p.d_w_edge, p.d_b_edge})
    for (const double value : values_of(zero)) EXPECT_EQ(value, 0);

  const Graph no_nodes = Graph::from_sorted(0, 0, std::vector<int64_t>{0}, {});
  const Problem nothing(work, no_nodes, DType::f64, 2, 8, 4);
  nothing.forward();
  nothing.backward();
  for (const double value : values_of(nothing.d_w_edge)) EXPECT_EQ(value, 0);
}

TEST(GraphAttention, GradientsOfParametersAndAttributesAccumulate) {
  Workspace work;
  const Case c = cases()[2];
  const Graph graph = make_graph(c);
  const Problem p(work, graph, DType::f64, c);
  p.forward();
  p.backward();
  const Tensor once_w = work.copy_of(p.d_w_edge), once_b = work.copy_of(p.d_b_edge), once_q = work.copy_of(p.d_q);
  const Tensor once_a = work.copy_of(p.d_attributes);
  p.backward();
  for (int64_t m = 0; m < once_a.rows(); ++m)
    for (int64_t a = 0; a < once_a.cols(); ++a) EXPECT_EQ(at(p.d_attributes, m, a), 2 * at(once_a, m, a));
  for (int64_t w = 0; w < once_w.size(); ++w) EXPECT_EQ(p.d_w_edge.as<double>()[w], 2 * once_w.as<double>()[w]);
  for (int64_t b = 0; b < once_b.size(); ++b) EXPECT_EQ(p.d_b_edge.as<double>()[b], 2 * once_b.as<double>()[b]);
  EXPECT_TRUE(identical(p.d_q, once_q));
}

TEST(GraphAttention, GradientOfSomeAttributeColumnsOnly) {
  Workspace work;
  const Case c = cases()[0];
  const Graph graph = make_graph(c);
  const Problem p(work, graph, DType::f32, c);
  p.forward();
  p.backward();
  GraphAttentionBackward op = p.backward_op();
  op.first_edge_column = 3;
  op.d_edge_attributes = work.output_strided(DType::f32, graph.num_edges(), 8);
  fill(op.d_edge_attributes, 0);
  run(work.ctx, op);
  for (int64_t m = 0; m < graph.num_edges(); ++m)
    for (int64_t a = 0; a < 8; ++a)
      EXPECT_EQ(op.d_edge_attributes.row<float>(m)[a], p.d_attributes.row<float>(m)[a + 3]);
  work.expect_padding_untouched();
}

// Where all keys and values of a destination are equal, the gradients of the scores cancel, however sharp the softmax.
TEST(GraphAttention, SharpSoftmaxOfEqualValuesHasNoGradientOfScores) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    Workspace work;
    const Case c = cases()[0];
    const Graph graph = make_graph(c);
    Problem p(work, graph, dtype, c);
    p.scale = 50;
    fill(p.attributes, 0.25);
    for (int64_t j = 1; j < p.v.rows(); ++j)
      for (int64_t channel = 0; channel < p.v.cols(); ++channel)
        if (dtype == DType::f64)
          p.v.row<double>(j)[channel] = p.v.row<double>(0)[channel];
        else
          p.v.row<float>(j)[channel] = p.v.row<float>(0)[channel];
    p.forward();
    p.backward();
    const double tiny = dtype == DType::f64 ? 1e-14 : 1e-5;
    const double unit = p.scale * norm(values_of(p.d_o)) * norm(values_of(p.v)) / std::sqrt(double(p.v.size()));
    EXPECT_LE(norm(values_of(p.d_q)), tiny * unit);
    EXPECT_LE(norm(values_of(p.d_k)), tiny * unit);
    EXPECT_GT(norm(values_of(p.d_v)), 1);
  }
}

TEST(GraphAttention, RepeatableForAnyNumberOfThreads) {
  Workspace work;
  const Case c{"", 200, 300, 6, 4, 16, 11};
  const Graph graph = make_graph(c);
  const Problem first(work, graph, DType::f32, c);
  first.forward();
  first.backward();
  const int num_threads = omp_get_max_threads();
  for (const int threads : {num_threads, 1, 3}) {
    omp_set_num_threads(threads);
    Problem again = first;
    again.o = work.output(DType::f32, first.o.shape()), again.stats = work.output(DType::f32, first.stats.shape());
    again.d_q = work.output(DType::f32, first.d_q.shape());
    again.d_k = work.output(DType::f32, first.d_k.shape());
    again.d_v = work.output(DType::f32, first.d_v.shape());
    again.d_attributes = work.filled(DType::f32, first.d_attributes.shape(), 0);
    again.d_w_edge = work.filled(DType::f32, first.d_w_edge.shape(), 0);
    again.d_b_edge = work.filled(DType::f32, first.d_b_edge.shape(), 0);
    again.forward();
    again.backward();
    EXPECT_TRUE(identical(again.o, first.o));
    EXPECT_TRUE(identical(again.d_q, first.d_q));
    EXPECT_TRUE(identical(again.d_k, first.d_k));
    EXPECT_TRUE(identical(again.d_v, first.d_v));
    EXPECT_TRUE(identical(again.d_attributes, first.d_attributes));
    if (threads == num_threads) {
      EXPECT_TRUE(identical(again.d_w_edge, first.d_w_edge));
      EXPECT_TRUE(identical(again.d_b_edge, first.d_b_edge));
    }
    expect_close(again.d_w_edge, first.d_w_edge);
    expect_close(again.d_b_edge, first.d_b_edge);
  }
  omp_set_num_threads(num_threads);
}

// Attention over chunks of destinations is attention over the whole, and the gradients add up.
// The passes of backward, in parts of the sources, give bit for bit what both give at once.
TEST(GraphAttention, PartsOfDestinationsAndSourcesGiveTheWhole) {
  for (const DType dtype : {DType::f64, DType::f32})
    for (const Case& c : cases()) {
      SCOPED_TRACE(c.name);
      Workspace w(5);
      const Graph graph = make_graph(c);
      const Problem whole(w, graph, dtype, c);
      Workspace again(5);
      const Problem parts(again, graph, dtype, c);
      whole.forward(), whole.backward();

      const int64_t cut = graph.num_dst() / 3;
      for (const Range dst : {Range{cut, graph.num_dst()}, Range{0, cut}}) {
        if (dst.size() == 0) continue;
        GraphAttentionForward op = parts.forward_op();
        op.destinations = dst;
        for (Tensor* rows : {&op.q, &op.o, &op.stats}) *rows = rows->slice(dst);
        run(again.ctx, op);
      }
      // Sums are over blocks of destinations, which begin elsewhere.
      const double tolerance = dtype == DType::f64 ? 1e-13 : 1e-5;
      for (int64_t i = 0; i < graph.num_dst(); ++i) {
        for (int64_t c = 0; c < whole.o.cols(); ++c) EXPECT_NEAR(at(parts.o, i, c), at(whole.o, i, c), tolerance);
        for (int64_t h = 0; h < whole.stats.cols(); ++h)
          EXPECT_NEAR(at(parts.stats, i, h), at(whole.stats, i, h), tolerance);
      }
      parts.forward();

      GraphAttentionBackward op = parts.backward_op();
      op.workspace = again.filled(DType::u8, {op.workspace_bytes()}, 255);
      op.pass = GraphAttentionBackward::Pass::destinations;
      EXPECT_EQ(op.scratch_bytes(), 0);
      int64_t flops = op.flops();
      run(again.ctx, op);
      op.pass = GraphAttentionBackward::Pass::sources;
      const int64_t middle = graph.num_src() / 2;
      for (const Range src : {Range{middle, graph.num_src()}, Range{0, middle}}) {
        if (src.size() == 0) continue;
        op.sources = src;
        flops += op.flops();
        run(again.ctx, op);
      }
      const auto results = [](const Problem& p) {
        return std::array{p.d_q, p.d_k, p.d_v, p.d_w_edge, p.d_b_edge, p.d_attributes};
      };
      for (size_t i = 0; i < results(whole).size(); ++i)
        EXPECT_TRUE(results(whole)[i].size() == 0 || identical(results(parts)[i], results(whole)[i])) << i;
      EXPECT_NEAR(double(flops), double(whole.backward_op().flops()), 2);
    }
}

TEST(GraphAttention, SomeDestinationsNeedTheirSourcesOnly) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const GraphAttentionSizes sizes{dtype, 30, 41, 2, 4, 16, 11};
    Workspace w(7);
    const Graph graph = random_graph(sizes);
    const GraphAttentionCase inputs = GraphAttentionCase::make(w, graph, sizes);
    const GraphAttentionCase whole = inputs.mapped(graph, [&](const Tensor& t) { return w.copy_of(t); });
    run(w.ctx, whole.forward);
    for (const Range dst : {Range{0, 9}, Range{25, 41}}) {
      const GraphAttentionForward some = forward_of_some(w, graph, inputs, dst);
      run(w.ctx, some);
      expect_like_whole(dst, some.o, some.stats, whole.forward.o, whole.forward.stats);
    }
  }
}

TEST(GraphAttention, RefusesAPassWithoutWorkspaceAndRangesOutside) {
  const Case c = cases()[0];
  Workspace w(6);
  const Graph graph = make_graph(c);
  const Problem p(w, graph, DType::f64, c);
  GraphAttentionBackward backward = p.backward_op();
  backward.pass = GraphAttentionBackward::Pass::sources;
  BOREAS_EXPECT_ERROR(run(w.ctx, backward), invalid_argument, "workspace");
  backward = p.backward_op();
  backward.sources = {3, graph.num_src() + 1};
  BOREAS_EXPECT_ERROR(run(w.ctx, backward), shape, "sources 3 to");
  GraphAttentionForward forward = p.forward_op();
  forward.destinations = {1, graph.num_dst()};
  BOREAS_EXPECT_ERROR(run(w.ctx, forward), shape, "q is");
  forward.destinations = {1, graph.num_dst() + 1};
  BOREAS_EXPECT_ERROR(run(w.ctx, forward), shape, "destinations 1 to");
}

TEST(GraphAttention, ChunksMakeTheWhole) {
  Workspace work;
  const Case c{"", 40, 61, 4, 4, 16, 5};
  const Graph graph = make_graph(c);
  const Problem whole(work, graph, DType::f64, c);
  whole.forward();
  whole.backward();
  const Tensor d_k = work.filled(DType::f64, whole.d_k.shape(), 0), d_v = work.filled(DType::f64, whole.d_v.shape(), 0);
  const Tensor d_w = work.filled(DType::f64, whole.d_w_edge.shape(), 0);
  const Tensor d_b = work.filled(DType::f64, whole.d_b_edge.shape(), 0);
  for (const Range dst : {Range{0, 7}, Range{7, 7}, Range{7, 60}, Range{60, 61}}) {
    const Subgraph chunk = restrict_to(graph, dst);
    const int32_t* const ids = chunk.src_ids.as<int32_t>();
    Problem part(work, chunk.graph, DType::f64, c);
    part.q = whole.q.slice(dst), part.d_o = whole.d_o.slice(dst);
    part.attributes = whole.attributes.slice(chunk.edges);
    part.w_edge = whole.w_edge, part.b_edge = whole.b_edge, part.d_w_edge = d_w, part.d_b_edge = d_b;
    for (int64_t j = 0; j < chunk.src_ids.size(); ++j) {
      std::copy_n(whole.k.row<double>(ids[j]), whole.k.cols(), part.k.row<double>(j));
      std::copy_n(whole.v.row<double>(ids[j]), whole.v.cols(), part.v.row<double>(j));
    }
    part.forward();
    part.backward();
    EXPECT_TRUE(identical(part.o, whole.o.slice(dst)));
    EXPECT_TRUE(identical(part.d_q, whole.d_q.slice(dst)));
    EXPECT_TRUE(identical(part.d_attributes, whole.d_attributes.slice(chunk.edges)));
    for (int64_t j = 0; j < chunk.src_ids.size(); ++j)
      for (int64_t channel = 0; channel < whole.k.cols(); ++channel) {
        d_k.row<double>(ids[j])[channel] += part.d_k.row<double>(j)[channel];
        d_v.row<double>(ids[j])[channel] += part.d_v.row<double>(j)[channel];
      }
  }
  expect_close(d_k, whole.d_k);
  expect_close(d_v, whole.d_v);
  expect_close(d_w, whole.d_w_edge);
  expect_close(d_b, whole.d_b_edge);
}

TEST(GraphAttention, PlansTheScratchThatItUses) {
  Workspace work;
  const Case c = cases()[0];
  const Graph graph = make_graph(c);
  const Problem p(work, graph, DType::f32, c);
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  run(plan, p.forward_op());
  run(plan, p.backward_op());
  work.ctx.arena().reset_peak();
  p.forward();
  p.backward();
  EXPECT_EQ(counting.peak_bytes(), work.ctx.arena().peak_bytes());
  const int64_t per_edge_and_head = graph.num_edges() * p.num_heads * int64_t(sizeof(float));
  EXPECT_GE(p.backward_op().scratch_bytes(), 2 * per_edge_and_head);
}

TEST(GraphAttention, SaysWhatIsWrong) {
  Workspace work;
  const Case c{"", 4, 5, 2, 2, 8, 3};
  const Graph graph = make_graph(c);
  const Problem p(work, graph, DType::f32, c);
  const auto expect = [&](auto op, auto&& spoil, const char* code, const std::string& text) {
    spoil(op);
    try {
      run(work.ctx, op);
      ADD_FAILURE() << "threw nothing; expected " << text;
    } catch (const Error& error) {
      EXPECT_EQ(to_string(error.code()), code);
      EXPECT_EQ(std::string(error.what()), text);
    }
  };
  const auto forward = p.forward_op();
  const auto backward = p.backward_op();
  expect(
      forward, [](auto& op) { op.graph = nullptr; }, "invalid_argument", "graph_attention_forward: there is no graph");
  expect(
      forward, [](auto& op) { op.num_heads = 3; }, "invalid_argument",
      "graph_attention_forward: 3 heads must divide the 16 channels of q");
  expect(
      forward, [](auto& op) { op.scale = -1; }, "invalid_argument",
      "graph_attention_forward: scale is -1; it must be positive, or 0 for 1 / sqrt(head size)");
  expect(
      forward,
      [](auto& op) {
        op.q = op.q.slice({0, 4});
      },
      "shape", "graph_attention_forward: q is f32 [4, 16] but must have 5 rows, the destinations of the graph");
  expect(
      forward,
      [](auto& op) {
        op.k = op.k.slice({0, 2});
      },
      "shape", "graph_attention_forward: k is f32 [2, 16] but must have 4 rows, the sources of the graph");
  expect(
      forward,
      [](auto& op) {
        op.v = op.v.columns({0, 8});
      },
      "shape", "graph_attention_forward: v is f32 [4, 8] but must be [4, 16] to fit k f32 [4, 16]");
  expect(
      forward,
      [](auto& op) {
        op.edge_attributes = op.edge_attributes.slice({0, 1});
      },
      "shape",
      fmt::format(
          "graph_attention_forward: edge_attributes is f32 [1, 3] but must have {} rows, the edges of the graph",
          graph.num_edges()));
  expect(
      forward,
      [](auto& op) {
        op.w_edge = op.w_edge.columns({0, 2});
      },
      "shape",
      fmt::format(
          "graph_attention_forward: w_edge is f32 [16, 2] but must be [16, 3] to fit edge_attributes f32 [{}, 3]",
          graph.num_edges()));
  expect(
      forward,
      [&](auto& op) {
        op.k = work.random(DType::f64, {4, 16});
      },
      "invalid_argument", "graph_attention_forward: k is f64 but must be f32");
  expect(
      forward, [](auto& op) { op.r = op.k; }, "shape",
      "graph_attention_forward: r is f32 [4, 16] but must be [5, 16] to fit q f32 [5, 16]");
  expect(
      forward, [](auto& op) { op.o = Tensor(); }, "invalid_argument",
      "graph_attention_forward: o is required but was not given");
  expect(
      backward,
      [](auto& op) {
        op.d_k = op.d_k.slice({0, 3});
      },
      "shape", "graph_attention_backward: d_k is f32 [3, 16] but must be [4, 16] to fit k f32 [4, 16]");
  expect(
      backward, [](auto& op) { op.first_edge_column = 1; }, "shape",
      fmt::format("graph_attention_backward: d_edge_attributes is f32 [{0}, 3] and starts at column 1, but "
                  "edge_attributes is f32 [{0}, 3]",
                  graph.num_edges()));
  expect(
      backward, [](auto& op) { op.d_b_edge = op.d_w_edge; }, "shape",
      "graph_attention_backward: d_b_edge is f32 [16, 3] but must be 16 contiguous values to fit q f32 [5, 16]");
}

}  // namespace
}  // namespace boreas
