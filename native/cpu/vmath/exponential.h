// Exponentials, logarithms, and what is made of them: squashing and hyperbolic functions, powers.
#pragma once
#include "cpu/vmath/basic.h"

namespace knet::vm {
#ifdef KNET_ISA
inline namespace KNET_ISA {
#endif

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
// Where the result is 0 it is multiplied by 0: a product that underflows takes the processor ten times as long as all
// the rest (3.8 ns an element, 0.37 without), and masked scores are exponentials of -infinity.
KNET_VM float exp(float x) {
  Reduced32 a = exp_reduce(clamp(x, -105.0f, 89.0f));
  int32_t h = a.k >> 1;
  return exp_of(a.r) * pow2i(h) * select(x < -104.0f, 0.0f, pow2i(a.k - h));
}
KNET_VM double exp(double x) {
  Reduced64 a = exp_reduce(clamp(x, -750.0, 710.0));
  int64_t h = int32_t(a.k) >> 1;
  return exp_of(a.r) * pow2i(h) * select(x < -746.0, 0.0, pow2i(a.k - h));
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

// (exp(r) - 1 - r - r^2/2) / (r^3/2) for |r| <= ln(2)/2: 5.0e-10 and 7.0e-19, times r^3/2.
KNET_VM float exp_cubic(float r) {
  return poly(r, 3.333333433e-01f, 8.333311230e-02f, 1.666664146e-02f, 2.785235178e-03f, 3.976538137e-04f);
}
KNET_VM double exp_cubic(double r) {
  return poly(r, 0x1.5555555555556p-2, 0x1.5555555555555p-4, 0x1.11111111109b3p-6, 0x1.6c16c16c167e1p-9,
              0x1.a01a01a7c41d5p-12, 0x1.a01a01a47b054p-15, 0x1.71de0dae63bb3p-18, 0x1.27e4e1f48534fp-21,
              0x1.af38a9b0ec855p-25, 0x1.1f66df7fca49fp-28);
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
// For where 1 will be taken off. Only fused operations leave enough of the digits as it is: tanh would be 1.05 ulp off.
KNET_VM Power<float> power_to_shrink(float x) {
#ifdef KNET_FMA
  return power(x);
#else
  Reduced32 a = exp_reduce(x);
  float q = a.r * (0.5f * a.r);
  Pair<float> s = sum(a.r, q);
  return {sum(s.h, s.l + (a.r * q * exp_cubic(a.r) + a.c)), a.k};
#endif
}
KNET_VM Pair<double> power_of(double r, double c) {
  Pair<double> q = product(r, 0.5 * r), s = sum(r, q.h);
  return sum(s.h, s.l + (r * q.h * exp_cubic(r) + (q.l + (c + c * r))));
}
KNET_VM Power<double> power(double x) {
  Reduced64 a = exp_reduce(x);
  return {power_of(a.r, a.c), a.k};
}
KNET_VM Power<double> power_to_shrink(double x) { return power(x); }
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
// With digits to spare if T is float.
template <Flt T>
KNET_VM double expm1_for(double x) {
  if constexpr (sizeof(T) == 4) return select(x > 690.0, kInf, short_expm1(clamp(x, -50.0, 690.0)));
  else return expm1(x);
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
                       z.h * poly(z.h, 0x1.999999999999ap-2, 0x1.2492492492522p-2, 0x1.c71c71c6ea871p-3,
                                  0x1.745d177aad02ap-3, 0x1.3b1395c881220p-3, 0x1.1118c9ee5b8a4p-3,
                                  0x1.df7c5bc7c7563p-4, 0x1.e032e4d8436a1p-4));
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
  Power<T> p = power_to_shrink(a + a);
  Pair<T> one = sum(T(1), pow2i(-p.k)), d = sum(one.h, p.m.h);
  Pair<T> q = quotient(less_one(p), Pair<T>{d.h, d.l + (p.m.l + one.l)});
  return copysign(q.h + q.l, x);
}
// 1 / (1 + exp(-x)) = (1 or z) / (1 + z) with z = exp(-|x|): q f g. What is scaled last has all its digits where the
// result is subnormal.
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
  return t * poly(w, 2.0, 0x1.55555553e7594p-1, 0x1.9999a0d3dcfedp-2, 0x1.248f579c7d0d0p-2, 0x1.c7fb3587cdba6p-3,
                  0x1.65ad56d9e0064p-3, 0x1.a9bafb0c93ac9p-3);
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
  double small = a + a * z * poly(z, 0x1.5555555555555p-3, 0x1.11111111110fdp-7, 0x1.a01a01a01ee70p-13,
                                  0x1.71de3a4e14f40p-19, 0x1.ae6460fae3728p-26, 0x1.611cb330c1fe8p-33,
                                  0x1.b41232cf9950fp-41);
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
  double t = a.e * (1.0 / 3.0) + kRound64, r = a.e - 3.0 * (t - kRound64);
  double m = a.m * select(r < 0, 0.5, select(r > 0, 2.0, 1.0));
  // 0.5 % off; then Halley's method, and Newton's with the residual in two parts
  double y = poly(m, 0x1.d982c39b6397dp-2, 0x1.a5fccb7404872p-1, -0x1.8982da177fb2bp-2, 0x1.c993b1acdc101p-4,
                  -0x1.aac53665edb9bp-7);
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
  double down = select(big > 0x1p500, 0x1p-600, select(big < 0x1p-500, 0x1p600, 1.0)), up = 1.0 / down;
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
KNET_VM float pow(float x, float y) {
  double l = double(y) * log(abs(double(x)));
  return pow_special(x, y, float(short_exp(clamp(l, -200.0, 200.0))));
}
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

#ifdef KNET_ISA
}  // inline namespace KNET_ISA
#endif
}  // namespace knet::vm
