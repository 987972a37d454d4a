// Element by element over rows: a thread owns the same vector of columns in several rows, so that several loads are in
// flight. It reads all of its elements before it writes them: results may be the inputs.
#pragma once

#include <algorithm>
#include <array>
#include <bit>

#include "kernels/activation/activation.h"
#include "kernels/core/vector_math.h"
#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/matrix.cuh"
#include "kernels/cuda/vector_io.cuh"

namespace boreas::cuda::activation {

__device__ inline float sigmoid(float x) { return fast_reciprocal(1.0f + fast_exp2(-0x1.715476p+0f * x)); }

/// The standard normal distribution.
struct Normal {
  float cdf, density;
};

/// As on the CPU (kernels/core/vector_math.h): with t = |x| and v = 1 / (1 + 5/16 t), Phi(-t) = exp(-t^2 / 2) P(v). The
/// relative error of P, of degree 10, is 5e-9. For values stored in bf16, v = 1 / (1 + t/4) and P of degree 5, without
/// a constant, has 4e-5.
template <class T>
__device__ inline Normal normal(float x) {
  constexpr bool kStoredInBf16 = std::is_same_v<T, bfloat16>;
  const float v = fast_reciprocal(1.0f + (kStoredInBf16 ? 0.25f : 0.3125f) * fabsf(x));
  const float e = fast_exp2(x * x * -0x1.715476p-1f);
  float p;
  if constexpr (kStoredInBf16) {
    p = 0x1.f289a8p-3f;
    p = p * v - 0x1.bbae60p-4f;
    p = p * v + 0x1.794d9ap-3f;
    p = p * v + 0x1.441ed0p-4f;
    p = p * v + 0x1.9fd8c4p-4f;
    p = p * v;
  } else {
    p = vector_math::normal_tail(v);
  }
  const float tail = e * p;
  return {x < 0.0f ? tail : 1.0f - tail, 0x1.988454p-2f * e};
}

// What a kernel does with an element: in[] -> out[].

template <class T>
struct Gelu {
  static constexpr int kInputs = 1, kOutputs = 1, kRows = 2;
  __device__ static void apply(const float (&in)[1], float (&out)[1]) { out[0] = in[0] * normal<T>(in[0]).cdf; }
};

template <class T>
struct GeluGradient {  // x, d_y -> d_x
  static constexpr int kInputs = 2, kOutputs = 1, kRows = 2;
  __device__ static void apply(const float (&in)[2], float (&out)[1]) {
    const Normal at = normal<T>(in[0]);
    out[0] = in[1] * (at.cdf + in[0] * at.density);
  }
};

/// A gate's value and slope.
struct Opening {
  float value, slope;
};

template <Gate kKind, class T>
__device__ inline Opening open(float g) {
  if constexpr (kKind == Gate::sigmoid) {
    const float s = sigmoid(g);
    return {s, s * (1.0f - s)};
  } else if constexpr (kKind == Gate::silu) {
    const float s = sigmoid(g);
    return {g * s, s * (1.0f + g * (1.0f - s))};
  } else if constexpr (kKind == Gate::gelu) {
    const Normal at = normal<T>(g);
    return {g * at.cdf, at.cdf + g * at.density};
  } else {
    return {g > 0.0f ? g : 0.0f, g > 0.0f ? 1.0f : 0.0f};
  }
}

template <Gate kKind, class T>
struct Gated {  // gate, value -> y
  static constexpr int kInputs = 2, kOutputs = 1, kRows = 2;
  __device__ static void apply(const float (&in)[2], float (&out)[1]) { out[0] = open<kKind, T>(in[0]).value * in[1]; }
};

template <Gate kKind, class T>
struct GatedGradient {  // gate, value, d_y -> d_gate, d_value
  static constexpr int kInputs = 3, kOutputs = 2, kRows = 2;
  __device__ static void apply(const float (&in)[3], float (&out)[2]) {
    const Opening opening = open<kKind, T>(in[0]);
    out[0] = in[2] * in[1] * opening.slope;
    out[1] = in[2] * opening.value;
  }
};

template <class T>
struct Matrix {
  T* data;
  int64_t row_stride;
};

template <class T, int kInputs, int kOutputs>
struct Elements {
  int64_t rows, cols;
  int log_lanes;  // 2^log_lanes threads of a block share a row
  Matrix<const T> in[kInputs];
  Matrix<T> out[kOutputs];
};

inline constexpr int kElementThreads = 256;

/// kVector: 1, or kVectorSize<T> where rows are aligned and cols is a multiple of it.
template <class F, class T, int kVector>
__global__ void __launch_bounds__(kElementThreads) map_rows(Elements<T, F::kInputs, F::kOutputs> p) {
  const int lanes = 1 << p.log_lanes, lane = threadIdx.x & (lanes - 1), rows_apart = kElementThreads >> p.log_lanes;
  const int64_t first = int64_t(blockIdx.x) * rows_apart * F::kRows + (threadIdx.x >> p.log_lanes);
  for (int64_t c = lane * kVector; c < p.cols; c += lanes * kVector) {
    float in[F::kInputs][F::kRows][kVector] = {};
#pragma unroll
    for (int r = 0; r < F::kRows; ++r) {
      const int64_t row = first + r * rows_apart;
      if (row >= p.rows) continue;
#pragma unroll
      for (int i = 0; i < F::kInputs; ++i) {
        const T* const from = p.in[i].data + row * p.in[i].row_stride + c;
        if constexpr (kVector == 1)
          in[i][r][0] = widen(*from);
        else
          load_vector(from, in[i][r]);
      }
    }
#pragma unroll
    for (int r = 0; r < F::kRows; ++r) {
      const int64_t row = first + r * rows_apart;
      if (row >= p.rows) continue;
      float out[F::kOutputs][kVector];
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        float from[F::kInputs], to[F::kOutputs];
#pragma unroll
        for (int i = 0; i < F::kInputs; ++i) from[i] = in[i][r][k];
        F::apply(from, to);
#pragma unroll
        for (int i = 0; i < F::kOutputs; ++i) out[i][k] = to[i];
      }
#pragma unroll
      for (int i = 0; i < F::kOutputs; ++i) {
        T* const to = p.out[i].data + row * p.out[i].row_stride + c;
        if constexpr (kVector == 1)
          *to = narrow<T>(out[i][0]);
        else
          store_vector(to, out[i]);
      }
    }
  }
}

template <class F>
void dispatch_storage(const char* op, DType dtype, F&& f) {
  BOREAS_CHECK(dtype != DType::f64, unsupported, "{} computes in f32 or bf16 on a GPU, not in f64", op);
  if (dtype == DType::bf16)
    f.template operator()<bfloat16>();
  else
    f.template operator()<float>();
}

template <class F, class T>
void launch_map(cudaStream_t stream, const std::array<Tensor, F::kInputs>& in,
                const std::array<Tensor, F::kOutputs>& out) {
  Elements<T, F::kInputs, F::kOutputs> p{.rows = out[0].rows(), .cols = out[0].cols()};
  if (p.rows == 0 || p.cols == 0) return;
  const auto as_matrix = [](const Tensor& tensor) { return Matrix<T>{tensor.as<T>(), tensor.row_stride()}; };
  bool aligned = p.cols % kVectorSize<T> == 0;
  const auto check_alignment = [&](const Tensor& tensor) {
    aligned &= reinterpret_cast<uintptr_t>(tensor.data()) % 16 == 0 &&
               (tensor.rows() <= 1 || tensor.row_stride() % kVectorSize<T> == 0);
  };
  for (int i = 0; i < F::kInputs; ++i) {
    p.in[i] = {as_matrix(in[i]).data, in[i].row_stride()};
    check_alignment(in[i]);
  }
  for (int i = 0; i < F::kOutputs; ++i) {
    p.out[i] = as_matrix(out[i]);
    check_alignment(out[i]);
  }
  const uint64_t vectors = aligned ? p.cols / kVectorSize<T> : p.cols;
  p.log_lanes = std::bit_width(std::min<uint64_t>(vectors, kElementThreads) - 1);
  const int64_t rows_per_block = (kElementThreads >> p.log_lanes) * F::kRows;
  const int64_t blocks = (p.rows + rows_per_block - 1) / rows_per_block;
  launch_kernel(aligned ? map_rows<F, T, kVectorSize<T>> : map_rows<F, T, 1>, unsigned(blocks), kElementThreads, 0,
                stream, p);
}

inline void launch_activation(const GeluForward& op, cudaStream_t stream) {
  dispatch_storage(op.name, op.x.dtype(), [&]<class T>() { launch_map<Gelu<T>, T>(stream, {op.x}, {op.y}); });
}

inline void launch_activation(const GeluBackward& op, cudaStream_t stream) {
  dispatch_storage(op.name, op.x.dtype(), [&]<class T>() {
    launch_map<GeluGradient<T>, T>(stream, {op.x, op.d_y}, {op.d_x});
  });
}

inline void launch_activation(const GatedForward& op, cudaStream_t stream) {
  dispatch_storage(op.name, op.y.dtype(), [&]<class T>() {
    dispatch_gate(op.kind, [&]<Gate kKind>() { launch_map<Gated<kKind, T>, T>(stream, {op.gate, op.value}, {op.y}); });
  });
}

inline void launch_activation(const GatedBackward& op, cudaStream_t stream) {
  dispatch_storage(op.name, op.d_y.dtype(), [&]<class T>() {
    dispatch_gate(op.kind, [&]<Gate kKind>() {
      launch_map<GatedGradient<kKind, T>, T>(stream, {op.gate, op.value, op.d_y}, {op.d_gate, op.d_value});
    });
  });
}

}  // namespace boreas::cuda::activation
