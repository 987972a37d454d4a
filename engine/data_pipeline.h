// DataPipeline: batches of samples, read ahead by a thread while the model computes.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "comm/cell_exchange.h"
#include "engine/step_model.h"
#include "io/dataset_reader.h"

namespace boreas {

/// Samples of a range of dates: the positions of the latest input date of all windows that lie inside and miss no date.
std::vector<int64_t> sample_anchors(const DatasetReader& reader, const DataConfig& data, Range dates, int64_t rollout);

/// A permutation of 0 .. n-1 that depends on (seed, epoch) only, not on threads, ranks or what was drawn before.
std::vector<int64_t> shuffled_order(int64_t n, uint64_t seed, int64_t epoch);

/// What a rank reads of all batches.
struct SampleShare {
  int64_t member_part = 0, num_member_parts = 1;  ///< of the members, divided evenly
  Range cells = {};                               ///< of the dataset; empty: all
  int64_t group = 0, num_groups = 1;              ///< batch i is for group i % num_groups
  /// If there are any, the cells that it computes instead, as many: all of `ranks` redistribute what they read.
  std::vector<Range> patch = {};
  Communicator* ranks = nullptr;
};

struct SamplingOptions {
  Range dates;  ///< indices of the reader
  int64_t batch_size = 1;
  int64_t max_rollout = 1;
  bool shuffle = false;
  uint64_t seed = 0;
  int64_t max_samples = 0;  ///< evenly spread; 0: all
  bool drop_last = true;    ///< leave out the samples that do not fill a batch
  int64_t micro_steps = 1;  ///< leave out the batches at the end of an epoch that are not so many
  SampleShare share = {};
};

/// The way of batches to a GPU: from pinned memory to a first buffer while the device computes, on a stream of its own,
/// then to a second, at whose address every batch is found. Pipelines that are used in turn share one.
class BatchTransfer {
 public:
  BatchTransfer(Device device, int64_t batch_bytes);

  /// Queues the copies; what is queued on the context afterwards finds the batch in the tensor returned.
  Device device() const { return batch_.device(); }
  Tensor send(Context& ctx, const Tensor& host);
  /// Waits until the host's memory of the last batch is free again.
  void wait() const { sent_.synchronize(); }

 private:
  Buffer arriving_, batch_;
  Stream stream_;
  Event sent_, taken_;
};

/// Batches in an order that depends on the options, the epoch and the rollout only. Each field is checked: a value that
/// is not finite and not imputed is an error naming variable and date, thrown by next().
class DataPipeline {
 public:
  /// With a transfer, batches are read into pinned memory and handed on to the device. With a patch this is collective,
  /// and so is next(), which redistributes a batch.
  DataPipeline(const DatasetReader& reader, const ModelSetup& setup, const SamplingOptions& options,
               std::shared_ptr<BatchTransfer> transfer = nullptr);
  ~DataPipeline() {
    try {
      stop();
    } catch (...) {  // the device has failed, which whoever waits for its work reports
    }
  }
  DataPipeline(const DataPipeline&) = delete;

  int64_t num_samples(int64_t rollout) const;
  int64_t num_batches(int64_t rollout) const;  ///< of this group
  /// Begins to read from batch `first_batch` of that epoch on, and goes on with the epochs that follow, each with its
  /// rollout, until that is 0.
  void start(int64_t epoch, int64_t first_batch, std::function<int64_t(int64_t epoch)> rollout_of_epoch);
  /// One epoch.
  void start(int64_t epoch, int64_t first_batch, int64_t rollout);
  /// The next batch, valid until the next call; throws what its reading threw.
  FieldWindow next();
  /// The same where ops of the context find it.
  FieldWindow next(Context& ctx);

  /// `num_members`: of the dataset, here and below.
  static int64_t batch_bytes(const ModelSetup& setup, const SamplingOptions& options, int64_t num_variables,
                             int64_t num_members);
  /// Of the batches in flight, on the host.
  static int64_t staging_bytes(const ModelSetup& setup, const SamplingOptions& options, int64_t num_variables,
                               int64_t num_members);

 private:
  struct Slot {
    Tensor fields;
    std::exception_ptr error;
  };
  void stop();
  void read_epochs(int64_t epoch, int64_t first_batch, const std::function<int64_t(int64_t)>& rollout_of_epoch);
  bool read_next(std::span<const int64_t> samples, int64_t rollout);  // false: stop
  void read_batch(std::span<const int64_t> samples, int64_t rollout, Slot& slot) const;
  const std::vector<int64_t>& anchors(int64_t rollout) const;
  Tensor redistributed(const Tensor& fields) const;
  std::vector<int64_t> order(int64_t epoch, int64_t rollout) const;

  DatasetReader reader_;
  DataConfig data_;
  Preprocess preprocess_;
  SamplingOptions options_;
  std::shared_ptr<BatchTransfer> transfer_;
  Buffer staging_;
  std::vector<Slot> slots_;
  std::optional<CellExchange> exchange_;  // from the cells that are read to those of a patch
  Buffer patch_;                          // the batch that next() gave last
  mutable std::mutex anchors_mutex_;
  mutable std::map<int64_t, std::vector<int64_t>> anchors_;  // by rollout, as asked for

  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t num_read_ = 0, num_taken_ = 0, num_released_ = 0;
  bool stopping_ = false, ended_ = false;
};

}  // namespace boreas
