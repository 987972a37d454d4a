// Op timings: seconds, GB/s and FLOP/s by op name, from the op's own formulas.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "kernels/core/context.h"

namespace boreas {

struct TraceCost {
  int64_t flops = 0;
  int64_t bytes = 0;
};

/// Collects what ran under one or more contexts. Tracing waits for the device after each op, so traced times add up.
/// Of a context that plans, it counts costs, and seconds as far as `predict` tells them.
class Trace {
 public:
  std::function<double(const std::string& name, TraceCost)> predict;

  struct Entry {
    int64_t count = 0;
    double seconds = 0;
    TraceCost cost;
  };
  void add(const std::string& name, double seconds, TraceCost cost) {
    Entry& entry = entries_[name];
    ++entry.count;
    entry.seconds += seconds;
    entry.cost.flops += cost.flops;
    entry.cost.bytes += cost.bytes;
  }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  int64_t flops() const {
    int64_t sum = 0;
    for (const auto& [_, entry] : entries_) sum += entry.cost.flops;
    return sum;
  }
  double seconds() const {
    double sum = 0;
    for (const auto& [_, entry] : entries_) sum += entry.seconds;
    return sum;
  }
  /// A table sorted by time: op, calls, ms, share, GFLOP/s, GB/s.
  std::string table() const;

 private:
  std::map<std::string, Entry> entries_;
};

class TraceScope {
 public:
  template <class CostOf>
  TraceScope(Context& ctx, const char* name, CostOf&& cost_of) : ctx_(ctx), name_(name) {
    if (!ctx_.trace) return;
    cost_ = cost_of();
    ctx_.compute().synchronize();
    begin_ = std::chrono::steady_clock::now();
  }
  ~TraceScope() {
    if (!ctx_.trace) return;
    try {
      ctx_.compute().synchronize();
    } catch (...) {  // the next call on this stream reports the same error
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin_;
    ctx_.trace->add(name_, elapsed.count(), cost_);
  }
  TraceScope(const TraceScope&) = delete;

 private:
  Context& ctx_;
  const char* name_;
  TraceCost cost_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace boreas
