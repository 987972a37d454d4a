// Hopper's instructions for the emulation: the functions of kernels/cuda/hopper.cuh, as strict as the chip may be.
// A matrix product happens when it is waited for, or at once if threads run in descending order; copies spoil what they
// will write at once and come as late as they may; ordinary writes of shared memory reach the copy engine at the next
// fence. Wrong use, such as too many arrivals at a barrier, or work in flight when the block ends, is an error.
#pragma once

#include <cuda_bf16.h>

#include <deque>

#include "kernels/core/context.h"
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/kernel.cuh"
#include "kernels/cuda/matrix.cuh"

#define __CUDA_ARCH_FEAT_SM90_ALL
#define __grid_constant__

/// [rows, heads, columns] of bf16, of which a box of box_rows x box_columns of one head is copied.
struct CUtensorMap {
  uint16_t* data;
  int64_t rows, heads, columns, row_stride, head_stride;
  int box_rows, box_columns;
};

namespace boreas::emulation {

class Hopper : public Block::Unit {
 public:
  struct Product {
    int n;  // columns; 0: the end of a group
    bool add, mn_major_a, mn_major_b;
    float* d;
    const uint32_t* registers_a;
    uint64_t a, b;
  };
  struct Named {
    int arrived = 0, threads = 0;
    int64_t generation = 0;
  };

  std::vector<std::deque<Product>> products;  // of each thread
  Named named[16];

  static Hopper& current() {
    Block& block = Block::current();
    if (!block.unit) {
      auto unit = std::make_unique<Hopper>();
      unit->products.resize(block.block_size.x);
      block.unit = std::move(unit);
    }
    return static_cast<Hopper&>(*block.unit);
  }
  std::deque<Product>& mine() { return products[Block::current().thread()]; }

  void finish() const override {
    for (const auto& of_thread : products) require(of_thread.empty(), "a matrix product is in flight at the end");
    for (const Named& barrier : named) require(barrier.arrived == 0, "threads have arrived at a barrier in vain");
  }

  static void require(bool condition, const char* what) {
    BOREAS_CHECK(condition, internal, "emulated kernel: {}", what);
  }

  static uint32_t swizzled(uint32_t address, int row_bytes) {
    return address ^ (address >> 3 & (row_bytes == 128 ? 0x70u : 0x30u));
  }

  // Each 16 bytes of the box, and where they lie in shared memory; null beyond the tensor.
  template <class F>
  static void for_box(const CUtensorMap& map, uint32_t tile, int column, int head, int row, F&& f) {
    const int row_bytes = map.box_columns * 2;
    require(tile % (8 * row_bytes) == 0, "a tile is not aligned");
    for (int r = 0; r < map.box_rows; ++r)
      for (int c = 0; c < map.box_columns; c += 8)
        f(row + r < map.rows ? map.data + (row + r) * map.row_stride + head * map.head_stride + column + c : nullptr,
          Block::current().shared() + swizzled(tile + r * row_bytes + c * 2, row_bytes));
  }

  // An element of an operand in shared memory; `other` is its row or column in the product.
  static float element(uint64_t descriptor, int other, int summed, bool mn_major) {
    const uint32_t start = uint32_t(descriptor & 0x3fff) << 4, leading = uint32_t(descriptor >> 16 & 0x3fff) << 4,
                   stride = uint32_t(descriptor >> 32 & 0x3fff) << 4;
    const int row_bytes = descriptor >> 62 == 1 ? 128 : 64, panel = row_bytes / 2;
    const uint32_t address =
        mn_major ? start + other / panel * leading + summed / 8 * stride + summed % 8 * row_bytes + other % panel * 2
                 : start + other / 8 * stride + other % 8 * row_bytes + summed * 2;
    uint16_t bits;
    std::memcpy(&bits, Block::current().shared() + swizzled(address, row_bytes), 2);
    return __bfloat162float({bits});
  }

  // This thread's part of a product; the warp is here together, with the same products before it.
  void multiply(const Product& p) {
    const int thread = Block::current().thread(), lane = thread % 32, row = thread % 128 / 32 * 16 + lane / 4;
    float a[2][16];
    for (int r = 0; r < 2; ++r)
      for (int k = 0; k < 16; ++k) {
        if (p.registers_a) {
          const Product& neighbour = products[thread - lane % 4 + k % 8 / 2].front();
          const uint32_t pair = neighbour.registers_a[r + k / 8 * 2];
          a[r][k] = __bfloat162float({uint16_t(k % 2 ? pair >> 16 : pair)});
        } else {
          a[r][k] = element(p.a, row + 8 * r, k, p.mn_major_a);
        }
      }
    for (int n = 0; n < p.n / 8; ++n)
      for (int e = 0; e < 2; ++e) {
        float sum[2] = {};
        for (int k = 0; k < 16; ++k) {
          const float b = element(p.b, 8 * n + 2 * (lane % 4) + e, k, p.mn_major_b);
          for (int r = 0; r < 2; ++r) sum[r] += a[r][k] * b;
        }
        for (int r = 0; r < 2; ++r) {
          float& d = p.d[4 * n + 2 * r + e];
          d = p.add ? d + sum[r] : sum[r];
        }
      }
  }

  // Until no more than `pending` groups are left.
  void run_products(int pending) {
    Block& block = Block::current();
    auto& own = mine();
    int groups = 0;
    for (const Product& p : own) groups += p.n == 0;
    while (groups > pending) {
      block.meet(Meeting::matrices, nullptr, 0);
      if (own.front().n == 0)
        --groups;
      else
        multiply(own.front());
      block.meet(Meeting::matrices, nullptr, 0);
      own.pop_front();
    }
    require(pending > 0 || own.empty(), "a matrix product belongs to no group");
  }
};

}  // namespace boreas::emulation

namespace boreas::cuda::hopper {

using emulation::Block;
using emulation::Hopper;

inline constexpr int kAlignment = 1024;

inline char* aligned_shared_memory() { return Block::current().shared(); }
/// Counted from the beginning, so that it is aligned to anything.
inline uint32_t shared_address(const void* shared) {
  return uint32_t(static_cast<const char*>(shared) - Block::current().shared());
}
inline void store_word(uint32_t address, uint32_t word) {
  Block::current().write_unfenced(Block::current().shared() + address, word);
}

inline void named_barrier_arrive(int number, int threads) {
  Hopper::Named& barrier = Hopper::current().named[number];
  Hopper::require(barrier.arrived == 0 || barrier.threads == threads, "threads disagree on how many meet");
  barrier.threads = threads;
  if (++barrier.arrived < threads) return;
  barrier.arrived = 0;
  ++barrier.generation;
}
inline void named_barrier_wait(int number, int threads) {
  const Hopper::Named& barrier = Hopper::current().named[number];
  const int64_t generation = barrier.generation;
  named_barrier_arrive(number, threads);
  Block::current().wait_until([&barrier, generation] { return barrier.generation > generation; });
}

inline void load_tile(uint32_t to, const CUtensorMap* from, int column, int head, int row, SharedBarrier* barrier) {
  Hopper::for_box(*from, to, column, head, row, [](const void*, char* shared) { std::memset(shared, 0xFF, 16); });
  Block::current().happen_late([=] {
    Hopper::for_box(*from, to, column, head, row, [](const void* global, char* shared) {
      global ? std::memcpy(shared, global, 16) : std::memset(shared, 0, 16);
    });
    barrier->bytes -= from->box_rows * from->box_columns * 2;
    detail::end_phase_if_complete(*barrier);
  });
}
inline void store_tile(const CUtensorMap* to, uint32_t from, int column, int head, int row) {
  Hopper::for_box(*to, from, column, head, row, [](void* global, char* shared) {
    if (global) Block::current().copy_async(global, shared, 16, 16);
  });
}

template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

inline void wgmma_fence() {}
template <int kPending>
void wgmma_wait() {
  Hopper::current().run_products(kPending);
}
inline void wgmma_commit() {
  Hopper::current().mine().push_back({});
  if (emulation::order() == emulation::Order::descending) Hopper::current().run_products(0);
}
template <class Values>
void hold(Values&) {}

enum class Major { k = 0, mn = 1 };

template <int kPanel>
uint64_t descriptor(uint32_t address, uint32_t panel_bytes = 16) {
  Hopper::require(address < 1 << 18 && address % 16 == 0, "an operand's address does not fit a descriptor");
  return uint64_t(address >> 4) | uint64_t(panel_bytes >> 4) << 16 | uint64_t(kPanel) << 32 |
         uint64_t(kPanel == 64 ? 1 : 2) << 62;
}

template <int N, Major kMajorA = Major::k, Major kMajorB = Major::k>
void wgmma(float* d, uint64_t a, uint64_t b, bool add) {
  Hopper::current().mine().push_back({N, add, kMajorA == Major::mn, kMajorB == Major::mn, d, nullptr, a, b});
}
template <int N, Major kMajorB>
void wgmma(float* d, const uint32_t* a, uint64_t b, bool add) {
  Hopper::current().mine().push_back({N, add, false, kMajorB == Major::mn, d, a, 0, b});
}

template <int kPanel>
CUtensorMap tensor_map(const Tensor& tensor, int64_t num_heads, int rows) {
  const int64_t head_size = tensor.cols() / num_heads;
  return {reinterpret_cast<uint16_t*>(tensor.as<bfloat16>()),
          tensor.rows(),
          num_heads,
          head_size,
          tensor.row_stride(),
          head_size,
          rows,
          kPanel};
}
/// Few, so that each takes several tiles.
inline int num_multiprocessors(Device) { return 2; }

}  // namespace boreas::cuda::hopper
