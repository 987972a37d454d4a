// Progress of long work: one updating line on a terminal, a line now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace boreas {

/// "01:02:03", or "2:03" below an hour.
std::string format_duration(double seconds);

class Progress {
 public:
  /// `unit` is what is counted: "steps".
  Progress(std::string task, int64_t total, std::string unit);
  ~Progress();
  Progress(Progress&&) = default;

  /// Counts, and prints share, rate and time left, at most ten times a second on a terminal and every ten seconds
  /// elsewhere. `note` follows on the line: "loss=0.21".
  void advance(int64_t count, const std::string& note = "");
  /// A line that stays, above the updating one.
  void log(const std::string& text);
  /// The last line: what was done in which time.
  void finish(const std::string& note = "");

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(const std::string& note) const;

  std::string task_, unit_;
  int64_t total_, done_ = 0;
  bool terminal_, finished_ = false;
  size_t last_length_ = 0;
  Clock::time_point begin_, last_;
};

}  // namespace boreas
