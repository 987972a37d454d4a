#include "engine/config.h"

#include <cmath>
#include <cstdlib>

#include "io/yaml.h"

namespace boreas {

namespace {

void check_at_least(int64_t value, int64_t minimum, const char* key) {
  BOREAS_CHECK(value >= minimum, config, "{} is {}; it must be at least {}", key, value, minimum);
}

void check_range(double value, double minimum, double maximum, const char* key) {
  BOREAS_CHECK(value >= minimum && value <= maximum, config, "{} is {}; it must lie in [{}, {}]", key, value, minimum,
               maximum);
}

}  // namespace

void validate(const RunConfig& config) {
  const DataConfig& data = config.data;
  check_at_least(data.num_input_steps, 1, "data.num_input_steps");
  check_at_least(data.num_output_steps, 1, "data.num_output_steps");
  check_at_least(data.prefetch, 1, "data.prefetch");
  check_at_least(data.num_threads, 1, "data.num_threads");

  const ModelConfig& model = config.model;
  check_at_least(model.num_channels, 1, "model.num_channels");
  check_at_least(model.num_heads, 1, "model.num_heads");
  check_at_least(model.attention_channels, 0, "model.attention_channels");
  check_at_least(model.encoder.num_chunks, 1, "model.encoder.num_chunks");
  check_at_least(model.decoder.num_chunks, 1, "model.decoder.num_chunks");
  check_at_least(model.processor.num_layers, 0, "model.processor.num_layers");

  const TrainingConfig& training = config.training;
  check_at_least(training.max_steps, 0, "training.max_steps");
  check_at_least(training.max_epochs, 0, "training.max_epochs");
  BOREAS_CHECK(training.max_steps > 0 || training.max_epochs > 0, config,
               "training.max_steps and training.max_epochs are both 0; one must say when to stop");
  check_at_least(training.batch_size, 1, "training.batch_size");
  check_at_least(training.micro_steps, 1, "training.micro_steps");
  check_at_least(training.rollout.start, 1, "training.rollout.start");
  check_at_least(training.rollout.epoch_increment, 0, "training.rollout.epoch_increment");
  BOREAS_CHECK(training.rollout.maximum >= training.rollout.start, config,
               "training.rollout.maximum is {}; it must be at least training.rollout.start, which is {}",
               training.rollout.maximum, training.rollout.start);
  const LearningRateConfig& rate = training.learning_rate;
  check_range(rate.peak, 0, 1e6, "training.learning_rate.peak");
  check_range(rate.minimum, 0, rate.peak, "training.learning_rate.minimum");
  check_at_least(rate.warmup_steps, 0, "training.learning_rate.warmup_steps");
  check_at_least(rate.decay_steps, 0, "training.learning_rate.decay_steps");
  check_range(training.optimizer.beta1, 0, std::nextafter(1.0, 0.0), "training.optimizer.beta1");
  check_range(training.optimizer.beta2, 0, std::nextafter(1.0, 0.0), "training.optimizer.beta2");
  BOREAS_CHECK(training.optimizer.eps > 0, config, "training.optimizer.eps is {}; it must be positive",
               training.optimizer.eps);
  check_range(training.optimizer.weight_decay, 0, 1e6, "training.optimizer.weight_decay");
  BOREAS_CHECK(training.clip.kind == ClipKind::none || training.clip.limit > 0, config,
               "training.clip.limit is {}; it must be positive. Set training.clip.kind=none for no limit",
               training.clip.limit);
  check_range(training.ema_decay, 0, 1, "training.ema_decay");
  check_at_least(training.validation.every_steps, 0, "training.validation.every_steps");
  check_at_least(training.validation.rollout, 1, "training.validation.rollout");
  check_at_least(training.validation.max_samples, 0, "training.validation.max_samples");
  check_at_least(training.patience, 0, "training.patience");
  check_at_least(training.checkpoint.every_steps, 0, "training.checkpoint.every_steps");
  check_at_least(training.checkpoint.keep, 1, "training.checkpoint.keep");
  check_at_least(training.seed, 0, "training.seed");
  check_at_least(config.parallel.model_ranks, 0, "parallel.model_ranks");
  check_at_least(config.parallel.ensemble_ranks, 1, "parallel.ensemble_ranks");
  if (config.parallel.partition == GraphPartition::patches) {
    BOREAS_CHECK(config.model.processor.kind != ProcessorKind::transformer, config,
                 "parallel.partition is patches, but model.processor.kind is transformer: the order of its nodes is a "
                 "part of the model; set parallel.partition=bands");
    BOREAS_CHECK(config.parallel.shard == ShardKind::edges, config,
                 "parallel.partition is patches, but parallel.shard is heads; set parallel.shard=edges, or "
                 "parallel.partition=bands");
  }
  if (!config.memory.budget.empty()) parse_bytes(config.memory.budget, "memory.budget");
}

RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides) {
  RunConfig config;
  load_yaml(path, config, overrides);
  validate(config);
  return config;
}

RunConfig parse_config(const std::string& text, const std::string& name) {
  RunConfig config;
  from_yaml(parse_yaml(text, name), config);
  validate(config);
  return config;
}

std::string resolved_config(const RunConfig& config) { return to_yaml(config); }

std::string config_reference() {
  std::string text =
      "# Configuration\n\n"
      "Generated from the code by `boreas config`; every key with its type, default and meaning. A file "
      "needs\n"
      "only the keys that differ from the default. `--set section.key=value` overrides a key on the command line.\n";
  std::string section;
  for (const ConfigKey& row : config_keys<RunConfig>()) {
    const std::string name = row.key.substr(0, row.key.find('.'));
    if (row.type == "section" && name == row.key) {
      text += fmt::format("\n## {}\n\n{}.\n\n| key | type | default | unit | meaning |\n|---|---|---|---|---|\n",
                          row.key, row.meaning);
      section = name;
      continue;
    }
    if (section.empty()) {
      text += "\n## The run\n\n| key | type | default | unit | meaning |\n|---|---|---|---|---|\n";
      section = "run";
    }
    std::string type = row.type;
    for (size_t at = 0; (at = type.find('|', at)) != std::string::npos; at += 2) type.insert(at, "\\");
    text += fmt::format("| `{}` | {} | {} | {} | {} |\n", row.key, type,
                        row.default_value.empty() ? "" : fmt::format("`{}`", row.default_value), row.unit, row.meaning);
  }
  return text;
}

int64_t parse_bytes(const std::string& text, const std::string& key) {
  static const std::pair<const char*, double> units[] = {{"", 1},
                                                         {"B", 1},
                                                         {"kB", 1e3},
                                                         {"KB", 1e3},
                                                         {"MB", 1e6},
                                                         {"GB", 1e9},
                                                         {"TB", 1e12},
                                                         {"KiB", 1024.0},
                                                         {"MiB", 1024.0 * 1024},
                                                         {"GiB", 1024.0 * 1024 * 1024},
                                                         {"TiB", 1024.0 * 1024 * 1024 * 1024}};
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit = end;
  unit.erase(0, unit.find_first_not_of(' '));
  for (const auto& [name, factor] : units)
    if (unit == name && end != text.c_str() && number > 0 && number * factor < 9e18) return int64_t(number * factor);
  BOREAS_FAIL(config, "{} is '{}'; expected bytes such as 8GiB or 500MB", key, text);
}

std::string format_bytes(int64_t bytes) {
  static const char* const units[] = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = double(bytes) / 1024;
  int unit = 0;
  while (value >= 1024 && unit < 3) value /= 1024, ++unit;
  return fmt::format("{:.2f} {}", value, units[unit]);
}

}  // namespace boreas
