// Context: where and how to compute. The first argument of everything that does.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <typeindex>

#include "kernels/core/arena.h"

namespace boreas {

class Trace;

/// `run` computes. `plan` walks the same code with the same shapes and borrows the same memory from a counting arena,
/// but launches nothing and touches no data.
enum class Mode : uint8_t { run, plan };

/// Device, stream, arena and mode, passed explicitly; there are no globals.
class Context {
 public:
  Context(Device device, Arena& arena, Mode mode = Mode::run) : arena_(&arena), mode_(mode), compute_(device) {
    BOREAS_CHECK(arena.counting() == (mode == Mode::plan), invalid_argument,
                 "plan mode needs a counting arena, run mode one with a slab");
  }

  Device device() const { return compute_.device(); }
  bool planning() const { return mode_ == Mode::plan; }
  Stream& compute() { return compute_; }
  Arena& arena() { return *arena_; }

  /// An uninitialised, contiguous tensor borrowed from that end of the arena.
  Tensor alloc(Keep end, DType dtype, Shape shape) {
    return Tensor(arena_->borrow(end, shape.size() * size_of(dtype)), dtype, shape, device());
  }

  /// What a vendor library keeps with a context, such as its handle: `T(ctx)`, made at its first use.
  template <class T>
  T& library() {
    std::shared_ptr<void>& slot = libraries_[typeid(T)];
    if (!slot) slot = std::make_shared<T>(*this);
    return *static_cast<T*>(slot.get());
  }
  /// Memory for vendor libraries to compute in, of this size whatever they compute; made at its first use, never while
  /// planning. One is enough: they share the stream.
  static constexpr int64_t kLibraryWorkspaceBytes = int64_t{32} << 20;
  const Buffer& library_workspace() {
    BOREAS_CHECK(!planning(), internal, "a plan needs no memory of libraries");
    if (library_workspace_.bytes() == 0) library_workspace_ = Buffer::on(device(), kLibraryWorkspaceBytes, "libraries");
    return library_workspace_;
  }

  Trace* trace = nullptr;                             ///< null: op timings are not recorded
  std::function<void(const std::string&)> log_debug;  ///< null: choices such as that of an algorithm are not logged

 private:
  Arena* arena_;
  Mode mode_;
  Stream compute_;
  Buffer library_workspace_;
  std::map<std::type_index, std::shared_ptr<void>> libraries_;
};

/// Gives back, at its end, all scratch memory borrowed since its beginning.
class Scope {
 public:
  explicit Scope(Context& ctx) : arena_(ctx.arena()), mark_(arena_.mark(Keep::scratch)) {}
  ~Scope() noexcept(false) { arena_.rewind(Keep::scratch, mark_); }
  Scope(const Scope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

/// Names who borrows, for the memory plan: owners nest into a path such as "encoder/chunk 3".
class OwnerScope {
 public:
  OwnerScope(Context& ctx, const std::string& name) : arena_(ctx.arena()) { arena_.push_owner(name); }
  ~OwnerScope() { arena_.pop_owner(); }
  OwnerScope(const OwnerScope&) = delete;

 private:
  Arena& arena_;
};

}  // namespace boreas
