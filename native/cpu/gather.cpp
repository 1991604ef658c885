// Indexing with arrays: gather and its adjoints, take_along_axis and its adjoint. Every index is checked before
// anything is written over a value that may be in place. Scatters give each destination its additions in the order of
// the indices, for any number of threads: work is divided over the other dimensions, never over indices.
#include <atomic>
#include <cstring>
#include "copy.h"
#include "dtypes.h"
#include "registry.h"
#include "threads.h"

namespace knet::cpu {
namespace {

[[noreturn]] void out_of_range(Op op, int64_t index, int axis, int64_t extent) {
  throw Error(Error::Index, "[index] index " + std::to_string(index) + " is out of range for axis " +
                                std::to_string(axis) + " of extent " + std::to_string(extent) + " (in " +
                                info(op).name + "). Valid indices are " + std::to_string(-extent) + " to " +
                                std::to_string(extent - 1) + ".");
}

inline bool wrap(int64_t& i, int64_t extent) {
  if (i < 0) i += extent;
  return uint64_t(i) < uint64_t(extent);
}

// x (or the result) is rem[:at] x indexed axes x rem[at:]; each index tuple s is one offset into x, and v[outer, s,
// inner] is the value there.
struct Places {
  Op op;
  Shape x;
  int count = 0;               // of index arrays
  int axis[kMaxRank];
  int64_t stride[kMaxRank];    // of the indexed axes, in elements
  int64_t n = 1;               // index tuples
  Dims outer, inner;           // the rest: a strides of x, b strides of v (contiguous), in elements
  int64_t v_step = 1;          // elements of v from one s to the next

  Places(Op op_, const Layout& xl, const Shape& index, std::span<const int64_t> attrs) : op(op_), x(xl.shape) {
    AttrReader read{attrs};
    auto axes = read.ints();
    int64_t at = read.integer();
    n = index.size();
    bool indexed[kMaxRank] = {};
    for (int64_t a : axes) {
      indexed[a] = true;
      axis[count] = int(a);
      stride[count++] = xl.stride[a];
    }
    int rest = 0;
    for (int i = 0; i < x.rank; ++i)
      if (!indexed[i]) (rest++ < at ? outer : inner).push(x[i], xl.stride[i], 0);
    int64_t step = 1;
    for (int i = inner.rank - 1; i >= 0; --i) inner.d[i].b = step, step *= inner.d[i].n;
    v_step = step;
    step *= n;
    for (int i = outer.rank - 1; i >= 0; --i) outer.d[i].b = step, step *= outer.d[i].n;
    outer.merge();
    inner.merge();
    if (inner.rank == 0) inner.push(1, 1, 1);
  }

  // Offsets into x, one for each index tuple, if there is room for them. Throws if an index is out of range.
  void resolve(const char* const* index, int64_t* offset) const {
    Split split(n, 1 << 14);
    std::atomic<bool> bad{false};
    parallel(split.tasks(), double(n * count), [&](int64_t task) {
      bool good = true;
      for (int k = 0; k < count; ++k) {
        const int64_t* from = reinterpret_cast<const int64_t*>(index[k]);
        const int64_t extent = x[axis[k]], step = stride[k];
        for (int64_t s = split.begin(task); !offset && s < split.end(task); ++s) {
          int64_t i = from[s];
          good &= wrap(i, extent);
        }
        for (int64_t s = split.begin(task); offset && s < split.end(task); ++s) {
          int64_t i = from[s];
          good &= wrap(i, extent);
          offset[s] = (k ? offset[s] : 0) + i * step;
        }
      }
      if (!good) bad.store(true, std::memory_order_relaxed);
    });
    if (!bad) return;
    for (int64_t s = 0; s < n; ++s)  // the first bad one, whatever the order of the tasks
      for (int k = 0; k < count; ++k) {
        int64_t i = reinterpret_cast<const int64_t*>(index[k])[s], given = i;
        if (!wrap(i, x[axis[k]])) out_of_range(op, given, axis[k], x[axis[k]]);
      }
  }
};

class GatherStep : public Step {
 public:
  GatherStep(Op op, std::span<const Layout> in, std::span<const int64_t> attrs)
      : places_(op, in[0], in[1].shape, attrs), size_(int64_t(itemsize(in[0].dtype))) {
    const Dim& run = places_.inner.last();
    unit_ = run.a == 1;
    int64_t each = places_.inner.size();
    split_ = Split(places_.n, (1 << 16) / std::max<int64_t>(1, each * size_));
    scratch_bytes = size_t(places_.n) * 8;
    int64_t rows = places_.outer.size() * places_.n;
    cost_ns = 20 + double(rows) * (6 + double(each) * (unit_ ? 0.12 * double(size_) : 1.0));
  }

  void run(char* const* out, const char* const* in, char* scratch) const override {
    if (places_.outer.size() * places_.n * places_.inner.size() == 0) {
      if (places_.n) places_.resolve(in + 1, reinterpret_cast<int64_t*>(scratch));
      return;
    }
    int64_t* offset = reinterpret_cast<int64_t*>(scratch);
    places_.resolve(in + 1, offset);
    int64_t blocks = split_.tasks();
    parallel(places_.outer.size() * blocks, cost_ns, [&](int64_t task) {
      Walk outer(places_.outer.d, places_.outer.rank, task / blocks);
      int64_t begin = split_.begin(task % blocks), end = split_.end(task % blocks);
      const char* x = in[0] + outer.a * size_;
      char* y = out[0] + (outer.b + begin * places_.v_step) * size_;
      by_size(size_t(size_), [&]<class T>(std::type_identity<T>) {
        move(reinterpret_cast<T*>(y), reinterpret_cast<const T*>(x), offset + begin, end - begin);
      });
    });
  }
  bool decides(int in) const override { return in > 0; }
  void check(const char* const* in) const override { places_.resolve(in + 1, nullptr); }
  std::string text() const override { return unit_ ? "runs of " + std::to_string(places_.inner.last().n) : "strided"; }

 private:
  template <class T>
  void move(T* y, const T* x, const int64_t* offset, int64_t n) const {
    const Dims& inner = places_.inner;
    const Dim run = inner.last();
    if (inner.rank == 1 && run.n == 1) {
      for (int64_t s = 0; s < n; ++s) y[s] = x[offset[s]];
    } else if (inner.rank == 1 && unit_) {
      for (int64_t s = 0; s < n; ++s, y += run.n) {
        // Rows are rarely where the prefetcher expects them.
        if (s + 8 < n) __builtin_prefetch(x + offset[s + 8]);
        std::memcpy(static_cast<void*>(y), x + offset[s], size_t(run.n) * sizeof(T));
      }
    } else {
      int64_t rows = inner.size() / run.n;
      for (int64_t s = 0; s < n; ++s) {
        Walk at(inner.d, inner.rank - 1, 0);
        for (int64_t r = 0; r < rows; ++r, at.next(), y += run.n)
          for (int64_t i = 0; i < run.n; ++i) y[i] = x[offset[s] + at.a + i * run.a];
      }
    }
  }

  Places places_;
  int64_t size_;
  bool unit_ = false;
  Split split_{0, 1};
};

template <class T, bool Add>
class ScatterStep : public Step {
 public:
  ScatterStep(Op op, std::span<const Layout> in, std::span<const int64_t> attrs)
      : places_(op, in[0], in[2].shape, attrs), bytes_(in[0].shape.size() * int64_t(sizeof(T))) {
    // x is contiguous, so the inner dimensions merge into one run, unless indexed axes lie between them.
    const int64_t each = places_.inner.size(), outer = places_.outer.size();
    columns_ = Split(places_.inner.last().n, std::max<int64_t>(64 / int64_t(sizeof(T)), 256 / int64_t(sizeof(T))));
    if (places_.inner.rank > 1) columns_ = Split(places_.inner.last().n, places_.inner.last().n);
    direct_ = places_.count == 1 && places_.inner.size() == 1;
    scratch_bytes = direct_ ? 0 : size_t(places_.n) * 8;
    cost_ns = 20 + 0.1 * double(bytes_) + double(outer * places_.n) * (4 + 0.3 * double(each));
  }

  void run(char* const* out, const char* const* in, char* scratch) const override {
    int64_t* offset = direct_ ? nullptr : reinterpret_cast<int64_t*>(scratch);
    places_.resolve(in + 2, offset);
    if (out[0] != in[0]) copy_bytes(out[0], in[0], bytes_);
    if (places_.outer.size() * places_.n * places_.inner.size() == 0) return;
    T* x = reinterpret_cast<T*>(out[0]);
    const T* v = reinterpret_cast<const T*>(in[1]);
    if (!direct_) return put_all(x, v, [offset](int64_t s) { return offset[s]; });
    const int64_t* index = reinterpret_cast<const int64_t*>(in[2]);
    put_all(x, v, [index, extent = places_.x[places_.axis[0]], step = places_.stride[0]](int64_t s) {
      const int64_t i = index[s];
      return (i + (i < 0 ? extent : 0)) * step;
    });
  }
  bool may_alias(int out, int in) const override { return out == 0 && in == 0; }
  bool decides(int in) const override { return in > 1; }
  void check(const char* const* in) const override { places_.resolve(in + 2, nullptr); }
  std::string text() const override {
    return std::to_string(places_.outer.size() * columns_.tasks()) + " tasks";
  }

 private:
  // The value of index tuple s goes to offset(s).
  template <class F>
  void put_all(T* x, const T* v, F offset) const {
    const int64_t columns = columns_.tasks();
    parallel(places_.outer.size() * columns, cost_ns, [&](int64_t task) {
      Walk outer(places_.outer.d, places_.outer.rank, task / columns);
      int64_t c = task % columns;
      const Dims& inner = places_.inner;
      const Dim run = inner.last();
      const int64_t begin = columns_.begin(c), width = columns_.end(c) - begin;
      T* to = x + outer.a + begin * run.a;
      const T* from = v + outer.b + begin;
      if (inner.rank == 1 && run.n == 1) {
        for (int64_t s = 0; s < places_.n; ++s) put(to[offset(s)], from[s]);
      } else if (inner.rank == 1 && run.a == 1) {
        // Pieces of rows, far apart: the processor does not fetch them ahead by itself.
        constexpr int64_t kAhead = 16, kLine = 64 / int64_t(sizeof(T));
        for (int64_t s = 0; s < places_.n; ++s) {
          const T* piece = from + s * places_.v_step;
          for (int64_t i = 0; i < width && s + kAhead < places_.n; i += kLine)
            __builtin_prefetch(piece + kAhead * places_.v_step + i);
          put_run(to + offset(s), piece, width);
        }
      } else {
        int64_t rows = inner.size() / run.n;
        for (int64_t s = 0; s < places_.n; ++s) {
          Walk at(inner.d, inner.rank - 1, 0);
          for (int64_t r = 0; r < rows; ++r, at.next())
            for (int64_t i = 0; i < width; ++i)
              put(to[offset(s) + at.a + i * run.a], from[s * places_.v_step + at.b + i]);
        }
      }
    });
  }
  static void put(T& to, T v) {
    if constexpr (Add) to = add(to, v);
    else to = v;
  }
  static void put_run(T* __restrict to, const T* __restrict v, int64_t n) {
    for (int64_t i = 0; i < n; ++i) put(to[i], v[i]);
  }

  Places places_;
  int64_t bytes_;
  bool direct_ = false;  // single elements by one index: where they go is not worth noting
  Split columns_{0, 1};  // of the innermost run
};

// take_along_axis and scatter_along_axis: over the points of i's broadcast shape, x at i[point] along one axis.
struct Along {
  int axis;
  int64_t extent, step;      // of x along the axis: elements
  Dims over;                 // the result's (or v's) dimensions: a strides of x (0 along the axis), b strides of i
  bool shared = false;       // several points may meet in one element of x other than through equal indices
  int64_t n = 0, outer = 1, inner = 1;  // points in all, before and after the axis

  Along(int axis_, const Layout& x, const Layout& index) : axis(axis_), extent(x.shape[axis_]), step(x.stride[axis_]) {
    for (int k = 0; k < x.shape.rank; ++k) {
      int64_t n = k == axis ? index.shape[k] : std::max(x.shape[k], index.shape[k]);
      if (k != axis && std::min(x.shape[k], index.shape[k]) == 0) n = 0;
      bool spread = k != axis && x.shape[k] == 1 && n > 1;
      shared |= spread;
      over.push(n, k == axis || spread ? 0 : x.stride[k], index.shape[k] == 1 && n > 1 ? 0 : index.stride[k]);
    }
    for (int k = 0; k < axis; ++k) outer *= over.d[k].n;
    for (int k = axis + 1; k < over.rank; ++k) inner *= over.d[k].n;
    n = over.size();
    over.merge();
  }

  void check(Op op, const int64_t* index, int64_t count) const {
    Split split(count, 1 << 14);
    std::atomic<bool> bad{false};
    parallel(split.tasks(), 0.5 * double(count), [&](int64_t task) {
      bool good = true;
      for (int64_t s = split.begin(task); s < split.end(task); ++s) {
        int64_t i = index[s];
        good &= wrap(i, extent);
      }
      if (!good) bad.store(true, std::memory_order_relaxed);
    });
    if (!bad) return;
    for (int64_t s = 0; s < count; ++s)
      if (int64_t i = index[s]; !wrap(i, extent)) out_of_range(op, index[s], axis, extent);
  }

  // body(position in C order, run length, offset in x, step of x, offset in i, step of i) for points [begin, end).
  template <class F>
  void rows(int64_t begin, int64_t end, F&& body) const {
    const Dim last = over.rank ? over.last() : Dim{1, 0, 0};
    Walk at(over.d, over.rank ? over.rank - 1 : 0, begin / last.n);
    for (int64_t p = begin; p < end; at.next()) {
      int64_t p0 = p % last.n, n = std::min(last.n - p0, end - p);
      body(p, n, at.a + p0 * last.a, last.a, at.b + p0 * last.b, last.b);
      p += n;
    }
  }
};

class TakeAlongStep : public Step {
 public:
  TakeAlongStep(Op op, std::span<const Layout> in, int axis)
      : op_(op), along_(axis, in[0], in[1]), count_(in[1].shape.size()), size_(itemsize(in[0].dtype)) {
    cost_ns = 20 + 2.5 * double(along_.n);
  }
  void run(char* const* out, const char* const* in, char*) const override {
    const int64_t* index = reinterpret_cast<const int64_t*>(in[1]);
    along_.check(op_, index, count_);
    Split split(along_.n, 1 << 14);
    by_size(size_, [&]<class T>(std::type_identity<T>) {
      const T* x = reinterpret_cast<const T*>(in[0]);
      T* y = reinterpret_cast<T*>(out[0]);
      parallel(split.tasks(), cost_ns, [&](int64_t task) {
        along_.rows(split.begin(task), split.end(task),
                    [&](int64_t p, int64_t n, int64_t a, int64_t da, int64_t b, int64_t db) {
                      for (int64_t i = 0; i < n; ++i) {
                        int64_t k = index[b + i * db];
                        wrap(k, along_.extent);
                        y[p + i] = x[a + i * da + k * along_.step];
                      }
                    });
      });
    });
  }
  bool decides(int in) const override { return in == 1; }
  void check(const char* const* in) const override {
    along_.check(op_, reinterpret_cast<const int64_t*>(in[1]), count_);
  }

 private:
  Op op_;
  Along along_;
  int64_t count_;
  size_t size_;
};

template <class T>
class ScatterAlongStep : public Step {
 public:
  ScatterAlongStep(Op op, std::span<const Layout> in, int axis)
      : op_(op),
        along_(axis, in[0], in[2]),
        count_(in[2].shape.size()),
        bytes_(in[0].shape.size() * int64_t(sizeof(T))) {
    // Points of one outer slab never meet those of another; nor do columns right of the axis.
    outer_ = along_.outer;
    inner_ = along_.inner;
    slab_ = along_.n / std::max<int64_t>(1, outer_);
    serial_ = along_.shared;
    columns_ = Split(inner_, outer_ >= 8 || serial_ ? inner_ : std::max<int64_t>(64, ceil_div(inner_, 16)));
    slabs_ = Split(outer_, serial_ ? outer_ : std::max<int64_t>(1, (1 << 13) / std::max<int64_t>(1, slab_)));
    cost_ns = 20 + 0.1 * double(bytes_) + 3 * double(along_.n);
  }
  void run(char* const* out, const char* const* in, char*) const override {
    const int64_t* index = reinterpret_cast<const int64_t*>(in[2]);
    along_.check(op_, index, count_);
    if (out[0] != in[0]) copy_bytes(out[0], in[0], bytes_);
    if (along_.n == 0) return;
    T* x = reinterpret_cast<T*>(out[0]);
    const T* v = reinterpret_cast<const T*>(in[1]);
    int64_t along = slab_ / inner_;
    parallel(slabs_.tasks() * columns_.tasks(), cost_ns, [&](int64_t task) {
      int64_t o0 = slabs_.begin(task / columns_.tasks()), o1 = slabs_.end(task / columns_.tasks());
      int64_t c0 = columns_.begin(task % columns_.tasks()), c1 = columns_.end(task % columns_.tasks());
      auto put = [&](int64_t p, int64_t n, int64_t a, int64_t da, int64_t b, int64_t db) {
        for (int64_t i = 0; i < n; ++i) {
          int64_t k = index[b + i * db];
          wrap(k, along_.extent);
          T& to = x[a + i * da + k * along_.step];
          to = add(to, v[p + i]);
        }
      };
      if (columns_.tasks() == 1) {
        along_.rows(o0 * slab_, o1 * slab_, put);
      } else {
        for (int64_t o = o0; o < o1; ++o)
          for (int64_t k = 0; k < along; ++k)
            along_.rows((o * along + k) * inner_ + c0, (o * along + k) * inner_ + c1, put);
      }
    });
  }
  bool may_alias(int out, int in) const override { return out == 0 && in == 0; }
  bool decides(int in) const override { return in == 2; }
  void check(const char* const* in) const override {
    along_.check(op_, reinterpret_cast<const int64_t*>(in[2]), count_);
  }

 private:
  Op op_;
  Along along_;
  int64_t count_, bytes_;
  int64_t outer_ = 1, inner_ = 1, slab_ = 1;  // points before, after the axis; of a slab
  bool serial_ = false;
  Split slabs_{0, 1}, columns_{0, 1};
};

using Layouts = std::span<const Layout>;
using Words = std::span<const int64_t>;

Register gathers({Op::gather},
                 [](Op op, Layouts, Layouts in, Words attrs) -> std::unique_ptr<Step> {
                   return std::make_unique<GatherStep>(op, in, attrs);
                 },
                 [](Op, int i, const Layout& x, uint32_t) { return i == 0 || x.is_contiguous(); });
Register scatters({Op::scatter_add, Op::scatter_set},
                  [](Op op, Layouts, Layouts in, Words attrs) -> std::unique_ptr<Step> {
                    return by_dtype(info(op).name, in[0].dtype,
                                    [&]<class T>(std::type_identity<T>) -> std::unique_ptr<Step> {
                                      if (op == Op::scatter_add)
                                        return std::make_unique<ScatterStep<T, true>>(op, in, attrs);
                                      return std::make_unique<ScatterStep<T, false>>(op, in, attrs);
                                    });
                  });
Register takes({Op::take_along_axis},
               [](Op op, Layouts, Layouts in, Words attrs) -> std::unique_ptr<Step> {
                 return std::make_unique<TakeAlongStep>(op, in, int(attrs[0]));
               },
               [](Op, int i, const Layout& x, uint32_t) { return i == 0 || x.is_contiguous(); });
Register scatters_along({Op::scatter_along_axis}, [](Op op, Layouts, Layouts in, Words attrs) -> std::unique_ptr<Step> {
  return by_dtype(info(op).name, in[0].dtype, [&]<class T>(std::type_identity<T>) -> std::unique_ptr<Step> {
    return std::make_unique<ScatterAlongStep<T>>(op, in, int(attrs[0]));
  });
});

}  // namespace
}  // namespace knet::cpu
