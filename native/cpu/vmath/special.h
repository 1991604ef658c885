// The error function and what is made of it; gamma functions.
#pragma once
#include "cpu/vmath/exponential.h"
#include "cpu/vmath/trigonometric.h"

namespace knet::vm {
#ifdef KNET_ISA
inline namespace KNET_ISA {
#endif

// ---- special functions ----

KNET_VM float erf(float x) {
  double a = abs(double(x)), z = a * a;
  double small = a * poly(z, 0x1.20dd7504045d6p+0, -0x1.81274665754c3p-2, 0x1.ce2f08fec14fdp-4, -0x1.b829c897922e5p-6,
                          0x1.562a60ddba6e6p-8, -0x1.bccf664d7f763p-11, 0x1.d887505de3ba6p-14, -0x1.445f47d33d87bp-17);
  double b = a > 4.0 ? 4.0 : a;  // erf(4) rounds to 1
  // log(erfc(x)) for 1 <= x <= 4: 4.5e-10 of erf
  double big = 1.0 - short_exp(poly(b, 0x1.4fb06741d39a1p-12, -0x1.2156fa777dfb0p+0, -0x1.437eb4486a325p-1,
                                    -0x1.c2e355434c642p-4, 0x1.b0e246c451d48p-6, -0x1.37ecc66bf73f2p-8,
                                    0x1.38e5e5277d407p-11, -0x1.825ce4bea3989p-15, 0x1.b7783044b6881p-20));
  return copysign(float(a < 1.0 ? small : big), x);
}
KNET_VM double erf_slope(double z) {  // erf(x) / x - 1 for x^2 = z <= 1: 1.6e-17
  return poly(z, 0x1.06eba8214db69p-3, -0x1.812746b0379e6p-2, 0x1.ce2f21a042b30p-4, -0x1.b82ce31284e00p-6,
              0x1.565bcd0dbaa38p-8, -0x1.c02db3dac435fp-11, 0x1.f9a321d5b8e1ep-14, -0x1.f4d1e3183f7aep-17,
              0x1.b9df224ca4b97p-20, -0x1.5f1ecb6f0764cp-23, 0x1.f7b4bf3b13964p-27, -0x1.389d4f2641625p-30,
              0x1.05ffd737fb32ep-34);
}
// erfc(x) / 2^k for 0.5 <= x <= 27.5, given x^2
struct Tail { double m; int64_t k; };
KNET_VM Tail erfc_tail(double x, Pair<double> square) {
  Pair<double> d = add(x, 4.0), v = quotient(add(x, -4.0), d);
  double t = v.h;
  // exp(x^2) erfc(x) (x + 4): 7.7e-17
  double g = poly(t, 0x1.18932bf08e154p+0, -0x1.f3fe31ecb49bfp-1, 0x1.8be202d26c6fep-1, -0x1.14eacb1ad0326p-1,
                  0x1.52cac2371055fp-2, -0x1.645fd8a4bcf14p-3, 0x1.38dbd2c8c7c7dp-4, -0x1.b00c052bb4ee4p-6,
                  0x1.908f473a2c9e6p-8, -0x1.269b536554975p-12, -0x1.dd284fa9c4b06p-12, 0x1.72cdb6808aa66p-13,
                  -0x1.e7d0ac3d56372p-19, -0x1.3c7077af512dcp-16, 0x1.3ae57c7887bc6p-18, 0x1.7e877544576f6p-20,
                  -0x1.c40d239de0e86p-21, -0x1.49528718845e6p-24, 0x1.ff34bede4e966p-24, 0x1.d705112f0cb8ap-30,
                  -0x1.9bd92be031687p-27, -0x1.024900da096b6p-33);
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
  return short_exp(-a * a) * poly(t, 0x1.3e0a99a187efbp-3, -0x1.2835188adf081p-2, 0x1.dd73832e80050p-3,
                                  -0x1.4a6bdb8563b44p-3, 0x1.82c6cef965ee6p-4, -0x1.743768b69cd65p-5,
                                  0x1.16231b8d92a52p-6, -0x1.161f8f07d6f5bp-8, 0x1.1a4c4267b4f3ap-12,
                                  0x1.3526835a5f2dfp-12, -0x1.c55e7166b6dd9p-14, -0x1.dd30053ebc88ep-17,
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
                        0.10782405069126237, -0.07219956125645471, 0.04880428816414311, -0.03316112647484736,
                        0.022597648232218104);
  }
  double s = 0;
  for (; x < 10.0; x += 1.0) s -= 1.0 / x;
  double z = 1.0 / (x * x);
  double t = z * poly(z, 1.0 / 12, -1.0 / 120, 1.0 / 252, -1.0 / 240, 1.0 / 132, -691.0 / 32760, 1.0 / 12);
  return y + (s + ((__builtin_log(x) - 0.5 / x) - t));
}
KNET_VM float digamma(float x) { return float(digamma(double(x))); }

// The n-th derivative of digamma, n = 0, 1, 2, ...: recurrence up to x >= 20 + n, then the asymptotic series;
// reflection below 0.
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
  constexpr double bernoulli[] = {1.0 / 6, -1.0 / 30, 1.0 / 42, -1.0 / 30,
                                  5.0 / 66, -691.0 / 2730, 7.0 / 6, -3617.0 / 510};
  double xn = 1.0 / __builtin_pow(x, n), t = fact * xn + 0.5 * fact * n * xn / x, term = fact * xn;
  for (int k = 1; k <= 8; ++k) {
    term *= (2.0 * k + n - 2) * (2.0 * k + n - 1) / ((2.0 * k - 1) * (2.0 * k) * x * x);
    t += bernoulli[k - 1] * term;
  }
  return (n & 1 ? 1.0 : -1.0) * (s + t);
}
KNET_VM float polygamma(float n, float x) { return float(polygamma(double(n), double(x))); }

#ifdef KNET_ISA
}  // inline namespace KNET_ISA
#endif
}  // namespace knet::vm
