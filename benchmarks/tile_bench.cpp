// What a fused elementwise program costs beside hand-written loops. Build as tests/native/tile_test.cpp, with -O3
// -march=native.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "cpu/isa.h"
#include "cpu/threads.h"
#include "cpu/tile.h"

using namespace knet;

namespace {

struct Build {
  TileProgram p;
  explicit Build(Shape dims, int split = 0) { p.dims = dims, p.split = split; }
  int in(Reg cls, std::initializer_list<int64_t> strides = {}) {
    TileProgram::Input i{DType::F32, cls, {}};
    std::copy(strides.begin(), strides.end(), i.stride);
    p.inputs.push_back(i);
    return int(p.inputs.size()) - 1;
  }
  int op(Op op, Reg cls, std::initializer_list<int> src, TileProgram::Instr::What what = TileProgram::Instr::Map) {
    TileProgram::Instr i{what, op, DType::F32, DType::F32, cls, uint8_t(src.size()), {}};
    std::copy(src.begin(), src.end(), i.src);
    p.instrs.push_back(i);
    return int(p.inputs.size() + p.instrs.size()) - 1;
  }
  void out(int reg, std::initializer_list<int64_t> strides) {
    TileProgram::Output o{TileProgram::Output::Store, uint16_t(reg), DType::F32, Op::sum, {}};
    std::copy(strides.begin(), strides.end(), o.stride);
    p.outputs.push_back(o);
  }
  void reduce(int reg, TileProgram::Output::What what) { p.outputs.push_back({what, uint16_t(reg), DType::F32, Op::sum, {}}); }
};

template <class F>
double best_ns(F f) {
  double best = 1e18;
  auto start = std::chrono::steady_clock::now();
  for (int k = 0; k < 2000 && (k < 20 || std::chrono::steady_clock::now() - start < std::chrono::milliseconds(300)); ++k) {
    auto a = std::chrono::steady_clock::now();
    for (int i = 0; i < 4; ++i) f();
    best = std::min(best, std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - a).count() / 4);
  }
  return best;
}

float* floats(int64_t n) {
  auto* p = static_cast<float*>(std::aligned_alloc(64, (size_t(n) * 4 + 63) & ~size_t(63)));
  for (int64_t i = 0; i < n; ++i) p[i] = float(i % 997) * 0.002f - 1;
  return p;
}

double time(const char* what, const Build& b, std::initializer_list<int64_t> in_sizes, std::initializer_list<int64_t> out_sizes,
            double elements) {
  auto step = cpu::make_tile(b.p);
  std::vector<const char*> in;
  std::vector<char*> out;
  for (auto n : in_sizes) in.push_back(reinterpret_cast<char*>(floats(n)));
  for (auto n : out_sizes) out.push_back(reinterpret_cast<char*>(floats(n)));
  char* scratch = static_cast<char*>(std::aligned_alloc(64, (step->scratch_bytes + 127) & ~size_t(63)));
  double ns = best_ns([&] { step->run(out.data(), in.data(), scratch); });
  std::printf("%-34s %9.2f us  %7.3f ns/element  estimate %9.2f us  %s\n", what, ns / 1000, ns / elements, step->cost_ns / 1000,
              step->text().c_str());
  return ns;
}

}  // namespace

int main(int argc, char** argv) {
  cpu::set_threads(argc > 1 ? std::atoi(argv[1]) : 1);
  std::printf("%s, %d thread(s)\n", cpu::isa_name(), cpu::threads());
  const Reg F = Reg::Full, R = Reg::Row, S = Reg::Scalar;
  {
    Build b({10});
    int x = b.in(F, {1}), y = b.in(F, {1});
    b.out(b.op(Op::add, F, {x, y}), {1});
    time("x + y, 10", b, {10, 10}, {10}, 10);
  }
  for (int64_t n : {int64_t(16384), int64_t(1000000)}) {
    Build b({n});
    int x = b.in(F, {1}), y = b.in(F, {1}), s = b.in(S);
    int t = b.op(Op::multiply, F, {x, y});
    t = b.op(Op::add, F, {t, s});
    t = b.op(Op::maximum, F, {t, y});
    t = b.op(Op::subtract, F, {t, x});
    b.out(t, {1});
    time("max(x*y+s, y)-x", b, {n, n, 1}, {n}, double(n));
    float *p = floats(n), *q = floats(n), *r = floats(n), c = 0.5f;
    double ns = best_ns([&] {
      for (int64_t i = 0; i < n; ++i) {
        float v = p[i] * q[i] + c;
        r[i] = (v > q[i] ? v : q[i]) - p[i];
      }
      asm volatile("" ::: "memory");
    });
    std::printf("%-34s %9.2f us\n", "  by hand", ns / 1000);
  }
  {
    Build b({128, 256}, 0);  // LSTM cell: four gates with bias, cell and hidden state
    int g[4], c = b.in(F, {256, 1});
    for (int k = 0; k < 4; ++k) g[k] = b.op(Op::Count_, F, {});
    b.p.instrs.clear();
    int gate[4], bias[4];
    for (int k = 0; k < 4; ++k) gate[k] = b.in(F, {1024, 1});
    for (int k = 0; k < 4; ++k) bias[k] = b.in(F, {0, 1});
    for (int k = 0; k < 4; ++k) g[k] = b.op(Op::add, F, {gate[k], bias[k]});
    int i = b.op(Op::sigm, F, {g[0]}), f = b.op(Op::sigm, F, {g[1]}), o = b.op(Op::sigm, F, {g[2]}), z = b.op(Op::tanh, F, {g[3]});
    int fc = b.op(Op::multiply, F, {f, c}), iz = b.op(Op::multiply, F, {i, z}), cell = b.op(Op::add, F, {fc, iz});
    int th = b.op(Op::tanh, F, {cell}), h = b.op(Op::multiply, F, {o, th});
    b.out(cell, {256, 1});
    b.out(h, {256, 1});
    time("LSTM cell 128x256", b, {32768, 131072, 131072, 131072, 131072, 256, 256, 256, 256}, {32768, 32768}, 32768);
  }
  for (auto [r, c] : {std::pair<int64_t, int64_t>{100, 10}, {128, 1000}, {10000, 10}, {64, 16000}}) {
    Build b({r, c}, 1);
    auto fold = TileProgram::Instr::RowReduce;
    int x = b.in(F, {c, 1}), m = b.op(Op::max, R, {x}, fold), d = b.op(Op::subtract, F, {x, m}), e = b.op(Op::exp, F, {d});
    int s = b.op(Op::sum, R, {e}, fold);
    b.out(b.op(Op::divide, F, {e, s}), {c, 1});
    time("softmax", b, {r * c}, {r * c}, double(r * c));
  }
  for (auto [r, c] : {std::pair<int64_t, int64_t>{1000, 1000}, {100, 10}, {100000, 10}, {10, 100000}}) {
    Build b({r, c}, 1);
    int x = b.in(F, {c, 1}), y = b.in(F, {c, 1});
    b.reduce(b.op(Op::multiply, F, {x, y}), TileProgram::Output::ReduceCols);
    time("(x*y).sum(0)", b, {r * c, r * c}, {c}, double(r * c));
  }
  {
    Build b({1000000});
    int x = b.in(F, {1}), y = b.in(F, {1});
    b.reduce(b.op(Op::multiply, F, {x, y}), TileProgram::Output::ReduceAll);
    time("(x*y).sum()", b, {1000000, 1000000}, {1}, 1e6);
  }
  {
    Build b({1000, 1000});
    int x = b.in(F, {1, 1000}), y = b.in(F, {0, 1}), z = b.in(F, {1, 0});
    b.out(b.op(Op::add, F, {b.op(Op::add, F, {x, y}), z}), {1000, 1});
    time("x.T + bias + column", b, {1000000, 1000, 1000}, {1000000}, 1e6);
  }
#define ONE(name)                                \
  {                                              \
    Build b({16384});                            \
    int x = b.in(F, {1});                        \
    b.out(b.op(Op::name, F, {x}), {1});          \
    time(#name, b, {16384}, {16384}, 16384);     \
  }
  ONE(negative) ONE(sqrt) ONE(exp) ONE(log) ONE(tanh) ONE(sigm) ONE(sin) ONE(expm1) ONE(log1p) ONE(erf) ONE(gelu) ONE(softplus)
  ONE(swish) ONE(cbrt) ONE(arctan) ONE(lgamma) ONE(exp2) ONE(log2) ONE(floor) ONE(isnan)
}
