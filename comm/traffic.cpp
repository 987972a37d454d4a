#include "comm/traffic.h"

#include <fmt/ranges.h>

namespace boreas {

namespace {

std::string owner_of(Context& ctx) { return fmt::format("{}", fmt::join(ctx.arena().owners(), "/")); }

}  // namespace

void Traffic::add_exchange(Context& ctx, int64_t bytes_sent) {
  if (!counting_) return;
  Entry& entry = entries_[owner_of(ctx)];
  ++entry.num_exchanges;
  entry.bytes_sent += bytes_sent;
}

const std::map<std::string, Traffic::Entry>& Traffic::entries() {
  for (const Waited& waited : waited_) {
    waited.end.synchronize();
    entries_[waited.owner].seconds_waited += waited.end.seconds_since(waited.begin);
  }
  waited_.clear();
  return entries_;
}

Traffic::Wait::Wait(Context& ctx) : ctx_(ctx), begin_(ctx.device()) {
  if (of(ctx_).counting()) begin_.record(ctx_.compute());
}

Traffic::Wait::~Wait() {
  Traffic& traffic = of(ctx_);
  if (!traffic.counting()) return;
  Event end(ctx_.device());
  end.record(ctx_.compute());
  traffic.waited_.push_back({owner_of(ctx_), std::move(begin_), std::move(end)});
}

}  // namespace boreas
