#include "engine/rank_plan.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "comm/planned_communicator.h"
#include "engine/step_prediction.h"

namespace boreas {

namespace {

constexpr int64_t kFewRanks = 8;

double mib(double bytes) { return bytes / double(1 << 20); }

/// The grid of one rank of many, none of which runs.
ProcessGrid planned_grid(const RankPlan& plan, int rank, std::deque<PlannedCommunicator::Lists> answers) {
  ProcessGrid grid;
  grid.world = std::make_unique<PlannedCommunicator>(rank, int(plan.num_ranks));
  grid.model = std::make_unique<PlannedCommunicator>(rank, int(plan.model_ranks), std::move(answers));
  grid.ensemble = std::make_unique<PlannedCommunicator>(0, int(plan.ensemble_ranks));  // which has most members
  grid.replicas = std::make_unique<PlannedCommunicator>(0, int(plan.num_ranks / plan.model_ranks));
  return grid;
}

/// Of few ranks all; of many those that have most of something.
std::set<int> ranks_to_look_at(const RankPlan& plan) {
  std::set<int> ranks = {0};
  if (plan.model_ranks <= kFewRanks) {
    for (int rank = 1; rank < plan.model_ranks; ++rank) ranks.insert(rank);
    return ranks;
  }
  for (const CommunicationPart& part : plan.parts)
    for (const auto member : {&ShardSize::num_edges, &ShardSize::num_dst, &ShardSize::num_src,
                              &ShardSize::rows_received, &ShardSize::rows_sent}) {
      const auto most = std::max_element(part.shards.begin(), part.shards.end(),
                                         [&](const ShardSize& a, const ShardSize& b) { return a.*member < b.*member; });
      ranks.insert(int(most - part.shards.begin()));
    }
  return ranks;
}

/// Exchanges of one part: `calls` for one item and model step, forward and backward; a forward that backward repeats
/// counts again.
double exchange_seconds(double bytes, double calls, bool repeats) {
  if (bytes <= 0 || calls <= 0) return 0;
  return (repeats ? 1.5 : 1) * calls * predicted_exchange_seconds(bytes / calls);
}

}  // namespace

RankPlan plan_ranks(const ModelSetup& given, Device run_device, int64_t num_ranks) {
  const RunConfig& config = given.config;
  const Device device = run_device.is_cuda() ? Device::planned_cuda() : run_device;
  RankPlan plan;
  plan.num_ranks = num_ranks;
  plan.ensemble_ranks = config.parallel.ensemble_ranks;
  plan.model_ranks = model_ranks_of(num_ranks, config.parallel.model_ranks, plan.ensemble_ranks);
  plan.partition = config.parallel.partition;
  ModelSetup setup = given;
  if (plan.partition == GraphPartition::patches && plan.model_ranks > 1)
    setup.graph = in_patches(given.graph, plan.model_ranks);
  const ModelShape shape = setup.shape();
  plan.parts = plan_communication(config.model, shape, setup.graph, plan.model_ranks, storage_type(config.precision));

  const bool by_heads = config.parallel.shard == ShardKind::heads;
  int64_t num_replicated = 0;
  for (const int rank : ranks_to_look_at(plan)) {
    ModelSetup part = setup;
    if (plan.model_ranks > 1 && !by_heads) part.graph = part_of(setup.graph, rank, plan.model_ranks);
    const auto grid = [&] {
      return planned_grid(plan, rank,
                          by_heads || plan.model_ranks == 1
                              ? std::deque<PlannedCommunicator::Lists>()
                              : planned_answers(config.model, shape, setup.graph, plan.model_ranks, rank));
    };
    const ProcessGrid for_memory = grid(), for_time = grid();
    MemoryReport memory = plan_memory(part, device, for_memory);
    if (memory.training_bytes() > plan.memory.training_bytes()) {
      plan.memory = std::move(memory);
      plan.rank = rank;
    }
    TrainingStep step(part, device, for_time);
    num_replicated = step.model().parameters().replicated().size();
    if (device.is_cuda())
      plan.seconds.compute = std::max(
          plan.seconds.compute,
          predicted_update(step, config.training.rollout.maximum, setup.variables.size(), setup.num_members).seconds());
  }

  const double others = double(num_ranks - 1) / double(num_ranks);
  const double sums = double(num_replicated) * double(size_of(accumulator_of(storage_type(config.precision))));
  const double values = double(num_replicated) * double(size_of(storage_type(config.precision)));
  plan.gradient_bytes = others * (sums + values);
  if (!device.is_cuda()) return plan;
  const int64_t members = Partition::balanced(setup.num_members, plan.ensemble_ranks)[0].size();
  const double times = double(config.training.batch_size * config.training.micro_steps * members) *
                       double(config.training.rollout.maximum);
  for (const CommunicationPart& part : plan.parts) {
    const bool processor = part.name == "processor";
    const double layers = processor ? double(config.model.processor.num_layers) : 1;
    const bool repeats = config.model.recompute >= (processor ? Recompute::block : Recompute::mappers);
    plan.seconds.halo += times * exchange_seconds(double(part.halo_bytes), 2 * layers, repeats);
    plan.seconds.allgather += times * exchange_seconds(double(part.allgather_bytes), 2 * layers, repeats);
    plan.seconds.heads += times * exchange_seconds(double(part.heads_bytes), 8 * layers, repeats);
  }
  if (num_ranks > 1) {
    const double buckets = std::ceil(std::max(1.0, sums / double(FlatShards::kBucketBytes)));
    plan.seconds.gradients = buckets * (predicted_exchange_seconds(others * sums / buckets) +
                                        predicted_exchange_seconds(others * values / buckets));
  }
  return plan;
}

std::string RankPlan::table() const {
  std::string text = fmt::format(
      "\n{} ranks, in groups of {} that share a sample{}\n", num_ranks, model_ranks * ensemble_ranks,
      ensemble_ranks > 1 ? fmt::format(", its members in {} parts of {} ranks", ensemble_ranks, model_ranks) : "");
  text += communication_table(parts, model_ranks, partition);
  text += fmt::format("gradients and new values of weights: {:.1f} MiB sent by each rank in an update\n",
                      mib(gradient_bytes));
  text += fmt::format("memory of rank {} of a group, which needs most:\n{}", rank, memory.table());
  if (seconds.compute <= 0) return text;
  const auto ms = [](double value) { return value * 1e3; };
  text += fmt::format(
      "PREDICTION, not a measurement: an update on H200 in bf16, from what single kernels and the links between two\n"
      "of them on NVLink were measured to do; no exchange is hidden behind computation here\n"
      "  computation          {:>9.2f} ms on the slowest rank\n"
      "  exchanges, halo      {:>9.2f} ms;  allgather {:.2f} ms;  heads {:.2f} ms\n"
      "  gradients, values    {:>9.2f} ms\n"
      "  in all, with halos   {:>9.2f} ms\n",
      ms(seconds.compute), ms(seconds.halo), ms(seconds.allgather), ms(seconds.heads), ms(seconds.gradients),
      ms(seconds.compute + seconds.halo + seconds.gradients));
  return text;
}

std::string resolution_table(const ModelSetup& setup, int64_t model_ranks) {
  constexpr double kFileBytes = double(int64_t{128} << 20);
  const RunConfig& config = setup.config;
  const int64_t times = window_length(config.data, config.training.rollout.maximum);
  std::string text = fmt::format(
      "\na sample is {} dates of {} variables, f32; files of a date, before compression, of at most 128 MiB\n"
      "{:<8} {:>10} {:>14} {:>16} {:>16}\n",
      times, setup.variables.size(), "grid", "cells", "sample, MiB", "of a rank, MiB", "files per date");
  for (const auto& [name, cells] : {std::pair{"O96", int64_t{40320}}, std::pair{"N320", int64_t{542080}},
                                    std::pair{"O1280", int64_t{6599680}}, std::pair{"O2560", int64_t{26306560}}}) {
    const double date = double(setup.variables.size()) * double(cells) * 4;
    int64_t files = 1;
    while (date / double(files) > kFileBytes) files *= 4;
    text += fmt::format("{:<8} {:>10} {:>14.1f} {:>16.1f} {:>16}\n", name, cells, mib(date * double(times)),
                        mib(date * double(times)) / double(model_ranks), files);
  }
  return text;
}

}  // namespace boreas
