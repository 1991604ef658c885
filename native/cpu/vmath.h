// Elementary functions for vectorised loops: branch-free, inlined, on float, double and (where it means something) integers.
//
// The compiler turns a loop over them into vector code for the instruction set that the file is built for. Everything lives
// in an inline namespace named after that instruction set, so that the linker can never mix the copies.
// Polynomials are interpolations at Chebyshev nodes in 60 digits; the relative error of each stands beside it.
// float functions that need more than float inside (sin, erf, pow...) compute in double, which vectorises at half the width;
// double functions that do compute in pairs of doubles. tests/test_vmath.py holds what each may be off by.
// Not vectorised: gamma functions, erfinv, fmod, and sin, cos and tan of blocks with an argument beyond kWide.
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

// By masks: the optimiser makes branches of nested `c ? x : y` when it can follow a condition from one to the next, and a loop
// with branches is not vectorised (softplus took 16 ns an element).
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
// a * b exactly, unless it is near the smallest numbers. Without a fused operation by halves of the digits (Dekker, 1971).
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

// ---- exponentials ----

// Adding 1.5 * 2^(mantissa bits) rounds to an integer and leaves it in the low bits.
inline constexpr float kRound32 = 0x1.8p23f;
inline constexpr double kRound64 = 0x1.8p52;

KNET_VM float pow2i(int32_t k) { return from_bits(uint32_t(k + 127) << 23); }
KNET_VM double pow2i(int64_t k) { return from_bits(uint64_t(k + 1023) << 52); }
// m * 2^k in two steps, so that results near overflow and subnormal ones come out right.
KNET_VM float scale(float m, int32_t k) {
  int32_t h = k >> 1;
  return m * pow2i(h) * pow2i(k - h);
}
KNET_VM double scale(double m, int64_t k) {
  int64_t h = int32_t(k) >> 1;
  return m * pow2i(h) * pow2i(k - h);
}

// (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2: 7.7e-9 and 1.3e-17, times r^2.
KNET_VM float exp_tail(float r) {
  return poly(r, 0.5f, 1.666657478e-01f, 4.166655242e-02f, 8.363472298e-03f, 1.392655075e-03f);
}
KNET_VM double exp_tail(double r) {
  return poly(r, 0x1.0000000000001p-1, 0x1.5555555555556p-3, 0x1.5555555553c6ep-5, 0x1.1111111110968p-7,
              0x1.6c16c178eacddp-10, 0x1.a01a01a7fe886p-13, 0x1.a019b79e1be34p-16, 0x1.71de0ccc924eep-19,
              0x1.289337bb69512p-22, 0x1.af3ac01ffae9ap-26);
}

// x = k ln 2 + r + c, c below the last bit of r
struct Reduced32 { float r, c; int32_t k; };
struct Reduced64 { double r, c; int64_t k; };
KNET_VM Reduced32 exp_reduce(float x) {
  float t = x * 1.44269504f + kRound32, k = t - kRound32;
  float h = x - k * 0x1.62e4p-1f, w = k * 0x1.7f7d1cp-20f, r = h - w;
  return {r, (h - r) - w, int32_t(bits(t) - bits(kRound32))};
}
KNET_VM Reduced64 exp_reduce(double x) {
  double t = x * 1.4426950408889634 + kRound64, k = t - kRound64;
  double h = x - k * 0x1.62e42fefa2p-1, w = k * 0x1.9ef35793c7673p-41, r = h - w;
  return {r, (h - r) - w, int64_t(bits(t) - bits(kRound64))};
}
template <class T>
KNET_VM T most(T x, T hi) { return select(x > hi, hi, x); }  // NaN stays
template <class T>
KNET_VM T clamp(T x, T lo, T hi) { return most(select(x < lo, lo, x), hi); }

// 1 + r is split into its rounded value and the rest: half an ulp less.
template <Flt T>
KNET_VM T exp_of(T r) {
  Pair<T> s = sum(T(1), r);
  return s.h + (s.l + r * r * exp_tail(r));
}
KNET_VM float exp(float x) {
  Reduced32 a = exp_reduce(clamp(x, -105.0f, 89.0f));
  return scale(exp_of(a.r), a.k);
}
KNET_VM double exp(double x) {
  Reduced64 a = exp_reduce(clamp(x, -750.0, 710.0));
  return scale(exp_of(a.r), a.k);
}
KNET_VM double exp2(double x) {
  x = clamp(x, -1080.0, 1025.0);
  double t = x + kRound64, r = (x - (t - kRound64)) * 0.6931471805599453;
  return scale(exp_of(r), int64_t(bits(t) - bits(kRound64)));
}
// exp(x) for |x| < 700, enough for a float
KNET_VM double short_exp_of(double r, int64_t k) {
  // (exp(r) - 1 - r) / r^2: 3.2e-12, times r^2
  double p = poly(r, 0.5, 0x1.55555567532adp-3, 0x1.5555555c87148p-5, 0x1.1110c632a3088p-7, 0x1.6c16858b7acb9p-10,
                  0x1.a15179d80ae96p-13, 0x1.a1132015ba37ep-16);
  return (1.0 + (r + r * r * p)) * pow2i(k);
}
KNET_VM double short_exp(double x) {
  Reduced64 a = exp_reduce(x);
  return short_exp_of(a.r, a.k);
}
KNET_VM float exp2(float x) {
  double y = clamp(x, -200.0f, 200.0f), t = y + kRound64;
  return float(short_exp_of((y - (t - kRound64)) * 0.6931471805599453, int64_t(bits(t) - bits(kRound64))));
}

// (exp(r) - 1 - r - r^2/2) / (r^3/2) for |r| <= ln(2)/2: 7.0e-19, times r^3/2.
KNET_VM double exp_cubic(double r) {
  return poly(r, 0x1.5555555555556p-2, 0x1.5555555555555p-4, 0x1.11111111109b3p-6, 0x1.6c16c16c167e1p-9, 0x1.a01a01a7c41d5p-12,
              0x1.a01a01a47b054p-15, 0x1.71de0dae63bb3p-18, 0x1.27e4e1f48534fp-21, 0x1.af38a9b0ec855p-25, 0x1.1f66df7fca49fp-28);
}
// exp(x + l) = (1 + m) 2^k with the digits of m that a T has no room for.
template <class T>
struct Power {
  Pair<T> m;
  std::conditional_t<sizeof(T) == 4, int32_t, int64_t> k;
  Pair<T> one_more() const { Pair<T> s = sum(T(1), m.h); return {s.h, s.l + m.l}; }
};
KNET_VM Power<float> power(float x) {
  Reduced32 a = exp_reduce(x);
  Pair<float> s = sum(a.r, a.r * a.r * exp_tail(a.r));
  return {{s.h, s.l + a.c}, a.k};
}
KNET_VM Pair<double> power_of(double r, double c) {
  Pair<double> q = product(r, 0.5 * r), s = sum(r, q.h);
  return sum(s.h, s.l + (r * q.h * exp_cubic(r) + (q.l + (c + c * r))));
}
KNET_VM Power<double> power(double x) {
  Reduced64 a = exp_reduce(x);
  return {power_of(a.r, a.c), a.k};
}
KNET_VM Power<double> power(Pair<double> x) {
  Reduced64 a = exp_reduce(x.h);
  Pair<double> r = sum(a.r, a.c + x.l);
  return {power_of(r.h, r.l), a.k};
}
KNET_VM double exp10(double x) {
  x = clamp(x, -330.0, 310.0);
  Pair<double> y = product(x, 0x1.26bb1bbb55516p+1);
  Power<double> p = power(Pair<double>{y.h, y.l - x * 0x1.f48ad494ea3e9p-53});
  Pair<double> e = p.one_more();
  return scale(e.h + e.l, p.k);
}
KNET_VM float exp10(float x) { return float(short_exp(double(clamp(x, -50.0f, 50.0f)) * 2.302585092994046)); }
// 2^k ((1 - 2^-k) + m): no cancellation, since m is never near -1.
template <Flt T>
KNET_VM Pair<T> less_one(Power<T> p) {
  Pair<T> one = sum(T(1), -pow2i(-p.k)), s = sum(one.h, p.m.h);
  return {s.h, s.l + (p.m.l + one.l)};
}
KNET_VM double expm1(double x) {
  Power<double> p = power(clamp(x, -50.0, 710.0));
  Pair<double> y = less_one(Power<double>{p.m, p.k > 1000 ? int64_t(1000) : p.k});
  return select(x == 0, x, scale(y.h + y.l, p.k));
}
KNET_VM double short_expm1(double x) {  // |x| < 700
  Reduced64 a = exp_reduce(x);
  double f = pow2i(a.k);
  return (f - 1.0) + f * (a.r + a.r * a.r * exp_tail(a.r));
}
KNET_VM float expm1(float x) { return select(x == 0, x, float(short_expm1(double(clamp(x, -50.0f, 100.0f))))); }

// ---- logarithms ----

inline constexpr uint32_t kSqrtHalf32 = 0x3f3504f3;  // bits of sqrt(1/2)
inline constexpr uint64_t kSqrtHalf64 = 0x3fe6a09e667f3bcd;

// x = 2^e m with sqrt(1/2) <= m < sqrt(2); subnormal x too.
struct Split32 { float m, e; };
struct Split64 { double m, e; };
KNET_VM Split32 split(float x) {
  bool tiny = x < 0x1p-126f;
  uint32_t i = bits(select(tiny, x * 0x1p25f, x)) - kSqrtHalf32;
  return {from_bits((i & 0x7fffffu) + kSqrtHalf32), float(int32_t(i) >> 23) - select(tiny, 25.0f, 0.0f)};
}
KNET_VM Split64 split(double x) {
  bool tiny = x < 0x1p-1022;
  uint64_t i = bits(select(tiny, x * 0x1p54, x)) - kSqrtHalf64;
  double e = double(int32_t(i >> 32) >> 20);
  return {from_bits((i & uint64_t(0xfffffffffffff)) + kSqrtHalf64), e - select(tiny, 54.0, 0.0)};
}
template <class T>
KNET_VM T log_special(T x, T y) {
  y = select(x < T(kInf), y, x);  // infinity and NaN
  y = select(x == 0, T(-kInf), y);
  return select(x < 0, T(kNaN), y);
}
KNET_VM float log(float x) {
  Split32 a = split(x);
  float f = a.m - 1.0f;
  // (log(1 + f) - f + f^2/2) / f^3: 2.8e-9 of the logarithm
  float p = poly(f, 3.333333135e-01f, -2.499999702e-01f, 2.000071555e-01f, -1.666780263e-01f, 1.424905807e-01f,
                 -1.242568716e-01f, 1.168541983e-01f, -1.147973388e-01f, 6.971611828e-02f);
  // e ln 2 + f exactly as hi + lo: near x = 0.7 both cancel.
  float eh = a.e * 0x1.62e4p-1f, hi = eh + f, lo = (eh - hi) + f;
  float f2 = f * f;
  return log_special(x, hi + (lo + (a.e * 0x1.7f7d1cp-20f - (0.5f * f2 - f2 * f * p))));
}
// log(2^e (1 + f) + c) with a correction c far below the rest
KNET_VM double log_of(double f, double e, double c) {
  double s = f / (2.0 + f), z = s * s, h = 0.5 * f * f;
  // (log((1 + s)/(1 - s)) - 2 s) / s^3: 8.5e-18 times s^2
  double r = z * poly(z, 0x1.5555555555558p-1, 0x1.9999999995273p-2, 0x1.2492492dfd86cp-2, 0x1.c71c62d5e53e0p-3,
                      0x1.7462b91b8df65p-3, 0x1.39fdcceb4bb45p-3, 0x1.2b5f68a50d903p-3);
  return e * 0x1.62e42fefa2p-1 - ((h - (s * (h + r) + (e * 0x1.9ef35793c7673p-41 + c))) - f);
}
KNET_VM double log(double x) {
  Split64 a = split(x);
  return log_special(x, log_of(a.m - 1.0, a.e, 0.0));
}
// log(1 + x.h + x.l)
KNET_VM double log1p(Pair<double> x) {
  Pair<double> u = add(1.0, x.h);
  double c = select((u.h > 0) & (u.h < kInf), (u.l + x.l) / u.h, 0.0);
  Split64 a = split(u.h);
  return log_special(u.h, log_of(a.m - 1.0, a.e, c));
}
KNET_VM double log1p(double x) { return select(x == 0, x, log1p(Pair<double>{x, 0.0})); }
KNET_VM float log1p(float x) {  // in double 1 + x loses nothing that a float shows, unless the result is x itself
  return select(abs(x) < 0x1p-25f, x, float(log(1.0 + double(x))));
}
KNET_VM float log2(float x) {
  double d = x;
  Split64 a = split(d);
  return log_special(x, float(a.e + log_of(a.m - 1.0, 0.0, 0.0) * 1.4426950408889634));
}
KNET_VM float log10(float x) { return float(log(double(x)) * 0.4342944819032518); }

// log(m) for sqrt(1/2) <= m < sqrt(2) in two parts: 1e-20
KNET_VM Pair<double> log_pair(double m) {
  double f = m - 1.0;
  Pair<double> s = quotient(Pair<double>{f, 0.0}, sum(2.0, f)), z = product(s, s);
  // log((1 + s)/(1 - s)) = 2 s + s z (2/3 + z q(z))
  Pair<double> u = sum(0x1.5555555555555p-1,
                       z.h * poly(z.h, 0x1.999999999999ap-2, 0x1.2492492492522p-2, 0x1.c71c71c6ea871p-3, 0x1.745d177aad02ap-3,
                                  0x1.3b1395c881220p-3, 0x1.1118c9ee5b8a4p-3, 0x1.df7c5bc7c7563p-4, 0x1.e032e4d8436a1p-4));
  Pair<double> v = product(product(s, z), Pair<double>{u.h, u.l + 0x1.5555555555555p-55});
  Pair<double> y = sum(s.h + s.h, v.h);
  return sum(y.h, y.l + ((s.l + s.l) + v.l));
}
KNET_VM Pair<double> log_pair(Split64 a) {
  Pair<double> m = log_pair(a.m), y = sum(a.e * 0x1.62e42fefa2p-1, m.h);
  return sum(y.h, y.l + (m.l + a.e * 0x1.9ef35793c7673p-41));
}
KNET_VM double log2(double x) {
  Split64 a = split(x);
  Pair<double> y = product(log_pair(a.m), Pair<double>{0x1.71547652b82fep+0, 0x1.777d0ffda0d24p-56}), s = sum(a.e, y.h);
  return log_special(x, s.h + (s.l + y.l));
}
KNET_VM double log10(double x) {
  Pair<double> y = product(log_pair(split(x)), Pair<double>{0x1.bcb7b1526e50ep-2, 0x1.95355baaafad3p-57});
  return log_special(x, y.h + y.l);
}

// ---- the squashing functions ----

// (exp(2a) - 1) / (exp(2a) + 1), both divided by the power of two in exp(2a)
template <Flt T>
KNET_VM T tanh(T x) {
  T a = most(abs(x), T(sizeof(T) == 4 ? 9.1 : 19.1));  // there it rounds to 1
  Power<T> p = power(a + a);
  Pair<T> one = sum(T(1), pow2i(-p.k)), d = sum(one.h, p.m.h);
  Pair<T> q = quotient(less_one(p), Pair<T>{d.h, d.l + (p.m.l + one.l)});
  return copysign(q.h + q.l, x);
}
// 1 / (1 + exp(-x)) = (1 or z) / (1 + z) with z = exp(-|x|): q f g. What is scaled last has all its digits where the result
// is subnormal.
template <class T>
struct Scaled {
  Pair<T> q;
  T f, g;
};
template <class T>
inline constexpr T kSigmEnd = sizeof(T) == 4 ? 120 : 800;  // x sigm(x) rounds to 0 below minus this, to x above
template <Flt T>
KNET_VM Scaled<T> sigm_parts(T x) {
  Power<T> p = power(-most(abs(x), kSigmEnd<T>));
  Pair<T> n = p.one_more();
  auto k = decltype(p.k)(int32_t(p.k) >> 1);
  T f = pow2i(k), g = pow2i(p.k - k), z = f * g;
  Pair<T> d = sum(T(1), n.h * z);
  d.l += n.l * z;
  bool up = x >= 0;
  return {quotient(Pair<T>{select(up, T(1), n.h), select(up, T(0), n.l)}, d), select(up, T(1), f), select(up, T(1), g)};
}
template <Flt T>
KNET_VM T sigm(T x) {
  Scaled<T> s = sigm_parts(x);
  return (s.q.h + s.q.l) * s.f * s.g;
}
template <Flt T>
KNET_VM T swish(T x) {  // x sigm(x)
  Scaled<T> s = sigm_parts(x);
  T y = select(x < -kSigmEnd<T>, -kSigmEnd<T>, x);
  return select(x > kSigmEnd<T>, x, fused(y, s.q.h, y * s.q.l) * s.f * s.g);
}
KNET_VM double softplus(double x) {
  Power<double> p = power(-most(abs(x), 800.0));
  Pair<double> z = p.one_more();
  return max(x, 0.0) + log1p(Pair<double>{scale(z.h, p.k), scale(z.l, p.k)});
}
// log(1 + z) for 0 <= z <= 1, enough for a float: 2 artanh(z / (2 + z))
KNET_VM double short_log1p(double z) {
  double t = z / (2.0 + z), w = t * t;
  return t * poly(w, 2.0, 0x1.55555553e7594p-1, 0x1.9999a0d3dcfedp-2, 0x1.248f579c7d0d0p-2, 0x1.c7fb3587cdba6p-3, 0x1.65ad56d9e0064p-3, 0x1.a9bafb0c93ac9p-3);
}
KNET_VM float softplus(float x) {
  double d = x;
  return float(select(d > 0, d, 0.0) + short_log1p(short_exp(-most(abs(d), 200.0))));
}
// x tanh(softplus(x)) = x n / (n + 2) with n = exp(x) (exp(x) + 2)
KNET_VM double mish(double x) {
  double y = clamp(x, -800.0, 40.0);
  Power<double> w = power(y);
  Pair<double> m = w.one_more(), e = {scale(m.h, w.k), scale(m.l, w.k)}, f = add(e.h, 2.0);
  f.l += e.l;
  Pair<double> p = product(e, f), d = add(p.h, 2.0), q = quotient(product(m, f), Pair<double>{d.h, d.l + p.l});
  p = product(y, q.h);
  return select(x > 40.0, x, copysign(scale(p.h + (p.l + y * q.l), w.k), x));
}
KNET_VM float mish(float x) {
  double y = clamp(x, -200.0f, 40.0f), e = short_exp(y), n = e * (e + 2.0);
  return select(x > 40.0f, x, float(y * (n / (n + 2.0))));
}

// ---- trigonometry ----

// Valid for |x| up to kWide; the namespace `wide` below has the functions for all numbers.
inline constexpr double kWide = 3e5;
inline constexpr double kPi = 3.14159265358979323846;

// x = k pi/2 + r + t, t below the last bit of r
struct Quadrant { double r, t; int64_t k; };
KNET_VM Quadrant quadrant(double x) {
  double u = x * 0.6366197723675814 + kRound64, k = u - kRound64;
  // pi/2 in parts of 33, 33 and 53 bits: the first two products are exact.
  double a = x - k * 0x1.921fb544p+0, w = k * 0x1.0b4611a6p-34, b = a - w;
  double t = ((a - b) - w) - k * 0x1.3198a2e037073p-69;
  double r = b + t;
  return {r, (b - r) + t, int64_t(bits(u))};
}
KNET_VM Pair<double> sin_pair(double r, double t) {
  double z = r * r;
  double p = poly(z, -0x1.5555555555555p-3, 0x1.1111111110ba5p-7, -0x1.a01a019e8069ap-13, 0x1.71de3792528abp-19,
                  -0x1.ae60069ee3ecfp-26, 0x1.5e09858a97437p-33);  // 1.8e-17
  return sum(r, r * z * p + t * (1.0 - 0.5 * z));
}
KNET_VM double sin_of(double r, double t) { return sin_pair(r, t).h; }
KNET_VM Pair<double> cos_pair(double r, double t) {
  double z = r * r, h = 0.5 * z, w = 1.0 - h;
  double p = poly(z, 0x1.5555555555555p-5, -0x1.6c16c16c16960p-10, 0x1.a01a019f4d0f0p-16, -0x1.27e4fa15bdc69p-22,
                  0x1.1eeb66b6cb12cp-29, -0x1.907c0e977e8bdp-37);  // 8.4e-19
  return sum(w, ((1.0 - w) - h) + (z * z * p - r * t));
}
KNET_VM double cos_of(double r, double t) { return cos_pair(r, t).h; }
KNET_VM double turn(double s, double c, int64_t k) {  // sin(r + k pi/2)
  double y = k & 1 ? c : s;
  return from_bits(bits(y) ^ (uint64_t(k & 2) << 62));
}
KNET_VM double sin(double x) {
  Quadrant q = quadrant(x);
  double y = turn(sin_of(q.r, q.t), cos_of(q.r, q.t), q.k);
  return select(x == 0, x, y);
}
KNET_VM double cos(double x) {
  Quadrant q = quadrant(x);
  return turn(sin_of(q.r, q.t), cos_of(q.r, q.t), q.k + 1);
}
KNET_VM double tan(double x) {
  Quadrant q = quadrant(x);
  Pair<double> s = sin_pair(q.r, q.t), c = cos_pair(q.r, q.t);
  bool odd = q.k & 1;
  Pair<double> n = {select(odd, -c.h, s.h), select(odd, -c.l, s.l)}, d = {select(odd, s.h, c.h), select(odd, s.l, c.l)};
  Pair<double> y = quotient(n, d);
  return select(x == 0, x, y.h + y.l);
}
struct Short { double s, c; int64_t k; };
KNET_VM Short short_sincos_of(double r, int64_t k) {
  double z = r * r;
  double s = poly(z, -0x1.555555545c0fdp-3, 0x1.11110dea5f29ep-7, -0x1.a013a116ee9c5p-13, 0x1.6dbbee63fbd5cp-19);  // 1.7e-11
  double c = poly(z, 0x1.5555555502261p-5, -0x1.6c16bf51b1490p-10, 0x1.a015c028ae9c5p-16, -0x1.2522e707282ddp-22);  // 8.6e-13
  return {r + r * z * s, (1.0 - 0.5 * z) + z * z * c, k};
}
KNET_VM Short short_sincos(float x) {
  double u = double(x) * 0.6366197723675814 + kRound64, k = u - kRound64;
  return short_sincos_of((double(x) - k * 0x1.921fb544p+0) - k * 0x1.0b4611a62633p-34, int64_t(bits(u)));
}
KNET_VM float sin(float x) {
  Short a = short_sincos(x);
  float y = float(turn(a.s, a.c, a.k));
  return select(x == 0, x, y);
}
KNET_VM float cos(float x) {
  Short a = short_sincos(x);
  return float(turn(a.s, a.c, a.k + 1));
}
KNET_VM float tan(float x) {
  Short a = short_sincos(x);
  float y = float(a.k & 1 ? -a.c / a.s : a.s / a.c);
  return select(x == 0, x, y);
}

// sin(pi x) / (pi x): half turns are taken off exactly.
KNET_VM double sinc(double x) {
  double y = clamp(x, -0x1p60, 0x1p60), k = rint(y + y), r = y - 0.5 * k;
  int64_t turns = int64_t(bits((k - 4.0 * rint(0.25 * k)) + kRound64));
  Pair<double> p = product(r, kPi), d = product(y, kPi);
  p.l += r * 0x1.1a62633145c07p-53, d.l += y * 0x1.1a62633145c07p-53;
  Pair<double> a = sin_pair(p.h, p.l), b = cos_pair(p.h, p.l);
  Pair<double> q = quotient(Pair<double>{turn(a.h, b.h, turns), turn(a.l, b.l, turns)}, d);
  return select(abs(x) < 0x1p-30, 1.0, select(isinf(x), kNaN, q.h + q.l));
}
KNET_VM float sinc(float x) {
  double y = clamp(double(x), -0x1p30, 0x1p30), u = (y + y) + kRound64, r = kPi * (y - 0.5 * (u - kRound64));
  Short a = short_sincos_of(r, int64_t(bits(u)));
  return select(x == 0, 1.0f, select(isinf(x), float(kNaN), float(turn(a.s, a.c, a.k) / (kPi * y))));
}

KNET_VM double atan_unit(double x) {  // 0 <= x <= 1, 2.1e-10
  double z = x * x;
  return x + x * z * poly(z, -0x1.5555554e74b35p-2, 0x1.99998c8c70e06p-3, -0x1.249035356f79fp-3, 0x1.c6d94a4e392f4p-4,
                          -0x1.72251c83739b9p-4, 0x1.2fd217ccc6a7ap-4, -0x1.d7eaf8f924fc4p-5, 0x1.39fa7ae12ac35p-5,
                          -0x1.3b92d4977ae50p-6, 0x1.96cc733874da8p-8, -0x1.eae3fce3e9b57p-11);
}
// atan2 good to 2e-10 relative, enough for a float
KNET_VM double short_atan2(double y, double x) {
  double ax = abs(x), ay = abs(y), hi = ax > ay ? ax : ay, lo = ax > ay ? ay : ax;
  double q = lo / hi;
  q = hi == 0 ? 0.0 : q;
  q = lo == kInf ? 1.0 : q;
  double a = atan_unit(q);
  a = ay > ax ? kPi / 2 - a : a;
  a = signbit(x) ? kPi - a : a;
  a = copysign(a, y);
  return (x != x) | (y != y) ? x + y : a;
}
KNET_VM float atan(float x) { return float(short_atan2(double(x), 1.0)); }
KNET_VM float atan2(float y, float x) { return float(short_atan2(double(y), double(x))); }
KNET_VM float asin(float x) {
  double d = x;
  return float(short_atan2(d, sqrt((1.0 - d) * (1.0 + d))));
}
KNET_VM float acos(float x) {
  double d = x;
  return float(short_atan2(sqrt((1.0 - d) * (1.0 + d)), d));
}
// The angle from 0 to pi of the direction (x or -x, y), x and y not negative and of a size to add and multiply.
KNET_VM double angle(Pair<double> y, Pair<double> x, bool left) {
  bool steep = y.h > x.h;
  Pair<double> lo = {select(steep, x.h, y.h), select(steep, x.l, y.l)}, hi = {select(steep, y.h, x.h), select(steep, y.l, x.l)};
  bool turned = lo.h > 0.41421356 * hi.h;  // by pi/4
  Pair<double> minus = sum(-hi.h, lo.h), plus = sum(hi.h, lo.h);
  Pair<double> n = {select(turned, minus.h, lo.h), select(turned, minus.l + (lo.l - hi.l), lo.l)};
  Pair<double> d = {select(turned, plus.h, hi.h), select(turned, plus.l + (lo.l + hi.l), hi.l)};
  d.h = select(hi.h == 0, 1.0, d.h);
  Pair<double> q = quotient(n, d);
  double t = q.h, z = t * t;
  // (atan(t) - t) / t^3 for |t| <= tan(pi/8): 7.1e-18, times z
  double p = poly(z, -0x1.5555555555555p-2, 0x1.999999999934bp-3, -0x1.2492492436180p-3, 0x1.c71c7185386f1p-4,
                  -0x1.745d0b27da190p-4, 0x1.3b1262f3a2b5bp-4, -0x1.10fa76aa9b02cp-4, 0x1.dfe637a48099bp-5,
                  -0x1.a0993ef875d4ap-5, 0x1.4161b24be475bp-5, -0x1.3a2f1cc1ba3c5p-6);
  double l = t * z * p + q.l * (1.0 - z);
  bool down = steep != left;
  double k = select(turned, select(left, 3.0, 1.0), select(steep, 2.0, select(left, 4.0, 0.0)));  // in pi/4
  Pair<double> s = sum(k * 0x1.921fb544p-1, select(down, -t, t));  // the first product is exact
  return s.h + (s.l + (k * 0x1.0b4611a626331p-35 + select(down, -l, l)));
}
KNET_VM double atan(double x) {
  return copysign(angle(Pair<double>{most(abs(x), 0x1p500), 0.0}, Pair<double>{1.0, 0.0}, false), x);
}
KNET_VM double atan2(double y, double x) {
  double a = abs(y), b = abs(x), big = max(a, b);
  double f = select(big > 0x1p900, 0x1p-800, select(big < 0x1p-900, 0x1p800, 1.0));
  bool infinite = big == kInf;
  a = select(infinite, select(a == kInf, 1.0, 0.0), a * f);
  b = select(infinite, select(b == kInf, 1.0, 0.0), b * f);
  double r = copysign(angle(Pair<double>{a, 0.0}, Pair<double>{b, 0.0}, signbit(x)), y);
  return select((x != x) | (y != y), x + y, r);
}
KNET_VM Pair<double> other_leg(double x) {  // sqrt(1 - x^2)
  Pair<double> p = product(x, x), d = sum(1.0, -p.h);
  return root(Pair<double>{d.h, d.l - p.l});
}
KNET_VM double asin(double x) {
  double y = copysign(angle(Pair<double>{abs(x), 0.0}, other_leg(x), false), x);
  return select(abs(x) <= 1.0, y, kNaN);
}
KNET_VM double acos(double x) {
  double y = angle(other_leg(x), Pair<double>{abs(x), 0.0}, signbit(x));
  return select(abs(x) <= 1.0, y, kNaN);
}

// ---- hyperbolic ----

KNET_VM float sinh(float x) {
  double e = short_expm1(double(most(abs(x), 100.0f)));
  return copysign(float(0.5 * (e + e / (e + 1.0))), x);
}
KNET_VM float cosh(float x) {
  double e = short_exp(double(most(abs(x), 100.0f)));
  return float(0.5 * (e + 1.0 / e));
}
KNET_VM float asinh(float x) {
  double a = abs(double(x)), z = a * a;
  double t = a + z / (1.0 + sqrt(1.0 + z));
  return copysign(float(log1p(a < kInf ? t : a)), x);
}
KNET_VM float acosh(float x) {
  double t = double(x) - 1.0;
  return float(log1p(select(t < 0, kNaN, t + sqrt(t * (t + 2.0)))));
}
KNET_VM float atanh(float x) {
  double a = abs(double(x));
  return copysign(float(0.5 * log1p(2.0 * a / (1.0 - a))), x);
}
// exp(a)/2 and exp(-a)/2 in units of 2^k: their sum or difference
KNET_VM double half_exp(double a, double sign) {
  Power<double> p = power(most(a, 711.0));
  Pair<double> e = p.one_more(), r = quotient(Pair<double>{1.0, 0.0}, e);
  double f = sign * pow2i(-2 * (p.k > 500 ? int64_t(500) : p.k));
  Pair<double> s = sum(e.h, f * r.h);
  return scale(s.h + (s.l + (e.l + f * r.l)), p.k - 1);
}
KNET_VM double sinh(double x) {
  double a = abs(x), z = a * a;
  // (sinh(a) - a) / a^3 for a < 1: 9.2e-18 times z
  double small = a + a * z * poly(z, 0x1.5555555555555p-3, 0x1.11111111110fdp-7, 0x1.a01a01a01ee70p-13, 0x1.71de3a4e14f40p-19,
                                  0x1.ae6460fae3728p-26, 0x1.611cb330c1fe8p-33, 0x1.b41232cf9950fp-41);
  return copysign(select(a < 1.0, small, half_exp(a, -1.0)), x);
}
KNET_VM double cosh(double x) { return half_exp(abs(x), 1.0); }
KNET_VM double log_twice(double x) {  // log(2 x), also where 2 x overflows
  Split64 a = split(x);
  return log_special(x, log_of(a.m - 1.0, a.e + 1.0, 0.0));
}
KNET_VM double asinh(double x) {
  double a = abs(x), z = a * a;
  Pair<double> t = sum(a, z / (1.0 + sqrt(1.0 + z)));
  return copysign(select(a > 0x1p28, log_twice(a), log1p(t)), x);
}
KNET_VM double acosh(double x) {
  double t = x - 1.0;
  Pair<double> p = product(t, t), v = add(t + t, p.h), r = root(Pair<double>{v.h, v.l + p.l}), u = add(t, r.h);
  double y = log1p(Pair<double>{u.h, u.l + r.l});
  return select(t < 0, kNaN, select(x > 0x1p28, log_twice(x), y));
}
KNET_VM double atanh(double x) {
  double a = abs(x);
  Pair<double> q = quotient(Pair<double>{a + a, 0.0}, sum(1.0, -a));
  double y = 0.5 * log1p(q);
  y = select(a == 1.0, kInf, y);
  return copysign(select(a > 1.0, kNaN, y), x);
}

// ---- powers ----

KNET_VM double cbrt(double x) {
  Split64 a = split(abs(x));
  double t = a.e * (1.0 / 3.0) + kRound64, r = a.e - 3.0 * (t - kRound64), m = a.m * select(r < 0, 0.5, select(r > 0, 2.0, 1.0));
  // 0.5 % off; then Halley's method, and Newton's with the residual in two parts
  double y = poly(m, 0x1.d982c39b6397dp-2, 0x1.a5fccb7404872p-1, -0x1.8982da177fb2bp-2, 0x1.c993b1acdc101p-4, -0x1.aac53665edb9bp-7);
  double c = y * y * y;
  y = y * (c + (m + m)) / ((c + c) + m);
  Pair<double> w = product(y, y), p = product(w, Pair<double>{y, 0.0});
  y -= y * ((p.h - m) + p.l) / ((p.h + p.h) + m);
  y = copysign(y * pow2i(int64_t(bits(t) - bits(kRound64))), x);
  return select((x == 0) | !(abs(x) < kInf), x, y);
}
KNET_VM float cbrt(float x) { return float(cbrt(double(x))); }
KNET_VM float hypot(float x, float y) {
  double a = x, b = y;
  float r = float(sqrt(a * a + b * b));
  return isinf(x) | isinf(y) ? float(kInf) : r;
}
KNET_VM double hypot(double x, double y) {
  double a = abs(x), b = abs(y), big = max(a, b), small = min(a, b);
  double up = select(big > 0x1p500, 0x1p600, select(big < 0x1p-500, 0x1p-600, 1.0)), down = select(up == 1.0, 1.0, 1.0 / up);
  Pair<double> p = product(big * down, big * down), q = product(small * down, small * down), s = sum(p.h, q.h);
  Pair<double> r = root(Pair<double>{s.h, s.l + (p.l + q.l)});
  return select((a == kInf) | (b == kInf), kInf, (r.h + r.l) * up);
}
// r = |x|^y with the sign, and the cases that have no logarithm
template <Flt T>
KNET_VM T pow_special(T x, T y, T r) {
  T h = y * T(0.5);
  bool whole = rint(y) == y, odd = whole & (rint(h) != h);
  r = select((abs(x) == 1) & (y == y), T(1), r);  // also for an infinite exponent
  r = select(odd & signbit(x), -r, r);
  r = select((x < 0) & !whole & (x > T(-kInf)), T(kNaN), r);
  r = select((x != x) | (y != y), x + y, r);
  return select((y == 0) | (x == 1), T(1), r);
}
KNET_VM float pow(float x, float y) { return pow_special(x, y, float(short_exp(clamp(double(y) * log(abs(double(x))), -200.0, 200.0)))); }
KNET_VM double pow(double x, double y) {
  double a = abs(x), b = clamp(y, -0x1p80, 0x1p80);  // beyond, every power but that of 1 is 0 or infinite
  Pair<double> l = log_pair(split(a)), p = product(b, l.h);
  double t = p.l + b * l.l, h = log_special(a, l.h) * b;
  h = select((a == 0) | (a == kInf), h, p.h);
  Power<double> w = power(Pair<double>{clamp(h, -760.0, 720.0), select(abs(h) < 760.0, t, 0.0)});
  Pair<double> e = w.one_more();
  return pow_special(x, y, scale(e.h + e.l, w.k));
}
// By squaring, modulo 2^bits. A negative exponent gives the integer part of the true value.
template <Int T>
KNET_VM T pow(T x, T y) {
  if constexpr (std::is_signed_v<T>) {
    if (y < 0) return x == 1 ? T(1) : x == T(-1) ? (y & 1 ? T(-1) : T(1)) : T(0);
  }
  uint64_t r = 1, b = uint64_t(x);
  for (auto n = uint64_t(y); n; n >>= 1) {
    r = n & 1 ? r * b : r;
    b *= b;
  }
  return T(r);
}
KNET_VM double logaddexp(double a, double b) {
  double m = select(a > b, a, b), d = abs(a - b);
  double y = m + log1p(exp(-d));
  y = select(a == b, a + 0.6931471805599453, y);  // also infinities of one sign
  return select((a != a) | (b != b), a + b, y);
}
KNET_VM float logaddexp(float a, float b) { return float(logaddexp(double(a), double(b))); }
// The same to base 2.
KNET_VM double logaddexp2(double a, double b) {
  double m = select(a > b, a, b), d = abs(a - b);
  double y = m + log1p(exp2(-d)) * 1.4426950408889634;
  y = select(a == b, a + 1.0, y);
  return select((a != a) | (b != b), a + b, y);
}
KNET_VM float logaddexp2(float a, float b) { return float(logaddexp2(double(a), double(b))); }

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
KNET_VM T shift_left(T a, T n) { return uint64_t(n) < 8 * sizeof(T) ? T(std::make_unsigned_t<T>(a) << (n & T(8 * sizeof(T) - 1))) : T(0); }
template <Int T>
KNET_VM T shift_right(T a, T n) {
  return uint64_t(n) < 8 * sizeof(T) ? T(a >> (n & T(8 * sizeof(T) - 1))) : a < T(0) ? T(-1) : T(0);
}
KNET_VM bool shift_left(bool a, bool n) { return a & !n; }
KNET_VM bool shift_right(bool a, bool n) { return a & !n; }

// ---- special functions ----

KNET_VM float erf(float x) {
  double a = abs(double(x)), z = a * a;
  double small = a * poly(z, 0x1.20dd7504045d6p+0, -0x1.81274665754c3p-2, 0x1.ce2f08fec14fdp-4, -0x1.b829c897922e5p-6,
                          0x1.562a60ddba6e6p-8, -0x1.bccf664d7f763p-11, 0x1.d887505de3ba6p-14, -0x1.445f47d33d87bp-17);
  double b = a > 4.0 ? 4.0 : a;  // erf(4) rounds to 1
  // log(erfc(x)) for 1 <= x <= 4: 4.5e-10 of erf
  double big = 1.0 - short_exp(poly(b, 0x1.4fb06741d39a1p-12, -0x1.2156fa777dfb0p+0, -0x1.437eb4486a325p-1,
                                    -0x1.c2e355434c642p-4, 0x1.b0e246c451d48p-6, -0x1.37ecc66bf73f2p-8, 0x1.38e5e5277d407p-11,
                                    -0x1.825ce4bea3989p-15, 0x1.b7783044b6881p-20));
  return copysign(float(a < 1.0 ? small : big), x);
}
KNET_VM double erf_slope(double z) {  // erf(x) / x - 1 for x^2 = z <= 1: 1.6e-17
  return poly(z, 0x1.06eba8214db69p-3, -0x1.812746b0379e6p-2, 0x1.ce2f21a042b30p-4, -0x1.b82ce31284e00p-6, 0x1.565bcd0dbaa38p-8,
              -0x1.c02db3dac435fp-11, 0x1.f9a321d5b8e1ep-14, -0x1.f4d1e3183f7aep-17, 0x1.b9df224ca4b97p-20,
              -0x1.5f1ecb6f0764cp-23, 0x1.f7b4bf3b13964p-27, -0x1.389d4f2641625p-30, 0x1.05ffd737fb32ep-34);
}
// erfc(x) / 2^k for 0.5 <= x <= 27.5, given x^2
struct Tail { double m; int64_t k; };
KNET_VM Tail erfc_tail(double x, Pair<double> square) {
  Pair<double> d = add(x, 4.0), v = quotient(add(x, -4.0), d);
  double t = v.h;
  // exp(x^2) erfc(x) (x + 4): 7.7e-17
  double g = poly(t, 0x1.18932bf08e154p+0, -0x1.f3fe31ecb49bfp-1, 0x1.8be202d26c6fep-1, -0x1.14eacb1ad0326p-1, 0x1.52cac2371055fp-2,
                  -0x1.645fd8a4bcf14p-3, 0x1.38dbd2c8c7c7dp-4, -0x1.b00c052bb4ee4p-6, 0x1.908f473a2c9e6p-8, -0x1.269b536554975p-12,
                  -0x1.dd284fa9c4b06p-12, 0x1.72cdb6808aa66p-13, -0x1.e7d0ac3d56372p-19, -0x1.3c7077af512dcp-16,
                  0x1.3ae57c7887bc6p-18, 0x1.7e877544576f6p-20, -0x1.c40d239de0e86p-21, -0x1.49528718845e6p-24,
                  0x1.ff34bede4e966p-24, 0x1.d705112f0cb8ap-30, -0x1.9bd92be031687p-27, -0x1.024900da096b6p-33);
  double slope = poly(t, -0.93, 1.51, -2.19, 1.67);  // of g, a few digits
  Power<double> p = power(Pair<double>{-square.h, -square.l});
  Pair<double> q = quotient(product(p.one_more(), Pair<double>{g, v.l * slope}), d);
  return {q.h + q.l, p.k};
}
KNET_VM double erf(double x) {
  double a = abs(x), b = clamp(a, 0.5, 6.0);  // erf(6) rounds to 1
  Tail s = erfc_tail(b, product(b, b));
  return copysign(select(a < 0.84, a + a * erf_slope(a * a), 1.0 - scale(s.m, s.k)), x);
}
KNET_VM double erfc(double x) {
  double a = abs(x), b = clamp(a, 0.5, 27.5), m = a * erf_slope(a * a);  // erfc(27.3) is below the smallest number
  Tail s = erfc_tail(b, product(b, b));
  double tail = scale(s.m, s.k);
  return select(a < 0.5, (1.0 - x) - copysign(m, x), select(x < 0, 2.0 - tail, tail));
}
// erfc(a) for a >= 0, enough for a float
KNET_VM double short_erfc(double a) {
  a = most(a, 11.0);  // erfc(11) is below the smallest float
  // exp(a^2) erfc(a) as a function of t, 0 <= a <= 11: 2.9e-10
  double t = (a - 3.5) / (a + 3.5);
  return short_exp(-a * a) * poly(t, 0x1.3e0a99a187efbp-3, -0x1.2835188adf081p-2, 0x1.dd73832e80050p-3, -0x1.4a6bdb8563b44p-3,
                            0x1.82c6cef965ee6p-4, -0x1.743768b69cd65p-5, 0x1.16231b8d92a52p-6, -0x1.161f8f07d6f5bp-8,
                            0x1.1a4c4267b4f3ap-12, 0x1.3526835a5f2dfp-12, -0x1.c55e7166b6dd9p-14, -0x1.dd30053ebc88ep-17,
                            0x1.ec97fcf5fbb64p-18);
}
KNET_VM float erfc(float x) {
  double y = short_erfc(abs(double(x)));
  return float(x < 0 ? 2.0 - y : y);
}
// x times the normal distribution function: x erfc(-x / sqrt 2) / 2
KNET_VM float gelu(float x) {
  double d = x, m = 0.5 * short_erfc(abs(d) * 0.7071067811865475);
  return float(select(d > 0, d * (1.0 - m), select(d < -20.0, -20.0, d) * m));  // gelu(-20) is -0
}
KNET_VM double gelu(double x) {
  double a = most(abs(x), 40.0), u = a * 0.7071067811865475, b = select(u < 0.5, 0.8, a);
  Tail s = erfc_tail(clamp(u, 0.5, 27.5), product(b, 0.5 * b));
  bool near = u < 0.5;
  double m = select(near, (1.0 - u) - u * erf_slope(u * u), s.m);
  int64_t k = near ? 0 : s.k;
  double y = clamp(x, -40.0, 40.0), up = y - 0.5 * y * scale(m, k);
  return select(x > 40.0, x, copysign(select(x >= 0, up, scale(0.5 * y * m, k)), x));
}
KNET_VM double lgamma(double x) {
  int sign;  // the variant with an argument for the sign: lgamma itself writes a global
  return __builtin_lgamma_r(x, &sign);
}
KNET_VM double gamma(double x) { return __builtin_tgamma(x); }
KNET_VM float gamma(float x) { return float(gamma(double(x))); }
KNET_VM float lgamma(float x) { return float(lgamma(double(x))); }

// A first guess of a few digits, then three steps of Halley's method on erfc, which keeps its digits in the tails.
[[maybe_unused]] static __attribute__((noinline)) double erfinv(double x) {
  double a = abs(x);
  if (!(a < 1.0)) return a == 1.0 ? copysign(kInf, x) : kNaN;
  if (a < 1e-8) return x * 0.8862269254527580;  // sqrt(pi)/2; the next term is x^2 pi/12
  // Winitzki's formula
  double l = __builtin_log((1.0 - a) * (1.0 + a)), b = 4.330746750799873 + 0.5 * l;
  double y = __builtin_sqrt(__builtin_sqrt(b * b - l * 6.802721088435374) - b);
  for (int i = 0; i < 3; ++i) {
    double e = a < 0.5 ? __builtin_erf(y) - a : (1.0 - a) - __builtin_erfc(y);
    double u = e / (1.1283791670955126 * __builtin_exp(-y * y));
    y -= u / (1.0 + y * u);
  }
  return copysign(y, x);
}
KNET_VM float erfinv(float x) { return float(erfinv(double(x))); }

[[maybe_unused]] static __attribute__((noinline)) double digamma(double x) {
  if (x == 0) return copysign(kInf, -x);
  if (x == -kInf || (x < 0 && __builtin_floor(x) == x)) return kNaN;
  double y = 0;
  if (x < 0) {  // psi(1 - x) - pi / tan(pi x)
    double f = x - __builtin_rint(x);
    y = -kPi / __builtin_tan(kPi * f);
    x = 1.0 - x;
  }
  // Near its positive root the recurrence below would cancel; here is the Taylor series.
  constexpr double root = 1.4616321449683622, root_low = 9.549995429965697e-17;
  if (abs(x - root) < 0.02) {
    double d = (x - root) - root_low;
    return y + d * poly(d, 0.9676722454476212, -0.4427631689835921, 0.258499760955651, -0.16394270544240652,
                        0.10782405069126237, -0.07219956125645471, 0.04880428816414311, -0.03316112647484736, 0.022597648232218104);
  }
  double s = 0;
  for (; x < 10.0; x += 1.0) s -= 1.0 / x;
  double z = 1.0 / (x * x);
  double t = z * poly(z, 1.0 / 12, -1.0 / 120, 1.0 / 252, -1.0 / 240, 1.0 / 132, -691.0 / 32760, 1.0 / 12);
  return y + (s + ((__builtin_log(x) - 0.5 / x) - t));
}
KNET_VM float digamma(float x) { return float(digamma(double(x))); }

// The n-th derivative of digamma, n = 0, 1, 2, ...: recurrence up to x >= 20 + n, then the asymptotic series; reflection below 0.
[[maybe_unused]] static __attribute__((noinline)) double polygamma(double order, double x) {
  if (!(order >= 0) || order > 100 || __builtin_floor(order) != order) return kNaN;
  int n = int(order);
  if (n == 0) return digamma(x);
  if (x != x) return x;
  if (x <= 0 && __builtin_floor(x) == x) return n & 1 ? kInf : kNaN;
  if (x < 0) {
    // psi_n(x) = (-1)^n psi_n(1 - x) - pi d^n/dx^n cot(pi x); the derivatives are polynomials in c = cot(pi x).
    double p[104] = {0, 1}, q[104];
    for (int k = 0; k < n; ++k) {  // p' * -pi (1 + c^2)
      for (int i = 0; i <= k + 2; ++i) {
        double lower = i >= 1 ? (i - 1) * p[i - 1] : 0, upper = (i + 1) * (i + 1 <= k + 1 ? p[i + 1] : 0);
        q[i] = -kPi * (lower + upper);
      }
      for (int i = 0; i <= k + 2; ++i) p[i] = q[i];
    }
    double c = 1.0 / __builtin_tan(kPi * (x - __builtin_rint(x))), d = 0;
    for (int i = n + 1; i >= 0; --i) d = d * c + p[i];
    double reflected = polygamma(order, 1.0 - x);
    return (n & 1 ? -reflected : reflected) - kPi * d;
  }
  double fact = 1;  // (n - 1)!
  for (int i = 2; i < n; ++i) fact *= i;
  double s = 0;
  for (; x < 20.0 + n; x += 1.0) s += 1.0 / __builtin_pow(x, n + 1);
  s *= fact * n;
  // (n-1)!/x^n + n!/(2 x^(n+1)) + sum over k of B_2k (2k+n-1)! / ((2k)! x^(2k+n))
  constexpr double bernoulli[] = {1.0 / 6, -1.0 / 30, 1.0 / 42, -1.0 / 30, 5.0 / 66, -691.0 / 2730, 7.0 / 6, -3617.0 / 510};
  double xn = 1.0 / __builtin_pow(x, n), t = fact * xn + 0.5 * fact * n * xn / x, term = fact * xn;
  for (int k = 1; k <= 8; ++k) {
    term *= (2.0 * k + n - 2) * (2.0 * k + n - 1) / ((2.0 * k - 1) * (2.0 * k) * x * x);
    t += bernoulli[k - 1] * term;
  }
  return (n & 1 ? 1.0 : -1.0) * (s + t);
}
KNET_VM float polygamma(float n, float x) { return float(polygamma(double(n), double(x))); }

// For loops that have met an argument beyond kWide: the same names (also as vm::sin), valid for all numbers.
namespace wide {
namespace vm {
using namespace knet::vm;
KNET_VM float sin(float x) { return float(__builtin_sin(double(x))); }
KNET_VM float cos(float x) { return float(__builtin_cos(double(x))); }
KNET_VM float tan(float x) { return float(__builtin_tan(double(x))); }
KNET_VM double sin(double x) { return __builtin_sin(x); }
KNET_VM double cos(double x) { return __builtin_cos(x); }
KNET_VM double tan(double x) { return __builtin_tan(x); }
}  // namespace vm
using vm::cos;
using vm::sin;
using vm::tan;
}  // namespace wide

#ifdef KNET_ISA
}  // inline namespace KNET_ISA
#endif
}  // namespace knet::vm
