// DataPipeline: batches of samples, read ahead by a thread while the model computes.
#pragma once

#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/step_model.h"
#include "io/dataset_reader.h"

namespace boreas {

/// Samples of a range of dates: the positions of the latest input date of all windows that lie inside and miss no date.
std::vector<int64_t> sample_anchors(const DatasetReader& reader, const DataConfig& data, Range dates, int64_t rollout);

/// A permutation of 0 .. n-1 that depends on (seed, epoch) only, not on threads, ranks or what was drawn before.
std::vector<int64_t> shuffled_order(int64_t n, uint64_t seed, int64_t epoch);

struct SamplingOptions {
  Range dates;  ///< indices of the reader
  int64_t batch_size = 1;
  int64_t max_rollout = 1;
  bool shuffle = false;
  uint64_t seed = 0;
  int64_t max_samples = 0;  ///< evenly spread; 0: all
  bool drop_last = true;    ///< leave out the samples that do not fill a batch
};

/// Batches in an order that depends on the options, the epoch and the rollout only. Each field is checked: a value that
/// is not finite and not imputed is an error naming variable and date, thrown by next().
class DataPipeline {
 public:
  DataPipeline(const DatasetReader& reader, const ModelSetup& setup, const SamplingOptions& options);
  ~DataPipeline() { stop(); }
  DataPipeline(const DataPipeline&) = delete;

  int64_t num_samples(int64_t rollout) const;
  int64_t num_batches(int64_t rollout) const;
  /// Begins to read from batch `first_batch` of that epoch on.
  void start(int64_t epoch, int64_t first_batch, int64_t rollout);
  /// The next batch, valid until the next call; throws what its reading threw.
  FieldWindow next();

  /// Bytes of the batches in flight.
  static int64_t staging_bytes(const ModelSetup& setup, const SamplingOptions& options, int64_t num_variables,
                               int64_t num_members);

 private:
  struct Slot {
    Tensor fields;
    std::exception_ptr error;
  };
  void stop();
  void read_batches(int64_t first_batch, int64_t rollout);
  void read_batch(int64_t batch, int64_t rollout, Slot& slot) const;
  const std::vector<int64_t>& anchors(int64_t rollout) const;

  DatasetReader reader_;
  DataConfig data_;
  Preprocess preprocess_;
  SamplingOptions options_;
  Buffer staging_;
  std::vector<Slot> slots_;
  mutable std::map<int64_t, std::vector<int64_t>> anchors_;  // by rollout, as asked for
  std::vector<int64_t> order_;                               // anchors of the epoch

  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t num_read_ = 0, num_taken_ = 0, num_released_ = 0, num_planned_ = 0;
  bool stopping_ = false;
};

}  // namespace boreas
