// The Hopper version of windowed attention: which cases it takes.
#include <limits>

#include "kernels/window_attention/window_attention_sm90_launch.cuh"

namespace boreas::cuda {

namespace {

using namespace sm90;

// A Hopper GPU, and machine code for it in this build.
bool runs_on(Device device) {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index);
  if (major != 9 || minor != 0) return false;
  cudaFuncAttributes compiled;
  const cudaError_t status = cudaFuncGetAttributes(&compiled, forward_kernel<Shapes<64>::Forward>);
  if (status != cudaSuccess) (void)cudaGetLastError();  // or the next launch would be blamed for it
  return status == cudaSuccess && compiled.ptxVersion >= 90;
}

template <class Op>
bool supports(const Op& op, std::initializer_list<Tensor> tensors) {
  const int64_t head_size = head_size_of(op);
  return op.q.dtype() == DType::bf16 && (head_size == 32 || head_size == 64 || head_size == 128) && op.q.rows() > 0 &&
         op.k.rows() * op.num_heads < std::numeric_limits<int>::max() / 2 && rows_aligned(tensors) &&
         runs_on(op.q.device());
}

}  // namespace

bool window_attention_supported_sm90(const WindowAttentionForward& op) {
  return supports(op, {op.q, op.k, op.v, op.o});
}

bool window_attention_supported_sm90(const WindowAttentionBackward& op) {
  return supports(op, {op.q, op.k, op.v, op.d_o, op.d_q, op.d_k, op.d_v});
}

void window_attention_sm90(Context& ctx, const WindowAttentionForward& op, Tensor) { launch_hopper(ctx, op); }

void window_attention_sm90(Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  launch_hopper(ctx, op, scratch);
}

}  // namespace boreas::cuda
