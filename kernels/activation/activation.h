// Activations: GELU, and the gated forms of the MLP.
#pragma once

#include "kernels/core/fields.h"
#include "kernels/core/op.h"

namespace boreas {

/// Gaussian error linear unit in its exact form, forward.
///
///   y = x Phi(x),   Phi(x) = (1 + erf(x / sqrt(2))) / 2
///
/// Shapes   x, y: [N, C]
/// Types    equal: f64 | f32 (GPU: f32 | bf16)
/// Alias    y may be x.   Repeatable: yes.   Saves for backward: x
/// Errors   shape: x and y disagree;  invalid_argument: types differ
/// Source   Hendrycks, Gimpel 2016, equation 1
struct GeluForward {
  static constexpr const char* name = "gelu_forward";
  Tensor x;
  Tensor y;

  void check() const;
  int64_t flops() const { return 20 * x.size(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("y", y, Access::write);
  }
};

/// GELU, backward.
///
///   d_x = d_y (Phi(x) + x phi(x)),   phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
///
/// Shapes, types, errors   as forward
/// Alias    d_x may be d_y or x.   Repeatable: yes.
struct GeluBackward {
  static constexpr const char* name = "gelu_backward";
  Tensor x, d_y;
  Tensor d_x;

  void check() const;
  int64_t flops() const { return 35 * x.size(); }
  void tensors(auto&& f) const {
    f("x", x, Access::read);
    f("d_y", d_y, Access::read);
    f("d_x", d_x, Access::write);
  }
};

/// The function that opens or closes the gate: sigmoid (GLU), silu (SwiGLU), gelu (GEGLU), relu (ReGLU).
enum class Gate : uint8_t { sigmoid, silu, gelu, relu };

template <>
struct EnumNames<Gate> {
  static constexpr std::array values{
      std::pair{Gate::sigmoid, std::string_view("sigmoid")}, std::pair{Gate::silu, std::string_view("silu")},
      std::pair{Gate::gelu, std::string_view("gelu")}, std::pair{Gate::relu, std::string_view("relu")}};
};

/// f<kind>()
template <class F>
void dispatch_gate(Gate kind, F&& f) {
  switch (kind) {
    case Gate::sigmoid:
      return f.template operator()<Gate::sigmoid>();
    case Gate::silu:
      return f.template operator()<Gate::silu>();
    case Gate::gelu:
      return f.template operator()<Gate::gelu>();
    case Gate::relu:
      return f.template operator()<Gate::relu>();
  }
}

/// Gated activation, forward.
///
///   y = f(gate) * value,   f by `kind`:  1/(1+exp(-g)) | g/(1+exp(-g)) | g Phi(g) | max(g, 0)
///
/// Shapes   gate, value, y: [N, H]
/// Types    equal: f64 | f32 (GPU: f32 | bf16)
/// Alias    y may be gate or value.   Repeatable: yes.   Saves for backward: gate, value
/// Errors   shape: they disagree;  invalid_argument: types differ
/// Source   Shazeer 2020, section 2
struct GatedForward {
  static constexpr const char* name = "gated_forward";
  Gate kind = Gate::silu;
  Tensor gate, value;
  Tensor y;

  void check() const;
  int64_t flops() const { return 20 * y.size(); }
  void tensors(auto&& f) const {
    f("gate", gate, Access::read);
    f("value", value, Access::read);
    f("y", y, Access::write);
  }
};

/// Gated activation, backward.
///
///   d_gate = d_y * value * f'(gate)       d_value = d_y * f(gate)       (f' of relu is 0 at 0)
///
/// Shapes, types, errors   as forward
/// Alias    d_gate may be gate, d_value may be value, either may be d_y.   Repeatable: yes.
struct GatedBackward {
  static constexpr const char* name = "gated_backward";
  Gate kind = Gate::silu;
  Tensor gate, value, d_y;
  Tensor d_gate, d_value;

  void check() const;
  int64_t flops() const { return 35 * d_y.size(); }
  void tensors(auto&& f) const {
    f("gate", gate, Access::read);
    f("value", value, Access::read);
    f("d_y", d_y, Access::read);
    f("d_gate", d_gate, Access::write);
    f("d_value", d_value, Access::write);
  }
};

namespace cpu {
void launch(Backend, Context& ctx, const GeluForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const GeluBackward& op, Tensor scratch);
void launch(Backend, Context& ctx, const GatedForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const GatedBackward& op, Tensor scratch);
}  // namespace cpu
namespace cuda {
void launch(Backend, Context& ctx, const GeluForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const GeluBackward& op, Tensor scratch);
void launch(Backend, Context& ctx, const GatedForward& op, Tensor scratch);
void launch(Backend, Context& ctx, const GatedBackward& op, Tensor scratch);
}  // namespace cuda

}  // namespace boreas
