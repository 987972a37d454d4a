#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "kernels/window_attention/window_attention.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using namespace boreas::test;

struct Case {
  int64_t length, num_heads, head_size, window;
  int64_t first_query = 0, end_query = -1;  // -1: all of the sequence
  int64_t num_queries() const { return (end_query < 0 ? length : end_query) - first_query; }
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "length " << c.length << ", " << c.num_heads << " heads of " << c.head_size << ", window " << c.window
             << ", queries from " << c.first_query << " to " << c.end_query << " ";
}
std::vector<Case> cases() {
  return {{1, 1, 1, -1},
          {1, 2, 16, 0},
          {5, 3, 5, 2},
          {64, 2, 16, 0},
          {150, 2, 16, 1},
          {150, 4, 8, 16},
          {131, 2, 16, 64},
          {131, 1, 33, 40},
          {131, 3, 16, -1},
          {97, 2, 20, 500},
          {65, 1, 64, 96},
          {200, 1, 24, 63},
          {150, 2, 16, 30, 30, 120},
          {150, 2, 16, 30, 0, 50},
          {150, 1, 8, 3, 140, 150},
          {131, 3, 16, -1, 70, 71},
          {200, 1, 24, 0, 33, 99},
          {97, 2, 20, 500, 1, 96}};
}

// Inputs and gradients are column slices of wider matrices.
struct Problem {
  Workspace& work;
  int64_t num_heads, window, first_query;
  Tensor q, k, v, o, stats, d_o, d_q, d_k, d_v;
  double scale = 0;

  Problem(Workspace& workspace, DType dtype, const Case& c, double spread = 1)
      : work(workspace), num_heads(c.num_heads), window(c.window), first_query(c.first_query) {
    const int64_t channels = c.num_heads * c.head_size;
    const int64_t queries = c.num_queries();
    for (Tensor* input : {&q, &d_o}) *input = work.random_strided(dtype, queries, channels, spread);
    for (Tensor* input : {&k, &v}) *input = work.random_strided(dtype, c.length, channels, spread);
    stats = work.output(accumulator_of(dtype), {queries, c.num_heads});
    for (Tensor* output : {&o, &d_q}) *output = work.output_strided(dtype, queries, channels);
    for (Tensor* output : {&d_k, &d_v}) *output = work.output_strided(dtype, c.length, channels);
  }
  WindowAttentionForward forward_op() const {
    return {.q = q,
            .k = k,
            .v = v,
            .num_heads = num_heads,
            .window = window,
            .scale = scale,
            .first_query = first_query,
            .o = o,
            .stats = stats};
  }
  WindowAttentionBackward backward_op() const {
    return {.q = q,
            .k = k,
            .v = v,
            .o = o,
            .stats = stats,
            .num_heads = num_heads,
            .window = window,
            .scale = scale,
            .first_query = first_query,
            .d_o = d_o,
            .d_q = d_q,
            .d_k = d_k,
            .d_v = d_v};
  }
  void forward() const { run(work.ctx, forward_op()); }
  void backward() const { run(work.ctx, backward_op()); }
};

double at(const Tensor& t, int64_t i, int64_t j) {
  return t.dtype() == DType::f64 ? t.row<double>(i)[j] : double(t.row<float>(i)[j]);
}

// The equations on the whole matrix of scores, in f64.
struct Naive {
  std::vector<double> o, stats, d_q, d_k, d_v;
  explicit Naive(const Problem& p) {
    const int64_t queries = p.q.rows(), length = p.k.rows(), channels = p.q.cols(), size = channels / p.num_heads;
    const double scale = p.scale > 0 ? p.scale : 1 / std::sqrt(double(size));
    o.resize(queries * channels), d_k.resize(length * channels), stats.resize(queries * p.num_heads);
    d_q = o, d_v = d_k;
    for (int64_t h = 0; h < p.num_heads; ++h)
      for (int64_t i = 0; i < queries; ++i) {
        std::vector<double> alpha(length, -INFINITY), dp(length);
        double largest = -INFINITY, total = 0, mean = 0;
        for (int64_t j = 0; j < length; ++j) {
          if (p.window >= 0 && std::abs(p.first_query + i - j) > p.window) continue;
          alpha[j] = 0;
          for (int64_t c = h * size; c < (h + 1) * size; ++c) {
            alpha[j] += scale * at(p.q, i, c) * at(p.k, j, c);
            dp[j] += at(p.d_o, i, c) * at(p.v, j, c);
          }
          largest = std::max(largest, alpha[j]);
        }
        for (double& x : alpha) total += x = std::exp(x - largest);
        stats[i * p.num_heads + h] = largest + std::log(total);
        for (int64_t j = 0; j < length; ++j) mean += (alpha[j] /= total) * dp[j];
        for (int64_t j = 0; j < length; ++j)
          for (int64_t c = h * size; c < (h + 1) * size; ++c) {
            const double ds = scale * alpha[j] * (dp[j] - mean);
            o[i * channels + c] += alpha[j] * at(p.v, j, c);
            d_q[i * channels + c] += ds * at(p.k, j, c);
            d_k[j * channels + c] += ds * at(p.q, i, c);
            d_v[j * channels + c] += alpha[j] * at(p.d_o, i, c);
          }
      }
  }
};

double norm(const Tensor& t) { return std::sqrt(dot(t, t)); }

TEST(WindowAttention, MatchesTheWholeMatrix) {
  for (const DType dtype : {DType::f64, DType::f32})
    for (const Case& c : cases()) {
      SCOPED_TRACE(testing::Message() << c << to_string(dtype));
      Workspace work;
      Problem p(work, dtype, c);
      p.scale = c.num_heads == 3 ? 0.7 : 0;
      const Naive naive(p);
      p.forward();
      p.backward();
      expect_close(p.o, naive.o);
      expect_close(p.stats, naive.stats);
      const double floor = 0.1 * norm(p.d_v);  // with one partner the gradients of the scores cancel
      expect_close(p.d_q, naive.d_q, 5e-6, 1e-13, floor);
      expect_close(p.d_k, naive.d_k, 5e-6, 1e-13, floor);
      expect_close(p.d_v, naive.d_v, 5e-6);
      work.expect_padding_untouched();
    }
}

// Some keys before the others, without d_q: sums over the queries that are given.
TEST(WindowAttention, GradientsOfAStretchOfTheKeys) {
  for (const DType dtype : {DType::f64, DType::f32})
    for (const Case& c : cases()) {
      SCOPED_TRACE(testing::Message() << c << to_string(dtype));
      Workspace work;
      const Problem p(work, dtype, c);
      p.forward();
      p.backward();
      const std::vector<double> d_q = values_of(p.d_q), d_k = values_of(p.d_k), d_v = values_of(p.d_v);
      for (const Tensor& gradient : {p.d_q, p.d_k, p.d_v}) fill(gradient, -7);
      int64_t flops = 0;
      const int64_t third = c.length / 3;
      for (const Range& keys : {Range{third, third}, Range{third, c.length}, Range{0, third}}) {
        WindowAttentionBackward op = p.backward_op();
        op.first_key = keys.begin;
        op.d_k = p.d_k.slice(keys), op.d_v = p.d_v.slice(keys);
        if (keys.begin > 0 || keys.size() == 0) op.d_q = {};
        run(work.ctx, op);
        flops += op.flops();
      }
      EXPECT_EQ(flops, p.backward_op().flops());
      expect_close(p.d_q, d_q);
      expect_close(p.d_k, d_k, 5e-6, 1e-13, 0.1 * norm(p.d_v));
      expect_close(p.d_v, d_v);
      work.expect_padding_untouched();
    }
}

TEST(WindowAttention, BackwardMatchesFiniteDifferences) {
  for (const Case& c : {Case{5, 3, 5, 2}, Case{70, 2, 16, 7}, Case{70, 1, 3, -1}}) {
    SCOPED_TRACE(testing::Message() << c);
    Workspace work;
    const Problem p(work, DType::f64, c);
    p.forward();
    p.backward();
    expect_gradients(
        [&] {
          p.forward();
          return dot(p.o, p.d_o);
        },
        {{"q", p.q, p.d_q}, {"k", p.k, p.d_k}, {"v", p.v, p.d_v}});
  }
}

TEST(WindowAttention, WindowOfZeroCopiesTheValues) {
  Workspace work;
  const Problem p(work, DType::f32, {100, 2, 16, 0});
  p.forward();
  p.backward();
  EXPECT_TRUE(identical(p.o, p.v));
  expect_close(p.d_v, p.d_o);
}

TEST(WindowAttention, AWindowAsLongAsTheSequenceIsGlobal) {
  Workspace work;
  const Case c{131, 2, 16, -1};
  const Problem global(work, DType::f32, c);
  global.forward();
  global.backward();
  for (const int64_t window : {130, 131, 100000}) {
    Problem p = global;
    p.window = window;
    for (Tensor* output : {&p.o, &p.d_q, &p.d_k, &p.d_v}) *output = work.output(DType::f32, global.q.shape());
    p.forward();
    p.backward();
    EXPECT_TRUE(identical(p.o, global.o));
    EXPECT_TRUE(identical(p.d_q, global.d_q));
    EXPECT_TRUE(identical(p.d_k, global.d_k));
    EXPECT_TRUE(identical(p.d_v, global.d_v));
  }
}

TEST(WindowAttention, RowsBeyondTheWindowHaveNoInfluence) {
  Workspace work;
  const Problem p(work, DType::f32, {200, 2, 16, 20});
  p.forward();
  const Tensor before = work.copy_of(p.o);
  for (int64_t channel = 0; channel < 32; ++channel) p.k.row<float>(100)[channel] = p.v.row<float>(100)[channel] = 9;
  p.forward();
  EXPECT_TRUE(identical(p.o.slice({0, 80}), before.slice({0, 80})));
  EXPECT_TRUE(identical(p.o.slice({121, 200}), before.slice({121, 200})));
  for (const int64_t i : {80, 100, 120}) EXPECT_NE(p.o.row<float>(i)[0], before.row<float>(i)[0]);
}

TEST(WindowAttention, SharpSoftmaxStaysFinite) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    Workspace work;
    Problem p(work, dtype, {150, 2, 16, 40});
    p.scale = 200;  // scores of some thousands: exp without its maximum would overflow
    p.forward();
    p.backward();
    for (const Tensor& output : {p.o, p.stats, p.d_q, p.d_k, p.d_v})
      for (const double value : values_of(output)) ASSERT_TRUE(std::isfinite(value));
    const Naive naive(p);
    expect_close(p.o, naive.o, 1e-3, 1e-11);
  }
}

// Where all values are equal the gradients of the scores cancel, however sharp the softmax.
TEST(WindowAttention, SharpSoftmaxOfEqualValuesHasNoGradientOfScores) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    Workspace work;
    Problem p(work, dtype, {150, 2, 16, 40});
    p.scale = 50;
    fill(p.v, 0.75);
    p.forward();
    p.backward();
    const double unit = p.scale * norm(p.d_o);
    const double tiny = dtype == DType::f64 ? 1e-14 : 1e-5;
    EXPECT_LE(norm(p.d_q), tiny * unit);
    EXPECT_LE(norm(p.d_k), tiny * unit);
    EXPECT_GT(norm(p.d_v), 1);
  }
}

TEST(WindowAttention, OperationsAreCountedByPairs) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::Message() << c);
    Workspace work;
    const Problem p(work, DType::f64, c);
    int64_t pairs = 0;
    for (int64_t i = c.first_query; i < c.first_query + c.num_queries(); ++i)
      for (int64_t j = 0; j < c.length; ++j) pairs += c.window < 0 || std::abs(i - j) <= c.window;
    EXPECT_EQ(p.forward_op().flops(), 4 * pairs * p.q.cols());
  }
}

TEST(WindowAttention, RepeatableForAnyNumberOfThreads) {
  Workspace work;
  const Problem first(work, DType::f32, {300, 3, 16, 50});
  first.forward();
  first.backward();
  const int num_threads = omp_get_max_threads();
  for (const int threads : {num_threads, 1, 3}) {
    omp_set_num_threads(threads);
    Problem again = first;
    again.stats = work.output(DType::f32, first.stats.shape());
    for (Tensor* output : {&again.o, &again.d_q, &again.d_k, &again.d_v})
      *output = work.output(DType::f32, first.q.shape());
    again.forward();
    again.backward();
    EXPECT_TRUE(identical(again.o, first.o));
    EXPECT_TRUE(identical(again.stats, first.stats));
    EXPECT_TRUE(identical(again.d_q, first.d_q));
    EXPECT_TRUE(identical(again.d_k, first.d_k));
    EXPECT_TRUE(identical(again.d_v, first.d_v));
  }
  omp_set_num_threads(num_threads);
}

TEST(WindowAttention, MemoryIsLinearInTheSequence) {
  Workspace work;
  const auto scratch = [&](int64_t length) {
    const Tensor x(nullptr, DType::f32, {length, 64});
    const WindowAttentionForward forward{.q = x, .num_heads = 4};
    const WindowAttentionBackward backward{.q = x, .num_heads = 4};
    return forward.scratch_bytes() + backward.scratch_bytes();
  };
  const int64_t one = scratch(64 * 1000), two = scratch(64 * 2000), three = scratch(64 * 3000);
  EXPECT_EQ(three - two, two - one);
  EXPECT_LT(two - one, 64 * 1000 * 64 * 4 * 2);  // of the order of one input, of which one head at a time is packed
}

TEST(WindowAttention, SequencesWithoutRows) {
  Workspace work;
  const Problem p(work, DType::f32, {0, 2, 16, 3});
  p.forward();
  p.backward();
}

TEST(WindowAttention, PlansTheScratchThatItUses) {
  Workspace work;
  const Problem p(work, DType::f32, {150, 2, 20, 40});
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  run(plan, p.forward_op());
  run(plan, p.backward_op());
  work.ctx.arena().reset_peak();
  p.forward();
  p.backward();
  EXPECT_EQ(counting.peak_bytes(), work.ctx.arena().peak_bytes());
}

TEST(WindowAttention, SaysWhatIsWrong) {
  Workspace work;
  const Problem p(work, DType::f32, {10, 2, 8, 3});
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
      forward, [](auto& op) { op.num_heads = 3; }, "invalid_argument",
      "window_attention_forward: 3 heads must divide the 16 channels of q");
  expect(
      forward, [](auto& op) { op.scale = NAN; }, "invalid_argument",
      "window_attention_forward: scale is nan; it must be positive, or 0 for 1 / sqrt(head size)");
  expect(
      forward,
      [](auto& op) {
        op.k = op.k.slice({0, 9});
      },
      "shape", "window_attention_forward: 10 queries from position 0 do not lie in a sequence of 9");
  expect(
      forward, [](auto& op) { op.first_query = -1; }, "shape",
      "window_attention_forward: 10 queries from position -1 do not lie in a sequence of 10");
  expect(
      backward,
      [](auto& op) {
        op.q = op.q.slice({0, 0});
      },
      "shape", "window_attention_backward: no queries for a sequence of 10");
  expect(
      forward,
      [](auto& op) {
        op.v = op.v.slice({0, 9});
      },
      "shape", "window_attention_forward: v is f32 [9, 16] but must be [10, 16] to fit k f32 [10, 16]");
  expect(
      forward,
      [&](auto& op) {
        op.v = work.random(DType::f64, {10, 16});
      },
      "invalid_argument", "window_attention_forward: v is f64 but must be f32");
  expect(
      forward,
      [](auto& op) {
        op.stats = op.stats.columns({0, 1});
      },
      "shape", "window_attention_forward: stats is f32 [10, 1] but must be [10, 2] to fit q f32 [10, 16]");
  expect(
      backward, [](auto& op) { op.d_o = Tensor(); }, "invalid_argument",
      "window_attention_backward: d_o is required but was not given");
  expect(
      backward,
      [](auto& op) {
        op.d_v = op.d_v.columns({0, 8});
      },
      "shape", "window_attention_backward: d_v is f32 [10, 8] but must be [10, 16] to fit k f32 [10, 16]");
  expect(
      backward,
      [](auto& op) {
        op.q = op.q.columns({0, 15});
      },
      "invalid_argument", "window_attention_backward: 2 heads must divide the 15 channels of q");
}

}  // namespace
}  // namespace boreas
