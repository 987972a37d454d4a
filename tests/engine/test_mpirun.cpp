// The program on several ranks, as a user starts it: the whole way to scores, and ranks that fail, die or are told to
// stop, which must end all ranks soon, with the cause named once.
#include <chrono>
#include <fstream>
#include <thread>

#include "tests/engine/command_line.h"

namespace boreas {
namespace {

using namespace test;
using Clock = std::chrono::steady_clock;

constexpr double kSoon = 10;  // seconds

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// A process that has ended may still be listed, until its parent asks how.
bool is_alive(pid_t pid) {
  std::ifstream stat(fmt::format("/proc/{}/stat", pid));
  std::string number, name, state;
  return stat >> number >> name >> state && state != "Z" && state != "X";
}

class MpiRun : public CommandLine {
 protected:
  void SetUp() override {
    if (std::string(BOREAS_MPIEXEC).empty()) GTEST_SKIP() << "this build has no MPI";
    write_inputs();
  }

  // What mpirun is to start.
  static std::string launch(const std::string& programs) {
    return "export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
           "OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none "
           "OMPI_MCA_btl_vader_single_copy_mechanism=none; exec " BOREAS_MPIEXEC " " +
           programs;
  }
  static std::string command(int ranks, const std::string& arguments) {
    return launch(fmt::format("-n {} {} {}", ranks, BOREAS_CLI, arguments));
  }
  Outcome run_on(int ranks, const std::string& arguments) const {
    return finish(folder.path(), start(folder.path(), command(ranks, arguments)));
  }
  std::string succeed_on(int ranks, const std::string& arguments) const {
    const Outcome outcome = run_on(ranks, arguments);
    EXPECT_EQ(outcome.status, 0) << arguments << "\n" << outcome.err;
    return outcome.out;
  }
  // What the ranks themselves said, one line each; mpirun adds its own.
  static std::vector<std::string> said_by_ranks(const Outcome& outcome) {
    std::vector<std::string> said = lines_of(outcome.err);
    std::erase_if(said, [](const std::string& line) { return !line.starts_with("rank "); });
    return said;
  }

  // One rank says one line with all `texts`, and all end soon.
  void expect_told_once(const std::string& shell_command, const std::vector<std::string>& texts) const {
    SCOPED_TRACE(shell_command.substr(shell_command.find("exec ")));
    const auto begin = Clock::now();
    const Outcome outcome = finish(folder.path(), start(folder.path(), shell_command));
    EXPECT_LT(seconds_since(begin), kSoon);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    const auto said = said_by_ranks(outcome);
    ASSERT_EQ(said.size(), 1U) << outcome.err;
    for (const std::string& text : texts) EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
  }
  void expect_error(int ranks, const std::string& arguments, const std::vector<std::string>& texts) const {
    expect_told_once(command(ranks, arguments), texts);
  }
  // Rank 1 of two is started with other arguments, or in another folder.
  void expect_error_of_second(const std::string& first, const std::string& second,
                              const std::vector<std::string>& texts, const std::string& where = "") const {
    const std::string there = where.empty() ? "" : fmt::format("--wdir '{}' ", (folder.path() / where).string());
    expect_told_once(launch(fmt::format("-n 1 {0} {1} : -n 1 {2}{0} {3}", BOREAS_CLI, first, there, second)), texts);
  }

  // A training that goes on until it is ended.
  pid_t start_training(int ranks) const {
    return start(folder.path(), command(ranks,
                                        "train config.yaml --resume --set training.max_steps=1000000 "
                                        "--set training.checkpoint.every_steps=3"));
  }
  static std::vector<pid_t> children_of(pid_t launcher) {
    std::ifstream children(fmt::format("/proc/{0}/task/{0}/children", launcher));
    std::vector<pid_t> ranks;
    for (pid_t pid = 0; children >> pid;) ranks.push_back(pid);
    return ranks;
  }
  // Waits until it has done something new, and gives the processes of the ranks.
  std::vector<pid_t> ranks_at_work(pid_t launcher) const {
    const std::string metrics = folder / "run/metrics.jsonl";
    const auto size = [&] { return fs::exists(metrics) ? fs::file_size(metrics) : 0; };
    const uintmax_t before = size();
    for (int i = 0; i < 6000 && size() == before; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_NE(size(), before);
    return children_of(launcher);
  }
};

TEST_F(MpiRun, FromTrainingToScores) {
  EXPECT_NE(succeed_on(1, "plan config.yaml --ranks 4 --set parallel.model_ranks=2").find("groups of 2"),
            std::string::npos);
  const std::string plan = succeed_on(3, "plan config.yaml --ranks 4");
  EXPECT_TRUE(plan.starts_with("rank ")) << plan;
  for (const char* text : {" of 3, which needs most", "gradients", "processor"})
    EXPECT_NE(plan.find(text), std::string::npos) << plan;
  EXPECT_EQ(succeed_on(2, "train config.yaml"), "wrote run/checkpoints/step_00000004.h5\n");
  EXPECT_EQ(lines_of(read_text_file(folder / "run/metrics.jsonl")).size(), 4U);
  EXPECT_EQ(succeed_on(3, "forecast config.yaml"), "wrote run/winds.zarr\n");
  // The same states from a file.
  EXPECT_EQ(succeed_on(3, "forecast config.yaml --set forecast.state=[data.zarr] --set forecast.output=again"),
            "wrote run/again.zarr\n");
  const auto checksums = [&](const std::string& name) {
    const std::string text = read_text_file(folder / ("run/" + name + ".checksums.jsonl"));
    return text.substr(text.find('\n'));
  };
  EXPECT_EQ(checksums("again"), checksums("winds"));
  const std::string scores = succeed_on(2, "evaluate config.yaml");
  const auto maps_of_truth = [&] {
    std::map<std::string, std::string> maps;
    for (const auto& file : fs::directory_iterator(folder / "run/maps"))
      if (file.path().stem().string().ends_with("truth")) maps[file.path()] = read_text_file(file.path());
    return maps;
  };
  const auto maps = maps_of_truth();
  EXPECT_EQ(scores, succeed("evaluate config.yaml").out);
  EXPECT_FALSE(maps.empty());
  EXPECT_TRUE(maps == maps_of_truth());
  SmallDataset ensemble = data();
  ensemble.num_members = 2;
  ensemble.member_step = 0.25F;
  ensemble.write(folder / "ensemble.zarr");
  const std::string of_ensemble =
      "evaluate config.yaml --set data.dataset.path=ensemble.zarr --set evaluation.truth=data.zarr --set output=run";
  const std::string of_mean = succeed_on(3, of_ensemble);
  EXPECT_NE(of_mean.find("of the mean of 2 members"), std::string::npos) << of_mean;
  EXPECT_EQ(of_mean, succeed(of_ensemble).out);
  EXPECT_EQ(of_mean, succeed_on(3, of_ensemble + " --set memory.budget=1GiB"));
  expect_error(3, of_ensemble + " --set memory.budget=10KiB", {"forecasts of 2 members together need at least"});
  expect_error(2, "forecast config.yaml --set memory.budget=10KiB", {"a forecast needs at least"});
  EXPECT_NE(succeed("plan config.yaml --set data.dataset.path=ensemble.zarr").out.find("\nevaluation "),
            std::string::npos);
  succeed("train config.yaml --resume --set training.max_steps=6");
  succeed_on(4, "train config.yaml --resume --set training.max_steps=8 --set parallel.model_ranks=2");
  EXPECT_TRUE(fs::exists(folder / "run/checkpoints/step_00000008.h5"));
}

TEST_F(MpiRun, AForecastThatWasKilledGoesOnToTheSameFiles) {
  SmallDataset ensemble = data();
  ensemble.num_members = 3;
  ensemble.member_step = 0.25F;
  ensemble.write(folder / "data.zarr");
  succeed("train config.yaml");
  const std::string arguments =
      "forecast config.yaml --set forecast.start=2001-03-03 --set forecast.end=2001-03-04T06 "
      "--set forecast.members=[0,2] --set forecast.lead_steps=60 --set forecast.every_steps=6 "
      "--set forecast.formats=[zarr,netcdf] --set forecast.chunk_cells=12 --set forecast.output=";
  const auto contents = [&](const std::string& name) {
    std::map<std::string, std::string> files;
    for (const auto& [file, size] : files_below(folder.path()))
      if (file.starts_with("run/" + name + ".") && !file.ends_with(".jsonl"))
        files[file.substr(5 + name.size())] = read_text_file(folder / file);
    return files;
  };
  // The first line of the record says which forecast it is, with its name.
  const auto checksums = [&](const std::string& name) {
    auto lines = lines_of(read_text_file(folder / ("run/" + name + ".checksums.jsonl")));
    lines.erase(lines.begin());
    return lines;
  };
  succeed_on(3, arguments + "whole");
  const auto whole = contents("whole");
  ASSERT_EQ(checksums("whole").size(), 12U);
  EXPECT_EQ(whole.size(), 1U + 3 + 3 * 7 + 2 * (2 + 12 * 10 * 6));
  const std::string record = folder / "run/.killed.checksums.jsonl.partial";
  for (const int ranks : {1, 3}) {
    fs::remove(folder / "run/killed.nc");
    const pid_t launcher = start(folder.path(), command(ranks, arguments + "killed"));
    const auto num_lines = [&] { return fs::exists(record) ? lines_of(read_text_file(record)).size() : 0; };
    for (int i = 0; i < 6000 && num_lines() < 3; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const std::vector<pid_t> killed = children_of(launcher);
    for (const pid_t rank : killed) kill(rank, SIGKILL);
    EXPECT_NE(finish(folder.path(), launcher).status, 0) << "it was not killed but ended";
    EXPECT_FALSE(fs::exists(folder / "run/killed.nc"));
    EXPECT_TRUE(fs::exists(folder / "run/.killed.nc.partial"));
    const Outcome other = run_on(ranks, arguments + "killed --resume --set forecast.packing=int16");
    EXPECT_EQ(other.status, 2);
    EXPECT_NE(other.err.find("cannot be resumed: it is of another forecast"), std::string::npos) << other.err;
    const Outcome resumed = run_on(ranks, arguments + "killed --resume");
    ASSERT_EQ(resumed.status, 0) << resumed.err;
    EXPECT_NE(resumed.err.find("of 12 forecasts are there already"), std::string::npos) << resumed.err;
    EXPECT_FALSE(fs::exists(record));
    if (ranks == 3) {
      EXPECT_EQ(contents("killed"), whole);
      EXPECT_EQ(checksums("killed"), checksums("whole"));
    }
    const auto before = contents("killed");
    EXPECT_EQ(run_on(ranks, arguments + "killed --resume").status, 0);  // all is there
    EXPECT_EQ(contents("killed"), before);
    const Outcome again = run_on(ranks, arguments + "again --set forecast.num_threads=5");
    EXPECT_EQ(contents("again"), before);
    EXPECT_EQ(checksums("again"), checksums("killed"));
  }
}

TEST_F(MpiRun, WhatIsWrongIsToldOnce) {
  expect_error(2, "graph config.yaml", {"`boreas graph` runs on one rank"});
  if (num_cuda_devices() == 0) expect_error(2, "train config.yaml --set device=cuda", {"device is cuda, but "});
  expect_error(3, "train config.yaml --set parallel.model_ranks=2",
               {"parallel.model_ranks is 2, which does not divide"});
  expect_error(3, "train config.yaml --set parallel.ensemble_ranks=2",
               {"parallel.ensemble_ranks is 2, which does not divide"});
  expect_error(2, "train config.yaml --set parallel.ensemble_ranks=2",
               {"parallel.ensemble_ranks is 2, but the members to divide in data.dataset are 1"});
  // What is wrong with a cell on some date is found by the rank that has it, at some point of the training.
  const Philox random(4, 1);
  for (uint64_t attempt = 0; attempt < 2; ++attempt) {
    const int64_t hole = random.below(2 * attempt, 72), date = 2 + random.below(2 * attempt + 1, 12);
    SmallDataset holes = data();
    holes.allow_nans = true;
    const auto value = holes.variables[2].value;
    holes.variables[2].value = [=](int64_t t, int64_t c) {
      return t == date && c == hole ? std::nanf("") : value(t, c);
    };
    fs::remove_all(folder / "data.zarr");
    holes.write(folder / "data.zarr");
    expect_error(3, "train config.yaml --resume --set training.max_steps=100",
                 {fmt::format("rank {}: data.zarr on {}: ", hole / 24, format_date(holes.dates[size_t(date)]))});
  }
}

TEST_F(MpiRun, RanksThatDisagreeAreRefused) {
  for (const std::string command : {"train", "plan"})
    expect_error_of_second(command + " config.yaml", command + " config.yaml --set training.max_steps=5",
                           {"rank 0: the configuration of rank 1 differs from that of rank 0", "max_steps: 5\" there",
                            "max_steps: 4\" here"});
  expect_error_of_second("train config.yaml", "train config.yaml --set device=auto", {"device: auto\" there"});
  expect_error_of_second("train config.yaml", "evaluate config.yaml",
                         {"rank 0: the command of rank 1 differs from that of rank 0: \"evaluate\" there"});
  expect_error_of_second("train config.yaml", "train config.yaml --resume", {"the options of rank 1 differ"});
  expect_error_of_second("train config.yaml", "train config.yaml --set training.max_step=5", {"rank 1: ", "max_step"});
  EXPECT_FALSE(fs::exists(folder / "run/checkpoints"));
}

TEST_F(MpiRun, GraphsCheckpointsAndDatasetsThatDoNotFitAreRefused) {
  // More ranks than cells.
  SmallDataset few = data();
  few.num_rows = 1;
  few.num_columns = 2;
  few.write(folder / "few.zarr");
  expect_error(
      3, "train config.yaml --set data.dataset.path=few.zarr --set output=few --set graph.area_weight=cosine_latitude",
      {"3 ranks cannot share the 2 nodes of data"});

  // As many cells as the graph and the checkpoint have, at other places.
  succeed("train config.yaml");
  fs::copy_file(folder / "run/graph.h5", folder / "graph.h5");
  SmallDataset other = data();
  std::swap(other.num_rows, other.num_columns);
  other.write(folder / "other.zarr");
  const std::string of_other = " config.yaml --set data.dataset.path=other.zarr ";
  expect_error(3, "train" + of_other + "--set output=new --set graph.file=graph.h5",
               {"graph.h5: this graph does not belong to the dataset: data node "});
  expect_error(3, "train" + of_other + "--resume", {"step_00000004.h5 does not fit this run", "graph: hash "});
  for (const char* const command : {"forecast", "evaluate"})
    expect_error(3, command + of_other, {"another grid than the model was trained on: cell "});

  // On one rank only: half a graph, that of another mesh, half a checkpoint.
  fs::create_directories(folder / "second/run/checkpoints");
  for (const char* const name : {"config.yaml", "data.zarr"})
    fs::create_symlink(folder.path() / name, folder.path() / "second" / name);
  const auto put_half = [&](const std::string& file) {
    fs::copy_file(folder / file, folder / ("second/" + file), fs::copy_options::overwrite_existing);
    fs::resize_file(folder / ("second/" + file), fs::file_size(folder / file) / 2);
  };
  const std::string with_graph = "train config.yaml --set output=new --set graph.file=graph.h5";
  put_half("graph.h5");
  expect_error_of_second(with_graph, with_graph, {"rank 1: graph.h5"}, "second");
  succeed("graph config.yaml --set output=second --set graph.hidden.level=2");
  expect_error_of_second(with_graph, with_graph, {"the graph of rank 1 differs from that of rank 0"}, "second");
  put_half("run/checkpoints/step_00000004.h5");
  for (const std::string command : {"train config.yaml --resume", "forecast config.yaml"})
    expect_error_of_second(command, command, {"rank 1: run/checkpoints/step_00000004.h5"}, "second");
}

TEST_F(MpiRun, ADamagedChunkIsNamedByTheRankThatReadsIt) {
  succeed("train config.yaml");
  succeed("dataset rechunk data.zarr parts.zarr --grid-chunks 3");
  for (const int64_t date : {10, 16}) write(fmt::format("parts.zarr/data/{}.0.0.1", date), "not a chunk");
  const std::string of_parts = " config.yaml --set data.dataset.path=parts.zarr ";
  expect_error(3, "train" + of_parts + "--resume --set training.max_steps=100",
               {"rank 1: ", "parts.zarr/data/10.0.0.1"});
  expect_error(3, "forecast" + of_parts, {"rank 1: ", "parts.zarr/data/16.0.0.1"});
  expect_error(3, "evaluate" + of_parts, {"rank 1: ", "parts.zarr/data/10.0.0.1"});
}

TEST_F(MpiRun, TheEndOfARankEndsAllAndResumingGoesOn) {
  const Philox random(3, 1);
  for (uint64_t attempt = 0; attempt < 2; ++attempt) {
    const pid_t launcher = start_training(3);
    const std::vector<pid_t> ranks = ranks_at_work(launcher);
    ASSERT_EQ(ranks.size(), 3U);
    std::this_thread::sleep_for(random.uniform(attempt) * std::chrono::milliseconds(100));
    const auto begin = Clock::now();
    ASSERT_EQ(kill(ranks[attempt], SIGKILL), 0);
    const Outcome outcome = finish(folder.path(), launcher);
    while (std::any_of(ranks.begin(), ranks.end(), is_alive) && seconds_since(begin) < kSoon)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_LT(seconds_since(begin), kSoon);
    EXPECT_NE(outcome.status, 0);
    EXPECT_NE(outcome.err.find(fmt::format("rank {} with PID", attempt)), std::string::npos) << outcome.err;
  }
}

TEST_F(MpiRun, ARankThatIsNotHeardOfEndsAll) {
  const pid_t launcher = start_training(3);
  const std::vector<pid_t> ranks = ranks_at_work(launcher);
  ASSERT_EQ(ranks.size(), 3U);
  const auto begin = Clock::now();
  ASSERT_EQ(kill(ranks[1], SIGSTOP), 0);
  const Outcome outcome = finish(folder.path(), launcher);
  EXPECT_LT(seconds_since(begin), kSoon);
  EXPECT_EQ(outcome.status, 2) << outcome.err;
  const auto said = said_by_ranks(outcome);
  ASSERT_EQ(said.size(), 1U) << outcome.err;
  EXPECT_TRUE(said[0].starts_with("rank 2: rank 1 is lost: it was not heard of for 6 s")) << said[0];
}

TEST_F(MpiRun, ASignalToOneRankStopsAllCleanly) {
  const pid_t launcher = start_training(3);
  const std::vector<pid_t> ranks = ranks_at_work(launcher);
  ASSERT_EQ(ranks.size(), 3U);
  ASSERT_EQ(kill(ranks[2], SIGTERM), 0);
  const Outcome outcome = finish(folder.path(), launcher);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("stopped at step"), std::string::npos) << outcome.err;
  const auto steps = lines_of(read_text_file(folder / "run/metrics.jsonl")).size();
  EXPECT_EQ(outcome.out, fmt::format("wrote run/checkpoints/step_{:08}.h5\n", steps));
}

}  // namespace
}  // namespace boreas
