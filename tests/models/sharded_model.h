// Whole models on one rank and on several: outputs, losses and every gradient.
#pragma once

#include <map>

#include "tests/models/place.h"
#include "tests/models/small_models.h"
#include "tests/support/ranks.h"

namespace boreas::test {

inline constexpr int64_t kItems = 2;

struct Case {
  ModelConfig config;
  ExchangeKind exchange = ExchangeKind::halo;
  ShardKind kind = ShardKind::edges;
  DType dtype = DType::f64;
  std::string name;
  Device device = Device::cpu();
};

/// A model on the ranks of a group: y and d_x of this rank's rows, the summed gradients by name, of own rows where
/// these are split.
struct Model {
  Place place;
  ParameterStore store;
  EncoderProcessorDecoder model;

  Model(const Case& c, Communicator* ranks)
      : place({.device = c.device, .dtype = c.dtype}),
        store(c.dtype, c.device),
        model(c.config, shape(), small_graph(), store, {.ranks = ranks, .exchange = c.exchange, .kind = c.kind}) {
    store.materialise(3);
    // The same values whatever the number of ranks: a function of name and position in the whole array.
    std::vector<double> values(size_t(store.flat_size()), 0.0);
    store.for_each_in(Tensor(values.data(), DType::f64, {store.flat_size()}),
                      [&](const std::string& name, const Tensor& value) {
                        const Philox rng(9, std::hash<std::string>()(name));
                        const int64_t first = store.shards_of(name).rows.begin * value.cols();
                        for (int64_t i = 0; i < value.size(); ++i)
                          value.as<double>()[i] = 0.4 * rng.normal(uint64_t(first + i));
                      });
    fill_from_host(store.flat_masters(), values);
    store.round_masters();
  }

  static ModelShape shape() {
    ModelShape shape = small_shape(2);
    shape.boundings = all_boundings();
    return shape;
  }
};

/// Rows `own` of each item.
inline std::vector<double> rows_of(const std::vector<double>& whole, int64_t num_rows, Range own) {
  const int64_t width = int64_t(whole.size()) / (kItems * num_rows);
  std::vector<double> rows;
  for (int64_t item = 0; item < kItems; ++item)
    for (int64_t i = (item * num_rows + own.begin) * width; i < (item * num_rows + own.end) * width; ++i)
      rows.push_back(whole[size_t(i)]);
  return rows;
}

inline double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

/// |a - b| / max(|b|, scale)
inline double error_of(const std::vector<double>& a, const std::vector<double>& b, double scale) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum) / std::max({norm(b), scale, 1e-300});
}

struct Results {
  std::vector<double> y, d_x;
  std::map<std::string, std::vector<double>> gradients;
};

inline Results compute(Model& m, Communicator* ranks, const std::vector<double>& x_whole,
                       const std::vector<double>& g_whole) {
  const EncoderProcessorDecoder& model = m.model;
  const ModelShard shard{.ranks = ranks};
  const Range own = shard.rows_of(kData);
  Context& ctx = m.place.ctx;
  const DType dtype = m.store.master_dtype();
  const int64_t rows = kItems * own.size();
  const auto tensor = [&](const std::vector<double>& whole, int64_t cols) {
    return m.place.of(dtype, {rows, cols}, rows_of(whole, kData, own));
  };
  const Tensor x = tensor(x_whole, model.input_columns()), g = tensor(g_whole, model.output_columns());
  const Tensor y = m.place.output(dtype, g.shape()), d_x = m.place.output(dtype, x.shape());
  m.store.zero_gradients(ctx);
  EncoderProcessorDecoder::Saved saved;
  model.forward(ctx, {.x = x}, {.y = y}, &saved);
  model.backward(ctx, {.x = x}, saved, {.y = g}, {.x = d_x});
  if (ranks) ranks->all_reduce(ctx, m.store.flat_gradients().columns(m.store.replicated()));
  Results results{m.place.values(y), m.place.values(d_x), {}};
  std::vector<double> gradients = m.place.values(m.store.flat_gradients());
  m.store.for_each_in(
      Tensor(gradients.data(), DType::f64, {m.store.flat_size()}),
      [&](const std::string& name, const Tensor& gradient) { results.gradients[name] = values_of(gradient); });
  return results;
}

inline void compare(const Case& c, Communicator& ranks) {
  SCOPED_TRACE(c.name);
  Workspace w(4);
  const ModelShape shape = Model::shape();
  const std::vector<double> x = values_of(
                                w.random(DType::f64, {kItems * kData, shape.num_input_steps * shape.num_inputs})),
                            g = values_of(
                                w.random(DType::f64, {kItems * kData, shape.num_output_steps * shape.num_outputs}));
  Model whole(c, nullptr), part(c, &ranks);
  const Results expected = compute(whole, nullptr, x, g), actual = compute(part, &ranks, x, g);
  const double tolerance = c.dtype == DType::f64 ? 1e-12 : c.dtype == DType::f32 ? 2e-6 : 1e-3;
  // Small differences of large sums are judged by what one rank itself has lost, where it computes in less than f64.
  Results exact = expected;
  if (c.dtype != DType::f64) {
    Case wide = c;
    wide.dtype = DType::f64;
    wide.device = Device::cpu();
    Model oracle(wide, nullptr);
    exact = compute(oracle, nullptr, x, g);
  }
  const auto limit = [&](const std::vector<double>& computed, const std::vector<double>& in_double, double scale) {
    return std::max(tolerance, 4 * error_of(computed, in_double, scale));
  };
  const Range own = ModelShard{.ranks = &ranks}.rows_of(kData);
  EXPECT_LE(error_of(actual.y, rows_of(expected.y, kData, own), 0), limit(expected.y, exact.y, 0));
  EXPECT_LE(error_of(actual.d_x, rows_of(expected.d_x, kData, own), 0), limit(expected.d_x, exact.d_x, 0));
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
    EXPECT_LE(error_of(actual.gradients.at(name), rows, scale), limit(gradient, exact.gradients.at(name), scale))
        << name;
  }
}

/// Twice the same is equal bit for bit.
inline void repeats(const Case& c, Communicator& ranks) {
  Workspace w(4);
  const std::vector<double> x = values_of(w.random(DType::f64, {kItems * kData, 8})),
                            g = values_of(w.random(DType::f64, {kItems * kData, 8}));
  Model first(c, &ranks), second(c, &ranks);
  const Results a = compute(first, &ranks, x, g), b = compute(second, &ranks, x, g);
  EXPECT_EQ(a.y, b.y);
  EXPECT_EQ(a.d_x, b.d_x);
  EXPECT_EQ(a.gradients, b.gradients);
}

inline Case make_case(ProcessorKind processor, int64_t chunks, Recompute recompute, ExchangeKind exchange, bool qk_norm,
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

}  // namespace boreas::test
