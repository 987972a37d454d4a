#include <gtest/gtest.h>

#include <cmath>

#include "kernels/reduce/reduce.h"
#include "tests/support/cases/adamw.h"
#include "tests/support/gpu_parity.h"

namespace boreas::test {
namespace {

constexpr auto kCheck = [](const auto& op, const Parity& parity) { expect_gpu_parity(op, parity); };

TEST(AdamWCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  adamw::update_cases(quick_tests(), kCheck);
}

TEST(ClipScaleCuda, MatchesTheCpuInDouble) {
  BOREAS_SKIP_WITHOUT_GPU();
  adamw::scale_cases(kCheck);
}

TEST(AdamWCuda, AScaleOfNanChangesNothing) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  AdamW op = adamw::make_update(w, 1, 1001);
  op.stored = w.filled(DType::bf16, {1, 1001}, 3);
  op.control = w.of(DType::f32, {4}, {0.02, 1 - 0.9, 1 - 0.95, NAN});
  GpuWorkspace gpu;
  const AdamW device = with_tensors(op, [&](const std::string&, const Tensor& tensor) { return gpu.upload(tensor); });
  run(gpu.ctx, device);
  EXPECT_TRUE(identical(gpu.download(w, device.value), op.value));
  EXPECT_TRUE(identical(gpu.download(w, device.first_moment), op.first_moment));
  EXPECT_TRUE(identical(gpu.download(w, device.second_moment), op.second_moment));
  EXPECT_TRUE(identical(gpu.download(w, device.stored), op.stored));
}

// One recording of norm, scale and update serves every step: the control and the gradient change between replays.
TEST(AdamWCuda, ARecordedUpdateFollowsItsControl) {
  BOREAS_SKIP_WITHOUT_GPU();
  Workspace w;
  GpuWorkspace gpu;
  AdamW host = adamw::make_update(w, 1, 50001);
  host.stored = w.output(DType::bf16, {1, 50001});
  host.control = w.filled(DType::f32, {4}, 0);
  const auto upload = [&](const std::string&, const Tensor& tensor) { return gpu.upload(tensor); };
  const AdamW eager = with_tensors(host, upload), recorded = with_tensors(host, upload);
  const Tensor sums = gpu.upload(w.filled(DType::f64, {2}, 0));
  const auto update = [&](const AdamW& op, const Tensor& sum) {
    run(gpu.ctx, SumOfSquares{.x = op.grad, .out = sum});
    run(gpu.ctx, ClipScale{.sum_of_squares = sum, .max_norm = 100, .base_scale = 0.5, .control = op.control});
    run(gpu.ctx, op);
  };
  const Recording recording(gpu.ctx, [&] { update(recorded, sums.columns({1, 2})); });
  for (int step = 1; step <= 5; ++step) {
    const Tensor control = w.of(DType::f32, {4}, {0.01 / step, 1 - std::pow(0.9, step), 1 - std::pow(0.95, step), 0});
    const Tensor grad = w.random(DType::f32, {1, 50001}, step);
    if (step == 3) grad.as<float>()[77] = INFINITY;  // this step changes nothing
    for (const AdamW* op : {&eager, &recorded}) {
      gpu.copy(op->control, control);
      gpu.copy(op->grad, grad);
    }
    const Tensor before = gpu.download(w, eager.value);
    update(eager, sums.columns({0, 1}));
    recording.replay();
    gpu.ctx.compute().synchronize();
    const Tensor after = gpu.download(w, eager.value);
    EXPECT_EQ(bool(identical(before, after)), step == 3) << "step " << step;
    EXPECT_TRUE(identical(after, gpu.download(w, recorded.value)));
    EXPECT_TRUE(identical(gpu.download(w, eager.first_moment), gpu.download(w, recorded.first_moment)));
    EXPECT_TRUE(identical(gpu.download(w, eager.second_moment), gpu.download(w, recorded.second_moment)));
    EXPECT_TRUE(identical(gpu.download(w, eager.stored), gpu.download(w, recorded.stored)));
  }
}

}  // namespace
}  // namespace boreas::test
