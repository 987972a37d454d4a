// Rollout: a state advanced several model steps, scored at each, and the gradient through all of them.
#pragma once

#include <vector>

#include "engine/step_model.h"
#include "models/layer.h"
#include "models/loss.h"

namespace boreas {

/// x_0 = start(window);  y_k = network(x_k);  loss_k = loss(y_k, truth_k);  x_{k+1} = advance(x_k, y_k)
///
/// truth_k holds each member against its own fields, and an ensemble (crps) against those of its first member.
///
/// The window holds T_i + T_o num_steps times. The gradient passes through every step (nothing is detached), times
/// loss_scale. With recompute `step` only x_k and y_k are kept of a step, and its forward runs again before its
/// backward.
class Rollout {
 public:
  struct Inputs {
    FieldWindow window;
    int64_t num_steps = 1;
    double loss_scale = 1;
  };
  struct Outputs {
    Tensor losses;          ///< [num_steps], accumulator type
    Tensor squared_errors;  ///< [num_steps, T_o * V_o], area-weighted mean of each normalised column; may be empty
  };
  struct Saved {
    struct Step {
      Arena::Mark begin;
      Tensor x, d_y;  ///< d_y: loss_scale * gradient of this step's loss
      EncoderProcessorDecoder::Saved network;
    };
    std::vector<Step> steps;
  };

  /// `squared_error` scores each column by the plain mean square; null if squared_errors is never wanted.
  Rollout(const StepModel& model, const Loss& loss, const Loss* squared_error)
      : model_(model), loss_(loss), squared_error_(squared_error) {}

  /// Null `saved`: no gradient.
  void forward(Context& ctx, const Inputs& in, const Outputs& out, Saved* saved) const;
  /// Adds to the gradients of the parameters, and gives back what forward saved. `before_first` is called before the
  /// backward of the first step, which is the last to add.
  void backward(Context& ctx, Saved& saved, const std::function<void()>& before_first = {}) const;

 private:
  Tensor first_members(Context& ctx, const Tensor& target, int64_t num_members) const;
  bool recompute_steps() const { return model_.setup().config.model.recompute == Recompute::step; }

  const StepModel& model_;
  const Loss& loss_;
  const Loss* squared_error_;
};

}  // namespace boreas
