// Vectors of the widest registers, with loads and stores of parts, and lanes in other orders. For isa/*.cpp alone: all
// here is compiled once per instruction set.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace knet::cpu::KNET_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Vec {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = kVectorBytes / int(sizeof(T));
};

template <class T>
inline __attribute__((always_inline)) typename Vec<T>::type load(const T* p) {
  return *reinterpret_cast<const typename Vec<T>::type*>(p);
}

// The first n elements, n below a whole vector; zeros for the rest.
template <class T>
inline __attribute__((always_inline)) typename Vec<T>::type load_part(const T* p, int64_t n) {
  using V = typename Vec<T>::type;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return V(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p));
  else return V(_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return V(_mm256_maskload_ps(
        p, _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))));
  else return V(_mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3))));
#else
  T part[Vec<T>::lanes] = {};
  for (int64_t j = 0; j < n; ++j) part[j] = p[j];
  return *reinterpret_cast<V*>(part);
#endif
}

// Lanes lo to hi - 1 of a vector (lo <= hi), kept for many loads.
template <class T>
struct Some {
#if defined(__AVX512F__)
  std::conditional_t<sizeof(T) == 4, __mmask16, __mmask8> mask;
#elif defined(__AVX2__)
  __m256i mask;
#else
  int64_t lo, hi;
#endif
};
template <class T>
inline __attribute__((always_inline)) Some<T> some(int64_t lo, int64_t hi) {
#if defined(__AVX512F__)
  return {static_cast<decltype(Some<T>::mask)>((1u << hi) - (1u << lo))};
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(int(lo)), lane),
                                _mm256_cmpgt_epi32(_mm256_set1_epi32(int(hi)), lane))};
  } else {
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return {_mm256_andnot_si256(_mm256_cmpgt_epi64(_mm256_set1_epi64x(lo), lane),
                                _mm256_cmpgt_epi64(_mm256_set1_epi64x(hi), lane))};
  }
#else
  return {lo, hi};
#endif
}
// Those lanes from p on; zeros for the rest. Nothing else is read.
template <class T>
inline __attribute__((always_inline)) typename Vec<T>::type load(const T* p, const Some<T>& some) {
  using V = typename Vec<T>::type;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return V(_mm512_maskz_loadu_ps(some.mask, p));
  else return V(_mm512_maskz_loadu_pd(some.mask, p));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return V(_mm256_maskload_ps(p, some.mask));
  else return V(_mm256_maskload_pd(p, some.mask));
#else
  T part[Vec<T>::lanes] = {};
  for (int64_t j = some.lo; j < some.hi; ++j) part[j] = p[j];
  return *reinterpret_cast<V*>(part);
#endif
}
template <class T>
inline __attribute__((always_inline)) typename Vec<T>::type load_lanes(const T* p, int64_t lo, int64_t hi) {
  return load(p, some<T>(lo, hi));
}

template <class T>
inline __attribute__((always_inline)) void store_part(T* c, typename Vec<T>::type v, int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(c, __mmask16((1u << n) - 1), (__m512)v);
  else _mm512_mask_storeu_pd(c, __mmask8((1u << n) - 1), (__m512d)v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    _mm256_maskstore_ps(c, _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                        (__m256)v);
  else
    _mm256_maskstore_pd(c, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)), (__m256d)v);
#else
  T part[Vec<T>::lanes];
  *reinterpret_cast<typename Vec<T>::type*>(part) = v;
  for (int64_t j = 0; j < n; ++j) c[j] = part[j];
#endif
}

// A whole vector, written around the caches where the instruction set can; c must be aligned to vectors, and others may
// read it after settle().
template <class T>
inline __attribute__((always_inline)) void store_around(T* c, typename Vec<T>::type v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) _mm512_stream_ps(c, (__m512)v);
  else _mm512_stream_pd(c, (__m512d)v);
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4) _mm256_stream_ps(c, (__m256)v);
  else _mm256_stream_pd(c, (__m256d)v);
#else
  *reinterpret_cast<typename Vec<T>::type*>(c) = v;
#endif
}
inline void settle() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

// Numbers of lanes.
template <class T>
using LaneList __attribute__((vector_size(kVectorBytes))) = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// Every other lane of x and y, from lane First on.
template <class T, int First, int... l>
inline __attribute__((always_inline)) auto halves(typename Vec<T>::type x, typename Vec<T>::type y,
                                                  std::integer_sequence<int, l...>) {
  return __builtin_shuffle(x, y, LaneList<T>{2 * l + First...});
}
// The lanes of x and y in turns: the first half of them, the second.
template <class T, int Half, int... l>
inline __attribute__((always_inline)) auto turns(typename Vec<T>::type x, typename Vec<T>::type y,
                                                 std::integer_sequence<int, l...>) {
  constexpr int L = Vec<T>::lanes;
  return __builtin_shuffle(x, y, LaneList<T>{(l % 2 ? L : 0) + l / 2 + Half * L / 2 ...});
}

// Rows that come next, which the processor does not see: depthwise 96x112x112 with strides of 2 took 5.8 ms, so 2.8.
template <class T, int S>
inline void fetch_rows(const T* x, int64_t pitch, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r)
    for (int s = 0; s < S; ++s) __builtin_prefetch(x + r * pitch + s * Vec<T>::lanes);
}

}  // namespace
}  // namespace knet::cpu::KNET_ISA
