#include "sort_words.h"
#include <algorithm>
#include <utility>
#include <vector>
#include "isa.h"
#include "isa/sort.h"
#include "strided.h"
#include "threads.h"

namespace knet::cpu {

#ifdef KNET_X86
const SortTable& sorting() { return pick(v2::sort_table, v3::sort_table, v4::sort_table); }
#else
const SortTable& sorting() { return base::sort_table; }
#endif

namespace {

template <class U>
const Quicksort<U>& quicksort() {
  if constexpr (sizeof(U) == 4) return sorting().of32;
  else return sorting().of64;
}

// Bits [low, high) cut into digits of at most 11 bits, of nearly one length.
constexpr int kMostBits = 11;
struct Digits {
  int low, passes, bits;
  Digits(int low_, int high, int most)
      : low(low_), passes(int(ceil_div(high - low_, most))), bits(passes ? int(ceil_div(high - low_, passes)) : 0) {}
  size_t values() const { return size_t(1) << bits; }
  template <class U>
  size_t of(U word, int pass) const { return size_t(word >> (low + pass * bits)) & (values() - 1); }
};

// Least digit first; passes in which all agree are skipped.
template <class U>
U* radix_sort(U* a, U* b, int64_t n, Digits digits) {
  uint32_t count[1 << kMostBits];
  for (int d = 0; d < digits.passes; ++d) {
    std::fill(count, count + digits.values(), 0);
    for (int64_t i = 0; i < n; ++i) ++count[digits.of(a[i], d)];
    if (int64_t(count[digits.of(a[0], d)]) == n) continue;
    uint32_t sum = 0;
    for (size_t v = 0; v < digits.values(); ++v) sum += std::exchange(count[v], sum);
    for (int64_t i = 0; i < n; ++i) b[count[digits.of(a[i], d)]++] = a[i];
    std::swap(a, b);
  }
  return a;
}

// Each pass in parallel: chunks are counted, then each writes where its words belong.
template <class U>
U* radix_sort_long(U* a, U* b, int64_t n, Digits digits, int64_t* counts) {
  const int64_t values = int64_t(digits.values());
  const Split chunks(n, std::max<int64_t>(1 << 16, ceil_div(n, kSortCounts >> kMostBits)));
  auto each = [&](auto body) { parallel(chunks.tasks(), double(n), body); };
  for (int d = 0; d < digits.passes; ++d) {
    each([&](int64_t c) {
      int64_t* count = counts + c * values;
      std::fill(count, count + values, 0);
      for (int64_t i = chunks.begin(c), end = chunks.end(c); i < end; ++i) ++count[digits.of(a[i], d)];
    });
    int64_t sum = 0, most = 0;
    for (int64_t v = 0; v < values; ++v) {
      const int64_t before = sum;
      for (int64_t c = 0; c < chunks.tasks(); ++c) sum += std::exchange(counts[c * values + v], sum);
      most = std::max(most, sum - before);
    }
    if (most == n) continue;
    each([&](int64_t c) {
      int64_t* at = counts + c * values;
      for (int64_t i = chunks.begin(c), end = chunks.end(c); i < end; ++i) b[at[digits.of(a[i], d)]++] = a[i];
    });
    std::swap(a, b);
  }
  return a;
}

// Halves, quarters and so on, each by a thread of its own; then they are sorted.
template <class U>
U* quicksort_long(U* a, U* b, int64_t n) {
  constexpr int kLevels = 5;
  constexpr int64_t kLeast = 1 << 12;
  std::vector<int64_t> cuts{0, n};
  for (int level = 0; level < kLevels; ++level) {
    const int64_t parts = int64_t(cuts.size()) - 1;
    std::vector<int64_t> finer(size_t(2 * parts + 1), n);
    parallel(parts, 0.5 * double(n), [&](int64_t p) {
      const int64_t begin = cuts[size_t(p)], size = cuts[size_t(p) + 1] - begin;
      int64_t below = size;
      if (size < kLeast) std::copy(a + begin, a + begin + size, b + begin);
      else below = quicksort<U>().split(a + begin, b + begin, size);
      finer[size_t(2 * p)] = begin;
      finer[size_t(2 * p) + 1] = begin + below;
    });
    cuts.swap(finer);
    std::swap(a, b);
  }
  parallel(int64_t(cuts.size()) - 1, 3.0 * double(n), [&](int64_t p) {
    const int64_t begin = cuts[size_t(p)];
    quicksort<U>().sort(a + begin, b + begin, cuts[size_t(p) + 1] - begin);
  });
  return a;
}

}  // namespace

template <class U>
U* sort_words(U* a, U* b, int64_t n, int low, int high) {
  // One pass of radix sort beats all but the shortest quicksort; more do not.
  const bool one_pass = high - low <= kMostBits && n >= 256;
  if (n <= quicksort<U>().most && !one_pass) {
    quicksort<U>().sort(a, b, n);
    return a;
  }
  if (n >= int64_t(1) << 32) {
    std::sort(a, a + n);  // counts are of 32 bits
    return a;
  }
  // Long digits save passes, short ones scatter over fewer cache lines and pages. With AVX2, nanoseconds a word of 32
  // bits with a position, 8 bits or 11: n = 4096 10.4, 8.4; 65535 10, 11; a million 18, 23.
  return radix_sort(a, b, n, Digits(low, high, n >= 2048 && n < 65536 ? kMostBits : 8));
}

template <class U>
U* sort_long(U* a, U* b, int64_t n, int low, int high, int64_t* counts) {
  if (threads() == 1) return sort_words(a, b, n, low, high);
  if (quicksort<U>().split && high - low > kMostBits) return quicksort_long(a, b, n);
  return radix_sort_long(a, b, n, Digits(low, high, kMostBits), counts);
}

template uint32_t* sort_words(uint32_t*, uint32_t*, int64_t, int, int);
template uint64_t* sort_words(uint64_t*, uint64_t*, int64_t, int, int);
template uint32_t* sort_long(uint32_t*, uint32_t*, int64_t, int, int, int64_t*);
template uint64_t* sort_long(uint64_t*, uint64_t*, int64_t, int, int, int64_t*);

}  // namespace knet::cpu
