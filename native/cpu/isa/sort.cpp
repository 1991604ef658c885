#include "cpu/isa/sort.h"
#include <limits>
#include "cpu/isa/vector.h"

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

// A vector of words. Parts of one: the first `left` lanes, or all if there are more; others are loaded as the greatest.
template <class U>
struct Words {
  typedef U V __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / int(sizeof(U));
  static V load(const U* p, int64_t left) {
    V v = V{} + U(~U(0));
    __builtin_memcpy(&v, p, left >= kLanes ? sizeof v : left > 0 ? size_t(left) * sizeof(U) : 0);
    return v;
  }
  static void store(U* p, int64_t left, V v) {
    __builtin_memcpy(p, &v, left >= kLanes ? sizeof v : left > 0 ? size_t(left) * sizeof(U) : 0);
  }
  static V min(V a, V b) { return a < b ? a : b; }
  static V max(V a, V b) { return a < b ? b : a; }
  static constexpr V lane() {
    V v{};
    for (int i = 0; i < kLanes; ++i) v[i] = U(i);
    return v;
  }
  // The lanes i ^ Flip.
  template <int Flip>
  static V across(V v) { return __builtin_shuffle(v, lane() ^ U(Flip)); }
  // The greater where the number of the lane has bit Upper, else the less.
  template <int Upper>
  static V order(V a, V b) { return (lane() & U(Upper)) != U(0) ? max(a, b) : min(a, b); }
};

#if defined(__AVX512F__)
template <class U>
struct Masked {
  static constexpr int kLanes = 64 / int(sizeof(U));
  using Mask = std::conditional_t<kLanes == 16, __mmask16, __mmask8>;
  static Mask first(int64_t n) { return n >= kLanes ? Mask(~0) : n > 0 ? Mask((1u << n) - 1) : Mask(0); }
  template <int J>
  static constexpr Mask with_bit() {  // lanes whose number has bit J
    unsigned m = 0;
    for (int i = 0; i < kLanes; ++i) m |= unsigned(i & J ? 1 : 0) << i;
    return Mask(m);
  }
};
template <>
struct Words<uint32_t> : Masked<uint32_t> {
  using V = __m512i;
  static V load(const uint32_t* p, int64_t left) {
    return _mm512_mask_loadu_epi32(_mm512_set1_epi32(-1), first(left), p);
  }
  static void store(uint32_t* p, int64_t left, V v) { _mm512_mask_storeu_epi32(p, first(left), v); }
  static void store_where(uint32_t* p, Mask m, V v) { _mm512_mask_storeu_epi32(p, m, v); }
  static V all(uint32_t x) { return _mm512_set1_epi32(int(x)); }
  static V min(V a, V b) { return _mm512_min_epu32(a, b); }
  static V max(V a, V b) { return _mm512_max_epu32(a, b); }
  static Mask below(V a, V b) { return _mm512_cmplt_epu32_mask(a, b); }
  static V pack(Mask m, V v) { return _mm512_maskz_compress_epi32(m, v); }
  template <int Flip>
  static V across(V v) {
    typedef uint32_t L __attribute__((vector_size(64)));
    constexpr L lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return V(__builtin_shuffle(L(v), lane ^ uint32_t(Flip)));
  }
  template <int Upper>
  static V order(V a, V b) { return _mm512_mask_max_epu32(min(a, b), with_bit<Upper>(), a, b); }
};
template <>
struct Words<uint64_t> : Masked<uint64_t> {
  using V = __m512i;
  static V load(const uint64_t* p, int64_t left) {
    return _mm512_mask_loadu_epi64(_mm512_set1_epi64(-1), first(left), p);
  }
  static void store(uint64_t* p, int64_t left, V v) { _mm512_mask_storeu_epi64(p, first(left), v); }
  static void store_where(uint64_t* p, Mask m, V v) { _mm512_mask_storeu_epi64(p, m, v); }
  static V all(uint64_t x) { return _mm512_set1_epi64(int64_t(x)); }
  static V min(V a, V b) { return _mm512_min_epu64(a, b); }
  static V max(V a, V b) { return _mm512_max_epu64(a, b); }
  static Mask below(V a, V b) { return _mm512_cmplt_epu64_mask(a, b); }
  static V pack(Mask m, V v) { return _mm512_maskz_compress_epi64(m, v); }
  template <int Flip>
  static V across(V v) {
    typedef uint64_t L __attribute__((vector_size(64)));
    constexpr L lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return V(__builtin_shuffle(L(v), lane ^ uint64_t(Flip)));
  }
  template <int Upper>
  static V order(V a, V b) { return _mm512_mask_max_epu64(min(a, b), with_bit<Upper>(), a, b); }
};
#endif

// Sorts few words in registers.
template <class U>
class Network {
  using W = Words<U>;
  using V = typename W::V;
  static constexpr int kLanes = W::kLanes, kVectors = 16;

 public:
  static constexpr int64_t kMost = kLanes * kVectors;

  // n words at x, sorted, to `to`, which may be x.
  static void sort(const U* x, U* to, int64_t n) {
    const int64_t half = (n + 2 * kLanes - 1) / (2 * kLanes);
    if (n <= kLanes) vectors<1>(x, to, n);
    else if (half <= 1) vectors<2>(x, to, n);
    else if (half <= 2) vectors<4>(x, to, n);
    else if (half <= 3) vectors<6>(x, to, n);
    else if (half <= 4) vectors<8>(x, to, n);
    else if (half <= 5) vectors<10>(x, to, n);
    else if (half <= 6) vectors<12>(x, to, n);
    else if (half <= 7) vectors<14>(x, to, n);
    else vectors<16>(x, to, n);
  }

 private:
  template <int N>
  static void vectors(const U* x, U* to, int64_t n) {
    V v[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) v[i] = W::load(x + i * kLanes, n - i * kLanes);
    bitonic<N, 2>(v);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) W::store(to + i * kLanes, n - i * kLanes, v[i]);
  }

  // The bitonic network, words numbered through all vectors: groups of K / 2 are sorted and become groups of K. The
  // first step compares with the mirrored group, so that all orders are upwards. Vectors from N on would have the
  // greatest words, which stay where they are.
  template <int N, int K>
  static inline __attribute__((always_inline)) void bitonic(V* v) {
    if constexpr (K < 2 * N * kLanes) {
      if constexpr (K <= kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i) v[i] = W::template order<K / 2>(v[i], W::template across<K - 1>(v[i]));
      } else {
        constexpr int G = K / kLanes;
#pragma GCC unroll 16
        for (int g = 0; g < N; g += G)
#pragma GCC unroll 16
          for (int i = 0; i < G / 2; ++i) {
            if (g + G - 1 - i >= N) continue;
            V &a = v[g + i], &b = v[g + G - 1 - i];
            const V mirrored = W::template across<kLanes - 1>(b);
            b = W::template across<kLanes - 1>(W::max(a, mirrored));
            a = W::min(a, mirrored);
          }
      }
      steps<N, K / 4>(v);
      bitonic<N, K * 2>(v);
    }
  }
  // Each word with the one J further on.
  template <int N, int J>
  static inline __attribute__((always_inline)) void steps(V* v) {
    if constexpr (J >= kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i)
        if (!(i & (J / kLanes)) && i + J / kLanes < N) {
          V &a = v[i], &b = v[i + J / kLanes];
          const V least = W::min(a, b);
          b = W::max(a, b);
          a = least;
        }
    } else if constexpr (J >= 1) {
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) v[i] = W::template order<J>(v[i], W::template across<J>(v[i]));
    }
    if constexpr (J > 1) steps<N, J / 2>(v);
  }
};

#if defined(__AVX512F__)
// Quicksort that moves whole vectors from one array to another, down to what a network does.
template <class U>
class Quick {
  using W = Words<U>;
  using Mask = typename W::Mask;
  static constexpr int kLanes = W::kLanes;
  // Stores wait for their cache lines, unless these were asked for: 4096 words and more took half as long again.
  static constexpr int64_t kAhead = 512 / sizeof(U);

 public:
  // Sorts n words at `from`; the result lies there if `stay`, else at `other`. Both are written over.
  static void sort(U* from, U* other, int64_t n, bool stay) {
    while (n > Network<U>::kMost) {
      const U pivot = middle(from, n);
      int64_t below = part(from, other, n, pivot);
      if (below == 0) {  // the pivot is the least: what equals it is done, however much there is
        below = equal(from, other, n, pivot);
        U* const home = stay ? from : other;
        for (int64_t i = 0; i < below; ++i) home[i] = pivot;
      } else if (below > n / 2) {  // the shorter part by recursion, which so is never deep
        sort(other + below, from + below, n - below, !stay);
        n = below;
        below = 0;
      } else {
        sort(other, from, below, !stay);
      }
      U* const rest = other + below;
      other = from + below;
      from = rest;
      n -= below;
      stay = !stay;
    }
    Network<U>::sort(from, stay ? from : other, n);
  }

  static int64_t split(const U* x, U* to, int64_t n) {
    const U pivot = middle(x, n);
    const int64_t below = part(x, to, n, pivot);
    return below ? below : equal(x, to, n, pivot);
  }

 private:
  // The middle one of a sample, a word from each of equal parts. Which one looks random, so that no order that data
  // come in is bad.
  static U middle(const U* x, int64_t n) {
    constexpr int kSample = 4 * kLanes;
    U sample[kSample];
    const int count = n < 4096 ? kLanes : kSample;
    const uint64_t most = ~uint64_t(0) >> 32, part = uint64_t(n) / uint64_t(count), step = part < most ? part : most;
    uint64_t random = uint64_t(n);
    for (int k = 0; k < count; ++k) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      sample[k] = x[uint64_t(k) * step + ((random >> 32) * step >> 32)];
    }
    Network<U>::sort(sample, sample, count);
    return sample[count / 2];
  }

  // Words below the pivot to the front of `to`, others to its end. Returns how many are below.
  static int64_t part(const U* x, U* to, int64_t n, U pivot_word) {
    const auto pivot = W::all(pivot_word);
    U* front = to;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const auto v = _mm512_loadu_si512(x + i);
      const Mask below = W::below(v, pivot);
      const int count = __builtin_popcount(below);
      // The rest of the vector is within what is still to be written.
      _mm512_storeu_si512(front, W::pack(below, v));
      front += count;
      U* const back = front + (n - i - kLanes);
      W::store_where(back, Mask(unsigned(Mask(~0)) >> count), W::pack(Mask(~below), v));
      __builtin_prefetch(front + kAhead, 1);
      __builtin_prefetch(back - kAhead, 1);
    }
    if (i < n) {
      const Mask left = W::first(n - i);
      const auto v = W::load(x + i, n - i);
      const Mask below = W::below(v, pivot) & left;
      const int count = __builtin_popcount(below);
      W::store(front, count, W::pack(below, v));
      front += count;
      W::store(front, n - i - count, W::pack(Mask(~below & left), v));
    }
    return front - to;
  }

  // The same for those that are not above the pivot, where it is the least.
  static int64_t equal(const U* x, U* to, int64_t n, U pivot) {
    return pivot == U(~U(0)) ? n : part(x, to, n, U(pivot + 1));
  }
};
#endif

template <class U>
constexpr Quicksort<U> quicksort() {
#if defined(__AVX512F__)
  return {std::numeric_limits<int64_t>::max(), [](U* a, U* b, int64_t n) { Quick<U>::sort(a, b, n, true); },
          Quick<U>::split};
#else
  return {Network<U>::kMost, [](U* a, U*, int64_t n) { Network<U>::sort(a, a, n); }, nullptr};
#endif
}

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
  t.of32 = quicksort<uint32_t>();
  t.of64 = quicksort<uint64_t>();
  return t;
}

}  // namespace

extern const SortTable sort_table = make();

}  // namespace knet::cpu::KNET_ISA
