// Reductions over any axes of any layout. The work is cut into tasks by sizes alone, and partial results are joined in
// order, so the bits do not depend on the number of threads. float32 is summed in double: a sum is correctly rounded
// but for the rarest cases, and memory, not arithmetic, sets the pace.
#include <limits>
#include "dtypes.h"
#include "isa.h"
#include "isa/reduce.h"
#include "registry.h"
#include "strided.h"
#include "threads.h"

namespace knet::cpu {
namespace {

#ifdef KNET_X86
const ReduceTable& table() { return pick(v2::reduce_table, v3::reduce_table, v4::reduce_table); }
#else
const ReduceTable& table() { return base::reduce_table; }
#endif

constexpr int64_t kTask = 1 << 16;      // elements a task reads: 5 to 20 us
constexpr int64_t kBlock = 1024;        // accumulators of a task: 8 KB of L1 at most
constexpr int64_t kParallel = 32;  // results are split further (into chunks of what is reduced) below this many tasks

Reduction reduction_of(Op op) {
  switch (op) {
    case Op::sum: return kSum;
    case Op::prod: return kProd;
    case Op::max: case Op::argmax: return kMax;
    case Op::min: case Op::argmin: return kMin;
    case Op::any: return kAny;
    default: return kAll;
  }
}

// What is done with accumulators outside the inner loops; the types are those of isa/reduce.h.
struct Accumulators {
  size_t bytes = 0;
  void (*init)(void* acc, int64_t n) = nullptr;
  void (*join)(void* acc, const void* other, int64_t n) = nullptr;
  void (*finish)(const void* acc, int64_t n, void* out, int64_t out_stride) = nullptr;
};

template <size_t Bytes>
using MaskOf = std::conditional_t<Bytes == 1, int8_t,
               std::conditional_t<Bytes == 2, int16_t, std::conditional_t<Bytes == 4, int32_t, int64_t>>>;
template <Reduction R, class T>
using AccumulatorOf =
    std::conditional_t<R == kSum || R == kProd, Accumulator<T>,
    std::conditional_t<R == kAny || R == kAll, MaskOf<sizeof(T)>,
    std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>>>;

template <Reduction R, class A>
A identity() {
  using L = std::numeric_limits<A>;
  if constexpr (R == kProd) return A(1);
  else if constexpr (R == kMax) return L::has_infinity ? -L::infinity() : L::lowest();
  else if constexpr (R == kMin) return L::has_infinity ? L::infinity() : L::max();
  else if constexpr (R == kAll) return A(-1);
  else return A(0);
}

template <Reduction R, class A>
A combine(A a, A x) {
  if constexpr (R == kSum) return a + x;
  else if constexpr (R == kProd) return a * x;
  else if constexpr (R == kMax) return x > a || x != x ? x : a;
  else if constexpr (R == kMin) return x < a || x != x ? x : a;
  else if constexpr (R == kAny) return A(a | x);
  else return A(a & x);
}

template <Reduction R, class A, class Out>
Accumulators accumulators() {
  Accumulators k;
  k.bytes = sizeof(A);
  k.init = [](void* acc, int64_t n) {
    for (int64_t i = 0; i < n; ++i) static_cast<A*>(acc)[i] = identity<R, A>();
  };
  k.join = [](void* acc, const void* other, int64_t n) {
    A* a = static_cast<A*>(acc);
    for (int64_t i = 0; i < n; ++i) a[i] = combine<R>(a[i], static_cast<const A*>(other)[i]);
  };
  k.finish = [](const void* acc, int64_t n, void* out, int64_t stride) {
    for (int64_t i = 0; i < n; ++i) static_cast<Out*>(out)[i * stride] = Out(static_cast<const A*>(acc)[i]);
  };
  return k;
}

template <Reduction R>
Accumulators accumulators(const char* op, DType in, DType out) {
  return by_dtype(op, in, [&]<class T>(std::type_identity<T>) {
    using A = AccumulatorOf<R, T>;
    if constexpr (R == kAny || R == kAll) {
      return accumulators<R, A, bool>();
    } else {
      if (out == in) return accumulators<R, A, T>();
      if constexpr (R == kSum || R == kProd) {
        if (out == DType::I64) return accumulators<R, A, int64_t>();
        if (out == DType::U64) return accumulators<R, A, uint64_t>();
        // Sums of signed integers must be read as signed before they become floats.
        using S = std::conditional_t<std::is_integral_v<T> && std::is_signed_v<T>, int64_t, A>;
        if (out == DType::F32) return accumulators<R, S, float>();
        if (out == DType::F64) return accumulators<R, S, double>();
      }
      throw Error(Error::Type, std::string("[") + op + "] no kernel from " + name(in) + " to " + name(out) +
                                   ". Convert the input first.");
    }
  });
}

Accumulators accumulators(Op op, DType in, DType out) {
  switch (reduction_of(op)) {
    case kSum: return accumulators<kSum>("sum", in, out);
    case kProd: return accumulators<kProd>("prod", in, out);
    case kMax: return accumulators<kMax>("max", in, out);
    case kMin: return accumulators<kMin>("min", in, out);
    case kAny: return accumulators<kAny>("any", in, out);
    default: return accumulators<kAll>("all", in, out);
  }
}

// Turns dimensions of `in` into steps that go upwards; returns the offset of the lowest element.
int64_t normalise(Dims& dims) {
  int64_t base = 0;
  for (int i = 0; i < dims.rank; ++i) {
    Dim& d = dims.d[i];
    if (d.a >= 0 || d.b != 0) continue;
    base += (d.n - 1) * d.a;
    d.a = -d.a;
  }
  return base;
}

class ReduceStep : public Step {
 public:
  ReduceStep(Op op, const Layout& out, const Layout& in, std::span<const int64_t> axes)
      : kernel_(table().of[reduction_of(op)][int(in.dtype)]), acc_(accumulators(op, in.dtype, out.dtype)),
        in_size_(int64_t(itemsize(in.dtype))), out_size_(int64_t(itemsize(out.dtype))) {
    bool reduce[kMaxRank] = {};
    for (int64_t a : axes) reduce[a] = true;
    int64_t to[kMaxRank], step = 1;  // the result is contiguous, whether or not it keeps extents of 1
    for (int i = in.shape.rank - 1; i >= 0; --i) {
      to[i] = reduce[i] ? 0 : step;
      if (!reduce[i]) step *= in.shape[i];
    }
    for (int i = 0; i < in.shape.rank; ++i)
      (reduce[i] ? reduced_ : kept_).push(in.shape[i], in.stride[i], to[i]);
    results_ = kept_.size();
    count_ = reduced_.size();
    base_ = count_ ? normalise(reduced_) : 0;
    prepare(kept_);
    prepare(reduced_);
    // Columns side by side if that is where neighbours in memory lie, else along what is reduced.
    columns_ = kept_.last().a == 1 && kept_.last().n > 1 && (reduced_.last().a != 1 || reduced_.last().n == 1);
    int64_t work = columns_ ? std::clamp<int64_t>(kTask / std::max<int64_t>(count_, 1), 256, kBlock)
                            : std::clamp<int64_t>(kTask / std::max<int64_t>(count_, 1), 1, kBlock);
    block_ = Split(results_, work);
    int64_t chunks = 1;
    if (block_.tasks() < kParallel) {
      int64_t least = std::max<int64_t>(1, kTask / std::min(block_.grain, std::max<int64_t>(results_, 1)));
      chunks = std::clamp<int64_t>(ceil_div(count_, least), 1,
                                   ceil_div(2 * kParallel, std::max<int64_t>(block_.tasks(), 1)));
    }
    chunk_ = Split(count_, ceil_div(count_, chunks));
    chunks_ = std::max<int64_t>(1, chunk_.tasks());
    if (chunks_ > 1) scratch_bytes = size_t(results_ * chunks_) * acc_.bytes;
    bool unit = columns_ || reduced_.last().a == 1;
    cost_ns = 20 + double(results_) + double(results_ * count_) * (unit ? 0.08 * double(in_size_) : 1.0);
  }

  void run(char* const* out, const char* const* in, char* scratch) const override {
    if (results_ == 0) return;
    const char* x = in[0] + base_ * in_size_;
    parallel(block_.tasks() * chunks_, cost_ns, [&](int64_t task) {
      int64_t b = task / chunks_, c = task % chunks_;
      int64_t begin = block_.begin(b), end = block_.end(b);
      int64_t r0 = count_ ? chunk_.begin(c) : 0, r1 = count_ ? chunk_.end(c) : 0;
      alignas(64) char local[kBlock * 8];
      char* acc = chunks_ > 1 ? scratch + size_t(c * results_ + begin) * acc_.bytes : local;
      acc_.init(acc, end - begin);
      reduce(x, begin, end, r0, r1, acc);
      if (chunks_ == 1) finish(acc, begin, end, out[0]);
    });
    if (chunks_ == 1) return;
    for (int64_t c = 1; c < chunks_; ++c) acc_.join(scratch, scratch + size_t(c * results_) * acc_.bytes, results_);
    finish(scratch, 0, results_, out[0]);
  }

  std::string text() const override {
    return std::string(columns_ ? "columns" : reduced_.last().a == 1 ? "rows" : "strided") + ", " +
           std::to_string(block_.tasks() * chunks_) + " tasks";
  }

 private:
  static void prepare(Dims& dims) {
    dims.sort_by_a();
    // Broadcast dimensions last are of no use to a loop that wants neighbours: outermost instead.
    std::stable_partition(dims.d, dims.d + dims.rank, [](const Dim& d) { return d.a == 0; });
    dims.merge();
    if (dims.rank == 0) dims.push(1, 0, 0);
  }

  // Results [begin, end) of the kept space, elements [r0, r1) of the reduced space.
  void reduce(const char* x, int64_t begin, int64_t end, int64_t r0, int64_t r1, char* acc) const {
    const Dim k = kept_.last(), r = reduced_.last();
    Walk kept(kept_.d, kept_.rank - 1, begin / k.n);
    for (int64_t at = begin; at < end; kept.next()) {
      int64_t k0 = at % k.n, kn = std::min(k.n - k0, end - at);
      const char* origin = x + (kept.a + k0 * k.a) * in_size_;
      char* to = acc + size_t(at - begin) * acc_.bytes;
      if (r0 < r1) {
        Walk reduced(reduced_.d, reduced_.rank - 1, r0 / r.n);
        for (int64_t q = r0; q < r1; reduced.next()) {
          int64_t q0 = q % r.n, qn = std::min(r.n - q0, r1 - q);
          const char* p = origin + (reduced.a + q0 * r.a) * in_size_;
          if (columns_)
            kernel_.cols(p, kn, qn, r.a, to);
          else
            kernel_.rows(p, kn, k.a, qn, r.a, to);
          q += qn;
        }
      }
      at += kn;
    }
  }

  void finish(const char* acc, int64_t begin, int64_t end, char* out) const {
    const Dim k = kept_.last();
    Walk kept(kept_.d, kept_.rank - 1, begin / k.n);
    for (int64_t at = begin; at < end; kept.next()) {
      int64_t k0 = at % k.n, kn = std::min(k.n - k0, end - at);
      acc_.finish(acc + size_t(at - begin) * acc_.bytes, kn, out + (kept.b + k0 * k.b) * out_size_, k.b);
      at += kn;
    }
  }

  const ReduceKernel kernel_;
  const Accumulators acc_;
  int64_t in_size_, out_size_;
  Dims kept_, reduced_;      // strides in elements: a of the input, b of the result
  int64_t base_ = 0;
  int64_t results_ = 0, count_ = 0;
  bool columns_ = false;
  Split block_{0, 1}, chunk_{0, 1};  // of the results, of what each reduces
  int64_t chunks_ = 1;
};

// argmax and argmin along one axis.
template <class T>
class ArgStep : public Step {
 public:
  ArgStep(Op op, const Layout& in, int axis)
      : min_(op == Op::argmin), kernel_(table().of[reduction_of(op)][int(in.dtype)]), n_(in.shape[axis]),
        stride_(in.stride[axis]), chunk_(n_, kTask) {
    int64_t step = 1, to[kMaxRank];
    for (int i = in.shape.rank - 1; i >= 0; --i) {
      to[i] = step;
      if (i != axis) step *= in.shape[i];
    }
    for (int i = 0; i < in.shape.rank; ++i)
      if (i != axis) kept_.push(in.shape[i], in.stride[i], to[i]);
    results_ = kept_.size();
    kept_.sort_by_a();
    kept_.merge();
    if (kept_.rank == 0) kept_.push(1, 0, 0);
    rows_ = stride_ == 1 || kept_.last().a != 1;
    if (!rows_) chunk_ = Split(n_, std::max<int64_t>(64, kTask / std::clamp<int64_t>(kept_.last().n, 1, kBlock)));
    if (results_ >= (rows_ ? 64 : 64 * kBlock)) chunk_ = Split(n_, n_);
    block_ = Split(results_, rows_ ? std::clamp<int64_t>(kTask / std::max<int64_t>(n_, 1), 1, kBlock) : kBlock);
    scratch_bytes = chunk_.tasks() > 1 ? size_t(results_ * chunk_.tasks()) * (sizeof(T) + 8) + 64 : 0;
    cost_ns = 20 + 2 * double(results_) + double(results_ * n_) * (stride_ == 1 ? 0.1 * sizeof(T) : 1.0);
  }

  void run(char* const* out, const char* const* in, char* scratch) const override {
    if (results_ == 0) return;
    const T* x = reinterpret_cast<const T*>(in[0]);
    int64_t* y = reinterpret_cast<int64_t*>(out[0]);
    int64_t chunks = chunk_.tasks();
    int64_t* at = reinterpret_cast<int64_t*>(scratch);                 // [chunk][result]
    T* best = reinterpret_cast<T*>(scratch + size_t(results_ * chunks) * 8);
    parallel(block_.tasks() * chunks, cost_ns, [&](int64_t task) {
      int64_t c = task % chunks, begin = block_.begin(task / chunks), end = block_.end(task / chunks);
      T local_best[kBlock];
      int64_t local_at[kBlock];
      T* b = chunks > 1 ? best + c * results_ + begin : local_best;
      int64_t* a = chunks > 1 ? at + c * results_ + begin : local_at;
      search(x, begin, end, chunk_.begin(c), chunk_.end(c), b, a);
      if (chunks == 1) store(a, begin, end, y);
    });
    if (chunks == 1) return;
    for (int64_t c = 1; c < chunks; ++c)
      for (int64_t i = 0; i < results_; ++i)
        if (wins(best[c * results_ + i], best[i])) {
          best[i] = best[c * results_ + i];
          at[i] = at[c * results_ + i];
        }
    store(at, 0, results_, y);
  }

 private:
  bool wins(T v, T b) const { return (min_ ? v < b : v > b) || (v != v && b == b); }

  void search(const T* x, int64_t begin, int64_t end, int64_t r0, int64_t r1, T* best, int64_t* at) const {
    const Dim k = kept_.last();
    Walk kept(kept_.d, kept_.rank - 1, begin / k.n);
    for (int64_t i = begin; i < end; kept.next()) {
      int64_t k0 = i % k.n, kn = std::min(k.n - k0, end - i);
      const T* p = x + kept.a + k0 * k.a;
      T* b = best + (i - begin);
      int64_t* a = at + (i - begin);
      if (rows_ && (stride_ == 1 ? r1 - r0 >= 32 : kn == 1)) {
        for (int64_t j = 0; j < kn; ++j) search_row(p + j * k.a, r0, r1, b[j], a[j]);
      } else {
        for (int64_t j = 0; j < kn; ++j) b[j] = p[r0 * stride_ + j * k.a], a[j] = r0;
        kernel_.arg(p + (r0 + 1) * stride_, kn, k.a, r1 - r0 - 1, stride_, r0 + 1, b, a);
      }
      i += kn;
    }
  }

  // Blockwise: the extreme of each block at full speed, and one look for where it is.
  void search_row(const T* x, int64_t r0, int64_t r1, T& best, int64_t& at) const {
    best = x[r0 * stride_];
    at = r0;
    if (stride_ != 1 || r1 - r0 < 32) {
      for (int64_t r = r0 + 1; r < r1; ++r)
        if (T v = x[r * stride_]; wins(v, best)) best = v, at = r;
      return;
    }
    constexpr int64_t kLook = 1024;
    int64_t found = -1;
    for (int64_t r = r0; r < r1; r += kLook) {
      T b = best;
      kernel_.rows(x + r, 1, 0, std::min(kLook, r1 - r), 1, &b);
      if (wins(b, best)) best = b, found = r;
    }
    if (found >= 0)
      for (at = found; !(x[at] == best || (best != best && x[at] != x[at])); ++at) {}
  }

  void store(const int64_t* at, int64_t begin, int64_t end, int64_t* y) const {
    Walk kept(kept_.d, kept_.rank, begin);
    for (int64_t i = begin; i < end; ++i, kept.next()) y[kept.b] = at[i - begin];
  }

  bool min_;
  const ReduceKernel kernel_;
  int64_t n_, stride_;
  Split chunk_, block_{0, 1};  // of the axis, of the results
  Dims kept_;
  int64_t results_ = 0;
  bool rows_ = false;
};

bool any_layout(Op, int, const Layout&, uint32_t) { return true; }

Register reductions({Op::sum, Op::prod, Op::max, Op::min, Op::any, Op::all},
                    [](Op op, std::span<const Layout> out, std::span<const Layout> in, std::span<const int64_t> attrs)
                        -> std::unique_ptr<Step> {
                      return std::make_unique<ReduceStep>(op, out[0], in[0], AttrReader{attrs}.ints());
                    },
                    any_layout);
Register args(
    {Op::argmax, Op::argmin},
    [](Op op, std::span<const Layout>, std::span<const Layout> in,
       std::span<const int64_t> attrs) -> std::unique_ptr<Step> {
      return by_dtype(info(op).name, in[0].dtype, [&]<class T>(std::type_identity<T>) -> std::unique_ptr<Step> {
        using E = std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>;
        return std::make_unique<ArgStep<E>>(op, in[0], int(attrs[0]));
      });
    },
    any_layout);

}  // namespace
}  // namespace knet::cpu
