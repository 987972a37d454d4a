// Multi-layer perceptrons, plain and gated.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "models/config.h"
#include "models/layers/norm.h"

namespace boreas {

/// Width of an MLP's hidden layer: floor(channels * ratio + 0.5). Throws config unless ratio is finite and positive.
int64_t mlp_hidden_channels(int64_t channels, double ratio);

/// h_0 = x;  h_{i+1} = act(W_i h_i + b_i), i = 0 .. num_extra;  y = W h + b + residual
///
/// act is GELU, or, in the gated kinds, gate(W_g h + b_g) * (W_v h + b_v) with gate = sigmoid, SiLU, GELU, ReLU.
///
/// Shapes   x: [R, in]   y, residual: [R, out]; residual may be empty or y, and its gradient is d_y: it is not written
/// Names    <prefix>.mlp.<n> with n counted as in a sequence of maps and activations; gated: .gate_proj, .value_proj
/// Types    x: that of the weights, T;  y, residual, d_y: T or its accumulator type, equal
/// Saves    W_i h_i + b_i, and the activations if they are kept briefly; else these are computed again. Backward
///          overwrites what was saved
/// Source   Shazeer 2020 (gated kinds)
class Mlp {
 public:
  struct Inputs {
    Tensor x, residual;
  };
  struct Outputs {
    Tensor y;
  };
  struct Saved {
    Arena::Mark begin;
    bool brief = false;
    std::vector<Tensor> before_activation, activated;  // the second: empty unless brief
  };

  Mlp(ParameterStore& store, const std::string& prefix, MlpKind kind, int64_t in, int64_t hidden, int64_t out,
      int64_t num_extra = 0);

  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  /// `restore_x`: called after d_in.x is written and before x is read; it may put x there.
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in,
                const std::function<void()>& restore_x = {}) const;

 private:
  bool gated() const { return kind_ != MlpKind::mlp; }
  void activate(Context& ctx, const Tensor& before, const Tensor& y) const;
  /// y = act(layer(x)); `before`, what the activation acts on, may be empty without a gate.
  void forward_layer(Context& ctx, const Linear& layer, const Tensor& x, const Tensor& before, const Tensor& y) const;

  MlpKind kind_;
  int64_t hidden_;
  std::vector<Linear> layers_;  // those before an activation, then the last
};
static_assert(Layer<Mlp>);

/// y = x + Mlp(LN(x)): the second half of every transformer block.
///
/// Shapes   x, y: [R, C]; y may be x when nothing is saved
/// Types    x, y and their gradients: that of the weights, or its accumulator type
/// Alias    backward: d_in.x may be d_out.y
class FeedForward {
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
    Tensor stats, normed;  // the second: empty unless brief
    Mlp::Saved mlp;
  };

  FeedForward(LayerNorm norm, Mlp mlp) : norm_(norm), mlp_(std::move(mlp)) {}

  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  void backward(Context& ctx, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in) const;

 private:
  LayerNorm norm_;
  Mlp mlp_;
};
static_assert(Layer<FeedForward>);

}  // namespace boreas
