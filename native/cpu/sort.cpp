// sort and top: values and indices along one axis, stable, NaN last. Elements become unsigned keys whose order is the
// wanted one. Where indices are wanted, pairs (key, position) are sorted and the values read through the positions;
// where only values are, keys alone, which become values again.
#include <bit>
#include <limits>
#include <utility>
#include <vector>
#include "dtypes.h"
#include "isa.h"
#include "isa/select.h"
#include "registry.h"
#include "strided.h"
#include "threads.h"

namespace knet::cpu {
namespace {

#ifdef KNET_X86
const SelectTable& table() { return pick(v2::select_table, v3::select_table, v4::select_table); }
#else
const SelectTable& table() { return base::select_table; }
#endif

template <size_t Bytes>
using Unsigned = std::conditional_t<Bytes == 1, uint8_t,
                 std::conditional_t<Bytes == 2, uint16_t, std::conditional_t<Bytes == 4, uint32_t, uint64_t>>>;
template <class T>
using KeyOf = Unsigned<sizeof(T)>;
template <class U>
constexpr U kSign = U(U(1) << (sizeof(U) * 8 - 1));

// Order of keys = order of values; equal values have equal keys; NaN has the largest in either direction.
template <class T>
inline KeyOf<T> key_of(T x, bool descending) {
  using U = KeyOf<T>;
  if constexpr (std::is_floating_point_v<T>) {
    U u = std::bit_cast<U>(x + T(0));  // -0 + 0 is +0
    u ^= U(-U(u >> (sizeof(T) * 8 - 1))) | kSign<U>;
    if (descending) u = U(~u);
    return x != x ? U(~U(0)) : u;
  } else {
    U u = U(x);
    if constexpr (std::is_signed_v<T>) u ^= kSign<U>;
    return descending ? U(~u) : u;
  }
}

// The value that has a key: +0 for either zero, some NaN for any.
template <class T>
inline T value_of(KeyOf<T> u, bool descending) {
  using U = KeyOf<T>;
  if (descending) u = U(~u);
  if constexpr (std::is_floating_point_v<T>) return std::bit_cast<T>(U(u ^ (U(U(u >> (sizeof(T) * 8 - 1)) - 1) | kSign<U>)));
  else if constexpr (std::is_signed_v<T>) return T(u ^ kSign<U>);
  else return T(u);
}

// What is sorted. Keys of up to 32 bits and positions below 2^32 travel as one word: key << 32 | position.
struct Packed {
  uint64_t word;
  uint64_t key() const { return word >> 32; }
  int64_t position() const { return int64_t(uint32_t(word)); }
  bool operator<(const Packed& o) const { return word < o.word; }
};
struct Pair {
  uint64_t first, second;
  uint64_t key() const { return first; }
  int64_t position() const { return int64_t(second); }
  bool operator<(const Pair& o) const { return (first < o.first) | ((first == o.first) & (second < o.second)); }
};
template <class U>
struct Bare {
  U word;
  U key() const { return word; }
  bool operator<(const Bare& o) const { return word < o.word; }
};
template <class T>
constexpr bool kPacked = sizeof(T) <= 4;
template <class T>
using Placed = std::conditional_t<kPacked<T>, Packed, Pair>;
template <class I, class T>
constexpr bool kPlaced = std::is_same_v<I, Placed<T>>;

template <class I, class T>
inline I item(T x, int64_t i, bool descending) {
  auto k = key_of(x, descending);
  if constexpr (std::is_same_v<I, Packed>) return {uint64_t(k) << 32 | uint64_t(i)};
  else if constexpr (std::is_same_v<I, Pair>) return {k, uint64_t(i)};
  else return {k};
}

// How keys of some bytes are cut into digits of at most `Most` bits.
template <int Bytes, int Most>
struct Digits {
  static constexpr int kPasses = (8 * Bytes + Most - 1) / Most;
  static constexpr int kBits = (8 * Bytes + kPasses - 1) / kPasses;
  static constexpr int64_t kValues = 1 << kBits;
  template <class I>
  static size_t of(const I& x, int pass) { return size_t(x.key() >> (pass * kBits)) & size_t(kValues - 1); }
};

// Least digit first; passes in which all keys agree are skipped. Returns where the result is: a or b.
template <class D, class I>
I* radix_sort(I* a, I* b, int64_t n) {
  uint32_t count[D::kPasses][D::kValues] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int d = 0; d < D::kPasses; ++d) ++count[d][D::of(a[i], d)];
  for (int d = 0; d < D::kPasses; ++d) {
    uint32_t* at = count[d];
    if (int64_t(at[D::of(a[0], d)]) == n) continue;
    for (uint32_t v = 0, sum = 0; v < D::kValues; ++v) sum += std::exchange(at[v], sum);
    for (int64_t i = 0; i < n; ++i) b[at[D::of(a[i], d)]++] = a[i];
    std::swap(a, b);
  }
  return a;
}

constexpr int kNarrow = 8, kWide = 11;  // bits of a digit

template <int Bytes, class I>
I* sort_items(I* a, I* b, int64_t n) {
  if (n < 16 * Bytes || n >= int64_t(1) << 32) {
    std::sort(a, a + n);  // items are distinct by position, or equal in all bits: stable
    return a;
  }
  return n < 2048 ? radix_sort<Digits<Bytes, kNarrow>>(a, b, n) : radix_sort<Digits<Bytes, kWide>>(a, b, n);
}

template <class T>
class SortStep : public Step {
  using D = Digits<sizeof(T), kWide>;
  static constexpr int64_t kLong = 1 << 17, kChunk = 1 << 16, kMostChunks = 64;

 public:
  SortStep(Axis axis, bool descending) : axis_(axis), descending_(descending) {
    rows_ = axis.outer * axis.inner;
    long_ = axis.n > kLong && rows_ < 8;
    if (kPacked<T> && axis.n >= int64_t(1) << 32)
      throw Error(Error::Value,
                  "[sort] an axis of " + std::to_string(axis.n) + " is too long. Sort parts and merge them.");
    per_task_ = Split(rows_, (1 << 13) / std::max<int64_t>(1, axis.n));
    chunks_ = Split(axis.n, std::max(kChunk, ceil_div(axis.n, kMostChunks)));
    if (long_)
      scratch_bytes = size_t(axis.n) * 2 * sizeof(Placed<T>) + size_t(chunks_.tasks() * D::kValues) * sizeof(int64_t);
    cost_ns = 20 + double(rows_ * axis.n) * (axis.n < 64 ? 15 : 2.0 * sizeof(T));
  }

  bool may_skip(int) const override { return true; }

  void run(char* const* out, const char* const* in, char* scratch) const override {
    const T* x = reinterpret_cast<const T*>(in[0]);
    T* values = reinterpret_cast<T*>(out[0]);
    int64_t* indices = reinterpret_cast<int64_t*>(out[1]);
    if (rows_ * axis_.n == 0) return;
    if (indices) sort<Placed<T>>(x, values, indices, scratch);
    else sort<Bare<KeyOf<T>>>(x, values, indices, scratch);
  }

 private:
  template <class I>
  void sort(const T* x, T* values, int64_t* indices, char* scratch) const {
    auto place = [&](int64_t row) { return row / axis_.inner * axis_.n * axis_.inner + row % axis_.inner; };
    auto line = [](auto* p, int64_t at) { return p ? p + at : p; };
    if (long_) {
      I* a = reinterpret_cast<I*>(scratch);
      int64_t* counts = reinterpret_cast<int64_t*>(scratch + size_t(axis_.n) * 2 * sizeof(Placed<T>));
      for (int64_t r = 0; r < rows_; ++r)
        sort_long(x + place(r), line(values, place(r)), line(indices, place(r)), a, a + axis_.n, counts);
      return;
    }
    parallel(per_task_.tasks(), cost_ns, [&](int64_t task) {
      const int64_t n = axis_.n;
      std::unique_ptr<I[]> items(new I[size_t(n) * 2]);
      for (int64_t r = per_task_.begin(task); r < per_task_.end(task); ++r) {
        load(x + place(r), items.get(), 0, n);
        const I* sorted = sort_items<sizeof(T)>(items.get(), items.get() + n, n);
        store(x + place(r), sorted, line(values, place(r)), line(indices, place(r)), 0, n);
        if constexpr (!kPlaced<I, T>) mend(x + place(r), sorted, values + place(r));
      }
    });
  }

  template <class I>
  void load(const T* x, I* items, int64_t begin, int64_t end) const {
    const int64_t stride = axis_.inner;
    if (stride == 1)
      for (int64_t i = begin; i < end; ++i) items[i] = item<I>(x[i], i, descending_);
    else
      for (int64_t i = begin; i < end; ++i) items[i] = item<I>(x[i * stride], i, descending_);
  }

  template <class I>
  void store(const T* x, const I* items, T* values, int64_t* indices, int64_t begin, int64_t end) const {
    const int64_t stride = axis_.inner;
    if constexpr (kPlaced<I, T>) {
      for (int64_t i = begin; i < end; ++i) indices[i * stride] = items[i].position();
      if (values)
        for (int64_t i = begin; i < end; ++i) values[i * stride] = x[items[i].position() * stride];
    } else if (stride == 1) {
      for (int64_t i = begin; i < end; ++i) values[i] = value_of<T>(items[i].word, descending_);
    } else {
      for (int64_t i = begin; i < end; ++i) values[i * stride] = value_of<T>(items[i].word, descending_);
    }
  }

  // A key does not tell zeros, or NaN, from one another: these are copied in their old order.
  void mend(const T* x, const Bare<KeyOf<T>>* sorted, T* values) const {
    if constexpr (std::is_floating_point_v<T>) {
      for (T special : {T(0), std::numeric_limits<T>::quiet_NaN()}) {
        const Bare<KeyOf<T>> key{key_of(special, descending_)};
        auto [from, to] = std::equal_range(sorted, sorted + axis_.n, key);
        T* y = values + (from - sorted) * axis_.inner;
        for (const T* p = x; from < to; p += axis_.inner)
          if (key_of(*p, descending_) == key.word) *y = *p, y += axis_.inner, ++from;
      }
    }
  }

  // Radix sort as well, each pass in parallel: the chunks are counted, then each writes where its elements belong.
  template <class I>
  void sort_long(const T* x, T* values, int64_t* indices, I* a, I* b, int64_t* counts) const {
    auto each = [&](auto body) { parallel(chunks_.tasks(), double(axis_.n), body); };
    each([&](int64_t c) { load(x, a, chunks_.begin(c), chunks_.end(c)); });
    for (int d = 0; d < D::kPasses; ++d) {
      each([&](int64_t c) {
        int64_t* count = counts + c * D::kValues;
        std::fill(count, count + D::kValues, 0);
        for (int64_t i = chunks_.begin(c), end = chunks_.end(c); i < end; ++i) ++count[D::of(a[i], d)];
      });
      int64_t sum = 0, most = 0;
      for (int64_t v = 0; v < D::kValues; ++v) {
        int64_t before = sum;
        for (int64_t c = 0; c < chunks_.tasks(); ++c) sum += std::exchange(counts[c * D::kValues + v], sum);
        most = std::max(most, sum - before);
      }
      if (most == axis_.n) continue;
      each([&](int64_t c) {
        int64_t* at = counts + c * D::kValues;
        for (int64_t i = chunks_.begin(c), end = chunks_.end(c); i < end; ++i) b[at[D::of(a[i], d)]++] = a[i];
      });
      std::swap(a, b);
    }
    each([&](int64_t c) { store(x, a, values, indices, chunks_.begin(c), chunks_.end(c)); });
    if constexpr (!kPlaced<I, T>) mend(x, a, values);
  }

  Axis axis_;
  bool descending_;
  int64_t rows_ = 0;
  bool long_ = false;
  Split per_task_{0, 1}, chunks_{0, 1};
};

// The first k of a sorted line, for k much smaller than it: elements are held against the k-th best of those before,
// and most go no further.
template <class T>
class TopStep : public Step {
  using I = Placed<T>;

 public:
  TopStep(Axis axis, DType dtype, int64_t k, bool largest)
      : skip_(table().skip[largest][int(dtype)]), axis_(axis), k_(k), room_(k + std::max<int64_t>(k, 32)),
        largest_(largest) {
    if (kPacked<T> && axis.n >= int64_t(1) << 32)
      throw Error(Error::Value,
                  "[topk] an axis of " + std::to_string(axis.n) + " is too long. Take the best of parts.");
    rows_ = axis.outer * axis.inner;
    per_task_ = Split(rows_, (1 << 15) / std::max<int64_t>(1, axis.n));
    chunks_ = Split(axis.n, rows_ < 8 ? std::max<int64_t>(1 << 16, 8 * k) : axis.n);
    if (chunks_.tasks() > 1) scratch_bytes = size_t(chunks_.tasks() * k) * sizeof(I);
    cost_ns = 20 + double(rows_ * axis.n) * (axis.inner == 1 ? 0.5 : 2);
  }

  bool may_skip(int) const override { return true; }

  void run(char* const* out, const char* const* in, char* scratch) const override {
    const T* x = reinterpret_cast<const T*>(in[0]);
    T* values = reinterpret_cast<T*>(out[0]);
    int64_t* indices = reinterpret_cast<int64_t*>(out[1]);
    if (rows_ * k_ == 0) return;
    const int64_t n = axis_.n, inner = axis_.inner;
    auto store = [&](int64_t row, const I* best) {
      const T* from = x + place(row, n);
      for (int64_t i = 0, to = place(row, k_); i < k_; ++i, to += inner) {
        if (values) values[to] = from[best[i].position() * inner];
        if (indices) indices[to] = best[i].position();
      }
    };
    if (chunks_.tasks() <= 1) {
      parallel(per_task_.tasks(), cost_ns, [&](int64_t task) {
        std::vector<I> best(static_cast<size_t>(room_));
        for (int64_t row = per_task_.begin(task); row < per_task_.end(task); ++row) {
          select(x + place(row, n), 0, n, best.data());
          std::sort(best.data(), best.data() + k_);
          store(row, best.data());
        }
      });
      return;
    }
    I* const found = reinterpret_cast<I*>(scratch);
    for (int64_t row = 0; row < rows_; ++row) {
      parallel(chunks_.tasks(), cost_ns / double(rows_), [&](int64_t c) {
        std::vector<I> best(static_cast<size_t>(room_));
        int64_t m = select(x + place(row, n), chunks_.begin(c), chunks_.end(c), best.data());
        std::copy(best.data(), best.data() + m, found + c * k_);
      });
      // All chunks but the last have k elements and more.
      I* end = found + (chunks_.tasks() - 1) * k_ + std::min(k_, n - chunks_.begin(chunks_.tasks() - 1));
      std::nth_element(found, found + k_ - 1, end);
      std::sort(found, found + k_);
      store(row, found);
    }
  }

 private:
  int64_t place(int64_t row, int64_t n) const { return row / axis_.inner * n * axis_.inner + row % axis_.inner; }

  // The best k of elements [i, end) of a line, in any order; `best` has room for more. Returns how many there are.
  int64_t select(const T* x, int64_t i, int64_t end, I* best) const {
    const int64_t stride = axis_.inner;
    int64_t m = 0;
    for (; i < end && m < room_; ++i) best[m++] = item<I>(x[i * stride], i, largest_);
    T limit;
    uint64_t limit_key;
    auto cut = [&] {
      std::nth_element(best, best + k_ - 1, best + m);
      m = k_;
      limit = x[best[k_ - 1].position() * stride];
      limit_key = best[k_ - 1].key();
    };
    if (m <= k_) return m;
    cut();
    while (i < end) {
      if (stride == 1 && limit == limit) i += skip_(x + i, end - i, &limit);
      for (const int64_t stop = std::min(end, i + kSkip); i < stop; ++i) {
        const I candidate = item<I>(x[i * stride], i, largest_);
        if (candidate.key() >= limit_key) continue;
        best[m++] = candidate;
        if (m == room_) cut();
      }
    }
    if (m > k_) cut();
    return m;
  }

  int64_t (*skip_)(const void*, int64_t, const void*);
  Axis axis_;
  int64_t k_, room_;
  bool largest_;
  int64_t rows_ = 0;
  Split per_task_{0, 1}, chunks_{0, 1};
};

template <class F>
std::unique_ptr<Step> of_elements(const char* op, DType dtype, F make) {
  return by_dtype(op, dtype, [&]<class T>(std::type_identity<T>) -> std::unique_ptr<Step> {
    return make(std::type_identity<std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>>{});
  });
}

Register sorts({Op::sort},
               [](Op, std::span<const Layout>, std::span<const Layout> in, std::span<const int64_t> attrs) {
                 return of_elements("sort", in[0].dtype, [&]<class T>(std::type_identity<T>) {
                   return std::make_unique<SortStep<T>>(Axis(in[0].shape, int(attrs[0])), attrs[1] != 0);
                 });
               });
Register tops({Op::top},
              [](Op, std::span<const Layout>, std::span<const Layout> in, std::span<const int64_t> attrs) {
                return of_elements("topk", in[0].dtype, [&]<class T>(std::type_identity<T>) {
                  return std::make_unique<TopStep<T>>(Axis(in[0].shape, int(attrs[1])), in[0].dtype, attrs[0],
                                                      attrs[2] != 0);
                });
              });

}  // namespace
}  // namespace knet::cpu
