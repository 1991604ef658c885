#include "cpu/isa/reduce.h"
#include "cpu/isa/extremes.h"

namespace knet::cpu::KNET_ISA {
namespace {

constexpr int kStreams = 8;  // independent accumulators: an addition takes 4 cycles and two start in each
constexpr int kFewStreams = 4;  // for short rows: all are joined in the end

template <class T, int L>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * L)));
};
template <class T, int L>
using Vector = typename VectorOf<T, L>::type;

template <class T> constexpr bool is_real = false;
template <> constexpr bool is_real<float> = true;
template <> constexpr bool is_real<double> = true;
template <class T> struct WideOf { using type = uint64_t; };
template <> struct WideOf<float> { using type = double; };
template <> struct WideOf<double> { using type = double; };
template <int Bytes> struct MaskOf;
template <> struct MaskOf<1> { using type = int8_t; };
template <> struct MaskOf<2> { using type = int16_t; };
template <> struct MaskOf<4> { using type = int32_t; };
template <> struct MaskOf<8> { using type = int64_t; };

template <class T> constexpr T lowest() {
  if constexpr (is_real<T>) return -T(__builtin_inf());
  else return T(-1) > T(0) ? T(0) : T(T(1) << (sizeof(T) * 8 - 1));
}
template <class T> constexpr T highest() {
  if constexpr (is_real<T>) return T(__builtin_inf());
  else return T(~lowest<T>());
}

// Integers widen by doubling: each step is one instruction, while GCC takes larger ones element by element.
template <class T> struct DoubleOf { using type = uint64_t; };
template <> struct DoubleOf<int8_t> { using type = int16_t; };
template <> struct DoubleOf<int16_t> { using type = int32_t; };
template <> struct DoubleOf<int32_t> { using type = int64_t; };
template <> struct DoubleOf<int64_t> { using type = uint64_t; };
template <> struct DoubleOf<uint8_t> { using type = uint16_t; };
template <> struct DoubleOf<uint16_t> { using type = uint32_t; };
template <class A, class T, int L>
inline Vector<A, L> widen(Vector<T, L> x) {
#if defined(__AVX512F__)
  // One instruction, where GCC 12 converts two halves and joins them.
  if constexpr (std::is_same_v<T, float> && is_real<A> && L == 8) return Vector<A, L>(_mm512_cvtps_pd(__m256(x)));
#endif
  if constexpr (is_real<A> || sizeof(T) == 8) return __builtin_convertvector(x, Vector<A, L>);
  else
    return widen<A, typename DoubleOf<T>::type, L>(__builtin_convertvector(x, Vector<typename DoubleOf<T>::type, L>));
}

// Each reduction: A the accumulator, read() from elements, join() two accumulators; both for scalars and for vectors.
// If `quick`, quick_join() joins vectors that have no NaN but in the first, which stays.
template <class T>
struct Wide {
  static constexpr bool quick = false;
  using A = typename WideOf<T>::type;
  static A read(T x) { return A(x); }
  template <int L> static Vector<A, L> read(Vector<T, L> x) { return widen<A, T, L>(x); }
};
template <class T>
struct Same {
  static constexpr bool quick = kExtremes && is_real<T>;
  using A = T;
  static A read(T x) { return x; }
  template <int L> static Vector<A, L> read(Vector<T, L> x) { return x; }
};
template <class T>
struct Mask {
  static constexpr bool quick = false;
  using A = typename MaskOf<sizeof(T)>::type;
  static A read(T x) { return A(-(x != T(0))); }
  template <int L> static Vector<A, L> read(Vector<T, L> x) { return x != T(0); }
};
template <class T> struct Sum : Wide<T> {
  using A = typename Wide<T>::A;
  static constexpr A identity = A(0);
  template <class V> static V join(V a, V x) { return a + x; }
};
template <class T> struct Prod : Wide<T> {
  using A = typename Wide<T>::A;
  static constexpr A identity = A(1);
  template <class V> static V join(V a, V x) { return a * x; }
};
template <class T> struct Max : Same<T> {
  static constexpr T identity = lowest<T>();
  template <class V> static V join(V a, V x) {
    if constexpr (is_real<T>) return (x > a) | (x != x) ? x : a;
    else return x > a ? x : a;
  }
  template <class V> static V quick_join(V a, V x) { return V(greater(Register<T>(a), Register<T>(x))); }
  static bool better(T x, T a) { return x > a; }
  template <class V> static auto better_lanes(V x, V a) { return x > a; }
};
template <class T> struct Min : Same<T> {
  static constexpr T identity = highest<T>();
  template <class V> static V join(V a, V x) {
    if constexpr (is_real<T>) return (x < a) | (x != x) ? x : a;
    else return x < a ? x : a;
  }
  template <class V> static V quick_join(V a, V x) { return V(less(Register<T>(a), Register<T>(x))); }
  static bool better(T x, T a) { return x < a; }
  template <class V> static auto better_lanes(V x, V a) { return x < a; }
};
template <class T> struct Any : Mask<T> {
  using A = typename Mask<T>::A;
  static constexpr A identity = 0;
  template <class V> static V join(V a, V x) { return a | x; }
};
template <class T> struct All : Mask<T> {
  using A = typename Mask<T>::A;
  static constexpr A identity = -1;
  template <class V> static V join(V a, V x) { return a & x; }
};

template <class T, int L>
inline Vector<T, L> load(const T* x) {
  Vector<T, L> v;
  __builtin_memcpy(&v, x, sizeof v);
  return v;
}

template <class T, int L>
inline Vector<T, L> pick_up(const T* x, int64_t stride) {
  Vector<T, L> v;
#pragma GCC unroll 64
  for (int j = 0; j < L; ++j) v[j] = x[j * stride];
  return v;
}

// The processor's own prefetching stays within a page, and so close that one thread read 12 GB/s of float32; asking for
// the lines this far ahead it reads 25 (Sapphire Rapids; 2 KB: 14, 4 KB: 22).
constexpr int64_t kAhead = 8192;  // bytes

template <class T>
inline void prefetch(const T* x) {
  __builtin_prefetch(x, 0, 3);
}

template <class R, int L, class A>
inline A join_lanes(const A* lane) {
  if constexpr (L == 1) {
    return *lane;
  } else {
    const Vector<A, L / 2> v = R::join(load<A, L / 2>(lane), load<A, L / 2>(lane + L / 2));
    A half[L / 2];
    __builtin_memcpy(half, &v, sizeof half);
    return join_lanes<R, L / 2>(half);
  }
}

// What comes after the n elements lies at `next`.
template <int Streams, class R, class T>
inline typename R::A row(const T* x, int64_t n, const T* next) {
  using A = typename R::A;
  constexpr int L = kVectorBytes / int(sizeof(A));
  A acc = R::identity;
  int64_t i = 0;
  if (n >= L) {
    Vector<A, L> a[Streams];
    for (auto& v : a) v = Vector<A, L>{} + A(R::identity);
    constexpr int64_t kLine = 64 / sizeof(T), kFar = kAhead / int64_t(sizeof(T));
    for (; i + Streams * L <= n; i += Streams * L) {
      const T* far = i + kFar < n ? x + i + kFar : next + (i + kFar - n);
#pragma GCC unroll 8
      for (int64_t j = 0; j < Streams * L; j += kLine) prefetch(far + j);
      Vector<A, L> v[Streams];
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) v[s] = R::template read<L>(load<T, L>(x + i + s * L));
      if constexpr (R::quick) {
        if (__builtin_expect(!any_nan<T>(v), 1)) {
#pragma GCC unroll 8
          for (int s = 0; s < Streams; ++s) a[s] = R::quick_join(a[s], v[s]);
          continue;
        }
      }
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) a[s] = R::join(a[s], v[s]);
    }
    for (; i + L <= n; i += L) a[0] = R::join(a[0], R::template read<L>(load<T, L>(x + i)));
    for (int half = Streams / 2; half; half /= 2)
      for (int s = 0; s < half; ++s) a[s] = R::join(a[s], a[s + half]);
    A lane[L];
    __builtin_memcpy(lane, &a[0], sizeof lane);
    acc = join_lanes<R, L>(lane);
  }
  for (; i < n; ++i) acc = R::join(acc, R::read(x[i]));
  return acc;
}

template <class R, class T>
void rows(const void* from, int64_t count, int64_t count_stride, int64_t n, int64_t stride, void* to) {
  using A = typename R::A;
  constexpr int L = kVectorBytes / int(sizeof(A));
  const T* x = static_cast<const T*>(from);
  A* acc = static_cast<A*>(to);
  int64_t k = 0;
  if (stride != 1 || n < 32) {  // a lane for each of several short rows
    for (; k + L <= count; k += L, x += L * count_stride) {
      Vector<A, L> a = load<A, L>(acc + k);
      for (int64_t i = 0; i < n; ++i) a = R::join(a, R::template read<L>(pick_up<T, L>(x + i * stride, count_stride)));
      __builtin_memcpy(acc + k, &a, sizeof a);
    }
  }
  for (; k < count; ++k, x += count_stride) {
    if (stride == 1 && n >= 16) {
      // Blocks keep the error of long double-precision sums that of a short one.
      for (int64_t i = 0; i < n; i += 8192) {
        const bool last = n - i <= 8192;
        const T* next = last ? x + count_stride : x + i + 8192;
        acc[k] = R::join(acc[k], n < 4 * kStreams * L ? row<kFewStreams, R>(x, n, next)
                                                  : row<kStreams, R>(x + i, last ? n - i : 8192, next));
      }
    } else {
      A a[2] = {acc[k], R::identity};
      int64_t i = 0;
      for (; i + 2 <= n; i += 2) {
        a[0] = R::join(a[0], R::read(x[i * stride]));
        a[1] = R::join(a[1], R::read(x[(i + 1) * stride]));
      }
      if (i < n) a[0] = R::join(a[0], R::read(x[i * stride]));
      acc[k] = R::join(a[0], a[1]);
    }
  }
}

template <class R, class T, class V>
inline V join_rows(V a, const V (&v)[4]) {
  if constexpr (R::quick)
    if (__builtin_expect(!any_nan<T>(v), 1))
      return R::quick_join(a, R::quick_join(R::quick_join(v[0], v[1]), R::quick_join(v[2], v[3])));
  return R::join(a, R::join(R::join(v[0], v[1]), R::join(v[2], v[3])));
}

template <class R, class T>
void wide_cols(const T* x, int64_t cols, int64_t rows, int64_t row_stride, typename R::A* acc) {
  using A = typename R::A;
  constexpr int L = kVectorBytes / int(sizeof(A));
  using V = Vector<A, L>;
  auto at = [&](int64_t r, int64_t c) { return R::template read<L>(load<T, L>(x + r * row_stride + c)); };
  constexpr int64_t kLine = 64 / sizeof(T);
  const int64_t far = (kAhead / int64_t(sizeof(T)) / (4 * cols) + 1) * 4 * row_stride;  // whole groups of rows
  int64_t r = 0;
  for (; r < rows; r += 4) {  // four rows for one pass over the accumulators
    int64_t c = 0;
    if (r + 4 <= rows) {
      for (; c + L <= cols; c += L) {
        if (L >= kLine || c % kLine == 0)
          for (int64_t q = r; q < r + 4; ++q) prefetch(x + q * row_stride + c + far);
        const V v[4] = {at(r, c), at(r + 1, c), at(r + 2, c), at(r + 3, c)};
        const V a = join_rows<R, T>(load<A, L>(acc + c), v);
        __builtin_memcpy(acc + c, &a, sizeof a);
      }
    }
    int64_t done = c;
    for (int64_t q = r; q < r + 4 && q < rows; ++q) {
      const T* p = x + q * row_stride;
      c = done;
      for (; c + L <= cols; c += L) {
        V a = R::join(load<A, L>(acc + c), R::template read<L>(load<T, L>(p + c)));
        __builtin_memcpy(acc + c, &a, sizeof a);
      }
      for (; c < cols; ++c) acc[c] = R::join(acc[c], R::read(p[c]));
    }
  }
}

template <class R, class T>
void cols(const void* from, int64_t cols, int64_t rows, int64_t row_stride, void* to) {
  using A = typename R::A;
  const T* x = static_cast<const T*>(from);
  A* acc = static_cast<A*>(to);
  // Without gaps several rows side by side are one wide row, folded at the end: for vectors if they are narrow, and
  // pages are read one after the other (256 columns: 22 GB/s instead of 13).
  constexpr int64_t kWidest = 1024, L = kVectorBytes / int(sizeof(A));
  int64_t fold = (rows * cols >= 32 * kWidest ? kWidest : 256) / cols;
  if (fold > rows / 4) fold = rows / 4;
  int64_t even = L;  // rows that make whole vectors
  for (int64_t c = cols; c % 2 == 0 && even > 1; c /= 2) even /= 2;
  if (fold > even) fold -= fold % even;
  if (fold >= 2 && row_stride == cols) {
    A wide[kWidest];
    for (int64_t i = 0; i < fold * cols; ++i) wide[i] = R::identity;
    int64_t whole = rows / fold;
    wide_cols<R, T>(x, fold * cols, whole, fold * cols, wide);
    x += whole * fold * cols;
    rows -= whole * fold;
    for (; fold > 1; fold -= fold / 2) {
      const int64_t half = fold / 2 * cols;
      const A* upper = wide + fold * cols - half;
      for (int64_t i = 0; i < half; ++i) wide[i] = R::join(wide[i], upper[i]);
    }
    for (int64_t c = 0; c < cols; ++c) acc[c] = R::join(acc[c], wide[c]);
  }
  wide_cols<R, T>(x, cols, rows, row_stride, acc);
}

template <class R, class T>
void arg(const void* from, int64_t cols, int64_t col_stride, int64_t rows, int64_t row_stride, int64_t first_row,
         void* to, int64_t* at) {
  const T* x = static_cast<const T*>(from);
  T* best = static_cast<T*>(to);
  if (col_stride != 1) {
    int64_t c = 0;
    if constexpr (sizeof(T) >= 4) {
      constexpr int L = kVectorBytes / int(sizeof(T));
      using M = typename MaskOf<sizeof(T)>::type;
      for (; c + L <= cols && rows <= int64_t(1) << 31; c += L) {
        Vector<T, L> b = load<T, L>(best + c);
        Vector<M, L> when = Vector<M, L>{} - M(1);  // rows since first_row; -1: none of these
        for (int64_t r = 0; r < rows; ++r) {
          Vector<T, L> v = pick_up<T, L>(x + r * row_stride + c * col_stride, col_stride);
          Vector<M, L> take = R::better_lanes(v, b) | ((v != v) & (b == b));
          b = take ? v : b;
          when = take ? Vector<M, L>{} + M(r) : when;
        }
        __builtin_memcpy(best + c, &b, sizeof b);
        for (int j = 0; j < L; ++j)
          if (when[j] >= 0) at[c + j] = first_row + when[j];
      }
    }
    for (; c < cols; ++c) {
      T b = best[c];
      int64_t where = at[c];
      for (int64_t r = 0; r < rows; ++r) {
        T v = x[r * row_stride + c * col_stride];
        bool take = R::better(v, b) || (v != v && b == b);
        b = take ? v : b;
        where = take ? first_row + r : where;
      }
      best[c] = b;
      at[c] = where;
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    const T* p = x + r * row_stride;
    for (int64_t c = 0; c < cols; ++c) {
      T v = p[c], b = best[c];
      bool take = R::better(v, b) | ((v != v) & (b == b));
      best[c] = take ? v : b;
      at[c] = take ? first_row + r : at[c];
    }
  }
}

template <template <class> class R, class T>
constexpr ReduceKernel kernel() {
  return {rows<R<T>, T>, cols<R<T>, T>, nullptr};
}
template <template <class> class R, class T>
constexpr ReduceKernel extreme() {
  return {rows<R<T>, T>, cols<R<T>, T>, arg<R<T>, T>};
}

template <class T>
constexpr void fill(ReduceTable& t, DType d) {
  t.of[kSum][int(d)] = kernel<Sum, T>();
  t.of[kProd][int(d)] = kernel<Prod, T>();
  t.of[kMax][int(d)] = extreme<Max, T>();
  t.of[kMin][int(d)] = extreme<Min, T>();
}
// Only the size of an integer matters to any and all.
template <class T>
constexpr void fill_logic(ReduceTable& t, DType d) {
  t.of[kAny][int(d)] = kernel<Any, T>();
  t.of[kAll][int(d)] = kernel<All, T>();
}

constexpr ReduceTable make() {
  ReduceTable t{};
  fill<uint8_t>(t, DType::Bool), fill_logic<uint8_t>(t, DType::Bool);
  fill<int8_t>(t, DType::I8), fill_logic<uint8_t>(t, DType::I8);
  fill<int16_t>(t, DType::I16), fill_logic<uint16_t>(t, DType::I16);
  fill<int32_t>(t, DType::I32), fill_logic<uint32_t>(t, DType::I32);
  fill<int64_t>(t, DType::I64), fill_logic<uint64_t>(t, DType::I64);
  fill<uint8_t>(t, DType::U8), fill_logic<uint8_t>(t, DType::U8);
  fill<uint16_t>(t, DType::U16), fill_logic<uint16_t>(t, DType::U16);
  fill<uint32_t>(t, DType::U32), fill_logic<uint32_t>(t, DType::U32);
  fill<uint64_t>(t, DType::U64), fill_logic<uint64_t>(t, DType::U64);
  fill<float>(t, DType::F32), fill_logic<float>(t, DType::F32);
  fill<double>(t, DType::F64), fill_logic<double>(t, DType::F64);
  return t;
}

}  // namespace

extern const ReduceTable reduce_table = make();

}  // namespace knet::cpu::KNET_ISA
