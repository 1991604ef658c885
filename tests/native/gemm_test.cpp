// Products, convolutions and pooling against plain loops, on random extents; the thread pool; the memory pool.
//   make test-native, or build/native/gemm_test [rounds]
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/gemm.h"
#include "cpu/registry.h"
#include "cpu/threads.h"
#include "memory/pool.h"

using namespace knet;

static std::mt19937_64 rng(1);
static int64_t pick(int64_t lo, int64_t hi) { return lo + int64_t(rng() % uint64_t(hi - lo + 1)); }

using Words = std::vector<int64_t>;
static Shape shape(const Words& d) { return Shape(std::span<const int64_t>(d)); }
static void put(Words& to, const Words& v) {
  to.push_back(int64_t(v.size()));
  to.insert(to.end(), v.begin(), v.end());
}
static std::string text(const Words& v) {
  std::string s;
  for (int64_t x : v) s += std::to_string(x) + " ";
  return s;
}

template <class T> constexpr DType dtype_of = DType::F32;
template <> constexpr DType dtype_of<double> = DType::F64;
template <> constexpr DType dtype_of<int64_t> = DType::I64;
template <> constexpr DType dtype_of<int32_t> = DType::I32;
template <> constexpr DType dtype_of<int16_t> = DType::I16;
template <> constexpr DType dtype_of<int8_t> = DType::I8;
template <> constexpr DType dtype_of<uint8_t> = DType::U8;
template <> constexpr DType dtype_of<uint32_t> = DType::U32;
template <> constexpr DType dtype_of<bool> = DType::Bool;

// Small integers, so that sums are exact and any order of summation gives the reference.
template <class T>
static std::vector<T> random_values(int64_t n) {
  std::vector<T> v;
  v.reserve(size_t(n));
  for (int64_t i = 0; i < n; ++i)
    v.push_back(T(pick(std::is_signed_v<T> && sizeof(T) > 1 ? -3 : 0, std::is_same_v<T, bool> ? 1 : 3)));
  return v;
}

struct Operand { Layout layout; void* data; };

// Runs with 1, 2 and 4 threads; all must give the same bits. Outputs begin as rubbish.
static void run(Op op, std::vector<Operand> out, std::vector<Operand> in, const Words& attrs, const std::string& what) {
  std::vector<Layout> lo, li;
  for (auto& o : out) lo.push_back(o.layout);
  for (auto& i : in) li.push_back(i.layout);
  auto step = cpu::entry(op).make(op, lo, li, attrs);
  std::vector<std::vector<char>> first;
  for (int threads : {1, 2, 4}) {
    cpu::set_threads(threads);
    std::vector<char*> po;
    std::vector<const char*> pi;
    for (auto& o : out) {
      std::memset(o.data, 0xff, size_t(o.layout.shape.size()) * itemsize(o.layout.dtype));
      po.push_back(static_cast<char*>(o.data));
    }
    for (auto& i : in) pi.push_back(static_cast<const char*>(i.data));
    char* scratch = static_cast<char*>(std::aligned_alloc(64, (step->scratch_bytes + 127) / 64 * 64));
    std::memset(scratch, 0xff, step->scratch_bytes);
    step->run(po.data(), pi.data(), scratch);
    std::free(scratch);
    for (size_t k = 0; k < out.size(); ++k) {
      const char* data = static_cast<char*>(out[k].data);
      size_t bytes = size_t(out[k].layout.shape.size()) * itemsize(out[k].layout.dtype);
      if (threads == 1) first.emplace_back(data, data + bytes);
      else check(!bytes || !std::memcmp(first[k].data(), data, bytes), "threads change the result of " + what);
    }
  }
}

template <class T>
static void equal(const std::vector<T>& got, const std::vector<T>& want, const std::string& what) {
  for (size_t i = 0; i < want.size(); ++i)
    if (!(got[i] == want[i] || (got[i] != got[i] && want[i] != want[i])))
      return check(false, what + " at " + std::to_string(i) + ": " + std::to_string(double(got[i])) + " is not " +
                              std::to_string(double(want[i])));
}
// Exact vectors: a read outside is a sanitizer's error.
template <class T>
struct Exact {
  T* p;
  size_t n;
  explicit Exact(const std::vector<T>& v)
      : p(static_cast<T*>(std::malloc(v.size() * sizeof(T) + (v.empty() ? 1 : 0)))), n(v.size()) {
    for (size_t i = 0; i < n; ++i) p[i] = v[i];
  }
  ~Exact() { std::free(p); }
  Exact(const Exact&) = delete;
  std::vector<T> values() const { return std::vector<T>(p, p + n); }
};

template <class T>
static void test_matmul(bool big, bool deep = false) {
  const int64_t limit = big ? 700 : pick(0, 3) ? 40 : 3;
  const int64_t m = pick(big ? 1 : 0, limit), n = pick(big ? 1 : 0, limit);
  const int64_t k = deep ? pick(2000, 9000) : pick(0, limit);
  const int batch = int(pick(0, big || deep ? 0 : 2));
  Words sa, sb, so;
  for (int d = 0; d < batch; ++d) {
    int64_t e = pick(0, 5);
    bool only_a = pick(0, 3) == 0, only_b = pick(0, 3) == 0;
    sa.push_back(only_a ? 1 : e);
    sb.push_back(only_b && !only_a ? 1 : e);
    so.push_back(e);
  }
  auto layout = [&](Words s, int64_t r, int64_t c, bool turned) {
    s.push_back(r);
    s.push_back(c);
    Layout l = Layout::contiguous(dtype_of<T>, shape(s));
    int rank = l.shape.rank;
    if (turned) l.stride[rank - 2] = 1, l.stride[rank - 1] = r;
    return l;
  };
  Layout la = layout(sa, m, k, pick(0, 1)), lb = layout(sb, k, n, pick(0, 1)), lo = layout(so, m, n, false);
  const bool add = pick(0, 2) == 0;
  auto va = random_values<T>(la.shape.size()), vb = random_values<T>(lb.shape.size()),
       vc = random_values<T>(lo.shape.size());
  std::vector<T> want(vc.size());
  int64_t count = 1;
  for (int64_t e : so) count *= e;
  for (int64_t g = 0; g < count; ++g) {
    int64_t ia = 0, ib = 0, rest = g;
    for (int d = batch - 1; d >= 0; --d) {
      int64_t e = rest % so[size_t(d)];
      rest /= so[size_t(d)];
      if (sa[size_t(d)] != 1) ia += e * la.stride[d];
      if (sb[size_t(d)] != 1) ib += e * lb.stride[d];
    }
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        T sum = add ? vc[size_t((g * m + i) * n + j)] : T(0);
        for (int64_t p = 0; p < k; ++p) {
          T x = va[size_t(ia + i * la.stride[batch] + p * la.stride[batch + 1])];
          T y = vb[size_t(ib + p * lb.stride[batch] + j * lb.stride[batch + 1])];
          if constexpr (std::is_same_v<T, bool>) sum = sum || (x && y);
          else sum = T(sum + x * y);
        }
        want[size_t((g * m + i) * n + j)] = sum;
      }
  }
  Exact<T> a(va), b(vb), c(vc), out(want);
  // A row on the left, a column on the right may come as vectors.
  const auto vector = [](Layout& l, int at) {
    l.stride[0] = l.stride[at];
    l.shape = Shape{l.shape[at]};
  };
  const auto drop = [&](int at) {  // a dimension of the result
    const int rank = lo.shape.rank - 1;
    std::copy(lo.shape.dim + at + 1, lo.shape.dim + rank + 1, lo.shape.dim + at);
    std::copy(lo.stride + at + 1, lo.stride + rank + 1, lo.stride + at);
    lo.shape.rank = rank;
  };
  if (n == 1 && lb.shape.rank == 2 && pick(0, 1)) vector(lb, 0), drop(lo.shape.rank - 1);
  if (m == 1 && la.shape.rank == 2 && pick(0, 1)) vector(la, 1), drop(lo.shape.rank - (lb.shape.rank == 1 ? 1 : 2));
  if (add) lo = Layout::contiguous(lo.dtype, lo.shape);
  std::vector<Operand> in{{la, a.p}, {lb, b.p}};
  if (add) in.push_back({lo, c.p});
  std::string what = std::string("matmul ") + name(dtype_of<T>) + " " + str(la.shape) + " " + str(lb.shape);
  run(Op::matmul, {{lo, out.p}}, in, {}, what);
  if constexpr (std::is_same_v<T, bool>) {
    for (size_t i = 0; i < want.size(); ++i) check(out.p[i] == want[i], what);
  } else {
    equal(out.values(), want, what);
  }
}

// Spatial problem of rank d: extents x, window w; y = 1 + (x + 2p - dil (w - 1) - 1) / s.
struct Spatial { Words x, w, y, stride, padding, dilation; };
static Spatial spatial(int rank, int64_t limit, bool pooling, bool empty) {
  Spatial s;
  for (int d = 0; d < rank; ++d) {
    int64_t w = pick(1, 5),
            dil = pooling           ? 1
                  : pick(1, 3) == 3 ? 2
                                    : 1,
            p = pick(0, 1) ? 0 : pick(0, pooling ? w / 2 : 4), st = pick(0, 1) ? 1 : pick(1, 3);
    int64_t reach = dil * (w - 1) + 1;
    int64_t x = pick(std::max<int64_t>(1, reach - 2 * p), std::max(limit, reach));
    if (empty && d == 0) x = std::max<int64_t>(0, reach - 1), p = 0;
    s.x.push_back(x);
    s.w.push_back(w);
    s.stride.push_back(st);
    s.padding.push_back(p);
    s.dilation.push_back(dil);
    s.y.push_back(x + 2 * p < reach ? 0 : 1 + (x + 2 * p - reach) / st);
  }
  return s;
}
static Words with(Words front, const Words& back) {
  front.insert(front.end(), back.begin(), back.end());
  return front;
}
static int64_t product(const Words& w) {
  int64_t n = 1;
  for (int64_t x : w) n *= x;
  return n;
}
// Calls f(position in y, element of the window, position in x) for all that lie inside.
template <class F>
static void each(const Spatial& s, bool flip, F f) {
  const int rank = int(s.x.size());
  for (int64_t o = 0; o < product(s.y); ++o)
    for (int64_t k = 0; k < product(s.w); ++k) {
      int64_t ro = o, rk = k, at = 0, scale = 1;
      bool inside = true;
      for (int d = rank - 1; d >= 0; --d) {
        int64_t i = rk % s.w[size_t(d)], y = ro % s.y[size_t(d)];
        rk /= s.w[size_t(d)];
        ro /= s.y[size_t(d)];
        if (flip) i = s.w[size_t(d)] - 1 - i;
        int64_t x = y * s.stride[size_t(d)] + i * s.dilation[size_t(d)] - s.padding[size_t(d)];
        inside &= x >= 0 && x < s.x[size_t(d)];
        at += x * scale;
        scale *= s.x[size_t(d)];
      }
      if (inside) f(o, k, at);
    }
}

template <class T>
static void test_conv(int64_t limit) {
  const int rank = int(pick(1, 3));
  Spatial s = spatial(rank,
                      rank == 3   ? std::min<int64_t>(limit, 9)
                      : rank == 1 ? limit * 8
                                  : limit,
                      false, pick(0, 15) == 0);
  if (pick(0, 5) == 0)  // pointwise
    for (int d = 0; d < rank; ++d)
      s.w[size_t(d)] = 1, s.padding[size_t(d)] = 0, s.stride[size_t(d)] = 1, s.y[size_t(d)] = s.x[size_t(d)];
  const int64_t n = pick(0, 4), groups = pick(0, 2) ? 1 : pick(1, 3), c = pick(1, 6), o = pick(1, pick(0, 3) ? 6 : 33);
  const bool flip = pick(0, 1);
  const int64_t px = product(s.x), py = product(s.y), pw = product(s.w);
  Words attrs;
  put(attrs, s.stride);
  put(attrs, s.padding);
  put(attrs, s.dilation);
  attrs.push_back(groups);
  attrs.push_back(flip);
  Layout lx = Layout::contiguous(dtype_of<T>, shape(with({n, groups * c}, s.x)));
  Layout lw = Layout::contiguous(dtype_of<T>, shape(with({groups * o, c}, s.w)));
  Layout ly = Layout::contiguous(dtype_of<T>, shape(with({n, groups * o}, s.y)));
  auto x = random_values<T>(lx.shape.size()), w = random_values<T>(lw.shape.size()),
       dy = random_values<T>(ly.shape.size());
  std::vector<T> y(dy.size()), dx(x.size()), dw(w.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t oc = 0; oc < o; ++oc)
        for (int64_t ic = 0; ic < c; ++ic) {
          const int64_t bx = ((i * groups + g) * c + ic) * px, by = ((i * groups + g) * o + oc) * py,
                        bw = ((g * o + oc) * c + ic) * pw;
          each(s, flip, [&](int64_t q, int64_t k, int64_t at) {
            y[size_t(by + q)] += w[size_t(bw + k)] * x[size_t(bx + at)];
            dx[size_t(bx + at)] += w[size_t(bw + k)] * dy[size_t(by + q)];
            dw[size_t(bw + k)] += dy[size_t(by + q)] * x[size_t(bx + at)];
          });
        }
  Exact<T> ex(x), ew(w), edy(dy), ey(y), edx(dx), edw(dw);
  std::string what =
      std::string(name(dtype_of<T>)) + " x " + str(lx.shape) + " w " + str(lw.shape) + " attrs " + text(attrs);
  run(Op::conv, {{ly, ey.p}}, {{lx, ex.p}, {lw, ew.p}}, attrs, "conv " + what);
  equal(ey.values(), y, "conv " + what);
  Words more = attrs;
  put(more, s.x);
  run(Op::conv_dx, {{lx, edx.p}}, {{ly, edy.p}, {lw, ew.p}}, more, "conv_dx " + what);
  equal(edx.values(), dx, "conv_dx " + what);
  more = attrs;
  put(more, s.w);
  run(Op::conv_dw, {{lw, edw.p}}, {{ly, edy.p}, {lx, ex.p}}, more, "conv_dw " + what);
  equal(edw.values(), dw, "conv_dw " + what);
}

template <class T>
static void test_pool() {
  const int rank = int(pick(1, 3));
  Spatial s = spatial(rank, rank == 3 ? 7 : 20, true, pick(0, 15) == 0);
  const int64_t n = pick(0, 3), c = pick(1, 4), px = product(s.x), py = product(s.y), planes = n * c;
  Words attrs;
  put(attrs, s.w);
  put(attrs, s.stride);
  put(attrs, s.padding);
  Layout lx = Layout::contiguous(dtype_of<T>, shape(with({n, c}, s.x))),
         ly = Layout::contiguous(dtype_of<T>, shape(with({n, c}, s.y)));
  Layout li = ly;
  li.dtype = DType::I64;
  auto x = random_values<T>(lx.shape.size()), dy = random_values<T>(ly.shape.size());
  if constexpr (std::is_floating_point_v<T>)
    for (auto& v : x) {
      if (pick(0, 9) == 0) v = std::numeric_limits<T>::quiet_NaN();
      else if (pick(0, 3) == 0) v = -std::numeric_limits<T>::infinity();
    }
  std::vector<T> y(dy.size());
  std::vector<int64_t> index(dy.size(), -1);
  std::vector<double> sum(dy.size()), count(dy.size());
  for (int64_t p = 0; p < planes; ++p)
    each({s.x, s.w, s.y, s.stride, s.padding, Words(size_t(rank), 1)}, false, [&](int64_t q, int64_t, int64_t at) {
      T v = x[size_t(p * px + at)];
      auto i = size_t(p * py + q);
      if (index[i] < 0 || v > y[i] || (v != v && y[i] == y[i])) y[i] = v, index[i] = at;
      count[i] += 1;
    });
  Exact<T> ex(x), ey(y), edy(dy), edx(x);
  Exact<int64_t> ei(index);
  std::string what = std::string(name(dtype_of<T>)) + " " + str(lx.shape) + " attrs " + text(attrs);
  run(Op::maxpool, {{ly, ey.p}, {li, ei.p}}, {{lx, ex.p}}, attrs, "maxpool " + what);
  equal(ey.values(), y, "maxpool " + what);
  equal(ei.values(), index, "maxpool indices " + what);
  run(Op::plane_gather, {{ly, ey.p}}, {{lx, ex.p}, {li, ei.p}}, {}, "plane_gather " + what);
  equal(ey.values(), y, "plane_gather " + what);
  std::vector<T> dx(x.size());
  for (int64_t p = 0; p < planes; ++p)
    for (int64_t q = 0; q < py; ++q) dx[size_t(p * px + index[size_t(p * py + q)])] += dy[size_t(p * py + q)];
  Words more;
  put(more, s.x);
  run(Op::plane_scatter, {{lx, edx.p}}, {{ly, edy.p}, {li, ei.p}}, more, "plane_scatter " + what);
  equal(edx.values(), dx, "plane_scatter " + what);

  if constexpr (std::is_floating_point_v<T>) {
    auto z = random_values<T>(lx.shape.size());
    for (bool count_padding : {false, true}) {
      std::vector<T> a(dy.size()), b(z.size());
      for (int64_t p = 0; p < planes; ++p)
        each({s.x, s.w, s.y, s.stride, s.padding, Words(size_t(rank), 1)}, false, [&](int64_t q, int64_t, int64_t at) {
          auto i = size_t(p * py + q);
          a[i] += z[size_t(p * px + at)];
          b[size_t(p * px + at)] += dy[i] * (T(1) / T(count_padding ? double(product(s.w)) : count[i]));
        });
      for (size_t i = 0; i < a.size(); ++i) a[i] *= T(1) / T(count_padding ? double(product(s.w)) : count[i]);
      Exact<T> ez(z), ea(a), eb(b);
      Words at = attrs;
      at.push_back(count_padding);
      run(Op::avgpool, {{ly, ea.p}}, {{lx, ez.p}}, at, "avgpool " + what);
      auto close = [&](const std::vector<T>& got, const std::vector<T>& want, const char* op) {
        for (size_t i = 0; i < want.size(); ++i)
          if (!(std::fabs(got[i] - want[i]) <= T(1e-5) * (1 + std::fabs(want[i])))) return check(false, op + what);
      };
      close(ea.values(), a, "avgpool ");
      put(at, s.x);
      run(Op::avgpool_back, {{lx, eb.p}}, {{ly, edy.p}}, at, "avgpool_back ");
      close(eb.values(), b, "avgpool_back ");
    }
  }
}

// Whatever the extents, cutting into tiles ends, and gives at least one.
static void test_tiles() {
  for (int round = 0; round < 200000; ++round) {
    const int64_t m = pick(1, pick(1, 5000)), n = pick(1, pick(1, 5000)), k = pick(1, 5000);
    cpu::Gemm<float> f(m, n, k, pick(0, 32), pick(0, 1));
    cpu::Gemm<double> d(m, n, k, pick(0, 32), pick(0, 1));
    check(f.tiles() > 0 && d.tiles() > 0, "tiles of " + f.text());
  }
}

static void test_threads() {
  cpu::set_threads(4);
  for (int round = 0; round < 3000; ++round) {
    int64_t n = pick(1, 50);
    std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
    cpu::parallel(n, 1e6, [&](int64_t i) {
      seen[size_t(i)]++;
      if (i == 0) cpu::parallel(3, 1e6, [&](int64_t) {});
    });
    for (auto& s : seen) check(s == 1, "a task did not run exactly once");
  }
  for (int round = 0; round < 100; ++round) {
    try {
      cpu::parallel(40, 1e6, [](int64_t i) {
        if (i >= 7 && i % 3 == 1) throw Error(Error::Index, std::to_string(i));
      });
      check(false, "an error was lost");
    } catch (const Error& e) {
      check(std::string(e.what()) == "7", "not the first error");
    }
  }
  std::vector<std::thread> callers;
  std::atomic<int64_t> total = 0;
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int r = 0; r < 2000; ++r) cpu::parallel(8, 1e5, [&](int64_t i) { total += i; });
    });
  for (auto& t : callers) t.join();
  check(total == 4 * 2000 * 28, "concurrent callers");
  if (pid_t child = fork(); child == 0) {
    int64_t sum[64] = {};
    for (int r = 0; r < 100; ++r) cpu::parallel(64, 1e6, [&](int64_t i) { sum[i] += i; });
    _exit(sum[63] == 6300 ? 0 : 1);
  } else {
    int status = 1;
    waitpid(child, &status, 0);
    check(status == 0, "parallel in the child of a fork");
  }
}

static void test_memory() {
  for (size_t bytes = 1; bytes < (size_t(1) << 45); bytes += bytes / 3 + 1) {
    size_t size = Pool::class_bytes(Pool::size_class(bytes));
    check(size >= bytes && size <= std::max<size_t>(bytes + 64, bytes + bytes / 15) && size % 64 == 0,
          "size class of " + std::to_string(bytes));
    check(Pool::size_class(size) == Pool::size_class(bytes), "class of its own size");
  }
  Pool& pool = Pool::host();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they report absurd sizes as findings
  for (size_t bytes : {size_t(1) << 62, size_t(1) << 45, ~size_t(0)}) try {
      void* p = pool.allocate(bytes);
      pool.release(p, bytes);
      check(bytes < size_t(1) << 46, "an absurd size was given");
    } catch (const Error& e) {
      check(e.kind == Error::Memory, "kind of the error");
    }
#endif
  std::vector<std::thread> users;
  for (int t = 0; t < 4; ++t)
    users.emplace_back([&pool, t] {
      std::mt19937 r(static_cast<unsigned>(t));
      std::vector<std::pair<char*, size_t>> held;
      for (int i = 0; i < 20000; ++i) {
        if (held.size() > 20 || (!held.empty() && r() % 2)) {
          auto [p, n] = held.back();
          held.pop_back();
          check(p[0] == char(n) && p[n - 1] == char(n), "memory given twice");
          pool.release(p, n);
        } else {
          size_t n = 1 + r() % (r() % 8 ? 5000 : 3000000);
          auto p = static_cast<char*>(pool.allocate(n));
          check(reinterpret_cast<uintptr_t>(p) % 64 == 0, "alignment");
          p[0] = p[n - 1] = char(n);
          held.push_back({p, n});
        }
      }
      for (auto [p, n] : held) pool.release(p, n);
    });
  for (auto& u : users) u.join();
  check(pool.stats().live == 0, "live bytes at the end");
  check(pool.stats().pooled <= std::max<int64_t>(256 << 20, pool.stats().peak), "bound on pooled bytes");
  pool.trim();
  check(pool.stats().pooled == 0, "trim");
}

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
  test_threads();
  test_memory();
  test_tiles();
  for (int r = 0; r < rounds; ++r) {
    test_matmul<float>(r % 16 == 0);
    test_matmul<double>(r % 32 == 0);
    if (r % 8 == 0) test_matmul<float>(false, true), test_matmul<double>(false, true);
    test_matmul<int64_t>(false);
    test_matmul<int32_t>(r % 64 == 0);
    test_matmul<int16_t>(false);
    test_matmul<int8_t>(false);
    test_matmul<uint8_t>(false);
    test_matmul<uint32_t>(false);
    test_matmul<bool>(false);
    test_conv<float>(r % 8 == 0 ? 40 : 12);
    test_conv<double>(12);
    test_pool<float>();
    test_pool<double>();
    test_pool<int32_t>();
    test_pool<uint8_t>();
  }
  return report();
}
