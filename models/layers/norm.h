// Layer normalisation, alone and in front of a linear map.
#pragma once

#include <string>

#include "kernels/layer_norm/layer_norm.h"
#include "models/layer.h"
#include "models/layers/linear.h"

namespace boreas {

/// Layer normalisation of rows, or of each head of a row (queries and keys, without beta). Keeps x (its caller holds
/// it) and the statistics of each segment, so, as for Linear, its directions are plain functions.
///
/// Types    y, d_y: that of the weights, T;  x, d_x: T or its accumulator type;  d_residual: as d_x
class LayerNorm {
 public:
  LayerNorm(ParameterStore& store, const std::string& name, int64_t channels);
  static LayerNorm of_heads(ParameterStore& store, const std::string& name, int64_t channels, int64_t num_heads);

  DType dtype() const { return gamma_->value.dtype(); }
  Tensor alloc_stats(Context& ctx, Keep keep, const Tensor& x) const;
  /// y may be x where their types agree.
  void forward(Context& ctx, const Tensor& x, const Tensor& y, const Tensor& stats) const;
  /// d_x = derivative of the norm + d_residual; d_x may be d_y or d_residual, or x. y, which may be d_y, becomes what
  /// forward gave, if it is wanted; then d_x must be neither y nor x.
  void backward(Context& ctx, const Tensor& x, const Tensor& stats, const Tensor& d_y, const Tensor& d_x,
                const Tensor& d_residual = {}, const Tensor& y = {}) const;

 private:
  LayerNorm(const Parameter* gamma, const Parameter* beta, int64_t groups)
      : gamma_(gamma), beta_(beta), groups_(groups) {}

  const Parameter *gamma_, *beta_;
  int64_t groups_;
};

/// y = W LN(x) + b: the head of every pre-norm block. Keeps the statistics, and LN(x) if that is kept briefly; else it
/// is computed again in backward.
///
/// Shapes   x: [R, C]   y: [R, out]
class NormedLinear {
 public:
  struct Inputs {
    Tensor x;
  };
  struct Outputs {
    Tensor y;
  };
  struct Saved {
    Arena::Mark begin;
    bool brief = false;
    Tensor stats, normed;
  };

  NormedLinear(LayerNorm norm, Linear linear) : norm_(norm), linear_(linear) {}

  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  /// forward in steps: LN(x), lent by the caller's scope, then any columns of y.
  Tensor normalise(Context& ctx, const Tensor& x, Saved* saved) const;
  void map(Context& ctx, const Tensor& normed, const Tensor& y, Range columns) const;
  /// `d_residual`, the gradient that reaches x by another way, is added to d_x and may be d_x. d_x may be x.
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in,
                const Tensor& d_residual = {}) const;

 private:
  LayerNorm norm_;
  Linear linear_;
};
static_assert(Layer<NormedLinear>);

}  // namespace boreas
