// Lists of words as keys of hash tables.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>

namespace knet {

using Words = std::span<const int64_t>;

// Two lanes that multiply and fold, for the one waits for its multiplication while the other begins: about a word a
// nanosecond. Good enough, since keys are compared afterwards.
inline uint64_t hash(Words w) {
  auto fold = [](uint64_t a, uint64_t b) {
    __uint128_t m = __uint128_t(a) * b;
    return uint64_t(m) ^ uint64_t(m >> 64);
  };
  uint64_t h0 = 0x9e3779b97f4a7c15ull, h1 = 0xbf58476d1ce4e5b9ull;
  size_t i = 0;
  for (; i + 1 < w.size(); i += 2) {
    h0 = fold(h0 ^ uint64_t(w[i]), 0xd6e8feb86659fd93ull);
    h1 = fold(h1 ^ uint64_t(w[i + 1]), 0xa0761d6478bd642full);
  }
  if (i < w.size()) h0 = fold(h0 ^ uint64_t(w[i]), 0xe7037ed1a0b428dbull);
  return fold(h0 ^ w.size(), h1 | 1);
}

// For std::unordered_map with vectors of words as keys: found by any list of words.
struct WordsHash {
  using is_transparent = void;
  size_t operator()(Words w) const { return hash(w); }
};
struct SameWords {
  using is_transparent = void;
  bool operator()(Words a, Words b) const { return std::ranges::equal(a, b); }
};

}  // namespace knet
