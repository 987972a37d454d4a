#include <array>
#include <cmath>

#include "kernels/core/cpu_loops.h"
#include "kernels/reduce/reduce.h"

namespace boreas {

namespace {

// Sums f(element) over x: by at most 64 parts, a function of the size only, then over the parts in order.
template <class T, class Sum, class F>
Sum sum_elements(const Tensor& x, const F& f) {
  constexpr int64_t kMostParts = 64;
  const bool flat = x.contiguous();  // then parts are stretches of elements, otherwise of rows
  const int64_t cols = x.cols();
  const Partition parts = Partition::balanced(
      flat ? x.size() : x.rows(),
      std::clamp<int64_t>(x.size() / 4096, 1,
                          flat ? kMostParts : std::min(kMostParts, std::max<int64_t>(x.rows(), 1))));
  std::array<Sum, kMostParts> sums{};
#pragma omp parallel for schedule(static) if (x.size() >= cpu::kParallelElements)
  for (int64_t p = 0; p < parts.num_parts(); ++p) {
    const auto stretch_sum = [&f](const T* values, int64_t n) {
      Sum sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t k = 0; k < n; ++k) sum += f(values[k]);
      return sum;
    };
    if (flat)
      sums[p] = stretch_sum(x.as<T>() + parts[p].begin, parts[p].size());
    else
      for (int64_t i = parts[p].begin; i < parts[p].end; ++i) sums[p] += stretch_sum(x.row<T>(i), cols);
  }
  Sum total = 0;
  for (int64_t p = 0; p < parts.num_parts(); ++p) total += sums[p];
  return total;
}

}  // namespace

void cpu::launch(Backend, Context&, const SumOfSquares& op, Tensor) {
  dispatch_float(op.x.dtype(), [&]<class T>() {
    *op.out.as<double>() = sum_elements<T, double>(op.x, [](T x) { return double(x) * double(x); });
  });
}

void cpu::launch(Backend, Context&, const CountNonFinite& op, Tensor) {
  dispatch_float(op.x.dtype(), [&]<class T>() {
    *op.out.as<int64_t>() = sum_elements<T, int64_t>(op.x, [](T x) { return int64_t(!(x - x == T(0))); });
  });
}

}  // namespace boreas
