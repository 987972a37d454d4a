// One op, as it is launched on a GPU, run by the emulation on the CPU, against the same op in double. Only tests whose
// name ends in _emulated can include this.
#pragma once

#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/parity.h"

namespace boreas::test {

/// The scratch memory that the op asks for on a GPU.
template <class Op>
int64_t gpu_scratch_bytes(const Op& op) {
  if constexpr (requires { op.scratch_bytes(); })
    return with_tensors(op,
                        [](const std::string&, const Tensor& t) {
                          return Tensor(t.data(), t.dtype(), t.shape(), Device::cuda(0), t.row_stride());
                        })
        .scratch_bytes();
  return 0;
}

/// As expect_gpu_parity, with threads that run in either order in the place of a second run.
template <class Op>
void expect_emulated_parity(const Op& host, const Parity& parity = {}) {
  Workspace w;
  const std::vector<Tensor> expected = exact_results(w, host, parity);
  const auto place = [&](const Tensor& tensor) { return w.copy_of(tensor); };
  const auto fetch = [](const Tensor& tensor) { return tensor; };
  for (const Layout layout : kLayouts) {
    SCOPED_TRACE(testing::Message() << Op::name << ", layout " << int(layout));
    const auto run_in = [&](emulation::Order order) {
      emulation::order() = order;
      const InLayout<Op> copy(w, host, layout, parity, place);
      copy.op.check();
      cuda::enqueue(w.ctx, copy.op, w.output(DType::u8, {gpu_scratch_bytes(copy.op)}));
      emulation::order() = emulation::Order::ascending;
      return copy.results(fetch);
    };
    const std::vector<Tensor> results = run_in(emulation::Order::ascending);
    expect_results(results, expected, parity);
    expect_same_bits(results, run_in(emulation::Order::descending), "threads in descending order");
  }
}

}  // namespace boreas::test
