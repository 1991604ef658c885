// Values as unsigned numbers in the same order.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace knet::cpu {

template <size_t Bytes>
using Unsigned = std::conditional_t<Bytes == 1, uint8_t,
                 std::conditional_t<Bytes == 2, uint16_t, std::conditional_t<Bytes == 4, uint32_t, uint64_t>>>;
template <class T>
using KeyOf = Unsigned<sizeof(T)>;
template <class U>
constexpr U kSign = U(U(1) << (sizeof(U) * 8 - 1));

// Order of keys = order of values; equal values have equal keys; NaN has the largest in either direction.
template <class T>
inline KeyOf<T> key_of(T x, bool descending) {
  using U = KeyOf<T>;
  if constexpr (std::is_floating_point_v<T>) {
    U u = std::bit_cast<U>(x + T(0));  // -0 + 0 is +0
    // Not x != x, which might trap: loops with it do not become vectors.
    const bool nan = U(u & ~kSign<U>) > std::bit_cast<U>(std::numeric_limits<T>::infinity());
    u ^= U(-U(u >> (sizeof(T) * 8 - 1))) | kSign<U>;
    if (descending) u = U(~u);
    return nan ? U(~U(0)) : u;
  } else {
    U u = U(x);
    if constexpr (std::is_signed_v<T>) u ^= kSign<U>;
    return descending ? U(~u) : u;
  }
}

// The value that has a key: +0 for either zero, some NaN for any.
template <class T>
inline T value_of(KeyOf<T> u, bool descending) {
  using U = KeyOf<T>;
  if (descending) u = U(~u);
  if constexpr (std::is_floating_point_v<T>)
    return std::bit_cast<T>(U(u ^ (U(U(u >> (sizeof(T) * 8 - 1)) - 1) | kSign<U>)));
  else if constexpr (std::is_signed_v<T>) return T(u ^ kSign<U>);
  else return T(u);
}

}  // namespace knet::cpu
