// The program run as a user runs it.
#pragma once

#include <fcntl.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/text_file.h"
#include "tests/engine/small_dataset.h"
#include "tests/support/temporary_folder.h"

namespace boreas::test {

namespace fs = std::filesystem;

struct Outcome {
  int status = -1;  // exit status, or -signal
  std::string out, err;
};

// Starts `shell_command` in `folder`, with its output in files there.
inline pid_t start(const fs::path& folder, const std::string& shell_command) {
  const std::string text =
      fmt::format("cd '{}' && export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive && {}", folder.string(), shell_command);
  const char* const arguments[] = {"/bin/sh", "-c", text.c_str(), nullptr};
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  const std::string out = (folder / "out.txt").string(), err = (folder / "err.txt").string();
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&files, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, "/bin/sh", &files, nullptr, const_cast<char**>(arguments), environ);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) throw std::runtime_error(std::string("posix_spawn: ") + std::strerror(error));
  return pid;
}

inline Outcome finish(const fs::path& folder, pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), read_text_file((folder / "out.txt").string()),
          read_text_file((folder / "err.txt").string())};
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Everything below a folder but the captured output, and its size: what a failed command must not have changed.
inline std::map<std::string, uintmax_t> files_below(const fs::path& folder) {
  std::map<std::string, uintmax_t> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().filename() != "out.txt" && entry.path().filename() != "err.txt")
      files[fs::relative(entry.path(), folder).string()] = entry.file_size();
  return files;
}

class CommandLine : public testing::Test {
 protected:
  TemporaryFolder folder;

  Outcome run(const std::string& arguments, const std::string& before = "") const {
    return finish(folder.path(), start(folder.path(), before + "exec " BOREAS_CLI " " + arguments));
  }

  Outcome succeed(const std::string& arguments) const {
    Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 0) << "boreas " << arguments << "\n" << outcome.err;
    return outcome;
  }

  // One error that contains all `texts`, and nothing half-written. Returns it.
  std::string fail(const std::string& arguments, const std::vector<std::string>& texts,
                   const std::string& before = "") const {
    SCOPED_TRACE("boreas " + arguments);
    const Outcome outcome = run(arguments, before);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    const size_t at = outcome.err.rfind("boreas: ");
    const auto lines = lines_of(outcome.err);
    EXPECT_EQ(std::count_if(lines.begin(), lines.end(), [](auto& line) { return line.starts_with("boreas: "); }), 1)
        << outcome.err;
    const std::string message = at == std::string::npos ? outcome.err : outcome.err.substr(at);
    for (const std::string& text : texts)
      EXPECT_NE(message.find(text), std::string::npos) << message << "lacks " << text;
    for (const char* ugly : {"unexpected failure", "terminate called", "HDF5-DIAG", "broken invariant"})
      EXPECT_EQ(outcome.err.find(ugly), std::string::npos) << outcome.err;
    for (const auto& [name, size] : files_below(folder.path()))
      EXPECT_EQ(name.find(".partial"), std::string::npos) << name << " was left behind";
    return message;
  }

  void write(const std::string& name, const std::string& text) const { write_text_file(folder / name, text); }

  // 24 dates, six-hourly: a forcing, two prognostic variables.
  static SmallDataset data() {
    SmallDataset data;
    data.dates = dates_from("2001-03-01", {6 * 3600, 0}, 24);
    const auto wave = [](int64_t v) {
      return [v](int64_t t, int64_t c) {
        return float(10 * v + 3 * std::sin(0.5 * double(c % 12) - 0.3 * double(t))) + 0.2F * noise(v, t, c);
      };
    };
    data.variables = {{"insolation", "1", {}}, {"u", "m s-1", wave(1)}, {"v", "m s-1", wave(2)}};
    return data;
  }

  // A configuration on data.zarr; the output folder is `run`.
  void write_config(const std::string& name = "config.yaml") const {
    write(name, R"(
output: run
device: cpu
data:
  dataset: {path: data.zarr}
  training: {end: 2001-03-04}
  forcing: [insolation]
  normaliser: {none: [insolation]}
graph:
  hidden: {level: 1}
  encoder: {cutoff_factor: 1.2}
model:
  num_channels: 16
  num_heads: 2
  mlp_ratio: 2
  trainable: {data: 2, hidden: 2, encoder: 1, processor: 1, decoder: 1}
  processor: {num_layers: 1}
training:
  max_steps: 4
  learning_rate: {warmup_steps: 2}
forecast: {start: 2001-03-05, end: 2001-03-05, lead_steps: 3, formats: [zarr], output: winds}
evaluation: {start: 2001-03-05, lead_steps: 2}
)");
  }

  void write_inputs() const {
    data().write(folder / "data.zarr");
    write_config();
  }

  // Chunk of one date of the data array of a dataset.
  std::string chunk(const std::string& dataset, int64_t date) const {
    return folder / fmt::format("{}/data/{}.0.0.0", dataset, date);
  }

  // What the checksums of a forecast in `run` say, one line for each start date.
  nlohmann::json checksums(const std::string& name) const {
    nlohmann::json forecasts = nlohmann::json::array();
    const auto lines = lines_of(read_text_file(folder / ("run/" + name + ".checksums.jsonl")));
    for (size_t i = 1; i < lines.size(); ++i) forecasts.push_back(nlohmann::json::parse(lines[i]));  // 0 is of the run
    return forecasts;
  }

  void edit_json(const std::string& name, const std::function<void(nlohmann::json&)>& change) const {
    nlohmann::json document = nlohmann::json::parse(read_text_file(folder / name));
    change(document);
    write(name, document.dump());
  }
};

}  // namespace boreas::test
