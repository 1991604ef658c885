#include "cpu/isa/pool.h"

#include <limits>
#include <type_traits>

#include "cpu/isa/vector.h"

namespace knet::cpu::KNET_ISA {
namespace {

// x[i * S] for i < n, at most a vector of them; S = 0: any stride.
template <class T, int S, int... l>
inline __attribute__((always_inline)) typename Vec<T>::type strided(const T* x, int64_t stride, int64_t n,
                                                                    std::integer_sequence<int, l...>) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::lanes;
  auto part = [&](int64_t first, int64_t count) __attribute__((always_inline)) {
    return count >= L ? load(x + first) : count > 0 ? load_part(x + first, count) : V{};
  };
  if constexpr (S == 1) return part(0, n);
  if constexpr (S == 2) {
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> I __attribute__((vector_size(kVectorBytes)));
    return __builtin_shuffle(part(0, 2 * n - 1), part(L, 2 * n - 1 - L), I{2 * l...});
  }
  T v[L] = {};
  for (int64_t i = 0; i < (n < L ? n : L); ++i) v[i] = x[i * stride];
  return load(v);
}

template <class I>
inline __attribute__((always_inline)) void store_indices(int64_t* to, I at, int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(at[0]) == 4) {
    _mm512_mask_storeu_epi64(to, n >= 8 ? __mmask8(255) : __mmask8((1u << n) - 1),
                             _mm512_cvtepi32_epi64(_mm512_castsi512_si256((__m512i)at)));
    if (n > 8)
      _mm512_mask_storeu_epi64(to + 8, n >= 16 ? __mmask8(255) : __mmask8((1u << (n - 8)) - 1),
                               _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64((__m512i)at, 1)));
    return;
  }
#endif
  constexpr int L = kVectorBytes / int(sizeof(at[0]));
  for (int i = 0; i < (n < L ? n : L); ++i) to[i] = at[i];
}

template <class T, int S>
bool max_planes(const PoolWindow& g, const void* planes, void* out, int64_t* at, int64_t count) {
  using V = typename Vec<T>::type;
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> E;
  typedef E I __attribute__((vector_size(kVectorBytes)));
  constexpr int L = Vec<T>::lanes;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  const T* x = static_cast<const T*>(planes);
  T* y = static_cast<T*>(out);
  const int64_t stride = S ? S : g.stride[2];
  // Rows shorter than half of a vector: several at once, `apart` lanes from one to the next; then their lanes close up.
  const int64_t pitch = g.stride[1] * g.pitch[1], apart = S && pitch % stride == 0 ? pitch / stride : L;
  const bool packs = count > 3 && g.y[2] + apart <= L && apart >= g.y[2];  // the lists take as long as three planes
  const int64_t together = packs ? (L - g.y[2]) / apart + 1 : 1;
  I index{}, lane{}, order{};
  for (int i = 0; i < L; ++i) {
    lane[i] = E(i);
    index[i] = E(i * stride);
    if (!packs) continue;
    index[i] = E(i / apart * g.stride[1] * g.index_pitch[1] + i % apart * stride);
    order[i] = i >= together * g.y[2] ? 0 : E(i / g.y[2] * apart + i % g.y[2]);
  }
  I none{};
  for (; count > 0; --count, x += g.plane, y += g.outputs(), at += g.outputs())
    for (int64_t d = 0; d < g.y[0]; ++d)
      for (int64_t h = 0, rows; h < g.y[1]; h += rows) {
        rows = g.y[1] - h < together ? g.y[1] - h : together;
        for (int64_t q = 0; q < g.y[2]; q += L) {
          const int64_t left = g.y[2] - q, row = (d * g.y[1] + h) * g.y[2] + q;
          const int64_t reach = left + (rows - 1) * apart, n = rows > 1 ? rows * left : left;
          const T* from = x + d * g.stride[0] * g.pitch[0] + h * pitch + q * stride;
          const int64_t first =
              g.index + d * g.stride[0] * g.index_pitch[0] + h * g.stride[1] * g.index_pitch[1] + q * stride;
          V best = V{} - std::numeric_limits<T>::infinity();
          I where = I{} - 1;
          for (int64_t i = 0; i < g.w[0]; ++i)
            for (int64_t j = 0; j < g.w[1]; ++j)
              for (int64_t k = 0; k < g.w[2]; ++k) {
                const V v = strided<T, S>(from + i * g.pitch[0] + j * g.pitch[1] + k, stride, reach, lanes);
                const I take = ~I(v <= best) & I(best == best);  // greater, or the first NaN
                best = take ? v : best;
                where = take ? index + E(first + i * g.index_pitch[0] + j * g.index_pitch[1] + k) : where;
              }
          if (rows > 1) {
            best = __builtin_shuffle(best, order);
            where = __builtin_shuffle(where, order);
          }
          if (n >= L) *reinterpret_cast<V*>(y + row) = best;
          else store_part(y + row, best, n);
          none |= where & I(lane < E(n));
          store_indices(at + row, where, n);
        }
      }
  for (int i = 0; i < L; ++i)
    if (none[i] < 0) return true;
  return false;
}
template <class T>
bool max_planes(const PoolWindow& g, const void* x, void* y, int64_t* at, int64_t count) {
  auto f = g.stride[2] == 1 ? max_planes<T, 1> : g.stride[2] == 2 ? max_planes<T, 2> : max_planes<T, 0>;
  return f(g, x, y, at, count);
}

// Strides 1 and 2 are loops of their own: known strides are loaded as vectors and shuffled.
template <class T, int S>
void max_loop(T* __restrict best, int32_t* __restrict at, const T* __restrict x, int64_t n, int64_t stride,
              int32_t first) {
  if (S) stride = S;
  for (int64_t i = 0; i < n; ++i) {
    T v = x[i * stride], b = best[i];
    bool take = (v > b) | ((v != v) & (b == b));
    best[i] = take ? v : b;
    at[i] = take ? first + int32_t(i) * int32_t(stride) : at[i];
  }
}
template <class T>
void max_row(void* best, int32_t* at, const void* x, int64_t n, int64_t stride, int32_t first) {
  auto loop = stride == 1 ? max_loop<T, 1> : stride == 2 ? max_loop<T, 2> : max_loop<T, 0>;
  loop(static_cast<T*>(best), at, static_cast<const T*>(x), n, stride, first);
}

template <class T, int S>
void add_loop(T* __restrict sum, const T* __restrict x, int64_t n, int64_t stride) {
  if (S) stride = S;
  for (int64_t i = 0; i < n; ++i) sum[i] += x[i * stride];
}
template <class T>
void add_row(void* sum, const void* x, int64_t n, int64_t stride) {
  auto loop = stride == 1 ? add_loop<T, 1> : stride == 2 ? add_loop<T, 2> : add_loop<T, 0>;
  loop(static_cast<T*>(sum), static_cast<const T*>(x), n, stride);
}

template <class T, int S>
void back_loop(T* __restrict x, const T* __restrict dy, int64_t n, int64_t stride) {
  if (S) stride = S;
  for (int64_t i = 0; i < n; ++i) x[i * stride] += dy[i];
}
template <class T>
void add_back(void* x, const void* dy, int64_t n, int64_t stride) {
  auto loop = stride == 1 ? back_loop<T, 1> : stride == 2 ? back_loop<T, 2> : back_loop<T, 0>;
  loop(static_cast<T*>(x), static_cast<const T*>(dy), n, stride);
}

constexpr PoolTable make() {
  PoolTable t;
  auto set = [&](DType d, auto zero) {
    using T = decltype(zero);
    t.of[int(d)].max_row = max_row<T>;
    if constexpr (T(0.5) != T(0)) {
      t.of[int(d)].max_planes = max_planes<T>;
      t.of[int(d)].add_row = add_row<T>;
      t.of[int(d)].add_back = add_back<T>;
    }
  };
  set(DType::F32, 0.0f);
  set(DType::F64, 0.0);
  set(DType::I8, int8_t(0));
  set(DType::I16, int16_t(0));
  set(DType::I32, int32_t(0));
  set(DType::I64, int64_t(0));
  set(DType::U8, uint8_t(0));
  set(DType::U16, uint16_t(0));
  set(DType::U32, uint32_t(0));
  set(DType::U64, uint64_t(0));
  return t;
}

}  // namespace

constinit const PoolTable pool_table = make();

}  // namespace knet::cpu::KNET_ISA
