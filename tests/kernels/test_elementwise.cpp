#include "kernels/elementwise/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr DType kTypes[] = {DType::f32, DType::f64};

TEST(Add, SumsAlsoInPlaceAndStrided) {
  for (const DType dtype : kTypes)
    for (const auto& [n, c] : {std::pair{1, 1}, std::pair{7, 5}, std::pair{2, 20000}, std::pair{0, 3}}) {
      Workspace w;
      const Tensor a = w.random_strided(dtype, n, c), b = w.random(dtype, {n, c}), y = w.output_strided(dtype, n, c);
      std::vector<double> expected = values_of(a);
      const std::vector<double> other = values_of(b);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += other[i];
      run(w.ctx, Add{.a = a, .b = b, .y = y});
      expect_close(y, expected, 1e-7);
      run(w.ctx, Add{.a = a, .b = b, .y = b});
      expect_close(b, expected, 1e-7);
      w.expect_padding_untouched();
    }
}

TEST(Copy, ConvertsBetweenFloatingTypes) {
  const DType floating[] = {DType::f32, DType::f64, DType::bf16};
  for (const DType from : floating)
    for (const DType to : floating) {
      Workspace w;
      const Tensor x = w.random_strided(from, 9, 7), y = w.output_strided(to, 9, 7);
      run(w.ctx, Copy{.x = x, .y = y});
      const double tolerance = to == DType::bf16 ? 0x1p-8 : 1e-15;
      EXPECT_LE(relative_error(y, x), tolerance) << to_string(from) << " to " << to_string(to);
      w.expect_padding_untouched();
    }
}

TEST(Copy, RoundsToTheNearestEvenBfloat16) {
  Workspace w;
  const Tensor x = w.of(DType::f32, {4}, {1 + 0x1p-8, 1 + 0x3p-8, 1 + 0x1.1p-8, -1 - 0x1p-8}),
               y = w.output(DType::bf16, {4});
  run(w.ctx, Copy{.x = x, .y = y});
  EXPECT_EQ(values_of(y), (std::vector<double>{1, 1 + 0x1p-6, 1 + 0x1p-7, -1}));
}

TEST(Copy, WritesSlicesAndKeepsIntegers) {
  Workspace w;
  const Tensor a = w.random(DType::f64, {3, 2}), b = w.random(DType::f64, {3, 4}), y = w.output(DType::f64, {3, 6});
  run(w.ctx, Copy{.x = a, .y = y.columns({0, 2})});
  run(w.ctx, Copy{.x = b, .y = y.columns({2, 6})});
  EXPECT_TRUE(identical(w.copy_of(y.columns({0, 2})), a));
  EXPECT_TRUE(identical(w.copy_of(y.columns({2, 6})), b));
  const Tensor ids = w.ids({3, -1, 7}), copy = w.output(DType::i32, {3});
  run(w.ctx, Copy{.x = ids, .y = copy});
  EXPECT_TRUE(identical(copy, ids));
}

TEST(Fill, SetsEveryElement) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i32, DType::i64, DType::u8}) {
    Workspace w;
    const Tensor y = w.random_strided(dtype, 5, 3);
    run(w.ctx, Fill{.y = y, .value = 3});
    EXPECT_EQ(values_of(y), std::vector<double>(15, 3));
    w.expect_padding_untouched();
  }
}

// A tensor above 2^31 elements, of which only a few pages are ever touched.
TEST(Fill, SizesAndOffsetsAreNotLimitedTo32Bits) {
  const int64_t rows = (int64_t{1} << 11) + 3, cols = int64_t{1} << 20;
  const Buffer buffer = Buffer::on(Device::cpu(), rows * cols, "large");
  const Tensor x = buffer.tensor(DType::u8, {rows, cols}), last_columns = x.columns({cols - 2, cols});
  ASSERT_GT(x.size(), int64_t{1} << 31);
  Workspace w;
  run(w.ctx, Fill{.y = last_columns, .value = 7});
  const Tensor y = w.output(DType::u8, {rows, 2});
  run(w.ctx, Copy{.x = last_columns, .y = y});
  EXPECT_EQ(values_of(y), std::vector<double>(rows * 2, 7));
  x.row<uint8_t>(rows - 1)[cols - 1] = 9;
  const Tensor flat = x.reshape({x.size()}), end = w.output(DType::u8, {1, 3});
  run(w.ctx, Copy{.x = flat.columns({x.size() - 3, x.size()}), .y = end});
  EXPECT_EQ(end.as<uint8_t>()[2], 9);
}

TEST(Blend, MovesTowardsX) {
  for (const DType dtype : kTypes) {
    Workspace w;
    const Tensor x = w.of(dtype, {4}, {1, 2, 3, 4}), y = w.of(dtype, {4}, {5, 6, 7, 0});
    run(w.ctx, Blend{.x = x, .weight = 0.25, .y = y});
    EXPECT_EQ(values_of(y), (std::vector<double>{4, 5, 6, 1}));
    run(w.ctx, Blend{.x = x, .weight = 0, .y = y});
    EXPECT_EQ(values_of(y), (std::vector<double>{4, 5, 6, 1}));
    run(w.ctx, Blend{.x = x, .weight = 1, .y = y});
    EXPECT_TRUE(identical(y, x));
  }
}

TEST(AddPrognostic, AddsWhatIsKnown) {
  for (const bool in_place : {false, true}) {
    Workspace w;
    const int32_t inputs[] = {3, 0}, outputs[] = {0, 2};
    const Tensor x = w.random_strided(DType::f64, 6, 4), delta = w.random(DType::f64, {6, 3});
    const Tensor y = in_place ? delta : w.output_strided(DType::f64, 6, 3);
    std::vector<double> expected = values_of(delta);
    const std::vector<double> known = values_of(x);
    for (int64_t i = 0; i < 6; ++i) {
      expected[i * 3 + 0] += known[i * 4 + 3];
      expected[i * 3 + 2] += known[i * 4 + 0];
    }
    run(w.ctx, AddPrognostic{.x = x, .delta = delta, .input_columns = inputs, .output_columns = outputs, .y = y});
    expect_close(y, expected);
    w.expect_padding_untouched();
  }
}

TEST(AddPrognostic, BackwardIsCopyAndAddColumns) {
  Workspace w;
  const int32_t inputs[] = {3, 0}, outputs[] = {0, 2};
  const Tensor x = w.random(DType::f64, {6, 4}), delta = w.random(DType::f64, {6, 3}), y = w.output(DType::f64, {6, 3});
  const Tensor d_y = w.random(DType::f64, {6, 3}), d_x = w.filled(DType::f64, {6, 4}, 0);
  run(w.ctx, AddColumns{.x = d_y, .x_columns = outputs, .y = d_x, .y_columns = inputs});
  const auto loss = [&] {
    run(w.ctx, AddPrognostic{.x = x, .delta = delta, .input_columns = inputs, .output_columns = outputs, .y = y});
    return dot(y, d_y);
  };
  expect_gradients(loss, {{"x", x, d_x}, {"delta", delta, d_y}});
}

TEST(Columns, CopyOverwritesAndAddAccumulatesOnlyWhatIsListed) {
  for (const DType dtype : kTypes) {
    Workspace w;
    const int32_t from[] = {1, 1}, to[] = {3, 0};
    const Tensor x = w.random_strided(dtype, 20, 2), y = w.random_strided(dtype, 20, 4);
    std::vector<double> copied = values_of(y), added;
    const std::vector<double> source = values_of(x);
    for (int64_t i = 0; i < 20; ++i) copied[i * 4 + 3] = copied[i * 4] = source[i * 2 + 1];
    run(w.ctx, CopyColumns{.x = x, .x_columns = from, .y = y, .y_columns = to});
    expect_close(y, copied, 0, 0);
    added = copied;
    for (int64_t i = 0; i < 20; ++i) {
      added[i * 4 + 3] += source[i * 2 + 1];
      added[i * 4] += source[i * 2 + 1];
    }
    run(w.ctx, AddColumns{.x = x, .x_columns = from, .y = y, .y_columns = to});
    expect_close(y, added, 0, 0);
    w.expect_padding_untouched();
  }
}

TEST(NormaliseFields, PicksScalesFillsAndTransposes) {
  for (const DType dtype : kTypes) {
    Workspace w;
    const double mul[] = {2, 1, 0.5}, add[] = {0.25, 0, -1}, fill[] = {kNan, 9, 7};
    const int32_t columns[] = {2, 0};
    const Tensor fields = w.random_strided(DType::f32, 3, 150), y = w.output_strided(dtype, 150, 2);
    fields.row<float>(2)[1] = float(kNan);
    fields.row<float>(0)[149] = float(kNan);
    run(w.ctx, NormaliseFields{.fields = fields, .mul = mul, .add = add, .fill = fill, .columns = columns, .y = y});
    std::vector<double> expected;
    for (int64_t c = 0; c < 150; ++c) {
      expected.push_back(c == 1 ? 7 : fields.row<float>(2)[c] * 0.5 - 1);
      expected.push_back(fields.row<float>(0)[c] * 2.0 + 0.25);
    }
    EXPECT_TRUE(std::isnan(expected.back()));  // no fill value: NaN stays
    expect_close(y, expected, 1e-7);
    w.expect_padding_untouched();
  }
}

TEST(NormaliseFields, DenormaliseIsTheWayBack) {
  Workspace w;
  const double mul[] = {0.1, 3, 0.5}, add[] = {-20, 0, 1}, fill[] = {kNan, kNan, kNan};
  const int32_t columns[] = {2, 0};
  const Tensor fields = w.random(DType::f32, {3, 70}, 100), back = w.filled(DType::f32, {3, 70}, -5);
  const Tensor y = w.output(DType::f64, {70, 2});
  run(w.ctx, NormaliseFields{.fields = fields, .mul = mul, .add = add, .fill = fill, .columns = columns, .y = y});
  run(w.ctx, DenormaliseFields{.x = y, .mul = mul, .add = add, .columns = columns, .fields = back});
  expect_close(back.slice({0, 1}), fields.slice({0, 1}), 1e-7);
  expect_close(back.slice({2, 3}), fields.slice({2, 3}), 1e-7);
  EXPECT_EQ(values_of(back.slice({1, 2})), std::vector<double>(70, -5));  // not listed
}

TEST(Elementwise, WrongUseIsNamed) {
  Workspace w;
  const Tensor x = w.random(DType::f32, {4, 3}), y = w.output(DType::f32, {4, 2});
  const int32_t good[] = {0}, far[] = {3}, twice[] = {1, 1}, pair[] = {0, 1};
  BOREAS_EXPECT_ERROR(run(w.ctx, Add{.a = x, .b = y, .y = x}), shape, "add: b is f32 [4, 2] but must be [4, 3]");
  BOREAS_EXPECT_ERROR(run(w.ctx, Add{.a = x, .b = w.random(DType::f64, {4, 3}), .y = x}), invalid_argument, "b is f64");
  const Tensor narrow = w.random(DType::bf16, {4, 3});
  BOREAS_EXPECT_ERROR(run(w.ctx, Add{.a = x, .b = narrow, .y = x}), unsupported, "not in bf16");
  BOREAS_EXPECT_ERROR(run(w.ctx, Add{.a = x, .b = x, .y = narrow}), unsupported, "not in bf16");
  BOREAS_EXPECT_ERROR(run(w.ctx, Copy{.x = w.ids({1}), .y = w.output(DType::f32, {1})}), invalid_argument,
                      "i32 cannot be converted to f32");
  BOREAS_EXPECT_ERROR(run(w.ctx, Blend{.x = x, .weight = 2, .y = x}), invalid_argument, "weight is 2");
  BOREAS_EXPECT_ERROR(run(w.ctx, CopyColumns{.x = x, .x_columns = far, .y = y, .y_columns = good}), invalid_argument,
                      "copy_columns: x_columns[0] is 3 but x has 3 of them");
  BOREAS_EXPECT_ERROR(run(w.ctx, AddColumns{.x = x, .x_columns = good, .y = y, .y_columns = far}), invalid_argument,
                      "add_columns: y_columns[0] is 3 but y has 2 of them");
  BOREAS_EXPECT_ERROR(run(w.ctx, AddColumns{.x = x, .x_columns = pair, .y = y, .y_columns = twice}), invalid_argument,
                      "y_columns holds 1 more than once");
  BOREAS_EXPECT_ERROR(run(w.ctx, AddColumns{.x = x, .x_columns = pair, .y = y, .y_columns = good}), shape,
                      "x_columns has 2 entries and y_columns has 1");
  BOREAS_EXPECT_ERROR(
      run(w.ctx, AddPrognostic{.x = x, .delta = y, .input_columns = far, .output_columns = good, .y = y}),
      invalid_argument, "input_columns[0] is 3");
  const double three[] = {1, 1, 1}, zero[] = {1, 0, 1};
  const Tensor fields = w.random(DType::f32, {3, 8}), rows = w.output(DType::f32, {8, 1});
  BOREAS_EXPECT_ERROR(
      run(w.ctx, NormaliseFields{.fields = fields, .mul = three, .add = three, .columns = good, .y = rows}), shape,
      "fill has 0 entries and fields has 3");
  BOREAS_EXPECT_ERROR(
      run(w.ctx,
          NormaliseFields{.fields = fields, .mul = three, .add = three, .fill = three, .columns = far, .y = rows}),
      invalid_argument, "columns[0] is 3");
  BOREAS_EXPECT_ERROR(
      run(w.ctx,
          NormaliseFields{.fields = fields, .mul = three, .add = three, .fill = three, .columns = pair, .y = rows}),
      shape, "y is f32 [8, 1] but must be [8, 2]");
  BOREAS_EXPECT_ERROR(
      run(w.ctx,
          DenormaliseFields{
              .x = w.random(DType::f32, {8, 2}), .mul = zero, .add = three, .columns = pair, .fields = fields}),
      invalid_argument, "mul[1] is 0");
}

}  // namespace
}  // namespace boreas::test
