// Copies of whole rows between global and shared memory by the copy engine, the barriers that they complete on, and
// matrices to shared memory (compute capability 9.0; before, empty: such kernels compile but must not be launched).
#pragma once

#include <cstdint>

namespace boreas::cuda {

/// A barrier in shared memory. A phase ends when all arrivals and all announced bytes have come.
using SharedBarrier = uint64_t;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define BOREAS_SM90(...) asm volatile(__VA_ARGS__)
#else
#define BOREAS_SM90(...)
#endif

__device__ inline uint32_t shared_address(const void* shared) { return uint32_t(__cvta_generic_to_shared(shared)); }

__device__ inline void init_barrier(SharedBarrier* barrier, int arrivals) {
  BOREAS_SM90("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

/// By the thread that initialised barriers, before the block's barrier that shows them to the other threads.
__device__ inline void publish_barriers() { BOREAS_SM90("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void arrive(SharedBarrier* barrier) {
  BOREAS_SM90("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/// Arrives, and announces bytes that copies will bring.
__device__ inline void arrive_expecting(SharedBarrier* barrier, int bytes) {
  BOREAS_SM90("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
              : "memory");
}

/// Returns once the phase of this parity has ended; the phase before the first counts as one of parity 1.
__device__ inline void wait_phase(SharedBarrier* barrier, int parity) {
  uint32_t done = 1;
  do {
    BOREAS_SM90("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
                : "=r"(done)
                : "r"(shared_address(barrier)), "r"(parity)
                : "memory");
  } while (!done);
}

/// Starts a copy that completes on the barrier. Both ends 16-byte aligned, bytes a multiple of 16.
__device__ inline void load_bulk(void* shared, const void* global, int bytes, SharedBarrier* barrier) {
  BOREAS_SM90("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                  shared_address(shared)),
              "l"(global), "r"(bytes), "r"(shared_address(barrier))
              : "memory");
}

/// Starts a copy back, in this thread's current group.
__device__ inline void store_bulk(void* global, const void* shared, int bytes) {
  BOREAS_SM90("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared_address(shared)),
              "r"(bytes)
              : "memory");
}
__device__ inline void commit_bulk_stores() { BOREAS_SM90("cp.async.bulk.commit_group;" ::: "memory"); }
/// Until the shared memory that this thread's copies read may be written again.
__device__ inline void wait_bulk_stores_read() { BOREAS_SM90("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
/// Until this thread's copies are complete.
__device__ inline void wait_bulk_stores() { BOREAS_SM90("cp.async.bulk.wait_group 0;" ::: "memory"); }

/// Between ordinary accesses of shared memory and those of the copy engine that follow.
__device__ inline void fence_bulk() { BOREAS_SM90("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Four 8 x 8 matrices to shared memory, the inverse of load_matrices.
__device__ inline void store_matrices(const uint32_t (&values)[4], void* row) {
  BOREAS_SM90("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
              "r"(values[0]), "r"(values[1]), "r"(values[2]), "r"(values[3])
              : "memory");
}

#undef BOREAS_SM90

}  // namespace boreas::cuda
