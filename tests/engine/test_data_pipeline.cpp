#include "engine/data_pipeline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "engine/memory_plan.h"
#include "tests/engine/small_model.h"
#include "tests/engine/tiny_run.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

TEST(ShuffledOrder, IsAPermutationOfSeedAndEpochOnly) {
  const std::vector<int64_t> order = shuffled_order(1000, 5, 3);
  std::vector<int64_t> sorted = order, all(1000);
  std::sort(sorted.begin(), sorted.end());
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(sorted, all);
  EXPECT_NE(order, all);
  EXPECT_EQ(shuffled_order(1000, 5, 3), order);
  EXPECT_NE(shuffled_order(1000, 5, 4), order);
  EXPECT_NE(shuffled_order(1000, 6, 3), order);
  EXPECT_TRUE(shuffled_order(0, 5, 3).empty());
}

class Pipeline : public testing::Test {
 protected:
  Pipeline() {
    test::write_tiny_dataset(folder_ / "tiny.zarr", 20);
    config_ = test::tiny_config();
    config_.data.dataset.path = folder_ / "tiny.zarr";
  }
  /// Batches of two samples from a dataset with members.
  RunConfig config_of_members(int64_t num_dates, int64_t num_members) const {
    test::SmallDataset data = test::small_data(num_dates);
    data.num_members = num_members;
    data.write(folder_ / "members.zarr");
    RunConfig config = test::small_config(data);
    config.data.dataset.path = folder_ / "members.zarr";
    config.training.batch_size = 2;
    return config;
  }
  test::TemporaryFolder folder_;
  RunConfig config_;
};

TEST_F(Pipeline, SamplesLieInsideTheDates) {
  const DatasetReader reader = DatasetReader::open(config_.data.dataset);
  // Two input dates and three target dates inside [4, 12): the latest input date is 5 to 8.
  EXPECT_EQ(sample_anchors(reader, config_.data, {4, 12}, 3), (std::vector<int64_t>{5, 6, 7, 8}));
  EXPECT_TRUE(sample_anchors(reader, config_.data, {4, 8}, 3).empty());
}

TEST_F(Pipeline, BatchesAreTheWindowsOfTheShuffledAnchors) {
  const DatasetReader reader = DatasetReader::open(config_.data.dataset);
  const ModelSetup setup = make_setup(config_, reader);
  SamplingOptions options = training_sampling(config_, {2, 20});
  options.max_rollout = 2;
  DataPipeline pipeline(reader, setup, options);
  ASSERT_EQ(pipeline.num_samples(2), 15);
  ASSERT_EQ(pipeline.num_batches(2), 7);
  const std::vector<int64_t> anchors = sample_anchors(reader, config_.data, {2, 20}, 2);
  const int64_t size = reader.num_variables() * reader.num_cells();
  std::vector<float> expected(static_cast<size_t>(size));
  for (const int64_t first : {0, 3}) {  // also from the middle of an epoch
    const std::vector<int64_t> order = shuffled_order(15, uint64_t(config_.training.seed), 1);
    pipeline.start(1, first, 2);
    for (int64_t batch = first; batch < 7; ++batch) {
      const FieldWindow window = pipeline.next();
      ASSERT_EQ(window.num_times(), 4);
      for (int64_t sample = 0; sample < 2; ++sample)
        for (int64_t time = 0; time < 4; ++time) {
          reader.read(anchors[size_t(order[size_t(2 * batch + sample)])] - 1 + time, {0, reader.num_cells()},
                      expected.data());
          const float* const actual = window.at(sample, time).as<float>();
          ASSERT_TRUE(std::equal(expected.begin(), expected.end(), actual)) << batch << " " << sample << " " << time;
        }
    }
    BOREAS_EXPECT_ERROR(pipeline.next(), internal, "after the last");
  }
}

// Three groups of ranks, and a shard of cells of a dataset with members.
TEST_F(Pipeline, SharesAreSlicesOfEveryBatchAndTakeTurns) {
  const RunConfig config = config_of_members(16, 2);
  const DatasetReader reader = DatasetReader::open(config.data.dataset);
  const ModelSetup setup = make_setup(config, reader);
  const Range cells{17, 45};
  for (const bool training : {true, false}) {
    const auto sampling = [&](const SampleShare& share) {
      return training ? training_sampling(config, {0, 16}, share) : validation_sampling(config, {0, 16}, share);
    };
    DataPipeline whole(reader, setup, sampling({}));
    std::vector<std::unique_ptr<DataPipeline>> groups;
    int64_t num_batches = 0;
    for (int64_t group = 0; group < 3; ++group) {
      const SamplingOptions options = sampling({.cells = cells, .group = group, .num_groups = 3});
      groups.push_back(std::make_unique<DataPipeline>(reader, setup, options));
      groups.back()->start(1, 0, 1);
      num_batches += groups.back()->num_batches(1);
      EXPECT_EQ(DataPipeline::staging_bytes(setup, options, 6, 2) * reader.num_cells(),
                DataPipeline::staging_bytes(setup, sampling({}), 6, 2) * cells.size());
    }
    EXPECT_EQ(num_batches, training ? whole.num_batches(1) / 3 * 3 : whole.num_batches(1));
    whole.start(1, 0, 1);
    for (int64_t batch = 0; batch < num_batches; ++batch) {
      const FieldWindow all = whole.next(), part = groups[size_t(batch % 3)]->next();
      ASSERT_EQ(part.num_items(), all.num_items());
      for (int64_t item = 0; item < all.num_items(); ++item)
        for (int64_t time = 0; time < all.num_times(); ++time)
          ASSERT_EQ(test::values_of(part.at(item, time)), test::values_of(all.at(item, time).columns(cells)));
    }
  }
}

// Three members on two ranks, which read the same samples.
TEST_F(Pipeline, MembersAreDividedInOrder) {
  const RunConfig config = config_of_members(12, 3);
  const DatasetReader reader = DatasetReader::open(config.data.dataset);
  const ModelSetup setup = make_setup(config, reader);
  EXPECT_EQ(setup.num_members, 3);
  DataPipeline whole(reader, setup, training_sampling(config, {0, 12}));
  whole.start(0, 0, 1);
  const Range cells{17, 45};
  const FieldWindow all = whole.next();
  EXPECT_EQ(all.all_members, 3);
  for (int64_t part = 0; part < 2; ++part) {
    const SamplingOptions options =
        training_sampling(config, {0, 12}, {.member_part = part, .num_member_parts = 2, .cells = cells});
    DataPipeline pipeline(reader, setup, options);
    pipeline.start(0, 0, 1);
    const FieldWindow own = pipeline.next();
    const Range members = part == 0 ? Range{0, 2} : Range{2, 3};
    ASSERT_EQ(own.num_members, members.size());
    EXPECT_EQ(own.all_members, 3);
    ASSERT_EQ(own.num_items(), 2 * members.size());
    EXPECT_EQ(DataPipeline::batch_bytes(setup, options, 6, 3), own.fields.bytes());
    for (int64_t sample = 0; sample < 2; ++sample)
      for (int64_t member = members.begin; member < members.end; ++member)
        for (int64_t time = 0; time < all.num_times(); ++time)
          ASSERT_EQ(test::values_of(own.at(sample * members.size() + member - members.begin, time)),
                    test::values_of(all.at(sample * 3 + member, time).columns(cells)));
  }
}

TEST_F(Pipeline, ValidationKeepsTheOrderAndThePartialBatch) {
  const DatasetReader reader = DatasetReader::open(config_.data.dataset);
  const ModelSetup setup = make_setup(config_, reader);
  DataPipeline pipeline(reader, setup, validation_sampling(config_, {0, 7}));
  ASSERT_EQ(pipeline.num_samples(1), 5);
  ASSERT_EQ(pipeline.num_batches(1), 3);
  pipeline.start(0, 0, 1);
  EXPECT_EQ(pipeline.next().num_items(), 2);
  EXPECT_EQ(pipeline.next().num_items(), 2);
  EXPECT_EQ(pipeline.next().num_items(), 1);
}

TEST_F(Pipeline, GoesOnWithTheEpochsThatFollow) {
  const DatasetReader reader = DatasetReader::open(config_.data.dataset);
  const ModelSetup setup = make_setup(config_, reader);
  SamplingOptions options = training_sampling(config_, {0, 20});
  options.micro_steps = 4;
  options.max_rollout = 2;
  DataPipeline one(reader, setup, options), all(reader, setup, options);
  const auto rollout_of = [](int64_t epoch) { return epoch == 3 ? 0 : epoch == 1 ? 1 : 2; };
  all.start(1, 1, rollout_of);
  for (const int64_t epoch : {1, 2}) {
    const int64_t first = epoch == 1 ? 1 : 0;
    one.start(epoch, first, rollout_of(epoch));
    for (int64_t batch = first; batch < one.num_batches(rollout_of(epoch)) / 4 * 4; ++batch) {
      const FieldWindow a = one.next(), b = all.next();
      EXPECT_EQ(a.num_times(), b.num_times());
      EXPECT_TRUE(test::identical(a.fields, b.fields)) << epoch << " " << batch;
    }
  }
  BOREAS_EXPECT_ERROR(all.next(), internal, "after the last");
}

TEST_F(Pipeline, MayBeLeftInTheMiddle) {
  const DatasetReader reader = DatasetReader::open(config_.data.dataset);
  const ModelSetup setup = make_setup(config_, reader);
  DataPipeline pipeline(reader, setup, training_sampling(config_, {0, 20}));
  pipeline.start(0, 0, 1);
  (void)pipeline.next();
  pipeline.start(1, 0, 1);
  (void)pipeline.next();
}

TEST_F(Pipeline, NanNamesVariableDateAndRemedy) {
  test::write_tiny_dataset(folder_ / "nan.zarr", 20, 6);
  config_.data.dataset.path = folder_ / "nan.zarr";
  const DatasetReader reader = DatasetReader::open(config_.data.dataset);
  const ModelSetup setup = make_setup(config_, reader);
  DataPipeline pipeline(reader, setup, validation_sampling(config_, {4, 9}));
  const auto read_all = [](DataPipeline& from) {
    from.start(0, 0, 1);
    for (int64_t i = 0; i < from.num_batches(1); ++i) (void)from.next();
  };
  BOREAS_EXPECT_ERROR(read_all(pipeline), corrupt_data, "1970-01-02T12:00:00");
  BOREAS_EXPECT_ERROR(read_all(pipeline), corrupt_data, "a");
  BOREAS_EXPECT_ERROR(read_all(pipeline), corrupt_data, "imputer");

  config_.data.preprocess.imputer.mean = {"a"};
  DataPipeline imputed(reader, make_setup(config_, reader), validation_sampling(config_, {4, 9}));
  EXPECT_NO_THROW(read_all(imputed));
}

}  // namespace
}  // namespace boreas
