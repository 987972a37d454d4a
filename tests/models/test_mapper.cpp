#include "models/mapper.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/models/layer_check.h"

namespace boreas {
namespace {

using namespace test;

constexpr DType f64 = DType::f64;
constexpr int64_t kSources = 13, kDestinations = 11, kEdgeChannels = 5, kTrainable = 3;
constexpr int64_t kChannels = 6, kSrcChannels = 7, kDstChannels = 4, kOut = 3;

struct Variant {
  Mapper::Kind kind = Mapper::Kind::encoder;
  int64_t items = 1, num_chunks = 1;
  bool recompute = false, qk_norm = false, edge_pre_mlp = false;
};

std::string name_of(const testing::TestParamInfo<Variant>& info) {
  const Variant& v = info.param;
  return fmt::format("{}_{}items_{}chunks{}{}{}", v.kind == Mapper::Kind::encoder ? "encoder" : "decoder", v.items,
                     v.num_chunks, v.recompute ? "_recompute" : "", v.qk_norm ? "_qknorm" : "",
                     v.edge_pre_mlp ? "_premlp" : "");
}

/// A mapper with random parameters and one call of it. Destinations without edges are part of the graph.
struct MapperFixture {
  Variant variant;
  Workspace w;
  ParameterStore store{f64};
  Graph graph = random_graph(kSources, kDestinations, 3);
  int64_t num_edges = graph.num_edges();
  Mapper mapper;

  explicit MapperFixture(const Variant& v) : variant(v), mapper(make(v)) {
    store.materialise(3);
    randomise(store);
  }

  Mapper make(const Variant& v) {
    const BlockShape shape{.num_channels = kChannels,
                           .attention_channels = 10,
                           .num_heads = 2,
                           .mlp_hidden = 9,
                           .mlp = MlpKind::mlp,
                           .qk_norm = v.qk_norm,
                           .edge_pre_mlp = v.edge_pre_mlp};
    const bool encoder = v.kind == Mapper::Kind::encoder;
    return Mapper(store, "m", shape,
                  {.kind = v.kind,
                   .src_channels = encoder ? kSrcChannels : kChannels,
                   .dst_channels = kDstChannels,
                   .out_channels = kOut,
                   .edge_channels = kEdgeChannels,
                   .num_chunks = v.num_chunks,
                   .recompute = v.recompute},
                  make_rank_graph(std::move(graph)));
  }

  LayerCase<Mapper> call(int64_t edge_columns = kTrainable, int64_t src_columns = 0) {
    const bool encoder = variant.kind == Mapper::Kind::encoder;
    const int64_t src_width = encoder ? kSrcChannels : kChannels;
    if (src_columns == 0) src_columns = src_width;
    const int64_t dst_rows = encoder ? kDestinations : variant.items * kDestinations;
    const Tensor x_src = w.random(f64, {variant.items * kSources, src_width});
    const Tensor x_dst = w.random(f64, {dst_rows, kDstChannels}), edges = w.random(f64, {num_edges, kEdgeChannels});
    const Tensor y = w.output(f64, {variant.items * kDestinations, encoder ? kChannels : kOut});
    const Tensor g = w.random(f64, {y.rows(), y.cols()});
    const Tensor d_src = w.output(f64, {x_src.rows(), src_columns}), d_dst = w.output(f64, {dst_rows, kDstChannels});
    const Tensor d_edges = w.output(f64, {num_edges, edge_columns});
    return {.layer = &mapper,
            .store = &store,
            .in = {.x_src = x_src, .x_dst = x_dst, .edge_attributes = edges},
            .out = {.x_dst = y},
            .upstream = {.x_dst = g},
            .d_in = {.x_src = d_src, .x_dst = d_dst, .edge_attributes = d_edges},
            .outputs = {{y, g}},
            .inputs = {{"x_src", x_src.columns({src_width - src_columns, src_width}), d_src},
                       {"x_dst", x_dst, d_dst},
                       {"edge_attributes", edges.columns({kEdgeChannels - edge_columns, kEdgeChannels}), d_edges}},
            .accumulated = encoder ? std::vector{d_src, d_dst, d_edges} : std::vector{d_dst, d_edges}};
  }
};

/// Output and all gradients of one call, by name.
std::map<std::string, std::vector<double>> results(const LayerCase<Mapper>& c, Workspace& w) {
  std::map<std::string, std::vector<double>> values;
  c.gradients(w.ctx);
  values["y"] = values_of(c.out.x_dst);
  for (const GradientCase& input : c.inputs) values[input.name] = values_of(input.gradient);
  for (const Parameter& p : c.store->parameters()) values[p.parts.front().name] = values_of(p.grad);
  return values;
}

class Mappers : public testing::TestWithParam<Variant> {};

TEST_P(Mappers, GradientsAndMemory) {
  MapperFixture f(GetParam());
  check_layer(f.call(), f.w);
  check_gradients(f.call(kEdgeChannels), f.w);
}
constexpr Mapper::Kind kEncoder = Mapper::Kind::encoder, kDecoder = Mapper::Kind::decoder;
INSTANTIATE_TEST_SUITE_P(All, Mappers,
                         testing::Values(Variant{kEncoder}, Variant{kDecoder}, Variant{kEncoder, 2, 3},
                                         Variant{kDecoder, 2, 3}, Variant{kEncoder, 3, 2, true, true, true},
                                         Variant{kDecoder, 2, 2, true, true, true},
                                         Variant{kEncoder, 2, 1, false, true},
                                         Variant{kDecoder, 2, 1, false, true, true}),
                         name_of);

TEST(Mapper, ResultDoesNotDependOnChunksOrRecompute) {
  for (const Mapper::Kind kind : {kEncoder, kDecoder})
    for (const bool options : {false, true}) {
      MapperFixture reference({.kind = kind, .items = 2, .qk_norm = options, .edge_pre_mlp = options});
      const auto expected = results(reference.call(), reference.w);
      for (const int64_t num_chunks : {1, 2, 5, 1000})
        for (const bool recompute : {false, true}) {
          MapperFixture f({kind, 2, num_chunks, recompute, options, options});
          for (const auto& [name, values] : results(f.call(), f.w)) {
            // Without qk_norm the gradient of the key's bias is zero but for rounding: an absolute scale is needed.
            EXPECT_LE(relative_error(values, expected.at(name), 1e-2), 1e-12)
                << name << " with " << num_chunks << " chunks, recompute " << recompute;
          }
        }
    }
}

TEST(Mapper, RecomputeChangesNoBit) {
  for (const Mapper::Kind kind : {kEncoder, kDecoder})
    for (const int64_t num_chunks : {1, 3}) {
      MapperFixture keep({kind, 2, num_chunks, false, true, true}), again({kind, 2, num_chunks, true, true, true});
      EXPECT_EQ(results(keep.call(), keep.w), results(again.call(), again.w));
    }
}

TEST(Mapper, ChunksAndRecomputeSaveMemory) {
  const auto peak = [](Mapper::Kind kind, int64_t num_chunks, bool recompute) {
    MapperFixture f({kind, 2, num_chunks, recompute});
    f.call().forward_and_backward(f.w.ctx);
    return f.w.ctx.arena().peak_bytes();
  };
  EXPECT_LT(peak(kDecoder, 1, true), peak(kDecoder, 1, false));
  EXPECT_LT(peak(kDecoder, 5, true), peak(kDecoder, 1, true));
  EXPECT_LT(peak(kEncoder, 1, true), peak(kEncoder, 1, false));
}

TEST(Mapper, ItemsDoNotMix) {
  for (const Mapper::Kind kind : {kEncoder, kDecoder}) {
    MapperFixture f({.kind = kind, .items = 3, .num_chunks = 2});
    const LayerCase<Mapper> all = f.call();
    const auto together = results(all, f.w);
    // One at a time, into the same parameter gradients.
    f.store.zero_gradients(f.w.ctx);
    for (const Tensor& tensor : all.accumulated) fill(tensor, 0);
    std::vector<double> y, d_src, d_dst;
    for (int64_t i = 0; i < 3; ++i) {
      const Range src{i * kSources, (i + 1) * kSources}, dst{i * kDestinations, (i + 1) * kDestinations};
      LayerCase<Mapper> one = all;
      one.in.x_src = all.in.x_src.slice(src);
      one.d_in.x_src = all.d_in.x_src.slice(src);
      if (kind == kDecoder) one.in.x_dst = all.in.x_dst.slice(dst), one.d_in.x_dst = all.d_in.x_dst.slice(dst);
      one.out.x_dst = all.out.x_dst.slice(dst);
      one.upstream.x_dst = all.upstream.x_dst.slice(dst);
      one.forward_and_backward(f.w.ctx);
      const auto append = [](std::vector<double>& to, const Tensor& from) {
        const std::vector<double> values = values_of(from);
        to.insert(to.end(), values.begin(), values.end());
      };
      append(y, one.out.x_dst);
      append(d_src, one.d_in.x_src);
      if (kind == kDecoder) append(d_dst, one.d_in.x_dst);
    }
    EXPECT_LE(relative_error(y, together.at("y")), 1e-13);
    EXPECT_LE(relative_error(d_src, together.at("x_src")), 1e-12);
    if (kind == kDecoder) {
      EXPECT_LE(relative_error(d_dst, together.at("x_dst")), 1e-12);
    }
    for (const Parameter& p : f.store.parameters())
      EXPECT_LE(relative_error(values_of(p.grad), together.at(p.parts.front().name), 1e-2), 1e-12)
          << p.parts.front().name;
  }
}

TEST(Mapper, GradientOfTheLastSourceColumnsOnly) {
  MapperFixture f({.kind = kEncoder, .items = 2});
  check_gradients(f.call(kTrainable, 2), f.w);
}

TEST(Mapper, UnwantedGradientsAreLeftOut) {
  for (const Mapper::Kind kind : {kEncoder, kDecoder})
    for (const bool edge_pre_mlp : {false, true}) {
      MapperFixture f({.kind = kind, .items = 2, .num_chunks = 2, .recompute = true, .edge_pre_mlp = edge_pre_mlp});
      LayerCase<Mapper> c = f.call();
      auto expected = results(c, f.w);
      c.d_in = {};
      c.inputs = {};
      c.accumulated = {};
      for (const auto& [name, values] : results(c, f.w)) EXPECT_EQ(values, expected.at(name)) << name;
    }
}

TEST(Mapper, DestinationsWithoutEdgesSeeOnlyThemselves) {
  MapperFixture f({.kind = kDecoder});
  const LayerCase<Mapper> c = f.call();
  c.loss(f.w.ctx);
  const Tensor before = f.w.copy_of(c.out.x_dst);
  fill(c.in.x_src, 3);
  fill(c.in.edge_attributes, -2);
  c.loss(f.w.ctx);
  const RandomEdges edges = random_edges(kSources, kDestinations, 3);
  int num_empty = 0;
  for (int64_t i = 0; i < kDestinations; ++i) {
    const bool empty = edges.dst_ptr[size_t(i)] == edges.dst_ptr[size_t(i) + 1];
    num_empty += empty;
    EXPECT_EQ(bool(identical(before.slice({i, i + 1}), c.out.x_dst.slice({i, i + 1}))), empty) << i;
  }
  EXPECT_GT(num_empty, 0);
}

TEST(Mapper, WorksWithoutAnyEdge) {
  Workspace w;
  ParameterStore store(f64);
  const Mapper mapper(store, "m", {.num_channels = 4, .attention_channels = 4, .num_heads = 2, .mlp_hidden = 4},
                      {.kind = kEncoder, .src_channels = 3, .dst_channels = 2, .edge_channels = 1, .num_chunks = 2},
                      make_rank_graph(Graph::from_sorted(5, 3, std::vector<int64_t>(4, 0), {})));
  store.materialise(1);
  randomise(store);
  const Tensor x_src = w.random(f64, {5, 3}), x_dst = w.random(f64, {3, 2}), edges = w.random(f64, {0, 1});
  const Tensor y = w.output(f64, {3, 4}), g = w.random(f64, {3, 4});
  const Tensor d_src = w.output(f64, {5, 3}), d_dst = w.output(f64, {3, 2});
  check_layer(LayerCase<Mapper>{.layer = &mapper,
                                .store = &store,
                                .in = {x_src, x_dst, edges},
                                .out = {y},
                                .upstream = {g},
                                .d_in = {d_src, d_dst, {}},
                                .outputs = {{y, g}},
                                .inputs = {{"x_src", x_src, d_src}, {"x_dst", x_dst, d_dst}},
                                .accumulated = {d_src, d_dst}},
              w);
}

TEST(Mapper, StartsFromPersistenceWithAZeroExtractor) {
  Workspace w;
  ParameterStore store(f64);
  const Mapper mapper(store, "m",
                      {.num_channels = kChannels, .attention_channels = kChannels, .num_heads = 2, .mlp_hidden = 4},
                      {.kind = kDecoder,
                       .src_channels = kChannels,
                       .dst_channels = kDstChannels,
                       .out_channels = kOut,
                       .edge_channels = kEdgeChannels,
                       .zero_extractor = true},
                      make_rank_graph(random_graph(kSources, kDestinations, 3)));
  store.materialise(1);
  const Tensor y = w.output(f64, {kDestinations, kOut});
  const Tensor edges = w.random(f64, {random_graph(kSources, kDestinations, 3).num_edges(), kEdgeChannels});
  mapper.forward(w.ctx,
                 {.x_src = w.random(f64, {kSources, kChannels}),
                  .x_dst = w.random(f64, {kDestinations, kDstChannels}),
                  .edge_attributes = edges},
                 {.x_dst = y}, nullptr);
  EXPECT_EQ(values_of(y), std::vector<double>(size_t(kDestinations * kOut), 0.0));
}

TEST(Mapper, NamesAsInTheReference) {
  const auto names = [](Mapper::Kind kind) {
    MapperFixture f({.kind = kind, .qk_norm = true, .edge_pre_mlp = true});
    std::set<std::string> result;
    f.store.for_each([&](const std::string& name, Tensor, Tensor) { result.insert(name); });
    return result;
  };
  std::set<std::string> common{"m.proc.q_norm.weight", "m.proc.k_norm.weight"};
  for (const char* name :
       {"emb_nodes_dst", "proc.lin_key", "proc.lin_query", "proc.lin_value", "proc.lin_self", "proc.lin_edge",
        "proc.projection", "proc.layer_norm_attention", "proc.layer_norm_attention_src", "proc.layer_norm_mlp_dst",
        "proc.node_dst_mlp.mlp.0", "proc.node_dst_mlp.mlp.2", "proc.edge_pre_mlp.0"})
    for (const char* what : {".weight", ".bias"}) common.insert("m." + std::string(name) + what);
  std::set<std::string> encoder = common, decoder = common;
  encoder.insert({"m.emb_nodes_src.weight", "m.emb_nodes_src.bias"});
  decoder.insert({"m.node_data_extractor.0.weight", "m.node_data_extractor.0.bias", "m.node_data_extractor.1.weight",
                  "m.node_data_extractor.1.bias"});
  EXPECT_EQ(names(kEncoder), encoder);
  EXPECT_EQ(names(kDecoder), decoder);
}

TEST(Mapper, RejectsWhatDoesNotFit) {
  MapperFixture f({.kind = kDecoder, .items = 2});
  LayerCase<Mapper> c = f.call();
  c.in.x_dst = c.in.x_dst.slice({0, kDestinations});
  BOREAS_EXPECT_ERROR(c.loss(f.w.ctx), shape,
                      "x_dst f64 [11, 4]; expected 13 rows for each item of x_src and 11 rows for each");
  c = f.call();
  c.in.x_src = c.in.x_src.slice({0, kSources + 1});
  BOREAS_EXPECT_ERROR(c.loss(f.w.ctx), shape, "x_src is f64 [14, 6]");
  ParameterStore store(f64);
  BOREAS_EXPECT_ERROR(
      Mapper(store, "decoder", {.num_channels = 4, .attention_channels = 4, .num_heads = 2, .mlp_hidden = 4},
             {.kind = kDecoder, .src_channels = 5, .dst_channels = 2, .out_channels = 1, .edge_channels = 1},
             make_rank_graph(random_graph(5, 3, 2))),
      config, "decoder: a decoder's sources have num_channels = 4 columns, not 5");
}

}  // namespace
}  // namespace boreas
