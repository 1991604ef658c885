// The planner as a whole (fuse, place, program): random graphs against direct evaluation, and what planning costs.
//   make test-native, or build/native/plan_test [rounds]
#include <optional>

#include "planned.h"

namespace {

// ---- random programs

Build random_graph(uint32_t seed) {
  Build b;
  b.rng.seed(seed);
  auto pick = [&](uint32_t n) { return uint32_t(b.rng() % n); };
  const int64_t dims[] = {1, 2, 3, 4, 5};
  auto dim = [&] { return pick(40) == 0 ? 0 : dims[pick(5)]; };
  std::vector<uint32_t> live;
  int64_t A = dim(), B = dim(), C = dim();
  const Shape shapes[] = {{A, B}, {B}, {A, 1}, {A, B, C}, {}, {C}, {B, C}, {1, B}, {A, B}, {A, B}, {A}};
  for (int i = 0; i < 5; ++i)
    live.push_back(b.leaf(shapes[pick(11)], pick(6) ? DType::F64 : pick(2) ? DType::F32 : DType::I32));
  for (int i = 0; i < 2; ++i) live.push_back(b.scalar(pick(20)));
  live.push_back(b.constant(pick(9)));
  auto any = [&] {
    const uint32_t n = uint32_t(live.size());
    return pick(2) ? live[n - 1 - pick(std::min(n, 5u))] : live[pick(n)];
  };
  auto as = [&](uint32_t v, DType t) { return b.g.values[v].dtype == t ? v : b.op(Op::cast, {v}, {int64_t(t)}); };
  auto fits = [&](uint32_t x, uint32_t y) {
    for (int i = 1; i <= std::min(b.shape(x).rank, b.shape(y).rank); ++i) {
      int64_t p = b.shape(x)[b.shape(x).rank - i], q = b.shape(y)[b.shape(y).rank - i];
      if (p != q && p != 1 && q != 1) return false;
    }
    return true;
  };
  int n = 5 + int(pick(40));
  for (int k = 0; k < n; ++k) {
    uint32_t x = any();
    const Shape s = b.shape(x);
    switch (pick(16)) {
      case 0: case 1: case 2: case 3: case 4: {
        uint32_t y = any();
        if (!fits(x, y)) break;
        DType t = b.g.values[x].dtype == DType::Bool ? DType::F64 : b.g.values[x].dtype;
        const Op ops[] = {Op::add, Op::subtract, Op::multiply, Op::maximum, Op::less};
        live.push_back(b.op(ops[pick(5)], {as(x, t), as(y, t)}));
        break;
      }
      case 5: case 6: {
        const Op ops[] = {Op::exp, Op::tanh};
        live.push_back(b.op(ops[pick(2)], {as(x, DType::F64)}));
        break;
      }
      case 7: {
        uint32_t y = any();
        if (fits(x, y)) live.push_back(b.op(Op::where, {as(x, DType::Bool), as(y, DType::F64), b.constant(3)}));
        break;
      }
      case 8: case 9: case 10: {
        Words axes;
        bool all = pick(3) == 0;
        for (int i = 0; i < s.rank; ++i)
          if (all || pick(2)) axes.push_back(i);
        const Op ops[] = {Op::sum, Op::sum, Op::max, Op::min, Op::prod, Op::any, Op::all};
        Op o = ops[pick(7)];
        if (s.size() == 0 && (o == Op::max || o == Op::min)) break;
        live.push_back(b.reduce(o, x, axes, pick(2)));
        break;
      }
      case 11: {
        Words axes;
        for (int i = 0; i < s.rank; ++i) axes.push_back(i);
        std::shuffle(axes.begin(), axes.end(), b.rng);
        live.push_back(b.list(Op::transpose, x, axes));
        break;
      }
      case 12: {
        Words to{s.size()};
        if (pick(2) && s.rank >= 2) {
          to = {s[0], 1};
          int64_t rest = 1;
          for (int i = 1; i < s.rank; ++i) rest *= s[i];
          to.push_back(rest);
        }
        live.push_back(b.list(Op::reshape, x, to));
        break;
      }
      case 13: {
        if (s.rank == 0) break;
        int64_t axis = pick(uint32_t(s.rank));
        if (s[int(axis)] < 2) break;
        int64_t start = pick(uint32_t(s[int(axis)])), length = 1 + pick(uint32_t(s[int(axis)] - start));
        uint32_t at = pick(2) ? b.scalar(double(start), DType::I64) : b.constant(double(start), DType::I64);
        if (pick(5) == 0) at = b.op(Op::add, {at, b.constant(0, DType::I64)});
        if (pick(4) == 0) live.push_back(b.list(Op::flip, x, {axis}));
        else live.push_back(b.slice(x, axis, at, length, 1));
        if (pick(3) == 0 && b.shape(live.back()) == s) break;
        if (pick(2)) {
          uint32_t v = live.back();
          if (b.g.values[v].dtype == b.g.values[x].dtype && b.shape(v).rank == s.rank &&
              b.shape(v)[int(axis)] + start <= s[int(axis)])
            live.push_back(b.op(pick(2) ? Op::slice_add : Op::slice_update, {x, v, at}, {1, axis, 1, 1}));
        }
        break;
      }
      case 14: {
        if (s.rank == 0 || s.rank > 3 || (s.size() == 0)) break;
        Words to(s.begin(), s.end());
        if (pick(2)) to.insert(to.begin(), 2);
        for (auto& d : to)
          if (d == 1) d = 1 + pick(3);
        live.push_back(b.list(Op::broadcast_to, x, to));
        break;
      }
      case 15: {
        uint32_t y = any();
        const Shape& t = b.shape(y);
        if (s.rank >= 1 && t.rank >= 1 && s.rank <= 2 && t.rank <= 2 && s[s.rank - 1] == t[0] &&
            b.g.values[x].dtype == DType::F64 && b.g.values[y].dtype == DType::F64)
          live.push_back(b.op(Op::matmul, {x, y}));
        else if (s.rank && s.size() > 0) live.push_back(b.op(Op::argmax, {x}, {int64_t(pick(uint32_t(s.rank))), 0}));
        else live.push_back(b.op(Op::alias, {x}));
        break;
      }
    }
  }
  for (uint32_t i = 0, m = 1 + pick(5); i < m; ++i) b.out(any());
  b.out(live.back());
  // What is not needed has been removed by the time a graph is scheduled.
  Build r;
  std::vector<bool> needed(b.g.values.size());
  for (uint32_t v : b.g.outputs) needed[v] = true;
  for (size_t k = b.g.nodes.size(); k-- > 0;)
    if (needed[b.g.nodes[k].out])
      for (uint32_t v : b.g.in(b.g.nodes[k])) needed[v] = true;
  std::vector<uint32_t> to(b.g.values.size());
  size_t leaf = 0, scalar = 0;
  for (const Graph::Node& nd : b.g.nodes) {
    bool is_leaf = nd.op == Op::leaf, is_scalar = nd.op == Op::scalar;
    size_t l = leaf, s = scalar;
    leaf += is_leaf, scalar += is_scalar;
    if (!needed[nd.out] && !is_leaf) continue;
    std::vector<uint32_t> in;
    for (uint32_t v : b.g.in(nd)) in.push_back(to[v]);
    to[nd.out] = r.g.add(nd.op, in, b.g.attr(nd), {&b.g.values[nd.out], 1}, -1);
    if (is_leaf) r.g.inputs.push_back(to[nd.out]), r.inputs.push_back(b.inputs[l]);
    if (is_scalar) r.g.scalars.push_back(to[nd.out]), r.scalars.push_back(b.scalars[s]);
  }
  for (uint32_t v : b.g.outputs) r.g.outputs.push_back(to[v]);
  return r;
}

// ---- size

// A recurrent network of n steps, forwards and backwards.
void recurrent(Build& b, int n) {
  uint32_t h = b.leaf({4, 4}), w = b.leaf({4, 4}), bias = b.leaf({4});
  std::vector<uint32_t> states;
  for (int i = 0; i < n; ++i) {
    states.push_back(h);
    h = b.op(Op::tanh, {b.op(Op::add, {b.op(Op::matmul, {h, w}), bias})});
  }
  uint32_t dh = h, dw = b.list(Op::broadcast_to, b.constant(0), {4, 4});
  uint32_t wt = b.list(Op::transpose, w, {1, 0});
  for (size_t i = states.size(); i-- > 0;) {
    uint32_t d = b.op(Op::multiply, {dh, b.op(Op::subtract, {b.constant(1), b.op(Op::multiply, {h, h})})});
    h = states[i];
    dw = b.op(Op::add, {dw, b.op(Op::matmul, {b.list(Op::transpose, h, {1, 0}), d})});
    dh = b.op(Op::matmul, {d, wt});
  }
  b.out(dw);
  b.out(dh);
}

void large() {
  NaiveDevice device;
  auto plan = [&](const char* what, Build& b) {
    size_t nodes = b.g.nodes.size();
    Plan made(std::move(b.g), device);
    const Placement& p = made.placement;
    double each = 1e9 / double(nodes);
    std::printf("%s: %zu nodes, %d kernels, arena %.3f of live; per node fuse %.0f place %.0f program %.0f ns\n", what,
                nodes, made.kernels(), double(p.arena_bytes) / double(std::max<int64_t>(p.live_bytes, 1)),
                made.seconds[0] * each, made.seconds[1] * each, made.seconds[2] * each);
    CHECK(double(p.arena_bytes) <= 1.1 * double(p.live_bytes));
    return made;
  };
  {
    Build b;
    uint32_t x = b.leaf({10}), one = b.scalar(1);
    for (int i = 0; i < 1000000; ++i) x = b.op(Op::add, {x, one});
    b.out(x);
    const Plan p = plan("a chain of adds", b);
    std::vector<Located> in{{allocate({}, 80), 0}}, out(1);
    put(Numbers(10, 0), DType::F64, in[0].data());
    p.run(in, b.scalars, out);
    CHECK(load_element(DType::F64, out[0].data() + 72) == 1000000 % 97);
  }
  {
    Build b;
    uint32_t x = b.scalar(1), y = b.scalar(2);
    for (int i = 0; i < 200000; ++i) x = b.op(Op::add, {x, b.op(Op::multiply, {y, x})});
    b.out(x);
    plan("a chain of numbers", b);
  }
  {
    Build b;
    recurrent(b, 30000);
    plan("a recurrent network", b);
  }
  {
    Build b;
    std::vector<uint32_t> v;
    for (int i = 0; i < 300; ++i) v.push_back(b.leaf({1 + int64_t(b.rng() % 400), 4}));
    for (int i = 0; i < 20000; ++i) {
      uint32_t x = v[b.rng() % v.size()];
      uint32_t y = b.op(Op::exp, {x});
      uint32_t z = b.op(Op::matmul, {y, b.list(Op::reshape, b.slice(y, 0, b.constant(0, DType::I64), 1), {4, 1})});
      v[b.rng() % v.size()] = b.op(Op::add, {y, z});
    }
    for (int i = 0; i < 50; ++i) b.out(v[size_t(i)]);
    plan("many sizes and lifetimes", b);
  }
}

// A device whose Steps cost nothing to make or run: what is left is the planner's own time.
struct Idle final : Device {
  struct Nothing final : Step {
    void run(char* const*, const char* const*, char*) const override {}
    bool may_alias(int, int) const override { return true; }
  };
  bool accepts(Op, int, const Layout&, uint32_t) const override { return true; }
  std::shared_ptr<const Step> step(Op, std::span<const Layout>, std::span<const Layout>,
                                   std::span<const int64_t>) override {
    return std::make_shared<Nothing>();
  }
  std::shared_ptr<const Step> tile(const TileProgram& p) override {
    auto s = std::make_shared<Nothing>();
    s->program = std::make_shared<const TileProgram>(p);
    return s;
  }
  int64_t max_row() const override { return 1000; }
  void* allocate(size_t) override { return nullptr; }
  void release(void*, size_t) override {}
  MemoryStats memory() const override { return {}; }
  void trim() override {}
};

void overhead() {
  Idle device;
  Build b;
  recurrent(b, 60);
  double best[3] = {1e9, 1e9, 1e9};
  std::optional<Plan> p;
  for (int i = 0; i < 50; ++i) {
    p.emplace(b.g, device);
    for (int k = 0; k < 3; ++k) best[k] = std::min(best[k], p->seconds[k]);
  }
  double each = 1e9 / double(b.g.nodes.size());
  std::printf("a network of %zu nodes, %d kernels: per node fuse %.0f place %.0f program %.0f ns\n",
              b.g.nodes.size(), p->kernels(), best[0] * each, best[1] * each, best[2] * each);
  std::vector<Located> in, out(2);
  for (uint32_t v : b.g.inputs) in.push_back({allocate({}, size_t(b.g.values[v].bytes())), 0});
  double t = now();
  for (int i = 0; i < 1000; ++i) p->run(in, b.scalars, out);
  std::printf("a run costs %.1f ns per kernel beyond the kernel\n", (now() - t) / 1000 / p->kernels() * 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  int n = argc > 1 ? std::atoi(argv[1]) : 3000;
  for (int seed = 0; seed < n; ++seed) {
    Blocks::Scope scope;
    Build b = random_graph(uint32_t(seed));
    try {
      check(b, seed & 1, seed & 2, seed % 5 == 0 ? 4 : 12);
    } catch (const Error& e) {
      ++failures;
      std::printf("seed %d: %s\n", seed, e.what());
    }
    if (failures) {
      std::printf("seed %d\n", seed);
      break;
    }
  }
  CHECK(live_buffers == 0);
  large();
  overhead();
  return report_all();
}
