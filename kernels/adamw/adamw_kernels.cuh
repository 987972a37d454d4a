// Kernels of AdamW, and their launches: threads own chunks of parameters.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/adamw/adamw.h"
#include "kernels/cuda/map.cuh"

namespace boreas::cuda {

struct AdamWNumbers {
  float beta1, beta2, grown1, grown2;  ///< grown = 1 - beta
  float eps, weight_decay, clip;       ///< clip: infinite if off
  float4 control;                      ///< learning rate, bias1, bias2, scale of the gradient
  const float* device_control;         ///< replaces `control` unless null
};

/// S: type of the stored copy, which is not written if it is null.
template <int kSize, class S>
__global__ void __launch_bounds__(kMapThreads)
    adamw_chunks(Chunks<kSize> chunks, AdamWNumbers p, RowsOf<float> value, RowsOf<const float> grad,
                 RowsOf<float> first_moment, RowsOf<float> second_moment, RowsOf<S> stored) {
  if (const float* const c = p.device_control) p.control = make_float4(c[0], c[1], c[2], c[3]);
  const auto [learning_rate, bias1, bias2, scale] = p.control;
  const int64_t chunk = int64_t(blockIdx.x) * kMapThreads + threadIdx.x;
  if (isnan(scale) || chunk >= chunks.count) return;
  const float correction1 = learning_rate / bias1, correction2 = 1.0f / sqrtf(bias2);
  const float decay = 1.0f - learning_rate * p.weight_decay;

  const Place place = chunks.place(chunk);
  const int64_t available = chunks.columns - place.column;
  float v[kSize], g[kSize], m[kSize], s[kSize];
  load_elements<kSize>(value.at(place.row, place.column), available, v);
  load_elements<kSize>(grad.at(place.row, place.column), available, g);
  load_elements<kSize>(first_moment.at(place.row, place.column), available, m);
  load_elements<kSize>(second_moment.at(place.row, place.column), available, s);
#pragma unroll
  for (int k = 0; k < kSize; ++k) {
    float x = g[k] * scale;
    x = x > p.clip ? p.clip : x;  // a NaN stays a NaN
    x = x < -p.clip ? -p.clip : x;
    m[k] = p.beta1 * m[k] + p.grown1 * x;
    s[k] = p.beta2 * s[k] + p.grown2 * x * x;
    v[k] = v[k] * decay - correction1 * m[k] / (sqrtf(s[k]) * correction2 + p.eps);
  }
  store_elements<kSize>(value.at(place.row, place.column), available, v);
  store_elements<kSize>(first_moment.at(place.row, place.column), available, m);
  store_elements<kSize>(second_moment.at(place.row, place.column), available, s);
  if (stored.data) store_elements<kSize>(stored.at(place.row, place.column), available, v);
}

static __global__ void clip_scale(const double* sum_of_squares, double max_norm, double base_scale, float* control) {
  const double norm = base_scale * sqrt(*sum_of_squares);
  const double scale = max_norm > 0 && norm > max_norm ? base_scale * (max_norm / norm) : base_scale;
  control[3] = isfinite(norm) ? float(scale) : nanf("");
}

// --- launches ---

inline void enqueue(Context& ctx, const AdamW& op, Tensor) {
  require_f32(op.name, op.value.dtype());
  if (op.value.size() == 0) return;
  const AdamWNumbers numbers{.beta1 = float(op.beta1),
                             .beta2 = float(op.beta2),
                             .grown1 = float(1 - op.beta1),
                             .grown2 = float(1 - op.beta2),
                             .eps = float(op.eps),
                             .weight_decay = float(op.weight_decay),
                             .clip = op.clip_value > 0 ? float(op.clip_value) : std::numeric_limits<float>::infinity(),
                             .control = {float(op.learning_rate), float(1 - std::pow(op.beta1, double(op.step))),
                                         float(1 - std::pow(op.beta2, double(op.step))), float(op.grad_scale)},
                             .device_control = op.control ? op.control.as<float>() : nullptr};
  dispatch_stored(op.name, op.stored ? op.stored.dtype() : DType::f32, [&]<class S>() {
    with_chunks<4>(
        {op.value, op.grad, op.first_moment, op.second_moment, op.stored}, [&]<int kSize>(Chunks<kSize> chunks) {
          const auto blocks = unsigned((chunks.count + kMapThreads - 1) / kMapThreads);
          launch_kernel(adamw_chunks<kSize, S>, blocks, kMapThreads, 0, stream_of(ctx), chunks, numbers,
                        rows_of<float>(op.value), rows_of<const float>(op.grad), rows_of<float>(op.first_moment),
                        rows_of<float>(op.second_moment), rows_of<S>(op.stored));
        });
  });
}

inline void enqueue(Context& ctx, const ClipScale& op, Tensor) {
  require_f32(op.name, op.control.dtype());
  launch_kernel(clip_scale, 1, 1, 0, stream_of(ctx), op.sum_of_squares.as<double>(), op.max_norm, op.base_scale,
                op.control.as<float>());
}

}  // namespace boreas::cuda
