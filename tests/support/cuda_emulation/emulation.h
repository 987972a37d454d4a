// Runs CUDA kernels on the CPU, so that wrong indexing, missing barriers and wrong fragments show on machines without a
// GPU, also under the address sanitizer. A test whose name ends in _emulated is compiled with this folder first among
// the include paths: its <cuda_runtime.h> and "kernels/cuda/..." then are the ones beside this file, and kernels
// compile unchanged.
//
// Every thread of a block is a fibre. A fibre runs until it waits for others: for its warp (shuffles, votes, matrix
// products, __syncwarp; the full mask only), for its block (__syncthreads) or for a barrier in shared memory
// (bulk_copy.cuh). Blocks run one after the other. Shared memory starts full of NaN. Asynchronous copies spoil their
// destination at once and arrive as late as possible. The threads run in ascending or descending order, as `order`
// says: a kernel that lacks a barrier gives different results.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include "kernels/core/error.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace boreas::emulation {

enum class Order { ascending, descending };

/// What lanes that meet must agree on.
enum class Meeting : uint8_t { none, barrier, exchange, product, matrices };

class Block {
  static constexpr int kLanes = 32, kWords = 8;
  static constexpr size_t kStackBytes = size_t{128} << 10;
  enum class State : uint8_t { ready, waits_for_warp, waits_for_block, polls, done };

  struct Fibre {
    ucontext_t context;
    jmp_buf jump;
    bool started = false;
    std::unique_ptr<char[]> stack;
    dim3 index;
    State state = State::ready;
    void* sanitizer_stack = nullptr;
    int64_t meetings = 0;
    struct Copy {
      void* to;
      const void* from;
      size_t bytes, room;
    };
    std::vector<std::pair<void*, uint32_t>> unfenced;
    std::vector<std::vector<Copy>> copies{{}};  // groups that are not waited for yet; the last one is open
  };
  struct Warp {
    uint64_t words[2][kLanes][kWords];
    int num_arrived = 0, num_lanes = 0;
    Meeting meeting = Meeting::none;
  };

  std::function<void()> body_;
  std::vector<Fibre> fibres_;
  std::vector<Warp> warps_;
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> shared_;
  size_t shared_bytes_ = 0;
  ucontext_t scheduler_;
  jmp_buf scheduler_jump_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
  void* scheduler_sanitizer_stack_ = nullptr;
  int current_ = 0, num_at_barrier_ = 0, num_done_ = 0;
  Order order_ = Order::ascending;
  std::exception_ptr failure_;
  bool condition_held_ = false;
  std::vector<std::function<void()>> late_;  // what happens only when no thread can go on without it

  static Block*& instance() {
    static Block* block = nullptr;
    return block;
  }

  // Fibres are entered first by their context, and later, where no sanitizer follows the stacks, by a jump, which
  // unlike a change of contexts makes no system call.
#if defined(__SANITIZE_ADDRESS__)
  void leave(Fibre& fibre) {
    __sanitizer_start_switch_fiber(fibre.state == State::done ? nullptr : &fibre.sanitizer_stack, scheduler_stack_,
                                   scheduler_stack_bytes_);
    swapcontext(&fibre.context, &scheduler_);
    __sanitizer_finish_switch_fiber(fibre.sanitizer_stack, &scheduler_stack_, &scheduler_stack_bytes_);
  }

  void enter(Fibre& fibre) {
    __sanitizer_start_switch_fiber(&scheduler_sanitizer_stack_, fibre.stack.get(), kStackBytes);
    swapcontext(&scheduler_, &fibre.context);
    __sanitizer_finish_switch_fiber(scheduler_sanitizer_stack_, nullptr, nullptr);
  }
#else
  void leave(Fibre& fibre) {
    if (_setjmp(fibre.jump) == 0) _longjmp(scheduler_jump_, 1);
  }

  void enter(Fibre& fibre) {
    if (_setjmp(scheduler_jump_) != 0) return;
    if (fibre.started) _longjmp(fibre.jump, 1);
    fibre.started = true;
    setcontext(&fibre.context);
  }
#endif

  static void run_fibre() {
    Block& block = *instance();
    Fibre& fibre = block.fibres_[block.current_];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack_, &block.scheduler_stack_bytes_);
#endif
    try {
      block.body_();
    } catch (...) {
      block.failure_ = std::current_exception();
    }
    fibre.state = State::done;
    ++block.num_done_;
    block.release_block();
    block.leave(fibre);
  }

  // Threads that have returned do not hold up the others at a barrier.
  void release_block() {
    if (num_at_barrier_ == 0 || num_at_barrier_ + num_done_ < int(fibres_.size())) return;
    num_at_barrier_ = 0;
    for (Fibre& fibre : fibres_)
      if (fibre.state == State::waits_for_block) fibre.state = State::ready;
  }

 public:
  dim3 block_index, block_size, grid_size;

  static Block& current() { return *instance(); }
  dim3 thread_index() const { return fibres_[current_].index; }
  int lane() const { return current_ % kLanes; }
  char* shared() const { return shared_.get(); }

  Block(dim3 grid, dim3 size, size_t shared_bytes, Order order, std::function<void()> body)
      : body_(std::move(body)), shared_bytes_(shared_bytes), order_(order), block_size(size), grid_size(grid) {
    // Exactly as much as was asked for, so that the sanitizer sees accesses beyond it.
    void* memory = nullptr;
    BOREAS_CHECK(posix_memalign(&memory, 128, std::max<size_t>(shared_bytes, 1)) == 0, out_of_memory,
                 "emulated kernel: no {} bytes for shared memory", shared_bytes);
    shared_.reset(static_cast<char*>(memory));
    const int num_threads = int(size.x * size.y * size.z);
    fibres_.resize(num_threads);
    for (int t = 0; t < num_threads; ++t) {
      fibres_[t].stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
      fibres_[t].index = dim3(t % size.x, t / size.x % size.y, t / (size.x * size.y));
    }
  }
  Block(const Block&) = delete;

  void run(dim3 index) {
    block_index = index;
    std::memset(shared_.get(), 0xFF, shared_bytes_);
    const int num_threads = int(fibres_.size());
    warps_.assign((num_threads + kLanes - 1) / kLanes, {});
    num_at_barrier_ = num_done_ = 0;
    late_.clear();
    unit.reset();
    for (int t = 0; t < num_threads; ++t) {
      Fibre& fibre = fibres_[t];
      ++warps_[t / kLanes].num_lanes;
      fibre.state = State::ready;
      fibre.meetings = 0;
      fibre.unfenced.clear();
      fibre.copies.assign(1, {});
      fibre.started = false;
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = fibre.stack.get();
      fibre.context.uc_stack.ss_size = kStackBytes;
      fibre.context.uc_link = nullptr;
      makecontext(&fibre.context, run_fibre, 0);
    }
    Block* const outer = instance();
    instance() = this;
    while (num_done_ < num_threads && !failure_) {
      bool moved = false;
      for (int step = 0; step < num_threads && !failure_; ++step) {
        current_ = order_ == Order::ascending ? step : num_threads - 1 - step;
        Fibre& fibre = fibres_[current_];
        if (fibre.state != State::ready && fibre.state != State::polls) continue;
        condition_held_ = fibre.state == State::ready;
        enter(fibre);
        moved |= condition_held_;
      }
      if (moved || failure_) continue;
      if (!late_.empty()) {
        const auto next = order_ == Order::ascending ? late_.begin() : late_.end() - 1;
        const std::function<void()> happen = std::move(*next);
        late_.erase(next);
        happen();
      } else {
        failure_ = std::make_exception_ptr(
            Error(ErrorCode::internal, "emulated kernel: threads wait for others that never come"));
      }
    }
    instance() = outer;
    if (failure_) std::rethrow_exception(failure_);
    BOREAS_CHECK(late_.empty(), internal, "emulated kernel: a copy is not waited for");
    if (unit) unit->finish();
  }

  void sync_threads() {
    Fibre& fibre = fibres_[current_];
    fibre.state = State::waits_for_block;
    ++num_at_barrier_;
    release_block();
    if (fibre.state != State::ready) leave(fibre);
  }

  /// The thread's number in the block.
  int thread() const { return current_; }

  /// What a header that emulates more of the chip keeps for each block.
  struct Unit {
    virtual ~Unit() = default;
    virtual void finish() const {}  ///< at the block's end: throws if something was left undone
  };
  std::unique_ptr<Unit> unit;

  /// Returns when the condition, which other threads or late events change, holds.
  void wait_until(const std::function<bool()>& condition) {
    Fibre& fibre = fibres_[current_];
    while (!condition()) {
      fibre.state = State::polls;
      leave(fibre);
    }
    fibre.state = State::ready;
    condition_held_ = true;
  }
  void happen_late(std::function<void()> event) { late_.push_back(std::move(event)); }

  /// Every lane of the warp brings `bytes` bytes and sees those of all lanes, as [lane][kWords] words, until it meets
  /// the others again.
  const uint64_t (*meet(Meeting meeting, const void* mine, size_t bytes))[kWords] {
    Fibre& fibre = fibres_[current_];
    Warp& warp = warps_[current_ / kLanes];
    const int side = int(fibre.meetings++ % 2);
    if (bytes) std::memcpy(warp.words[side][lane()], mine, bytes);
    BOREAS_CHECK(warp.num_arrived == 0 || warp.meeting == meeting, internal,
                 "emulated kernel: the lanes of a warp meet at different places");
    warp.meeting = meeting;
    fibre.state = State::waits_for_warp;
    if (++warp.num_arrived == warp.num_lanes) {
      warp.num_arrived = 0;
      const size_t first = size_t(current_) / kLanes * kLanes;
      for (size_t t = first; t < first + size_t(warp.num_lanes); ++t) fibres_[t].state = State::ready;
    } else {
      leave(fibre);
    }
    return warp.words[side];
  }

  // Writes that the copy engine and the tensor cores see from the next fence on.
  void write_unfenced(void* to, uint32_t word) { fibres_[current_].unfenced.push_back({to, word}); }
  void fence() {
    for (const auto& [to, word] : fibres_[current_].unfenced) std::memcpy(to, &word, sizeof(word));
    fibres_[current_].unfenced.clear();
  }

  // Asynchronous copies, of `bytes` bytes and then zeros as far as there is room, arrive when they are waited for, not
  // earlier.
  void copy_async(void* to, const void* from, size_t bytes, size_t room) {
    std::memset(to, 0xFF, room);
    fibres_[current_].copies.back().push_back({to, from, bytes, room});
  }
  void commit_copies() { fibres_[current_].copies.emplace_back(); }
  void wait_for_copies(size_t pending) {
    auto& groups = fibres_[current_].copies;
    while (groups.size() > pending + 1) {
      for (const auto& copy : groups.front()) {
        std::memset(copy.to, 0, copy.room);
        std::memcpy(copy.to, copy.from, copy.bytes);
      }
      groups.erase(groups.begin());
    }
  }
};

inline Order& order() {
  static Order value = Order::ascending;
  return value;
}

/// Runs a kernel over a grid of blocks.
inline void launch(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> body) {
  Block runner(grid, block, shared_bytes, order(), std::move(body));
  const int64_t num_blocks = int64_t(grid.x) * grid.y * grid.z;
  for (int64_t b = 0; b < num_blocks; ++b)
    runner.run(dim3(unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)));
}

template <class T>
T exchange(T value, auto&& source_lane) {
  static_assert(sizeof(T) <= 8);
  const auto words = Block::current().meet(Meeting::exchange, &value, sizeof(T));
  T result;
  std::memcpy(&result, words[source_lane(Block::current().lane()) % 32], sizeof(T));
  return result;
}

}  // namespace boreas::emulation
