// The generic version, the row terms of backward, and the choice among the versions.
#include <string>

#include "kernels/window_attention/window_attention_generic.cuh"

namespace boreas::cuda {

using namespace window_attention;

namespace {

template <class Op>
bool generic_supports(const Op& op) {
  return (op.q.dtype() == DType::f32 || op.q.dtype() == DType::bf16) && head_size_of(op) <= 256;
}

/// Calls f<storage type>().
template <class F>
void dispatch_storage(DType dtype, F&& f) {
  dtype == DType::f32 ? f.template operator()<float>() : f.template operator()<bfloat16>();
}

void generic(Context& ctx, const WindowAttentionForward& op, Tensor) {
  dispatch_storage(op.q.dtype(), [&]<class T>() { launch_generic<T>(ctx, op); });
}

void generic(Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  dispatch_storage(op.q.dtype(), [&]<class T>() { launch_generic<T>(ctx, op, scratch); });
}

/// All rows of the sequence are queries, and all gradients wanted.
template <class Op>
[[maybe_unused]] bool cudnn_supports(const Op& op) {
  if constexpr (requires { op.d_k; })
    if (!op.d_q || op.d_k.rows() != op.k.rows()) return false;
  return op.q.rows() == op.k.rows() && window_attention_supported_tensor_cores(op);
}

template <class Op>
constexpr WindowAttentionVersion<Op> kVersions[] = {
    {WindowAttentionKernel::hopper, window_attention_supported_sm90, window_attention_sm90},
    {WindowAttentionKernel::tensor_cores, window_attention_supported_tensor_cores, window_attention_tensor_cores},
    {WindowAttentionKernel::generic, generic_supports<Op>, generic},
#ifdef BOREAS_WITH_CUDNN
    // Last, and with nothing that others do not support: never the first choice.
    {WindowAttentionKernel::cudnn, cudnn_supports<Op>, window_attention_cudnn},
#endif
};

/// The version that is demanded, or the first that supports the op.
template <class Op>
const WindowAttentionVersion<Op>& version_for(const Op& op) {
  for (const auto& version : kVersions<Op>)
    if ((op.kernel == WindowAttentionKernel::automatic || op.kernel == version.kernel) && version.supports(op))
      return version;
#ifndef BOREAS_WITH_CUDNN
  BOREAS_CHECK(op.kernel != WindowAttentionKernel::cudnn, unsupported,
               "{}: no cudnn kernel in this build: install cuDNN 9.14 or later and the headers of cudnn-frontend, and "
               "configure with -DCudnn_FRONTEND_INCLUDE_DIR=<their folder>",
               Op::name);
#endif
  const std::string kernel(to_string(op.kernel));
  BOREAS_FAIL(unsupported, "{}: no {} kernel on this device for {} with heads of {} channels", Op::name,
              op.kernel == WindowAttentionKernel::automatic ? "CUDA" : kernel, to_string(op.q), head_size_of(op));
}

}  // namespace

void launch(Backend, Context& ctx, const WindowAttentionForward& op, Tensor scratch) {
  const auto& version = version_for(op);
  if (op.q.rows() > 0) version.launch(ctx, op, scratch);
}

void launch(Backend, Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  const auto& version = version_for(op);
  if (op.q.rows() == 0) return;
  dispatch_storage(op.q.dtype(), [&]<class T>() { fill_row_terms<T>(ctx, op, scratch); });
  version.launch(ctx, op, scratch);
}

}  // namespace boreas::cuda
