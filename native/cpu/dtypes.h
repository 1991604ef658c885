// From the DType of an operand to the C++ type of its elements. Half types join by one line here and a struct with
// conversions to and from float.
#pragma once
#include <type_traits>
#include "types.h"

namespace knet::cpu {

// Calls f(std::type_identity<T>{}) with the element type of `t`.
template <class F>
decltype(auto) by_dtype(const char* op, DType t, F&& f) {
  switch (t) {
    case DType::Bool: return f(std::type_identity<bool>{});
    case DType::I8: return f(std::type_identity<int8_t>{});
    case DType::I16: return f(std::type_identity<int16_t>{});
    case DType::I32: return f(std::type_identity<int32_t>{});
    case DType::I64: return f(std::type_identity<int64_t>{});
    case DType::U8: return f(std::type_identity<uint8_t>{});
    case DType::U16: return f(std::type_identity<uint16_t>{});
    case DType::U32: return f(std::type_identity<uint32_t>{});
    case DType::U64: return f(std::type_identity<uint64_t>{});
    case DType::F32: return f(std::type_identity<float>{});
    case DType::F64: return f(std::type_identity<double>{});
    default: break;
  }
  throw Error(Error::Type, "[" + std::string(op) + "] the CPU has no kernel for " + name(t) +
                               ". Convert to float32 or float64 first.");
}

// Calls f with an unsigned type of `bytes` bytes: for kernels that only move elements.
template <class F>
decltype(auto) by_size(size_t bytes, F&& f) {
  struct alignas(8) Wide { uint64_t half[2]; };  // complex128
  switch (bytes) {
    case 1: return f(std::type_identity<uint8_t>{});
    case 2: return f(std::type_identity<uint16_t>{});
    case 4: return f(std::type_identity<uint32_t>{});
    case 8: return f(std::type_identity<uint64_t>{});
    default: return f(std::type_identity<Wide>{});
  }
}

// What integers and floats are accumulated in: 64 bits, modulo 2^64, or double.
template <class T>
using Accumulator = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;

template <class T>
inline T add(T a, T b) {
  if constexpr (std::is_same_v<T, bool>) return a | b;
  else if constexpr (std::is_integral_v<T>) return T(uint64_t(a) + uint64_t(b));  // wraps, as NumPy does
  else return a + b;
}

}  // namespace knet::cpu
