// What a rank sends to others, and how long its computation waits for them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernels/core/context.h"

namespace boreas {

/// Counts, while asked to, what happens in a context, by the path of owners on its arena, such as "encoder/chunk 3"
/// (see OwnerScope). On a GPU the time waited is that of the stream that computes: a message that has arrived before
/// its rows are needed costs nothing. On the CPU nothing is hidden.
///
/// Counting waits for nothing. It is of work that is queued call by call: a Replay records and launches no recordings
/// meanwhile.
class Traffic {
 public:
  static Traffic& of(Context& ctx) { return ctx.library<Traffic>(); }
  explicit Traffic(Context&) {}

  void set_counting(bool counting) { counting_ = counting; }
  bool counting() const { return counting_; }

  struct Entry {
    int64_t num_exchanges = 0, bytes_sent = 0;
    double seconds_waited = 0;
  };
  /// Waits for the device.
  const std::map<std::string, Entry>& entries();

  void add_exchange(Context& ctx, int64_t bytes_sent);

  /// The context waits for others from here to its end.
  class Wait {
   public:
    explicit Wait(Context& ctx);
    ~Wait();
    Wait(const Wait&) = delete;

   private:
    Context& ctx_;
    Event begin_;
  };

 private:
  struct Waited {
    std::string owner;
    Event begin, end;
  };
  bool counting_ = false;
  std::map<std::string, Entry> entries_;
  std::vector<Waited> waited_;  // not added yet
};

}  // namespace boreas
