#include "models/encoder_processor_decoder.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/models/layer_check.h"
#include "tests/models/small_models.h"

namespace boreas {
namespace {

using namespace test;

constexpr DType f64 = DType::f64;

struct ModelFixture {
  Workspace w;
  ParameterStore store;
  EncoderProcessorDecoder model;
  int64_t items;

  ModelFixture(const ModelConfig& config, const ModelShape& shape, int64_t items = 2, DType dtype = f64)
      : store(dtype), model(config, shape, small_graph(), store), items(items) {
    store.materialise(3);
    randomise(store);
  }

  LayerCase<EncoderProcessorDecoder> call() {
    const DType dtype = store.dtype();
    const Shape in{items * kData, model.input_columns()}, out{items * kData, model.output_columns()};
    const Tensor x = w.random(dtype, in), d_x = w.output(dtype, in), y = w.output(dtype, out), g = w.random(dtype, out);
    return {&model, &store, {x}, {y}, {g}, {d_x}, {{y, g}}, {{"x", x, d_x}}};
  }
};

struct Results {
  std::vector<double> y, d_x, gradients;
};

Results results(const LayerCase<EncoderProcessorDecoder>& c, Workspace& w) {
  c.gradients(w.ctx);
  return {values_of(c.out.y), c.d_in.x ? values_of(c.d_in.x) : std::vector<double>(),
          values_of(c.store->flat_gradients())};
}

class Models : public testing::TestWithParam<ProcessorKind> {};

TEST_P(Models, GradientsAndMemory) {
  ModelConfig config = small_config(GetParam());
  config.qk_norm = true;
  config.processor.qk_norm = false;
  ModelFixture f(config, small_shape());
  check_layer(f.call(), f.w);
}

TEST_P(Models, AllOptionsTogether) {
  ModelConfig config = small_config(GetParam());
  config.attention_channels = 4;
  config.edge_pre_mlp = true;
  config.mlp = MlpKind::swiglu;
  config.encoder.num_chunks = 2;
  config.decoder.num_chunks = 3;
  config.recompute = Recompute::block;
  config.latent_skip = false;
  config.trainable.hidden = 0;
  config.trainable.decoder = 0;
  ModelShape shape = small_shape(2);
  shape.boundings = all_boundings();
  ModelFixture f(config, shape);
  check_layer(f.call(), f.w, 1e-8, 1e-5);  // a small step: boundings have kinks
}

std::string kind_name(const testing::TestParamInfo<ProcessorKind>& info) { return std::string(to_string(info.param)); }
INSTANTIATE_TEST_SUITE_P(All, Models,
                         testing::Values(ProcessorKind::graph_transformer, ProcessorKind::transformer,
                                         ProcessorKind::none),
                         kind_name);

TEST(EncoderProcessorDecoder, EveryRecomputeAndChunkCountGivesTheSame) {
  for (const ProcessorKind kind : {ProcessorKind::graph_transformer, ProcessorKind::transformer}) {
    ModelFixture reference(small_config(kind), small_shape());
    const Results expected = results(reference.call(), reference.w);
    for (const Recompute recompute : {Recompute::none, Recompute::mappers, Recompute::block, Recompute::step})
      for (const int64_t num_chunks : {1, 2, 5}) {
        ModelConfig config = small_config(kind);
        config.recompute = recompute;
        config.encoder.num_chunks = config.decoder.num_chunks = num_chunks;
        ModelFixture f(config, small_shape());
        LayerCase<EncoderProcessorDecoder> c = f.call();
        c.recompute = recompute == Recompute::step;
        const Results actual = results(c, f.w);
        const std::string what = fmt::format("{}, {} chunks", to_string(recompute), num_chunks);
        EXPECT_LE(relative_error(actual.y, expected.y), 1e-13) << what;
        EXPECT_LE(relative_error(actual.d_x, expected.d_x), 1e-12) << what;
        EXPECT_LE(relative_error(actual.gradients, expected.gradients), 1e-12) << what;
        if (num_chunks == 1) {
          EXPECT_EQ(actual.gradients, expected.gradients) << what;
        }
        check_plan(c, f.w);
      }
  }
}

TEST(EncoderProcessorDecoder, PlannedForecastEqualsTheRealOne) {
  for (const int64_t num_chunks : {1, 3}) {
    ModelConfig config = small_config();
    config.encoder.num_chunks = config.decoder.num_chunks = num_chunks;
    ModelShape shape = small_shape(2);
    shape.boundings = all_boundings();
    ModelFixture f(config, shape);
    const LayerCase<EncoderProcessorDecoder> c = f.call();
    Arena counting;
    Context plan(Device::cpu(), counting, Mode::plan);
    f.model.forward(plan, c.in, c.out, nullptr);
    f.model.forward(f.w.ctx, c.in, c.out, nullptr);
    EXPECT_EQ(counting.peak_bytes(), f.w.ctx.arena().peak_bytes());
    EXPECT_EQ(counting.peak().saved_bytes, 0);
  }
}

TEST(EncoderProcessorDecoder, PlansBeforeParametersHaveMemory) {
  ParameterStore store(DType::f32);
  const EncoderProcessorDecoder model(small_config(), small_shape(), small_graph(), store);
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  const Tensor x = plan.alloc(Keep::scratch, DType::f32, {kData, 8}),
               y = plan.alloc(Keep::scratch, DType::f32, {kData, 4});
  EncoderProcessorDecoder::Saved saved;
  model.forward(plan, {x}, {y}, &saved);
  model.backward(plan, {x}, saved, {y}, {});
  EXPECT_GT(counting.peak_bytes(), 0);
  EXPECT_FALSE(store.materialised());
}

TEST(EncoderProcessorDecoder, PlansInMixedTypes) {
  for (const ProcessorKind kind : {ProcessorKind::graph_transformer, ProcessorKind::transformer})
    for (const ResidualType residual : {ResidualType::storage, ResidualType::f32})
      for (const Recompute recompute : {Recompute::none, Recompute::mappers, Recompute::block})
        for (const int64_t chunks : {1, 3})
          for (const int64_t items : {1, 2})
            for (const bool all_options : {false, true}) {
              ModelConfig config = small_config(kind);
              config.residual_dtype = residual;
              config.recompute = recompute;
              config.encoder.num_chunks = config.decoder.num_chunks = chunks;
              config.qk_norm = config.edge_pre_mlp = all_options;
              if (all_options) config.mlp = MlpKind::swiglu;
              ParameterStore store(DType::bf16, Device::planned_cuda());
              ModelShape shape = small_shape();
              if (all_options) shape.boundings = all_boundings();
              const EncoderProcessorDecoder model(config, shape, small_graph(), store);
              Arena arena;
              Context ctx(store.device(), arena, Mode::plan);
              const auto tensor = [&](int64_t cols) {
                return Tensor(nullptr, DType::f32, {items * kData, cols}, store.device());
              };
              const Tensor x = tensor(model.input_columns()), y = tensor(model.output_columns());
              for (const Tensor& d_x : {Tensor(), tensor(model.input_columns())}) {
                EncoderProcessorDecoder::Saved saved;
                model.forward(ctx, {x}, {y}, &saved);
                model.backward(ctx, {x}, saved, {y}, {d_x});
                EXPECT_EQ(arena.used_bytes(), 0);
              }
              model.forward(ctx, {x}, {y}, nullptr);
            }
}

TEST(EncoderProcessorDecoder, ItemsDoNotMix) {
  ModelFixture f(small_config(), small_shape(), 3);
  const LayerCase<EncoderProcessorDecoder> all = f.call();
  const Results together = results(all, f.w);
  f.store.zero_gradients(f.w.ctx);
  std::vector<double> y, d_x;
  for (int64_t i = 0; i < 3; ++i) {
    const Range item{i * kData, (i + 1) * kData};
    LayerCase<EncoderProcessorDecoder> one = all;
    one.in.x = all.in.x.slice(item);
    one.out.y = all.out.y.slice(item);
    one.upstream.y = all.upstream.y.slice(item);
    one.d_in.x = all.d_in.x.slice(item);
    one.forward_and_backward(f.w.ctx);
    for (const double value : values_of(one.out.y)) y.push_back(value);
    for (const double value : values_of(one.d_in.x)) d_x.push_back(value);
  }
  EXPECT_LE(relative_error(y, together.y), 1e-13);
  EXPECT_LE(relative_error(d_x, together.d_x), 1e-12);
  EXPECT_LE(relative_error(values_of(f.store.flat_gradients()), together.gradients), 1e-12);
}

TEST(EncoderProcessorDecoder, ParameterGradientsDoNotNeedThoseOfTheInput) {
  ModelFixture f(small_config(), small_shape());
  LayerCase<EncoderProcessorDecoder> c = f.call();
  const std::vector<double> expected = results(c, f.w).gradients;
  c.d_in.x = {};
  c.inputs = {};
  EXPECT_LE(relative_error(results(c, f.w).gradients, expected), 1e-13);
  check_gradients(c, f.w);
}

TEST(EncoderProcessorDecoder, WorksWithoutTrainablesAndPrognosticVariables) {
  ModelConfig config = small_config();
  config.trainable = {.data = 0, .hidden = 0, .encoder = 0, .processor = 0, .decoder = 0};
  ModelShape shape = small_shape();
  shape.num_input_steps = 1;
  shape.input_prognostic = {};
  shape.output_prognostic = {};
  ModelFixture f(config, shape);
  LayerCase<EncoderProcessorDecoder> c = f.call();
  check_layer(c, f.w);
  const std::vector<double> expected = results(c, f.w).gradients;
  c.d_in.x = {};
  EXPECT_LE(relative_error(results(c, f.w).gradients, expected), 1e-13);
}

TEST(EncoderProcessorDecoder, PredictsTheChangeOfPrognosticVariables) {
  ModelConfig config = small_config();
  config.decoder.initialise_data_extractor_zero = true;
  ParameterStore store(f64);
  const EncoderProcessorDecoder model(config, small_shape(2), small_graph(), store);
  store.materialise(1);
  Workspace w;
  const Tensor x = w.random(f64, {kData, 8}), y = w.output(f64, {kData, 8});
  model.forward(w.ctx, {x}, {y}, nullptr);
  for (int64_t i = 0; i < kData; ++i)
    for (int64_t t = 0; t < 2; ++t) {
      // Latest step: columns 4 .. 8. Output 2 is a diagnostic; input 1 is a forcing.
      const double expected[] = {x.row<double>(i)[4], x.row<double>(i)[6], 0, x.row<double>(i)[7]};
      for (int64_t v = 0; v < 4; ++v) EXPECT_EQ(y.row<double>(i)[4 * t + v], expected[v]);
    }
}

TEST(EncoderProcessorDecoder, LatentSkipBypassesTheProcessor) {
  // With the last maps of each block at zero, blocks are the identity: processed = 2 z or z.
  for (const bool skip : {true, false}) {
    ModelConfig config = small_config();
    config.latent_skip = skip;
    ModelFixture f(config, small_shape());
    f.store.for_each([](const std::string& name, Tensor value, Tensor) {
      if (name.starts_with("processor.proc.") &&
          (name.find(".projection.") != std::string::npos || name.find(".mlp.2.") != std::string::npos))
        fill(value, 0);
    });
    EncoderProcessorDecoder::Saved saved;
    const LayerCase<EncoderProcessorDecoder> c = f.call();
    f.model.forward(f.w.ctx, c.in, c.out, &saved);
    std::vector<double> expected = values_of(saved.latent);
    for (double& value : expected) value *= skip ? 2 : 1;
    expect_close(saved.processed, expected);
  }
}

TEST(EncoderProcessorDecoder, BoundsEveryOutputStepInOrder) {
  ModelShape free = small_shape(2), bounded = small_shape(2);
  bounded.boundings = all_boundings();
  ModelFixture a(small_config(), free), b(small_config(), bounded);
  const LayerCase<EncoderProcessorDecoder> ca = a.call(), cb = b.call();
  ca.loss(a.w.ctx);
  cb.loss(b.w.ctx);
  const auto leaky = [](double v) { return v > 0 ? v : 0.01 * v; };
  for (int64_t row = 0; row < ca.out.y.rows(); ++row)
    for (int64_t t = 0; t < 2; ++t) {
      const double* y = ca.out.y.row<double>(row) + 4 * t;
      double v0 = leaky(y[0]), v1 = std::min(std::max(y[1], -1.3), 0.9), v2 = leaky(y[2]), v3 = y[3];
      v2 = leaky(v2 + 0.4) - 0.4;
      v3 = (v3 < 0 ? 0.01 * v3 : v3 > 1 ? 1 + 0.01 * (v3 - 1) : v3) * v0;
      v0 = std::max(v0 + 0.2, 0.0) - 0.2;
      const double expected[] = {v0, v1, v2, v3};
      for (int64_t v = 0; v < 4; ++v) EXPECT_NEAR(cb.out.y.row<double>(row)[4 * t + v], expected[v], 1e-14);
    }
}

TEST(EncoderProcessorDecoder, ComputesInFloat32) {
  ModelConfig config = small_config();
  config.qk_norm = true;
  ModelFixture wide(config, small_shape(), 2, f64), narrow(config, small_shape(), 2, DType::f32);
  narrow.store.for_each([&](const std::string& name, Tensor value, Tensor) {
    wide.store.for_each([&](const std::string& other, Tensor exact, Tensor) {
      if (name != other) return;
      for (int64_t i = 0; i < value.rows(); ++i)
        for (int64_t j = 0; j < value.cols(); ++j) exact.row<double>(i)[j] = double(value.row<float>(i)[j]);
    });
  });
  const Results expected = results(wide.call(), wide.w), actual = results(narrow.call(), narrow.w);
  EXPECT_LE(relative_error(actual.y, expected.y), 2e-6);
  EXPECT_LE(relative_error(actual.d_x, expected.d_x), 2e-5);
  std::map<std::string, std::vector<double>> gradients;
  wide.store.for_each([&](const std::string& name, Tensor, Tensor grad) { gradients[name] = values_of(grad); });
  narrow.store.for_each([&](const std::string& name, Tensor, Tensor grad) {
    EXPECT_LE(relative_error(values_of(grad), gradients.at(name), 1e-2), 2e-5) << name;
  });
}

TEST(EncoderProcessorDecoder, NamesAsInTheReference) {
  ParameterStore store(f64);
  const EncoderProcessorDecoder model(small_config(), small_shape(), small_graph(), store);
  std::set<std::string> names, constants;
  store.for_each([&](const std::string& name, Tensor, Tensor) { names.insert(name); });
  store.for_each_constant([&](const std::string& name, Tensor) { constants.insert(name); });
  for (const char* name :
       {"encoder.data.emb_nodes_src.weight", "encoder.data.proc.lin_query.bias",
        "decoder.data.node_data_extractor.1.weight", "processor.proc.1.node_dst_mlp.mlp.2.bias",
        "encoder_graph_provider.data.trainable.trainable", "processor_graph_provider.trainable.trainable",
        "decoder_graph_provider.data.trainable.trainable", "node_attributes.trainable_tensors.data.trainable",
        "node_attributes.trainable_tensors.hidden.trainable"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_EQ(constants, (std::set<std::string>{"node_attributes.latlons_data", "node_attributes.latlons_hidden"}));
}

TEST(EncoderProcessorDecoder, RejectsWhatDoesNotFit) {
  Workspace w;
  {
    ModelFixture f(small_config(), small_shape());
    LayerCase<EncoderProcessorDecoder> c = f.call();
    c.in.x = c.in.x.columns({0, 7});
    BOREAS_EXPECT_ERROR(c.loss(f.w.ctx), shape, "13 rows (data nodes) and 8 columns (2 steps of 4 variables)");
    c = f.call();
    c.in.x = c.in.x.slice({0, kData + 1});
    BOREAS_EXPECT_ERROR(c.loss(f.w.ctx), shape, "x is f64 [14, 8]");
  }
  GraphData graph = small_graph();
  std::erase_if(graph.edges, [](const EdgeSet& edges) { return edges.src == edges.dst; });
  ParameterStore store(f64), other(f64), empty(f64);
  BOREAS_EXPECT_ERROR(EncoderProcessorDecoder(small_config(), small_shape(), graph, store), config, "hidden");
  EncoderProcessorDecoder(small_config(ProcessorKind::transformer), small_shape(), graph, other);  // needs none
  ModelShape nothing = small_shape();
  nothing.num_outputs = 0;
  BOREAS_EXPECT_ERROR(EncoderProcessorDecoder(small_config(), nothing, small_graph(), empty), config, "1 x 0 out");
}

}  // namespace
}  // namespace boreas
