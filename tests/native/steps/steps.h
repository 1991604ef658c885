// Steps of the CPU on random layouts, run with several numbers of threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/dtypes.h"
#include "cpu/isa.h"
#include "cpu/registry.h"
#include "cpu/strided.h"
#include "cpu/threads.h"

using namespace knet;
using namespace knet::cpu;

inline std::mt19937_64 rng(1);

inline int64_t roll(int64_t lo, int64_t hi) { return lo + int64_t(rng() % uint64_t(hi - lo + 1)); }

inline constexpr DType kTypes[] = {DType::Bool, DType::I8, DType::I16, DType::I32, DType::I64, DType::U8,
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

inline void randomize(Operand& x) {
  by_dtype("test", x.layout.dtype, [&]<class T>(std::type_identity<T>) {
    T* p = reinterpret_cast<T*>(x.memory.data());
    for (size_t i = 0; i < x.memory.size() / sizeof(T); ++i) p[i] = some<T>();
  });
}

inline Operand contiguous(DType t, const Shape& s) {
  Operand x;
  x.layout = Layout::contiguous(t, s);
  x.memory.resize(size_t(s.size()) * itemsize(t) + 16);
  randomize(x);
  return x;
}

// Permuted, with gaps, reversed and broadcast dimensions.
inline Operand scattered(DType t, const Shape& s) {
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

inline Shape some_shape(int lo = 0, int hi = 5, bool large = true) {
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

inline std::string describe(const char* what, const Operand& x) {
  std::string r = std::string(what) + " " + name(x.layout.dtype) + " " + str(x.layout.shape) + " strides";
  for (int i = 0; i < x.layout.shape.rank; ++i) (r += ' ') += std::to_string(x.layout.stride[i]);
  return r;
}

// Runs with 1, 2 and 4 threads; the results must be the same bytes. `in_place`: result 0 starts as a copy of input 0.
inline void run(Op op, std::vector<Operand*> out, std::vector<const Operand*> in, std::vector<int64_t> attrs,
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
    else check(first == all, std::string("same bits for any threads: ") + info(op).name);
  }
}

template <class T>
bool same(T a, T b, double tolerance = 0) {
  if (a == b || (a != a && b != b)) return true;
  return tolerance > 0 && std::abs(double(a) - double(b)) <= tolerance * (std::abs(double(b)) + 1);
}

// Coordinates of element i of shape s.
inline std::vector<int64_t> unravel(int64_t i, const Shape& s) {
  std::vector<int64_t> c(size_t(s.rank));
  for (int k = s.rank - 1; k >= 0; --k) c[size_t(k)] = i % s[k], i /= s[k];
  return c;
}
inline int64_t ravel(const std::vector<int64_t>& c, const Shape& s) {
  int64_t i = 0;
  for (int k = 0; k < s.rank; ++k) i = i * s[k] + c[size_t(k)];
  return i;
}

// Runs the tests of a program, and says how they went: what main returns.
struct Test {
  const char* name;
  void (*run)();
};
inline int run_all(std::initializer_list<Test> tests) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  for (const Test& t : tests) {
    int before = checks, failed = failures;
    t.run();
    std::printf("%-9s %d checks, %d failed\n", t.name, checks - before, failures - failed);
  }
  std::printf("%s: ", isa_name());
  return report();
}
