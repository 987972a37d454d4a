// Streams, events, copies, recordings and buffers of a GPU.
#include <gtest/gtest.h>

#include <numeric>

#include "kernels/elementwise/elementwise.h"
#include "kernels/layer_norm/layer_norm.h"
#include "tests/support/error_of.h"
#include "tests/support/fixtures.h"
#include "tests/support/gpu.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

TEST(DeviceCuda, SaysWhatThereIs) {
  BOREAS_SKIP_WITHOUT_GPU();
  EXPECT_EQ(why_no_cuda(), "");
  EXPECT_FALSE(name_of(Device::cuda(0)).empty());
  const DeviceMemory before = memory_of(Device::cuda(0));
  const Buffer buffer = Buffer::on(Device::cuda(0), int64_t{256} << 20, "test");
  const DeviceMemory after = memory_of(Device::cuda(0));
  EXPECT_EQ(before.total, after.total);
  EXPECT_GT(after.free, 0);  // how much less than before is not ours alone to say: other processes come and go
  EXPECT_LT(after.free, after.total);
  EXPECT_GE(live_device_bytes("test"), int64_t{256} << 20);
}

TEST(DeviceCuda, TooLargeABufferIsAnError) {
  BOREAS_SKIP_WITHOUT_GPU();
  if (quick_tests()) GTEST_SKIP() << "compute-sanitizer counts the refused allocation as an error";
  BOREAS_EXPECT_ERROR(Buffer::on(Device::cuda(0), int64_t{1} << 45, "test"), out_of_memory, "has no room for another");
  const Buffer small = Buffer::on(Device::cuda(0), 16, "test");  // the error leaves nothing behind
  small.zero();
}

TEST(DeviceCuda, CopiesOnAStreamOfTheirOwnOverlapAndArrive) {
  BOREAS_SKIP_WITHOUT_GPU();
  GpuWorkspace gpu;
  const int64_t n = int64_t{1} << 24;
  const Buffer pinned(Device::cuda(0), Buffer::Kind::pinned, n * 4, "test"),
      back(Device::cuda(0), Buffer::Kind::pinned, n * 4, "test");
  const Buffer first = Buffer::on(Device::cuda(0), n * 4, "test"), second = Buffer::on(Device::cuda(0), n * 4, "test");
  const Stream copies(Device::cuda(0));
  Event sent(Device::cuda(0)), taken(Device::cuda(0)), done(Device::cuda(0));
  for (int round = 0; round < 4; ++round) {
    sent.synchronize();
    std::iota(static_cast<int32_t*>(pinned.data()), static_cast<int32_t*>(pinned.data()) + n, round);
    copies.wait(taken);
    copy_bytes(copies, first.data(), Device::cuda(0), pinned.data(), Device::cpu(), n * 4);
    sent.record(copies);
    gpu.ctx.compute().wait(sent);
    copy_bytes(gpu.ctx.compute(), second.data(), Device::cuda(0), first.data(), Device::cuda(0), n * 4);
    taken.record(gpu.ctx.compute());
    copy_bytes(gpu.ctx.compute(), back.data(), Device::cpu(), second.data(), Device::cuda(0), n * 4);
    done.record(gpu.ctx.compute());
    done.synchronize();
    const int32_t* const values = static_cast<const int32_t*>(back.data());
    ASSERT_EQ(values[0], round);
    ASSERT_EQ(values[n - 1], round + int32_t(n) - 1);
    EXPECT_GT(done.seconds_since(sent), 0);
    EXPECT_LT(done.seconds_since(sent), 10);
  }
}

TEST(DeviceCuda, ARecordingDoesWhatItsWorkDid) {
  BOREAS_SKIP_WITHOUT_GPU();
  GpuWorkspace gpu;
  Workspace w;
  const Tensor x = gpu.upload(w.random(DType::f32, {300, 512})), gamma = gpu.upload(w.random(DType::f32, {512}));
  const Tensor eager = gpu.upload(w.output(DType::f32, {300, 512})),
               replayed = gpu.upload(w.output(DType::f32, {300, 512}));
  const Tensor stats = gpu.upload(w.output(DType::f32, {300, 2}));
  const auto normalise = [&](const Tensor& y) {
    run(gpu.ctx, LayerNormForward{.x = x, .gamma = gamma, .y = y, .stats = stats});
  };
  normalise(eager);
  const Recording recording(gpu.ctx.compute(), [&] { normalise(replayed); });
  recording.launch(gpu.ctx.compute());
  EXPECT_EQ(values_of(gpu.download(w, replayed)), values_of(gpu.download(w, eager)));

  // The same addresses with other contents.
  const Tensor other = w.random(DType::f32, {300, 512});
  copy_now(x.data(), x.device(), other.data(), Device::cpu(), other.bytes());
  normalise(eager);
  recording.launch(gpu.ctx.compute());
  EXPECT_EQ(values_of(gpu.download(w, replayed)), values_of(gpu.download(w, eager)));
}

TEST(DeviceCuda, WorkThatFailsWhileItIsRecordedLeavesTheStreamUsable) {
  BOREAS_SKIP_WITHOUT_GPU();
  GpuWorkspace gpu;
  Workspace w;
  BOREAS_EXPECT_ERROR(Recording(gpu.ctx.compute(), [] { BOREAS_FAIL(shape, "on purpose"); }), shape, "on purpose");
  const Tensor x = gpu.upload(w.random(DType::f32, {3, 5}));
  EXPECT_EQ(values_of(gpu.download(w, x)).size(), 15u);
}

}  // namespace
}  // namespace boreas::test
