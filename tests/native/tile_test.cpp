// The tile interpreter against plain loops: random programs over random layouts, reductions, in-place use, thread
// counts.
//   make test-native, or build/native/tile_test [rounds]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>

#include "check.h"
#include "cpu/threads.h"
#include "cpu/tile.h"

using namespace knet;
using Program = TileProgram;

namespace {

std::mt19937_64 rng(1);
int64_t upto(int64_t n) { return int64_t(rng() % uint64_t(n)); }

// Memory with room on both sides for negative strides.
struct Data {
  std::vector<char> bytes;
  char* base = nullptr;
  void make(int64_t low, int64_t high, size_t item) {  // reachable offsets in elements, inclusive
    bytes.assign(size_t(high - low + 1) * item, 0);
    base = bytes.data() - low * int64_t(item);
  }
};
void extent(const Shape& d, int n, const int64_t* stride, int64_t& low, int64_t& high) {
  low = high = 0;
  for (int i = 0; i < n; ++i) (stride[i] < 0 ? low : high) += stride[i] * std::max<int64_t>(d[i] - 1, 0);
}
int64_t offset_of(const Shape& d, int n, const int64_t* stride, int64_t at) {
  int64_t o = 0;
  for (int i = n - 1; i >= 0; --i) {
    o += at % d[i] * stride[i];
    at /= d[i];
  }
  return o;
}
double get(const char* p, DType t, int64_t i) {
  if (t == DType::F32) return reinterpret_cast<const float*>(p)[i];
  if (t == DType::F64) return reinterpret_cast<const double*>(p)[i];
  if (t == DType::I32) return reinterpret_cast<const int32_t*>(p)[i];
  if (t == DType::I64) return double(reinterpret_cast<const int64_t*>(p)[i]);
  return reinterpret_cast<const bool*>(p)[i];
}
void put(char* p, DType t, int64_t i, double v) {
  if (t == DType::F32) reinterpret_cast<float*>(p)[i] = float(v);
  else if (t == DType::F64) reinterpret_cast<double*>(p)[i] = v;
  else if (t == DType::I32) reinterpret_cast<int32_t*>(p)[i] = int32_t(v);
  else if (t == DType::I64) reinterpret_cast<int64_t*>(p)[i] = int64_t(v);
  else reinterpret_cast<bool*>(p)[i] = v != 0;
}
void contiguous(const Shape& d, int n, int64_t* stride) {
  int64_t s = 1;
  for (int i = n - 1; i >= 0; --i) {
    stride[i] = s;
    s *= d[i];
  }
}

// Evaluates a program the slow way, everything in double (values are small integers or the tolerance is wide).
struct Slow {
  const Program& p;
  const std::vector<Data>& in;
  int64_t rows = 1, cols = 1;
  std::vector<std::vector<double>> reg;

  int64_t count(Reg c) const { return c == Reg::Scalar ? 1 : c == Reg::Row ? rows : rows * cols; }
  double at(int r, Reg want, int64_t i) const {
    Reg c = r < int(p.inputs.size()) ? p.inputs[size_t(r)].cls : p.instrs[size_t(r) - p.inputs.size()].cls;
    if (c == Reg::Scalar) return reg[size_t(r)][0];
    if (c == Reg::Row && want == Reg::Full) return reg[size_t(r)][size_t(i / cols)];
    return reg[size_t(r)][size_t(i)];
  }
  static double reduce(Op op, double a, double x) {
    switch (op) {
      case Op::sum: return a + x;
      case Op::prod: return a * x;
      case Op::max: return x > a || x != x ? x : a;
      case Op::min: return x < a || x != x ? x : a;
      case Op::any: return a != 0 || x != 0;
      default: return a != 0 && x != 0;
    }
  }
  static double identity(Op op) {
    return op == Op::prod || op == Op::all ? 1 : op == Op::max ? -INFINITY : op == Op::min ? INFINITY : 0;
  }
  static double round(DType t, double v) { return t == DType::F32 ? double(float(v)) : t == DType::Bool ? v != 0 : v; }
  void run() {
    for (int i = 0; i < p.dims.rank; ++i) (i < p.split ? rows : cols) *= p.dims[i];
    for (size_t k = 0; k < p.inputs.size(); ++k) {
      auto& i = p.inputs[k];
      std::vector<double> v;
      for (int64_t e = 0; e < count(i.cls); ++e)
        v.push_back(get(in[k].base, i.dtype,
                        i.cls == Reg::Scalar ? 0 : offset_of(p.dims, i.cls == Reg::Row ? p.split : p.dims.rank, i.stride, e)));
      reg.push_back(std::move(v));
    }
    for (auto& i : p.instrs) {
      std::vector<double> v;
      if (i.what == Program::Instr::RowReduce) {
        for (int64_t r = 0; r < rows; ++r) {
          double a = identity(i.op);
          for (int64_t c = 0; c < cols; ++c) a = reduce(i.op, a, at(i.src[0], Reg::Full, r * cols + c));
          v.push_back(round(i.to, a));
        }
      } else {
        for (int64_t e = 0; e < count(i.cls); ++e) {
          double x[3] = {0, 0, 0};
          for (int k = 0; k < i.n_src; ++k) x[k] = at(i.src[k], i.cls, e);
          double y = i.op == Op::add ? x[0] + x[1] : i.op == Op::subtract ? x[0] - x[1] : i.op == Op::multiply ? x[0] * x[1]
                     : i.op == Op::maximum ? std::max(x[0], x[1]) : i.op == Op::negative ? -x[0] : i.op == Op::tanh ? std::tanh(x[0])
                     : i.op == Op::less ? x[0] < x[1] : i.op == Op::where ? (x[0] != 0 ? x[1] : x[2]) : x[0];
          v.push_back(round(i.to, y));
        }
      }
      reg.push_back(std::move(v));
    }
  }
};

std::string show(const Program& p) {
  std::string s = "dims " + str(p.dims) + " split " + std::to_string(p.split) + " in";
  for (auto& i : p.inputs) {
    s += std::string(" ") + name(i.dtype) + "SRF"[int(i.cls)];
    for (int k = 0; k < p.dims.rank; ++k) s += "," + std::to_string(i.stride[k]);
  }
  s += " ops";
  for (auto& i : p.instrs) {
    s += std::string(" ") + info(i.op).name + "SRF"[int(i.cls)];
    for (int k = 0; k < i.n_src; ++k) s += "," + std::to_string(i.src[k]);
  }
  s += " out";
  for (auto& o : p.outputs) s += " " + std::to_string(int(o.what)) + "," + std::to_string(o.reg);
  return s;
}

struct Ran {
  std::vector<Data> out;
};

Ran execute(const Program& p, const Step& step, std::vector<Data>& in, int alias_out = -1, int alias_in = -1) {
  Ran r;
  std::vector<char*> out;
  std::vector<const char*> src;
  int64_t cols = 1;
  for (int i = p.split; i < p.dims.rank; ++i) cols *= p.dims[i];
  for (size_t k = 0; k < p.outputs.size(); ++k) {
    auto& o = p.outputs[k];
    Reg c = o.reg < p.inputs.size() ? p.inputs[o.reg].cls : p.instrs[o.reg - p.inputs.size()].cls;
    int64_t low = 0, high = 0;
    if (o.what == Program::Output::Store && c != Reg::Scalar) extent(p.dims, c == Reg::Row ? p.split : p.dims.rank, o.stride, low, high);
    if (o.what == Program::Output::ReduceCols) high = std::max<int64_t>(cols - 1, 0);
    if (o.what == Program::Output::ReduceSome) extent(p.dims, p.dims.rank, o.stride, low, high);
    r.out.emplace_back();
    r.out.back().make(low, high, itemsize(o.dtype));
  }
  for (auto& d : in) src.push_back(d.base);
  for (auto& d : r.out) out.push_back(d.base);
  if (alias_out >= 0) {
    std::memcpy(r.out[size_t(alias_out)].bytes.data(), in[size_t(alias_in)].bytes.data(), r.out[size_t(alias_out)].bytes.size());
    src[size_t(alias_in)] = out[size_t(alias_out)];
  }
  char* scratch = static_cast<char*>(std::aligned_alloc(64, (step.scratch_bytes + 127) & ~size_t(63)));
  step.run(out.data(), src.data(), scratch);
  std::free(scratch);
  return r;
}

void compare(const Program& p, const Slow& slow, const Ran& ran, const std::string& which) {
  for (size_t k = 0; k < p.outputs.size(); ++k) {
    auto& o = p.outputs[k];
    Reg c = o.reg < p.inputs.size() ? p.inputs[o.reg].cls : p.instrs[o.reg - p.inputs.size()].cls;
    auto near = [&](double got, double want, double tol) {
      bool same = got == want || (std::isnan(got) && std::isnan(want)) || std::fabs(got - want) <= tol * (1 + std::fabs(want));
      if (!same && failures < 3) std::printf("out %zu got %.9g want %.9g\n", k, got, want);
      return same;
    };
    double tol = 2e-5;
    bool ok = true;
    if (o.what == Program::Output::Store) {
      for (int64_t e = 0; ok && e < slow.count(c); ++e)
        ok = near(get(ran.out[k].base, o.dtype, c == Reg::Scalar ? 0 : offset_of(p.dims, c == Reg::Row ? p.split : p.dims.rank, o.stride, e)),
                  slow.reg[o.reg][size_t(e)], tol);
    } else if (o.what == Program::Output::ReduceAll) {
      double a = Slow::identity(o.reduce);
      for (int64_t e = 0; e < slow.rows * slow.cols; ++e) a = Slow::reduce(o.reduce, a, slow.at(o.reg, Reg::Full, e));
      ok = near(get(ran.out[k].base, o.dtype, 0), a, tol);
    } else if (o.what == Program::Output::ReduceSome) {
      std::vector<double> cells;
      for (int64_t e = 0; e < slow.rows * slow.cols; ++e) {
        const size_t cell = size_t(offset_of(p.dims, p.dims.rank, o.stride, e));
        if (cell >= cells.size()) cells.resize(cell + 1, Slow::identity(o.reduce));
        cells[cell] = Slow::reduce(o.reduce, cells[cell], slow.at(o.reg, Reg::Full, e));
      }
      for (size_t e = 0; ok && e < cells.size(); ++e) ok = near(get(ran.out[k].base, o.dtype, int64_t(e)), cells[e], tol);
    } else {
      for (int64_t e = 0; ok && e < slow.cols; ++e) {
        double a = Slow::identity(o.reduce);
        for (int64_t r = 0; r < slow.rows; ++r) a = Slow::reduce(o.reduce, a, slow.at(o.reg, Reg::Full, r * slow.cols + e));
        ok = near(get(ran.out[k].base, o.dtype, e), a, tol);
      }
    }
    check(ok, "value: " + which);
  }
}

void random_strides(const Shape& d, int n, int64_t* stride, bool writable) {
  int kind = int(upto(writable ? 3 : 6));
  contiguous(d, n, stride);
  if (kind == 1 && n > 1) {  // transposed
    int a = int(upto(n)), b = int(upto(n));
    int64_t order[kMaxRank], s = 1;
    for (int i = 0; i < n; ++i) order[i] = i;
    std::swap(order[a], order[b]);
    for (int i = n - 1; i >= 0; --i) {
      stride[order[i]] = s;
      s *= d[int(order[i])];
    }
  } else if (kind == 2) {
    int64_t s = 1 + upto(2);
    for (int i = n - 1; i >= 0; --i) {
      stride[i] = upto(3) ? s : -s;
      s *= d[i] + upto(2);
    }
  } else if (kind >= 3) {  // broadcast along some dimensions
    int64_t s = 1;
    for (int i = n - 1; i >= 0; --i) {
      bool zero = upto(2);
      stride[i] = zero ? 0 : s;
      if (!zero) s *= d[i];
    }
  }
}

void random_program() {
  Program p;
  static const int64_t sizes[] = {1, 2, 3, 5, 7, 10, 31, 64, 100, 257, 1000, 2048, 2049, 5000};
  int rank = 1 + int(upto(3));
  int64_t n = 1;
  for (int i = 0; i < rank; ++i) {
    int64_t d = sizes[upto(14)];
    if (upto(60) == 0) d = 0;
    if (n * d > 300000) d = 3;
    n *= d;
    p.dims.push(d);
  }
  bool rows = upto(2);
  p.split = rows ? int(upto(rank + 1)) : 0;
  const DType F = upto(4) ? DType::F32 : DType::F64;
  const bool ints = upto(5) == 0;
  const DType T = ints ? (upto(2) ? DType::I32 : DType::I64) : F;
  std::vector<std::pair<Reg, DType>> reg;
  int n_in = 1 + int(upto(4));
  std::vector<Data> in(static_cast<size_t>(n_in));
  for (int k = 0; k < n_in; ++k) {
    Program::Input i{};
    i.dtype = T;
    i.cls = k == 0 ? Reg::Full : upto(3) ? Reg::Full : rows && upto(2) ? Reg::Row : Reg::Scalar;
    int64_t low = 0, high = 0;
    if (i.cls != Reg::Scalar) {
      int m = i.cls == Reg::Row ? p.split : rank;
      random_strides(p.dims, m, i.stride, false);
      extent(p.dims, m, i.stride, low, high);
    }
    in[size_t(k)].make(low, high, itemsize(T));
    for (int64_t e = low; e <= high; ++e) put(in[size_t(k)].base, T, e, double(upto(7)) - 3);
    p.inputs.push_back(i);
    reg.push_back({i.cls, T});
  }
  int64_t cols = 1;
  for (int i = p.split; i < rank; ++i) cols *= p.dims[i];
  int n_op = int(upto(7));
  static const Op binary[] = {Op::add, Op::subtract, Op::multiply, Op::maximum, Op::less};
  for (int k = 0; k < n_op; ++k) {
    Program::Instr i{};
    auto pick_reg = [&](auto good) {
      for (int tries = 0; tries < 50; ++tries) {
        auto r = uint16_t(upto(int64_t(reg.size())));
        if (good(reg[r])) return int(r);
      }
      return -1;
    };
    auto typed = [&](auto& v) { return v.second == T; };
    int kind = int(upto(10));
    int a = pick_reg(typed), b = pick_reg(typed);
    if (a < 0 || b < 0) break;
    i.dtype = i.to = T;
    if (kind == 0 && rows && cols <= 5000) {
      int f = pick_reg([&](auto& v) { return v.second == T && v.first == Reg::Full; });
      if (f < 0) continue;
      i.what = Program::Instr::RowReduce;
      i.op = cols == 0 || upto(2) ? Op::sum : upto(2) ? Op::max : Op::min;
      if (ints && i.op == Op::sum) i.to = DType::I64;
      i.cls = Reg::Row;
      i.n_src = 1;
      i.src[0] = uint16_t(f);
    } else if (kind == 1) {
      int c = pick_reg([&](auto& v) { return v.second == DType::Bool; });
      if (c < 0) continue;
      i.op = Op::where;
      i.n_src = 3;
      i.src[0] = uint16_t(c), i.src[1] = uint16_t(a), i.src[2] = uint16_t(b);
      i.cls = std::max({reg[size_t(a)].first, reg[size_t(b)].first, reg[size_t(c)].first});
    } else if (kind == 2 && !ints) {
      i.op = Op::tanh;
      i.n_src = 1;
      i.src[0] = uint16_t(a);
      i.cls = reg[size_t(a)].first;
    } else if (kind == 3) {
      i.op = Op::negative;
      i.n_src = 1;
      i.src[0] = uint16_t(a);
      i.cls = reg[size_t(a)].first;
    } else {
      i.op = binary[upto(5)];
      if (i.op == Op::less) i.to = DType::Bool;
      // Products of products grow: keep integers exact in double.
      if (i.op == Op::multiply && ints && k > 2) i.op = Op::add;
      i.n_src = 2;
      i.src[0] = uint16_t(a), i.src[1] = uint16_t(b);
      i.cls = std::max(reg[size_t(a)].first, reg[size_t(b)].first);
      if (upto(12) == 0 && (rows || i.cls == Reg::Scalar)) i.cls = Reg::Full;
    }
    p.instrs.push_back(i);
    reg.push_back({i.cls, i.to});
  }
  int n_out = 1 + int(upto(3));
  for (int k = 0; k < n_out; ++k) {
    Program::Output o{};
    o.reg = uint16_t(upto(3) ? int64_t(reg.size()) - 1 - upto(std::min<int64_t>(3, int64_t(reg.size()))) : upto(int64_t(reg.size())));
    auto [cls, t] = reg[o.reg];
    o.dtype = t;
    int kind = int(upto(5));
    if (kind == 2 && cls == Reg::Full) {
      o.what = Program::Output::ReduceSome;
      int64_t cells = 1;
      for (int d = rank; d-- > 0;) {
        const bool keep = upto(2);
        o.stride[d] = keep ? cells : 0;
        cells *= keep ? p.dims[d] : 1;
      }
    } else if (kind == 0 && cls == Reg::Full) {
      o.what = Program::Output::ReduceAll;
    } else if (kind == 1 && cls == Reg::Full && rows) {
      o.what = Program::Output::ReduceCols;
    }
    if (o.what == Program::Output::Store) {
      random_strides(p.dims, cls == Reg::Row ? p.split : rank, o.stride, true);
    } else {
      o.reduce = t == DType::Bool ? (upto(2) ? Op::any : Op::all) : n == 0 || upto(2) ? Op::sum : upto(2) ? Op::max : Op::min;
      if (ints && o.reduce == Op::sum) o.dtype = DType::I64;
    }
    p.outputs.push_back(o);
  }
  std::string which = show(p);
  Slow slow{p, in};
  slow.run();
  auto step = cpu::make_tile(p);
  cpu::set_threads(1);
  Ran one = execute(p, *step, in);
  compare(p, slow, one, which);
  cpu::set_threads(4);
  Ran four = execute(p, *step, in);
  for (size_t k = 0; k < one.out.size(); ++k) check(one.out[k].bytes == four.out[k].bytes, "thread count: " + which);
  for (int o = 0; o < n_out; ++o)
    for (int i = 0; i < n_in; ++i)
      if (n > 0 && step->may_alias(o, i)) {
        Ran same = execute(p, *step, in, o, i);
        for (size_t k = 0; k < one.out.size(); ++k) check(one.out[k].bytes == same.out[k].bytes, "in place: " + which);
      }
}

}  // namespace

int main(int argc, char** argv) {
  int n = argc > 1 ? std::atoi(argv[1]) : 3000;
  for (int i = 0; i < n; ++i) {
    rng.seed(uint64_t(i) + 1);
    random_program();
  }
  std::printf("%d programs, ", n);
  return report();
}
