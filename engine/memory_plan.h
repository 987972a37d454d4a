// Memory plan: what a run will need, before it runs, and settings that fit a budget.
#pragma once

#include <string>
#include <vector>

#include "engine/data_pipeline.h"
#include "engine/training_step.h"

namespace boreas {

/// Bytes by owner. The arena's line is split at its peak into what is saved for backward and what is scratch.
struct MemoryReport {
  struct Line {
    std::string owner;
    int64_t bytes = 0;
    std::string note;
  };
  std::vector<Line> training, forecast;  ///< disjoint parts of each, in the memory of the device
  std::vector<Line> evaluation;          ///< of an ensemble, whose members each have a state; else empty
  int64_t training_host_bytes = 0, forecast_host_bytes = 0, evaluation_host_bytes = 0;  ///< memory of a GPU's host
  int64_t context_bytes = 0;  ///< what a GPU needs besides, an allowance: the CUDA context, the code of kernels, NCCL
  int64_t nccl_bytes = 0;     ///< of these NCCL's, where several ranks compute
  Arena::Peak training_peak, forecast_peak;
  int64_t num_parameters = 0;
  Recompute recompute = Recompute::none;
  int64_t encoder_chunks = 1, decoder_chunks = 1;

  int64_t training_bytes() const { return total(training); }  ///< of all buffers
  int64_t forecast_bytes() const { return total(forecast); }
  int64_t evaluation_bytes() const { return total(evaluation); }
  std::string table() const;

 private:
  static int64_t total(const std::vector<Line>& lines);
};

/// Dry run of a training step (all rollout steps, chunks, micro-steps, one validation) and of a forecast step, as this
/// rank makes them, of as many members as the setup says. Collective.
MemoryReport plan_memory(const ModelSetup& setup, Device device, const ProcessGrid& ranks = ProcessGrid::one_rank());

/// What forecasts hold at once.
struct ForecastUse {
  int64_t num_members = 1;  ///< that go on together, each in a state of its own, as in an evaluation
  bool writes = true;       ///< has field sets on their way to files
};

/// Dry run of a forecast step of a model that `ranks` share, as this rank makes it: what stands under `forecast`.
/// Collective.
MemoryReport plan_forecast(const ModelSetup& setup, Device device, Communicator& ranks, const ForecastUse& use = {});

/// The same from a configuration: opens the dataset for its metadata only, builds the graph, obeys memory.budget.
MemoryReport plan(const RunConfig& config, const ProcessGrid& ranks = ProcessGrid::one_rank());

/// To fit memory.budget, on a GPU by default what is free there: tries settings from fastest to smallest, recompute
/// none, mappers, block with 1, 2, .. 16 chunks each, then step with 1, 2, 4, .. chunks, never below what the config
/// asks for, and returns the config with the first whose training fits. On the CPU without a budget: the config as it
/// is. With several ranks it must fit on each. Collective. Throws out_of_memory naming the largest consumers if nothing
/// fits.
RunConfig fit_to_budget(const ModelSetup& setup, Device device, const ProcessGrid& ranks = ProcessGrid::one_rank());

/// The same for forecasts, which recompute nothing: encoder and decoder in 1, 2, 4, .. chunks each, never fewer than
/// the config asks for. Without memory.budget the config as it is, on a GPU too. Collective. Throws out_of_memory
/// naming the least that was found.
RunConfig fit_forecast_to_budget(const ModelSetup& setup, Device device, Communicator& ranks,
                                 const ForecastUse& use = {});

enum class Purpose : uint8_t { run, plan };
/// The device of a configuration; auto: a GPU if one can be used and the precision is not f64, else the CPU. To plan
/// for a GPU none is needed: planned_cuda() then stands for it. Throws unsupported: a GPU is demanded, or needed for
/// bf16, where none can be used; f64 on a GPU; bf16 on the CPU.
Device choose_device(const RunConfig& config, Purpose purpose = Purpose::run);
/// With several ranks, a GPU for each by its place on its machine; auto: the CPU unless every rank has one of its own.
/// Collective. Throws unsupported too where GPUs are needed and not every rank has one.
Device choose_device(const RunConfig& config, Communicator& ranks, Purpose purpose = Purpose::run);

/// What a training and a validation pipeline are made with.
SamplingOptions training_sampling(const RunConfig& config, Range dates, const SampleShare& share = {});
SamplingOptions validation_sampling(const RunConfig& config, Range dates, const SampleShare& share = {});

}  // namespace boreas
