// top: the first k of a sorted axis, by selection.
#include <algorithm>
#include <vector>
#include "dtypes.h"
#include "isa.h"
#include "isa/sort.h"
#include "keys.h"
#include "registry.h"
#include "strided.h"
#include "threads.h"

namespace knet::cpu {
namespace {

// Keys of up to 32 bits and positions below 2^32 travel as one word: key << 32 | position.
struct Packed {
  uint64_t word;
  Packed() = default;
  Packed(uint64_t key, int64_t position) : word(key << 32 | uint64_t(position)) {}
  uint64_t key() const { return word >> 32; }
  int64_t position() const { return int64_t(uint32_t(word)); }
  bool operator<(const Packed& o) const { return word < o.word; }
};
struct Pair {
  uint64_t first, second;
  Pair() = default;
  Pair(uint64_t key, int64_t position) : first(key), second(uint64_t(position)) {}
  uint64_t key() const { return first; }
  int64_t position() const { return int64_t(second); }
  bool operator<(const Pair& o) const { return (first < o.first) | ((first == o.first) & (second < o.second)); }
};

// The first k of a sorted line, for k much smaller than it: elements are held against the k-th best of those before,
// and most go no further.
template <class T>
class TopStep : public Step {
  using I = std::conditional_t<sizeof(T) <= 4, Packed, Pair>;

 public:
  TopStep(Axis axis, DType dtype, int64_t k, bool largest)
      : skip_(sorting().skip[largest][int(dtype)]), axis_(axis), k_(k), room_(k + std::max<int64_t>(k, 32)),
        largest_(largest) {
    if (axis.n > int64_t(1) << 32)
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
    for (; i < end && m < room_; ++i) best[m++] = I(key_of(x[i * stride], largest_), i);
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
        const I candidate = I(key_of(x[i * stride], largest_), i);
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

Register tops({Op::top},
              [](Op, std::span<const Layout>, std::span<const Layout> in,
                 std::span<const int64_t> attrs) -> std::unique_ptr<Step> {
                return by_dtype("topk", in[0].dtype, [&]<class T>(std::type_identity<T>) -> std::unique_ptr<Step> {
                  using E = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;
                  return std::make_unique<TopStep<E>>(Axis(in[0].shape, int(attrs[1])), in[0].dtype, attrs[0],
                                                      attrs[2] != 0);
                });
              });

}  // namespace
}  // namespace knet::cpu
