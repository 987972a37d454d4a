// RunConfig: everything that a run can be told, section by section. Each part of boreas owns its struct; from the
// fields() of these structs come the YAML reader, --set, the resolved config in checkpoints and docs/config.md.
#pragma once

#include <string>
#include <vector>

#include "comm/row_exchange.h"
#include "engine/forecast_config.h"
#include "io/dataset_reader.h"
#include "kernels/core/fields.h"
#include "kernels/graph/graph_data.h"
#include "models/config.h"
#include "models/layers/head_sharding.h"
#include "models/loss.h"
#include "models/mesh/build.h"
#include "models/preprocess.h"
#include "models/variables.h"

namespace boreas {

/// Dates, both inclusive; an empty text does not restrict.
struct DateRange {
  std::string start, end;
  void fields(auto&& visit) {
    visit("start", start, "", "first date: 1979, 1979-01, 1979-01-01T06, or a share such as 80%; empty: the first");
    visit("end", end, "", "last date, inclusive, in the same forms; empty: the last");
  }
};

struct DataConfig {
  DatasetConfig dataset;
  DateRange training, validation;
  int64_t num_input_steps = 2, num_output_steps = 1;
  VariableRoles roles;
  PreprocessConfig preprocess;
  int64_t prefetch = 2, num_threads = 2;

  void fields(auto&& visit) {
    visit("dataset", dataset, "", "what is read");
    visit("training", training, "", "dates of training samples: input and target dates lie inside");
    visit("validation", validation, "", "dates of validation samples; none if it names no date");
    visit("num_input_steps", num_input_steps, "model steps", "states that the model starts from");
    visit("num_output_steps", num_output_steps, "model steps", "states that the model predicts at once");
    roles.fields(visit);
    preprocess.fields(visit);
    visit("prefetch", prefetch, "batches", "batches read ahead while the model computes");
    visit("num_threads", num_threads, "", "threads that read and decode");
  }
};

struct GraphSection {
  std::string file;
  GraphConfig build;

  void fields(auto&& visit) {
    visit("file", file, "path",
          "graph file to use, made by `boreas graph`; empty: built, and kept in the output folder");
    build.fields(visit);
  }
};

/// Number of model steps that follow each other in a training step; grows with the epochs.
struct RolloutConfig {
  int64_t start = 1, epoch_increment = 0, maximum = 1;
  void fields(auto&& visit) {
    visit("start", start, "model steps", "length of the rollout in the first epoch");
    visit("epoch_increment", epoch_increment, "epochs", "one step more after so many epochs; 0: never");
    visit("maximum", maximum, "model steps", "longest rollout");
  }
};

/// Learning rate after t updates: rises from 0 to the peak over the warm-up, then follows
/// minimum + (peak - minimum) (1 + cos(pi t / decay_steps)) / 2, and stays at the minimum after decay_steps.
struct LearningRateConfig {
  double peak = 0.625e-4, minimum = 3e-7;
  int64_t warmup_steps = 1000, decay_steps = 0;
  void fields(auto&& visit) {
    visit("peak", peak, "", "learning rate at the end of the warm-up");
    visit("minimum", minimum, "", "learning rate at the end of the decay");
    visit("warmup_steps", warmup_steps, "updates", "linear rise from 0");
    visit("decay_steps", decay_steps, "updates",
          "length of the cosine, counted from the start; 0: all of the training");
  }
};

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.01;
  void fields(auto&& visit) {
    visit("beta1", beta1, "", "decay of the mean of gradients");
    visit("beta2", beta2, "", "decay of the mean of squared gradients");
    visit("eps", eps, "", "added to the root of the mean square");
    visit("weight_decay", weight_decay, "", "decoupled weight decay, of all parameters");
  }
};

enum class ClipKind : uint8_t { none, value, norm };
template <>
struct EnumNames<ClipKind> {
  static constexpr std::array values{std::pair{ClipKind::none, std::string_view("none")},
                                     std::pair{ClipKind::value, std::string_view("value")},
                                     std::pair{ClipKind::norm, std::string_view("norm")}};
};

struct ClipConfig {
  ClipKind kind = ClipKind::value;
  double limit = 32;
  void fields(auto&& visit) {
    visit("kind", kind, "", "value: each element of the gradient; norm: the norm of the whole gradient");
    visit("limit", limit, "", "largest absolute value, or norm");
  }
};

struct ValidationConfig {
  int64_t every_steps = 0, rollout = 1, max_samples = 0;
  void fields(auto&& visit) {
    visit("every_steps", every_steps, "updates", "interval; 0: at the end of each epoch");
    visit("rollout", rollout, "model steps", "lead times that are validated");
    visit("max_samples", max_samples, "", "at most so many samples, evenly spread over the dates; 0: all");
  }
};

struct CheckpointConfig {
  int64_t every_steps = 0, keep = 2;
  bool best = true;
  void fields(auto&& visit) {
    visit("every_steps", every_steps, "updates",
          "interval; 0: at the end of each epoch. The last step is always saved");
    visit("keep", keep, "", "how many of the latest checkpoints stay");
    visit("best", best, "", "keep the checkpoint with the lowest validation loss as best.h5");
  }
};

struct TrainingConfig {
  int64_t max_steps = 150000, max_epochs = 0;
  int64_t batch_size = 1, micro_steps = 1;
  RolloutConfig rollout;
  LearningRateConfig learning_rate;
  AdamWConfig optimizer;
  ClipConfig clip;
  LossConfig loss;
  double ema_decay = 0;
  ValidationConfig validation;
  int64_t patience = 0;
  CheckpointConfig checkpoint;
  int64_t seed = 42;

  void fields(auto&& visit) {
    visit("max_steps", max_steps, "updates", "length of the training; 0: until max_epochs");
    visit("max_epochs", max_epochs, "epochs", "length of the training; 0: until max_steps");
    visit("batch_size", batch_size, "samples", "samples that pass through the model together");
    visit("micro_steps", micro_steps, "batches",
          "batches whose gradients are averaged for one update; of each group of ranks, see parallel");
    visit("rollout", rollout, "", "how many model steps are trained through");
    visit("learning_rate", learning_rate, "", "its schedule");
    visit("optimizer", optimizer, "", "AdamW");
    visit("clip", clip, "", "limit of gradients");
    visit("loss", loss, "", "what is minimised");
    visit("ema_decay", ema_decay, "",
          "decay of the running average of the weights, which validation and forecasts "
          "then use; 0: no average");
    visit("validation", validation, "", "when and how to validate");
    visit("patience", patience, "validations", "stop after so many validations without a lower loss; 0: never");
    visit("checkpoint", checkpoint, "", "when to save and what to keep");
    visit("seed", seed, "", "of the initial weights and the order of samples");
  }
};

struct MemoryConfig {
  std::string budget;
  void fields(auto&& visit) {
    visit("budget", budget, "",
          "memory of each rank to stay within, such as 8GiB; model.recompute and the numbers of chunks are then "
          "raised until the plan fits, for forecasts and evaluations the chunks; empty: use them as they are");
  }
};

/// How the ranks that mpirun or srun started work together. Nothing that is computed depends on it but by rounding.
struct ParallelConfig {
  int64_t model_ranks = 0, ensemble_ranks = 1;
  ShardKind shard = ShardKind::edges;
  ExchangeKind exchange = ExchangeKind::halo;
  GraphPartition partition = GraphPartition::bands;
  void fields(auto&& visit) {
    visit("model_ranks", model_ranks, "ranks",
          "ranks that share the cells of a sample; groups of so many train on different samples, or members; 0: as "
          "many as there are");
    visit("ensemble_ranks", ensemble_ranks, "groups",
          "groups of such ranks that divide the members of each sample in training: each computes a part of them; at "
          "most as many as the dataset has members");
    visit("shard", shard, "",
          "what such ranks divide: edges, each computes its own nodes with all edges that end there; heads, each "
          "computes "
          "its own attention heads of all nodes (the older way, for comparison; at most as many ranks as heads)");
    visit("exchange", exchange, "",
          "shard edges: how ranks get rows of others: halo sends those that are needed, allgather all");
    visit("partition", partition, "",
          "shard edges: which nodes a rank trains on: bands of their order, or patches, which are compact and have "
          "shorter halos on four ranks or more (not with the windowed processor, whose order is part of the model); "
          "batches are read in bands and redistributed. Forecasts always use bands");
  }
};

enum class DeviceChoice : uint8_t { automatic, cpu, cuda };
template <>
struct EnumNames<DeviceChoice> {
  static constexpr std::array values{std::pair{DeviceChoice::automatic, std::string_view("auto")},
                                     std::pair{DeviceChoice::cpu, std::string_view("cpu")},
                                     std::pair{DeviceChoice::cuda, std::string_view("cuda")}};
};

enum class Precision : uint8_t { f32, bf16, f64 };
template <>
struct EnumNames<Precision> {
  static constexpr std::array values{std::pair{Precision::f32, std::string_view("f32")},
                                     std::pair{Precision::bf16, std::string_view("bf16")},
                                     std::pair{Precision::f64, std::string_view("f64")}};
};

struct RunConfig {
  std::string output = "run";
  DeviceChoice device = DeviceChoice::automatic;
  Precision precision = Precision::f32;
  bool cuda_graphs = true;
  DataConfig data;
  GraphSection graph;
  ModelConfig model;
  TrainingConfig training;
  MemoryConfig memory;
  ParallelConfig parallel;
  ForecastConfig forecast;
  EvaluationConfig evaluation;

  void fields(auto&& visit) {
    visit("output", output, "path", "folder for checkpoints, metrics, forecasts and reports");
    visit("device", device, "",
          "where to compute: auto (a GPU if there is one, else the CPU; several ranks: the CPU), cpu or cuda");
    visit(
        "precision", precision, "",
        "type of weights and activations: f32, bf16 (GPU only; sums, master weights and optimizer state stay f32), f64 "
        "(CPU only)");
    visit("cuda_graphs", cuda_graphs, "",
          "on a GPU: record a step once and replay it, instead of queueing each kernel");
    visit("data", data, "", "datasets, dates, variables");
    visit("graph", graph, "", "nodes and edges");
    visit("model", model, "", "the network");
    visit("training", training, "", "how it is trained");
    visit("memory", memory, "", "how much memory a run may take");
    visit("parallel", parallel, "", "several ranks");
    visit("forecast", forecast, "", "`boreas forecast`");
    visit("evaluation", evaluation, "", "`boreas evaluate`");
  }
};

/// Reads and validates. Throws io (no such file) or config: syntax, unknown keys, wrong types, values out of range; the
/// message names file, line and key.
RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides = {});
RunConfig parse_config(const std::string& text, const std::string& name);  ///< of a checkpoint
/// Throws config naming the first key whose value makes no sense by itself or beside another.
void validate(const RunConfig& config);
/// Every key with its value, as YAML.
std::string resolved_config(const RunConfig& config);
/// docs/config.md: every key with type, default, unit and meaning.
std::string config_reference();

/// "8GiB", "500 MB", "1e9": bytes. Throws config naming `key`.
int64_t parse_bytes(const std::string& text, const std::string& key);
std::string format_bytes(int64_t bytes);  ///< "7.45 GiB"

}  // namespace boreas
