// Linear and norm helpers, MLPs, attention blocks, node and edge attributes.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "models/layers/attention_block.h"
#include "models/layers/mlp.h"
#include "models/layers/node_attributes.h"
#include "tests/models/layer_check.h"

namespace boreas {
namespace {

using namespace test;

constexpr DType f64 = DType::f64;

std::set<std::string> names_of(const ParameterStore& store) {
  std::set<std::string> names;
  store.for_each([&](const std::string& name, Tensor, Tensor) { names.insert(name); });
  return names;
}

void materialise(ParameterStore& store) {
  store.materialise(3);
  randomise(store);
}

/// A layer with one input x and one output y of given widths.
template <Layer L>
LayerCase<L> case_of(const L& layer, ParameterStore& store, Workspace& w, int64_t rows, int64_t in, int64_t out) {
  const Tensor x = w.random(f64, {rows, in}), d_x = w.output(f64, {rows, in});
  const Tensor y = w.output(f64, {rows, out}), g = w.random(f64, {rows, out});
  LayerCase<L> c{&layer, &store, {}, {}, {}, {}, {{y, g}}, {{"x", x, d_x}}};
  c.in.x = x;
  c.d_in.x = d_x;
  c.out.y = y;
  c.upstream.y = g;
  return c;
}

TEST(Linear, StackedMapsEqualSingleOnes) {
  Workspace w;
  ParameterStore store(f64), single(f64);
  const Linear both(store, "", {{"a", 3}, {"b", 4}}, 5, Linear::Bias::yes);
  const Linear a(single, "a", 5, 3), b(single, "b", 5, 4);
  store.materialise(1);
  single.materialise(1);
  const Tensor x = w.random(f64, {6, 5}), y = w.output(f64, {6, 7}), y_a = w.output(f64, {6, 3}),
               y_b = w.output(f64, {6, 4});
  both.forward(w.ctx, x, y);
  a.forward(w.ctx, x, y_a);
  b.forward(w.ctx, x, y_b);
  expect_close(y.columns({0, 3}), y_a);
  expect_close(y.columns({3, 7}), y_b);
}

TEST(Linear, GradientOfTheLastColumnsOnly) {
  Workspace w;
  ParameterStore store(f64);
  const Linear linear(store, "a", 5, 3);
  store.materialise(1);
  const Tensor d_y = w.random(f64, {6, 3}), all = w.output(f64, {6, 5}), some = w.output(f64, {6, 2});
  linear.backward_input(w.ctx, d_y, all);
  linear.backward_input(w.ctx, d_y, some);
  expect_close(some, all.columns({3, 5}));
  linear.backward_input(w.ctx, d_y, some, true);
  std::vector<double> twice = values_of(all.columns({3, 5}));
  for (double& value : twice) value *= 2;
  expect_close(some, twice);
}

TEST(NormedLinear, Gradients) {
  Workspace w;
  ParameterStore store(f64);
  const NormedLinear layer(LayerNorm(store, "norm", 7), Linear(store, "linear", 7, 5));
  materialise(store);
  check_layer(case_of(layer, store, w, 9, 7, 5), w);
  EXPECT_EQ(names_of(store), (std::set<std::string>{"norm.weight", "norm.bias", "linear.weight", "linear.bias"}));
}

TEST(NormedLinear, AddsTheResidualGradient) {
  Workspace w;
  ParameterStore store(f64);
  const NormedLinear layer(LayerNorm(store, "norm", 7), Linear(store, "linear", 7, 5));
  materialise(store);
  const LayerCase<NormedLinear> c = case_of(layer, store, w, 9, 7, 5);
  c.gradients(w.ctx);
  const Tensor residual = w.random(f64, {9, 7});
  std::vector<double> expected = values_of(c.d_in.x);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += residual.as<double>()[i];
  NormedLinear::Saved saved;
  layer.forward(w.ctx, c.in, c.out, &saved);
  layer.backward(w.ctx, c.in, saved, c.upstream, {.x = residual}, residual);  // in place
  expect_close(residual, expected);
}

struct MlpParam {
  MlpKind kind;
  int64_t num_extra;
};
class MlpKinds : public testing::TestWithParam<MlpParam> {};

TEST_P(MlpKinds, Gradients) {
  const auto [kind, num_extra] = GetParam();
  Workspace w(11);
  ParameterStore store(f64);
  const Mlp layer(store, "net", kind, 5, 6, 4, num_extra);
  materialise(store);
  // ReGLU has a kink: a small step keeps every gate on its side.
  const double step = kind == MlpKind::reglu ? 1e-5 : 1e-4;
  check_layer(case_of(layer, store, w, 7, 5, 4), w, 1e-8, step);
}

INSTANTIATE_TEST_SUITE_P(All, MlpKinds,
                         testing::Values(MlpParam{MlpKind::mlp, 0}, MlpParam{MlpKind::mlp, 2},
                                         MlpParam{MlpKind::glu, 0}, MlpParam{MlpKind::swiglu, 1},
                                         MlpParam{MlpKind::geglu, 0}, MlpParam{MlpKind::reglu, 0}),
                         [](const auto& info) {
                           return std::string(to_string(info.param.kind)) + "_" + std::to_string(info.param.num_extra);
                         });

TEST(Mlp, EqualsItsFormula) {
  Workspace w;
  for (const MlpKind kind : {MlpKind::mlp, MlpKind::glu, MlpKind::swiglu, MlpKind::geglu, MlpKind::reglu}) {
    ParameterStore store(f64);
    const Mlp layer(store, "", kind, 1, 1, 1);
    materialise(store);
    std::map<std::string, double> p;
    store.for_each([&](const std::string& name, Tensor value, Tensor) { p[name] = value.as<double>()[0]; });
    const Tensor x = w.of(f64, {2, 1}, {0.7, -1.3}), residual = w.of(f64, {2, 1}, {0.5, 0.25}),
                 y = w.output(f64, {2, 1});
    layer.forward(w.ctx, {.x = x, .residual = residual}, {.y = y}, nullptr);
    for (int i = 0; i < 2; ++i) {
      const double v = x.as<double>()[i];
      double h = 0;
      const auto gelu = [](double g) { return 0.5 * g * (1 + std::erf(g / std::sqrt(2.0))); };
      if (kind == MlpKind::mlp) {
        h = gelu(p.at("mlp.0.weight") * v + p.at("mlp.0.bias"));
      } else {
        const double gate = p.at("mlp.0.gate_proj.weight") * v + p.at("mlp.0.gate_proj.bias");
        const double value = p.at("mlp.0.value_proj.weight") * v + p.at("mlp.0.value_proj.bias");
        const double sigmoid = 1 / (1 + std::exp(-gate));
        h = value * (kind == MlpKind::glu      ? sigmoid
                     : kind == MlpKind::swiglu ? gate * sigmoid
                     : kind == MlpKind::geglu  ? gelu(gate)
                                               : std::max(gate, 0.0));
      }
      const std::string last = kind == MlpKind::mlp ? "mlp.2" : "mlp.1";
      EXPECT_NEAR(y.as<double>()[i], p.at(last + ".weight") * h + p.at(last + ".bias") + residual.as<double>()[i],
                  1e-14)
          << to_string(kind);
    }
  }
}

TEST(Mlp, NamesAsInTheReference) {
  ParameterStore plain(f64), gated(f64);
  const Mlp a(plain, "p", MlpKind::mlp, 2, 3, 2, 1), b(gated, "g", MlpKind::swiglu, 2, 3, 2, 1);
  EXPECT_EQ(names_of(plain), (std::set<std::string>{"p.mlp.0.weight", "p.mlp.0.bias", "p.mlp.2.weight", "p.mlp.2.bias",
                                                    "p.mlp.4.weight", "p.mlp.4.bias"}));
  EXPECT_EQ(names_of(gated),
            (std::set<std::string>{"g.mlp.0.gate_proj.weight", "g.mlp.0.gate_proj.bias", "g.mlp.0.value_proj.weight",
                                   "g.mlp.0.value_proj.bias", "g.mlp.1.gate_proj.weight", "g.mlp.1.gate_proj.bias",
                                   "g.mlp.1.value_proj.weight", "g.mlp.1.value_proj.bias", "g.mlp.2.weight",
                                   "g.mlp.2.bias"}));
}

TEST(Mlp, HiddenWidthRoundsHalfUp) {
  EXPECT_EQ(mlp_hidden_channels(32, 4), 128);
  EXPECT_EQ(mlp_hidden_channels(5, 0.5), 3);
  EXPECT_EQ(mlp_hidden_channels(1024, 2.67), 2734);
  BOREAS_EXPECT_ERROR(mlp_hidden_channels(8, 0), config, "mlp_ratio is 0");
  BOREAS_EXPECT_ERROR(mlp_hidden_channels(8, std::nan("")), config, "mlp_ratio is nan");
}

TEST(FeedForward, Gradients) {
  Workspace w;
  ParameterStore store(f64);
  const FeedForward layer(LayerNorm(store, "norm", 6), Mlp(store, "net", MlpKind::mlp, 6, 9, 6));
  materialise(store);
  check_layer(case_of(layer, store, w, 7, 6, 6), w);
}

/// Odd and tiny sizes.
BlockShape small_block(bool qk_norm, bool edge_pre_mlp, MlpKind mlp = MlpKind::mlp) {
  return {.num_channels = 6,
          .attention_channels = 10,  // not num_channels
          .num_heads = 2,
          .mlp_hidden = 9,
          .mlp = mlp,
          .qk_norm = qk_norm,
          .edge_pre_mlp = edge_pre_mlp};
}

constexpr int64_t kNodes = 11, kEdgeChannels = 5, kTrainable = 3, kItems = 2;
const RowExchange kRows = RowExchange::local(kNodes);

LayerCase<AttentionBlock> graph_case(const AttentionBlock& block, ParameterStore& store, Workspace& w,
                                     int64_t num_edges, int64_t num_wanted) {
  LayerCase<AttentionBlock> c = case_of(block, store, w, kItems * kNodes, 6, 6);
  c.in.edge_attributes = w.random(f64, {num_edges, kEdgeChannels});
  c.d_in.edge_attributes = w.output(f64, {num_edges, num_wanted});
  c.accumulated = {c.d_in.edge_attributes};
  c.inputs.push_back({"edge_attributes", c.in.edge_attributes.columns({kEdgeChannels - num_wanted, kEdgeChannels}),
                      c.d_in.edge_attributes});
  return c;
}

class GraphBlock : public testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(GraphBlock, Gradients) {
  const auto [qk_norm, edge_pre_mlp] = GetParam();
  Workspace w;
  ParameterStore store(f64);
  const Graph graph = random_graph(kNodes, kNodes, 3);
  const AttentionBlock block(store, "b", small_block(qk_norm, edge_pre_mlp), graph, kRows, -1, kEdgeChannels);
  materialise(store);
  check_layer(graph_case(block, store, w, graph.num_edges(), kTrainable), w);
  check_gradients(graph_case(block, store, w, graph.num_edges(), kEdgeChannels), w);
}
INSTANTIATE_TEST_SUITE_P(All, GraphBlock, testing::Combine(testing::Bool(), testing::Bool()));

TEST(AttentionBlock, AddsToTheGradientOfEdgeAttributes) {
  for (const bool edge_pre_mlp : {false, true}) {
    Workspace w;
    ParameterStore store(f64);
    const Graph graph = random_graph(kNodes, kNodes, 3);
    const AttentionBlock block(store, "b", small_block(false, edge_pre_mlp), graph, kRows, -1, kEdgeChannels);
    materialise(store);
    const LayerCase<AttentionBlock> c = graph_case(block, store, w, graph.num_edges(), kTrainable);
    c.gradients(w.ctx);
    std::vector<double> expected = values_of(c.d_in.edge_attributes);
    for (double& value : expected) value += 1;
    fill(c.d_in.edge_attributes, 1);
    c.forward_and_backward(w.ctx);
    expect_close(c.d_in.edge_attributes, expected);
  }
}

TEST(AttentionBlock, WorksWithoutEdges) {
  Workspace w;
  ParameterStore store(f64);
  const std::vector<int64_t> dst_ptr(kNodes + 1, 0);
  const Graph graph = Graph::from_sorted(kNodes, kNodes, dst_ptr, {});
  const AttentionBlock block(store, "b", small_block(true, true), graph, kRows, -1, kEdgeChannels);
  materialise(store);
  LayerCase<AttentionBlock> c = case_of(block, store, w, kNodes, 6, 6);
  c.in.edge_attributes = w.random(f64, {0, kEdgeChannels});
  check_layer(c, w);
}

class WindowBlock : public testing::TestWithParam<std::tuple<bool, int64_t>> {};

TEST_P(WindowBlock, Gradients) {
  const auto [qk_norm, window] = GetParam();
  Workspace w;
  ParameterStore store(f64);
  const AttentionBlock block(store, "b", small_block(qk_norm, false, MlpKind::swiglu), kRows, window);
  materialise(store);
  check_layer(case_of(block, store, w, kItems * kNodes, 6, 6), w);
}
INSTANTIATE_TEST_SUITE_P(All, WindowBlock, testing::Combine(testing::Bool(), testing::Values(-1, 1, 3)));

TEST(AttentionBlock, ItemsDoNotMix) {
  Workspace w;
  const Graph graph = random_graph(kNodes, kNodes, 3);
  for (const bool windowed : {false, true}) {
    ParameterStore store(f64);
    const BlockShape shape = small_block(true, false);
    const AttentionBlock block = windowed ? AttentionBlock(store, "b", shape, kRows, 2)
                                          : AttentionBlock(store, "b", shape, graph, kRows, -1, kEdgeChannels);
    materialise(store);
    const Tensor x = w.random(f64, {3 * kNodes, 6}), y = w.output(f64, {3 * kNodes, 6}),
                 one = w.output(f64, {kNodes, 6});
    const Tensor edges = windowed ? Tensor() : w.random(f64, {graph.num_edges(), kEdgeChannels});
    block.forward(w.ctx, {.x = x, .edge_attributes = edges}, {.y = y}, nullptr);
    for (int64_t i = 0; i < 3; ++i) {
      const Range item{i * kNodes, (i + 1) * kNodes};
      block.forward(w.ctx, {.x = x.slice(item), .edge_attributes = edges}, {.y = one}, nullptr);
      expect_close(y.slice(item), one);
    }
  }
}

TEST(AttentionBlock, MayWorkInPlaceWhenNothingIsSaved) {
  Workspace w;
  ParameterStore store(f64);
  const AttentionBlock block(store, "b", small_block(false, false), kRows, 2);
  materialise(store);
  const Tensor x = w.random(f64, {kNodes, 6}), y = w.output(f64, {kNodes, 6});
  block.forward(w.ctx, {.x = x, .edge_attributes = {}}, {.y = y}, nullptr);
  block.forward(w.ctx, {.x = x, .edge_attributes = {}}, {.y = x}, nullptr);
  EXPECT_TRUE(identical(x, y));
}

TEST(AttentionBlock, NamesAsInTheReference) {
  ParameterStore graph_store(f64), window_store(f64);
  const Graph graph = random_graph(kNodes, kNodes, 3);
  const AttentionBlock a(graph_store, "", small_block(true, true), graph, kRows, -1, kEdgeChannels);
  const AttentionBlock b(window_store, "", small_block(true, false), kRows, 2);
  std::set<std::string> expected;
  for (const char* name :
       {"layer_norm_attention", "lin_query", "lin_key", "lin_value", "lin_self", "lin_edge", "projection",
        "edge_pre_mlp.0", "layer_norm_mlp_dst", "node_dst_mlp.mlp.0", "node_dst_mlp.mlp.2"})
    for (const char* what : {".weight", ".bias"}) expected.insert(std::string(name) + what);
  expected.insert({"q_norm.weight", "k_norm.weight"});
  EXPECT_EQ(names_of(graph_store), expected);
  expected = {"attention.lin_q.weight", "attention.lin_k.weight", "attention.lin_v.weight", "attention.q_norm.weight",
              "attention.k_norm.weight"};
  for (const char* name : {"layer_norm_attention", "attention.projection", "layer_norm_mlp", "mlp.mlp.0", "mlp.mlp.2"})
    for (const char* what : {".weight", ".bias"}) expected.insert(std::string(name) + what);
  EXPECT_EQ(names_of(window_store), expected);
}

TEST(AttentionBlock, RejectsWhatDoesNotFit) {
  Workspace w;
  ParameterStore store(f64);
  ModelConfig config;
  config.num_channels = 30;
  config.num_heads = 4;
  BOREAS_EXPECT_ERROR(BlockShape::of(config), config,
                      "num_heads is 4, which does not divide the 30 attention channels");
  config.num_channels = 0;
  BOREAS_EXPECT_ERROR(BlockShape::of(config), config, "num_channels is 0");
  const Graph bipartite = random_graph(kNodes, kNodes + 1, 3);
  BOREAS_EXPECT_ERROR(AttentionBlock(store, "a", small_block(false, false), bipartite, kRows, -1, 3), shape,
                      "11 sources and 12");
  const AttentionBlock block(store, "b", small_block(false, false), kRows, 2);
  store.materialise(1);
  const Tensor x = w.random(f64, {kNodes + 1, 6});
  BOREAS_EXPECT_ERROR(block.forward(w.ctx, {.x = x, .edge_attributes = {}}, {.y = x}, nullptr), shape,
                      "multiple of the 11 nodes");
}

TEST(NodeAttributes, SinesThenCosinesThenTrainables) {
  Workspace w;
  ParameterStore store(f64);
  const NodeSet nodes{.name = "data", .latitudes = {0.3, -1.2, 0.9}, .longitudes = {2.0, 4.0, 6.0}, .attributes = {}};
  const NodeAttributes attributes(store, nodes, 2);
  store.materialise(1);
  EXPECT_EQ(attributes.num_columns(), 6);
  const Tensor wide = w.output(f64, {2 * 3, 8}), y = wide.columns({2, 8});
  store.for_each([&](const std::string& name, Tensor value, Tensor) {
    EXPECT_EQ(name, "node_attributes.trainable_tensors.data.trainable");
    EXPECT_EQ(values_of(value), std::vector<double>(6, 0.0)) << "trainables start at zero";
    for (int i = 0; i < 6; ++i) value.as<double>()[i] = 10 + i;
  });
  store.for_each_constant([](const std::string& name, Tensor) { EXPECT_EQ(name, "node_attributes.latlons_data"); });
  attributes.forward(w.ctx, y);
  for (int64_t row = 0; row < 6; ++row) {
    const size_t i = size_t(row % 3);
    const double lat = nodes.latitudes[i], lon = nodes.longitudes[i];
    const std::vector<double> expected{std::sin(lat), std::sin(lon),        std::cos(lat),
                                       std::cos(lon), 10 + 2.0 * double(i), 11 + 2.0 * double(i)};
    EXPECT_EQ(values_of(y.slice({row, row + 1})), expected);
  }
  // The gradient sums over items, from the last columns of whatever is given.
  const Tensor d_y = w.random(f64, {6, 5});
  attributes.backward(w.ctx, d_y);
  const Tensor grad = store.parameters().front().grad;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 2; ++j)
      EXPECT_DOUBLE_EQ(grad.row<double>(i)[j], d_y.row<double>(i)[3 + j] + d_y.row<double>(i + 3)[3 + j]);
}

TEST(EdgeAttributes, FixedThenTrainable) {
  Workspace w;
  ParameterStore store(f64);
  const EdgeSet edges{.src = "data",
                      .dst = "hidden",
                      .src_of = {0, 1},
                      .dst_of = {0, 0},
                      .attribute_names = {"edge_length", "edge_dirs"},
                      .attribute_widths = {1, 2},
                      .attributes = {1, 2, 3, 4, 5, 6}};
  const EdgeAttributes with(store, "with", edges, 2), without(store, "without", edges, 0);
  store.materialise(1);
  fill(store.parameters().front().value, 9);
  EXPECT_EQ(values_of(with.forward(w.ctx)), (std::vector<double>{1, 2, 3, 9, 9, 4, 5, 6, 9, 9}));
  EXPECT_EQ(values_of(without.forward(w.ctx)), edges.attributes);
  EXPECT_EQ(with.gradient().data(), store.parameters().front().grad.data());
  EXPECT_TRUE(without.gradient().empty());
  EXPECT_EQ(names_of(store), std::set<std::string>{"with.trainable.trainable"});
  EdgeSet bare = edges;
  bare.attribute_names = {};
  bare.attribute_widths = {};
  bare.attributes = {};
  ParameterStore other(f64);
  BOREAS_EXPECT_ERROR(EdgeAttributes(other, "bare", bare, 0), config, "neither attributes nor trainable values");
  BOREAS_EXPECT_ERROR(EdgeAttributes(other, "bare", edges, -1), config, "-1 values for each edge of bare");
}

}  // namespace
}  // namespace boreas
