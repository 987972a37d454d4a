#include <cmath>
#include <cstring>

#include "kernels/core/cpu_loops.h"
#include "kernels/elementwise/elementwise.h"

namespace boreas {

namespace {

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<To, bfloat16>)
    return bfloat16(float(value));
  else if constexpr (std::is_same_v<From, bfloat16>)
    return To(float(value));
  else
    return To(value);
}

void copy_rows(const Tensor& x, const Tensor& y) {
  const int64_t element = size_of(x.dtype());
  const bool flat = x.contiguous() && y.contiguous();
  cpu::for_each_stretch(flat ? 1 : y.rows(), flat ? y.size() : y.cols(), [&](int64_t i, int64_t j, int64_t n) {
    std::memcpy(static_cast<char*>(y.data()) + (i * y.row_stride() + j) * element,
                static_cast<const char*>(x.data()) + (i * x.row_stride() + j) * element, n * element);
  });
}

template <class To, class From>
void convert_rows(const Tensor& x, const Tensor& y) {
  cpu::for_each_stretch(y.rows(), y.cols(), [&](int64_t i, int64_t j, int64_t n) {
    const From* const from = x.row<From>(i) + j;
    To* const to = y.row<To>(i) + j;
    for (int64_t k = 0; k < n; ++k) to[k] = convert<To>(from[k]);
  });
}

template <class F>
void dispatch_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f.template operator()<double>();
    case DType::f32:
      return f.template operator()<float>();
    default:
      return f.template operator()<bfloat16>();
  }
}

// Columns of all rows, one pair after the other within a row.
template <class Op, class F>
void pair_columns(const Op& op, F&& f) {
  const int64_t num_pairs = int64_t(op.x_columns.size());
#pragma omp parallel for schedule(static) if (op.y.rows() * num_pairs >= cpu::kParallelElements)
  for (int64_t i = 0; i < op.y.rows(); ++i)
    for (int64_t k = 0; k < num_pairs; ++k) f(i, op.x_columns[k], op.y_columns[k]);
}

// Cells of one task: a tile of cells x columns stays in the first cache level while it is transposed.
constexpr int64_t kTile = 64;

template <class Body>
void for_each_tile(int64_t cells, int64_t columns, Body&& body) {
#pragma omp parallel for schedule(static) if (cells * columns >= cpu::kParallelElements)
  for (int64_t begin = 0; begin < cells; begin += kTile)
    for (int64_t k = 0; k < columns; ++k) body(begin, std::min(begin + kTile, cells), k);
}

}  // namespace

void cpu::launch(Backend, Context&, const Add& op, Tensor) {
  for (const Tensor& operand : {op.a, op.b}) dispatch_float(operand.dtype(), []<class T>() {});  // refuses bf16
  dispatch_float(op.y.dtype(), [&]<class T>() { map_elements<T>([](T a, T b) { return a + b; }, op.y, op.a, op.b); });
}

void cpu::launch(Backend, Context&, const Copy& op, Tensor) {
  if (op.x.dtype() == op.y.dtype()) return copy_rows(op.x, op.y);
  dispatch_floating(op.x.dtype(), [&]<class From>() {
    dispatch_floating(op.y.dtype(), [&]<class To>() { convert_rows<To, From>(op.x, op.y); });
  });
}

void cpu::launch(Backend, Context&, const Fill& op, Tensor) {
  dispatch_dtype(op.y.dtype(), [&]<class T>() {
    const T value = convert<T>(op.value);
    for_each_stretch(op.y.rows(), op.y.cols(),
                     [&](int64_t i, int64_t j, int64_t n) { std::fill_n(op.y.row<T>(i) + j, n, value); });
  });
}

void cpu::launch(Backend, Context&, const Blend& op, Tensor) {
  dispatch_float(op.y.dtype(), [&]<class T>() {
    const T weight = T(op.weight);
    map_elements<T>([weight](T x, T y) { return y + weight * (x - y); }, op.y, op.x, op.y);
  });
}

void cpu::launch(Backend, Context&, const AddPrognostic& op, Tensor) {
  if (op.y.data() != op.delta.data()) copy_rows(op.delta, op.y);
  dispatch_float(op.y.dtype(), [&]<class T>() {
    const int64_t num_pairs = int64_t(op.output_columns.size());
#pragma omp parallel for schedule(static) if (op.y.size() >= kParallelElements)
    for (int64_t i = 0; i < op.y.rows(); ++i) {
      const T* const x = op.x.row<T>(i);
      T* const y = op.y.row<T>(i);
      for (int64_t k = 0; k < num_pairs; ++k) y[op.output_columns[k]] += x[op.input_columns[k]];
    }
  });
}

void cpu::launch(Backend, Context&, const CopyColumns& op, Tensor) {
  dispatch_float(op.x.dtype(), [&]<class X>() {
    dispatch_floating(op.y.dtype(), [&]<class Y>() {
      pair_columns(op,
                   [&](int64_t i, int32_t from, int32_t to) { op.y.row<Y>(i)[to] = convert<Y>(op.x.row<X>(i)[from]); });
    });
  });
}

void cpu::launch(Backend, Context&, const AddColumns& op, Tensor) {
  dispatch_float(op.y.dtype(), [&]<class T>() {
    pair_columns(op, [&](int64_t i, int32_t from, int32_t to) { op.y.row<T>(i)[to] += op.x.row<T>(i)[from]; });
  });
}

void cpu::launch(Backend, Context&, const NormaliseFields& op, Tensor) {
  dispatch_float(op.y.dtype(), [&]<class T>() {
    for_each_tile(op.fields.cols(), op.y.cols(), [&](int64_t begin, int64_t end, int64_t k) {
      const int32_t v = op.columns[k];
      const T mul = T(op.mul[v]), add = T(op.add[v]), fill = T(op.fill[v]);
      const float* const field = op.fields.row<float>(v);
      for (int64_t c = begin; c < end; ++c) {
        const T value = T(field[c]) * mul + add;
        op.y.row<T>(c)[k] = std::isnan(value) ? fill : value;
      }
    });
  });
}

void cpu::launch(Backend, Context&, const DenormaliseFields& op, Tensor) {
  dispatch_float(op.x.dtype(), [&]<class T>() {
    for_each_tile(op.fields.cols(), op.x.cols(), [&](int64_t begin, int64_t end, int64_t k) {
      const int32_t v = op.columns[k];
      const double mul = op.mul[v], add = op.add[v];
      float* const field = op.fields.row<float>(v);
      for (int64_t c = begin; c < end; ++c) field[c] = float((double(op.x.row<T>(c)[k]) - add) / mul);
    });
  });
}

}  // namespace boreas
