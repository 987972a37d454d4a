#include "models/parameters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::values_of;

std::map<std::string, std::vector<double>> values_by_name(const ParameterStore& store) {
  std::map<std::string, std::vector<double>> values;
  store.for_each([&](const std::string& name, Tensor value, Tensor) { values[name] = values_of(value); });
  return values;
}

TEST(ParameterStore, LaysArraysInFlatBuffers) {
  ParameterStore store(DType::f32);
  const Parameter* a = store.add("a", {3, 5}, Init::linear(5));
  const Parameter* b = store.add("b", {7}, Init::ones());
  EXPECT_EQ(store.num_parameters(), 22);
  store.materialise(1);
  EXPECT_EQ(live_bytes("parameters"), store.value_bytes());
  EXPECT_EQ(live_bytes("gradients"), store.gradient_bytes());
  const auto offset = [&](const Tensor& part, const Tensor& flat) { return part.as<float>() - flat.as<float>(); };
  for (const Parameter* p : {a, b}) {
    EXPECT_EQ(offset(p->value, store.flat_values()), offset(p->grad, store.flat_gradients()));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p->value.data()) % 256, 0u);
  }
  EXPECT_EQ(values_of(b->value), std::vector<double>(7, 1.0));
  // Gaps between the arrays hold zeros.
  double sum = 0;
  for (const double value : values_of(store.flat_values())) sum += std::abs(value);
  double named = 0;
  store.for_each([&](const std::string&, Tensor value, Tensor) {
    for (const double v : values_of(value)) named += std::abs(v);
  });
  EXPECT_DOUBLE_EQ(sum, named);
}

TEST(ParameterStore, PartsOfAStackAreNamedSlices) {
  ParameterStore store(DType::f64);
  const Parameter* weight = store.add_stack({{"q.weight", 2}, {"k.weight", 3}}, 4, Init::linear(4));
  const Parameter* bias = store.add_stack({{"q.bias", 2}, {"k.bias", 3}}, 0, Init::linear(4));
  store.materialise(1);
  EXPECT_EQ(weight->value.shape(), (Shape{5, 4}));
  EXPECT_EQ(bias->value.shape(), (Shape{5}));
  std::map<std::string, Shape> shapes;
  store.for_each([&](const std::string& name, Tensor value, Tensor grad) {
    shapes[name] = value.shape();
    EXPECT_EQ(grad.shape(), value.shape());
    const void* const whole = name.ends_with("weight") ? weight->value.row<double>(name[0] == 'k' ? 2 : 0)
                                                       : bias->value.as<double>() + (name[0] == 'k' ? 2 : 0);
    EXPECT_EQ(value.data(), whole) << name;
  });
  EXPECT_EQ(shapes, (std::map<std::string, Shape>{
                        {"q.weight", {2, 4}}, {"k.weight", {3, 4}}, {"q.bias", {2}}, {"k.bias", {3}}}));
  size_t visited = 0;
  store.for_each_in(store.flat_values(), [&](const std::string& name, Tensor slice) {
    EXPECT_EQ(values_of(slice), values_by_name(store).at(name));
    ++visited;
  });
  EXPECT_EQ(visited, 4u);
}

TEST(ParameterStore, InitialValuesDependOnSeedAndNameOnly) {
  ParameterStore alone(DType::f64), stacked(DType::f64), other_seed(DType::f64);
  alone.add("x.weight", {6, 9}, Init::linear(9));
  alone.add("y.weight", {4, 9}, Init::linear(9));
  stacked.add("first", {11}, Init::linear(3));
  stacked.add_stack({{"y.weight", 4}, {"x.weight", 6}}, 9, Init::linear(9));
  other_seed.add("x.weight", {6, 9}, Init::linear(9));
  alone.materialise(5);
  stacked.materialise(5);
  other_seed.materialise(6);
  const auto values = values_by_name(alone);
  EXPECT_EQ(values.at("x.weight"), values_by_name(stacked).at("x.weight"));
  EXPECT_EQ(values.at("y.weight"), values_by_name(stacked).at("y.weight"));
  EXPECT_NE(values.at("x.weight"), values_by_name(other_seed).at("x.weight"));
  EXPECT_NE(values.at("x.weight")[0], values.at("y.weight")[0]);
}

TEST(ParameterStore, UniformValuesFillTheirRange) {
  ParameterStore store(DType::f64);
  store.add("weight", {200, 100}, Init::linear(100));
  store.materialise(3);
  double sum = 0, squares = 0, largest = 0;
  for (const double value : values_of(store.parameters().front().value)) {
    sum += value;
    squares += value * value;
    largest = std::max(largest, std::abs(value));
  }
  EXPECT_LE(largest, 0.1);
  EXPECT_GT(largest, 0.0999);
  EXPECT_NEAR(sum / 20000, 0, 0.002);
  EXPECT_NEAR(squares / 20000, 0.01 / 3, 1e-4);
}

TEST(ParameterStore, PlansWithoutMemory) {
  ParameterStore store(DType::f32);
  const Parameter* p = store.add("weight", {1 << 20, 1 << 12}, Init::zeros());
  EXPECT_FALSE(store.materialised());
  EXPECT_EQ(p->value.shape(), (Shape{1 << 20, 1 << 12}));
  EXPECT_EQ(store.value_bytes(), int64_t{4} << 32);
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  store.zero_gradients(plan);
}

TEST(ParameterStore, ZeroesGradients) {
  test::Workspace w;
  ParameterStore store(DType::f32);
  const Parameter* p = store.add("bias", {3}, Init::ones());
  store.materialise(1);
  test::fill(p->grad, 7);
  store.zero_gradients(w.ctx);
  EXPECT_EQ(values_of(p->grad), std::vector<double>(3, 0.0));
  EXPECT_EQ(values_of(p->value), std::vector<double>(3, 1.0));
}

TEST(ParameterStore, KeepsConstantsApart) {
  ParameterStore store(DType::f32);
  const Tensor latlons = store.add_constant("latlons", {2, 2}, std::vector<double>{1, 2, 3, 4});
  EXPECT_EQ(values_of(latlons), (std::vector<double>{1, 2, 3, 4}));
  store.materialise(1);
  EXPECT_EQ(store.num_parameters(), 0);
  int visited = 0;
  store.for_each_constant([&](const std::string& name, Tensor value) {
    EXPECT_EQ(name, "latlons");
    EXPECT_EQ(value.data(), latlons.data());
    ++visited;
  });
  EXPECT_EQ(visited, 1);
}

TEST(ParameterStore, ValuesInBf16AreRoundedFromMastersInF32) {
  ParameterStore store(DType::bf16);
  const Parameter* p = store.add("weight", {3, 5}, Init::linear(5));
  store.materialise(1);
  EXPECT_EQ(store.master_bytes(), 2 * store.value_bytes());
  EXPECT_EQ(live_bytes("masters"), store.master_bytes());
  const Tensor masters = store.flat_masters();
  EXPECT_EQ(masters.dtype(), DType::f32);
  EXPECT_EQ(p->grad.dtype(), DType::f32);
  store.for_each([&](const std::string&, Tensor value, Tensor) {
    EXPECT_EQ(value.data(), masters.data());
    EXPECT_EQ(value.shape(), p->shape);
    value.as<float>()[1] = 1.00390625f;  // between two values of bf16
  });
  store.round_masters();
  EXPECT_EQ(float(p->value.as<bfloat16>()[0]), float(bfloat16(masters.as<float>()[0])));
  EXPECT_EQ(float(p->value.as<bfloat16>()[1]), 1.0f);

  ParameterStore single(DType::f32);
  single.add("weight", {3, 5}, Init::linear(5));
  single.materialise(1);
  EXPECT_EQ(single.master_bytes(), 0);
  EXPECT_EQ(single.flat_masters().data(), single.flat_values().data());
  EXPECT_EQ(single.flat_masters().as<float>()[0], masters.as<float>()[0]);
}

TEST(ParameterStore, ShardsAreTheRowsOfTheWholeAndStandLast) {
  ParameterStore whole(DType::f64), part(DType::f64);
  whole.add("rows", {7, 3}, Init::linear(3));
  whole.add("all", {4, 2}, Init::linear(2));
  const ShardSpec shard{.rows = {2, 5}, .num_rows = 7};
  const Parameter* const rows = part.add("rows", {3, 3}, Init::linear(3), shard);
  const Parameter* const all = part.add("all", {4, 2}, Init::linear(2));
  EXPECT_EQ(part.num_parameters(), whole.num_parameters());
  whole.materialise(5);
  part.materialise(5);
  const auto expected = values_by_name(whole), values = values_by_name(part);
  EXPECT_EQ(values.at("all"), expected.at("all"));
  const std::vector<double>& of_all = expected.at("rows");
  EXPECT_EQ(values.at("rows"), std::vector<double>(of_all.begin() + 6, of_all.begin() + 15));
  EXPECT_EQ(all->value.data(), part.flat_values().data());
  EXPECT_EQ(rows->grad.data(), part.flat_gradients().columns(part.sharded()).data());
  EXPECT_EQ(part.replicated().end, part.sharded().begin);
  EXPECT_EQ(part.shards_of("rows").rows, shard.rows);
  EXPECT_FALSE(part.shards_of("all"));
  ParameterStore wrong;
  BOREAS_EXPECT_ERROR(wrong.add("rows", {4, 3}, Init::zeros(), shard), shape,
                      "parameter rows has 4 rows, but its shard is rows 2 to 5 of 7");
}

TEST(ParameterStore, RejectsWrongUse) {
  ParameterStore store(DType::f32);
  store.add("a.weight", {2, 2}, Init::zeros());
  BOREAS_EXPECT_ERROR(store.add("a.weight", {2, 2}, Init::zeros()), invalid_argument, "a.weight");
  BOREAS_EXPECT_ERROR(store.add_constant("a.weight", {1}, std::vector<double>{1}), invalid_argument, "a.weight");
  BOREAS_EXPECT_ERROR(store.add_constant("b", {3}, std::vector<double>{1}), shape, "1 values cannot fill f32 [3]");
  store.materialise(1);
  BOREAS_EXPECT_ERROR(store.add("late", {1}, Init::zeros()), invalid_argument, "materialised");
  BOREAS_EXPECT_ERROR(store.materialise(1), invalid_argument, "materialised");
  BOREAS_EXPECT_ERROR(store.for_each_in(store.flat_values().columns({0, 1}), [](const std::string&, Tensor) {}), shape,
                      "f32 [1, 1]");
  BOREAS_EXPECT_ERROR(ParameterStore(DType::i32), invalid_argument, "i32");
}

TEST(ParameterStore, JoinsNames) {
  EXPECT_EQ(join_name("encoder.data", "proc"), "encoder.data.proc");
  EXPECT_EQ(join_name("", "proc"), "proc");
  EXPECT_EQ(join_name("encoder", ""), "encoder");
}

}  // namespace
}  // namespace boreas
