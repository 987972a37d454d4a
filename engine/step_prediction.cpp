#include "engine/step_prediction.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

namespace boreas {

namespace {

constexpr double kLaunchSeconds = 4e-6;
constexpr double kExchangeSeconds = 40e-6;

/// FLOP/s at an arithmetic intensity, in FLOP/byte.
struct Point {
  double intensity, tflops;
};

// Medians of bench/results/linear_nvidia_h200.json: plain, with residual and with GELU; backward is half d_x and half
// d_weight. The first two of each are widths of features (226, 89).
constexpr Point kLinearForward[] = {{76, 159}, {157, 130}, {227, 421}, {256, 619}, {384, 653}, {512, 683}, {820, 654}};
constexpr Point kLinearBackward[] = {{76, 87}, {157, 176}, {227, 398}, {256, 552}, {384, 622}, {512, 686}, {820, 667}};
// bench/results/window_attention_nvidia_h200.json, heads of 64 channels; windows of 512, 1120, global.
constexpr Point kWindowForward[] = {{505, 420}, {1096, 493}, {4050, 490}};
constexpr Point kWindowBackward[] = {{633, 334}, {1377, 366}, {5080, 386}};

double rate_at(std::span<const Point> points, double intensity) {
  const auto after =
      std::find_if(points.begin(), points.end(), [&](const Point& p) { return p.intensity > intensity; });
  if (after == points.begin()) return points.front().tflops * 1e12;
  if (after == points.end()) return points.back().tflops * 1e12;
  const Point &low = *(after - 1), &high = *after;
  const double share = (intensity - low.intensity) / (high.intensity - low.intensity);
  return (low.tflops + share * (high.tflops - low.tflops)) * 1e12;
}

// GB/s as elementwise, layer_norm and activation kernels were first measured on an H200; norms, CRPS and the prognostic
// residual are faster since, see bench/results.
const std::map<std::string, double> kBandwidths = {{"layer_norm_forward", 3500},
                                                   {"layer_norm_backward", 3600},
                                                   {"gelu_forward", 4100},
                                                   {"gelu_backward", 4170},
                                                   {"silu_gated_forward", 4340},
                                                   {"silu_gated_backward", 4000},
                                                   {"copy", 3100},
                                                   {"add", 4300},
                                                   {"fill", 4500},
                                                   {"gather_rows", 3500},
                                                   {"scatter_add_rows", 3600},
                                                   {"normalise_fields", 2380},
                                                   {"denormalise_fields", 4370},
                                                   {"add_columns", 3060},
                                                   {"weighted_loss", 3450},
                                                   {"crps_loss", 1160},
                                                   {"adamw", 3950},
                                                   {"blend", 4330},
                                                   {"sum_of_squares", 3930},
                                                   {"bounding_forward", 230},
                                                   {"bounding_backward", 2320}};
constexpr double kOtherBandwidth = 3500;

// The same of graph attention, on the graphs of N320 and an icosahedral mesh of level 6: bytes of the op's tensors.
struct GraphRate {
  const char* part;
  double forward, backward;
};
constexpr GraphRate kGraphRates[] = {{"encoder", 3000, 2430}, {"processor", 1120, 690}, {"decoder", 3200, 1720}};

const GraphRate& graph_rate(const std::vector<std::string>& owners) {
  for (size_t i = owners.size(); i-- > 0;)
    for (const GraphRate& rate : kGraphRates)
      if (owners[i] == rate.part) return rate;
  return kGraphRates[1];
}

}  // namespace

double predicted_op_seconds(const std::string& op, const std::vector<std::string>& owners, const TraceCost& cost) {
  const double flops = double(cost.flops), bytes = std::max(1.0, double(cost.bytes));
  const auto by_flops = [&](std::span<const Point> points) {
    return kLaunchSeconds + flops / rate_at(points, flops / bytes);
  };
  if (op == "linear_forward") return by_flops(kLinearForward);
  if (op == "linear_backward") return by_flops(kLinearBackward);
  if (op == "window_attention_forward") return by_flops(kWindowForward);
  if (op == "window_attention_backward") return by_flops(kWindowBackward);
  double bandwidth = kOtherBandwidth;
  if (op == "graph_attention_forward")
    bandwidth = graph_rate(owners).forward;
  else if (op == "graph_attention_backward")
    bandwidth = graph_rate(owners).backward;
  else if (const auto found = kBandwidths.find(op); found != kBandwidths.end())
    bandwidth = found->second;
  return kLaunchSeconds + bytes / (bandwidth * 1e9);
}

Trace predicted_update(TrainingStep& step, int64_t rollout, int64_t num_variables, int64_t num_members) {
  Arena arena;
  Context ctx(step.model().device(), arena, Mode::plan);
  Trace trace;
  trace.predict = [&arena](const std::string& op, const TraceCost& cost) {
    return predicted_op_seconds(op, arena.owners(), cost);
  };
  ctx.trace = &trace;
  step.plan_update(ctx, rollout, num_variables, num_members);
  return trace;
}

double predicted_exchange_seconds(double bytes) {
  constexpr double kSmall = 64.0 * 1024 * 1024, kLarge = 1024.0 * 1024 * 1024, kSlow = 212e9, kFast = 271e9;
  if (bytes <= 0) return 0;
  const double share = std::clamp(std::log(bytes / kSmall) / std::log(kLarge / kSmall), 0.0, 1.0);
  return kExchangeSeconds + bytes / (kSlow + share * (kFast - kSlow));
}

}  // namespace boreas
