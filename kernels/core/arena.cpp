#include "kernels/core/arena.h"

#include <algorithm>
#include <cstring>

namespace boreas {

namespace {
constexpr int64_t kAlignment = 256;
#ifdef NDEBUG
constexpr int64_t kFence = 0;
#else
constexpr int64_t kFence = 256;
constexpr unsigned char kFenceByte = 0xA5;
#endif
// A counting arena lends addresses that nobody may touch; they only keep "empty" and "not empty" apart.
char* const kCountingBase = reinterpret_cast<char*>(int64_t{1} << 46);
}  // namespace

Arena::Arena(Buffer slab) : slab_(std::move(slab)) {}

char* Arena::address(Keep end, int64_t offset, int64_t bytes) const {
  if (counting()) return end == Keep::saved ? kCountingBase + offset : kCountingBase - offset - bytes;
  char* const base = static_cast<char*>(slab_.data());
  return end == Keep::saved ? base + offset : base + slab_.bytes() / kAlignment * kAlignment - offset - bytes;
}

void* Arena::borrow(Keep end, int64_t bytes) {
  BOREAS_CHECK(bytes >= 0, internal, "a block of {} bytes was asked for", bytes);
  const int64_t padded = (bytes + kAlignment - 1) / kAlignment * kAlignment + kFence;
  End& stack = end == Keep::saved ? saved_ : scratch_;
  if (!counting() && used_bytes() + padded > slab_.bytes())
    BOREAS_FAIL(out_of_memory,
                "the arena of {} bytes holds {} saved and {} scratch bytes and cannot lend {} more: the memory plan "
                "does not match the run",
                slab_.bytes(), saved_.offset, scratch_.offset, padded);
  char* const block = address(end, stack.offset, padded);
#ifndef NDEBUG
  stack.blocks.push_back({stack.offset, padded});
  if (!counting() && !slab_.device().is_cuda()) std::memset(block + padded - kFence, kFenceByte, kFence);
#endif
  stack.offset += padded;
  if (used_bytes() > peak_.bytes) {
    peak_ = {used_bytes(), saved_.offset, scratch_.offset, {}};
    for (const std::string& owner : owners_) peak_.owner += (peak_.owner.empty() ? "" : "/") + owner;
  }
  return block;
}

Arena::Mark Arena::mark(Keep end) const {
  const End& stack = end == Keep::saved ? saved_ : scratch_;
  return {stack.offset, stack.blocks.size()};
}

void Arena::rewind(Keep end, Mark mark) {
  End& stack = end == Keep::saved ? saved_ : scratch_;
  BOREAS_CHECK(mark.offset <= stack.offset, internal, "the arena was rewound forwards, from {} to {}", stack.offset,
               mark.offset);
#ifndef NDEBUG
  while (stack.blocks.size() > mark.num_blocks) {
    const Block block = stack.blocks.back();
    stack.blocks.pop_back();
    if (counting() || slab_.device().is_cuda()) continue;
    char* const begin = address(end, block.offset, block.bytes);
    const char* const fence = begin + block.bytes - kFence;
    BOREAS_CHECK(std::all_of(fence, fence + kFence, [](char c) { return (unsigned char)c == kFenceByte; }), internal,
                 "something wrote past the end of an arena block of {} bytes", block.bytes - kFence);
    std::memset(begin, 0xFF, block.bytes);  // all ones is a NaN in f64, f32 and bf16
  }
#endif
  stack.offset = mark.offset;
}

}  // namespace boreas
