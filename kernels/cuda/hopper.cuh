// Hopper's instructions (sm_90a): copies of tiles by the copy engine (TMA), warpgroup matrix products (wgmma). Kernels
// that keep to these have an empty body where __CUDA_ARCH_FEAT_SM90_ALL is not defined, and can be run on the CPU: the
// same functions, without assembler, are in tests/support/cuda_emulation/kernels/cuda/hopper.cuh.
//
// Tiles in shared memory are panels of `rows` x kPanel columns of bf16, a row of a panel as wide as the swizzle pattern
// (128 bytes; 64 for heads of 32), one panel after the other. TMA writes them so, and the matrix descriptors say so.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>

#include <cstdint>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/matrix.cuh"

namespace boreas::cuda::hopper {

// --- shared memory by address ---

inline constexpr int kAlignment = 1024;  ///< of swizzled tiles: the pattern goes by address

/// The dynamic shared memory from the first multiple of kAlignment on.
__device__ inline char* aligned_shared_memory() {
  char* const memory = dynamic_shared<char>();
  return memory + (kAlignment - shared_address(memory) % kAlignment) % kAlignment;
}

__device__ inline void store_word(uint32_t address, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

// --- barriers and copies, beside those of bulk_copy.cuh ---

/// Barrier among `threads` threads of a block, by number: for parts of a block.
__device__ inline void named_barrier_wait(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void named_barrier_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/// Announce the bytes on the barrier first.
__device__ inline void load_tile(uint32_t to, const CUtensorMap* from, int column, int head, int row,
                                 SharedBarrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(to),
      "l"(from), "r"(shared_address(barrier)), "r"(column), "r"(head), "r"(row)
      : "memory");
}

/// In this thread's current group. Rows beyond the tensor are left out.
__device__ inline void store_tile(const CUtensorMap* to, uint32_t from, int column, int head, int row) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(to), "r"(from),
               "r"(column), "r"(head), "r"(row)
               : "memory");
}

// --- registers: what one role gives up the other takes ---

template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- matrix products of a warpgroup: d[64, N] += a[64, 16] b[16, N], f32 += bf16 * bf16 ---
//
// Thread 32 * w + 4 * g + q of the warpgroup holds of d: d[4 * n + 2 * r + e] = element (16 * w + g + 8 * r,
// 8 * n + 2 * q + e). The operand a of step x, in registers, is the same elements of columns 16 * x to 16 * x + 15 in
// pairs: four words made of d[8 * x] to d[8 * x + 7] in order.

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Keeps the compiler from moving uses of registers that a product reads or writes across this point.
template <int kSize>
__device__ inline void hold(float (&values)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(values[i])::"memory");
}
template <int kSize>
__device__ inline void hold(uint32_t (&values)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+r"(values[i])::"memory");
}

/// How the rows of a matrix in shared memory run: along the summed index (K), or along the other (MN).
enum class Major { k = 0, mn = 1 };

/// `panel_bytes` matters only where a product spans several panels of an MN-major operand.
template <int kPanel>
__device__ inline uint64_t descriptor(uint32_t address, uint32_t panel_bytes = 16) {
  constexpr uint64_t kSwizzle = kPanel == 64 ? 1 : 2, kEightRows = 8 * kPanel * 2;
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(panel_bytes >> 4) << 16 | (kEightRows >> 4) << 32 |
         kSwizzle << 62;
}

#define BOREAS_D8(i)                                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define BOREAS_D16 BOREAS_D8(0), BOREAS_D8(8)
#define BOREAS_REGISTERS16 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
#define BOREAS_D24 BOREAS_D8(0), BOREAS_D8(8), BOREAS_D8(16)
#define BOREAS_REGISTERS24 \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23}"
#define BOREAS_D32 BOREAS_D8(0), BOREAS_D8(8), BOREAS_D8(16), BOREAS_D8(24)
#define BOREAS_REGISTERS32                                                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31}"
#define BOREAS_D40 BOREAS_D8(0), BOREAS_D8(8), BOREAS_D8(16), BOREAS_D8(24), BOREAS_D8(32)
#define BOREAS_REGISTERS40                                                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39}"
#define BOREAS_D48 BOREAS_D8(0), BOREAS_D8(8), BOREAS_D8(16), BOREAS_D8(24), BOREAS_D8(32), BOREAS_D8(40)
#define BOREAS_REGISTERS48                                                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "  \
  "%46, %47}"
#define BOREAS_D56 BOREAS_D8(0), BOREAS_D8(8), BOREAS_D8(16), BOREAS_D8(24), BOREAS_D8(32), BOREAS_D8(40), BOREAS_D8(48)
#define BOREAS_REGISTERS56                                                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "  \
  "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55}"
#define BOREAS_D64 \
  BOREAS_D8(0), BOREAS_D8(8), BOREAS_D8(16), BOREAS_D8(24), BOREAS_D8(32), BOREAS_D8(40), BOREAS_D8(48), BOREAS_D8(56)
#define BOREAS_REGISTERS64                                                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "  \
  "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define BOREAS_D80                                                                                       \
  BOREAS_D8(0), BOREAS_D8(8), BOREAS_D8(16), BOREAS_D8(24), BOREAS_D8(32), BOREAS_D8(40), BOREAS_D8(48), \
      BOREAS_D8(56), BOREAS_D8(64), BOREAS_D8(72)
#define BOREAS_REGISTERS80                                                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "  \
  "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, "  \
  "%68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79}"
#define BOREAS_D88                                                                                       \
  BOREAS_D8(0), BOREAS_D8(8), BOREAS_D8(16), BOREAS_D8(24), BOREAS_D8(32), BOREAS_D8(40), BOREAS_D8(48), \
      BOREAS_D8(56), BOREAS_D8(64), BOREAS_D8(72), BOREAS_D8(80)
#define BOREAS_REGISTERS88                                                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "  \
  "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, "  \
  "%68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87}"
#define BOREAS_D96                                                                                       \
  BOREAS_D8(0), BOREAS_D8(8), BOREAS_D8(16), BOREAS_D8(24), BOREAS_D8(32), BOREAS_D8(40), BOREAS_D8(48), \
      BOREAS_D8(56), BOREAS_D8(64), BOREAS_D8(72), BOREAS_D8(80), BOREAS_D8(88)
#define BOREAS_REGISTERS96                                                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "  \
  "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, "  \
  "%68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, "  \
  "%90, %91, %92, %93, %94, %95}"

/// a and b in shared memory.
template <int N, Major kMajorA = Major::k, Major kMajorB = Major::k>
__device__ inline void wgmma(float* d, uint64_t a, uint64_t b, bool add) {
  if constexpr (N == 32)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %18, "
        "0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " BOREAS_REGISTERS16
        ", %16, %17, p, 1, 1, %19, %20;\n}\n"
        : BOREAS_D16
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else if constexpr (N == 48)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %26, "
        "0;\nwgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 " BOREAS_REGISTERS24
        ", %24, %25, p, 1, 1, %27, %28;\n}\n"
        : BOREAS_D24
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else if constexpr (N == 64)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, "
        "0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " BOREAS_REGISTERS32
        ", %32, %33, p, 1, 1, %35, %36;\n}\n"
        : BOREAS_D32
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else if constexpr (N == 80)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %42, "
        "0;\nwgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 " BOREAS_REGISTERS40
        ", %40, %41, p, 1, 1, %43, %44;\n}\n"
        : BOREAS_D40
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else if constexpr (N == 96)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %50, "
        "0;\nwgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 " BOREAS_REGISTERS48
        ", %48, %49, p, 1, 1, %51, %52;\n}\n"
        : BOREAS_D48
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else if constexpr (N == 112)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %58, "
        "0;\nwgmma.mma_async.sync.aligned.m64n112k16.f32.bf16.bf16 " BOREAS_REGISTERS56
        ", %56, %57, p, 1, 1, %59, %60;\n}\n"
        : BOREAS_D56
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else if constexpr (N == 128)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, "
        "0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " BOREAS_REGISTERS64
        ", %64, %65, p, 1, 1, %67, %68;\n}\n"
        : BOREAS_D64
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else if constexpr (N == 160)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %82, "
        "0;\nwgmma.mma_async.sync.aligned.m64n160k16.f32.bf16.bf16 " BOREAS_REGISTERS80
        ", %80, %81, p, 1, 1, %83, %84;\n}\n"
        : BOREAS_D80
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else if constexpr (N == 176)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %90, "
        "0;\nwgmma.mma_async.sync.aligned.m64n176k16.f32.bf16.bf16 " BOREAS_REGISTERS88
        ", %88, %89, p, 1, 1, %91, %92;\n}\n"
        : BOREAS_D88
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else if constexpr (N == 192)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %98, "
        "0;\nwgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 " BOREAS_REGISTERS96
        ", %96, %97, p, 1, 1, %99, %100;\n}\n"
        : BOREAS_D96
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kMajorA)), "n"(int(kMajorB)));
  else
    static_assert(N < 0, "no product of this width");
}

/// a in registers, b in shared memory.
template <int N, Major kMajorB>
__device__ inline void wgmma(float* d, const uint32_t* a, uint64_t b, bool add) {
  if constexpr (N == 32)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %21, "
        "0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " BOREAS_REGISTERS16
        ", {%16, %17, %18, %19}, %20, p, 1, 1, %22;\n}\n"
        : BOREAS_D16
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else if constexpr (N == 48)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %29, "
        "0;\nwgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 " BOREAS_REGISTERS24
        ", {%24, %25, %26, %27}, %28, p, 1, 1, %30;\n}\n"
        : BOREAS_D24
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else if constexpr (N == 64)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, "
        "0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " BOREAS_REGISTERS32
        ", {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
        : BOREAS_D32
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else if constexpr (N == 80)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %45, "
        "0;\nwgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 " BOREAS_REGISTERS40
        ", {%40, %41, %42, %43}, %44, p, 1, 1, %46;\n}\n"
        : BOREAS_D40
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else if constexpr (N == 96)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %53, "
        "0;\nwgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 " BOREAS_REGISTERS48
        ", {%48, %49, %50, %51}, %52, p, 1, 1, %54;\n}\n"
        : BOREAS_D48
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else if constexpr (N == 112)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %61, "
        "0;\nwgmma.mma_async.sync.aligned.m64n112k16.f32.bf16.bf16 " BOREAS_REGISTERS56
        ", {%56, %57, %58, %59}, %60, p, 1, 1, %62;\n}\n"
        : BOREAS_D56
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else if constexpr (N == 128)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, "
        "0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " BOREAS_REGISTERS64
        ", {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
        : BOREAS_D64
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else if constexpr (N == 160)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %85, "
        "0;\nwgmma.mma_async.sync.aligned.m64n160k16.f32.bf16.bf16 " BOREAS_REGISTERS80
        ", {%80, %81, %82, %83}, %84, p, 1, 1, %86;\n}\n"
        : BOREAS_D80
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else if constexpr (N == 176)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %93, "
        "0;\nwgmma.mma_async.sync.aligned.m64n176k16.f32.bf16.bf16 " BOREAS_REGISTERS88
        ", {%88, %89, %90, %91}, %92, p, 1, 1, %94;\n}\n"
        : BOREAS_D88
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else if constexpr (N == 192)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %101, "
        "0;\nwgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 " BOREAS_REGISTERS96
        ", {%96, %97, %98, %99}, %100, p, 1, 1, %102;\n}\n"
        : BOREAS_D96
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kMajorB)));
  else
    static_assert(N < 0, "no product of this width");
}

#undef BOREAS_D8
#undef BOREAS_D16
#undef BOREAS_REGISTERS16
#undef BOREAS_D24
#undef BOREAS_REGISTERS24
#undef BOREAS_D32
#undef BOREAS_REGISTERS32
#undef BOREAS_D40
#undef BOREAS_REGISTERS40
#undef BOREAS_D48
#undef BOREAS_REGISTERS48
#undef BOREAS_D56
#undef BOREAS_REGISTERS56
#undef BOREAS_D64
#undef BOREAS_REGISTERS64
#undef BOREAS_D80
#undef BOREAS_REGISTERS80
#undef BOREAS_D88
#undef BOREAS_REGISTERS88
#undef BOREAS_D96
#undef BOREAS_REGISTERS96

// --- on the host ---

/// [length, num_heads, head_size] of bf16, of which a copy moves `rows` x kPanel elements of one head. Rows beyond the
/// length are read as zeros and not written.
template <int kPanel>
CUtensorMap tensor_map(const Tensor& tensor, int64_t num_heads, int rows) {
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    BOREAS_CHECK(status == cudaSuccess && found == cudaDriverEntryPointSuccess, device,
                 "the GPU driver is older than CUDA 12, which kernels for Hopper need");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  const uint64_t head_size = tensor.cols() / num_heads;
  const uint64_t row_bytes = (tensor.rows() > 1 ? tensor.row_stride() : tensor.cols()) * sizeof(bfloat16);
  const uint64_t sizes[] = {head_size, uint64_t(num_heads), uint64_t(tensor.rows())};
  const uint64_t strides[] = {head_size * sizeof(bfloat16), row_bytes};
  const uint32_t box[] = {kPanel, 1, uint32_t(rows)}, element_strides[] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, tensor.data(), sizes, strides, box, element_strides,
             CU_TENSOR_MAP_INTERLEAVE_NONE, kPanel == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  BOREAS_CHECK(status == CUDA_SUCCESS, device, "no tensor map for {}: CUDA driver error {}", to_string(tensor),
               int(status));
  return map;
}

inline int num_multiprocessors(Device device) {
  int count = 1;
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device.index);
  return count;
}

}  // namespace boreas::cuda::hopper
