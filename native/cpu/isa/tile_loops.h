// The loops around the expressions of tile_ops.inc, shared by the files that instantiate them per element type.
#pragma once
#include "cpu/isa/tile_tables.h"
#include "cpu/vmath.h"

KNET_TILE_TABLES(KNET_ISA)

// Does the text of an expression call a function that is only valid up to vm::kWide? (asin and the like cost a look at
// the data.)
namespace knet::cpu::KNET_ISA {
using namespace tile;

static constexpr bool calls(const char* text, const char* what) {
  for (; *text; ++text) {
    int k = 0;
    while (what[k] && text[k] == what[k]) ++k;
    if (!what[k]) return true;
  }
  return false;
}
static constexpr bool is_narrow(const char* text) { return calls(text, "sin(") || calls(text, "cos(") || calls(text, "tan("); }

enum class Rule { Same, Float, Compare, Logical, IntBits, FloatTest, Where };
static constexpr bool gives_bool(Rule r) { return r == Rule::Compare || r == Rule::Logical || r == Rule::FloatTest; }
}  // namespace knet::cpu::KNET_ISA

// The expressions as functions, in the namespaces whose names they use. An absent expression gives R().
#define KNET_EXPRESSION(NAME, ...)                                                   \
  struct f_##NAME {                                                                    \
    template <class R, class A, class B, class C>                                    \
    static inline __attribute__((always_inline)) R f([[maybe_unused]] A a, [[maybe_unused]] B b, [[maybe_unused]] C c) { \
      using T = B;                                                                   \
      (void)sizeof(T);                                                               \
      return R(__VA_ARGS__);                                                         \
    }                                                                                \
  };

namespace knet::cpu::KNET_ISA {

// bool is read and written as a byte: loops over it vectorise.
template <class T>
using Stored = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;
template <class T>
static inline __attribute__((always_inline)) T value(Stored<T> x) {
  if constexpr (std::is_same_v<T, bool>) return x != 0;
  else return x;
}

// ivdep: dst may be the very memory of a source (in place), never a shifted overlap.
template <class F, class R, class T>
static void unary(void* dst, const void* const* src, int64_t n) {
  auto* d = static_cast<Stored<R>*>(dst);
  auto* x = static_cast<const Stored<T>*>(src[0]);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = F::template f<R>(value<T>(x[i]), value<T>(x[i]), value<T>(x[i]));
}
// Blocks with an argument beyond vm::kWide take the functions for all numbers.
template <class F, class Wide, class R, class T>
static void unary_narrow(void* dst, const void* const* src, int64_t n) {
  for (int64_t at = 0; at < n; at += 256) {
    int64_t m = n - at < 256 ? n - at : 256;
    auto* x = static_cast<const Stored<T>*>(src[0]) + at;
    int big = 0;
    for (int64_t i = 0; i < m; ++i) big |= vm::abs(x[i]) > T(vm::kWide);
    const void* from = x;
    (big ? unary<Wide, R, T> : unary<F, R, T>)(static_cast<R*>(dst) + at, &from, m);
  }
}
template <class F, class R, class T>
static void binary(void* dst, const void* const* src, int64_t n) {
  auto* d = static_cast<Stored<R>*>(dst);
  auto *x = static_cast<const Stored<T>*>(src[0]), *y = static_cast<const Stored<T>*>(src[1]);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = F::template f<R>(value<T>(x[i]), value<T>(y[i]), value<T>(y[i]));
}
template <class F, class R, class T>
static void first_scalar(void* dst, const void* const* src, int64_t n) {
  auto* d = static_cast<Stored<R>*>(dst);
  auto* y = static_cast<const Stored<T>*>(src[1]);
  const T x = value<T>(*static_cast<const Stored<T>*>(src[0]));
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = F::template f<R>(x, value<T>(y[i]), value<T>(y[i]));
}
template <class F, class R, class T>
static void second_scalar(void* dst, const void* const* src, int64_t n) {
  auto* d = static_cast<Stored<R>*>(dst);
  auto* x = static_cast<const Stored<T>*>(src[0]);
  const T y = value<T>(*static_cast<const Stored<T>*>(src[1]));
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = F::template f<R>(value<T>(x[i]), y, y);
}
template <class F, class R, class A, class T>
static void ternary(void* dst, const void* const* src, int64_t n) {
  auto* d = static_cast<Stored<R>*>(dst);
  auto* x = static_cast<const Stored<A>*>(src[0]);
  auto *y = static_cast<const Stored<T>*>(src[1]), *z = static_cast<const Stored<T>*>(src[2]);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) d[i] = F::template f<R>(value<A>(x[i]), value<T>(y[i]), value<T>(z[i]));
}

template <class F, class Wide, class T, int N, Rule rule, bool narrow>
static constexpr Map full_loop() {
  using R = std::conditional_t<gives_bool(rule), bool, T>;
  if constexpr (N == 1 && narrow) return unary_narrow<F, Wide, R, T>;
  else if constexpr (N == 1) return unary<F, R, T>;
  else if constexpr (N == 2) return binary<F, R, T>;
  else return ternary<F, R, std::conditional_t<rule == Rule::Where, bool, T>, T>;
}

}  // namespace knet::cpu::KNET_ISA
