#include "models/processor.h"

#include <gtest/gtest.h>

#include "tests/models/layer_check.h"

namespace boreas {
namespace {

using namespace test;

constexpr DType f64 = DType::f64;
constexpr int64_t kNodes = 11, kChannels = 6, kEdgeChannels = 5, kTrainable = 3, kItems = 2, kLayers = 3;

constexpr BlockShape kShape{.num_channels = kChannels,
                            .attention_channels = kChannels,
                            .num_heads = 2,
                            .mlp_hidden = 8,
                            .mlp = MlpKind::mlp,
                            .qk_norm = true,
                            .edge_pre_mlp = false};

struct ProcessorFixture {
  Workspace w;
  ParameterStore store{f64};
  bool windowed;
  int64_t num_edges = random_graph(kNodes, kNodes, 3).num_edges();
  Processor processor;

  ProcessorFixture(bool windowed, bool recompute)
      : windowed(windowed),
        processor(windowed ? Processor(store, "processor", kShape, kLayers, recompute, RowExchange::local(kNodes), 2)
                           : Processor(store, "processor", kShape, kLayers, recompute,
                                       make_rank_graph(random_graph(kNodes, kNodes, 3)), kEdgeChannels)) {
    store.materialise(3);
    randomise(store);
  }

  LayerCase<Processor> call() {
    const Shape shape{kItems * kNodes, kChannels};
    const Tensor x = w.random(f64, shape), d_x = w.output(f64, shape), y = w.output(f64, shape),
                 g = w.random(f64, shape);
    LayerCase<Processor> c{
        &processor, &store,         {.x = x, .edge_attributes = {}}, {y}, {g}, {.x = d_x, .edge_attributes = {}},
        {{y, g}},   {{"x", x, d_x}}};
    if (!windowed) {
      c.in.edge_attributes = w.random(f64, {num_edges, kEdgeChannels});
      c.d_in.edge_attributes = w.output(f64, {num_edges, kTrainable});
      c.accumulated = {c.d_in.edge_attributes};
      c.inputs.push_back({"edge_attributes", c.in.edge_attributes.columns({kEdgeChannels - kTrainable, kEdgeChannels}),
                          c.d_in.edge_attributes});
    }
    return c;
  }
};

class Processors : public testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(Processors, GradientsAndMemory) {
  const auto [windowed, recompute] = GetParam();
  ProcessorFixture f(windowed, recompute);
  check_layer(f.call(), f.w, 1e-8, 2e-5);  // three blocks in a row bend strongly
}
INSTANTIATE_TEST_SUITE_P(All, Processors, testing::Combine(testing::Bool(), testing::Bool()));

TEST(Processor, RecomputeOfBlocksChangesNoBitAndSavesMemory) {
  for (const bool windowed : {false, true}) {
    ProcessorFixture keep(windowed, false), again(windowed, true);
    const LayerCase<Processor> a = keep.call(), b = again.call();
    a.gradients(keep.w.ctx);
    b.gradients(again.w.ctx);
    EXPECT_TRUE(identical(a.out.y, b.out.y));
    EXPECT_TRUE(identical(a.d_in.x, b.d_in.x));
    EXPECT_TRUE(identical(keep.store.flat_gradients(), again.store.flat_gradients()));
    EXPECT_LT(again.w.ctx.arena().peak_bytes(), keep.w.ctx.arena().peak_bytes());
  }
}

TEST(Processor, LeavesItsInputAlone) {
  for (const bool windowed : {false, true}) {
    ProcessorFixture f(windowed, false);
    const LayerCase<Processor> c = f.call();
    const Tensor before = f.w.copy_of(c.in.x);
    c.loss(f.w.ctx);
    EXPECT_TRUE(identical(before, c.in.x));
  }
}

TEST(Processor, NeedsALayer) {
  ParameterStore store(f64);
  BOREAS_EXPECT_ERROR(Processor(store, "p", kShape, 0, false, RowExchange::local(kNodes), 2), config,
                      "num_layers is 0");
  BOREAS_EXPECT_ERROR(Processor(store, "p", kShape, -1, false, make_rank_graph(random_graph(3, 3, 1)), 2), config,
                      "num_layers is -1");
}

}  // namespace
}  // namespace boreas
