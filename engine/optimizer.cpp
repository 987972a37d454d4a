#include "engine/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/adamw/adamw.h"
#include "kernels/core/op.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/reduce/reduce.h"

namespace boreas {

namespace {

/// Stands for the memory of an optimizer that is only planned with: not null, so that views of it are well-formed.
void* const kNoMemory = reinterpret_cast<void*>(int64_t{1} << 45);

}  // namespace

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

Optimizer::Optimizer(const TrainingConfig& config, ParameterStore& parameters, const ProcessGrid& ranks,
                     int64_t bucket_bytes)
    : config_(config), parameters_(parameters), shards_(parameters, ranks, bucket_bytes) {
  const Tensor unmapped(kNoMemory, parameters.master_dtype(), {shards_.state_size()}, parameters.device());
  first_moment_ = second_moment_ = unmapped;
  if (averages()) average_ = unmapped;
}

void Optimizer::materialise() {
  const Device device = parameters_.device();
  const DType dtype = parameters_.master_dtype();
  const Shape shape{shards_.state_size()};
  const int64_t bytes = state_bytes();
  moments_ = Buffer::on(device, std::max<int64_t>(moment_bytes(), 1), "optimizer");
  moments_.zero();
  first_moment_ = moments_.tensor(dtype, shape);
  second_moment_ = moments_.tensor(dtype, shape, bytes);
  if (!averages()) return;
  average_storage_ = Buffer::on(device, std::max<int64_t>(bytes, 1), "ema");
  average_ = average_storage_.tensor(dtype, shape);
  reset_average();
}

void Optimizer::reset_average() {
  if (!averages()) return;
  const Tensor masters = parameters_.flat_masters();
  for (const FlatShards::Piece& piece : shards_.pieces()) {
    const Tensor to = average_.columns(piece.state), from = masters.columns(piece.flat);
    copy_now(to.data(), to.device(), from.data(), from.device(), to.bytes());
  }
}

std::array<double, Optimizer::kControlSize> Optimizer::control_values(int64_t step, double learning_rate) const {
  return {learning_rate, 1 - std::pow(config_.optimizer.beta1, double(step)),
          1 - std::pow(config_.optimizer.beta2, double(step)), 1};
}

// Of the summed gradients: each of these ranks' pieces once.
void Optimizer::sum_squares(Context& ctx, const Tensor& out) const {
  const Scope scope(ctx);
  const Tensor gradients = parameters_.flat_gradients(), term = ctx.alloc(Keep::scratch, DType::f64, {1});
  bool first = true;
  const auto add = [&](Range flat) {
    if (flat.size() <= 0) return;
    run(ctx, SumOfSquares{.x = gradients.columns(flat), .out = first ? out : term});
    if (!first) run(ctx, Add{.a = out, .b = term, .y = out});
    first = false;
  };
  const Range replicated = parameters_.replicated();
  const bool is_first = shards_.ranks().replicas->rank() == 0;  // all of them hold the same shard
  for (const FlatShards::Piece& piece : shards_.pieces()) {
    add({piece.flat.begin, std::min(piece.flat.end, replicated.end)});
    if (is_first) add({std::max(piece.flat.begin, replicated.end), piece.flat.end});
  }
  if (first) run(ctx, Fill{.y = out, .value = 0});
  shards_.ranks().world->all_reduce(ctx, out);
}

void Optimizer::update(Context& ctx, const Control& control) {
  shards_.sum(ctx, parameters_.flat_gradients());
  apply(ctx, control);
}

void Optimizer::apply(Context& ctx, const Control& control) {
  const Tensor gradients = parameters_.flat_gradients(), masters = parameters_.flat_masters(),
               values = parameters_.flat_values();
  sum_squares(ctx, control.sum_of_squares);
  run(ctx, ClipScale{.sum_of_squares = control.sum_of_squares,
                     .max_norm = config_.clip.kind == ClipKind::norm ? config_.clip.limit : 0,
                     .control = control.values});
  for (const FlatShards::Piece& piece : shards_.pieces()) {
    const Tensor master = masters.columns(piece.flat);
    run(ctx, AdamW{.value = master,
                   .grad = gradients.columns(piece.flat),
                   .first_moment = first_moment_.columns(piece.state),
                   .second_moment = second_moment_.columns(piece.state),
                   .stored = parameters_.has_masters() ? values.columns(piece.flat) : Tensor(),
                   .control = control.values,
                   .beta1 = config_.optimizer.beta1,
                   .beta2 = config_.optimizer.beta2,
                   .eps = config_.optimizer.eps,
                   .weight_decay = config_.optimizer.weight_decay,
                   .clip_value = config_.clip.kind == ClipKind::value ? config_.clip.limit : 0});
    if (averages()) run(ctx, Blend{.x = master, .weight = 1 - config_.ema_decay, .y = average_.columns(piece.state)});
  }
  gather_values(ctx);
}

void Optimizer::with_average(Context& ctx, const std::function<void()>& task) {
  if (!averages()) return task();
  parameters_.values_change();
  const Scope scope(ctx);
  const Tensor values = parameters_.flat_values(), masters = parameters_.flat_masters();
  const bool rounded = parameters_.has_masters();  // the values are only a copy of the masters
  const Tensor kept = rounded ? Tensor() : ctx.alloc(Keep::scratch, values.dtype(), average_.shape());
  for (const FlatShards::Piece& piece : shards_.pieces()) {
    const Tensor own = values.columns(piece.flat);
    if (!rounded) run(ctx, Copy{.x = own, .y = kept.columns(piece.state)});
    run(ctx, Copy{.x = average_.columns(piece.state), .y = own});
  }
  gather_values(ctx);
  task();
  parameters_.values_change();
  for (const FlatShards::Piece& piece : shards_.pieces())
    run(ctx,
        Copy{.x = rounded ? masters.columns(piece.flat) : kept.columns(piece.state), .y = values.columns(piece.flat)});
  gather_values(ctx);
}

}  // namespace boreas
