// The CPU's movement, reduction, index, random and create steps against naive loops, on random layouts, with 1, 2 and 4
// threads (which must give the same bits).
//   make test-native, or build/native/steps_test
#include <cmath>
#include <complex>
#include <cstdio>
#include <functional>
#include <map>
#include <random>
#include <vector>
#include "cpu/dtypes.h"
#include "cpu/isa.h"
#include "cpu/isa/random.h"
#include "cpu/isa/reduce.h"
#include "cpu/registry.h"
#include "cpu/strided.h"
#include "cpu/threads.h"

using namespace knet;
using namespace knet::cpu;

namespace {

std::mt19937_64 rng(1);
int failures = 0, checks = 0;

int64_t roll(int64_t lo, int64_t hi) { return lo + int64_t(rng() % uint64_t(hi - lo + 1)); }

void expect(bool ok, const std::string& what) {
  ++checks;
  if (ok) return;
  if (++failures < 30) std::printf("FAILED %s\n", what.c_str());
}

const DType kTypes[] = {DType::Bool, DType::I8, DType::I16, DType::I32, DType::I64, DType::U8,
                        DType::U16, DType::U32, DType::U64, DType::F32, DType::F64};

// Memory with a layout somewhere inside it.
struct Operand {
  Layout layout;
  std::vector<char> memory;
  int64_t origin = 0;  // elements
  int64_t size() const { return layout.shape.size(); }
  char* data() { return memory.data() + origin * int64_t(itemsize(layout.dtype)); }
  const char* data() const { return const_cast<Operand*>(this)->data(); }
  // Offset of the i-th element in C order.
  int64_t at(int64_t i) const {
    int64_t o = 0;
    for (int k = layout.shape.rank - 1; k >= 0; --k) o += i % layout.shape[k] * layout.stride[k], i /= layout.shape[k];
    return o;
  }
  template <class T> T get(int64_t i) const { return reinterpret_cast<const T*>(data())[at(i)]; }
  template <class T> void set(int64_t i, T v) { reinterpret_cast<T*>(data())[at(i)] = v; }
};

template <class T>
T some() {
  if constexpr (std::is_same_v<T, bool>) return rng() & 1;
  else if constexpr (std::is_floating_point_v<T>) {
    switch (rng() % 40) {
      case 0: return T(0);
      case 1: return T(-0.0);
      case 2: return T(1);
      default: return T(double(int64_t(rng() % 2001) - 1000) / 250);
    }
  } else {
    return rng() % 3 ? T(rng() % 5) : T(rng());
  }
}

void randomize(Operand& x) {
  by_dtype("test", x.layout.dtype, [&]<class T>(std::type_identity<T>) {
    T* p = reinterpret_cast<T*>(x.memory.data());
    for (size_t i = 0; i < x.memory.size() / sizeof(T); ++i) p[i] = some<T>();
  });
}

Operand contiguous(DType t, const Shape& s) {
  Operand x;
  x.layout = Layout::contiguous(t, s);
  x.memory.resize(size_t(s.size()) * itemsize(t) + 16);
  randomize(x);
  return x;
}

// Permuted, with gaps, reversed and broadcast dimensions.
Operand scattered(DType t, const Shape& s) {
  Operand x;
  x.layout.dtype = t;
  x.layout.shape = s;
  int order[kMaxRank];
  for (int i = 0; i < s.rank; ++i) order[i] = i;
  if (rng() & 1) std::shuffle(order, order + s.rank, rng);
  int64_t step = rng() % 4 ? 1 : 2, origin = 0;
  bool gaps = rng() & 1, signs = rng() & 1;
  for (int k = s.rank - 1; k >= 0; --k) {
    int i = order[k];
    if (rng() % 8 == 0) {
      x.layout.stride[i] = 0;
      continue;
    }
    x.layout.stride[i] = step;
    if (signs && rng() & 1 && s[i]) origin += (s[i] - 1) * step, x.layout.stride[i] = -step;
    step *= std::max<int64_t>(1, s[i] + (gaps ? roll(0, 2) : 0));
  }
  x.origin = origin;
  x.memory.resize(size_t(step + 2) * itemsize(t));
  randomize(x);
  return x;
}

Shape some_shape(int lo = 0, int hi = 5, bool large = true) {
  Shape s;
  int rank = int(roll(lo, hi));
  int64_t size = 1, most = rng() % 16 ? 10000 : 300000;
  for (int i = 0; i < rank; ++i) {
    int64_t d = rng() % 12 == 0 ? roll(0, 1) : large && rng() % 5 == 0 ? roll(1, 700) : roll(1, 20);
    if (size * d > most) d = 1;
    size *= std::max<int64_t>(d, 1);
    s.push(d);
  }
  return s;
}

std::string describe(const char* what, const Operand& x) {
  std::string r = std::string(what) + " " + name(x.layout.dtype) + " " + str(x.layout.shape) + " strides";
  for (int i = 0; i < x.layout.shape.rank; ++i) r += " " + std::to_string(x.layout.stride[i]);
  return r;
}

// Runs with 1, 2 and 4 threads; the results must be the same bytes. `in_place`: result 0 starts as a copy of input 0.
void run(Op op, std::vector<Operand*> out, std::vector<const Operand*> in, std::vector<int64_t> attrs,
         bool in_place = false) {
  std::vector<Layout> lo, li;
  for (auto* o : out) lo.push_back(o->layout);
  for (auto* i : in) li.push_back(i->layout);
  for (size_t i = 0; i < in.size(); ++i) {
    Accepts a = entry(op).accepts;
    if (!li[i].is_contiguous() && !(a && a(op, int(i), li[i], 1))) throw Error(Error::Value, "layout not accepted");
  }
  auto step = entry(op).make(op, lo, li, attrs);
  std::vector<char> first;
  for (int threads : {1, 2, 4}) {
    set_threads(threads);
    for (auto* o : out) std::fill(o->memory.begin(), o->memory.end(), char(0x55));
    if (in_place) std::copy(in[0]->memory.begin(), in[0]->memory.end(), out[0]->memory.begin());
    std::vector<char*> po;
    std::vector<const char*> pi;
    for (auto* o : out) po.push_back(o->data());
    for (auto* i : in) pi.push_back(i->data());
    if (in_place) pi[0] = po[0];
    std::vector<char> scratch(step->scratch_bytes + 64, char(0x33));
    char* s = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
    step->run(po.data(), pi.data(), s);
    std::vector<char> all;
    for (auto* o : out)
      all.insert(all.end(), o->data(), o->data() + o->size() * int64_t(itemsize(o->layout.dtype)));
    if (threads == 1) first = all;
    else expect(first == all, std::string("same bits for any threads: ") + info(op).name);
  }
}

template <class T>
bool same(T a, T b, double tolerance = 0) {
  if (a == b || (a != a && b != b)) return true;
  return tolerance > 0 && std::abs(double(a) - double(b)) <= tolerance * (std::abs(double(b)) + 1);
}

// Coordinates of element i of shape s.
std::vector<int64_t> unravel(int64_t i, const Shape& s) {
  std::vector<int64_t> c(size_t(s.rank));
  for (int k = s.rank - 1; k >= 0; --k) c[size_t(k)] = i % s[k], i /= s[k];
  return c;
}
int64_t ravel(const std::vector<int64_t>& c, const Shape& s) {
  int64_t i = 0;
  for (int k = 0; k < s.rank; ++k) i = i * s[k] + c[size_t(k)];
  return i;
}

void reductions() {
  const Op ops[] = {Op::sum, Op::prod, Op::max, Op::min, Op::any, Op::all};
  for (int trial = 0; trial < 1500; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = ops[rng() % 6];
    Shape s = some_shape();
    bool extreme = op == Op::max || op == Op::min;
    Operand x = scattered(t, s);
    std::vector<int64_t> axes;
    for (int k = 0; k < s.rank; ++k)
      if (rng() & 1) axes.push_back(k);
    Shape o;
    int64_t reduced = 1;
    bool keep = rng() & 1;
    for (int k = 0; k < s.rank; ++k) {
      if (std::find(axes.begin(), axes.end(), k) == axes.end()) o.push(s[k]);
      else if (reduced *= s[k]; keep) o.push(1);
    }
    if (extreme && reduced == 0) continue;
    DType to = op == Op::any || op == Op::all ? DType::Bool
               : extreme || is_float(t) ? (rng() % 4 || extreme ? t : DType::F64)
               : is_unsigned_int(t) ? DType::U64 : rng() % 4 ? DType::I64 : DType::F64;
    Operand y = contiguous(to, o);
    std::vector<int64_t> attrs{int64_t(axes.size())};
    attrs.insert(attrs.end(), axes.begin(), axes.end());
    attrs.push_back(keep);
    if (is_float(t) && rng() % 4 == 0 && x.memory.size() > 64)
      by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
        reinterpret_cast<T*>(x.memory.data())[rng() % (x.memory.size() / sizeof(T))] = T(NAN);
      });
    run(op, {&y}, {&x}, attrs);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      using A =
          std::conditional_t<std::is_floating_point_v<T>, long double,
                             std::conditional_t<std::is_signed_v<T> || std::is_same_v<T, bool>, int64_t, uint64_t>>;
      std::vector<A> sum(size_t(o.size()), op == Op::prod ? A(1) : A(0));
      std::vector<A> magnitude(size_t(o.size()), A(0));
      std::vector<char> seen(size_t(o.size()), 0), flag(size_t(o.size()), op == Op::all);
      std::vector<T> best(size_t(o.size()) + 1);
      for (int64_t i = 0; i < s.size(); ++i) {
        auto c = unravel(i, s);
        std::vector<int64_t> d;
        for (int k = 0; k < s.rank; ++k) {
          if (std::find(axes.begin(), axes.end(), k) == axes.end())
            d.push_back(c[size_t(k)]);
          else if (keep)
            d.push_back(0);
        }
        size_t j = size_t(ravel(d, o));
        T v = x.get<T>(i);
        if constexpr (std::is_floating_point_v<T>) {
          if (op == Op::sum) sum[j] += A(v);
          if (op == Op::prod) sum[j] *= A(v);
          magnitude[j] += std::abs(A(v));
        } else {
          if (op == Op::sum) sum[j] = A(uint64_t(sum[j]) + uint64_t(v));
          if (op == Op::prod) sum[j] = A(uint64_t(sum[j]) * uint64_t(v));
        }
        if (!seen[j] || v != v || (best[j] == best[j] && (op == Op::max ? v > best[j] : v < best[j]))) best[j] = v;
        seen[j] = 1;
        if (op == Op::any) flag[j] |= v != T(0);
        if (op == Op::all) flag[j] &= v != T(0);
      }
      bool ok = true;
      for (size_t j = 0; j < size_t(o.size()); ++j) {
        if (op == Op::any || op == Op::all)
          ok &= y.get<bool>(int64_t(j)) == bool(flag[j]);
        else if (extreme)
          ok &= same<T>(y.get<T>(int64_t(j)), best[j]);
        else
          by_dtype("test", to, [&]<class O>(std::type_identity<O>) {
            if constexpr (std::is_floating_point_v<O>) {
              double eps = sizeof(O) == 4 ? 1.2e-7 : 1e-13;
              double got = double(y.get<O>(int64_t(j))), want = double(O(sum[j]));
              double scale =
                  op == Op::sum ? eps * (std::abs(want) + 1e-8 * double(magnitude[j])) : 1e-6 * std::abs(want) + 1e-30;
              ok &= same(got, want) || std::abs(got - want) <= scale + 1e-12 * double(magnitude[j]);
            } else {
              ok &= y.get<O>(int64_t(j)) == O(sum[j]);
            }
          });
      }
      expect(ok, describe(info(op).name, x) + " -> " + str(o) + " " + name(to));
    });
  }
}

void args() {
  for (int trial = 0; trial < 800; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = rng() & 1 ? Op::argmax : Op::argmin;
    Shape s = some_shape(1, 4);
    if (rng() % 20 == 0) s = Shape{300000};
    int axis = int(roll(0, s.rank - 1));
    if (s[axis] == 0) continue;
    Operand x = scattered(t, s);
    if (is_float(t) && rng() % 2)
      by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
        for (int k = 0; k < 3; ++k)
          reinterpret_cast<T*>(x.memory.data())[rng() % (x.memory.size() / sizeof(T))] = T(NAN);
      });
    Shape o;
    for (int k = 0; k < s.rank; ++k)
      if (k != axis) o.push(s[k]);
    Operand y = contiguous(DType::I64, o);
    run(op, {&y}, {&x}, {axis, 0});
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      bool ok = true;
      for (int64_t j = 0; j < o.size(); ++j) {
        auto c = unravel(j, o);
        c.insert(c.begin() + axis, 0);
        int64_t at = 0;
        T best{};
        for (int64_t r = 0; r < s[axis]; ++r) {
          c[size_t(axis)] = r;
          T v = x.get<T>(ravel(c, s));
          if (r == 0 || (best == best && (v != v || (op == Op::argmax ? v > best : v < best)))) best = v, at = r;
        }
        ok &= y.get<int64_t>(j) == at;
      }
      expect(ok, describe(info(op).name, x) + " axis " + std::to_string(axis));
    });
  }
}

void scans() {
  for (int trial = 0; trial < 400; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = rng() & 1 ? Op::cumsum : Op::cumprod;
    Shape s = some_shape(1, 4);
    if (rng() % 10 == 0) s = Shape{2, 100000};
    int axis = int(roll(0, s.rank - 1));
    bool reverse = rng() & 1;
    Operand x = contiguous(t, s);
    DType to = is_float(t) ? t : is_unsigned_int(t) ? DType::U64 : DType::I64;
    Operand y = contiguous(to, s);
    run(op, {&y}, {&x}, {axis, reverse});
    Axis a(s, axis);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      bool ok = true;
      for (int64_t o = 0; o < a.outer; ++o)
        for (int64_t i = 0; i < a.inner; ++i) {
          Accumulator<T> acc = op == Op::cumprod ? 1 : 0;
          for (int64_t r = 0; r < a.n; ++r) {
            int64_t p = (o * a.n + (reverse ? a.n - 1 - r : r)) * a.inner + i;
            acc = op == Op::cumprod ? acc * Accumulator<T>(x.get<T>(p)) : acc + Accumulator<T>(x.get<T>(p));
            if (is_float(t))
              ok &= same(t == DType::F32 ? double(y.get<float>(p)) : y.get<double>(p),
                         t == DType::F32 ? double(float(acc)) : double(acc), 1e-6);
            else ok &= y.get<uint64_t>(p) == uint64_t(acc);
          }
        }
      expect(ok, describe(info(op).name, x) + " axis " + std::to_string(axis));
    });
  }
}

void copies() {
  for (int trial = 0; trial < 1500; ++trial) {
    DType t = kTypes[rng() % 11];
    Shape s = some_shape();
    Operand x = scattered(t, s), y = contiguous(t, s);
    run(Op::copy, {&y}, {&x}, {});
    bool ok = true;
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      for (int64_t i = 0; i < s.size(); ++i) ok &= same(y.get<T>(i), x.get<T>(i));
    });
    expect(ok, describe("copy", x));
  }
  for (int trial = 0; trial < 400; ++trial) {
    DType t = kTypes[rng() % 11];
    Shape s = some_shape(1, 4);
    int axis = int(roll(0, s.rank - 1)), n = int(roll(1, 5));
    std::vector<Operand> xs;
    std::vector<const Operand*> in;
    int64_t total = 0;
    for (int k = 0; k < n; ++k) {
      Shape p = s;
      p[axis] = roll(0, 6);
      total += p[axis];
      xs.push_back(scattered(t, p));
    }
    for (auto& x : xs) in.push_back(&x);
    Shape o = s;
    o[axis] = total;
    Operand y = contiguous(t, o);
    run(Op::concatenate, {&y}, in, {axis});
    bool ok = true;
    int64_t before = 0;
    for (auto& x : xs) {
      by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
        for (int64_t i = 0; i < x.size(); ++i) {
          auto c = unravel(i, x.layout.shape);
          c[size_t(axis)] += before;
          ok &= same(y.get<T>(ravel(c, o)), x.get<T>(i));
        }
      });
      before += x.layout.shape[axis];
    }
    expect(ok, "concatenate " + str(o));
  }
}

Operand scalar(int64_t v) {
  Operand x = contiguous(DType::I64, Shape{});
  x.set<int64_t>(0, v);
  return x;
}

void slices() {
  for (int trial = 0; trial < 600; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = rng() & 1 ? Op::slice_update : Op::slice_add;
    Shape s = some_shape(0, 4), r = s;
    std::vector<int64_t> axes, steps;
    std::vector<Operand> starts;
    for (int k = 0; k < s.rank; ++k) {
      if (rng() % 3 == 0 || s[k] == 0) continue;
      int64_t step = roll(1, 3) * (rng() & 1 ? 1 : -1), start = roll(0, s[k] - 1);
      int64_t most = step > 0 ? (s[k] - 1 - start) / step + 1 : start / -step + 1;
      r[k] = roll(0, most);
      axes.push_back(k);
      steps.push_back(step);
      starts.push_back(scalar(start));
    }
    // Several along one axis are added one after the other; they may overlap.
    const size_t parts = op == Op::slice_add && axes.size() == 1 ? size_t(roll(1, 4)) : 1;
    for (size_t part = 1; part < parts; ++part)
      for (size_t k = 0; k < axes.size(); ++k) {
        const int64_t n = s[int(axes[k])], reach = std::max<int64_t>(r[int(axes[k])] - 1, 0) * steps[k];
        starts.push_back(scalar(reach > 0 ? roll(0, n - 1 - reach) : roll(-reach, n - 1)));
      }
    Operand x = contiguous(t, s), y = contiguous(t, s);
    std::vector<Operand> v;
    for (size_t part = 0; part < parts; ++part) v.push_back(scattered(t, r));
    std::vector<const Operand*> in{&x};
    for (size_t part = 0; part < parts; ++part) {
      in.push_back(&v[part]);
      for (size_t k = 0; k < axes.size(); ++k) in.push_back(&starts[part * axes.size() + k]);
    }
    std::vector<int64_t> attrs{int64_t(axes.size())};
    attrs.insert(attrs.end(), axes.begin(), axes.end());
    attrs.push_back(int64_t(steps.size()));
    attrs.insert(attrs.end(), steps.begin(), steps.end());
    run(op, {&y}, in, attrs, rng() & 1);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      Operand want = x;
      for (size_t part = 0; part < parts; ++part)
        for (int64_t i = 0; i < r.size(); ++i) {
          auto c = unravel(i, r);
          for (size_t k = 0; k < axes.size(); ++k)
            c[size_t(axes[k])] = starts[part * axes.size() + k].get<int64_t>(0) + c[size_t(axes[k])] * steps[k];
          const int64_t p = ravel(c, s);
          const T one = v[part].get<T>(i);
          want.set<T>(p, op == Op::slice_add ? knet::cpu::add(want.get<T>(p), one) : one);
        }
      bool ok = true;
      for (int64_t i = 0; i < s.size(); ++i) ok &= same(y.get<T>(i), want.get<T>(i));
      expect(ok, describe(info(op).name, x) + " region " + str(r));
    });
  }
}

Operand indices(const Shape& s, int64_t extent) {
  Operand x = contiguous(DType::I64, s);
  for (int64_t i = 0; i < s.size(); ++i) x.set<int64_t>(i, roll(-extent, extent - 1));
  return x;
}

void indexing() {
  const Op ops[] = {Op::gather, Op::scatter_add, Op::scatter_set};
  for (int trial = 0; trial < 1200; ++trial) {
    DType t = kTypes[rng() % 11];
    Op op = ops[rng() % 3];
    Shape s = some_shape(1, 4), S = some_shape(0, 2);
    if (rng() % 20 == 0) s = Shape{roll(1, 40)}, S = Shape{100000};
    bool empty = false;
    std::vector<int64_t> axes;
    for (int k = 0; k < s.rank; ++k)
      if (rng() & 1) axes.push_back(k), empty |= s[k] == 0;
    if (axes.empty()) axes.push_back(0), empty |= s[0] == 0;
    if (empty && S.size()) continue;
    Shape rest;
    for (int k = 0; k < s.rank; ++k)
      if (std::find(axes.begin(), axes.end(), k) == axes.end()) rest.push(s[k]);
    while (rest.size() * S.size() > 3000000) S[0] = 1;
    int at = int(roll(0, rest.rank));
    Shape vs;
    for (int k = 0; k < at; ++k) vs.push(rest[k]);
    for (int64_t d : S) vs.push(d);
    for (int k = at; k < rest.rank; ++k) vs.push(rest[k]);
    std::vector<Operand> idx;
    for (int64_t a : axes) idx.push_back(indices(S, std::max<int64_t>(s[int(a)], 1)));
    std::vector<int64_t> attrs{int64_t(axes.size())};
    attrs.insert(attrs.end(), axes.begin(), axes.end());
    attrs.push_back(at);
    Operand x = op == Op::gather ? scattered(t, s) : contiguous(t, s), v = contiguous(t, vs),
            y = contiguous(t, op == Op::gather ? vs : s);
    std::vector<const Operand*> in{&x};
    if (op != Op::gather) in.push_back(&v);
    for (auto& i : idx) in.push_back(&i);
    run(op, {&y}, in, attrs, op != Op::gather && rng() & 1);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      Operand want = op == Op::gather ? contiguous(t, vs) : x;
      for (int64_t i = 0; i < vs.size(); ++i) {
        auto c = unravel(i, vs);
        std::vector<int64_t> sc(c.begin() + at, c.begin() + at + S.rank);
        std::vector<int64_t> rc(c.begin(), c.begin() + at);
        rc.insert(rc.end(), c.begin() + at + S.rank, c.end());
        std::vector<int64_t> xc;
        size_t ai = 0, ri = 0;
        for (int k = 0; k < s.rank; ++k) {
          if (ai < axes.size() && axes[ai] == k) {
            int64_t j = idx[ai].get<int64_t>(ravel(sc, S));
            xc.push_back(j < 0 ? j + s[k] : j);
            ++ai;
          } else {
            xc.push_back(rc[ri++]);
          }
        }
        int64_t p = ravel(xc, s);
        if (op == Op::gather) want.set<T>(i, x.get<T>(p));
        else want.set<T>(p, op == Op::scatter_add ? knet::cpu::add(want.get<T>(p), v.get<T>(i)) : v.get<T>(i));
      }
      bool ok = true;
      for (int64_t i = 0; i < y.size(); ++i) ok &= same(y.get<T>(i), want.get<T>(i));
      expect(ok, describe(info(op).name, x) + " S " + str(S) + " at " + std::to_string(at));
    });
  }
  for (int trial = 0; trial < 800; ++trial) {
    DType t = kTypes[rng() % 11];
    Shape s = some_shape(1, 4), is = s, o = s;
    int axis = int(roll(0, s.rank - 1));
    bool take = rng() & 1, bad = false;
    for (int k = 0; k < s.rank; ++k) {
      if (k == axis) {
        is[k] = roll(0, 9);
        o[k] = is[k];
        bad |= s[k] == 0 && is.size() > 0;
      } else if (rng() % 6 == 0) {
        is[k] = 1;
      } else if (rng() % 8 == 0 && s.size() < 20000) {
        s[k] = 1;
      }
      if (k != axis) o[k] = std::min(s[k], is[k]) == 0 ? 0 : std::max(s[k], is[k]);
    }
    if (s[axis] == 0) continue;
    Operand i = indices(is, s[axis]), x = take ? scattered(t, s) : contiguous(t, s), v = contiguous(t, o),
            y = contiguous(t, take ? o : s);
    if (take) run(Op::take_along_axis, {&y}, {&x, &i}, {axis});
    else run(Op::scatter_along_axis, {&y}, {&x, &v, &i}, {axis}, rng() & 1);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      Operand want = take ? contiguous(t, o) : x;
      for (int64_t p = 0; p < o.size(); ++p) {
        auto c = unravel(p, o), ci = c, cx = c;
        for (int k = 0; k < s.rank; ++k) {
          if (is[k] == 1) ci[size_t(k)] = 0;
          if (s[k] == 1) cx[size_t(k)] = 0;
        }
        int64_t j = i.get<int64_t>(ravel(ci, is));
        cx[size_t(axis)] = j < 0 ? j + s[axis] : j;
        int64_t q = ravel(cx, s);
        if (take) want.set<T>(p, x.get<T>(q));
        else want.set<T>(q, knet::cpu::add(want.get<T>(q), v.get<T>(p)));
      }
      bool ok = true;
      for (int64_t p = 0; p < y.size(); ++p) ok &= same(y.get<T>(p), want.get<T>(p));
      expect(ok, describe(take ? "take_along_axis" : "scatter_along_axis", x) + " i " + str(is) + " axis " +
                     std::to_string(axis));
    });
  }
  Operand x = contiguous(DType::F32, Shape{10, 3}), i = indices(Shape{4}, 10), y = contiguous(DType::F32, Shape{4, 3});
  i.set<int64_t>(2, 12);
  std::string said;
  try {
    run(Op::gather, {&y}, {&x, &i}, {1, 0, 0});
  } catch (const Error& e) {
    said = e.what();
  }
  expect(said.starts_with("[index] index 12 is out of range for axis 0 of extent 10"), "index error: " + said);
}

void sorts() {
  for (int trial = 0; trial < 500; ++trial) {
    DType t = kTypes[rng() % 11];
    Shape s = some_shape(1, 4);
    if (rng() % 25 == 0) s = Shape{roll(1, 2), roll(100000, 400000)};
    int axis = int(roll(0, s.rank - 1));
    bool descending = rng() & 1;
    Operand x = contiguous(t, s), y = contiguous(t, s), at = contiguous(DType::I64, s);
    if (is_float(t) && s.size() && rng() & 1)
      by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
        for (int k = 0; k < 5; ++k) x.set<T>(roll(0, s.size() - 1), k % 2 ? T(NAN) : k ? T(-INFINITY) : T(INFINITY));
      });
    run(Op::sort, {&y, &at}, {&x}, {axis, descending});
    Axis a(s, axis);
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      bool ok = true;
      std::vector<int64_t> order(size_t(a.n));
      for (int64_t r = 0; r < a.outer * a.inner; ++r) {
        int64_t base = a.inner ? r / a.inner * a.n * a.inner + r % a.inner : 0;
        auto v = [&](int64_t i) { return x.get<T>(base + i * a.inner); };
        for (int64_t i = 0; i < a.n; ++i) order[size_t(i)] = i;
        std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
          T p = v(i), q = v(j);
          if (p != p || q != q) return p == p && q != q;
          return descending ? p > q : p < q;
        });
        for (int64_t i = 0; i < a.n; ++i) {
          T got = y.get<T>(base + i * a.inner), want = v(order[size_t(i)]);
          ok &= at.get<int64_t>(base + i * a.inner) == order[size_t(i)] && !std::memcmp(&got, &want, sizeof(T));
        }
      }
      expect(ok, describe("sort", x) + " axis " + std::to_string(axis));
    });
  }
}

void philox(const uint32_t* c, const uint32_t* k, uint32_t* out) {
  uint32_t x[4] = {c[0], c[1], c[2], c[3]}, k0 = k[0], k1 = k[1];
  for (int r = 0; r < 10; ++r, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    uint64_t a = uint64_t(x[0]) * 0xD2511F53u, b = uint64_t(x[2]) * 0xCD9E8D57u;
    uint32_t y[4] = {uint32_t(b >> 32) ^ x[1] ^ k0, uint32_t(b), uint32_t(a >> 32) ^ x[3] ^ k1, uint32_t(a)};
    std::memcpy(x, y, 16);
  }
  std::memcpy(out, x, 16);
}

std::vector<const RandomTable*> random_tables() {
#ifdef KNET_X86
  std::vector<const RandomTable*> t{&v2::random_table};
  if (isa() >= Isa::V3) t.push_back(&v3::random_table);
  if (isa() >= Isa::V4) t.push_back(&v4::random_table);
  return t;
#else
  return {&base::random_table};
#endif
}

void randoms() {
  // Known answers of the Random123 distribution: counter, key, result.
  const uint32_t known[3][10] = {{0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                                 {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                                 {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
                                  0x94fdcceb, 0x5001e420, 0x24126ea1}};
  auto pair = [](const uint32_t* w) { return w[0] | uint64_t(w[1]) << 32; };
  for (auto* t : random_tables()) {
    for (auto& k : known) {
      uint32_t got[4];
      t->fill[kBits](pair(k + 4), pair(k + 2), pair(k), 16, got);
      expect(!std::memcmp(got, k + 6, 16), "philox known answer");
    }
    uint32_t got[4 * 777], want[4 * 777], key[2] = {123, 456};
    t->fill[kBits](pair(key), 789, 0xfffffff0u, sizeof got, got);
    for (uint32_t b = 0; b < 777; ++b) {
      uint64_t index = 0xfffffff0u + uint64_t(b);
      uint32_t c[4] = {uint32_t(index), uint32_t(index >> 32), 789, 0};
      philox(c, key, want + 4 * b);
    }
    expect(!std::memcmp(got, want, sizeof got), "philox blocks");
    for (int d = 0; d < kDistributions; ++d)
      for (int64_t bytes : {4, 8, 100, 1000, 65536 + 24}) {
        std::vector<char> a(size_t(bytes) + 8, 1), b(size_t(bytes) + 8, 1);
        random_tables()[0]->fill[d](99, 7, 3, bytes, a.data());
        t->fill[d](99, 7, 3, bytes, b.data());
        expect(a == b, "same numbers on every instruction set, distribution " + std::to_string(d));
      }
  }
  Operand seed = contiguous(DType::U64, Shape{}), counter = contiguous(DType::U64, Shape{});
  seed.set<uint64_t>(0, 0x123456789abcdefull);
  counter.set<uint64_t>(0, 5);
  const int64_t n = 4000003;
  for (DType t : {DType::F32, DType::F64}) {
    Operand u = contiguous(t, Shape{n}), z = contiguous(t, Shape{n}), w = contiguous(DType::U32, Shape{2 * n + 4});
    run(Op::random_uniform, {&u}, {&seed, &counter}, {1, n, int64_t(t)});
    run(Op::random_normal, {&z}, {&seed, &counter}, {1, n, int64_t(t)});
    run(Op::random_bits, {&w}, {&seed, &counter}, {1, 2 * n + 4, int64_t(DType::U32)});
    double m[5] = {}, mean = 0, square = 0, low = 1, high = 0, worst = 0;
    for (int64_t i = 0; i < n; ++i) {
      double x = t == DType::F32 ? double(u.get<float>(i)) : u.get<double>(i),
             y = t == DType::F32 ? double(z.get<float>(i)) : z.get<double>(i);
      mean += x, square += x * x, low = std::min(low, x), high = std::max(high, x);
      for (int k = 1; k < 5; ++k) m[k] += std::pow(y, k);
      // Box-Muller in long double from the same bits.
      uint32_t b[4];
      for (int k = 0; k < 4; ++k) b[k] = w.get<uint32_t>(t == DType::F32 ? i / 4 * 4 + k : i / 2 * 4 + k);
      long double v, a, pi = std::acos(-1.0L);
      if (t == DType::F32) {
        const uint32_t* q = b + i % 4 / 2 * 2;
        v = (long double)(float((q[0] >> 1)) + 0.5f) * 0x1p-31L;
        a = q[1] * 0x1p-32L;
      } else {
        v = (long double)(double(pair(b) >> 11) + 0.5) * 0x1p-53L;
        a = (long double)(pair(b + 2) >> 11) * 0x1p-53L;
      }
      long double r = std::sqrt(-2 * std::log(v)), want = r * (i & 1 ? std::sin(2 * pi * a) : std::cos(2 * pi * a));
      worst = std::max(worst, double(std::abs(want - (long double)y) / std::max(r, 1e-6L)));
    }
    mean /= n, square /= n;
    for (double& k : m) k /= n;
    expect(low >= 0 && high < 1 && low < 1e-5 && high > 1 - 1e-5, "uniform range");
    expect(std::abs(mean - 0.5) < 6e-4 && std::abs(square - 1 / 3.0) < 6e-4, "uniform moments");
    expect(std::abs(m[1]) < 2e-3 && std::abs(m[2] - 1) < 3e-3 && std::abs(m[3]) < 5e-3 && std::abs(m[4] - 3) < 3e-2,
           "normal moments");
    expect(worst < (t == DType::F32 ? 4e-7 : 1e-15), "normal accuracy " + std::to_string(worst * 1e16) + "e-16");
    std::printf("normal %s: worst error %.2g of the radius\n", name(t), worst);
  }
}

void iotas() {
  for (DType t : kTypes) {
    if (t == DType::Bool) continue;
    Operand a = contiguous(t, Shape{}), b = contiguous(t, Shape{}), y = contiguous(t, Shape{100001});
    by_dtype("test", t, [&]<class T>(std::type_identity<T>) {
      a.set<T>(0, T(3));
      b.set<T>(0, T(-0.1) ? T(-0.1) : T(-2));
      run(Op::iota, {&y}, {&a, &b}, {100001, int64_t(t)});
      bool ok = true;
      for (int64_t i = 0; i < y.size(); ++i) {
        Accumulator<T> want = Accumulator<T>(a.get<T>(0)) + Accumulator<T>(i) * Accumulator<T>(b.get<T>(0));
        ok &= y.get<T>(i) == T(want);
      }
      expect(ok, std::string("iota ") + name(t));
    });
  }
}

void accuracy() {
  Operand seed = contiguous(DType::U64, Shape{}), counter = contiguous(DType::U64, Shape{});
  for (Shape s : {Shape{10000000}, Shape{1000, 10000}, Shape{1000000, 10}}) {
    Operand u = contiguous(DType::F32, s);
    run(Op::random_uniform, {&u}, {&seed, &counter}, {});
    for (bool all : {true, false}) {
      Operand y = contiguous(DType::F32, all ? Shape{} : Shape{s[s.rank - 1]});
      if (!all && s.rank == 1) continue;
      if (all && s.rank == 2) run(Op::sum, {&y}, {&u}, {2, 0, 1, 0});
      else run(Op::sum, {&y}, {&u}, {1, 0, 0});
      double worst = 0;
      std::vector<double> want(size_t(y.size()));
      for (int64_t i = 0; i < u.size(); ++i) want[size_t(i % y.size())] += double(u.get<float>(i));
      for (int64_t i = 0; i < y.size(); ++i)
        worst = std::max(worst, std::abs(double(y.get<float>(i)) - want[size_t(i)]) / want[size_t(i)]);
      expect(worst < 6.1e-8, "sum of uniforms " + str(s) + ": relative error " + std::to_string(worst));
    }
  }
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  struct { const char* name; void (*test)(); } tests[] = {
      {"reduce", reductions}, {"arg", args}, {"scan", scans}, {"copy", copies}, {"slice", slices}, {"index", indexing},
      {"sort", sorts}, {"random", randoms}, {"iota", iotas}, {"accuracy", accuracy}};
  for (auto& t : tests) {
    int before = checks, failed = failures;
    t.test();
    std::printf("%-9s %d checks, %d failed\n", t.name, checks - before, failures - failed);
  }
  std::printf("%s, %s\n", failures ? "FAILED" : "ok", isa_name());
  return failures != 0;
}
