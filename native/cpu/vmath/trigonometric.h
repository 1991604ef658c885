// Sine, cosine and tangent, and their inverses.
#pragma once
#include "cpu/vmath/basic.h"

namespace knet::vm {
#ifdef KNET_ISA
inline namespace KNET_ISA {
#endif

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
  double s = poly(z, -0x1.555555545c0fdp-3, 0x1.11110dea5f29ep-7, -0x1.a013a116ee9c5p-13,
                  0x1.6dbbee63fbd5cp-19);  // 1.7e-11
  double c = poly(z, 0x1.5555555502261p-5, -0x1.6c16bf51b1490p-10, 0x1.a015c028ae9c5p-16,
                  -0x1.2522e707282ddp-22);  // 8.6e-13
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
  Pair<double> lo = {select(steep, x.h, y.h), select(steep, x.l, y.l)};
  Pair<double> hi = {select(steep, y.h, x.h), select(steep, y.l, x.l)};
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

#ifdef KNET_ISA
}  // inline namespace KNET_ISA
#endif
}  // namespace knet::vm
