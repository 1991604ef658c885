// sort: values and indices along one axis, stable, NaN last. Elements become unsigned keys whose order is the wanted
// one; a row is sorted as (key, position) and the values are then read through the positions, so that -0.0 stays what
// it was.
#include <bit>
#include <cstring>
#include <vector>
#include "dtypes.h"
#include "registry.h"
#include "strided.h"
#include "threads.h"

namespace knet::cpu {
namespace {

template <size_t Bytes>
using Unsigned = std::conditional_t<Bytes == 1, uint8_t,
                 std::conditional_t<Bytes == 2, uint16_t, std::conditional_t<Bytes == 4, uint32_t, uint64_t>>>;

// Order of keys = order of values; equal values have equal keys; NaN has the largest in either direction.
template <class T>
inline Unsigned<sizeof(T)> key_of(T x, bool descending) {
  using U = Unsigned<sizeof(T)>;
  constexpr U kSign = U(U(1) << (sizeof(T) * 8 - 1));
  if constexpr (std::is_floating_point_v<T>) {
    if (x != x) return U(~U(0));
    U u = std::bit_cast<U>(x + T(0));  // -0 + 0 is +0
    u = u & kSign ? U(~u) : U(u | kSign);
    return descending ? U(~u) : u;
  } else {
    U u = U(x);
    if constexpr (std::is_signed_v<T>) u ^= kSign;
    return descending ? U(~u) : u;
  }
}

struct Pair64 {
  uint64_t key, at;
  bool operator<(const Pair64& o) const { return (key < o.key) | ((key == o.key) & (at < o.at)); }
};

// Keys of up to 32 bits and positions below 2^32 travel as one word: key << 32 | position.
template <class T>
constexpr bool kPacked = sizeof(T) <= 4;
template <class T>
using Item = std::conditional_t<kPacked<T>, uint64_t, Pair64>;

inline uint64_t key(uint64_t item) { return item >> 32; }
inline uint64_t key(const Pair64& item) { return item.key; }
inline uint64_t position(uint64_t item) { return uint32_t(item); }
inline uint64_t position(const Pair64& item) { return item.at; }

// Least digit first, 8 bits a pass (256 destinations stay in L1 and in the TLB); passes in which all keys agree are
// skipped. The result is in `a`.
template <class I>
void radix_sort(I* a, I* b, int64_t n, int key_bytes) {
  uint32_t count[8][256];
  std::memset(count, 0, sizeof count[0] * size_t(key_bytes));
  for (int64_t i = 0; i < n; ++i)
    for (int d = 0; d < key_bytes; ++d) ++count[d][key(a[i]) >> (8 * d) & 255];
  I* from = a;
  I* to = b;
  for (int d = 0; d < key_bytes; ++d) {
    if (int64_t(count[d][key(from[0]) >> (8 * d) & 255]) == n) continue;
    uint32_t at[256], sum = 0;
    for (int v = 0; v < 256; ++v) at[v] = sum, sum += count[d][v];
    for (int64_t i = 0; i < n; ++i) to[at[key(from[i]) >> (8 * d) & 255]++] = from[i];
    std::swap(from, to);
  }
  if (from != a) std::copy(from, from + n, a);
}

template <class I>
void sort_items(I* a, I* b, int64_t n, int key_bytes) {
  // Float rows, nanoseconds an element: std::sort 17 at 16, 22 at 32, 47 at 128; radix 19 at 64, 12 at 128, 10 at 512.
  if (n < 16 * key_bytes || n >= int64_t(1) << 32)
    std::sort(a, a + n);  // items are distinct by position: stable
  else
    radix_sort(a, b, n, key_bytes);
}

template <class T>
class SortStep : public Step {
  using I = Item<T>;
  static constexpr int64_t kRun = 1 << 16;  // items a task sorts; longer rows are merged from runs

 public:
  SortStep(Axis axis, bool descending) : axis_(axis), descending_(descending) {
    rows_ = axis.outer * axis.inner;
    long_ = axis.n > 2 * kRun && rows_ < 8;
    if (kPacked<T> && axis.n >= int64_t(1) << 32)
      throw Error(Error::Value,
                  "[sort] an axis of " + std::to_string(axis.n) + " is too long. Sort parts and merge them.");
    per_task_ = Split(rows_, (1 << 13) / std::max<int64_t>(1, axis.n));
    scratch_bytes = long_ ? size_t(axis.n) * 2 * sizeof(I) : 0;
    cost_ns = 20 + double(rows_ * axis.n) * (axis.n < 64 ? 15 : 6.0 * sizeof(T));
  }

  void run(char* const* out, const char* const* in, char* scratch) const override {
    const T* x = reinterpret_cast<const T*>(in[0]);
    T* values = reinterpret_cast<T*>(out[0]);
    int64_t* indices = reinterpret_cast<int64_t*>(out[1]);
    if (rows_ * axis_.n == 0) return;
    if (long_) {
      I* a = reinterpret_cast<I*>(scratch);
      for (int64_t r = 0; r < rows_; ++r) sort_long(x + base(r), values + base(r), indices + base(r), a, a + axis_.n);
      return;
    }
    parallel(per_task_.tasks(), cost_ns, [&](int64_t task) {
      std::vector<I> items(size_t(axis_.n) * 2);
      for (int64_t r = per_task_.begin(task); r < per_task_.end(task); ++r) {
        load(x + base(r), items.data(), 0, axis_.n);
        sort_items(items.data(), items.data() + axis_.n, axis_.n, int(sizeof(T)));
        store(x + base(r), items.data(), values + base(r), indices + base(r), 0, axis_.n);
      }
    });
  }

 private:
  int64_t base(int64_t row) const { return row / axis_.inner * axis_.n * axis_.inner + row % axis_.inner; }

  void load(const T* x, I* items, int64_t begin, int64_t end) const {
    for (int64_t i = begin; i < end; ++i) {
      auto k = key_of(x[i * axis_.inner], descending_);
      if constexpr (kPacked<T>) items[i] = uint64_t(k) << 32 | uint64_t(i);
      else items[i] = {k, uint64_t(i)};
    }
  }
  void store(const T* x, const I* items, T* values, int64_t* indices, int64_t begin, int64_t end) const {
    for (int64_t i = begin; i < end; ++i) {
      int64_t p = int64_t(position(items[i]));
      indices[i * axis_.inner] = p;
      values[i * axis_.inner] = x[p * axis_.inner];
    }
  }

  // Runs are sorted side by side, then merged two by two, each merge cut into equal pieces by binary search.
  void sort_long(const T* x, T* values, int64_t* indices, I* a, I* b) const {
    const int64_t n = axis_.n;
    Split runs(n, kRun);
    parallel(runs.tasks(), 6.0 * sizeof(T) * double(n), [&](int64_t i) {
      int64_t begin = runs.begin(i), end = runs.end(i);
      load(x, a, begin, end);
      sort_items(a + begin, b + begin, end - begin, int(sizeof(T)));
    });
    for (int64_t width = kRun; width < n; width *= 2, std::swap(a, b)) {
      Split pieces(n, kRun);
      parallel(pieces.tasks(), 3.0 * double(n), [&](int64_t i) {
        int64_t begin = pieces.begin(i), end = pieces.end(i);  // of the result; a piece lies within one pair of runs
        int64_t pair = begin / (2 * width) * (2 * width);
        I *left = a + pair, *right = a + std::min(n, pair + width);
        int64_t nl = right - left, nr = std::min(n, pair + 2 * width) - pair - nl;
        auto [l0, r0] = cut(left, nl, right, nr, begin - pair);
        auto [l1, r1] = cut(left, nl, right, nr, end - pair);
        merge(left + l0, left + l1, right + r0, right + r1, b + begin);
      });
    }
    parallel(runs.tasks(), 3.0 * double(n),
             [&](int64_t i) { store(x, a, values, indices, runs.begin(i), runs.end(i)); });
  }

  // Without branches: which side is next cannot be predicted.
  static void merge(const I* l, const I* l_end, const I* r, const I* r_end, I* to) {
    while (l < l_end && r < r_end) {
      bool right = *r < *l;
      *to++ = *(right ? r : l);
      r += right;
      l += !right;
    }
    to = std::copy(l, l_end, to);
    std::copy(r, r_end, to);
  }

  // How many of the first k of the merged sequence come from the left, and from the right.
  static std::pair<int64_t, int64_t> cut(const I* left, int64_t nl, const I* right, int64_t nr, int64_t k) {
    int64_t lo = std::max<int64_t>(0, k - nr), hi = std::min(k, nl);
    while (lo < hi) {
      int64_t l = (lo + hi) / 2;
      if (right[k - l - 1] < left[l]) hi = l;
      else lo = l + 1;
    }
    return {lo, k - lo};
  }

  Axis axis_;
  bool descending_;
  int64_t rows_ = 0;
  bool long_ = false;
  Split per_task_{0, 1};
};

Register sorts({Op::sort},
               [](Op, std::span<const Layout>, std::span<const Layout> in, std::span<const int64_t> attrs)
                   -> std::unique_ptr<Step> {
                 Axis axis(in[0].shape, int(attrs[0]));
                 bool descending = attrs[1] != 0;
                 return by_dtype("sort", in[0].dtype, [&]<class T>(std::type_identity<T>) -> std::unique_ptr<Step> {
                   using E = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;
                   return std::make_unique<SortStep<E>>(axis, descending);
                 });
               });

}  // namespace
}  // namespace knet::cpu
