#include <cstring>

#include "kernels/core/cpu_loops.h"
#include "kernels/gather_rows/gather_rows.h"

namespace boreas {

namespace {

void check_ids(const char* op, const Tensor& ids, int64_t num_rows) {
  const int32_t* const id = ids.as<int32_t>();
  int64_t bad = 0;
#pragma omp simd reduction(+ : bad)
  for (int64_t i = 0; i < ids.size(); ++i) bad += id[i] < 0 || id[i] >= num_rows;
  if (bad == 0) return;
  for (int64_t i = 0; i < ids.size(); ++i)
    BOREAS_CHECK(id[i] >= 0 && id[i] < num_rows, invalid_argument, "{}: ids[{}] is {} but there are {} rows", op, i,
                 id[i], num_rows);
}

}  // namespace

void cpu::launch(Backend, Context&, const GatherRows& op, Tensor) {
  check_ids(op.name, op.ids, op.x.rows());
  const int32_t* const ids = op.ids.as<int32_t>();
  const int64_t element = size_of(op.x.dtype()), row_bytes = op.x.cols() * element;
  if (row_bytes == 0) return;
  const char* const x = static_cast<const char*>(op.x.data());
  char* const y = static_cast<char*>(op.y.data());
#pragma omp parallel for schedule(static) if (op.y.size() >= kParallelElements)
  for (int64_t i = 0; i < op.y.rows(); ++i)
    std::memcpy(y + i * op.y.row_stride() * element, x + ids[i] * op.x.row_stride() * element, row_bytes);
}

void cpu::launch(Backend, Context&, const ScatterAddRows& op, Tensor) {
  check_ids(op.name, op.ids, op.y.rows());
  dispatch_float(op.x.dtype(), [&]<class T>() {
    const int32_t* const ids = op.ids.as<int32_t>();
    const int64_t cols = op.x.cols();
#pragma omp parallel for schedule(static) if (op.x.size() >= kParallelElements)
    for (int64_t i = 0; i < op.x.rows(); ++i) {
      const T* const x = op.x.row<T>(i);
      T* const y = op.y.row<T>(ids[i]);
#pragma omp simd
      for (int64_t c = 0; c < cols; ++c) y[c] += x[c];
    }
  });
}

}  // namespace boreas
