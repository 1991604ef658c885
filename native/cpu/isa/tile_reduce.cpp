// Reductions over contiguous runs, in an order that depends on the length alone.
#include "cpu/isa/extremes.h"
#include "cpu/isa/tile_loops.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed only between inlined functions

namespace knet::cpu::KNET_ISA {
namespace {

template <class T>
using Wide = std::conditional_t<std::is_floating_point_v<T>, double,
                                std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
template <class T>
static constexpr int lane() {
  if (std::is_same_v<T, bool>) return kBool;
  if (std::is_same_v<T, float>) return kF32;
  if (std::is_same_v<T, double>) return kF64;
  constexpr int log = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
  return (std::is_signed_v<T> ? kI8 : kU8) + log;
}

// What each reduction does: Acc is its accumulator, first() its identity, step(a, x) one element more.
template <class T>
struct Sum {
  using Acc = Wide<T>;
  static constexpr Acc first() { return 0; }
  template <class A, class X>
  static inline __attribute__((always_inline)) A step(const A& a, const X& x) { return a + x; }
};
template <class T>
struct Prod {
  using Acc = Wide<T>;
  static constexpr Acc first() { return 1; }
  template <class A, class X>
  static inline __attribute__((always_inline)) A step(const A& a, const X& x) { return a * x; }
};
template <class T>
static constexpr T lowest() {
  if constexpr (std::is_floating_point_v<T>) return T(-__builtin_inf());
  else if constexpr (std::is_signed_v<T>) return T(uint64_t(1) << (8 * sizeof(T) - 1));
  else return T(0);
}
template <class T>
static constexpr T highest() {
  if constexpr (std::is_floating_point_v<T>) return T(__builtin_inf());
  else if constexpr (std::is_signed_v<T>) return T((uint64_t(1) << (8 * sizeof(T) - 1)) - 1);
  else return T(~T(0));
}
template <>
constexpr bool highest<bool>() { return true; }
template <class T>
struct Max {  // NaN wins
  using Acc = T;
  template <class V>
  static inline __attribute__((always_inline)) V quick(V a, V x) { return V(greater(Register<T>(a), Register<T>(x))); }
  static constexpr Acc first() { return lowest<T>(); }
  template <class A>
  static inline __attribute__((always_inline)) A step(const A& a, const A& x) { return (x > a) | (x != x) ? x : a; }
};
template <class T>
struct Min {
  using Acc = T;
  template <class V>
  static inline __attribute__((always_inline)) V quick(V a, V x) { return V(less(Register<T>(a), Register<T>(x))); }
  static constexpr Acc first() { return highest<T>(); }
  template <class A>
  static inline __attribute__((always_inline)) A step(const A& a, const A& x) { return (x < a) | (x != x) ? x : a; }
};
template <class T>
struct Any {
  using Acc = bool;
  static constexpr Acc first() { return false; }
  static inline __attribute__((always_inline)) bool step(bool a, T x) { return a | (x != T(0)); }
};
template <class T>
struct All {
  using Acc = bool;
  static constexpr Acc first() { return true; }
  static inline __attribute__((always_inline)) bool step(bool a, T x) { return a & (x != T(0)); }
};

template <class A, int L>
struct Lanes {
  typedef A type __attribute__((vector_size(L * sizeof(A))));
};
// In pairs: one after the other they would wait for each other.
template <class R, class A, int L>
static inline __attribute__((always_inline)) A fold_lanes(const typename Lanes<A, L>::type& v) {
  using Half = typename Lanes<A, L / 2>::type;
  Half half[2];
  __builtin_memcpy(half, &v, sizeof v);
  if constexpr (L == 2) return R::template step<A>(v[0], v[1]);
  else return fold_lanes<R, A, L / 2>(R::template step<Half>(half[0], half[1]));
}

// Does it have a way with vectors that have no NaN but in the first, which stays?
template <class R>
constexpr bool has_quick = false;
template <class T>
constexpr bool has_quick<Max<T>> = true;
template <class T>
constexpr bool has_quick<Min<T>> = true;

// Floats are not reordered by the compiler, so the lanes are ours: 4 vectors of 64 bytes, folded in a fixed order. Sums
// and products of float32 are taken in float over at most 8 elements a lane, then go on in double. What is folded is x,
// or x times y.
template <class R, class T, bool products = false>
static inline __attribute__((always_inline)) typename R::Acc run_of_floats(const T* x, const T* y, int64_t n) {
  using A = typename R::Acc;
  constexpr int L = 64 / sizeof(T), block = 4 * L, span = 8 * block;
  typedef T V __attribute__((vector_size(64)));
  typedef T U __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
  typedef A W __attribute__((vector_size(L * sizeof(A))));
  auto at = [&](int64_t i) __attribute__((always_inline)) {
    const V v = V(*reinterpret_cast<const U*>(x + i));
    return products ? v * V(*reinterpret_cast<const U*>(y + i)) : v;
  };
  A total = R::first();
  int64_t i = 0;
  if (n >= block) {
    W wide = W{} + R::first();
    while (n - i >= block) {
      int64_t end = i + (n - i < span ? (n - i) / block * block : span);
      V a = at(i), b = at(i + L), c = at(i + 2 * L), d = at(i + 3 * L);
      for (i += block; i < end; i += block) {
        if constexpr (has_quick<R> && kExtremes && sizeof(V) == kVectorBytes) {
          const V v[4] = {at(i), at(i + L), at(i + 2 * L), at(i + 3 * L)};
          if (__builtin_expect(!any_nan<T>(v), 1)) {
            a = R::quick(a, v[0]), b = R::quick(b, v[1]), c = R::quick(c, v[2]), d = R::quick(d, v[3]);
            continue;
          }
        }
        a = R::template step<V>(a, at(i));
        b = R::template step<V>(b, at(i + L));
        c = R::template step<V>(c, at(i + 2 * L));
        d = R::template step<V>(d, at(i + 3 * L));
      }
      V v = R::template step<V>(R::template step<V>(a, b), R::template step<V>(c, d));
      wide = R::template step<W>(wide, __builtin_convertvector(v, W));
    }
    total = fold_lanes<R, A, L>(wide);
  }
  for (; i < n; ++i) total = R::template step<A>(total, A(products ? x[i] * y[i] : x[i]));
  return total;
}

template <class R, class T, bool products>
static inline __attribute__((always_inline)) void fold_rows(void* acc, const T* x, const T* y, int64_t rows,
                                                            int64_t cols) {
  using A = typename R::Acc;
  auto* a = static_cast<A*>(acc);
  int64_t r = 0;
  if (cols < int64_t(256 / sizeof(T))) {
    // Too short for run_of_floats: eight rows at a time, so that the additions need not wait for each other.
    for (; r + 8 <= rows; r += 8, x += 8 * cols, y += 8 * cols) {
      A v[8];
      for (int j = 0; j < 8; ++j) v[j] = R::first();
      for (int64_t c = 0; c < cols; ++c)
        for (int j = 0; j < 8; ++j)
          v[j] = R::step(v[j], A(products ? T(x[j * cols + c] * y[j * cols + c]) : x[j * cols + c]));
      for (int j = 0; j < 8; ++j) a[r + j] = v[j];
    }
  }
  for (; r < rows; ++r, x += cols, y += cols) {
    if constexpr (std::is_floating_point_v<T> && !std::is_same_v<A, bool>) {
      a[r] = run_of_floats<R, T, products>(x, y, cols);
    } else {
      A v = R::first();
      for (int64_t i = 0; i < cols; ++i) v = R::step(v, A(x[i]));
      a[r] = v;
    }
  }
}
template <class R, class T>
static void rows(void* acc, const void* src, int64_t rows, int64_t cols) {
  auto* x = static_cast<const T*>(src);
  fold_rows<R, T, false>(acc, x, x, rows, cols);
}
template <class T>
static void products(void* acc, const void* a, const void* b, int64_t rows, int64_t cols) {
  fold_rows<Sum<T>, T, true>(acc, static_cast<const T*>(a), static_cast<const T*>(b), rows, cols);
}

template <class R, class T>
static inline __attribute__((always_inline)) void add_rows(typename R::Acc* a, const T* x, int64_t rows, int64_t cols) {
  using A = typename R::Acc;
  for (int64_t r = 0; r < rows; ++r, x += cols) {
#pragma GCC ivdep
    for (int64_t c = 0; c < cols; ++c) a[c] = R::step(a[c], A(x[c]));
  }
}
// Short rows are taken several at a time, as one row of at least 64, and folded at the end.
template <class R, class T>
static void cols(void* acc, const void* src, int64_t rows, int64_t cols) {
  using A = typename R::Acc;
  auto* a = static_cast<A*>(acc);
  auto* x = static_cast<const T*>(src);
  if (cols < 64 && rows * cols >= 256) {
    A wide[128];
    int64_t k = (63 + cols) / cols, w = k * cols, m = rows / k;
    for (int64_t i = 0; i < w; ++i) wide[i] = R::first();
    add_rows<R>(wide, x, m, w);
    add_rows<R>(wide, x + m * w, 1, (rows - m * k) * cols);
    for (int64_t j = 0; j < k; ++j)
      for (int64_t c = 0; c < cols; ++c) a[c] = R::step(a[c], wide[j * cols + c]);
  } else {
    add_rows<R>(a, x, rows, cols);
  }
}
template <class R>
static void combine(void* acc, const void* other, int64_t n) {
  using A = typename R::Acc;
  auto* a = static_cast<A*>(acc);
  auto* x = static_cast<const A*>(other);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) a[i] = R::step(a[i], x[i]);
}
template <class R>
static void identity(void* acc, int64_t n) {
  auto* a = static_cast<typename R::Acc*>(acc);
  for (int64_t i = 0; i < n; ++i) a[i] = R::first();
}

template <class T>
static constexpr void fill(ReduceTable& t) {
  constexpr int k = lane<T>();
  t.loops[kSum][k] = {rows<Sum<T>, T>, cols<Sum<T>, T>, combine<Sum<T>>, identity<Sum<T>>, lane<Wide<T>>(), nullptr};
  if constexpr (std::is_floating_point_v<T>) t.loops[kSum][k].products = products<T>;
  t.loops[kProd][k] = {rows<Prod<T>, T>, cols<Prod<T>, T>, combine<Prod<T>>, identity<Prod<T>>, lane<Wide<T>>(),
                       nullptr};
  t.loops[kMax][k] = {rows<Max<T>, T>, cols<Max<T>, T>, combine<Max<T>>, identity<Max<T>>, k, nullptr};
  t.loops[kMin][k] = {rows<Min<T>, T>, cols<Min<T>, T>, combine<Min<T>>, identity<Min<T>>, k, nullptr};
  t.loops[kAny][k] = {rows<Any<T>, T>, cols<Any<T>, T>, combine<Any<bool>>, identity<Any<bool>>, kBool, nullptr};
  t.loops[kAll][k] = {rows<All<T>, T>, cols<All<T>, T>, combine<All<bool>>, identity<All<bool>>, kBool, nullptr};
}
static constexpr ReduceTable make() {
  ReduceTable t{};
  fill<bool>(t);
  fill<int8_t>(t);
  fill<int16_t>(t);
  fill<int32_t>(t);
  fill<int64_t>(t);
  fill<uint8_t>(t);
  fill<uint16_t>(t);
  fill<uint32_t>(t);
  fill<uint64_t>(t);
  fill<float>(t);
  fill<double>(t);
  return t;
}

static constexpr ReduceTable made = make();
}  // namespace
const ReduceTable tile_reduce = made;

}  // namespace knet::cpu::KNET_ISA
