// Matrix products of a warp (mma.sync, compute capability 8.0), and how their operands come into shared memory and out
// of it. Fragments of m16n8k16: lane 4g + p holds, of a, the pairs (row, column) = (g, 2p), (g + 8, 2p), (g, 2p + 8),
// (g + 8, 2p + 8); of b, (2p, g), (2p + 8, g); of c, (g, 2p), (g + 8, 2p).
#pragma once

#include "kernels/cuda/vector_io.cuh"

namespace boreas::cuda {

/// c += a b: [16, 16] times [16, 8], sums in f32.
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The same with [16, 8] times [8, 8]: only the first half of each row of fragments.
__device__ inline void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a0), "r"(a1), "r"(b));
}

/// Four 8 x 8 matrices from shared memory; lane l gives the address of row l % 8 of matrix l / 8 and gets, of each
/// matrix, the elements 2p and 2p + 1 of row g.
__device__ inline void load_matrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}

/// The same, transposed: of each matrix, the elements 2p and 2p + 1 of column g.
__device__ inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
}

/// Of an 8 x 8 matrix of which lanes hold the elements 2p and 2p + 1 of row g: those of column g.
__device__ inline uint32_t transpose_matrix(uint32_t rows) {
  uint32_t columns;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(columns) : "r"(rows));
  return columns;
}

/// Starts a copy of 16 bytes to shared memory; zeros if there is nothing to copy.
__device__ inline void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(uint32_t(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
/// The same, but if there is nothing to copy, nothing is written.
__device__ inline void copy_async_if(bool valid, void* shared, const void* global) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n@p cp.async.cg.shared.global [%0], [%1], 16;\n}\n" ::"r"(
                   uint32_t(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(int(valid))
               : "memory");
}
/// Starts a copy of 8 or 16 bytes to shared memory.
template <int kBytes>
__device__ inline void copy_async(void* shared, const void* global) {
  const uint32_t to = uint32_t(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(kBytes) : "memory");
}
/// Of 16 bytes through the first-level cache, for what neighbouring warps read too: `bytes` bytes, then zeros up to 16.
__device__ inline void copy_async_cached(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(uint32_t(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(bytes)
               : "memory");
}
/// The same address, as a value that the compiler keeps in registers and does not put together again at each use.
__device__ inline const char* kept(const char* address) {
  asm volatile("" : "+l"(address));
  return address;
}

__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits for all but the kPending latest groups of copies of this thread.
template <int kPending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / x, to 1 ulp.
__device__ inline float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Two values rounded to bf16, `low` in the lower half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

}  // namespace boreas::cuda
