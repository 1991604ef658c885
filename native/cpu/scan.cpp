// cumsum and cumprod. Integers accumulate modulo 2^64, floats in double, whatever the result is stored in.
#include "dtypes.h"
#include "registry.h"
#include "strided.h"
#include "threads.h"

namespace knet::cpu {
namespace {

constexpr int64_t kChunk = 1 << 15;    // elements of one row that a task scans
constexpr int64_t kColumns = 256;      // columns scanned side by side: their accumulators stay in L1

template <bool Product, class A>
inline A combine(A x, A y) {
  if constexpr (Product) return x * y;
  else return x + y;
}

// x is (outer, n, inner), scanned along n.
template <bool Product, class In, class Out>
class ScanStep : public Step {
  using A = std::conditional_t<std::is_floating_point_v<In> || std::is_floating_point_v<Out>, double, uint64_t>;
  static constexpr A kIdentity = A(Product ? 1 : 0);

 public:
  ScanStep(Axis axis, bool reverse) : axis_(axis), reverse_(reverse), chunks_(axis.n, kChunk) {
    cost_ns = 1.5 * double(axis.outer * axis.n * axis.inner);
    if (long_rows()) scratch_bytes = size_t(axis.outer * chunks_.tasks()) * sizeof(A);
  }

  void run(char* const* out, const char* const* in, char* scratch) const override {
    const In* x = reinterpret_cast<const In*>(in[0]);
    Out* y = reinterpret_cast<Out*>(out[0]);
    if (axis_.outer * axis_.n * axis_.inner == 0) return;
    if (long_rows()) {
      run_long(x, y, reinterpret_cast<A*>(scratch));
    } else if (axis_.inner == 1) {
      Split rows(axis_.outer, kChunk / std::max<int64_t>(axis_.n, 1));
      parallel(rows.tasks(), cost_ns, [&](int64_t task) {
        for (int64_t r = rows.begin(task); r < rows.end(task); ++r)
          scan(x + r * axis_.n, y + r * axis_.n, 0, axis_.n, kIdentity);
      });
    } else {
      Split columns(axis_.inner, kColumns);
      parallel(axis_.outer * columns.tasks(), cost_ns, [&](int64_t task) {
        int64_t at = task / columns.tasks() * axis_.n * axis_.inner, c = task % columns.tasks();
        scan_columns(x + at, y + at, columns.begin(c), columns.end(c));
      });
    }
  }

 private:
  // Few long rows: the total of each chunk, then every chunk from the total of those before it.
  bool long_rows() const { return axis_.inner == 1 && axis_.n >= 2 * kChunk; }
  int64_t position(int64_t i) const { return reverse_ ? axis_.n - 1 - i : i; }

  void run_long(const In* x, Out* y, A* total) const {
    int64_t chunks = chunks_.tasks();
    parallel(axis_.outer * chunks, cost_ns, [&](int64_t task) {
      const In* row = x + task / chunks * axis_.n;
      A acc[4] = {kIdentity, kIdentity, kIdentity, kIdentity};
      for (int64_t c = task % chunks, i = chunks_.begin(c); i < chunks_.end(c); ++i)
        acc[i & 3] = combine<Product>(acc[i & 3], A(row[position(i)]));
      total[task] = combine<Product>(combine<Product>(acc[0], acc[1]), combine<Product>(acc[2], acc[3]));
    });
    for (int64_t r = 0; r < axis_.outer; ++r) {
      A before = kIdentity;
      for (int64_t c = 0; c < chunks; ++c) {
        A t = total[r * chunks + c];
        total[r * chunks + c] = before;
        before = combine<Product>(before, t);
      }
    }
    parallel(axis_.outer * chunks, cost_ns, [&](int64_t task) {
      int64_t at = task / chunks * axis_.n, c = task % chunks;
      scan(x + at, y + at, chunks_.begin(c), chunks_.end(c), total[task]);
    });
  }

  void scan(const In* x, Out* y, int64_t begin, int64_t end, A acc) const {
    for (int64_t i = begin; i < end; ++i) {
      int64_t p = position(i);
      acc = combine<Product>(acc, A(x[p]));
      y[p] = Out(acc);
    }
  }

  void scan_columns(const In* x, Out* y, int64_t begin, int64_t end) const {
    A acc[kColumns];
    for (A& a : acc) a = kIdentity;
    for (int64_t i = 0; i < axis_.n; ++i) {
      const In* from = x + position(i) * axis_.inner + begin;
      Out* to = y + position(i) * axis_.inner + begin;
      for (int64_t c = 0; c < end - begin; ++c) {
        acc[c] = combine<Product>(acc[c], A(from[c]));
        to[c] = Out(acc[c]);
      }
    }
  }

  Axis axis_;
  bool reverse_;
  Split chunks_;
};

template <class In, class Out>
std::unique_ptr<Step> make(Op op, Axis axis, bool reverse) {
  if (op == Op::cumprod) return std::make_unique<ScanStep<true, In, Out>>(axis, reverse);
  return std::make_unique<ScanStep<false, In, Out>>(axis, reverse);
}

Register scans({Op::cumsum, Op::cumprod},
               [](Op op, std::span<const Layout> out, std::span<const Layout> in, std::span<const int64_t> attrs)
                   -> std::unique_ptr<Step> {
                 Axis axis(in[0].shape, int(attrs[0]));
                 bool reverse = attrs[1] != 0;
                 DType to = out[0].dtype;
                 return by_dtype("cumsum", in[0].dtype, [&]<class T>(std::type_identity<T>) -> std::unique_ptr<Step> {
                   if (to == DType::I64) return make<T, int64_t>(op, axis, reverse);
                   if (to == DType::U64) return make<T, uint64_t>(op, axis, reverse);
                   if (to == DType::F32) return make<T, float>(op, axis, reverse);
                   if (to == DType::F64) return make<T, double>(op, axis, reverse);
                   if (to == in[0].dtype) return make<T, T>(op, axis, reverse);
                   throw Error(Error::Type, std::string("[") + info(op).name + "] no kernel from " + name(in[0].dtype) +
                                                " to " + name(to) + ". Convert the input first.");
                 });
               });

}  // namespace
}  // namespace knet::cpu
