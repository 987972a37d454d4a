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

int64_t DataPipeline::staging_bytes(const ModelSetup& setup, const SamplingOptions& options, int64_t num_variables,
                                    int64_t num_members) {
  return (setup.config.data.prefetch + 1) * options.batch_size * window_length(setup.config.data, options.max_rollout) *
         num_variables * num_members * setup.num_cells() * size_of(DType::f32);
}

DataPipeline::DataPipeline(const DatasetReader& reader, const ModelSetup& setup, const SamplingOptions& options)
    : reader_(reader),
      data_(setup.config.data),
      preprocess_(setup.preprocess()),
      options_(options),
      staging_(Device::cpu(), Buffer::Kind::pinned,
               staging_bytes(setup, options, reader.num_variables(), reader.num_members()), "staging"),
      slots_(size_t(data_.prefetch) + 1) {}

const std::vector<int64_t>& DataPipeline::anchors(int64_t rollout) const {
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
  const int64_t samples = num_samples(rollout);
  return options_.drop_last ? samples / options_.batch_size : (samples + options_.batch_size - 1) / options_.batch_size;
}

void DataPipeline::start(int64_t epoch, int64_t first_batch, int64_t rollout) {
  stop();
  BOREAS_CHECK(rollout <= options_.max_rollout, internal, "a rollout of {} was asked of a pipeline made for {}",
               rollout, options_.max_rollout);
  order_ = anchors(rollout);
  if (options_.shuffle) {
    const std::vector<int64_t> order = shuffled_order(int64_t(order_.size()), options_.seed, epoch);
    std::vector<int64_t> shuffled;
    for (const int64_t i : order) shuffled.push_back(order_[size_t(i)]);
    order_ = std::move(shuffled);
  }
  num_read_ = num_taken_ = num_released_ = 0;
  num_planned_ = std::max<int64_t>(0, num_batches(rollout) - first_batch);
  stopping_ = false;
  thread_ = std::thread([this, first_batch, rollout] { read_batches(first_batch, rollout); });
}

void DataPipeline::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void DataPipeline::read_batches(int64_t first_batch, int64_t rollout) {
  for (int64_t i = 0; i < num_planned_; ++i) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || i - num_released_ < int64_t(slots_.size()); });
      if (stopping_) return;
    }
    Slot& slot = slots_[size_t(i) % slots_.size()];
    slot.error = nullptr;
    try {
      read_batch(first_batch + i, rollout, slot);
    } catch (...) {
      slot.error = std::current_exception();
    }
    const bool failed = slot.error != nullptr;
    {
      const std::lock_guard lock(mutex_);
      num_read_ = i + 1;
    }
    changed_.notify_all();
    if (failed) return;
  }
}

void DataPipeline::read_batch(int64_t batch, int64_t rollout, Slot& slot) const {
  const int64_t first = batch * options_.batch_size;
  const int64_t last = std::min(first + options_.batch_size, int64_t(order_.size()));
  const int64_t num_times = window_length(data_, rollout), num_variables = reader_.num_variables();
  const int64_t num_cells = reader_.num_cells(), num_members = reader_.num_members();
  const int64_t slot_bytes = staging_.bytes() / int64_t(slots_.size());
  slot.fields = staging_.tensor(DType::f32, {last - first, num_times, num_variables, num_members * num_cells},
                                (&slot - slots_.data()) * slot_bytes);
  const FieldWindow window{slot.fields, num_members};
  for (int64_t sample = first; sample < last; ++sample) {
    for (int64_t time = 0; time < num_times; ++time) {
      const int64_t index = order_[size_t(sample)] - (data_.num_input_steps - 1) + time;
      const FieldUse use = time < data_.num_input_steps ? FieldUse::input : FieldUse::target;
      const int64_t item = (sample - first) * num_members;
      reader_.read(index, {0, num_cells}, window.at(item, time).as<float>());
      for (int64_t member = 0; member < num_members; ++member) {
        const Tensor fields = window.at(item + member, time);
        preprocess_.check_finite(fields,
                                 fmt::format("{} on {}", reader_.name(), format_date(reader_.dates()[size_t(index)])));
        preprocess_.impute_copies(fields, use);
      }
    }
  }
}

FieldWindow DataPipeline::next() {
  std::unique_lock lock(mutex_);
  BOREAS_CHECK(num_taken_ < num_planned_, internal, "batch {} was asked for, but the epoch has {}", num_taken_,
               num_planned_);
  num_released_ = num_taken_;
  changed_.notify_all();
  changed_.wait(lock, [&] { return num_read_ > num_taken_; });
  const Slot& slot = slots_[size_t(num_taken_) % slots_.size()];
  if (slot.error) std::rethrow_exception(slot.error);
  ++num_taken_;
  return {slot.fields, reader_.num_members()};
}

}  // namespace boreas
