// kernels/cuda/bulk_copy.cuh for the emulation: the same functions without assembler.
#pragma once

#include "kernels/cuda/matrix.cuh"

namespace boreas::cuda {

struct SharedBarrier {
  int16_t arrivals, pending;
  int32_t bytes : 31;
  uint32_t phase : 1;
};
static_assert(sizeof(SharedBarrier) == 8);

namespace detail {
inline void end_phase_if_complete(SharedBarrier& barrier) {
  BOREAS_CHECK(barrier.pending >= 0, internal, "emulated barrier: more arrivals than it was made for");
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.arrivals;
  barrier.phase ^= 1;
}
inline void check_bulk(const void* to, const void* from, int bytes) {
  BOREAS_CHECK((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | unsigned(bytes)) % 16 == 0,
               internal, "emulated bulk copy: not aligned to 16 bytes");
}
}  // namespace detail

inline void init_barrier(SharedBarrier* barrier, int arrivals) {
  *barrier = {int16_t(arrivals), int16_t(arrivals), 0, 0};
}
inline void publish_barriers() {}
inline void arrive_expecting(SharedBarrier* barrier, int bytes) {
  barrier->bytes += bytes;
  --barrier->pending;
  detail::end_phase_if_complete(*barrier);
}
inline void arrive(SharedBarrier* barrier) { arrive_expecting(barrier, 0); }
inline void wait_phase(SharedBarrier* barrier, int parity) {
  emulation::Block::current().wait_until([=] { return int(barrier->phase) != parity; });
}

inline void load_bulk(void* shared, const void* global, int bytes, SharedBarrier* barrier) {
  detail::check_bulk(shared, global, bytes);
  std::memset(shared, 0xFF, size_t(bytes));
  emulation::Block::current().happen_late([=] {
    std::memcpy(shared, global, size_t(bytes));
    barrier->bytes -= bytes;
    detail::end_phase_if_complete(*barrier);
  });
}
inline void store_bulk(void* global, const void* shared, int bytes) {
  detail::check_bulk(global, shared, bytes);
  emulation::Block::current().copy_async(global, shared, size_t(bytes), size_t(bytes));
}
inline void commit_bulk_stores() { emulation::Block::current().commit_copies(); }
inline void wait_bulk_stores_read() { emulation::Block::current().wait_for_copies(0); }
inline void wait_bulk_stores() { emulation::Block::current().wait_for_copies(0); }
inline void fence_bulk() { emulation::Block::current().fence(); }

inline void store_matrices(const uint32_t (&values)[4], void* row) {
  auto& block = emulation::Block::current();
  BOREAS_CHECK(reinterpret_cast<uintptr_t>(row) % 16 == 0, internal,
               "emulated stmatrix: a row is not aligned to 16 bytes");
  uint64_t mine[3];
  mine[0] = reinterpret_cast<uintptr_t>(row);
  std::memcpy(mine + 1, values, sizeof(values));
  const auto words = block.meet(emulation::Meeting::matrices, mine, sizeof(mine));
  const int g = block.lane() / 4, p = block.lane() % 4;
  for (int m = 0; m < 4; ++m)
    std::memcpy(reinterpret_cast<char*>(uintptr_t(words[8 * m + g][0])) + 4 * p, &values[m], sizeof(uint32_t));
}

}  // namespace boreas::cuda
