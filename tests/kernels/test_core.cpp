#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>
#include <type_traits>

#include "kernels/core/near_names.h"
#include "kernels/core/op.h"
#include "kernels/core/partition.h"
#include "kernels/core/rng.h"
#include "kernels/elementwise/elementwise.h"
#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

TEST(DType, NamesAndSizes) {
  EXPECT_EQ(to_string(DType::bf16), "bf16");
  EXPECT_EQ(size_of(DType::bf16), 2);
  EXPECT_EQ(size_of(DType::i64), 8);
  EXPECT_EQ(accumulator_of(DType::bf16), DType::f32);
  EXPECT_EQ(accumulator_of(DType::f64), DType::f64);
  dispatch_dtype(DType::i32, [&]<class T>() { EXPECT_TRUE((std::is_same_v<T, int32_t>)); });
  BOREAS_EXPECT_ERROR(dispatch_float(DType::u8, []<class T>() {}), unsupported, "not in u8");
}

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(float(bfloat16(1.0f)), 1.0f);
  EXPECT_EQ(float(bfloat16(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(float(bfloat16(1.0f + 0x3p-8f)), 1.0f + 0x1p-6f);
  EXPECT_EQ(float(bfloat16(1.0f + 0x1.8p-8f)), 1.0f + 0x1p-7f);
  EXPECT_TRUE(std::isinf(float(bfloat16(3.4e38f))));
  EXPECT_TRUE(std::isnan(float(bfloat16(std::nanf("")))));
  EXPECT_EQ(float(bfloat16(-0.0f)), 0.0f);
}

TEST(Shape, ChecksSizes) {
  EXPECT_EQ(Shape({3, 0, 2}).size(), 0);
  EXPECT_EQ(Shape().size(), 1);
  EXPECT_EQ(to_string(Shape{3, 4}), "[3, 4]");
  BOREAS_EXPECT_ERROR(Shape({1, 2, 3, 4, 5}), shape, "at most 4 dimensions, not 5");
  BOREAS_EXPECT_ERROR(Shape({1, -2}), shape, "dimension 1 of a tensor is negative: -2");
  BOREAS_EXPECT_ERROR(Shape({int64_t{1} << 40, int64_t{1} << 40}).size(), shape, "overflows 64 bits");
}

TEST(Tensor, RowsColumnsAndSlices) {
  float data[24];
  const Tensor t(data, DType::f32, {2, 3, 4});
  EXPECT_EQ(t.rows(), 6);
  EXPECT_EQ(t.cols(), 4);
  EXPECT_EQ(t.bytes(), 96);
  EXPECT_EQ(t.slice({2, 5}).as<float>(), data + 8);
  EXPECT_EQ(t.slice({2, 5}).rows(), 3);
  const Tensor columns = t.columns({1, 3});
  EXPECT_EQ(columns.row<float>(2), data + 9);
  EXPECT_FALSE(columns.contiguous());
  EXPECT_EQ(columns.slice({1, 3}).row_stride(), 4);
  EXPECT_EQ(t.reshape({12, 2}).row<float>(3), data + 6);
  EXPECT_EQ(columns.reshape({2, 3, 2}).row<float>(4), data + 17);
  EXPECT_TRUE(Tensor().empty());
  EXPECT_FALSE(Tensor(nullptr, DType::f32, {0, 4}).empty());
  EXPECT_EQ(to_string(t), "f32 [2, 3, 4]");
  EXPECT_EQ(to_string(Tensor()), "(none)");
}

TEST(Tensor, WrongUseIsNamed) {
  float data[24];
  const Tensor t(data, DType::f32, {6, 4});
  BOREAS_EXPECT_ERROR(t.slice({2, 7}), shape, "rows [2, 7) are outside f32 [6, 4]");
  BOREAS_EXPECT_ERROR(t.columns({-1, 2}), shape, "columns [-1, 2) are outside");
  BOREAS_EXPECT_ERROR(t.reshape({5, 5}), shape, "cannot be seen as [5, 5]");
  BOREAS_EXPECT_ERROR(t.columns({0, 2}).reshape({12}), shape, "row stride of 4");
  BOREAS_EXPECT_ERROR(t.as<double>(), invalid_argument, "f32 [6, 4] was read as f64");
  BOREAS_EXPECT_ERROR(Tensor(data, DType::f32, {3, 4}, Device::cpu(), 2), shape, "row stride 2 is shorter");
}

TEST(Tensor, OffsetsAre64Bit) {
  const Tensor t(nullptr, DType::u8, {int64_t{1} << 20, int64_t{1} << 20});
  EXPECT_EQ(t.size(), int64_t{1} << 40);
  EXPECT_EQ(reinterpret_cast<intptr_t>(t.slice({1 << 19, 1 << 20}).data()), int64_t{1} << 39);
}

TEST(Buffer, OwnsAndCounts) {
  EXPECT_EQ(live_bytes("core test"), 0);
  {
    Buffer a = Buffer::on(Device::cpu(), 100, "core test");
    EXPECT_EQ(live_bytes("core test"), 100);
    EXPECT_EQ(reinterpret_cast<intptr_t>(a.data()) % 256, 0);
    const Buffer b = std::move(a);
    EXPECT_EQ(live_bytes("core test"), 100);
    EXPECT_GE(live_bytes(), 100);
    b.zero();
    EXPECT_EQ(values_of(b.tensor(DType::f32, {25})), std::vector<double>(25, 0));
    BOREAS_EXPECT_ERROR(b.tensor(DType::f32, {25}, 4), shape, "outside buffer 'core test' of 100 bytes");
    BOREAS_EXPECT_ERROR(b.tensor(DType::f32, {4}, -4), shape, "at byte -4");
  }
  EXPECT_EQ(live_bytes("core test"), 0);
  BOREAS_EXPECT_ERROR(Buffer::on(Device::cpu(), -1, "core test"), invalid_argument, "of -1 bytes");
#ifndef __SANITIZE_ADDRESS__  // which stops at an allocation that cannot be
  BOREAS_EXPECT_ERROR(Buffer::on(Device::cpu(), int64_t{1} << 60, "core test"), out_of_memory, "no room");
#endif
  EXPECT_EQ(live_bytes("core test"), 0);
}

// Borrows in one order, returns the offsets relative to the first block of each end.
struct Walk {
  std::vector<int64_t> offsets;
  int64_t peak, saved, scratch;
};
Walk walk(Context& ctx) {
  std::vector<char*> saved, scratch;
  const Arena::Mark begin = ctx.arena().mark(Keep::saved);
  const auto borrow = [&](Keep end, int64_t n) {
    (end == Keep::saved ? saved : scratch).push_back(static_cast<char*>(ctx.alloc(end, DType::f32, {n}).data()));
  };
  {
    const Scope outer(ctx);
    borrow(Keep::saved, 10);
    borrow(Keep::scratch, 1000);
    {
      const Scope inner(ctx);
      borrow(Keep::scratch, 3);
      borrow(Keep::saved, 100);
      borrow(Keep::scratch, 0);
    }
    borrow(Keep::scratch, 50);
  }
  const Arena::Peak& peak = ctx.arena().peak();
  Walk out{{}, peak.bytes, peak.saved_bytes, peak.scratch_bytes};
  for (const char* p : saved) out.offsets.push_back(p - saved[0]);
  for (const char* p : scratch) out.offsets.push_back(p - scratch[0]);
  ctx.arena().rewind(Keep::saved, begin);
  return out;
}

TEST(Arena, PlansExactlyWhatARunTakes) {
  Workspace w;
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  const Walk planned = walk(plan), real = walk(w.ctx);
  EXPECT_EQ(planned.peak, real.peak);
  EXPECT_EQ(planned.saved, real.saved);
  EXPECT_EQ(planned.scratch, real.scratch);
  EXPECT_EQ(planned.offsets, real.offsets);
  EXPECT_EQ(counting.used_bytes(), 0);

  // A slab of the planned size is enough, one that is a block smaller is not.
  Arena exact(Buffer::on(Device::cpu(), planned.peak, "exact arena"));
  Context fits(Device::cpu(), exact);
  walk(fits);
  Arena small(Buffer::on(Device::cpu(), planned.peak - 256, "small arena"));
  Context overflows(Device::cpu(), small);
  BOREAS_EXPECT_ERROR(walk(overflows), out_of_memory, "the memory plan does not match the run");
}

TEST(Arena, ReusesAddressesStepAfterStep) {
  Workspace w;
  const auto address = [&] {
    const Scope scope(w.ctx);
    w.ctx.alloc(Keep::scratch, DType::f32, {100});
    return w.ctx.alloc(Keep::scratch, DType::f32, {7}).data();
  };
  void* const first = address();
  EXPECT_EQ(first, address());
}

TEST(Arena, NamesWhoHeldThePeak) {
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  {
    const OwnerScope encoder(plan, "encoder");
    const Scope scope(plan);
    const OwnerScope chunk(plan, "chunk 3");
    plan.alloc(Keep::scratch, DType::f64, {1000});
  }
  plan.alloc(Keep::saved, DType::f64, {10});
  EXPECT_EQ(counting.peak().owner, "encoder/chunk 3");
  counting.reset_peak();
  EXPECT_EQ(counting.peak_bytes(), 0);
}

TEST(Arena, RewindingForwardsIsAnError) {
  Arena arena;
  Arena::Mark mark = arena.mark(Keep::saved);
  mark.offset = 512;
  BOREAS_EXPECT_ERROR(arena.rewind(Keep::saved, mark), internal, "rewound forwards");
}

#ifndef NDEBUG
TEST(Arena, DebugBuildsFenceAndPoison) {
  Workspace w;
  const Arena::Mark begin = w.ctx.arena().mark(Keep::saved);
  const Tensor t = w.ctx.alloc(Keep::saved, DType::f32, {64});
  t.as<float>()[0] = 1;
  w.ctx.arena().rewind(Keep::saved, begin);
  EXPECT_TRUE(std::isnan(t.as<float>()[0]));
  const Tensor again = w.ctx.alloc(Keep::saved, DType::f32, {64});
  again.as<float>()[64] = 1;
  BOREAS_EXPECT_ERROR(w.ctx.arena().rewind(Keep::saved, begin), internal, "past the end of an arena block");
}
#endif

TEST(Context, ModeMustFitTheArena) {
  Arena counting;
  BOREAS_EXPECT_ERROR(Context(Device::cpu(), counting), invalid_argument, "plan mode needs a counting arena");
}

// An op with everything that run() looks at.
struct Probe {
  static constexpr const char* name = "probe";
  Tensor x;
  int64_t scratch = 0;
  int* launches = nullptr;
  void check() const { BOREAS_CHECK(x.rows() > 0, shape, "probe: x is {}", to_string(x)); }
  int64_t scratch_bytes() const { return scratch; }
  int64_t flops() const { return 10; }
  void tensors(auto&& f) const { f("x", x, Access::update); }
};
void launch(cpu::Backend, Context&, const Probe& op, Tensor scratch) {
  ++*op.launches;
  if (op.scratch > 0) std::memset(scratch.data(), 1, op.scratch);
}

TEST(Run, ChecksLendsPlansTracesAndLaunches) {
  int launches = 0;
  Workspace w;
  Trace trace;
  w.ctx.trace = &trace;
  const Probe probe{w.random(DType::f32, {4}), 1000, &launches};
  run(w.ctx, probe);
  EXPECT_EQ(launches, 1);
  EXPECT_EQ(w.ctx.arena().peak_bytes() / 256 * 256, w.ctx.arena().peak_bytes());
  EXPECT_GE(w.ctx.arena().peak_bytes(), 1000);
  EXPECT_EQ(w.ctx.arena().used_bytes(), 0);
  EXPECT_EQ(trace.entries().at("probe").count, 1);
  EXPECT_EQ(trace.entries().at("probe").cost.flops, 10);
  EXPECT_EQ(trace.entries().at("probe").cost.bytes, 32);
  EXPECT_NE(trace.table().find("probe"), std::string::npos);

  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  run(plan, probe);
  EXPECT_EQ(launches, 1);  // planning launches nothing
  EXPECT_EQ(counting.peak_bytes(), w.ctx.arena().peak_bytes());

  BOREAS_EXPECT_ERROR(run(w.ctx, Probe{Tensor(nullptr, DType::f32, {0, 1}), 0, &launches}), shape,
                      "probe: x is f32 [0, 1]");
  BOREAS_EXPECT_ERROR(run(w.ctx, Probe{Tensor(nullptr, DType::f32, {4}, Device::cuda(0)), 0, &launches}),
                      invalid_argument, "probe: x lies on cuda:0 but the context computes on cpu");
}

TEST(Partition, BalancedPartsDifferByOneRowAtMost) {
  for (const int64_t n : {0, 1, 7, 100})
    for (const int64_t parts : {1, 3, 8}) {
      const Partition p = Partition::balanced(n, parts);
      ASSERT_EQ(p.num_parts(), parts);
      EXPECT_EQ(p.size(), n);
      int64_t next = 0;
      for (int64_t i = 0; i < parts; ++i) {
        EXPECT_EQ(p[i].begin, next);
        EXPECT_EQ(p[i].size(), n / parts + (i < n % parts ? 1 : 0));
        next = p[i].end;
      }
    }
  BOREAS_EXPECT_ERROR(Partition::balanced(3, 0), invalid_argument, "3 rows cannot be split into 0 parts");
}

TEST(Partition, ByWeightEvensTheWeights) {
  const int64_t weights[] = {1, 1, 1, 1, 4, 4, 4, 0, 8};
  const Partition p = Partition::by_weight(weights, 3);
  EXPECT_EQ(p.size(), 9);
  for (int64_t i = 0; i < 3; ++i) {
    int64_t total = 0;
    for (int64_t k = p[i].begin; k < p[i].end; ++k) total += weights[k];
    EXPECT_EQ(total, 8);
  }
  EXPECT_EQ(Partition::by_weight({}, 4).size(), 0);
}

// Known answers of Philox 4x32-10, from the test vectors published with its authors' library Random123.
TEST(Philox, GivesTheKnownAnswers) {
  const auto zero = Philox(0, 0).block(0);
  EXPECT_EQ(zero.word[0], 0x6627e8d5u);
  EXPECT_EQ(zero.word[1], 0xe169c58du);
  EXPECT_EQ(zero.word[2], 0xbc57ac4cu);
  EXPECT_EQ(zero.word[3], 0x9b00dbd8u);
  const uint64_t ones = ~uint64_t{0};
  const auto full = Philox(ones, ones).block(ones);
  EXPECT_EQ(full.word[0], 0x408f276du);
  EXPECT_EQ(full.word[1], 0x41c83b0eu);
  EXPECT_EQ(full.word[2], 0xa20bc7c6u);
  EXPECT_EQ(full.word[3], 0x6d5451fdu);
}

TEST(Philox, HasTheRightMoments) {
  const Philox rng(42, 7);
  constexpr int kCount = 200000;
  double mean = 0, square = 0, uniform = 0;
  for (int i = 0; i < kCount; ++i) {
    const double x = rng.normal(i), u = rng.uniform(i);
    mean += x / kCount;
    square += x * x / kCount;
    uniform += u / kCount;
    ASSERT_TRUE(u >= 0 && u < 1);
    ASSERT_LT(rng.below(i, 10), 10u);
  }
  EXPECT_NEAR(mean, 0, 0.01);
  EXPECT_NEAR(square, 1, 0.02);
  EXPECT_NEAR(uniform, 0.5, 0.005);
  EXPECT_NE(Philox(42, 8).uniform(0), rng.uniform(0));
}

TEST(Error, CarriesCodeAndOrigin) {
  try {
    BOREAS_FAIL(corrupt_data, "chunk {} of {}", 3, "t2m");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::corrupt_data);
    EXPECT_STREQ(error.what(), "chunk 3 of t2m");
    EXPECT_NE(error.origin().find("test_core.cpp:"), std::string::npos);
  }
  for (int code = 0; code <= int(ErrorCode::internal); ++code) EXPECT_NE(to_string(ErrorCode(code)), "unknown");
}

TEST(Device, HasNamesAndNoCudaWithoutOne) {
  EXPECT_EQ(to_string(Device::cuda(2)), "cuda:2");
  EXPECT_EQ(to_string(Device::cpu()), "cpu");
#ifndef BOREAS_WITH_CUDA
  EXPECT_EQ(num_cuda_devices(), 0);
  BOREAS_EXPECT_ERROR(Stream(Device::cuda(0)).native(), unsupported, "-DBOREAS_CUDA=ON");
  BOREAS_EXPECT_ERROR(Buffer::on(Device::cuda(0), 8, "x"), unsupported, "no CUDA support");
#endif
}

TEST(PlannedDevice, HasBuffersThatAreCountedAndNothingElse) {
  const Device planned = Device::planned_cuda();
  EXPECT_TRUE(planned.is_cuda());
  EXPECT_EQ(to_string(planned), "cuda (planned)");
  const int64_t before = live_device_bytes();
  {
    const Buffer buffer = Buffer::on(planned, int64_t{1} << 50, "test");
    EXPECT_EQ(live_device_bytes() - before, int64_t{1} << 50);
    buffer.zero();
    float value = 1;
    copy_now(buffer.data(), planned, &value, Device::cpu(), 4);
    Arena arena;
    Context ctx(planned, arena, Mode::plan);
    const Tensor x = buffer.tensor(DType::f32, {1 << 20, 16});
    const Tensor y = ctx.alloc(Keep::scratch, DType::f32, x.shape());
    run(ctx, Copy{.x = x, .y = y});
    EXPECT_GE(arena.peak_bytes(), x.bytes());
    EXPECT_LE(arena.peak_bytes(), x.bytes() + 1024);  // debug builds fence each block
    ctx.compute().synchronize();
    BOREAS_EXPECT_ERROR(ctx.compute().native(), internal, "only planned for");
  }
  EXPECT_EQ(live_device_bytes(), before);
}

TEST(Support, RelativeErrorIsStrict) {
  const std::vector<double> a{3, 4}, nan{NAN, 4};
  EXPECT_DOUBLE_EQ(relative_error(std::vector<double>{3, 4.5}, a), 0.1);
  EXPECT_EQ(relative_error(a, a), 0);
  EXPECT_EQ(relative_error(nan, nan), 0);
  EXPECT_TRUE(std::isinf(relative_error(nan, a)));
  EXPECT_TRUE(std::isinf(relative_error(a, std::vector<double>{0, 0})));
  EXPECT_DOUBLE_EQ(relative_error(a, std::vector<double>{0, 0}, 50), 0.1);
  EXPECT_TRUE(std::isinf(relative_error(a, std::vector<double>{3})));
}

TEST(NearNames, ListsTheClosestFirst) {
  const std::vector<std::string> known = {"train", "plan", "forecast", "u_500", "u_50", "v_500"};
  EXPECT_EQ(near_names("trian", known), "; near names: train");  // swapped neighbours are one slip
  EXPECT_EQ(near_names("PLAN", known), "; near names: plan");
  EXPECT_EQ(near_names("forcats", known), "; near names: forecast");
  EXPECT_EQ(near_names("u_500", known), "; near names: u_500, u_50, v_500");
  EXPECT_EQ(near_names("temperature", known), "");
  EXPECT_EQ(near_names("", {}), "");
}

TEST(Support, RandomEdgesHaveIsolatedNodes) {
  const RandomEdges e = random_edges(20, 30, 4);
  ASSERT_EQ(e.dst_ptr.size(), 31u);
  EXPECT_EQ(e.dst_ptr.back(), int64_t(e.src_of.size()));
  EXPECT_EQ(e.dst_ptr[4], e.dst_ptr[5]);
  for (const int32_t src : e.src_of) EXPECT_TRUE(src >= 0 && src < 19);
}

struct CountedLibrary {
  static inline int num_made = 0;
  explicit CountedLibrary(Context&) { ++num_made; }
};

TEST(Context, MakesLibrariesAndTheirMemoryOnceAndWhenWanted) {
  {
    Workspace w;
    EXPECT_EQ(live_bytes("libraries"), 0);
    CountedLibrary& library = w.ctx.library<CountedLibrary>();
    EXPECT_EQ(&w.ctx.library<CountedLibrary>(), &library);
    EXPECT_EQ(CountedLibrary::num_made, 1);
    EXPECT_EQ(w.ctx.library_workspace().data(), w.ctx.library_workspace().data());
    EXPECT_EQ(live_bytes("libraries"), Context::kLibraryWorkspaceBytes);
  }
  EXPECT_EQ(live_bytes("libraries"), 0);
  Arena counting;
  Context plan(Device::cpu(), counting, Mode::plan);
  BOREAS_EXPECT_ERROR(plan.library_workspace(), internal, "needs no memory");
}

}  // namespace
}  // namespace boreas::test
