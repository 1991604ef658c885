// Shapes, dtypes and messages of every primitive; element types.
//   make test-native, or build/native/infer_test
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "check.h"
#include "trace/op.h"

using namespace knet;

static Spec spec(Shape s, DType t = DType::F32, bool weak = false) { return {t, weak, {}, s}; }

using Words = std::vector<int64_t>;

static Specs run(Op op, const std::vector<Spec>& in, const Words& attrs = {}) {
  std::vector<const Spec*> p;
  for (const Spec& s : in) p.push_back(&s);
  Specs out;
  infer(op, p, attrs, out);
  return out;
}

static bool is(const Specs& out, Shape s, DType t = DType::F32, bool weak = false) {
  return out.v[0].shape == s && out.v[0].dtype == t && out.v[0].weak == weak;
}

static std::string message(Op op, const std::vector<Spec>& in, const Words& attrs = {}) {
  try {
    run(op, in, attrs);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

static bool fails(Op op, const std::vector<Spec>& in, const Words& attrs, const char* with) {
  const std::string m = message(op, in, attrs);
  const bool ok =
      m.find(with) != std::string::npos && m.starts_with(std::string("[") + info(op).name + "] ") && m.ends_with(".");
  if (!ok) std::printf("  got: %s\n", m.c_str());
  return ok;
}

static Words join(std::initializer_list<Words> parts) {
  Words w;
  for (const Words& p : parts) {
    w.push_back(int64_t(p.size()));
    w.insert(w.end(), p.begin(), p.end());
  }
  return w;
}

static Words operator+(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

static void types() {
  using enum DType;
  CHECK(promote(I64, F32) == F64);
  CHECK(promote(I8, U8) == I16);
  CHECK(promote(U32, I8) == I64);
  CHECK(promote(U64, I8) == F64);
  CHECK(promote(U16, I64) == I64);
  CHECK(promote(I16, F16) == F32);
  CHECK(promote(U8, F16) == F16);
  CHECK(promote(Bool, U8) == U8);
  CHECK(promote(F16, BF16) == F32);
  CHECK(promote(F64, C64) == C128);
  CHECK(promote(I32, C64) == C128);
  CHECK(promote(I16, C64) == C64);
  for (int a = 0; a < kDTypes; ++a)
    for (int b = 0; b < kDTypes; ++b) CHECK(promote(DType(a), DType(b)) == promote(DType(b), DType(a)));
  CHECK(to_float(I32) == F64 && to_float(I16) == F32 && to_float(Bool) == F32 && to_float(F16) == F16);
  CHECK(str(Shape{}) == "()" && str(Shape{5}) == "(5,)" && str(Shape{3, 4}) == "(3, 4)");
  CHECK(str(DeviceId{DeviceKind::Cuda, 1}) == "cuda:1");

  uint16_t h;
  const auto half = [&](double x, DType t) {
    Scalar s;
    s.f = x;
    store(s, t, &h);
    return h;
  };
  CHECK(half(1, F16) == 0x3c00 && half(-2, F16) == 0xc000 && half(65504, F16) == 0x7bff && half(65520, F16) == 0x7c00);
  CHECK(half(65519.9, F16) == 0x7bff && half(std::ldexp(1, -24), F16) == 1 && half(std::ldexp(1, -25), F16) == 0);
  CHECK(half(std::ldexp(1.1, -25), F16) == 1 && half(std::ldexp(1023.9, -24), F16) == 0x400);
  CHECK(half(1 + std::ldexp(1, -11), F16) == 0x3c00 && half(1 + 3 * std::ldexp(1, -11), F16) == 0x3c02);
  CHECK(half(1, BF16) == 0x3f80 && half(INFINITY, BF16) == 0x7f80 && (half(NAN, BF16) & 0x7fff) > 0x7f80);
  for (int i = 0; i < 65536; ++i)
    for (DType t : {F16, BF16}) {
      const uint16_t from = uint16_t(i);
      const Scalar s = load(t, &from);
      if (!std::isnan(s.f)) CHECK(half(s.f, t) == from);
    }
  int8_t small;
  Scalar s;
  s.i = -3;
  store(s, I8, &small);
  CHECK(small == -3 && load(I8, &small).i == -3);
  uint64_t big;
  s.u = ~0ull;
  store(s, U64, &big);
  CHECK(load(U64, &big).u == ~0ull);
}

static void elementwise() {
  const Spec a = spec({3, 4}), b = spec({4}), w = spec({}, DType::F32, true);
  CHECK(is(run(Op::add, {a, a}), {3, 4}));
  CHECK(is(run(Op::add, {a, b}), {3, 4}));
  CHECK(is(run(Op::add, {b, a}), {3, 4}));
  CHECK(is(run(Op::add, {spec({3, 1}), spec({1, 4})}), {3, 4}));
  CHECK(is(run(Op::add, {spec({0, 1}), spec({1})}), {0, 1}));
  CHECK(is(run(Op::add, {spec({1}), spec({0})}), {0}));
  CHECK(is(run(Op::add, {a, w}), {3, 4}));
  CHECK(is(run(Op::add, {w, w}), {}, DType::F32, true));
  CHECK(is(run(Op::cast, {w}, {int64_t(DType::F64)}), {}, DType::F64));
  CHECK(is(run(Op::less, {a, b}), {3, 4}, DType::Bool));
  CHECK(is(run(Op::where, {spec({3, 1}, DType::Bool), b, b}), {3, 4}));
  CHECK(fails(Op::add, {a, spec({5})}, {}, "do not broadcast: (3, 4) and (5,)"));
  CHECK(fails(Op::add, {a, spec({4}, DType::F64)}, {}, "different dtypes: float32(3, 4) and float64(4,)"));
  CHECK(fails(Op::subtract, {spec({2}, DType::Bool), spec({2}, DType::Bool)}, {}, "needs numbers"));
  CHECK(fails(Op::exp, {spec({2}, DType::I32)}, {}, "needs floats"));
  CHECK(fails(Op::add, {a}, {}, "takes 2 arrays, not 1"));
  Spec g = a;
  g.device = {DeviceKind::Cuda, 0};
  CHECK(fails(Op::add, {a, g}, {}, "cpu and cuda:0"));
  CHECK(run(Op::add, {w, g}).v[0].device == g.device);
  CHECK(run(Op::add, {g, w}).v[0].device == g.device);
}

static void reductions() {
  const Spec x = spec({3, 4, 5});
  CHECK(is(run(Op::sum, {x}, join({{0, 2}}) + Words{0}), {4}));
  CHECK(is(run(Op::sum, {x}, join({{0, 2}}) + Words{1}), {1, 4, 1}));
  CHECK(is(run(Op::sum, {x}, join({{}}) + Words{0}), {3, 4, 5}));
  CHECK(is(run(Op::sum, {spec({3}, DType::U8)}, join({{0}}) + Words{0}), {}, DType::U64));
  CHECK(is(run(Op::prod, {spec({3}, DType::Bool)}, join({{0}}) + Words{0}), {}, DType::I64));
  CHECK(is(run(Op::any, {x}, join({{1}}) + Words{0}), {3, 5}, DType::Bool));
  CHECK(is(run(Op::argmax, {x}, {1, 1}), {3, 1, 5}, DType::I64));
  CHECK(is(run(Op::max, {spec({3, 0})}, join({{0}}) + Words{0}), {0}));
  CHECK(fails(Op::max, {spec({3, 0})}, join({{1}}) + Words{0}, "length 0: (3, 0)"));
  CHECK(fails(Op::sum, {x}, join({{3}}) + Words{0}, "axis 3 is out of range for (3, 4, 5)"));
  CHECK(is(run(Op::cumsum, {spec({3}, DType::I8)}, {0, 0}), {3}, DType::I64));
}

static void movement() {
  const Spec x = spec({3, 4}), i = spec({}, DType::I64);
  CHECK(is(run(Op::reshape, {x}, join({{2, -1}})), {2, 6}));
  CHECK(is(run(Op::reshape, {spec({0, 4})}, join({{-1, 4}})), {0, 4}));
  CHECK(is(run(Op::reshape, {spec({1})}, join({{}})), {}));
  CHECK(fails(Op::reshape, {x}, join({{5, -1}}), "cannot reshape (3, 4), which has 12 elements, to (5, -1)"));
  CHECK(fails(Op::reshape, {spec({0, 4})}, join({{-1, 0}}), "cannot reshape"));
  CHECK(fails(Op::reshape, {x}, join({{-1, -1}}), "one dimension may be -1"));
  CHECK(is(run(Op::transpose, {spec({2, 3, 4})}, join({{2, 0, 1}})), {4, 2, 3}));
  CHECK(fails(Op::transpose, {x}, join({{0, 0}}), "not a permutation"));
  CHECK(is(run(Op::broadcast_to, {x}, join({{2, 3, 4}})), {2, 3, 4}));
  CHECK(is(run(Op::broadcast_to, {spec({}, DType::F32, true)}, join({{2}})), {2}));
  CHECK(fails(Op::broadcast_to, {x}, join({{4, 3}}), "cannot broadcast (3, 4) to (4, 3)"));
  CHECK(fails(Op::broadcast_to, {x}, join({{-3, 4}}), "negative"));
  CHECK(is(run(Op::slice, {x, i}, join({{1}, {2}, {-2}})), {3, 2}));
  CHECK(is(run(Op::slice, {x, i, i}, join({{0, 1}, {1, 0}, {1, 1}})), {1, 0}));
  CHECK(fails(Op::slice, {x, i}, join({{1}, {3}, {2}}), "3 elements with step 2 do not fit"));
  CHECK(fails(Op::slice, {x, i}, join({{1}, {5}, {1}}), "do not fit axis 1 of (3, 4)"));
  CHECK(is(run(Op::slice_update, {x, spec({3, 2}), i}, join({{1}, {1}})), {3, 4}));
  CHECK(fails(Op::slice_add, {x, spec({2, 2}), i}, join({{1}, {1}}), "does not fit the region"));
  CHECK(is(run(Op::concatenate, {x, spec({3, 0}), x}, {1}), {3, 8}));
  CHECK(fails(Op::concatenate, {x, spec({2, 4})}, {1}, "(3, 4) and (2, 4)"));
  CHECK(is(run(Op::flip, {x}, join({{0, 1}})), {3, 4}));
}

static void index() {
  const Spec x = spec({3, 4, 5}), i = spec({2, 6}, DType::I64);
  CHECK(is(run(Op::gather, {x, i}, join({{1}}) + Words{1}), {3, 2, 6, 5}));
  CHECK(is(run(Op::gather, {x, i, i}, join({{0, 2}}) + Words{0}), {2, 6, 4}));
  CHECK(is(run(Op::gather, {x, i, i}, join({{0, 2}}) + Words{1}), {4, 2, 6}));
  CHECK(fails(Op::gather, {x, spec({2})}, join({{1}}) + Words{1}, "must be int64"));
  CHECK(is(run(Op::scatter_add, {x, spec({3, 2, 6, 5}), i}, join({{1}}) + Words{1}), {3, 4, 5}));
  CHECK(fails(Op::scatter_add, {x, spec({3, 2, 5}), i}, join({{1}}) + Words{1}, "has shape (3, 2, 6, 5)"));
  CHECK(is(run(Op::take_along_axis, {x, spec({3, 2, 5}, DType::I64)}, {1}), {3, 2, 5}));
  CHECK(fails(Op::take_along_axis, {x, spec({1, 2, 5}, DType::I64)}, {1}, "equal shapes apart from axis 1"));
  CHECK(is(run(Op::scatter_along_axis, {x, spec({3, 2, 5}), spec({3, 2, 5}, DType::I64)}, {1}), {3, 4, 5}));
  const Specs s = run(Op::sort, {x}, {2, 0});
  CHECK(s.n == 2 && s.v[0].dtype == DType::F32 && s.v[1].dtype == DType::I64 && s.v[1].shape == x.shape);
}

static void contractions() {
  CHECK(is(run(Op::matmul, {spec({3, 4}), spec({4, 5})}), {3, 5}));
  CHECK(is(run(Op::matmul, {spec({7, 1, 3, 4}), spec({2, 4, 5})}), {7, 2, 3, 5}));
  CHECK(is(run(Op::matmul, {spec({3, 4}), spec({4, 5}), spec({3, 5})}), {3, 5}));
  CHECK(fails(Op::matmul, {spec({3, 4}), spec({5, 6})}, {}, "inner dimensions differ: (3, 4) @ (5, 6)"));
  CHECK(fails(Op::matmul, {spec({2, 3, 4}), spec({3, 4, 6})}, {}, "do not broadcast"));
  CHECK(is(run(Op::matmul, {spec({4}), spec({4})}), {}));
  CHECK(is(run(Op::matmul, {spec({4}), spec({4, 6})}), {6}));
  CHECK(is(run(Op::matmul, {spec({3, 4}), spec({4})}), {3}));
  CHECK(is(run(Op::matmul, {spec({5, 3, 4}), spec({4})}), {5, 3}));
  CHECK(is(run(Op::matmul, {spec({4}), spec({5, 4, 6})}), {5, 6}));
  CHECK(fails(Op::matmul, {spec({4}), spec({3})}, {}, "inner dimensions differ: (4,) @ (3,)"));
  CHECK(fails(Op::matmul, {spec({4}), spec({4, 6}), spec({1, 6})}, {}, "does not fit the product of shape (6,)"));
  CHECK(fails(Op::matmul, {spec({}), spec({4, 6})}, {}, "no dimension to sum over"));
  const Words plain = join({{1, 1}, {0, 0}, {1, 1}}) + Words{1, 1};
  const Words odd = join({{2, 1}, {1, 2}, {2, 1}}) + Words{2, 0};
  CHECK(is(run(Op::conv, {spec({1, 2, 3, 3}), spec({3, 2, 2, 2})}, plain), {1, 3, 2, 2}));
  CHECK(is(run(Op::conv, {spec({5, 4, 9, 8}), spec({6, 2, 3, 2})}, odd), {5, 6, 4, 11}));
  CHECK(is(run(Op::conv_dx, {spec({5, 6, 4, 11}), spec({6, 2, 3, 2})}, odd + join({{9, 8}})), {5, 4, 9, 8}));
  CHECK(is(run(Op::conv_dx, {spec({5, 6, 4, 11}), spec({6, 2, 3, 2})}, odd + join({{10, 8}})), {5, 4, 10, 8}));
  CHECK(is(run(Op::conv_dw, {spec({5, 6, 4, 11}), spec({5, 4, 9, 8})}, odd + join({{3, 2}})), {6, 2, 3, 2}));
  CHECK(fails(Op::conv_dx, {spec({5, 6, 4, 11}), spec({6, 2, 3, 2})}, odd + join({{11, 8}}), "does not belong"));
  CHECK(fails(Op::conv, {spec({1, 3, 3, 3}), spec({3, 2, 2, 2})}, plain, "channels differ"));
  CHECK(fails(Op::conv, {spec({1, 2, 3, 3}), spec({3, 2, 4, 4})}, plain, "does not fit"));
  CHECK(fails(Op::conv, {spec({1, 2, 3}), spec({3, 2, 2})}, plain, "one number for each of the 1"));
  CHECK(fails(Op::conv, {spec({1, 3, 3, 3}), spec({3, 1, 2, 2})}, join({{1, 1}, {0, 0}, {1, 1}}) + Words{2, 1},
              "do not divide"));
}

static void pools() {
  const Words p = join({{2, 2}, {2, 1}, {1, 0}});
  const Specs m = run(Op::maxpool, {spec({2, 3, 6, 6})}, p);
  CHECK(m.n == 2 && m.v[0].shape == (Shape{2, 3, 4, 5}) && m.v[1].dtype == DType::I64 && m.v[1].shape == m.v[0].shape);
  CHECK(is(run(Op::avgpool, {spec({2, 3, 6, 6})}, p + Words{1}), {2, 3, 4, 5}));
  CHECK(is(run(Op::avgpool_back, {spec({2, 3, 4, 5})}, p + Words{1} + join({{6, 6}})), {2, 3, 6, 6}));
  CHECK(fails(Op::avgpool_back, {spec({2, 3, 4, 5})}, p + Words{1} + join({{9, 6}}), "does not belong"));
  CHECK(fails(Op::maxpool, {spec({2, 3, 6, 6})}, join({{2, 2}, {2, 2}, {2, 0}}), "less than the window"));
  CHECK(is(run(Op::plane_gather, {spec({2, 3, 6, 6}), spec({2, 3, 4, 5}, DType::I64)}), {2, 3, 4, 5}));
  CHECK(is(run(Op::plane_scatter, {spec({2, 3, 4, 5}), spec({2, 3, 4, 5}, DType::I64)}, join({{6, 6}})), {2, 3, 6, 6}));
}

static void numbers() {
  const Spec u = spec({}, DType::U64), i = spec({}, DType::I64);
  CHECK(is(run(Op::iota, {i, i}, {7, int64_t(DType::I64)}), {7}, DType::I64));
  CHECK(is(run(Op::random_uniform, {u, u}, join({{2, 3}}) + Words{int64_t(DType::F32)}), {2, 3}));
  CHECK(fails(Op::random_normal, {u, u}, join({{2, 3}}) + Words{int64_t(DType::I32)}, "float32 or float64, not int32"));
  CHECK(fails(Op::random_bits, {u, u}, join({{-2}}) + Words{int64_t(DType::U32)}, "negative"));
  CHECK(op_by_name("matmul") == Op::matmul && has_op("add") && !has_op("no_such"));
}

static void speed() {
  const Spec a = spec({128, 256}), b = spec({128, 256}), c = spec({256});
  const Spec *equal[] = {&a, &b}, *row[] = {&a, &c};
  for (auto in : {equal, row}) {
    const int n = 1000000;
    int64_t seen = 0;
    const auto t = std::chrono::steady_clock::now();
    for (int i = 0; i < n; ++i) {
      Specs out;
      infer(Op::add, {in, 2}, {}, out);
      seen += out.v[0].shape[0];
    }
    const double ns = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - t).count() / n;
    std::printf("infer(add), %s shapes: %.1f ns%s\n", in == equal ? "equal" : "broadcast", ns, seen ? "" : " ");
  }
}

int main() {
  types();
  elementwise();
  reductions();
  movement();
  index();
  contractions();
  pools();
  numbers();
  speed();
  return report();
}
