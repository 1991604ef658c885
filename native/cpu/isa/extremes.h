// The greater and the less of vectors. For isa/*.cpp alone.
#pragma once
#include "cpu/isa/vector.h"

namespace knet::cpu::KNET_ISA {
namespace {

// The greater of each lane, `a` where they are equal or one is NaN: one instruction, where `x > a || x != x ? x : a`
// takes four. unordered() says whether there is a NaN in either.
#if defined(__AVX512F__)
constexpr bool kExtremes = true;
inline __m512 greater(__m512 a, __m512 x) { return _mm512_max_ps(x, a); }
inline __m512d greater(__m512d a, __m512d x) { return _mm512_max_pd(x, a); }
inline __m512 less(__m512 a, __m512 x) { return _mm512_min_ps(x, a); }
inline __m512d less(__m512d a, __m512d x) { return _mm512_min_pd(x, a); }
inline unsigned unordered(__m512 x, __m512 y) { return _mm512_cmp_ps_mask(x, y, _CMP_UNORD_Q); }
inline unsigned unordered(__m512d x, __m512d y) { return _mm512_cmp_pd_mask(x, y, _CMP_UNORD_Q); }
template <class T> struct RegisterOf { using type = __m512; };
template <> struct RegisterOf<double> { using type = __m512d; };
#elif defined(__AVX__)
constexpr bool kExtremes = true;
inline __m256 greater(__m256 a, __m256 x) { return _mm256_max_ps(x, a); }
inline __m256d greater(__m256d a, __m256d x) { return _mm256_max_pd(x, a); }
inline __m256 less(__m256 a, __m256 x) { return _mm256_min_ps(x, a); }
inline __m256d less(__m256d a, __m256d x) { return _mm256_min_pd(x, a); }
inline unsigned unordered(__m256 x, __m256 y) {
  return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_UNORD_Q)));
}
inline unsigned unordered(__m256d x, __m256d y) {
  return unsigned(_mm256_movemask_pd(_mm256_cmp_pd(x, y, _CMP_UNORD_Q)));
}
template <class T> struct RegisterOf { using type = __m256; };
template <> struct RegisterOf<double> { using type = __m256d; };
#else
constexpr bool kExtremes = false;
template <class T> struct RegisterOf { using type = typename Vec<T>::type; };
#endif
template <class T>
using Register = typename RegisterOf<T>::type;

// Is there a NaN in these vectors? An even number of them.
template <class T, int N, class V>
inline bool any_nan(const V (&v)[N]) {
  unsigned any = 0;
#pragma GCC unroll 8
  for (int i = 0; i < N; i += 2) any |= unordered(Register<T>(v[i]), Register<T>(v[i + 1]));
  return any != 0;
}

}  // namespace
}  // namespace knet::cpu::KNET_ISA
