#include "engine/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace boreas {

std::string format_duration(double seconds) {
  const int64_t s = std::llround(std::max(seconds, 0.0));
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

Progress::Progress(std::string task, int64_t total, std::string unit)
    : task_(std::move(task)),
      unit_(std::move(unit)),
      total_(total),
      terminal_(isatty(STDERR_FILENO) != 0),
      begin_(Clock::now()),
      last_(begin_) {}

Progress::~Progress() {
  if (!finished_ && terminal_ && last_length_ > 0) std::fputc('\n', stderr);
}

std::string Progress::line(const std::string& note) const {
  const double elapsed = std::chrono::duration<double>(Clock::now() - begin_).count();
  const double rate = elapsed > 0 ? double(done_) / elapsed : 0;
  std::string text = fmt::format("{} {}/{} {} {:.3g}/s", task_, done_, total_, unit_, rate);
  if (done_ < total_ && rate > 0) text += " eta=" + format_duration(double(total_ - done_) / rate);
  return note.empty() ? text : text + " " + note;
}

void Progress::advance(int64_t count, const std::string& note) {
  done_ += count;
  const Clock::time_point now = Clock::now();
  if (std::chrono::duration<double>(now - last_).count() < (terminal_ ? 0.1 : 10.0)) return;
  last_ = now;
  const std::string text = line(note);
  if (terminal_) {
    fmt::print(stderr, "\r{:<{}}", text, last_length_);
    std::fflush(stderr);
  } else {
    fmt::print(stderr, "{}\n", text);
  }
  last_length_ = text.size();
}

void Progress::log(const std::string& text) {
  fmt::print(stderr, "{}{:<{}}\n", terminal_ ? "\r" : "", text, terminal_ ? last_length_ : 0);
  last_length_ = 0;
}

void Progress::finish(const std::string& note) {
  finished_ = true;
  const double elapsed = std::chrono::duration<double>(Clock::now() - begin_).count();
  fmt::print(
      stderr, "{}{:<{}}\n", terminal_ ? "\r" : "",
      fmt::format("{} {} {} in {}{}{}", task_, done_, unit_, format_duration(elapsed), note.empty() ? "" : " ", note),
      terminal_ ? last_length_ : 0);
}

}  // namespace boreas
