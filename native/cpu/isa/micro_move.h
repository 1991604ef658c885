// Elements moved for products and convolutions: packed, gathered, taken apart and woven together. See micro.h.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/isa/vector.h"

namespace knet::cpu::KNET_ISA {
namespace {

// An 8 x 8 (float) or 4 x 4 (double) transpose in registers: columns of src become rows of dst.
inline void transpose8(float* dst, int64_t width, const float* src, int64_t cs) {
  typedef float V __attribute__((vector_size(32), aligned(4), may_alias));
  typedef int I __attribute__((vector_size(32)));
  V r[8], t[8];
  for (int j = 0; j < 8; ++j) r[j] = *reinterpret_cast<const V*>(src + j * cs);
  for (int j = 0; j < 8; j += 2) {
    t[j] = __builtin_shuffle(r[j], r[j + 1], I{0, 8, 2, 10, 4, 12, 6, 14});
    t[j + 1] = __builtin_shuffle(r[j], r[j + 1], I{1, 9, 3, 11, 5, 13, 7, 15});
  }
  for (int j = 0; j < 8; j += 4)
    for (int h = 0; h < 2; ++h) {
      r[j + h] = __builtin_shuffle(t[j + h], t[j + 2 + h], I{0, 1, 8, 9, 4, 5, 12, 13});
      r[j + 2 + h] = __builtin_shuffle(t[j + h], t[j + 2 + h], I{2, 3, 10, 11, 6, 7, 14, 15});
    }
  for (int j = 0; j < 4; ++j) {
    t[j] = __builtin_shuffle(r[j], r[j + 4], I{0, 1, 2, 3, 8, 9, 10, 11});
    t[j + 4] = __builtin_shuffle(r[j], r[j + 4], I{4, 5, 6, 7, 12, 13, 14, 15});
  }
  for (int j = 0; j < 8; ++j) *reinterpret_cast<V*>(dst + j * width) = t[j];
}
inline void transpose8(double* dst, int64_t width, const double* src, int64_t cs) {
  for (int p = 0; p < 8; ++p)
    for (int j = 0; j < 8; ++j) dst[p * width + j] = src[j * cs + p];
}

#if defined(__AVX512F__)
// 16 columns of 8 floats, as two of the above side by side: half as many instructions.
inline void transpose16(float* dst, int64_t width, const float* src, int64_t cs) {
  using V = Vec<float>::type;
  using I = LaneList<float>;
  V r[8], t[8];
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j)
    r[j] = V(_mm512_castpd_ps(_mm512_insertf64x4(
        _mm512_castps_pd(_mm512_castps256_ps512(_mm256_loadu_ps(src + j * cs))),
        _mm256_castps_pd(_mm256_loadu_ps(src + (j + 8) * cs)), 1)));
#pragma GCC unroll 4
  for (int j = 0; j < 8; j += 2) {
    t[j] = __builtin_shuffle(r[j], r[j + 1], I{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30});
    t[j + 1] = __builtin_shuffle(r[j], r[j + 1], I{1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31});
  }
#pragma GCC unroll 2
  for (int j = 0; j < 8; j += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const V a = t[j + h], b = t[j + 2 + h];
      r[j + h] = __builtin_shuffle(a, b, I{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29});
      r[j + 2 + h] = __builtin_shuffle(a, b, I{2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31});
    }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const V a = r[j], b = r[j + 4];
    *reinterpret_cast<V*>(dst + j * width) =
        __builtin_shuffle(a, b, I{0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27});
    *reinterpret_cast<V*>(dst + (j + 4) * width) =
        __builtin_shuffle(a, b, I{4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31});
  }
}
#endif

template <class T>
void pack(T* dst, int64_t k, int64_t n, int64_t padded, int64_t width, const T* src, int64_t rs, int64_t cs) {
  if (cs == 1) {
    for (int64_t p = 0; p < k; ++p) {
      T* to = dst + p * width;
      const T* from = src + p * rs;
      int64_t j = 0;
      for (; j + Vec<T>::lanes <= n; j += Vec<T>::lanes)
        *reinterpret_cast<typename Vec<T>::type*>(to + j) = load(from + j);
      if (j < n) {
        auto rest = load_part(from + j, n - j);
        if (padded - j >= Vec<T>::lanes) *reinterpret_cast<typename Vec<T>::type*>(to + j) = rest, j += Vec<T>::lanes;
        else store_part(to + j, rest, padded - j), j = padded;
      }
      for (; j < padded; ++j) to[j] = 0;
    }
    return;
  }
  int64_t j = 0;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    for (; rs == 1 && j + 16 <= n; j += 16) {
      int64_t p = 0;
      for (; p + 8 <= k; p += 8) transpose16(dst + p * width + j, width, src + j * cs + p, cs);
      for (; p < k; ++p)
        for (int64_t i = j; i < j + 16; ++i) dst[p * width + i] = src[i * cs + p];
    }
#endif
  if (rs == 1 && n >= 8)
    for (; j < n; j += 8) {
      if (j + 8 > n) j = n - 8;  // the last eight overlap those before them
      int64_t p = 0;
      for (; p + 8 <= k; p += 8) transpose8(dst + p * width + j, width, src + j * cs + p, cs);
      for (; p < k; ++p)
        for (int64_t i = j; i < j + 8; ++i) dst[p * width + i] = src[i * cs + p];
    }
  for (; j < n; ++j)
    for (int64_t p = 0; p < k; ++p) dst[p * width + j] = src[p * rs + j * cs];
  if (n < padded)
    for (int64_t p = 0; p < k; ++p)
      for (int64_t i = n; i < padded; ++i) dst[p * width + i] = 0;
}

constexpr int64_t kRowsAhead = 4;

// Strides of 1 and 2: S vectors are read for S phases of one each.
template <class T, int S>
void thin_rows(T* to, const int64_t* phase, int64_t to_pitch, const T* from, int64_t from_pitch, int64_t rows,
               int64_t n, int64_t first, int64_t extent) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  const int64_t phases[2] = {phase[0], phase[S - 1]};
  for (; rows > 0; --rows, to += to_pitch, from += from_pitch) {
    auto part = [&](int64_t at) __attribute__((always_inline)) {
      const int64_t a = -at > 0 ? -at : 0, b = extent - at < L ? extent - at : L;
      return a >= b ? V{} : load_lanes(from + at, a, b);
    };
    auto put = [&](int64_t p, int64_t j, V v) __attribute__((always_inline)) {
      if (p < 0) return;
      if (n - j >= L) *reinterpret_cast<V*>(to + p + j) = v;
      else store_part(to + p + j, v, n - j);
    };
    for (int64_t j = 0; j < n; j += L) {
      const int64_t at = first + j * S;
      const bool inside = at >= 0 && at + S * L <= extent;
      const V x = inside ? load(from + at) : part(at);
      if constexpr (S == 1) {
        put(phases[0], j, x);
      } else {
        // Rows may be skipped, which the processor does not foresee.
        fetch_rows<T, S>(from + at + kRowsAhead * from_pitch, 0, 1);
        const V y = inside ? load(from + at + L) : part(at + L);
        put(phases[0], j, halves<T, 0>(x, y, lanes));
        put(phases[1], j, halves<T, 1>(x, y, lanes));
      }
    }
  }
}

template <class T>
void thin(T* to, const int64_t* phase, int64_t to_pitch, const T* from, int64_t from_pitch, int64_t rows, int64_t n,
          int64_t first, int64_t extent, int64_t stride) {
  if (stride == 1) return thin_rows<T, 1>(to, phase, to_pitch, from, from_pitch, rows, n, first, extent);
  if (stride == 2) return thin_rows<T, 2>(to, phase, to_pitch, from, from_pitch, rows, n, first, extent);
  for (; rows > 0; --rows, to += to_pitch, from += from_pitch)
    for (int64_t b = 0; b < stride; ++b)
      for (int64_t j = 0, i = first + b; phase[b] >= 0 && j < n; ++j, i += stride)
        to[phase[b] + j] = i >= 0 && i < extent ? from[i] : T(0);
}

template <class T>
void weave(T* to, int64_t n, const T* const* from, int64_t stride) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  if (stride != 2) {
    for (int64_t b = 0; b < stride; ++b)
      for (int64_t j = b, i = 0; j < n; j += stride, ++i) to[j] = from[b] ? from[b][i] : T(0);
    return;
  }
  for (int64_t j = 0; j < n; j += 2 * L) {
    auto part = [&](int b) __attribute__((always_inline)) {
      const int64_t left = (n - j + 1 - b) / 2;
      return !from[b] ? V{} : left >= L ? load(from[b] + j / 2) : load_part(from[b] + j / 2, left);
    };
    const V x = part(0), y = part(1), low = turns<T, 0>(x, y, lanes), high = turns<T, 1>(x, y, lanes);
    if (n - j >= 2 * L) {
      *reinterpret_cast<V*>(to + j) = low;
      *reinterpret_cast<V*>(to + j + L) = high;
    } else {
      if (n - j >= L) *reinterpret_cast<V*>(to + j) = low;
      else store_part(to + j, low, n - j);
      if (n - j > L) store_part(to + j + L, high, n - j - L);
    }
  }
}

// N elements, known here, so that each copy is one or two moves.
template <class T, int N>
void columns_of(T* dst, int64_t width, const T* src, const int64_t* off, int64_t k) {
  for (int64_t p = 0; p < k; ++p) std::memcpy(dst + p * width, src + off[p], N * sizeof(T));
}

template <class T>
void columns(T* dst, int64_t width, const T* src, const int64_t* off, int64_t k, int64_t n) {
  for (; n >= 16; n -= 16, dst += 16, src += 16) columns_of<T, 16>(dst, width, src, off, k);
  if (n & 8) columns_of<T, 8>(dst, width, src, off, k), dst += 8, src += 8;
  if (n & 4) columns_of<T, 4>(dst, width, src, off, k), dst += 4, src += 4;
  if (n & 2) columns_of<T, 2>(dst, width, src, off, k), dst += 2, src += 2;
  if (n & 1) columns_of<T, 1>(dst, width, src, off, k);
}

template <class T>
void shifted(T* to, int64_t n, const T* from, const int64_t* off, const int64_t* shift, int64_t count, int64_t m) {
  constexpr int64_t L = Vec<T>::lanes;
  for (int64_t x = 0; x < n; x += L) {
    typename Vec<T>::type sum{};
    for (int64_t s = 0; s < count; ++s) {
      const int64_t first = shift[s] - x, end = first + m;
      const int64_t lo = first < 0 ? 0 : first, hi = end > L ? L : end;
      if (lo < hi) sum += load_lanes(from + off[s] - first, lo, hi);
    }
    if (n - x >= L) *reinterpret_cast<typename Vec<T>::type*>(to + x) = sum;
    else store_part(to + x, sum, n - x);
  }
}

template <class T, int W>
void copy_runs(T* dst, const T* src, const int64_t* off, int64_t runs, int64_t len) {
  struct Chunk { T v[W]; };
  for (int64_t r = 0; r < runs; ++r) {
    Chunk c;
    std::memcpy(&c, src + off[r * len], sizeof c);
    std::memcpy(dst + r * len, &c, sizeof c);
  }
}

template <class T>
void runs(T* dst, const T* src, const int64_t* off, int64_t runs, int64_t len) {
  if (len == 1)
    for (int64_t r = 0; r < runs; ++r) dst[r] = src[off[r]];
  else if (len == 2) copy_runs<T, 2>(dst, src, off, runs, len);
  else if (len <= 4) copy_runs<T, 4>(dst, src, off, runs, len);
  else if (len <= 8) copy_runs<T, 8>(dst, src, off, runs, len);
  else if (len <= 16) copy_runs<T, 16>(dst, src, off, runs, len);
  else
    for (int64_t r = 0; r < runs; ++r) std::memcpy(dst + r * len, src + off[r * len], size_t(len) * sizeof(T));
}

template <class T>
void around(T* to, const T* from, int64_t n) {
  using V = typename Vec<T>::type;
  constexpr int64_t L = Vec<T>::lanes;
  const int64_t past = int64_t(reinterpret_cast<uintptr_t>(to) % kVectorBytes / sizeof(T));
  int64_t j = past ? L - past : 0;
  if (j > n) j = n;
  if (j > 0) store_part(to, load_part(from, j), j);
  for (; j + L <= n; j += L) store_around(to + j, V(load(from + j)));
  if (j < n) store_part(to + j, load_part(from + j, n - j), n - j);
}

}  // namespace
}  // namespace knet::cpu::KNET_ISA
