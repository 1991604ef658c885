#include "cpu/isa/sort.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace knet::cpu::KNET_ISA {
namespace {

template <bool Above, class T>
int64_t skip(const void* from, int64_t n, const void* limit_at) {
  const T* x = static_cast<const T*>(from);
  const T limit = *static_cast<const T*>(limit_at);
  int64_t i = 0;
  for (; i + kSkip <= n; i += kSkip) {
    int any = 0;  // no early end: the compiler makes vectors of it
    for (int64_t j = i; j < i + kSkip; ++j) any |= Above ? x[j] > limit : x[j] < limit;
    if (any) break;
  }
  return i;
}

#if defined(__AVX512F__)

// What differs between words of 32 and of 64 bits.
template <class U>
struct Words;
template <>
struct Words<uint32_t> {
  using Mask = __mmask16;
  static constexpr int kLanes = 16;
  static __m512i load(Mask m, const uint32_t* p) { return _mm512_mask_loadu_epi32(_mm512_set1_epi32(-1), m, p); }
  static void store(uint32_t* p, Mask m, __m512i v) { _mm512_mask_storeu_epi32(p, m, v); }
  static __m512i all(uint32_t x) { return _mm512_set1_epi32(int(x)); }
  static __m512i min(__m512i a, __m512i b) { return _mm512_min_epu32(a, b); }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epu32(a, b); }
  static __m512i max_where(__m512i other, Mask m, __m512i a, __m512i b) { return _mm512_mask_max_epu32(other, m, a, b); }
  static Mask below(__m512i a, __m512i b) { return _mm512_cmplt_epu32_mask(a, b); }
  static __m512i pack(Mask m, __m512i v) { return _mm512_maskz_compress_epi32(m, v); }
  // The lanes i ^ Flip.
  template <int Flip>
  static __m512i across(__m512i v) {
    typedef uint32_t V __attribute__((vector_size(64)));
    constexpr V lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return __m512i(__builtin_shuffle(V(v), lane ^ uint32_t(Flip)));
  }
};
template <>
struct Words<uint64_t> {
  using Mask = __mmask8;
  static constexpr int kLanes = 8;
  static __m512i load(Mask m, const uint64_t* p) { return _mm512_mask_loadu_epi64(_mm512_set1_epi64(-1), m, p); }
  static void store(uint64_t* p, Mask m, __m512i v) { _mm512_mask_storeu_epi64(p, m, v); }
  static __m512i all(uint64_t x) { return _mm512_set1_epi64(int64_t(x)); }
  static __m512i min(__m512i a, __m512i b) { return _mm512_min_epu64(a, b); }
  static __m512i max(__m512i a, __m512i b) { return _mm512_max_epu64(a, b); }
  static __m512i max_where(__m512i other, Mask m, __m512i a, __m512i b) { return _mm512_mask_max_epu64(other, m, a, b); }
  static Mask below(__m512i a, __m512i b) { return _mm512_cmplt_epu64_mask(a, b); }
  static __m512i pack(Mask m, __m512i v) { return _mm512_maskz_compress_epi64(m, v); }
  template <int Flip>
  static __m512i across(__m512i v) {
    typedef uint64_t V __attribute__((vector_size(64)));
    constexpr V lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return __m512i(__builtin_shuffle(V(v), lane ^ uint64_t(Flip)));
  }
};

// Quicksort that moves whole vectors from one array to another, down to what a sorting network does in registers.
template <class U>
class Quick {
  using W = Words<U>;
  using Mask = typename W::Mask;
  static constexpr int kLanes = W::kLanes, kVectors = 8;
  static constexpr int64_t kFew = kLanes * kVectors;

 public:
  // Sorts n words at `from`; the result lies there if `stay`, else at `other`. Both are written over.
  static void sort(U* from, U* other, int64_t n, bool stay) {
    while (n > kFew) {
      const U pivot = middle(from, n);
      int64_t below = part(from, other, n, pivot);
      if (below == 0) {  // the pivot is the least: what equals it is done, however much there is
        below = pivot == U(~U(0)) ? n : part(from, other, n, U(pivot + 1));
        U* const home = stay ? from : other;
        for (int64_t i = 0; i < below; ++i) home[i] = pivot;
      } else {
        sort(other, from, below, !stay);
      }
      U* const rest = other + below;
      other = from + below;
      from = rest;
      n -= below;
      stay = !stay;
    }
    U* const home = stay ? from : other;
    if (n <= kLanes) few<1>(from, home, n);
    else if (n <= 2 * kLanes) few<2>(from, home, n);
    else if (n <= 4 * kLanes) few<4>(from, home, n);
    else few<8>(from, home, n);
  }

 private:
  static Mask first(int64_t n) { return Mask((uint64_t(1) << n) - 1); }

  // The middle one of a sample, a word from each of equal parts. Which one looks random, so that no order that data
  // come in is bad.
  static U middle(const U* x, int64_t n) {
    constexpr int kSample = 4 * kLanes;
    U sample[kSample];
    const int count = n < 1024 ? kLanes : kSample;
    const uint64_t step = uint64_t(n) / uint64_t(count);
    uint64_t random = uint64_t(n);
    for (int k = 0; k < count; ++k) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      sample[k] = x[uint64_t(k) * step + (random >> 33) % step];
    }
    if (n < 1024) few<1>(sample, sample, count);
    else few<4>(sample, sample, count);
    return sample[count / 2];
  }

  // Words below the pivot to the front of `to`, others to its end. Returns how many are below.
  static int64_t part(const U* x, U* to, int64_t n, U pivot_word) {
    const __m512i pivot = W::all(pivot_word);
    U *front = to, *back = to + n;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const __m512i v = _mm512_loadu_si512(x + i);
      const Mask below = W::below(v, pivot);
      const int count = __builtin_popcount(below);
      _mm512_storeu_si512(front, W::pack(below, v));  // the rest of the vector is within what is still to be written
      front += count;
      back -= kLanes - count;
      W::store(back, first(kLanes - count), W::pack(Mask(~below), v));
    }
    if (i < n) {
      const Mask left = first(n - i);
      const __m512i v = W::load(left, x + i);
      const Mask below = W::below(v, pivot) & left;
      W::store(front, first(__builtin_popcount(below)), W::pack(below, v));
      front += __builtin_popcount(below);
      W::store(front, first(back - front), W::pack(Mask(~below & left), v));
    }
    return front - to;
  }

  // Up to V vectors of words, those that lack taken as the greatest.
  template <int V>
  static void few(const U* x, U* to, int64_t n) {
    __m512i v[V];
    Mask m[V];
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) {
      const int64_t left = n - i * kLanes;
      m[i] = left >= kLanes ? Mask(~0) : left > 0 ? first(left) : Mask(0);
      v[i] = W::load(m[i], x + i * kLanes);
    }
    network<V, 2>(v);
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) W::store(to + i * kLanes, m[i], v[i]);
  }

  template <int J>
  static constexpr Mask upper() {  // lanes whose number has bit J
    unsigned m = 0;
    for (int i = 0; i < kLanes; ++i) m |= unsigned(i & J ? 1 : 0) << i;
    return Mask(m);
  }

  // The bitonic network, words numbered through all vectors: groups of K / 2 are sorted and become groups of K. The
  // first step compares with the mirrored group, so that all orders are upwards.
  template <int V, int K>
  static inline __attribute__((always_inline)) void network(__m512i* v) {
    if constexpr (K <= V * kLanes) {
      if constexpr (K <= kLanes) {
#pragma GCC unroll 8
        for (int i = 0; i < V; ++i) exchange<K - 1, K / 2>(v[i]);
      } else {
        constexpr int G = K / kLanes;
#pragma GCC unroll 8
        for (int g = 0; g < V; g += G)
#pragma GCC unroll 8
          for (int i = 0; i < G / 2; ++i) {
            __m512i &a = v[g + i], &b = v[g + G - 1 - i];
            const __m512i mirrored = W::template across<kLanes - 1>(b);
            b = W::template across<kLanes - 1>(W::max(a, mirrored));
            a = W::min(a, mirrored);
          }
      }
      steps<V, K / 4>(v);
      network<V, K * 2>(v);
    }
  }
  // Each word with the one J further on.
  template <int V, int J>
  static inline __attribute__((always_inline)) void steps(__m512i* v) {
    if constexpr (J >= kLanes) {
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i)
        if (!(i & (J / kLanes))) {
          __m512i &a = v[i], &b = v[i + J / kLanes];
          const __m512i least = W::min(a, b);
          b = W::max(a, b);
          a = least;
        }
    } else if constexpr (J >= 1) {
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) exchange<J, J>(v[i]);
    }
    if constexpr (J > 1) steps<V, J / 2>(v);
  }
  template <int Flip, int Upper>
  static inline __attribute__((always_inline)) void exchange(__m512i& v) {
    const __m512i other = W::template across<Flip>(v);
    v = W::max_where(W::min(v, other), upper<Upper>(), v, other);
  }
};

template <class U>
void words(U* a, U* b, int64_t n) {
  Quick<U>::sort(a, b, n, true);
}

#endif

template <class T>
constexpr void fill(SortTable& t, DType d) {
  t.skip[0][int(d)] = skip<false, T>;
  t.skip[1][int(d)] = skip<true, T>;
}

constexpr SortTable make() {
  SortTable t{};
  fill<uint8_t>(t, DType::Bool), fill<uint8_t>(t, DType::U8), fill<int8_t>(t, DType::I8);
  fill<uint16_t>(t, DType::U16), fill<int16_t>(t, DType::I16);
  fill<uint32_t>(t, DType::U32), fill<int32_t>(t, DType::I32);
  fill<uint64_t>(t, DType::U64), fill<int64_t>(t, DType::I64);
  fill<float>(t, DType::F32), fill<double>(t, DType::F64);
#if defined(__AVX512F__)
  t.words32 = words<uint32_t>;
  t.words64 = words<uint64_t>;
#endif
  return t;
}

}  // namespace

extern const SortTable sort_table = make();

}  // namespace knet::cpu::KNET_ISA
