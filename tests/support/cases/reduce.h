// The cases of reductions that both the GPU and the emulation run: check(op, parity) for each.
#pragma once

#include <cmath>

#include "kernels/reduce/reduce.h"
#include "tests/support/parity.h"

namespace boreas::test::reduce {

void cases(bool quick, auto&& check) {
  std::vector<std::pair<int64_t, int64_t>> sizes = {{0, 3}, {1, 1}, {7, 5}, {1, 20003}, {700, 89}};
  if (!quick)
    for (const auto& size : {std::pair{1, 100003}, std::pair{20000, 3}, std::pair{30000, 512}}) sizes.push_back(size);
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [n, c] : sizes) {
      SCOPED_TRACE(testing::Message() << n << " x " << c << " " << to_string(dtype));
      Workspace w;
      const Tensor x = w.random(dtype, {n, c}), broken = w.copy_of(x, DType::f32);
      for (int64_t i = 0; i < broken.size(); i += 37) broken.as<float>()[i] = i % 2 ? NAN : -INFINITY;
      check(SumOfSquares{.x = x, .out = w.output(DType::f64, {1})}, Parity{});
      check(CountNonFinite{.x = w.copy_of(broken, dtype), .out = w.output(DType::i64, {1})}, Parity{});
    }
}

}  // namespace boreas::test::reduce
