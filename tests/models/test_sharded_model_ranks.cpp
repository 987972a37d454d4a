// One rank against several: outputs, losses and every gradient of whole models.
#include <map>

#include "tests/models/small_models.h"
#include "tests/support/ranks.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using namespace test;

constexpr int64_t kItems = 2;

struct Case {
  ModelConfig config;
  ExchangeKind exchange = ExchangeKind::halo;
  ShardKind kind = ShardKind::edges;
  DType dtype = DType::f64;
  std::string name;
};

/// A model on the ranks of a group: y and d_x of this rank's rows, the summed gradients by name, of own rows where
/// these are split.
struct Model {
  Workspace w{11};
  ParameterStore store;
  EncoderProcessorDecoder model;

  Model(const Case& c, Communicator* ranks)
      : store(c.dtype),
        model(c.config, shape(), small_graph(), store, {.ranks = ranks, .exchange = c.exchange, .kind = c.kind}) {
    store.materialise(3);
    // The same values whatever the number of ranks: a function of name and position in the whole array.
    store.for_each([&](const std::string& name, Tensor value, Tensor) {
      const Philox rng(9, std::hash<std::string>()(name));
      const int64_t first = store.shards_of(name).rows.begin * value.cols();
      dispatch_dtype(value.dtype(), [&]<class T>() {
        if constexpr (std::is_floating_point_v<T>)
          for (int64_t i = 0; i < value.size(); ++i) value.as<T>()[i] = T(0.4 * rng.normal(uint64_t(first + i)));
      });
    });
  }

  static ModelShape shape() {
    ModelShape shape = small_shape(2);
    shape.boundings = all_boundings();
    return shape;
  }
};

/// Rows `own` of each item.
std::vector<double> rows_of(const std::vector<double>& whole, int64_t num_rows, Range own) {
  const int64_t width = int64_t(whole.size()) / (kItems * num_rows);
  std::vector<double> rows;
  for (int64_t item = 0; item < kItems; ++item)
    for (int64_t i = (item * num_rows + own.begin) * width; i < (item * num_rows + own.end) * width; ++i)
      rows.push_back(whole[size_t(i)]);
  return rows;
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

/// |a - b| / max(|b|, scale)
double error_of(const std::vector<double>& a, const std::vector<double>& b, double scale) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum) / std::max({norm(b), scale, 1e-300});
}

struct Results {
  std::vector<double> y, d_x;
  std::map<std::string, std::vector<double>> gradients;
};

Results compute(Model& m, Communicator* ranks, const std::vector<double>& x_whole, const std::vector<double>& g_whole) {
  const EncoderProcessorDecoder& model = m.model;
  const ModelShard shard{.ranks = ranks};
  const Range own = shard.rows_of(kData);
  const DType dtype = m.store.dtype();
  const int64_t rows = kItems * own.size();
  const auto tensor = [&](const std::vector<double>& whole, int64_t cols) {
    return m.w.of(dtype, {rows, cols}, rows_of(whole, kData, own));
  };
  const Tensor x = tensor(x_whole, model.input_columns()), g = tensor(g_whole, model.output_columns());
  const Tensor y = m.w.output(dtype, g.shape()), d_x = m.w.output(dtype, x.shape());
  EncoderProcessorDecoder::Saved saved;
  model.forward(m.w.ctx, {.x = x}, {.y = y}, &saved);
  model.backward(m.w.ctx, {.x = x}, saved, {.y = g}, {.x = d_x});
  if (ranks) ranks->all_reduce(m.w.ctx, m.store.flat_gradients().columns(m.store.replicated()));
  Results results{values_of(y), values_of(d_x), {}};
  m.store.for_each([&](const std::string& name, Tensor, Tensor grad) { results.gradients[name] = values_of(grad); });
  return results;
}

void compare(const Case& c, Communicator& ranks) {
  SCOPED_TRACE(c.name);
  Workspace w(4);
  const ModelShape shape = Model::shape();
  const std::vector<double> x = values_of(
                                w.random(DType::f64, {kItems * kData, shape.num_input_steps * shape.num_inputs})),
                            g = values_of(
                                w.random(DType::f64, {kItems * kData, shape.num_output_steps * shape.num_outputs}));
  Model whole(c, nullptr), part(c, &ranks);
  const Results expected = compute(whole, nullptr, x, g), actual = compute(part, &ranks, x, g);
  const double tolerance = c.dtype == DType::f64 ? 1e-12 : 2e-6;
  // Some gradients are small differences of large sums: in f32 they are judged by what one rank itself has lost.
  std::map<std::string, std::vector<double>> exact;
  if (c.dtype != DType::f64) {
    Case wide = c;
    wide.dtype = DType::f64;
    Model oracle(wide, nullptr);
    exact = compute(oracle, nullptr, x, g).gradients;
  }
  const Range own = ModelShard{.ranks = &ranks}.rows_of(kData);
  EXPECT_LE(error_of(actual.y, rows_of(expected.y, kData, own), 0), tolerance);
  EXPECT_LE(error_of(actual.d_x, rows_of(expected.d_x, kData, own), 0), tolerance);
  for (const auto& [name, gradient] : expected.gradients) {
    std::vector<double> rows = gradient;
    if (const ShardSpec shards = part.store.shards_of(name)) {
      const int64_t width = int64_t(gradient.size()) / shards.num_rows;
      rows = {gradient.begin() + shards.rows.begin * width, gradient.begin() + shards.rows.end * width};
    }
    // A bias is judged by the weight beside it: its own gradient may be rounding only.
    std::string weight = name;
    double scale = 0;
    if (const size_t at = name.rfind("bias"); at != std::string::npos && at + 4 == name.size()) {
      weight.replace(at, 4, "weight");
      if (expected.gradients.contains(weight)) scale = norm(expected.gradients.at(weight));
    }
    const double lost = exact.empty() ? 0 : error_of(gradient, exact.at(name), scale);
    EXPECT_LE(error_of(actual.gradients.at(name), rows, scale), std::max(tolerance, 4 * lost)) << name;
  }
}

Case make_case(ProcessorKind processor, int64_t chunks, Recompute recompute, ExchangeKind exchange, bool qk_norm,
               DType dtype = DType::f64) {
  Case c{.config = small_config(processor), .exchange = exchange, .dtype = dtype, .name = ""};
  c.config.encoder.num_chunks = c.config.decoder.num_chunks = chunks;
  c.config.recompute = recompute;
  c.config.qk_norm = qk_norm;
  c.config.edge_pre_mlp = qk_norm;
  c.name = fmt::format("{} {} chunks {} recompute {} {}", to_string(processor), chunks, to_string(exchange),
                       to_string(recompute), to_string(dtype));
  return c;
}

TEST(ShardedModelRanks, EqualsOneRank) {
  // The largest group that the hidden nodes allow.
  const int size = int(std::min<int64_t>(world().size(), kHidden));
  const auto group = world().split(world().rank() < size ? 0 : 1);
  if (world().rank() >= size) return;
  for (const ProcessorKind processor :
       {ProcessorKind::graph_transformer, ProcessorKind::transformer, ProcessorKind::none})
    for (const ExchangeKind exchange : {ExchangeKind::halo, ExchangeKind::allgather}) {
      compare(make_case(processor, 1, Recompute::none, exchange, false), *group);
      compare(make_case(processor, 2, Recompute::block, exchange, true), *group);
      compare(make_case(processor, 5, Recompute::none, exchange, false), *group);
      compare(make_case(processor, 2, Recompute::mappers, exchange, false, DType::f32), *group);
    }
}

TEST(ShardedModelRanks, GlobalWindowsAndTheWiderThanAPart) {
  const int size = int(std::min<int64_t>(world().size(), kHidden));
  const auto group = world().split(world().rank() < size ? 0 : 1);
  if (world().rank() >= size) return;
  for (const int64_t window : {-1, 0, 5}) {
    Case c = make_case(ProcessorKind::transformer, 1, Recompute::none, ExchangeKind::halo, true);
    c.config.processor.window = window;
    c.name += fmt::format(" window {}", window);
    compare(c, *group);
  }
}

TEST(ShardedModelRanks, HeadsEqualOneRank) {
  const int size = int(std::min<int64_t>(world().size(), kHidden));
  const auto group = world().split(world().rank() < size ? 0 : 1);
  if (world().rank() >= size) return;
  const auto compare_heads = [&](Case c, int64_t num_heads) {
    c.kind = ShardKind::heads;
    c.config.num_heads = num_heads;
    c.config.attention_channels = 3 * num_heads;
    c.name += fmt::format(" {} heads", num_heads);
    compare(c, *group);
  };
  for (const ProcessorKind processor :
       {ProcessorKind::graph_transformer, ProcessorKind::transformer, ProcessorKind::none}) {
    compare_heads(make_case(processor, 1, Recompute::none, ExchangeKind::halo, false), 7);
    compare_heads(make_case(processor, 2, Recompute::block, ExchangeKind::halo, true), size);
    compare_heads(make_case(processor, 5, Recompute::none, ExchangeKind::halo, true), 8);
    compare_heads(make_case(processor, 2, Recompute::mappers, ExchangeKind::halo, false, DType::f32), 8);
  }
  if (size == 1) return;
  Case c = make_case(ProcessorKind::none, 1, Recompute::none, ExchangeKind::halo, false);
  c.kind = ShardKind::heads;
  c.config.num_heads = 1;
  BOREAS_EXPECT_ERROR(Model(c, group.get()), config, fmt::format("{} ranks", size));
}

TEST(ShardedModelRanks, RepeatsBitForBit) {
  const int size = int(std::min<int64_t>(world().size(), kHidden));
  const auto group = world().split(world().rank() < size ? 0 : 1);
  if (world().rank() >= size) return;
  const Case c =
      make_case(ProcessorKind::graph_transformer, 2, Recompute::block, ExchangeKind::halo, false, DType::f32);
  Workspace w(4);
  const std::vector<double> x = values_of(w.random(DType::f64, {kItems * kData, 8})),
                            g = values_of(w.random(DType::f64, {kItems * kData, 8}));
  Model first(c, group.get()), second(c, group.get());
  const Results a = compute(first, group.get(), x, g), b = compute(second, group.get(), x, g);
  EXPECT_EQ(a.y, b.y);
  EXPECT_EQ(a.d_x, b.d_x);
  EXPECT_EQ(a.gradients, b.gradients);
}

TEST(ShardedModelRanks, MoreRanksThanNodesAreRefused) {
  if (world().size() <= kHidden) GTEST_SKIP() << "there are not more ranks than hidden nodes";
  const Case c = make_case(ProcessorKind::none, 1, Recompute::none, ExchangeKind::halo, false);
  BOREAS_EXPECT_ERROR(Model(c, &world()), config, "8 ranks cannot share the 7 nodes of hidden");
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN
