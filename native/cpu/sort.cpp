// sort: values and indices along one axis, stable, NaN last. Elements become words whose order is the wanted one: keys
// alone where only values are wanted, which become values again; else keys with positions below them, through which
// values are read.
#include <algorithm>
#include <limits>
#include <vector>
#include "dtypes.h"
#include "keys.h"
#include "registry.h"
#include "sort_words.h"
#include "strided.h"
#include "threads.h"

namespace knet::cpu {
namespace {

template <class T>
class SortStep : public Step {
  template <bool Placed>
  using Word = std::conditional_t<Placed || sizeof(T) == 8, uint64_t, uint32_t>;
  static constexpr int kKeyBits = 8 * sizeof(T), kMostPositionBits = 32;
  static constexpr bool kFits = kKeyBits + kMostPositionBits <= 64;
  static constexpr int64_t kLong = 1 << 16, kChunk = 1 << 14, kMostSide = 64 / sizeof(T);

 public:
  SortStep(Axis axis, bool descending) : axis_(axis), descending_(descending), chunks_(axis.n, kChunk) {
    if (axis.n > int64_t(1) << kMostPositionBits)
      throw Error(Error::Value,
                  "[sort] an axis of " + std::to_string(axis.n) + " is too long. Sort parts and merge them.");
    position_bits_ = std::bit_width(uint64_t(std::max<int64_t>(axis.n, 1) - 1));
    const int64_t rows = axis.outer * axis.inner;
    long_ = axis.n >= kLong && rows < 8;
    if (long_) scratch_bytes = size_t(axis.n) * 2 * sizeof(uint64_t) + sizeof(int64_t[kSortCounts]);
    // Lines with gaps are read and written beside their neighbours, a cache line at a time.
    side_ = std::clamp<int64_t>((1 << 17) / std::max<int64_t>(1, axis.n), 1, kMostSide);
    side_ = std::clamp<int64_t>(axis.inner, 1, side_);
    groups_ = ceil_div(axis.inner, side_);
    per_task_ = Split(axis.outer * groups_, (1 << 13) / std::max<int64_t>(1, axis.n * side_));
    cost_ns = 20 + double(rows * axis.n) * 5;
  }

  bool may_skip(int) const override { return true; }

  void run(char* const* out, const char* const* in, char* scratch) const override {
    const T* x = reinterpret_cast<const T*>(in[0]);
    T* values = reinterpret_cast<T*>(out[0]);
    int64_t* indices = reinterpret_cast<int64_t*>(out[1]);
    if (axis_.outer * axis_.n * axis_.inner == 0) return;
    if (indices) sort<true>(x, values, indices, scratch);
    else if (values) sort<false>(x, values, indices, scratch);
  }

 private:
  // How keys become words: (key - least) >> shift, above `low` bits of position, in all `high` bits.
  struct Cut {
    uint64_t least = 0;
    int shift = 0, low = 0, high = kKeyBits;
  };
  struct Bounds {
    uint64_t least = ~uint64_t(0), most = 0;
  };

  template <bool Placed>
  void sort(const T* x, T* values, int64_t* indices, char* scratch) const {
    using U = Word<Placed>;
    const int64_t n = axis_.n, inner = axis_.inner;
    auto line = [](auto* p, int64_t at) { return p ? p + at : p; };
    if (long_) {
      U* words = reinterpret_cast<U*>(scratch);
      int64_t* counts = reinterpret_cast<int64_t*>(scratch + size_t(n) * 2 * sizeof(uint64_t));
      for (int64_t outer = 0; outer < axis_.outer; ++outer)
        for (int64_t j = 0; j < inner; ++j) {
          const int64_t at = outer * n * inner + j;
          sort_one_long<Placed>(x + at, line(values, at), line(indices, at), words, words + n, counts);
        }
      return;
    }
    parallel(per_task_.tasks(), cost_ns, [&](int64_t task) {
      std::unique_ptr<U[]> words(new U[size_t(n * (side_ + 1))]);
      for (int64_t g = per_task_.begin(task); g < per_task_.end(task); ++g) {
        const int64_t first = g % groups_ * side_, side = std::min(side_, inner - first);
        const int64_t at = g / groups_ * n * inner + first;
        sort_group<Placed>(x + at, line(values, at), line(indices, at), side, words.get());
      }
    });
  }

  // Lines side by side; there are words for one line more.
  template <bool Placed>
  void sort_group(const T* x, T* values, int64_t* indices, int64_t side, Word<Placed>* words) const {
    using U = Word<Placed>;
    const int64_t n = axis_.n;
    U *a[kMostSide], *spare = words + side * n;
    for (int64_t j = 0; j < side; ++j) a[j] = words + j * n;
    each(side, 0, n, [&](int64_t i, int64_t j, int64_t at) { a[j][i] = key_of(x[at], descending_); });
    for (int64_t j = 0; j < side; ++j) {
      Cut cut;
      if constexpr (Placed) {
        cut = cut_of(kFits ? Bounds{} : bounds(a[j], 0, n));
        place(a[j], 0, n, cut);
      }
      if (sort_words(a[j], spare, n, cut.low, cut.high) != a[j]) std::swap(a[j], spare);
      if (cut.shift)
        for (auto [begin, end] : ties(a[j], 0, n, cut)) break_tie(x + j, a[j], spare, begin, end, cut);
    }
    store<Placed>(x, a, values, indices, side, 0, n);
    if constexpr (!Placed)
      for (int64_t j = 0; j < side; ++j) mend(x + j, a[j], values + j);
  }

  template <bool Placed>
  void sort_one_long(const T* x, T* values, int64_t* indices, Word<Placed>* a, Word<Placed>* b, int64_t* counts) const {
    const int64_t n = axis_.n;
    auto chunks = [&](auto body) {
      parallel(chunks_.tasks(), double(n), [&](int64_t c) { body(c, chunks_.begin(c), chunks_.end(c)); });
    };
    std::vector<Bounds> found(size_t(chunks_.tasks()));
    chunks([&](int64_t c, int64_t begin, int64_t end) {
      each(1, begin, end, [&](int64_t i, int64_t, int64_t at) { a[i] = key_of(x[at], descending_); });
      if constexpr (Placed && !kFits) found[size_t(c)] = bounds(a, begin, end);
    });
    Cut cut;
    if constexpr (Placed) {
      Bounds all;
      for (const Bounds& f : found) all = {std::min(all.least, f.least), std::max(all.most, f.most)};
      cut = cut_of(all);
      chunks([&](int64_t, int64_t begin, int64_t end) { place(a, begin, end, cut); });
    }
    if (sort_long(a, b, n, cut.low, cut.high, counts) != a) std::swap(a, b);
    if (cut.shift) {
      std::vector<std::vector<std::pair<int64_t, int64_t>>> tied(found.size());
      chunks([&](int64_t c, int64_t begin, int64_t end) { tied[size_t(c)] = ties(a, begin, end, cut); });
      chunks([&](int64_t c, int64_t, int64_t) {
        for (auto [begin, end] : tied[size_t(c)]) break_tie(x, a, b, begin, end, cut);
      });
    }
    chunks([&](int64_t, int64_t begin, int64_t end) { store<Placed>(x, &a, values, indices, 1, begin, end); });
    if constexpr (!Placed) mend(x, a, values);
  }

  // f(position, line, offset) for all elements of lines side by side.
  template <class F>
  void each(int64_t side, int64_t begin, int64_t end, F f) const {
    const int64_t inner = axis_.inner;
    if (inner == 1)
      for (int64_t i = begin; i < end; ++i) f(i, 0, i);  // vectors
    else
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < side; ++j) f(i, j, i * inner + j);
  }

  template <class U>
  static Bounds bounds(const U* keys, int64_t begin, int64_t end) {
    Bounds b;
    for (int64_t i = begin; i < end; ++i) {
      b.least = std::min<uint64_t>(b.least, keys[i]);
      b.most = std::max<uint64_t>(b.most, keys[i]);
    }
    return b;
  }

  Cut cut_of(Bounds b) const {
    if (kFits) return {0, 0, position_bits_, position_bits_ + kKeyBits};
    const int range = std::bit_width(b.most - b.least), shift = std::max(0, range + position_bits_ - 64);
    return {b.least, shift, position_bits_, position_bits_ + range - shift};
  }

  template <class U>
  static void place(U* words, int64_t begin, int64_t end, Cut cut) {
    for (int64_t i = begin; i < end; ++i) words[i] = (words[i] - cut.least) >> cut.shift << cut.low | U(i);
  }

  int64_t position(uint64_t word) const { return int64_t(word & ((uint64_t(1) << position_bits_) - 1)); }

  // Words that begin in [begin, end) and are equal but for their position.
  template <class U>
  std::vector<std::pair<int64_t, int64_t>> ties(const U* words, int64_t begin, int64_t end, Cut cut) const {
    std::vector<std::pair<int64_t, int64_t>> found;
    auto same = [&](int64_t i) { return (words[i] ^ words[i + 1]) >> cut.low == 0; };  // with the next
    const int64_t last = axis_.n - 1;
    for (int64_t i = begin; i < std::min(end, last); ++i) {
      if (!same(i)) continue;
      const int64_t first = i;
      while (i < last && same(i)) ++i;
      if (first > begin || begin == 0 || !same(begin - 1)) found.emplace_back(first, i + 1);
    }
    return found;
  }

  // By the bits that were shifted out: as many as positions have, at most, so they fit.
  template <class U>
  void break_tie(const T* x, U* words, U* spare, int64_t begin, int64_t end, Cut cut) const {
    const uint64_t least = cut.least + (words[begin] >> cut.low << cut.shift);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t p = position(words[i]);
      words[i] = U((key_of(x[p * axis_.inner], descending_) - least) << cut.low | uint64_t(p));
    }
    U* sorted = sort_words(words + begin, spare + begin, end - begin, cut.low, cut.low + cut.shift);
    if (sorted != words + begin) std::copy(sorted, sorted + (end - begin), words + begin);
  }

  template <bool Placed, class U>
  void store(const T* x, U* const* a, T* values, int64_t* indices, int64_t side, int64_t begin, int64_t end) const {
    if constexpr (Placed) {
      each(side, begin, end, [&](int64_t i, int64_t j, int64_t at) { indices[at] = position(a[j][i]); });
      if (values)
        each(side, begin, end, [&](int64_t i, int64_t j, int64_t at) {
          values[at] = x[position(a[j][i]) * axis_.inner + j];
        });
    } else {
      each(side, begin, end, [&](int64_t i, int64_t j, int64_t at) {
        values[at] = value_of<T>(KeyOf<T>(a[j][i]), descending_);
      });
    }
  }

  // A key does not tell zeros, or NaN, from one another: these are copied in their old order.
  template <class U>
  void mend(const T* x, const U* sorted, T* values) const {
    if constexpr (std::is_floating_point_v<T>) {
      for (T special : {T(0), std::numeric_limits<T>::quiet_NaN()}) {
        const U key = key_of(special, descending_);
        const U *at = sorted, *const end = sorted + axis_.n;
        if (end[-1] < key) continue;
        for (int64_t half, left = axis_.n; left > 1; left -= half) {  // without branches, for the sake of short lines
          half = left / 2;
          at += at[half - 1] < key ? half : 0;
        }
        T* y = values + (at - sorted) * axis_.inner;
        for (const T* p = x; at < end && *at == key; p += axis_.inner)
          if (key_of(*p, descending_) == key) *y = *p, y += axis_.inner, ++at;
      }
    }
  }

  Axis axis_;
  bool descending_;
  Split chunks_, per_task_{0, 1};    // of a long line; of all groups of lines
  int64_t side_ = 1, groups_ = 1;    // lines in a group, groups around one outer index
  int position_bits_ = 0;
  bool long_ = false;
};

Register sorts({Op::sort},
               [](Op, std::span<const Layout>, std::span<const Layout> in,
                  std::span<const int64_t> attrs) -> std::unique_ptr<Step> {
                 return by_dtype("sort", in[0].dtype, [&]<class T>(std::type_identity<T>) -> std::unique_ptr<Step> {
                   using E = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;
                   return std::make_unique<SortStep<E>>(Axis(in[0].shape, int(attrs[0])), attrs[1] != 0);
                 });
               });

}  // namespace
}  // namespace knet::cpu
