#include "kernels/window_attention/window_attention_tensor_cores.cuh"

namespace boreas::cuda {

namespace {

template <class Op>
bool supported(const Op& op, std::initializer_list<Tensor> more) {
  const int64_t head_size = head_size_of(op);
  return op.q.dtype() == DType::bf16 && head_size % 8 == 0 && head_size <= 128 &&
         rows_aligned({op.q, op.k, op.v, op.o}) && rows_aligned(more);
}

}  // namespace

bool window_attention_supported_tensor_cores(const WindowAttentionForward& op) { return supported(op, {}); }
bool window_attention_supported_tensor_cores(const WindowAttentionBackward& op) {
  return supported(op, {op.d_o, op.d_q, op.d_k, op.d_v});
}

void window_attention_tensor_cores(Context& ctx, const WindowAttentionForward& op, Tensor) {
  window_attention::launch_tensor_cores(ctx, op);
}
void window_attention_tensor_cores(Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  window_attention::launch_tensor_cores(ctx, op, scratch);
}

}  // namespace boreas::cuda
