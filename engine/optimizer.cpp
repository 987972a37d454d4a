#include "engine/optimizer.h"

#include <cmath>
#include <numbers>

#include "kernels/adamw/adamw.h"
#include "kernels/core/op.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/reduce/reduce.h"

namespace boreas {

double learning_rate_at(const LearningRateConfig& config, int64_t decay_steps, int64_t t) {
  if (t < config.warmup_steps) return config.peak * double(t) / double(config.warmup_steps);
  if (t >= decay_steps) return config.minimum;
  const double phase = std::numbers::pi * double(t) / double(decay_steps);
  return config.minimum + 0.5 * (config.peak - config.minimum) * (1 + std::cos(phase));
}

std::vector<double> host_values(Context& ctx, const Tensor& tensor) {
  std::vector<double> values(size_t(tensor.size()));
  if (ctx.planning()) return values;
  BOREAS_ASSERT(tensor.contiguous());
  dispatch_float(tensor.dtype(), [&]<class T>() {
    std::vector<T> raw(values.size());
    copy_bytes(ctx.compute(), raw.data(), Device::cpu(), tensor.data(), tensor.device(), tensor.bytes());
    ctx.compute().synchronize();
    for (size_t i = 0; i < raw.size(); ++i) values[i] = double(raw[i]);
  });
  return values;
}

Optimizer::Optimizer(const TrainingConfig& config, ParameterStore& parameters, Communicator& ranks)
    : config_(config), parameters_(parameters), ranks_(ranks) {
  const Tensor unmapped(nullptr, parameters.master_dtype(), {parameters.flat_size()}, parameters.device());
  first_moment_ = second_moment_ = unmapped;
  if (averages()) average_ = unmapped;
}

void Optimizer::materialise() {
  const Device device = parameters_.device();
  const DType dtype = parameters_.master_dtype();
  const Shape shape{parameters_.flat_size()};
  const int64_t bytes = parameters_.gradient_bytes();
  moments_ = Buffer::on(device, moment_bytes(), "optimizer");
  moments_.zero();
  first_moment_ = moments_.tensor(dtype, shape);
  second_moment_ = moments_.tensor(dtype, shape, bytes);
  if (!averages()) return;
  average_storage_ = Buffer::on(device, bytes, "ema");
  average_ = average_storage_.tensor(dtype, shape);
  reset_average();
}

void Optimizer::reset_average() {
  if (!averages()) return;
  copy_now(average_.data(), average_.device(), parameters_.flat_masters().data(), parameters_.device(),
           average_.bytes());
}

std::array<double, Optimizer::kControlSize> Optimizer::control_values(int64_t step, double learning_rate) const {
  return {learning_rate, 1 - std::pow(config_.optimizer.beta1, double(step)),
          1 - std::pow(config_.optimizer.beta2, double(step)), 1};
}

void Optimizer::update(Context& ctx, const Control& control) {
  const Tensor gradients = parameters_.flat_gradients(), masters = parameters_.flat_masters();
  run(ctx, SumOfSquares{.x = gradients.columns(parameters_.replicated()), .out = control.sum_of_squares});
  if (ranks_.size() > 1) {
    const Scope scope(ctx);
    const Tensor sharded = ctx.alloc(Keep::scratch, DType::f64, {1});
    run(ctx, SumOfSquares{.x = gradients.columns(parameters_.sharded()), .out = sharded});
    ranks_.all_reduce(ctx, sharded);
    run(ctx, Add{.a = control.sum_of_squares, .b = sharded, .y = control.sum_of_squares});
  }
  run(ctx, ClipScale{.sum_of_squares = control.sum_of_squares,
                     .max_norm = config_.clip.kind == ClipKind::norm ? config_.clip.limit : 0,
                     .control = control.values});
  run(ctx, AdamW{.value = masters,
                 .grad = gradients,
                 .first_moment = first_moment_,
                 .second_moment = second_moment_,
                 .stored = parameters_.has_masters() ? parameters_.flat_values() : Tensor(),
                 .control = control.values,
                 .beta1 = config_.optimizer.beta1,
                 .beta2 = config_.optimizer.beta2,
                 .eps = config_.optimizer.eps,
                 .weight_decay = config_.optimizer.weight_decay,
                 .clip_value = config_.clip.kind == ClipKind::value ? config_.clip.limit : 0});
  if (averages()) run(ctx, Blend{.x = masters, .weight = 1 - config_.ema_decay, .y = average_});
}

void Optimizer::with_average(Context& ctx, const std::function<void()>& task) {
  if (!averages()) return task();
  const Scope scope(ctx);
  const Tensor values = parameters_.flat_values();
  if (parameters_.has_masters()) {  // the values are only a rounded copy
    run(ctx, Copy{.x = average_, .y = values});
    task();
    run(ctx, Copy{.x = parameters_.flat_masters(), .y = values});
    return;
  }
  const Tensor kept = ctx.alloc(Keep::scratch, values.dtype(), values.shape());
  run(ctx, Copy{.x = values, .y = kept});
  run(ctx, Copy{.x = average_, .y = values});
  task();
  run(ctx, Copy{.x = kept, .y = values});
}

}  // namespace boreas
