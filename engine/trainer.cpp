#include "engine/trainer.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "comm/traffic.h"
#include "engine/checkpoint.h"
#include "engine/data_pipeline.h"
#include "engine/folder_lock.h"
#include "engine/json_lines.h"
#include "engine/memory_plan.h"
#include "engine/progress.h"
#include "engine/stop_signal.h"
#include "engine/text_file.h"
#include "engine/training_step.h"
#include "io/thread_pool.h"
#include "io/time.h"

namespace boreas {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

int64_t rollout_of_epoch(const RolloutConfig& config, int64_t epoch) {
  if (config.epoch_increment == 0) return config.start;
  return std::min(config.maximum, config.start + epoch / config.epoch_increment);
}

class Trainer {
 public:
  Trainer(const RunConfig& config, const TrainOptions& options, const ProcessGrid& ranks);
  TrainingSummary run();

 private:
  void check_dates() const;
  void resume_or_begin(const TrainOptions& options);
  int64_t steps_per_epoch(int64_t rollout) const;
  int64_t last_step() const;
  int64_t decay_steps() const;
  bool finished() const;
  bool out_of_patience() const;
  void queue_update();
  void collect_update();
  void collect_all();
  void validate();
  void save(const std::string& path);
  std::string speed();
  void log(const std::string& text) {
    if (progress_) progress_->log(text);
  }

  const TrainingConfig& training() const { return setup_.config.training; }
  /// Of all groups.
  int64_t samples_per_update() const {
    return training().batch_size * training().micro_steps * ranks_.num_data_groups();
  }
  bool validates() const {
    return !setup_.config.data.validation.start.empty() || !setup_.config.data.validation.end.empty();
  }
  bool is_due(int64_t every_steps) const {
    return every_steps > 0 ? state_.step % every_steps == 0 : state_.step_in_epoch == 0;
  }

  const ProcessGrid& ranks_;
  DatasetReader reader_;
  Device device_;
  ModelSetup setup_;
  Range training_dates_, validation_dates_;
  TrainingStep step_;
  int64_t planned_bytes_ = 0;
  std::optional<FolderLock> lock_;  // rank 0 has this, the files, and the progress
  std::optional<Arena> arena_;
  std::optional<Context> ctx_;
  std::optional<DataPipeline> pipeline_, validation_pipeline_;
  TrainingState state_;
  std::optional<JsonLines> metrics_, timing_;
  std::optional<Progress> progress_;
  /// An update that was queued; its outcome is written when it is known.
  struct Queued {
    int64_t step, epoch, rollout;
    double rate;
  };
  std::deque<Queued> queued_;
  std::vector<double> seconds_, data_seconds_;  // of the updates of this run
  int64_t bytes_sent_ = 0;                      // in the one that sent most; a replayed one is not counted
  double last_loss_ = 0;
  std::string last_checkpoint_;
};

// Rank 0 makes the graph, if it must be made; the others then find it, and all read what is theirs.
ModelSetup shared_setup(const RunConfig& config, const DatasetReader& reader, const ProcessGrid& ranks) {
  std::optional<ModelSetup> setup;
  GraphShare share = graph_share(config, *ranks.model);
  share.partition = config.parallel.partition;
  if (ranks.is_root()) setup = make_setup(config, reader, GraphCache::keep_of_training, share);
  ranks.world->barrier();
  if (!setup) setup = make_setup(config, reader, GraphCache::read_only, share);
  check_agreement(*ranks.world, "graph", setup->graph.hash());
  return std::move(*setup);
}

Device connected_device(const RunConfig& config, const ProcessGrid& ranks) {
  check_agreement(*ranks.world, "configuration", resolved_config(config));
  const Device device = choose_device(config, *ranks.world);
  ranks.connect(device);
  return device;
}

ModelSetup fitted_setup(const RunConfig& config, const DatasetReader& reader, Device device, const ProcessGrid& ranks) {
  validate(config);
  ModelSetup setup = shared_setup(config, reader, ranks);
  setup.config = fit_to_budget(setup, device, ranks);
  return setup;
}

Range dates_of(const DatasetReader& reader, const DateRange& range, const char* what) {
  return select_dates(reader.dates(), range.start, range.end, what);
}

Trainer::Trainer(const RunConfig& config, const TrainOptions& options, const ProcessGrid& ranks)
    : ranks_(ranks),
      reader_(DatasetReader::open(config.data.dataset, std::make_shared<ThreadPool>(int(config.data.num_threads) - 1))),
      device_(connected_device(config, ranks)),
      setup_(fitted_setup(config, reader_, device_, ranks)),
      training_dates_(dates_of(reader_, config.data.training, "data.training")),
      validation_dates_(validates() ? dates_of(reader_, config.data.validation, "data.validation") : Range{}),
      step_(setup_, device_, ranks) {
  check_dates();
  const int64_t num_variables = reader_.num_variables(), num_members = reader_.num_members();
  planned_bytes_ = plan_peak(device_, [&](Context& ctx) { step_.plan(ctx, num_variables, num_members); }).bytes;
  step_.materialise();
  arena_.emplace(Buffer::on(device_, planned_bytes_, "arena"));
  ctx_.emplace(device_, *arena_);
  const SamplingOptions sampling = training_sampling(setup_.config, training_dates_, step_.share());
  const SamplingOptions validation = validation_sampling(setup_.config, validation_dates_, step_.share());
  std::shared_ptr<BatchTransfer> transfer;
  if (device_.is_cuda()) {
    int64_t batch = DataPipeline::batch_bytes(setup_, sampling, num_variables, num_members);
    if (validates()) batch = std::max(batch, DataPipeline::batch_bytes(setup_, validation, num_variables, num_members));
    transfer = std::make_shared<BatchTransfer>(device_, batch);
  }
  pipeline_.emplace(reader_, setup_, sampling, transfer);
  if (validates()) validation_pipeline_.emplace(reader_, setup_, validation, transfer);
  resume_or_begin(options);
}

void Trainer::check_dates() const {
  const auto name = [&](int64_t index) { return format_date(reader_.dates()[size_t(index)]); };
  const auto check_samples = [&](const char* what, Range dates, int64_t rollout, int64_t needed) {
    const int64_t samples = int64_t(sample_anchors(reader_, setup_.config.data, dates, rollout).size());
    BOREAS_CHECK(
        samples >= needed, config,
        "{} from {} to {} gives {} samples of {} consecutive dates at rollout {}; {} are needed. Extend it, or "
        "lower the rollout, training.batch_size, training.micro_steps or the number of ranks",
        what, name(dates.begin), name(dates.end - 1), samples, window_length(setup_.config.data, rollout), rollout,
        needed);
  };
  check_samples("data.training", training_dates_, training().rollout.maximum, samples_per_update());
  if (!validates()) return;
  check_samples("data.validation", validation_dates_, training().validation.rollout, 1);
  const int64_t begin = std::max(training_dates_.begin, validation_dates_.begin);
  const int64_t end = std::min(training_dates_.end, validation_dates_.end);
  BOREAS_CHECK(begin >= end, config,
               "data.training and data.validation share the dates {} to {}; validation must be independent",
               name(begin), name(end - 1));
}

void Trainer::resume_or_begin(const TrainOptions& options) {
  const std::string& output = setup_.config.output;
  if (ranks_.is_root()) {
    lock_.emplace(output);
    last_checkpoint_ = latest_checkpoint(output).value_or("");
    BOREAS_CHECK(last_checkpoint_.empty() || options.resume, io,
                 "{} already holds a training ({}); resume it with --resume, or choose another output folder", output,
                 last_checkpoint_);
  }
  last_checkpoint_ = ranks_.world->text_of(0, last_checkpoint_);
  if (!last_checkpoint_.empty()) {
    state_ = load_checkpoint(last_checkpoint_, step_.model(), step_.optimizer());
  } else {
    if (!options.initial_weights.empty()) load_weights(options.initial_weights, step_.model());
    step_.optimizer().reset_average();
  }
  if (state_.step == 0) {  // new, or imported weights, which know no samples
    state_.rollout = rollout_of_epoch(training().rollout, 0);
    state_.num_samples = pipeline_->num_samples(state_.rollout);
  }
  const int64_t samples = pipeline_->num_samples(state_.rollout);
  BOREAS_CHECK(samples == state_.num_samples, config,
               "{} does not fit this run: an epoch had {} samples at rollout {} and has {} now. Use the dates of the "
               "config in the checkpoint, or start a new run in another output folder",
               last_checkpoint_, state_.num_samples, state_.rollout, samples);
  if (!ranks_.is_root()) return;
  fs::create_directories(checkpoint_folder(output));
  prune_checkpoints(output, training().checkpoint.keep);
  write_text_file((fs::path(output) / "config.yaml").string(), resolved_config(setup_.config));
  metrics_.emplace((fs::path(output) / "metrics.jsonl").string(), state_.metrics_bytes);
  timing_.emplace((fs::path(output) / "timing.jsonl").string(), state_.timing_bytes);
}

int64_t Trainer::steps_per_epoch(int64_t rollout) const {
  return pipeline_->num_batches(rollout) / training().micro_steps;
}

// The last update of the training, as far as steps and epochs say.
int64_t Trainer::last_step() const {
  int64_t steps = training().max_steps > 0 ? training().max_steps : kForever;
  if (training().max_epochs == 0) return steps;
  int64_t in_epochs = 0;
  for (int64_t epoch = 0; epoch < training().max_epochs && in_epochs < steps; ++epoch)
    in_epochs += steps_per_epoch(rollout_of_epoch(training().rollout, epoch));
  return std::min(steps, in_epochs);
}

int64_t Trainer::decay_steps() const {
  return training().learning_rate.decay_steps > 0 ? training().learning_rate.decay_steps : last_step();
}

bool Trainer::out_of_patience() const {
  return training().patience > 0 && state_.validations_since_best >= training().patience;
}

// A GPU computes one update while the host reads, queues and writes those around it.
void Trainer::queue_update() {
  const double rate = learning_rate_at(training().learning_rate, decay_steps(), state_.step);
  const int64_t sent_before = ranks_.bytes_sent();
  // The first update connects the ranks, the third is a recording.
  const bool counts = ranks_.world->size() > 1 && seconds_.size() + queued_.size() == 1;
  Traffic::of(*ctx_).set_counting(counts);
  step_.update(
      *ctx_, [&] { return pipeline_->next(*ctx_); }, state_.rollout, state_.step + 1, rate);
  Traffic::of(*ctx_).set_counting(false);
  bytes_sent_ = std::max(bytes_sent_, ranks_.bytes_sent() - sent_before);
  queued_.push_back({state_.step + 1, state_.epoch, state_.rollout, rate});
  ++state_.step;
  if (++state_.step_in_epoch == steps_per_epoch(state_.rollout)) {
    ++state_.epoch;
    state_.step_in_epoch = 0;
    state_.rollout = rollout_of_epoch(training().rollout, state_.epoch);
    state_.num_samples = pipeline_->num_samples(state_.rollout);
  }
  if (!device_.is_cuda() || step_.num_pending() == TrainingStep::kMostPending) collect_update();
}

void Trainer::collect_update() {
  const UpdateOutcome outcome = step_.collect();
  const Queued update = queued_.front();
  queued_.pop_front();
  BOREAS_CHECK(std::isfinite(outcome.loss) && std::isfinite(outcome.gradient_norm), invalid_argument,
               "update {}: the loss is {} and the norm of its gradient {}; the training diverged. Lower "
               "training.learning_rate.peak or lengthen its warm-up; {}",
               update.step, outcome.loss, outcome.gradient_norm,
               last_checkpoint_.empty() ? "there is no checkpoint yet" : "the last checkpoint is " + last_checkpoint_);
  last_loss_ = outcome.loss;
  seconds_.push_back(outcome.seconds);
  data_seconds_.push_back(outcome.data_seconds);
  if (!ranks_.is_root()) return;
  metrics_->write(Json{{"step", update.step},
                       {"epoch", update.epoch},
                       {"rollout", update.rollout},
                       {"learning_rate", update.rate},
                       {"loss", outcome.loss},
                       {"gradient_norm", outcome.gradient_norm}}
                      .dump());
  timing_->write(Json{{"step", update.step},
                      {"seconds", outcome.seconds},
                      {"data_seconds", outcome.data_seconds},
                      {"samples_per_second", double(samples_per_update()) / outcome.seconds}}
                     .dump());
  progress_->advance(
      1, fmt::format("step={} epoch={} loss={:.5g} rate={:.3g} ms={:.4g} data_ms={:.3g}", update.step, update.epoch,
                     outcome.loss, update.rate, outcome.seconds * 1e3, outcome.data_seconds * 1e3));
}

void Trainer::collect_all() {
  while (step_.num_pending() > 0) collect_update();
}

void Trainer::validate() {
  collect_all();
  const int64_t rollout = training().validation.rollout;
  const int64_t num_batches = validation_pipeline_->num_batches(rollout);
  const int64_t num_samples = validation_pipeline_->num_samples(rollout);
  // All numbers together: the loss, then the squared errors.
  std::vector<double> scores(size_t(1 + rollout * step_.model().network().output_columns()), 0.0);
  validation_pipeline_->start(0, 0, rollout);
  step_.optimizer().with_average(*ctx_, [&] {
    for (int64_t batch = 0; batch < num_batches; ++batch) {
      const FieldWindow window = validation_pipeline_->next(*ctx_);
      const TrainingStep::Scores of_batch = step_.validate(*ctx_, window, rollout);
      const double share = double(window.fields.size(0)) / double(num_samples);
      scores[0] += share * of_batch.loss;
      for (size_t i = 1; i < scores.size(); ++i) scores[i] += share * of_batch.squared_errors[i - 1];
    }
  });
  ranks_.replicas->sum_values(scores);
  const double loss = scores[0];
  const std::span<const double> squared_errors = std::span(scores).subspan(1);

  const VariableTable& variables = setup_.variables;
  const std::span<const double> scale = step_.model().preprocess().output_mul();
  const int64_t num_outputs = variables.num_outputs(), num_leads = int64_t(squared_errors.size()) / num_outputs;
  Json rmse;
  for (int64_t v = 0; v < num_outputs; ++v) {
    std::vector<double> by_lead;
    for (int64_t lead = 0; lead < num_leads; ++lead)
      by_lead.push_back(std::sqrt(squared_errors[size_t(lead * num_outputs + v)]) / std::abs(scale[size_t(v)]));
    rmse[variables.name(variables.output()[size_t(v)])] = by_lead;
  }
  const bool best = loss < state_.best_loss;
  if (best) {
    state_.best_loss = loss;
    state_.best_step = state_.step;
  }
  state_.validations_since_best = best ? 0 : state_.validations_since_best + 1;
  if (ranks_.is_root()) {
    metrics_->write(Json{
        {"step", state_.step},
        {"epoch", state_.epoch},
        {"validation_loss", loss},
        {"rollout", rollout},
        {"samples", num_samples},
        {"rmse", rmse},
        {"best", best}}.dump());
    log(fmt::format("step {}: validation loss {:.5g}{}", state_.step, loss, best ? ", the best so far" : ""));
  }
  if (best && training().checkpoint.best) save(best_checkpoint(setup_.config.output));
}

void Trainer::save(const std::string& path) {
  collect_all();
  ctx_->compute().synchronize();  // a validation may still be giving the weights back
  state_.num_threads = omp_get_max_threads();
  if (ranks_.is_root()) {
    metrics_->flush_to_disk();
    state_.metrics_bytes = metrics_->length();
    state_.timing_bytes = timing_->length();
  }
  save_checkpoint(path, step_.model(), step_.optimizer(), state_);
}

// What an update took, the first two left out: they warm up and record.
std::string Trainer::speed() {
  const auto median = [](std::vector<double> values) {
    if (values.size() > 4) values.erase(values.begin(), values.begin() + 2);
    std::nth_element(values.begin(), values.begin() + int64_t(values.size()) / 2, values.end());
    return values[values.size() / 2];
  };
  const double seconds = median(seconds_);
  const TrainingStep::Work work = step_.work(state_.rollout, reader_.num_variables(), reader_.num_members());
  std::string text = fmt::format(
      "an update took {:.4g} ms, of which {:.3g} ms waiting for data (medians): {:.4g} samples/s, {:.4g} TFLOP/s, "
      "{:.4g} "
      "without what is recomputed; ",
      seconds * 1e3, median(data_seconds_) * 1e3, double(samples_per_update()) / seconds,
      double(work.flops) / seconds * 1e-12, double(work.flops_without_recompute) / seconds * 1e-12);
  if (ranks_.world->size() > 1) {
    double waited = 0;
    for (const auto& [owner, entry] : Traffic::of(*ctx_).entries()) waited += entry.seconds_waited;
    text += fmt::format("each sent about {}, and this one computed nothing for {:.3g} ms, waiting for others; ",
                        format_bytes(bytes_sent_), waited * 1e3);
  }
  if (!device_.is_cuda()) return text + format_bytes(live_bytes()) + " in buffers";
  const DeviceMemory memory = memory_of(device_);
  return text + fmt::format("{} in buffers, {} in use on {} as its driver sees it", format_bytes(live_device_bytes()),
                            format_bytes(memory.total - memory.free), to_string(device_));
}

TrainingSummary Trainer::run() {
  const StopSignal stop;
  const int64_t last = last_step();
  if (ranks_.is_root()) progress_.emplace("training", last - state_.step, "updates");
  if (ranks_.world->size() > 1)
    log(fmt::format(
        "{} ranks, of which {} share a sample{}", ranks_.world->size(), ranks_.model->size() * ranks_.ensemble->size(),
        ranks_.ensemble->size() > 1
            ? fmt::format(", its members in {} parts of {} ranks", ranks_.ensemble->size(), ranks_.model->size())
            : ""));
  log(fmt::format("{} parameters, {} samples an epoch, {} in the arena, to step {}",
                  step_.model().parameters().num_parameters(), state_.num_samples, format_bytes(planned_bytes_), last));
  if (state_.step > 0) log(fmt::format("resuming from {} at step {}", last_checkpoint_, state_.step));
  if (state_.num_threads > 0 && state_.num_threads != omp_get_max_threads())
    log(
        fmt::format("the checkpoint was written with {} threads and this run has {}: results are those of an "
                    "uninterrupted run to rounding, not to the bit",
                    state_.num_threads, omp_get_max_threads()));
  // What one rank was told to, all do.
  const auto told_to_stop = [&] { return ranks_.world->any(stop.requested()); };
  bool done = state_.step >= last || out_of_patience() || told_to_stop();
  if (!done)
    pipeline_->start(state_.epoch, state_.step_in_epoch * training().micro_steps,
                     [first = state_.epoch, rollout = state_.rollout, config = training().rollout](int64_t epoch) {
                       return epoch == first ? rollout : rollout_of_epoch(config, epoch);
                     });
  while (!done) {
    queue_update();
    if (validates() && is_due(training().validation.every_steps)) validate();
    done = state_.step == last || out_of_patience() || told_to_stop();
    if (!done && !is_due(training().checkpoint.every_steps)) continue;
    last_checkpoint_ = step_checkpoint(setup_.config.output, state_.step);
    save(last_checkpoint_);
    if (ranks_.is_root()) prune_checkpoints(setup_.config.output, training().checkpoint.keep);
  }

  collect_all();
  ranks_.world->barrier();  // the files are whole
  if (progress_ && !seconds_.empty()) log(speed());
  if (progress_) progress_->finish(state_.step < last ? fmt::format("stopped at step {}", state_.step) : "");

  TrainingSummary summary;
  if (out_of_patience())
    summary.end = TrainingEnd::patience;
  else if (state_.step < last)
    summary.end = TrainingEnd::interrupted;
  summary.step = state_.step;
  summary.last_loss = last_loss_;
  if (std::isfinite(state_.best_loss)) summary.best_loss = state_.best_loss;
  summary.checkpoint = last_checkpoint_;
  summary.arena_peak_bytes = arena_->peak_bytes();
  summary.arena_planned_bytes = planned_bytes_;
  return summary;
}

}  // namespace

TrainingSummary train(const RunConfig& config, const TrainOptions& options, const ProcessGrid& ranks) {
  return Trainer(config, options, ranks).run();
}

}  // namespace boreas
