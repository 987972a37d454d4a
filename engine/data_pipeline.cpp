#include "engine/data_pipeline.h"

#include <algorithm>
#include <numeric>

#include "engine/training_step.h"
#include "io/time.h"
#include "kernels/core/rng.h"

namespace boreas {

std::vector<int64_t> sample_anchors(const DatasetReader& reader, const DataConfig& data, Range dates, int64_t rollout) {
  const int64_t num_targets = data.num_output_steps * rollout;
  std::vector<int64_t> anchors = reader.anchors(data.num_input_steps, num_targets);
  std::erase_if(anchors, [&](int64_t anchor) {
    return anchor - (data.num_input_steps - 1) < dates.begin || anchor + num_targets >= dates.end;
  });
  return anchors;
}

std::vector<int64_t> shuffled_order(int64_t n, uint64_t seed, int64_t epoch) {
  constexpr uint64_t kShuffleStream = uint64_t{1} << 63;  // apart from the streams of parameters
  const Philox random(seed, kShuffleStream | uint64_t(epoch));
  std::vector<int64_t> order(size_t(n), 0);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = n - 1; i > 0; --i)
    std::swap(order[size_t(i)], order[size_t(random.below(uint64_t(i), uint64_t(i) + 1))]);
  return order;
}

namespace {

Range cells_of(const SamplingOptions& options, int64_t num_cells) {
  return options.share.cells.size() > 0 ? options.share.cells : Range{0, num_cells};
}

Range members_of(const SamplingOptions& options, int64_t num_members) {
  return Partition::balanced(num_members, options.share.num_member_parts)[options.share.member_part];
}

}  // namespace

BatchTransfer::BatchTransfer(Device device, int64_t batch_bytes)
    : arriving_(Buffer::on(device, batch_bytes, "staging")),
      batch_(Buffer::on(device, batch_bytes, "batch")),
      stream_(device),
      sent_(device),
      taken_(device) {}

Tensor BatchTransfer::send(Context& ctx, const Tensor& host) {
  const Tensor batch = batch_.tensor(host.dtype(), host.shape());
  stream_.wait(taken_);
  copy_bytes(stream_, arriving_.data(), batch.device(), host.data(), host.device(), host.bytes());
  sent_.record(stream_);
  ctx.compute().wait(sent_);
  copy_bytes(ctx.compute(), batch.data(), batch.device(), arriving_.data(), batch.device(), batch.bytes());
  taken_.record(ctx.compute());
  return batch;
}

int64_t DataPipeline::batch_bytes(const ModelSetup& setup, const SamplingOptions& options, int64_t num_variables,
                                  int64_t num_members) {
  return options.batch_size * window_length(setup.config.data, options.max_rollout) * num_variables *
         members_of(options, num_members).size() * cells_of(options, setup.num_cells()).size() * size_of(DType::f32);
}

int64_t DataPipeline::staging_bytes(const ModelSetup& setup, const SamplingOptions& options, int64_t num_variables,
                                    int64_t num_members) {
  const int64_t batch = batch_bytes(setup, options, num_variables, num_members);
  const int64_t slots = (setup.config.data.prefetch + 1) * batch;
  if (options.share.patch.empty()) return slots;
  const int64_t date = num_variables * members_of(options, num_members).size() *
                       cells_of(options, setup.num_cells()).size() * size_of(DType::f32);
  return slots + batch + 2 * date;  // the batch in the patch, and the messages of a date
}

DataPipeline::DataPipeline(const DatasetReader& reader, const ModelSetup& setup, const SamplingOptions& options,
                           std::shared_ptr<BatchTransfer> transfer)
    : reader_(reader),
      data_(setup.config.data),
      preprocess_(setup.preprocess()),
      options_(options),
      transfer_(std::move(transfer)),
      staging_(transfer_ ? transfer_->device() : Device::cpu(), Buffer::Kind::pinned,
               (data_.prefetch + 1) * batch_bytes(setup, options, reader.num_variables(), reader.num_members()),
               "staging"),
      slots_(size_t(data_.prefetch) + 1) {
  const SampleShare& share = options.share;
  if (share.patch.empty()) return;
  std::vector<int64_t> cells;
  for (const Range run : share.patch)
    for (int64_t cell = run.begin; cell < run.end; ++cell) cells.push_back(cell);
  BOREAS_ASSERT(int64_t(cells.size()) == share.cells.size());
  exchange_.emplace(*share.ranks, share.cells, reader.num_cells(), cells);
  patch_ = Buffer(staging_.device(), Buffer::Kind::pinned,
                  batch_bytes(setup, options, reader.num_variables(), reader.num_members()), "staging");
}

Tensor DataPipeline::redistributed(const Tensor& fields) const {
  if (!exchange_) return fields;
  const Tensor patch = patch_.tensor(DType::f32, fields.shape());
  const int64_t cells = options_.share.cells.size(),
                fields_of_date = fields.size() / cells / fields.size(0) / fields.size(1);
  std::vector<const float*> from(static_cast<size_t>(fields_of_date));
  std::vector<float*> to(from.size());
  for (int64_t first = 0; first < fields.size(); first += fields_of_date * cells) {  // date by date
    for (size_t i = 0; i < from.size(); ++i) {
      from[i] = fields.as<float>() + first + int64_t(i) * cells;
      to[i] = patch.as<float>() + first + int64_t(i) * cells;
    }
    exchange_->to_host(from, to);
  }
  return patch;
}

const std::vector<int64_t>& DataPipeline::anchors(int64_t rollout) const {
  const std::lock_guard lock(anchors_mutex_);
  const auto [entry, is_new] = anchors_.try_emplace(rollout);
  std::vector<int64_t>& kept = entry->second;
  if (!is_new) return kept;
  const std::vector<int64_t> all = sample_anchors(reader_, data_, options_.dates, rollout);
  const int64_t available = int64_t(all.size());
  const int64_t wanted = options_.max_samples > 0 ? std::min(options_.max_samples, available) : available;
  for (int64_t i = 0; i < wanted; ++i) kept.push_back(all[size_t(i * available / wanted)]);
  return kept;
}

int64_t DataPipeline::num_samples(int64_t rollout) const { return int64_t(anchors(rollout).size()); }

int64_t DataPipeline::num_batches(int64_t rollout) const {
  const int64_t samples = num_samples(rollout), groups = options_.share.num_groups;
  if (options_.drop_last) return samples / options_.batch_size / groups;
  const int64_t all = (samples + options_.batch_size - 1) / options_.batch_size;
  return (all + groups - 1 - options_.share.group) / groups;
}

std::vector<int64_t> DataPipeline::order(int64_t epoch, int64_t rollout) const {
  const std::vector<int64_t>& all = anchors(rollout);
  if (!options_.shuffle) return all;
  std::vector<int64_t> shuffled;
  for (const int64_t i : shuffled_order(int64_t(all.size()), options_.seed, epoch)) shuffled.push_back(all[size_t(i)]);
  return shuffled;
}

void DataPipeline::start(int64_t epoch, int64_t first_batch, int64_t rollout) {
  start(epoch, first_batch, [epoch, rollout](int64_t e) { return e == epoch ? rollout : 0; });
}

void DataPipeline::start(int64_t epoch, int64_t first_batch, std::function<int64_t(int64_t)> rollout_of_epoch) {
  stop();
  num_read_ = num_taken_ = num_released_ = 0;
  stopping_ = ended_ = false;
  thread_ = std::thread([this, epoch, first_batch, rollout_of = std::move(rollout_of_epoch)] {
    read_epochs(epoch, first_batch, rollout_of);
  });
}

void DataPipeline::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  if (transfer_) transfer_->wait();
}

void DataPipeline::read_epochs(int64_t epoch, int64_t first_batch,
                               const std::function<int64_t(int64_t)>& rollout_of_epoch) {
  bool going_on = true;
  for (int64_t rollout; going_on && (rollout = rollout_of_epoch(epoch)) > 0; ++epoch, first_batch = 0) {
    const std::vector<int64_t> samples = order(epoch, rollout);
    const int64_t num = num_batches(rollout) / options_.micro_steps * options_.micro_steps;
    going_on = num > 0;
    for (int64_t i = first_batch; i < num && going_on; ++i) {
      const int64_t first = (i * options_.share.num_groups + options_.share.group) * options_.batch_size;
      const int64_t size = std::min(options_.batch_size, int64_t(samples.size()) - first);
      going_on = read_next(std::span(samples).subspan(size_t(first), size_t(size)), rollout);
    }
  }
  const std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

bool DataPipeline::read_next(std::span<const int64_t> samples, int64_t rollout) {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || num_read_ - num_released_ < int64_t(slots_.size()); });
    if (stopping_) return false;
  }
  Slot& slot = slots_[size_t(num_read_) % slots_.size()];
  slot.error = nullptr;
  try {
    read_batch(samples, rollout, slot);
  } catch (...) {
    slot.error = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  ++num_read_;
  changed_.notify_all();
  return !slot.error;
}

void DataPipeline::read_batch(std::span<const int64_t> samples, int64_t rollout, Slot& slot) const {
  BOREAS_CHECK(rollout <= options_.max_rollout, internal, "a rollout of {} was asked of a pipeline made for {}",
               rollout, options_.max_rollout);
  const int64_t num_times = window_length(data_, rollout), num_variables = reader_.num_variables();
  const Range members = members_of(options_, reader_.num_members());
  const int64_t num_members = members.size();
  std::vector<int64_t> variables(static_cast<size_t>(num_variables));
  std::iota(variables.begin(), variables.end(), 0);
  const Range cells = cells_of(options_, reader_.num_cells());
  const int64_t slot_bytes = staging_.bytes() / int64_t(slots_.size());
  slot.fields =
      staging_.tensor(DType::f32, {int64_t(samples.size()), num_times, num_variables, num_members * cells.size()},
                      (&slot - slots_.data()) * slot_bytes);
  const FieldWindow window{slot.fields, num_members};
  for (size_t sample = 0; sample < samples.size(); ++sample) {
    for (int64_t time = 0; time < num_times; ++time) {
      const int64_t index = samples[sample] - (data_.num_input_steps - 1) + time;
      const FieldUse use = time < data_.num_input_steps ? FieldUse::input : FieldUse::target;
      const int64_t item = int64_t(sample) * num_members;
      reader_.read(index, variables, members, cells, window.at(item, time).as<float>());
      for (int64_t member = 0; member < num_members; ++member) {
        const Tensor fields = window.at(item + member, time);
        preprocess_.check_finite(fields,
                                 fmt::format("{} on {}", reader_.name(), format_date(reader_.dates()[size_t(index)])));
        preprocess_.impute_copies(fields, use);
      }
    }
  }
}

FieldWindow DataPipeline::next(Context& ctx) {
  const FieldWindow window = next();
  return transfer_ ? FieldWindow{transfer_->send(ctx, window.fields), window.num_members, window.all_members} : window;
}

FieldWindow DataPipeline::next() {
  if (transfer_) transfer_->wait();
  std::unique_lock lock(mutex_);
  num_released_ = num_taken_;
  changed_.notify_all();
  changed_.wait(lock, [&] { return ended_ || num_read_ > num_taken_; });
  BOREAS_CHECK(num_read_ > num_taken_, internal, "a batch was asked for after the last, which was number {}",
               num_taken_);
  const Slot& slot = slots_[size_t(num_taken_) % slots_.size()];
  if (slot.error) std::rethrow_exception(slot.error);
  ++num_taken_;
  lock.unlock();
  return {redistributed(slot.fields), members_of(options_, reader_.num_members()).size(), reader_.num_members()};
}

}  // namespace boreas
