// kernels/cuda/matrix.cuh for the emulation: the same functions without assembler.
#pragma once

#include "kernels/cuda/vector_io.cuh"

namespace boreas::cuda {

namespace detail {
inline float half_of(uint32_t pair, int which) { return __uint_as_float(which ? pair & 0xFFFF0000u : pair << 16); }
inline void load_matrices(uint32_t (&out)[4], const void* row, bool transposed) {
  auto& block = emulation::Block::current();
  const uint64_t address = reinterpret_cast<uintptr_t>(row);
  BOREAS_CHECK(address % 16 == 0, internal, "emulated ldmatrix: a row is not aligned to 16 bytes");
  const auto words = block.meet(emulation::Meeting::matrices, &address, sizeof(address));
  const int g = block.lane() / 4, p = block.lane() % 4;
  for (int m = 0; m < 4; ++m) {
    const auto element = [&](int r, int c) -> uint32_t {
      return reinterpret_cast<const uint16_t*>(uintptr_t(words[8 * m + r][0]))[c];
    };
    out[m] =
        transposed ? element(2 * p, g) | element(2 * p + 1, g) << 16 : element(g, 2 * p) | element(g, 2 * p + 1) << 16;
  }
  __syncwarp();  // nobody writes there before all have read
}
}  // namespace detail

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  auto& block = emulation::Block::current();
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const auto words = block.meet(emulation::Meeting::product, mine, sizeof(mine));
  const auto word = [&](int lane, int i) { return uint32_t(words[lane][i / 2] >> (32 * (i % 2))); };
  const int g = block.lane() / 4, p = block.lane() % 4;
  for (int e = 0; e < 4; ++e) {
    const int row = g + e / 2 * 8, column = 2 * p + e % 2;
    for (int k = 0; k < 16; ++k)
      c[e] += detail::half_of(word(row % 8 * 4 + k % 8 / 2, row / 8 + 2 * (k / 8)), k % 2) *
              detail::half_of(word(column * 4 + k % 8 / 2, 4 + k / 8), k % 2);
  }
}

inline void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) { mma_bf16(c, {a0, a1, 0, 0}, b, 0); }

inline void load_matrices(uint32_t (&out)[4], const void* row) { detail::load_matrices(out, row, false); }
inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) { detail::load_matrices(out, row, true); }

inline uint32_t transpose_matrix(uint32_t rows) {
  auto& block = emulation::Block::current();
  const auto words = block.meet(emulation::Meeting::matrices, &rows, sizeof(rows));
  const int g = block.lane() / 4, p = block.lane() % 4;
  const auto element = [&](int r, int c) { return uint32_t(words[4 * r + c / 2][0]) >> (16 * (c % 2)) & 0xFFFF; };
  return element(2 * p, g) | element(2 * p + 1, g) << 16;
}

inline const char* kept(const char* address) { return address; }
inline void copy_async(void* shared, const void* global, bool valid) {
  emulation::Block::current().copy_async(shared, global, valid ? 16 : 0, 16);
}
inline void copy_async_if(bool valid, void* shared, const void* global) {
  if (valid) copy_async(shared, global, true);
}
template <int kBytes>
void copy_async(void* shared, const void* global) {
  emulation::Block::current().copy_async(shared, global, kBytes, kBytes);
}
inline void copy_async_cached(void* shared, const void* global, int bytes) {
  emulation::Block::current().copy_async(shared, global, size_t(bytes), 16);
}
inline void commit_copies() { emulation::Block::current().commit_copies(); }
template <int kPending>
void wait_for_copies() {
  emulation::Block::current().wait_for_copies(kPending);
}

inline float fast_exp2(float x) { return x < -126 ? 0 : std::exp2(x); }  // without subnormal numbers
inline float fast_log2(float x) { return std::log2(x); }
inline float fast_reciprocal(float x) { return 1 / x; }
inline uint32_t pack_bf16(float low, float high) { return bfloat16(low).bits | uint32_t(bfloat16(high).bits) << 16; }

}  // namespace boreas::cuda
