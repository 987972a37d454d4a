// Counter-based random numbers: value = f(seed, stream, index), the same on CPU and GPU, in any order.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define BOREAS_HOST_DEVICE __host__ __device__
#else
#define BOREAS_HOST_DEVICE
#endif

namespace boreas {

/// Philox 4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw 2011). `stream` separates uses (a parameter, a step, ...).
class Philox {
 public:
  struct Block {
    uint32_t word[4];
  };

  BOREAS_HOST_DEVICE Philox(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  BOREAS_HOST_DEVICE Block block(uint64_t index) const {
    uint32_t c0 = uint32_t(index), c1 = uint32_t(index >> 32), c2 = uint32_t(stream_), c3 = uint32_t(stream_ >> 32);
    uint32_t k0 = uint32_t(seed_), k1 = uint32_t(seed_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
      const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
      c1 = uint32_t(p1);
      c3 = uint32_t(p0);
      c0 = n0;
      c2 = n2;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
  }

  /// Uniform in [0, 1), 53 bits.
  BOREAS_HOST_DEVICE double uniform(uint64_t index) const {
    const Block b = block(index);
    return double((uint64_t(b.word[0]) << 21) ^ (b.word[1] >> 11)) * 0x1p-53;
  }

  /// Standard normal, by Box and Muller.
  BOREAS_HOST_DEVICE double normal(uint64_t index) const {
    const Block b = block(index);
    const double u = (double(b.word[0]) + 1.0) * 0x1p-32, angle = 6.283185307179586476925 * double(b.word[1]) * 0x1p-32;
    return sqrt(-2.0 * log(u)) * cos(angle);
  }

  /// Uniform integer in [0, n), by the multiply-shift method (bias below n / 2^64).
  BOREAS_HOST_DEVICE uint64_t below(uint64_t index, uint64_t n) const {
    const Block b = block(index);
    const uint64_t x = (uint64_t(b.word[0]) << 32) | b.word[1];
    return uint64_t((static_cast<unsigned __int128>(x) * n) >> 64);
  }

 private:
  uint64_t seed_, stream_;
};

}  // namespace boreas
