// StopSignal: SIGINT and SIGTERM as a polite request.
#pragma once

namespace boreas {

/// While it lives, the first SIGINT or SIGTERM only sets `requested()`; a second one ends the process as usual. One at
/// a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;

  bool requested() const;
  int number() const;  ///< of the signal, 0 if none came
};

}  // namespace boreas
