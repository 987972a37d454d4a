// One op in double on the CPU against the same op elsewhere, for any op: what tests on the GPU and of emulated kernels
// share.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "kernels/core/op.h"
#include "tests/support/fixtures.h"
#include "tests/support/tolerances.h"

namespace boreas::test {

/// How the matrices of an op lie: rows one after the other; or rows of a wider matrix that start at no 16-byte
/// boundary; or rows of a wider matrix that do.
enum class Layout { contiguous, unaligned, aligned };
inline constexpr Layout kLayouts[] = {Layout::contiguous, Layout::unaligned, Layout::aligned};

struct Parity {
  double f32 = 1e-6, bf16 = 4e-3;        ///< tolerances, by the type of a result
  std::set<std::string> same_type = {};  ///< tensors whose type the op in double keeps
  std::set<std::string> packed = {};     ///< tensors that must stay contiguous
};

/// The op with every tensor replaced by map(name, tensor); tensors at the same place stay at the same place.
template <class Op, class F>
Op with_tensors(Op op, F&& map) {
  std::vector<std::pair<Tensor, Tensor>> done;
  op.tensors([&](const char* name, const Tensor& tensor, Access) {
    if (tensor.empty()) return;
    Tensor out;
    for (const auto& [from, to] : done)
      if (from.data() == tensor.data() && from.data()) out = to;
    if (out.empty()) out = map(std::string(name), tensor);
    done.emplace_back(tensor, out);
    const_cast<Tensor&>(tensor) = out;  // `op` is a copy of our own
  });
  return op;
}

/// What the op writes.
template <class Op>
std::vector<Tensor> results_of(const Op& op) {
  std::vector<Tensor> results;
  op.tensors([&](const char*, const Tensor& tensor, Access access) {
    if (tensor && access != Access::read) results.push_back(tensor);
  });
  return results;
}

/// What the op writes if it is run in double on the CPU.
template <class Op>
std::vector<Tensor> exact_results(Workspace& w, const Op& host, const Parity& parity) {
  const Op exact = with_tensors(host, [&](const std::string& name, const Tensor& tensor) {
    const bool widen = is_floating(tensor.dtype()) && !parity.same_type.count(name);
    return w.copy_of(tensor, widen ? DType::f64 : tensor.dtype());
  });
  run(w.ctx, exact);
  return results_of(exact);
}

/// An op whose tensors are copies, in a layout, of those of an op on the host. `place` puts a host tensor where the op
/// is to find it, `fetch` is the way back.
template <class Op>
class InLayout {
  struct Wide {
    Tensor before, placed;
    Range columns;
  };
  std::vector<Wide> wides_;

 public:
  Op op;

  InLayout(Workspace& w, const Op& host, Layout layout, const Parity& parity, auto&& place)
      : op(with_tensors(host, [&](const std::string& name, const Tensor& tensor) {
          if (layout == Layout::contiguous || tensor.rows() <= 1 || parity.packed.count(name)) return place(tensor);
          const int64_t cols = tensor.cols(), begin = layout == Layout::unaligned ? 1 : 8;
          const int64_t width = layout == Layout::unaligned ? cols + 5 : (cols + 7) / 8 * 8 + 16;
          Wide wide{.before = w.filled(tensor.dtype(), {tensor.rows(), width}, 3), .columns = {begin, begin + cols}};
          for (int64_t i = 0; i < tensor.rows(); ++i)
            std::memcpy(wide.before.slice({i, i + 1}).columns(wide.columns).data(), tensor.slice({i, i + 1}).data(),
                        cols * size_of(tensor.dtype()));
          wide.placed = place(wide.before);
          wides_.push_back(wide);
          return wide.placed.columns(wide.columns);
        })) {}

  /// What the op wrote, on the host. Expects that nothing between its rows was written.
  std::vector<Tensor> results(auto&& fetch) const {
    std::vector<Tensor> out;
    for (const Tensor& tensor : results_of(op)) {
      const auto wide = std::find_if(wides_.begin(), wides_.end(), [&](const Wide& each) {
        return each.placed.columns(each.columns).data() == tensor.data();
      });
      if (wide == wides_.end()) {
        out.push_back(fetch(tensor));
        continue;
      }
      const Tensor now = fetch(wide->placed);
      out.push_back(now.columns(wide->columns));
      for (const Range& columns : {Range{0, wide->columns.begin}, Range{wide->columns.end, now.cols()}})
        EXPECT_TRUE(identical(now.columns(columns), wide->before.columns(columns))) << "padding was written";
    }
    return out;
  }
};

inline void expect_results(const std::vector<Tensor>& actual, const std::vector<Tensor>& expected,
                           const Parity& parity) {
  for (size_t i = 0; i < actual.size(); ++i)
    expect_close(actual[i], expected[i], actual[i].dtype() == DType::bf16 ? parity.bf16 : parity.f32, 1e-12, 1e-3);
}

inline void expect_same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b, const char* what) {
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(identical(a[i], b[i])) << what;
}

}  // namespace boreas::test
