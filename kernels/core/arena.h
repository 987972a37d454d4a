// Arena: the lender of memory that lives for a step.
#pragma once

#include <string>
#include <vector>

#include "kernels/core/buffer.h"

namespace boreas {

/// Which end of the arena a block comes from: `saved` lives until backward rewinds it, `scratch` until its Scope ends.
enum class Keep : uint8_t { saved, scratch };

/// One slab with two strict stacks growing towards each other:
///
///     slab  |  saved  -->                      free                      <--  scratch |
///
/// In counting mode there is no slab: the same calls give the same offsets and only the high-water mark is kept, so the
/// peak of a planned step is the size of the slab that the real step needs. Blocks are 256-byte aligned.
/// Debug builds fence every block and fill released bytes with NaN, on the CPU.
class Arena {
 public:
  /// Position of one end; rewinding to it gives back all that was borrowed since.
  struct Mark {
    int64_t offset = 0;
    size_t num_blocks = 0;
  };

  Arena() = default;            ///< counting mode
  explicit Arena(Buffer slab);  ///< lends this slab
  Arena(Arena&&) = default;

  bool counting() const { return slab_.data() == nullptr; }
  Device device() const { return slab_.device(); }

  /// Throws out_of_memory if the two ends would meet (internal: the plan was wrong).
  void* borrow(Keep end, int64_t bytes);
  Mark mark(Keep end) const;
  void rewind(Keep end, Mark mark);

  int64_t used_bytes() const { return saved_.offset + scratch_.offset; }
  int64_t peak_bytes() const { return peak_.bytes; }
  void reset_peak() { peak_ = {}; }

  /// Where and how the high-water mark was reached.
  struct Peak {
    int64_t bytes = 0, saved_bytes = 0, scratch_bytes = 0;
    std::string owner;  ///< path of the owners on the stack, such as "encoder/chunk 3"
  };
  const Peak& peak() const { return peak_; }

  /// Bytes borrowed now at the saved end, by owner path: what the plan prints at the peak.
  void push_owner(const std::string& name) { owners_.push_back(name); }
  void pop_owner() { owners_.pop_back(); }
  const std::vector<std::string>& owners() const { return owners_; }

 private:
  struct Block {
    int64_t offset = 0, bytes = 0;
  };
  struct End {
    int64_t offset = 0;
    std::vector<Block> blocks;  // only kept in debug builds, to check fences
  };
  char* address(Keep end, int64_t offset, int64_t bytes) const;

  Buffer slab_;
  End saved_, scratch_;
  Peak peak_;
  std::vector<std::string> owners_;
};

}  // namespace boreas
