// The layer protocol: a derivative is written beside its layer, and what links the two is a struct with names.
#pragma once

#include <concepts>

#include "kernels/core/context.h"
#include "kernels/core/fields.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/linear/linear.h"

namespace boreas {

/// A layer has three structs and two functions:
///
///   struct Inputs, Outputs;   tensors. The gradient of a struct of tensors is a struct of the same type.
///   struct Saved;             what forward keeps for backward; first member `Arena::Mark begin`
///   void forward (Context&, const Inputs& in, const Outputs& out, Saved* saved) const;         null: keep nothing
///   void backward(Context&, const Inputs& in, const Saved& saved, const Outputs& d_out, const Inputs& d_in) const;
///
/// Five rules make memory and gradients predictable:
///
/// 1. The caller allocates outputs and input gradients; the callee allocates temporaries in a Scope.
/// 2. Backward reads inputs and Saved, never outputs. Inputs are borrowed and live, unchanged, until backward.
/// 3. Backward visits in exact reverse order and ends by rewinding the saved end to `Saved::begin`.
/// 4. Layers own parameters (and graphs) only; two calls of one layer differ only in their Saved.
/// 5. Shapes depend on configuration and graph, never on field values.
///
/// Three conventions hold for every layer. An empty output is not wanted: forward then fills Saved and skips the work
/// that only the output needs. An empty input gradient is not wanted. An input gradient with n columns where the input
/// has more is the gradient of the last n: trainable columns always stand last.
template <class L>
concept Layer = requires(const L& layer, Context& ctx, const typename L::Inputs& in, const typename L::Outputs& out,
                         typename L::Saved& saved, const typename L::Saved& kept) {
  { saved.begin } -> std::same_as<Arena::Mark&>;
  layer.forward(ctx, in, out, &saved);
  layer.backward(ctx, in, kept, out, in);
};

/// What forward does not keep and backward computes again. Each level contains the ones before it.
enum class Recompute : uint8_t {
  none,     ///< keep all
  mappers,  ///< encoder and decoder, chunk by chunk
  block,    ///< and processor blocks
  step      ///< and whole steps of a rollout
};
template <>
struct EnumNames<Recompute> {
  static constexpr std::array values{
      std::pair{Recompute::none, std::string_view("none")}, std::pair{Recompute::mappers, std::string_view("mappers")},
      std::pair{Recompute::block, std::string_view("block")}, std::pair{Recompute::step, std::string_view("step")}};
};

/// The save-or-recompute pair: with `recompute`, forward keeps nothing and backward runs forward again first. What is
/// saved then lives for that backward only, so a layer whose Saved has the flag `brief` may keep more there than it
/// would for a whole step.
template <Layer L>
void run_forward(Context& ctx, const L& layer, bool recompute, const typename L::Inputs& in,
                 const typename L::Outputs& out, typename L::Saved* saved) {
  layer.forward(ctx, in, out, recompute ? nullptr : saved);
}

template <Layer L>
void run_backward(Context& ctx, const L& layer, bool recompute, const typename L::Inputs& in,
                  const typename L::Saved& saved, const typename L::Outputs& d_out, const typename L::Inputs& d_in) {
  if (!recompute) {
    layer.backward(ctx, in, saved, d_out, d_in);
    return;
  }
  typename L::Saved again;
  if constexpr (requires { again.brief; }) again.brief = true;
  layer.forward(ctx, in, {}, &again);
  layer.backward(ctx, in, again, d_out, d_in);
}

/// Like Context::alloc, with rows that begin at multiples of 8 elements, so that kernels can read them in whole
/// vectors.
inline Tensor alloc_aligned_rows(Context& ctx, Keep end, DType dtype, int64_t rows, int64_t cols) {
  return ctx.alloc(end, dtype, {rows, padded_columns(cols)}).columns({0, cols});
}

/// The same with its padding, set to zero: what linear layers multiply fastest.
inline Tensor alloc_padded_rows(Context& ctx, Keep end, DType dtype, int64_t rows, int64_t cols) {
  const Tensor padded = ctx.alloc(end, dtype, {rows, padded_columns(cols)});
  if (padded.cols() > cols) run(ctx, Fill{.y = padded.columns({cols, padded.cols()}), .value = 0});
  return padded;
}

/// Which end of the arena holds what backward will read, when there is a backward.
inline Keep keep_if(const void* saved) { return saved ? Keep::saved : Keep::scratch; }

}  // namespace boreas
