// run(ctx, op): the single path of every operation.
#pragma once

#include "kernels/core/context.h"
#include "kernels/core/trace.h"

namespace boreas {

enum class Access : uint8_t { read, write, update };

// A backend is a namespace with `launch` overloads, found through its tag:
//   namespace cpu { void launch(Backend, Context&, const LayerNormForward&, Tensor scratch); }
namespace cpu {
struct Backend {};
}  // namespace cpu
namespace cuda {
struct Backend {};
}  // namespace cuda

namespace detail {

template <class Op>
void check_devices(const Context& ctx, const Op& op) {
  op.tensors([&](const char* name, const Tensor& tensor, Access) {
    BOREAS_CHECK(tensor.empty() || tensor.device() == ctx.device(), invalid_argument,
                 "{}: {} lies on {} but the context computes on {}", Op::name, name, to_string(tensor.device()),
                 to_string(ctx.device()));
  });
}

/// What an op must move: its tensors, unless it says otherwise because it does not read all of one.
template <class Op>
int64_t bytes_of(const Op& op) {
  if constexpr (requires { op.bytes(); }) return op.bytes();
  int64_t bytes = 0;
  op.tensors([&](const char*, const Tensor& tensor, Access access) {
    bytes += tensor.bytes() * (access == Access::update ? 2 : 1);
  });
  return bytes;
}

}  // namespace detail

/// Checks the op, lends it the scratch memory that it declares (`int64_t scratch_bytes() const`, optional), and
/// launches it on the context's device, unless the context only plans: then a trace counts its cost. An op declares
///   static constexpr const char* name;   void check() const;   int64_t flops() const;   void tensors(auto&& f) const;
template <class Op>
void run(Context& ctx, const Op& op) {
  detail::check_devices(ctx, op);
  op.check();
  const Scope scope(ctx);
  Tensor scratch;
  if constexpr (requires { op.scratch_bytes(); }) scratch = ctx.alloc(Keep::scratch, DType::u8, {op.scratch_bytes()});
  if (ctx.planning()) {
    if (ctx.trace) {
      const TraceCost cost{op.flops(), detail::bytes_of(op)};
      ctx.trace->add(Op::name, ctx.trace->predict ? ctx.trace->predict(Op::name, cost) : 0, cost);
    }
    return;
  }
  const TraceScope timer(ctx, Op::name, [&] { return TraceCost{op.flops(), detail::bytes_of(op)}; });
  if (ctx.device().is_cuda()) {
#ifdef BOREAS_WITH_CUDA
    if constexpr (requires { launch(cuda::Backend{}, ctx, op, scratch); }) {
      launch(cuda::Backend{}, ctx, op, scratch);
      return;
    }
#endif
    BOREAS_FAIL(unsupported, "{} has no CUDA implementation yet; set device: cpu", Op::name);
  }
  launch(cpu::Backend{}, ctx, op, scratch);
}

}  // namespace boreas
