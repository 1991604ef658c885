// Selection, order, rounding, division with remainder; and numbers of twice the digits.
#pragma once
#include <stdint.h>
#include <type_traits>

#define KNET_VM static inline __attribute__((always_inline))

namespace knet::vm {
#ifdef KNET_ISA
inline namespace KNET_ISA {
#endif

template <class T>
concept Int = std::is_integral_v<T>;
template <class T>
concept Flt = std::is_same_v<T, float> || std::is_same_v<T, double>;

KNET_VM uint32_t bits(float x) { return __builtin_bit_cast(uint32_t, x); }
KNET_VM uint64_t bits(double x) { return __builtin_bit_cast(uint64_t, x); }
KNET_VM float from_bits(uint32_t x) { return __builtin_bit_cast(float, x); }
KNET_VM double from_bits(uint64_t x) { return __builtin_bit_cast(double, x); }

inline constexpr uint64_t kSign64 = uint64_t(1) << 63;
inline constexpr double kInf = __builtin_inf(), kNaN = __builtin_nan("");

// c0 + c1 x + c2 x^2 + ...
template <class T>
KNET_VM T poly(T, T c) { return c; }
template <class T, class... C>
KNET_VM T poly(T x, T c, C... more) { return c + x * poly(x, T(more)...); }

// ---- selection, sign, order ----

// By masks: the optimiser makes branches of nested `c ? x : y` when it can follow a condition from one to the next, and
// a loop with branches is not vectorised (softplus took 16 ns an element).
KNET_VM float select(bool c, float x, float y) {
  uint32_t m = -uint32_t(c);
  return from_bits((bits(x) & m) | (bits(y) & ~m));
}
KNET_VM double select(bool c, double x, double y) {
  uint64_t m = -uint64_t(c);
  return from_bits((bits(x) & m) | (bits(y) & ~m));
}
template <Int T>
KNET_VM T select(bool c, T x, T y) { return c ? x : y; }
KNET_VM bool select(bool c, bool x, bool y) { return (c & x) | (!c & y); }

KNET_VM float abs(float x) { return from_bits(bits(x) & 0x7fffffffu); }
KNET_VM double abs(double x) { return from_bits(bits(x) & ~kSign64); }
template <Int T>
KNET_VM T abs(T x) { return x < T(0) ? T(std::make_unsigned_t<T>(0) - std::make_unsigned_t<T>(x)) : x; }
KNET_VM bool abs(bool x) { return x; }
KNET_VM float copysign(float x, float s) { return from_bits((bits(x) & 0x7fffffffu) | (bits(s) & 0x80000000u)); }
KNET_VM double copysign(double x, double s) { return from_bits((bits(x) & ~kSign64) | (bits(s) & kSign64)); }
KNET_VM bool signbit(float x) { return bits(x) >> 31; }
KNET_VM bool signbit(double x) { return bits(x) >> 63; }
template <Int T>
KNET_VM bool signbit(T x) { return x < T(0); }
template <Flt T>
KNET_VM bool isnan(T x) { return x != x; }
template <Flt T>
KNET_VM bool isinf(T x) { return abs(x) == T(kInf); }
template <Flt T>
KNET_VM bool isfinite(T x) { return abs(x) < T(kInf); }
template <Int T>
KNET_VM bool isnan(T) { return false; }
template <Int T>
KNET_VM bool isinf(T) { return false; }
template <Int T>
KNET_VM bool isfinite(T) { return true; }

// -1, 0 or 1; NaN stays.
template <Flt T>
KNET_VM T sign(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x == 0 ? T(0) : x; }
template <Int T>
KNET_VM T sign(T x) { return T((x > T(0)) - (x < T(0))); }

// NaN wins in max and min, loses in fmax and fmin.
template <Flt T>
KNET_VM T max(T a, T b) { return select((a > b) | (a != a), a, b); }
template <Flt T>
KNET_VM T min(T a, T b) { return select((a < b) | (a != a), a, b); }
template <Flt T>
KNET_VM T fmax(T a, T b) { return select((a >= b) | (b != b), a, b); }
template <Flt T>
KNET_VM T fmin(T a, T b) { return select((a <= b) | (b != b), a, b); }
template <Int T>
KNET_VM T max(T a, T b) { return a > b ? a : b; }
template <Int T>
KNET_VM T min(T a, T b) { return a < b ? a : b; }
template <Int T>
KNET_VM T fmax(T a, T b) { return a > b ? a : b; }
template <Int T>
KNET_VM T fmin(T a, T b) { return a < b ? a : b; }

// ---- rounding, roots ----

KNET_VM float floor(float x) { return __builtin_floorf(x); }
KNET_VM double floor(double x) { return __builtin_floor(x); }
KNET_VM float ceil(float x) { return __builtin_ceilf(x); }
KNET_VM double ceil(double x) { return __builtin_ceil(x); }
KNET_VM float trunc(float x) { return __builtin_truncf(x); }
KNET_VM double trunc(double x) { return __builtin_trunc(x); }
KNET_VM float rint(float x) { return __builtin_rintf(x); }
KNET_VM double rint(double x) { return __builtin_rint(x); }
template <Int T>
KNET_VM T floor(T x) { return x; }
template <Int T>
KNET_VM T ceil(T x) { return x; }
template <Int T>
KNET_VM T trunc(T x) { return x; }
template <Int T>
KNET_VM T rint(T x) { return x; }
KNET_VM float sqrt(float x) { return __builtin_sqrtf(x); }
KNET_VM double sqrt(double x) { return __builtin_sqrt(x); }

// ---- division with remainder, as in Python and NumPy ----

KNET_VM float fmod(float a, float b) { return __builtin_fmodf(a, b); }
KNET_VM double fmod(double a, double b) { return __builtin_fmod(a, b); }
template <Flt T>
KNET_VM T floormod(T a, T b) {
  T m = fmod(a, b);
  T s = (m != 0) & ((m < 0) != (b < 0)) ? m + b : m;
  return m == 0 && b == b ? copysign(T(0), b) : s;
}
template <Flt T>
KNET_VM T floordiv(T a, T b) {
  if (b == 0) return a / b;
  T m = fmod(a, b), d = (a - m) / b;
  if (m != 0 && (b < 0) != (m < 0)) d -= T(1);
  if (d == 0) return copysign(T(0), a / b);
  T f = floor(d);
  return d - f > T(0.5) ? f + T(1) : f;
}
// Integers: division by zero gives 0, and the most negative number over -1 wraps, both as in NumPy.
template <Int T>
KNET_VM bool whole_division(T a, T b) {  // can the processor divide?
  if constexpr (std::is_signed_v<T>) return b != 0 && !(b == T(-1) && a == T(uint64_t(1) << (8 * sizeof(T) - 1)));
  return b != 0;
}
template <Int T>
KNET_VM T fmod(T a, T b) { return whole_division(a, b) ? T(a % b) : T(0); }
template <Int T>
KNET_VM T floormod(T a, T b) {
  if (!whole_division(a, b)) return T(0);
  T m = T(a % b);
  if constexpr (std::is_signed_v<T>) {
    if (m != 0 && (m < 0) != (b < 0)) m = T(m + b);
  }
  return m;
}
template <Int T>
KNET_VM T floordiv(T a, T b) {
  if (!whole_division(a, b)) return b == 0 ? T(0) : a;
  T q = T(a / b);
  if constexpr (std::is_signed_v<T>) {
    if (q * b != a && (a < 0) != (b < 0)) q = T(q - 1);
  }
  return q;
}

// Shifts by the width or more give what infinitely many single shifts would; negative counts too.
template <Int T>
KNET_VM T shift_left(T a, T n) {
  return uint64_t(n) < 8 * sizeof(T) ? T(std::make_unsigned_t<T>(a) << (n & T(8 * sizeof(T) - 1))) : T(0);
}
template <Int T>
KNET_VM T shift_right(T a, T n) {
  return uint64_t(n) < 8 * sizeof(T) ? T(a >> (n & T(8 * sizeof(T) - 1))) : a < T(0) ? T(-1) : T(0);
}
KNET_VM bool shift_left(bool a, bool n) { return a & !n; }
KNET_VM bool shift_right(bool a, bool n) { return a & !n; }

// ---- numbers in two parts ----

// h + l, where l is what rounding h lost.
template <class T>
struct Pair { T h, l; };

// a + b exactly, for |a| >= |b| or a = 0.
template <Flt T>
KNET_VM Pair<T> sum(T a, T b) {
  T h = a + b;
  return {h, (a - h) + b};
}
// a + b exactly.
template <Flt T>
KNET_VM Pair<T> add(T a, T b) {
  T h = a + b, t = h - a;
  return {h, (a - (h - t)) + (b - t)};
}
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define KNET_FMA
KNET_VM float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
KNET_VM double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#endif
KNET_VM float upper_half(float x) { return from_bits(bits(x) & 0xfffff000u); }
KNET_VM double upper_half(double x) { return from_bits(bits(x) & ~uint64_t(0x7ffffff)); }
// a * b exactly, unless it is near the smallest numbers. Without a fused operation by halves of the digits (Dekker,
// 1971).
template <Flt T>
KNET_VM Pair<T> product(T a, T b) {
  T h = a * b;
#ifdef KNET_FMA
  return {h, fma(a, b, -h)};
#else
  T ah = upper_half(a), bh = upper_half(b), al = a - ah, bl = b - bh;
  return {h, ((ah * bh - h) + (ah * bl + al * bh)) + al * bl};
#endif
}
template <Flt T>
KNET_VM Pair<T> product(Pair<T> a, Pair<T> b) {
  Pair<T> p = product(a.h, b.h);
  return {p.h, p.l + (a.h * b.l + a.l * b.h)};
}
// n - q d, exact if q is close to n / d.
template <Flt T>
KNET_VM T residual(T n, T q, T d) {
#ifdef KNET_FMA
  return fma(-q, d, n);
#else
  T qh = upper_half(q), dh = upper_half(d), ql = q - qh, dl = d - dh;
  return ((n - qh * dh) - (qh * dl + ql * dh)) - ql * dl;
#endif
}
// a b + c, rounded once; c is far below a b.
template <Flt T>
KNET_VM T fused(T a, T b, T c) {
#ifdef KNET_FMA
  return fma(a, b, c);
#else
  Pair<T> p = product(a, b);
  return select(p.h == 0, p.h, p.h + (p.l + c));
#endif
}
template <Flt T>
KNET_VM Pair<T> quotient(Pair<T> n, Pair<T> d) {
  T r = T(1) / d.h, q = n.h * r;
  return {q, (residual(n.h, q, d.h) + (n.l - q * d.l)) * r};
}
template <Flt T>
KNET_VM Pair<T> root(Pair<T> x) {
  T y = sqrt(x.h);
  return {y, select(y == 0, T(0), (residual(x.h, y, y) + x.l) / (y + y))};
}

#ifdef KNET_ISA
}  // inline namespace KNET_ISA
#endif
}  // namespace knet::vm
