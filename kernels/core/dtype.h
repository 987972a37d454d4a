// Element types, and the one place that turns a run-time tag into a compile-time type.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "kernels/core/error.h"

namespace boreas {

enum class DType : uint8_t { f64, f32, bf16, i32, i64, u8 };

/// bfloat16: the upper half of a float32; conversion from float rounds to nearest, ties to even.
struct bfloat16 {
  uint16_t bits = 0;
  bfloat16() = default;
  explicit bfloat16(float value) {
    const uint32_t raw = std::bit_cast<uint32_t>(value);
    const bool is_nan = (raw & 0x7fffffffu) > 0x7f800000u;
    bits = is_nan ? uint16_t((raw >> 16) | 0x40u) : uint16_t((raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}

constexpr std::string_view to_string(DType dtype) {
  constexpr std::string_view names[] = {"f64", "f32", "bf16", "i32", "i64", "u8"};
  return names[int(dtype)];
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bfloat16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

constexpr bool is_floating(DType dtype) { return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::bf16; }

/// The type in which sums, statistics and parameter gradients of a storage type are kept: f64 for f64, else f32.
constexpr DType accumulator_of(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

/// dispatch_float(tag, [&]<class T>() { ... }) with T in {double, float}: the types that the CPU backend computes in.
template <class F>
decltype(auto) dispatch_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f.template operator()<double>();
    case DType::f32:
      return f.template operator()<float>();
    default:
      BOREAS_FAIL(unsupported, "the CPU backend computes in f32 or f64, not in {}", to_string(dtype));
  }
}

/// The same over all element types.
template <class F>
decltype(auto) dispatch_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f.template operator()<double>();
    case DType::f32:
      return f.template operator()<float>();
    case DType::bf16:
      return f.template operator()<bfloat16>();
    case DType::i32:
      return f.template operator()<int32_t>();
    case DType::i64:
      return f.template operator()<int64_t>();
    case DType::u8:
      return f.template operator()<uint8_t>();
  }
  BOREAS_FAIL(internal, "unknown dtype tag {}", int(dtype));
}

}  // namespace boreas
