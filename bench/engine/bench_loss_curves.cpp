// Whether training in bf16 learns as well as in f32: both curves of the same model on the same made-up weather, at a
// constant learning rate, and their difference over the second half. Beside it, how far f32 runs go from f32 whose
// learning rates differ by 2^-8, the spacing of bf16: what a nudge of the size of its rounding makes of this training.
//
//   bench_loss_curves quickstart|n320 [--config tools/quickstart.yaml] [--steps 200] [--channels 256] [--layers 4]
//                     [--seed 42] [--residual storage|f32] [--nudges 1] [--out curves.json]
//
// Exit status 1 if the f32 loss falls by less than 30 % or the mean bf16 loss of the second half differs by more than
// 1 % from that of f32.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "bench/engine/synthetic.h"
#include "engine/training_step.h"

namespace boreas::bench {
namespace {

constexpr double kLearningRate = 5e-4, kNudge = 0x1p-8;
constexpr int64_t kWindows = 8;  // different batches, in turn

struct Curve {
  std::vector<double> losses;
  double seconds = 0;
};

Curve train(const ModelSetup& setup, const Waves& waves, Device device, int64_t num_steps, double learning_rate) {
  TrainingStep step(setup, device);
  const int64_t rollout = setup.config.training.rollout.start;
  const Arena::Peak peak = plan_peak(device, [&](Context& ctx) { step.plan(ctx, setup.variables.size(), 1); });
  step.materialise();
  Arena arena(Buffer::on(device, peak.bytes, "arena"));
  Context ctx(device, arena);
  std::vector<std::unique_ptr<WaveWindow>> windows;
  const int64_t times = window_length(setup.config.data, rollout);
  for (int64_t i = 0; i < kWindows; ++i)
    windows.push_back(std::make_unique<WaveWindow>(setup, waves, times, 5 * i, device));

  Curve curve;
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < num_steps; ++i) {
    step.update(
        ctx, [&] { return windows[size_t(i % kWindows)]->window; }, rollout, i + 1, learning_rate);
    curve.losses.push_back(step.collect().loss);
  }
  curve.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return curve;
}

double mean(const std::vector<double>& values, size_t first, size_t last) {
  return std::accumulate(values.begin() + int64_t(first), values.begin() + int64_t(last), 0.0) / double(last - first);
}

int main_of(const std::string& model, const std::map<std::string, std::string>& options) {
  const auto number = [&](const char* name, int64_t otherwise) {
    return options.contains(name) ? std::stoll(options.at(name)) : otherwise;
  };
  const Device device = Device::cuda(0);
  BOREAS_CHECK(why_no_cuda().empty(), unsupported, "{}", why_no_cuda());
  ModelSetup setup;
  if (model == "quickstart") {
    RunConfig config =
        load_config(options.contains("config") ? options.at("config") : BOREAS_SOURCE_DIR "/tools/quickstart.yaml");
    config.data.roles.forcing = {"f0", "f1", "f2"};
    config.data.preprocess.normaliser.none.clear();
    setup = wave_setup(config, regular_nodes(kDataNodes, 73, 144, true), 2, 3);
  } else {
    BOREAS_CHECK(model == "n320", invalid_argument, "the model is quickstart or n320, not '{}'", model);
    RunConfig config = n320_config(number("channels", 256), number("layers", 4), 3);
    config.model.recompute = Recompute::block;
    setup = wave_setup(config, n320_nodes(kDataNodes), 21, 3);
  }
  const Waves waves(setup.latitudes, setup.longitudes);
  const int64_t num_steps = number("steps", 200);
  setup.config.training.seed = number("seed", setup.config.training.seed);
  if (options.contains("residual"))
    setup.config.model.residual_dtype = options.at("residual") == "f32" ? ResidualType::f32 : ResidualType::storage;
  std::map<Precision, Curve> curves;
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    setup.config.precision = precision;
    curves[precision] = train(setup, waves, device, num_steps, kLearningRate);
    std::printf("%s %s: %.1f s\n", model.c_str(), std::string(to_string(precision)).c_str(), curves[precision].seconds);
  }
  setup.config.precision = Precision::f32;
  Curve faster, slower;
  if (number("nudges", 1) != 0) {
    faster = train(setup, waves, device, num_steps, kLearningRate * (1 + kNudge));
    slower = train(setup, waves, device, num_steps, kLearningRate * (1 - kNudge));
  }
  const std::vector<double>&f32 = curves[Precision::f32].losses, &bf16 = curves[Precision::bf16].losses;
  const size_t half = f32.size() / 2;
  const double fall = 1 - mean(f32, f32.size() - kWindows, f32.size()) / mean(f32, 0, kWindows);
  const auto over_f32 = [&](const std::vector<double>& losses) {
    return mean(losses, half, losses.size()) / mean(f32, half, f32.size()) - 1;
  };
  const double difference = over_f32(bf16);
  std::printf("%s: the f32 loss falls by %.1f %%; over steps %zu to %zu bf16 differs by %+.3f %%\n", model.c_str(),
              100 * fall, half + 1, f32.size(), 100 * difference);
  if (!faster.losses.empty())
    std::printf("f32 with a learning rate that is 2^-8 larger: %+.3f %%, smaller: %+.3f %%\n",
                100 * over_f32(faster.losses), 100 * over_f32(slower.losses));
  if (options.contains("out")) {
    nlohmann::ordered_json report = {
        {"what", "training loss, constant learning rate 5e-4, made-up weather"},
        {"model", model},
        {"hardware", name_of(device)},
        {"seed", setup.config.training.seed},
        {"parameters", TrainingStep(setup, Device::planned_cuda()).model().parameters().num_parameters()},
        {"f32_falls_by", fall},
        {"bf16_over_f32_second_half", 1 + difference},
        {"f32", f32},
        {"bf16", bf16}};
    if (!faster.losses.empty()) {
      report["larger_rate_over_f32_second_half"] = 1 + over_f32(faster.losses);
      report["smaller_rate_over_f32_second_half"] = 1 + over_f32(slower.losses);
      report["f32_larger_rate"] = faster.losses;
      report["f32_smaller_rate"] = slower.losses;
    }
    std::ofstream(options.at("out")) << report.dump(1) << "\n";
  }
  return fall >= 0.3 && std::abs(difference) <= 0.01 ? 0 : 1;
}

}  // namespace
}  // namespace boreas::bench

int main(int argc, char** argv) try {
  std::map<std::string, std::string> options;
  for (int i = 2; i + 1 < argc; i += 2) options[std::string(argv[i]).substr(2)] = argv[i + 1];
  return boreas::bench::main_of(argc > 1 ? argv[1] : "quickstart", options);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
