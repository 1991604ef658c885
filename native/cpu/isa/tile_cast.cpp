// Conversions between every pair of real types, and filling with one value.
#include "cpu/isa/tile_loops.h"

namespace knet::cpu::KNET_ISA {

// To bool is "not zero". Floats are truncated; what does not fit an integer goes through int64, as the processor gives
// it (the result is then no number that one may rely on, as in NumPy).
template <class To, class From>
static inline __attribute__((always_inline)) To convert(From x) {
  if constexpr (std::is_same_v<To, bool>) return x != From(0);
  else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To> && sizeof(To) < 4) return To(int32_t(x));
  else if constexpr (std::is_floating_point_v<From> && std::is_same_v<To, uint32_t>) return To(int64_t(x));
  else if constexpr (std::is_floating_point_v<From> && std::is_same_v<To, uint64_t>)
    return x < From(0x1p63) ? To(int64_t(x)) : To(int64_t(x - From(0x1p63))) ^ (To(1) << 63);
  else return To(x);
}
template <class From, class To>
static void cast(void* dst, const void* const* src, int64_t n) {
  auto* d = static_cast<To*>(dst);
  auto* x = static_cast<const From*>(src[0]);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = convert<To>(x[i]);
}
template <class T>
static void splat(void* dst, const void* value, int64_t n) {
  auto* d = static_cast<T*>(dst);
  const T v = *static_cast<const T*>(value);
  for (int64_t i = 0; i < n; ++i) d[i] = v;
}

template <class T>
static void spread(void* dst, const void* values, int64_t rows, int64_t width) {
  auto* d = static_cast<T*>(dst);
  auto* v = static_cast<const T*>(values);
  constexpr int64_t L = 64 / sizeof(T);
  int64_t r = 0;
  if (width <= L) {
    // A whole vector for each row: the next row overwrites what is too much.
    typedef T V __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
    for (; (rows - r) * width >= L; ++r, d += width) *reinterpret_cast<V*>(d) = V{} + v[r];
  }
  for (; r < rows; ++r, d += width)
    for (int64_t i = 0; i < width; ++i) d[i] = v[r];
}

template <class From>
static constexpr void fill(Map* to) {
  to[kBool] = cast<From, bool>;
  to[kI8] = cast<From, int8_t>;
  to[kI16] = cast<From, int16_t>;
  to[kI32] = cast<From, int32_t>;
  to[kI64] = cast<From, int64_t>;
  to[kU8] = cast<From, uint8_t>;
  to[kU16] = cast<From, uint16_t>;
  to[kU32] = cast<From, uint32_t>;
  to[kU64] = cast<From, uint64_t>;
  to[kF32] = cast<From, float>;
  to[kF64] = cast<From, double>;
}
static constexpr CastTable make() {
  CastTable t{};
  fill<bool>(t.cast[kBool]);
  fill<int8_t>(t.cast[kI8]);
  fill<int16_t>(t.cast[kI16]);
  fill<int32_t>(t.cast[kI32]);
  fill<int64_t>(t.cast[kI64]);
  fill<uint8_t>(t.cast[kU8]);
  fill<uint16_t>(t.cast[kU16]);
  fill<uint32_t>(t.cast[kU32]);
  fill<uint64_t>(t.cast[kU64]);
  fill<float>(t.cast[kF32]);
  fill<double>(t.cast[kF64]);
  t.spread[0] = spread<uint8_t>;
  t.spread[1] = spread<uint16_t>;
  t.spread[2] = spread<uint32_t>;
  t.spread[3] = spread<uint64_t>;
  t.splat[0] = splat<uint8_t>;
  t.splat[1] = splat<uint16_t>;
  t.splat[2] = splat<uint32_t>;
  t.splat[3] = splat<uint64_t>;
  return t;
}

static constexpr CastTable made = make();
const CastTable tile_cast = made;

}  // namespace knet::cpu::KNET_ISA
